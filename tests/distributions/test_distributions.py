"""Distributions against torch's own, st.categorical and st.bernoulli, and enumeration; and Pyro."""

from __future__ import annotations

import copy
import inspect
import math
import pickle
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import distributions as theirs

import straightthrough as st
from gof import assert_frequencies, assert_rate
from straightthrough.estimators import GumbelST, ReinMax
from straightthrough.surrogates import Identity


@pytest.fixture
def mine(ours, name):
    return getattr(ours, name)


@pytest.fixture
def other(name):
    return getattr(theirs, name)


NAMES = ["OneHotCategorical", "Bernoulli"]
VALIDATE = ["validate_args"]
LOGITS = torch.tensor([[0.3, -1.2, 2.0], [0.0, 0.7, -0.4]])
PROBS = {"OneHotCategorical": LOGITS.softmax(-1), "Bernoulli": LOGITS.sigmoid()}
EVERY = [(name, p) for name in NAMES for p in ({"logits": LOGITS}, {"probs": PROBS[name]})]


@pytest.mark.parametrize(("name", "parameter"), EVERY)
@pytest.mark.parametrize("sample_shape", [(), (5,), (4, 1)])
def test_samples_are_hard_and_have_the_shape_of_torchs(other, mine, parameter, sample_shape):
    other = other(**parameter)
    ((name, leaf),) = parameter.items()
    leaf = leaf.clone().requires_grad_()
    d = mine(**{name: leaf})
    assert (d.batch_shape, d.event_shape) == (other.batch_shape, other.event_shape)
    drawn, sampled = d.rsample(sample_shape), d.sample(sample_shape)
    assert drawn.shape == sampled.shape == other.sample(sample_shape).shape
    assert d.has_rsample
    assert d.support.check(drawn).all()
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert not sampled.requires_grad
    (drawn * torch.arange(3.0)).sum().backward()
    assert leaf.grad.isfinite().all()
    assert leaf.grad.abs().sum() > 0


@pytest.mark.parametrize("rule", ["reinmax", "straight_through", GumbelST(0.5)])
@pytest.mark.parametrize("batch_shape", [(2,), (5, 2)])
def test_rsample_is_st_categorical(ours, rule, batch_shape):
    def value_and_gradient(draw):
        logits = LOGITS.clone().requires_grad_()
        torch.manual_seed(5)
        z = draw(logits)
        (z * torch.tensor([1.0, 2.0, 4.0])).square().sum().backward()
        return z, logits.grad

    z, grad = value_and_gradient(
        lambda logits: (
            ours.OneHotCategorical(logits=logits, estimator=rule).expand(batch_shape).rsample((4,))
        )
    )
    expected = value_and_gradient(
        lambda logits: st.categorical(logits.expand(4, *batch_shape, 3), rule)
    )
    assert torch.equal(z, expected[0])
    torch.testing.assert_close(grad, expected[1])


@pytest.mark.parametrize("rule", ["reinmax", "identity", GumbelST(0.5)])
@pytest.mark.parametrize("name", ["logits", "probs"])
def test_rsample_is_st_bernoulli(ours, rule, name):
    parameter = LOGITS if name == "logits" else LOGITS.sigmoid()
    results = []
    for draw in (
        lambda x: ours.Bernoulli(**{name: x}, estimator=rule).expand((4, 2, 3)).rsample((7,)),
        lambda x: st.bernoulli(**{name: x.expand(7, 4, 2, 3)}, estimator=rule),
    ):
        x = parameter.clone().requires_grad_()
        torch.manual_seed(5)
        y = draw(x)
        (y * torch.arange(3.0)).sum().backward()
        results.append((y, x.grad))
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1])


def test_the_gradient_to_probabilities_by_hand(ours):
    """J(p) g to the logits is g - <p, g> to the probabilities: g = (1, 2, 4), <p, g> = 2.1."""
    p = torch.tensor([0.5, 0.2, 0.3], requires_grad=True)
    z = ours.OneHotCategorical(p, estimator="straight_through").rsample()
    z.backward(torch.tensor([1.0, 2.0, 4.0]))
    torch.testing.assert_close(p.grad, torch.tensor([-1.1, -0.1, 1.9]))
    q = torch.tensor([0.5, 0.2], requires_grad=True)
    ours.Bernoulli(q, estimator="straight_through").rsample().backward(torch.tensor([3.0, 4.0]))
    torch.testing.assert_close(q.grad, torch.tensor([3.0, 4.0]))


def test_draws_have_their_probabilities(ours):
    p = torch.tensor([0.0, 0.001, 0.299, 0.7])
    z = ours.OneHotCategorical(p.requires_grad_()).rsample((200_000,))
    assert_frequencies(z.detach().sum(0).numpy(), p.detach().numpy())
    z.sum().backward()
    assert p.grad.isfinite().all()
    b = ours.Bernoulli(torch.tensor([0.0, 0.003, 1.0])).sample((200_000,)).sum(0)
    assert (b[0], b[2]) == (0, 200_000)
    assert_rate(int(b[1]), 200_000, 0.003)
    half = torch.tensor([0.0, 0.25, 0.75], dtype=torch.float16)  # torch's logit of 0 is log 1e-3
    assert ours.OneHotCategorical(half).sample((20_000,))[:, 0].sum() == 0
    never = torch.tensor([0.0, -math.inf, 1.0], requires_grad=True)
    z = ours.OneHotCategorical(logits=never).rsample((10_000,))
    assert z[:, 1].sum() == 0


def test_probabilities_of_half_precision_are_not_rounded_again(ours):
    """The logarithms of these two are the same number of bfloat16, -4.15625."""
    p = torch.tensor([0.01543, 0.0158]).repeat(32).bfloat16().requires_grad_()
    d = ours.OneHotCategorical(p)
    assert (d.logits == -4.15625).all()
    z = d.sample((400_000,))
    assert z.dtype == torch.bfloat16
    drawn, share = z.float().sum(0)[::2].sum(), d.probs.float()[::2].sum() / d.probs.float().sum()
    assert_rate(int(drawn), 400_000, share.item())
    (d.rsample() @ torch.arange(64.0).bfloat16()).backward()
    assert p.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_is_that_of_torch(mine):
    d = mine(logits=LOGITS)
    torch.manual_seed(3)
    one, other = d.rsample((50,)), d.sample((50,))
    torch.manual_seed(3)
    assert torch.equal(d.sample((50,)), one)
    assert torch.equal(d.rsample((50,)), other)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(("name", "parameter"), EVERY)
def test_expand_keeps_estimator_and_hardness(mine, parameter):
    """A straight-through Bernoulli of Pyro's turns continuous here (issue 3127)."""
    d = mine(**parameter, estimator=GumbelST(0.3))
    shape = (6, *d.batch_shape)
    for copied in (d.expand(shape), d.expand(shape).expand((2, *shape))):
        assert type(copied) is type(d)
        assert copied.estimator == GumbelST(0.3)
        assert set(copied.rsample().unique().tolist()) == {0.0, 1.0}
        assert copied.log_prob(copied.rsample()).isfinite().all()
    impossible = torch.tensor([0.0, 1.0])
    d = mine(impossible)
    _ = d.logits  # torch's expand then hands on an epsilon in the place of 0
    expanded = d.expand((100_000, *d.batch_shape)).sample()
    assert (expanded == impossible).all()


def test_independent_dimensions(ours):
    d = theirs.Independent(ours.Bernoulli(logits=LOGITS.clone().requires_grad_()), 1).expand((5, 2))
    b = d.rsample((4,))
    assert b.shape == (4, 5, 2, 3)
    assert d.log_prob(b).shape == (4, 5, 2)
    assert b.requires_grad
    assert set(b.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("name", NAMES)
def test_log_prob_and_its_gradient_are_torchs_on_hard_samples(mine, other):
    values, gradients = [], []
    sample = other(logits=LOGITS).sample((20,))
    for cls in (mine, other):
        logits = LOGITS.clone().requires_grad_()
        value = cls(logits=logits).log_prob(sample)
        value.square().sum().backward()
        values.append(value)
        gradients.append(logits.grad)
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*gradients)
    probs = LOGITS.softmax(-1)
    torch.testing.assert_close(
        mine(probs).log_prob(sample), other(probs).log_prob(sample), rtol=1e-5, atol=1e-6
    )


def test_log_prob_is_linear_in_the_value(ours):
    z = F.one_hot(torch.tensor([2, 0]), 3).float().requires_grad_()
    ours.OneHotCategorical(logits=LOGITS).log_prob(z).sum().backward()
    torch.testing.assert_close(z.grad, LOGITS.log_softmax(-1))
    b = torch.ones(2, 3, requires_grad=True)
    ours.Bernoulli(logits=LOGITS).log_prob(b).sum().backward()
    torch.testing.assert_close(b.grad, LOGITS)


def test_log_prob_of_impossible_classes(ours):
    logits = torch.tensor([0.0, -math.inf, 0.0], requires_grad=True)
    log_p = ours.OneHotCategorical(logits=logits).log_prob(torch.eye(3))
    torch.testing.assert_close(log_p, torch.tensor([-math.log(2), -math.inf, -math.log(2)]))
    log_p[0].backward()
    torch.testing.assert_close(logits.grad, torch.tensor([0.5, 0.0, -0.5]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("rule", ["reinmax", "straight_through", "darn"])
def test_a_weighed_bound_has_the_gradient_that_it_has_without_impossible_classes(ours, rule, dtype):
    def gradient(*impossible):
        logits = torch.tensor([0.5, *impossible, -1.0], dtype=dtype, requires_grad=True)
        q = ours.OneHotCategorical(logits=logits, estimator=rule)
        p = ours.OneHotCategorical(logits=torch.tensor([0.0, *impossible, 0.0], dtype=dtype))
        torch.manual_seed(5)
        z = q.rsample((8,))
        (100 * (p.log_prob(z) - q.log_prob(z))).sum().backward()
        return logits.grad[[0, -1]]

    torch.testing.assert_close(gradient(-math.inf), gradient())


@pytest.mark.parametrize("name", NAMES)
def test_what_is_torchs_stays_torchs(mine, other):
    d, reference = mine(logits=LOGITS), other(logits=LOGITS)
    q, p = mine(logits=LOGITS.flip(0)), other(logits=LOGITS.flip(0))
    expected = theirs.kl_divergence(reference, p)
    for pair in ((d, q), (d, p), (reference, q)):
        assert torch.equal(theirs.kl_divergence(*pair), expected)
    for number in ("mean", "variance", "probs", "logits"):
        assert torch.equal(getattr(d, number), getattr(reference, number))
    assert torch.equal(d.entropy(), reference.entropy())
    assert torch.equal(d.enumerate_support(), reference.enumerate_support())


def test_the_gradient_of_an_evidence_lower_bound_is_unbiased(ours):
    """ReinMax is exact for a log joint that is quadratic in z; the bound is enumerated."""
    prior, mu, x = torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.arange(4.0), 1.3
    count = 200_000

    def bound(z, q):
        joint = ours.OneHotCategorical(prior).log_prob(z) - (x - z @ mu).square() / 2
        return joint - q.log_prob(z)

    logits = torch.tensor([0.5, -0.5, 0.0, 1.0], requires_grad=True)
    q = ours.OneHotCategorical(logits=logits)
    (q.probs * bound(torch.eye(4), q)).sum().backward()
    rows = logits.detach().expand(count, 4).clone().requires_grad_()
    q = ours.OneHotCategorical(logits=rows)
    bound(q.rsample(), q).sum().backward()
    error = rows.grad.std(0) / count**0.5
    assert ((rows.grad.mean(0) - logits.grad).abs() < 4 * error).all()


@pytest.mark.parametrize(("name", "parameter"), EVERY)
def test_copies(mine, parameter):
    d = mine(**parameter, estimator=ReinMax(1.5))
    for copied in (copy.deepcopy(d), pickle.loads(pickle.dumps(d))):
        assert type(copied) is type(d)
        assert isinstance(copied, mine)
        assert copied.estimator == ReinMax(1.5)
        torch.manual_seed(1)
        drawn = copied.rsample()
        torch.manual_seed(1)
        assert torch.equal(drawn, d.rsample())


def test_fullgraph_compile(ours, monkeypatch):
    # Dynamo does not trace the validation of a distribution.
    monkeypatch.setattr(theirs.Distribution, "_validate_args", False)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def draw(logits):
        return ours.OneHotCategorical(logits=logits, validate_args=False).rsample((3,))

    torch.manual_seed(2)
    compiled = draw(LOGITS)
    torch.manual_seed(2)
    assert torch.equal(compiled, ours.OneHotCategorical(logits=LOGITS).rsample((3,)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_dtypes(mine, dtype):
    d = mine(logits=LOGITS.to(dtype))
    assert d.rsample().dtype == d.log_prob(d.sample()).dtype == dtype


def test_numbers_and_shorthands(ours):
    assert ours.Bernoulli(0.5).rsample((4,)).shape == (4,)
    assert ours.Bernoulli(logits=0.0, estimator="identity").estimator == Identity()
    assert ours.OneHotCategorical(LOGITS.exp()).estimator == ReinMax()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda o: o.OneHotCategorical(LOGITS.exp(), estimator="reimax"),
            st.ArgumentError,
            "did",
        ),
        (
            lambda o: o.OneHotCategorical(LOGITS, estimator="identity"),
            st.ArgumentError,
            "unknown",
        ),
        (lambda o: o.Bernoulli(0.5, estimator=3), st.ArgumentError, "estimator=3"),
        (lambda o: o.Bernoulli(torch.tensor([1, 0])), st.DtypeError, "probs must be float16"),
        (lambda o: o.Bernoulli(), ValueError, "Either `probs` or `logits`"),
        (lambda o: o.Bernoulli(2.0), st.ArgumentError, r"\[0, 1\], got 2 at \(\)"),
        (
            lambda o: o.OneHotCategorical(logits=LOGITS).log_prob(torch.full((2, 3), 1 / 3)),
            ValueError,
            "support",
        ),
    ],
)
def test_wrong_use_raises(ours, call, error, message):
    with pytest.raises(error, match=message):
        call(ours)


@pytest.mark.parametrize("name", NAMES)
def test_the_signature_is_torchs_and_an_estimator(mine, other):
    assert list(inspect.signature(mine).parameters) == ["probs", "logits", "estimator", *VALIDATE]
    assert list(inspect.signature(other).parameters) == ["probs", "logits", *VALIDATE]


def test_the_library_does_not_import_pyro():
    code = "import sys, straightthrough as st; st.distributions.Bernoulli(0.5).sample(); "
    code += "raise SystemExit('pyro' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

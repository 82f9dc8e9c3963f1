"""The distributions at Pyro's sites, inference against enumerated posteriors and divergences."""

from __future__ import annotations

import subprocess
import sys

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO, config_enumerate
from pyro.optim import ExponentialLR

from straightthrough import distributions
from straightthrough.estimators import GumbelST
from straightthrough.pyro import Bernoulli, OneHotCategorical

BOTH = [OneHotCategorical, Bernoulli]
COUNT = 256


@pytest.fixture(autouse=True)
def clean():
    pyro.clear_param_store()
    pyro.set_rng_seed(0)


def fit(model, guide, elbo, steps=400):
    """Take steps with a rate that falls from 0.05 to 0.0005."""
    settings = {"lr": 0.05}
    decay = {"optimizer": torch.optim.Adam, "optim_args": settings, "gamma": 0.01 ** (1 / steps)}
    schedule = ExponentialLR(decay)
    svi = SVI(model, guide, schedule, elbo)
    for _ in range(steps):
        svi.step()
        schedule.step()
    return pyro.param("logits").detach()


PRIOR, MEANS, SEEN = torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.arange(4.0), torch.tensor(1.3)
POSTERIOR = (PRIOR.log() - (SEEN - MEANS).square() / 2).softmax(-1)


def of_one_hot(estimator):
    """A model whose log joint is quadratic in the one-hot z, and its guide."""

    def model():
        with pyro.plate("draws", COUNT):
            z = pyro.sample("z", OneHotCategorical(PRIOR))
            pyro.sample("x", dist.Normal(z @ MEANS, 1.0), obs=SEEN.expand(COUNT))

    def guide():
        logits = pyro.param("logits", torch.zeros(4))
        with pyro.plate("draws", COUNT):
            pyro.sample("z", OneHotCategorical(logits=logits, estimator=estimator))

    return model, guide


@pytest.mark.parametrize("elbo", [Trace_ELBO(), TraceMeanField_ELBO()])
def test_svi_finds_the_exact_posterior_of_a_one_hot(elbo):
    logits = fit(*of_one_hot("reinmax"), elbo)
    torch.testing.assert_close(logits.softmax(-1), POSTERIOR, rtol=0, atol=0.01)


def test_svi_with_a_biased_estimator_does_not():
    logits = fit(*of_one_hot("straight_through"), Trace_ELBO())
    assert (logits.softmax(-1) - POSTERIOR).abs().max() > 0.1


def test_svi_finds_the_exact_posterior_of_bits():
    prior, weight = torch.tensor([0.3, 0.6, 0.5]), torch.tensor([0.5, -1.0, 2.0])
    seen = torch.tensor([0.2, -0.8, 1.5])

    def model():
        with pyro.plate("draws", COUNT):
            b = pyro.sample("b", Bernoulli(prior).to_event(1))
            obs = seen.expand(COUNT, 3)
            pyro.sample("x", dist.Normal(b * weight, 1.0).to_event(1), obs=obs)

    def guide():
        logits = pyro.param("logits", torch.zeros(3))
        with pyro.plate("draws", COUNT):
            pyro.sample("b", Bernoulli(logits=logits, estimator="reinmax").to_event(1))

    logits = fit(model, guide, Trace_ELBO())
    odds = prior.logit() - (seen - weight).square() / 2 + seen.square() / 2
    torch.testing.assert_close(logits.sigmoid(), odds.sigmoid(), rtol=0, atol=0.01)


def test_a_prior_of_pyros_own_takes_its_gradient_away():
    """Its log_prob is not differentiable in z: what the guide of the class says to avoid."""
    z = torch.eye(4, requires_grad=True)
    assert not dist.OneHotCategorical(PRIOR).log_prob(z).requires_grad
    assert OneHotCategorical(PRIOR).log_prob(z).requires_grad


def test_enumeration_gives_the_evidence():
    def model():
        z = pyro.sample("z", OneHotCategorical(PRIOR))
        pyro.sample("x", dist.Normal(z @ MEANS, 1.0), obs=SEEN)

    elbo = TraceEnum_ELBO(max_plate_nesting=0)
    found = -elbo.loss(config_enumerate(model), lambda: None)
    density = dist.Normal(MEANS, 1.0).log_prob(SEEN).exp()
    assert found == pytest.approx((PRIOR * density).sum().log().item(), rel=1e-5)


def event(cls):
    """How many dimensions a vector of the class's logits leaves to be made an event."""
    return 1 - len(cls(logits=torch.zeros(3)).event_shape)


@pytest.mark.parametrize("cls", BOTH)
@pytest.mark.parametrize("vectorize", [False, True])
def test_a_step_of_several_particles(cls, vectorize):
    shape = (5, 3)

    def model():
        with pyro.plate("rows", 5):
            x = pyro.sample("x", cls(logits=torch.zeros(3)).expand_by((5,)).to_event(event(cls)))
            pyro.factor("f", x.sum(-1))

    def guide():
        logits = pyro.param("logits", torch.randn(shape))
        with pyro.plate("rows", 5):
            pyro.sample("x", cls(logits=logits, estimator="gumbel").to_event(event(cls)))

    before = torch.randn(shape)
    pyro.param("logits", before.clone())
    elbo = Trace_ELBO(num_particles=3, vectorize_particles=vectorize)
    SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), elbo).step()
    after = pyro.param("logits").detach()
    assert after.isfinite().all()
    assert ((after - before).abs() > 0.01).any()


@pytest.mark.parametrize("cls", BOTH)
@pytest.mark.parametrize("sample_shape", [(), (1,), (4, 2)])
def test_shapes_at_a_site(cls, sample_shape):
    d = cls(logits=torch.randn(2, 3))
    assert d.shape(sample_shape) == torch.Size(sample_shape) + d.batch_shape + d.event_shape
    value = d(sample_shape)
    assert value.shape == d.shape(sample_shape)
    assert d.log_prob(value).shape == torch.Size(sample_shape) + d.batch_shape
    assert d.expand_by((7,)).to_event(1)().shape == (7, 2, 3)
    assert not d.mask(False).log_prob(value).any()
    assert isinstance(d, cls)


def of_prior():
    return OneHotCategorical(PRIOR, estimator="gumbel")


def of_half():
    return Bernoulli(0.5, estimator="gumbel")


@pytest.mark.parametrize("made", [of_prior, of_half])
def test_a_plate_expands_and_keeps_estimator_and_hardness(made):
    with poutine.trace() as traced, pyro.plate("rows", 6, dim=-2), pyro.plate("columns", 2):
        x = pyro.sample("x", made())
    site = traced.trace.nodes["x"]
    assert site["fn"].batch_shape == (6, 2)
    assert site["fn"].estimator == GumbelST()
    assert set(x.unique().tolist()) == {0.0, 1.0}
    assert traced.trace.log_prob_sum().isfinite()


class MyOneHot(OneHotCategorical):
    pass


class MyBernoulli(Bernoulli):
    pass


@pytest.mark.parametrize("cls", [*BOTH, MyOneHot, MyBernoulli])
def test_a_site_expands_becomes_an_event_and_is_masked(cls):
    d = cls(logits=torch.randn(2, 3), estimator="gumbel")
    events = 2 - len(d.batch_shape)
    wide = d.expand((4, *d.batch_shape))
    assert type(wide) is cls
    assert wide.estimator == GumbelST()
    assert wide().shape == (4, 2, 3)
    independent = d.to_event(1)
    assert independent.event_shape == torch.Size((2, 3)[1 - events :])
    value = independent()
    torch.testing.assert_close(independent.log_prob(value), d.log_prob(value).sum(-1))
    mask = torch.arange(d.batch_shape[-1]) > 0
    masked = d.mask(mask)
    torch.testing.assert_close(masked.log_prob(value), d.log_prob(value) * mask)
    assert masked.has_rsample
    assert d.expand_by((7,)).mask(False).to_event(1)().shape == (7, 2, 3)


@pytest.mark.parametrize("parameter", ["logits", "probs"])
@pytest.mark.parametrize("cls", [*BOTH, MyOneHot, MyBernoulli])
def test_shapes_are_inferred_from_those_of_the_parameter(cls, parameter):
    p = torch.full((5, 2), 0.5)
    d = cls(**{parameter: p})
    assert cls.infer_shapes(**{parameter: p.shape}) == (d.batch_shape, d.event_shape)


@pytest.mark.parametrize("cls", BOTH)
def test_a_site_is_pyros_and_the_distribution_is_not(cls):
    ours = getattr(distributions, cls.__name__)
    assert issubclass(cls, (ours, TorchDistributionMixin))
    assert isinstance(cls(logits=torch.zeros(3)), getattr(dist, cls.__name__))
    assert type(ours(logits=torch.zeros(3))) is ours
    assert not issubclass(ours, TorchDistributionMixin)


P, Q = torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([0.6, 0.2, 0.15, 0.05])
ENUMERATED = [
    # sum_c q log(q / p), and log q of the gradient to the logits: q (log(q / p) - KL).
    (
        OneHotCategorical,
        P,
        Q.log(),
        lambda q: (q.softmax(-1) * (q.log_softmax(-1) - P.log())).sum(),
    ),
    (
        Bernoulli,
        torch.tensor(0.1),
        torch.tensor(0.75).logit(),
        lambda q: (
            q.sigmoid() * (q.sigmoid() / 0.1).log()
            + (1 - q.sigmoid()) * ((1 - q.sigmoid()) / 0.9).log()
        ),
    ),
]


# Sequentially, the values of a plate would be taken together as one.
@pytest.mark.parametrize(("how", "rows"), [("parallel", 3), ("sequential", 1)])
@pytest.mark.parametrize("expand", [False, True])
@pytest.mark.parametrize("mask", [None, True, torch.tensor(True)])
@pytest.mark.parametrize(("cls", "prior", "start", "divergence"), ENUMERATED)
def test_an_enumerated_guide_has_the_divergence_and_its_gradient(
    cls, prior, start, divergence, mask, how, rows, expand
):
    def site(logits):
        return cls(logits=logits) if mask is None else cls(logits=logits).mask(mask)

    def model():
        pyro.sample("a", cls(prior))
        with pyro.plate("rows", rows):
            pyro.sample("b", cls(prior))

    @config_enumerate(default=how, expand=expand)
    def guide():
        logits = pyro.param("logits", start.clone())
        pyro.sample("a", site(logits))
        with pyro.plate("rows", rows):
            pyro.sample("b", site(logits))

    elbo = TraceEnum_ELBO(max_plate_nesting=1)
    logits = start.clone().requires_grad_()
    expected = (1 + rows) * divergence(logits)
    expected.backward()
    with torch.no_grad():
        assert elbo.loss(model, guide) == pytest.approx(expected.item(), rel=1e-5)
    loss = elbo.differentiable_loss(model, guide)
    loss.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(pyro.param("logits").unconstrained().grad, logits.grad)


@pytest.mark.parametrize(("cls", "prior", "start", "divergence"), ENUMERATED)
def test_a_site_that_is_drawn_beside_an_enumerated_one_keeps_its_estimator(
    cls, prior, start, divergence
):
    """ReinMax has no bias here, as the integrand is linear in the value."""
    count = 20_000

    def model():
        with pyro.plate("draws", count):
            pyro.sample("a", cls(prior))
            pyro.sample("b", cls(prior))

    def guide():
        logits = pyro.param("logits", start.clone())
        with pyro.plate("draws", count):
            pyro.sample("a", cls(logits=logits, estimator="reinmax"))
            pyro.sample("b", cls(logits=logits), infer={"enumerate": "parallel"})

    loss = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(model, guide) / count
    loss.backward()
    logits = start.clone().requires_grad_()
    expected = 2 * divergence(logits)
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=0, atol=0.05)
    found = pyro.param("logits").unconstrained().grad
    torch.testing.assert_close(found, logits.grad, rtol=0, atol=0.05)


def test_without_pyro_the_module_says_what_to_install():
    code = "import sys; sys.modules['pyro'] = None; import straightthrough.pyro"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert last == "ImportError: straightthrough.pyro needs Pyro; pip install pyro-ppl"


@pytest.mark.parametrize("cls", BOTH)
def test_divergences_of_masked_sites_are_pyros(cls):
    q, p = cls(logits=torch.randn(2, 3)), cls(logits=torch.randn(2, 3))
    whole = torch.distributions.kl_divergence(q, p)
    mask = torch.arange(q.batch_shape[-1]) > 0
    for left, right in ((True, mask), (mask, True), (True, True)):
        found = torch.distributions.kl_divergence(q.mask(left), p.mask(right))
        torch.testing.assert_close(found, whole * left * right)
    assert torch.distributions.kl_divergence(q.mask(True), p.mask(False)) == 0

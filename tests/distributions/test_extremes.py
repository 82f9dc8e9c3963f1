"""The distributions at infinite logits, and in half precision."""

from __future__ import annotations

import math

import pytest
import torch
from torch import distributions as theirs

import straightthrough as st


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_logits_of_half_precision_are_not_rounded_again(ours, dtype):
    """Less their logsumexp, which no half holds, the three were -1, -1 and -1.5 of bfloat16."""
    logits = torch.tensor([100.0, 100, 99.5], dtype=dtype)
    exact = logits.double().log_softmax(-1)
    d = ours.OneHotCategorical(logits=logits)
    for copied in (d, d.expand((2,))):
        log_p = copied.log_prob(torch.eye(3, dtype=dtype)[:, None])
        torch.testing.assert_close(log_p[:, 0].double(), exact, rtol=torch.finfo(dtype).eps, atol=0)
    far = torch.tensor([0.0, 4.0], dtype=dtype).repeat(512)  # the logarithm of all is 10.94
    for copied in (
        ours.OneHotCategorical(logits=far),
        ours.OneHotCategorical(logits=far).expand((1,)),
    ):
        torch.manual_seed(0)
        drawn = copied.sample((300,))
        torch.manual_seed(0)
        assert torch.equal(drawn.view(300, -1), st.categorical(far.expand(300, -1)))


def test_probabilities_of_half_precision_are_drawn_from_as_they_are_given(ours):
    """Over their sum of 13, 1 and 6 are rounded to bfloat16, to another ratio than 6."""
    p = torch.tensor([1.0, 6, 6]).bfloat16()
    torch.manual_seed(0)
    z = ours.OneHotCategorical(p).sample((50_000,))
    torch.manual_seed(0)
    assert torch.equal(z, st.categorical(p.float().log().expand(50_000, -1)).bfloat16())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_probabilities_of_half_precision_are_scored_as_they_are_drawn(ours, dtype):
    """Torch takes what is below the epsilon of half precision for that: 1/128 in bfloat16."""
    p = torch.tensor([1e-3, 1e-5], dtype=dtype, requires_grad=True)
    for d in (ours.Bernoulli(p), ours.Bernoulli(p).expand((3, 2))):
        log_p = d.log_prob(torch.ones(2, dtype=dtype)).double()
        torch.testing.assert_close(log_p, p.double().log().expand_as(log_p), rtol=1e-2, atol=0)
    d = ours.OneHotCategorical(torch.full((1000,), 1e-3, dtype=dtype, requires_grad=True))
    for each in (d, d.expand((3,))):
        exact = torch.full(each.batch_shape, math.log(1000), dtype=torch.float64)
        for found in (each.entropy(), -each.log_prob(torch.eye(1000, dtype=dtype)[0])):
            torch.testing.assert_close(found.double(), exact, rtol=1e-2, atol=0)
            assert found.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_bits_of_half_precision_that_are_all_but_certain_have_an_entropy(ours, dtype):
    """Their probability is rounded to 1 in half precision, and all but its logarithm is lost."""
    logits = torch.tensor([0.5, 7.0, 9.0, -9.0])

    def numbers(dtype):
        d = ours.Bernoulli(logits=logits.to(dtype).requires_grad_())
        far = ours.Bernoulli(logits=torch.full((4,), 100.0, dtype=dtype))
        found = d.entropy(), theirs.kl_divergence(d, far)
        assert all(each.dtype == dtype for each in found)
        grads = (torch.autograd.grad(each.sum(), d.logits, retain_graph=True)[0] for each in found)
        return [each.double() for each in (*found, *grads)]

    for found, exact in zip(numbers(dtype), numbers(torch.float64), strict=True):
        torch.testing.assert_close(found, exact, rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_log_odds_of_infinity_are_certain(ours, dtype):
    logits = torch.tensor([math.inf, -math.inf, 1.0], dtype=dtype, requires_grad=True)
    d = ours.Bernoulli(logits=logits)
    log_p = d.log_prob(torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]], dtype=dtype))
    assert log_p[:, :2].tolist() == [[0.0, 0.0], [-math.inf, -math.inf]]
    assert d.entropy()[:2].tolist() == [0.0, 0.0]
    divergence = theirs.kl_divergence(d, ours.Bernoulli(logits=logits.detach()))
    assert divergence.tolist() == [0.0, 0.0, 0.0]
    b = d.rsample((4,))
    assert b[:, :2].tolist() == [[1.0, 0.0]] * 4
    for number in (log_p[0], d.entropy(), divergence, 100 * d.log_prob(b)):
        (grad,) = torch.autograd.grad(number.sum(), logits, retain_graph=True)
        assert grad[:2].tolist() == [0.0, 0.0]
        assert grad.isfinite().all()


@pytest.mark.parametrize("given", ["logits", "probs"])
@pytest.mark.parametrize("number", ["entropy", "kl"])
def test_an_impossible_class_takes_no_gradient_away(ours, number, given):
    """That of torch's divergence is NaN in the whole row, that of a weighed entropy too."""

    def gradient(*impossible):
        logits = torch.tensor([0.5, *impossible, -1.0], requires_grad=True)
        parameter = logits if given == "logits" else logits.softmax(-1)
        q = ours.OneHotCategorical(**{given: parameter})
        p = ours.OneHotCategorical(logits=torch.tensor([0.0, *impossible, 0.0]))
        found = 100 * (q.entropy() if number == "entropy" else theirs.kl_divergence(q, p))
        found.backward()
        return found, logits.grad[[0, -1]]

    torch.testing.assert_close(gradient(-math.inf), gradient(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["OneHotCategorical", "Bernoulli"])
def test_what_is_impossible_by_the_other_alone_is_infinitely_far(ours, name):
    mine, other = getattr(ours, name), getattr(theirs, name)
    p = torch.tensor([0.25, 0.75]).requires_grad_()
    for q in (mine(torch.tensor([0.0, 1.0])), other(torch.tensor([0.0, 1.0]))):
        assert theirs.kl_divergence(mine(p), q).max() == math.inf


@pytest.mark.parametrize("name", ["OneHotCategorical", "Bernoulli"])
def test_the_divergence_from_finite_logits_is_finite(ours, name):
    """Their probabilities are rounded to 0 and 1, where torch has infinity and no gradient."""
    mine, other = getattr(ours, name), getattr(theirs, name)
    q = mine(logits=torch.tensor([0.0, 0.0]))
    far = torch.tensor([0.0, 200.0])
    exact = {"Bernoulli": [0.0, 100 - math.log(2)], "OneHotCategorical": 100 - math.log(2)}[name]
    for made in (mine, other):
        logits = far.clone().requires_grad_()
        for p in (made(logits=logits), made(logits=logits).expand(q.batch_shape)):
            found = theirs.kl_divergence(q, p)
            torch.testing.assert_close(found, torch.tensor(exact))
            (grad,) = torch.autograd.grad(found.sum(), logits)
            assert grad[1] == 0.5


@pytest.mark.parametrize("name", ["OneHotCategorical", "Bernoulli"])
def test_the_divergence_from_a_probability_of_0_is_infinite_however_it_was_asked(ours, name):
    """An expanded copy of what has had to compute its logits holds them too."""
    mine = getattr(ours, name)
    p = mine(torch.tensor([[0.0, 1.0]]))
    assert p.logits.isfinite().all()
    q = mine(torch.tensor([[0.5, 0.5]]).expand(3, 2))
    assert theirs.kl_divergence(q, p.expand((3, *p.batch_shape[1:]))).min() == math.inf


def test_a_number_is_a_value_where_nothing_is_validated(ours):
    d = ours.Bernoulli(logits=torch.tensor([0.0, math.inf]), validate_args=False)
    torch.testing.assert_close(d.log_prob(1.0), torch.tensor([-math.log(2), 0.0]))


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.uint8])
def test_a_value_may_be_whole_numbers_or_bools(ours, dtype):
    logits = torch.tensor([[0.3, -1.0, math.inf], [2.0, 0.0, -0.5]])
    bits = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    for d, value in (
        (ours.Bernoulli(logits=logits), bits),
        (ours.OneHotCategorical(torch.tensor([0.2, 0.3, 0.5])), torch.eye(3)),
    ):
        assert torch.equal(d.log_prob(value.to(dtype)), d.log_prob(value))


def test_probabilities_are_validated_under_vmap(ours):
    """Torch's are; ours raised of control flow that depends on data, at right ones too."""
    p = torch.rand(3, 4)
    means = torch.vmap(lambda row: ours.Bernoulli(row, validate_args=True).mean)(p)
    assert torch.equal(means, p)
    one_hots = torch.vmap(
        lambda row: ours.OneHotCategorical(row, validate_args=True).sample(),
        randomness="different",
    )(p)
    assert torch.equal(one_hots.sum(-1), torch.ones(3))
    p[2, 1] = 1.5
    with pytest.raises(st.ArgumentError, match=r"probs must lie in \[0, 1\], got 1.5 at \(2, 1\)"):
        torch.vmap(lambda row: ours.Bernoulli(row, validate_args=True).mean)(p)


def test_a_probability_that_is_barely_outside_is_shown_so(ours):
    """It said: must lie in [0, 1], got 1."""
    with pytest.raises(st.ArgumentError, match=r"got 1\.00000095\d+ at \(1,\)"):
        ours.Bernoulli(torch.tensor([0.5, 1 + 2**-20]), validate_args=True)

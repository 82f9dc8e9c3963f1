"""Categorical operators: exact frequencies, rare classes, masks, gradients, torch's own law."""

from __future__ import annotations

import contextlib
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor

import straightthrough as st
from benchmarks import memory
from benchmarks.cases import BOTH, OURS, WIDTH
from gof import FAILURE_RATE, assert_frequencies, assert_rate, assert_same_law
from straightthrough.core import kernels, noise
from straightthrough.core.errors import FLOATING
from straightthrough.core.noise import Noise
from straightthrough.estimators import CategoricalEstimator, GumbelST, ReinMax, StraightThrough
from straightthrough.ops.categorical import reference
from straightthrough.testing.values import saved_tensors

NAN, INFINITY = math.nan, math.inf
DTYPES = pytest.mark.parametrize("dtype", FLOATING)
RULES = [StraightThrough(1.3), GumbelST(0.7), ReinMax(), ReinMax(1.5)]


def exact(logits: Tensor) -> np.ndarray:
    return logits.double().softmax(-1).numpy()


def counts(one_hots: Tensor) -> np.ndarray:
    assert torch.equal(one_hots.sum(-1), torch.ones(one_hots.shape[:-1], dtype=one_hots.dtype))
    return np.bincount(one_hots.argmax(-1).flatten().numpy(), minlength=one_hots.shape[-1])


def bits(uniform: Tensor) -> Tensor:
    """Uniforms as `Noise.bits` has them: multiples of 2^-52, rounded down."""
    return (uniform * 2**52).long()


# Frequencies.


@DTYPES
@pytest.mark.parametrize("estimator", ["reinmax", "gumbel"])
def test_frequencies(dtype: torch.dtype, estimator: str) -> None:
    logits = torch.tensor([0.3, -1.2, 2.0, 0.3, -6.0, -INFINITY, 1.1], dtype=dtype)
    z = st.categorical(logits.expand(200_000, 7), estimator, seed=1)
    assert z.dtype == dtype
    assert_frequencies(counts(z), exact(logits))


def test_rows_are_independent_and_follow_their_own_logits() -> None:
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(2))
    index = st.categorical(logits.expand(40_000, 4, 3), seed=2).argmax(-1)
    joint = (index * torch.tensor([27, 9, 3, 1])).sum(-1)
    wanted = exact(logits[0])
    for row in logits[1:]:
        wanted = np.outer(wanted, exact(row)).ravel()
    assert_frequencies(np.bincount(joint.numpy(), minlength=81), wanted)


@DTYPES
def test_rare_class_of_two(dtype: torch.dtype) -> None:
    """p = 3.35e-4, the event that torch's relaxed distributions lose in bf16."""
    logits = torch.tensor([0.0, -8.0], dtype=dtype)
    z = st.categorical(logits.expand(1_000_000, 2), seed=3)
    assert_rate(int(z[:, 1].sum(dtype=torch.float64)), 1_000_000, 1 / (1 + math.exp(8)))


def test_torch_loses_the_rare_class_in_bfloat16() -> None:
    """The reason for noise in float32: torch's one-hot concrete never draws it."""
    torch.manual_seed(0)
    logits = torch.tensor([0.0, -8.0], dtype=torch.bfloat16)
    tau = torch.tensor(1.0, dtype=torch.bfloat16)
    theirs = torch.distributions.RelaxedOneHotCategorical(tau, logits=logits)
    drawn = theirs.rsample((1_000_000,)).argmax(-1)
    assert stats.binomtest(int(drawn.sum()), 1_000_000, 3.3535e-4).pvalue < FAILURE_RATE


def test_many_classes() -> None:
    """50,000 of them, their probabilities over six orders of magnitude, in 50 heaps."""
    logits = 3 * torch.randn(50_000, generator=torch.Generator().manual_seed(4))
    seen = np.zeros(50_000)
    for seed in range(10):
        index = reference.draw_index(logits.expand(100, 50_000), Noise(torch.tensor(seed)))
        seen += np.bincount(index.numpy(), minlength=50_000)
    heaps = logits.argsort().reshape(50, 1000).numpy()
    assert_frequencies(seen[heaps].sum(-1), exact(logits)[heaps].sum(-1))


@DTYPES
@pytest.mark.parametrize("place", [1, 31_337, 49_998])
def test_class_of_probability_1e_9_among_50_000(
    dtype: torch.dtype, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fine grid of uniforms around its interval meets it in proportion to its probability."""
    logits = torch.linspace(-0.5, 0.5, 50_000).to(dtype)
    logits[place] = -9.9  # e^-9.9 / 50,000 / 1.04 is 1e-9
    p = logits.double().softmax(-1)
    assert 0.9e-9 < p[place] < 1.1e-9
    # 25 of these 101 steps lie inside, wherever the rounding of float32 weights moves its ends.
    steps = (torch.arange(101, dtype=torch.float64) - 38) / 25
    grid = p[:place].sum() + p[place] * steps
    monkeypatch.setattr(Noise, "bits", lambda self, count: bits(grid))
    index = reference.draw_index(logits.expand(101, 50_000), Noise(torch.tensor(0)))
    assert (index.diff() >= 0).all()
    assert 24 <= int((index == place).sum()) <= 26
    assert index.unique().tolist() == [place - 1, place, place + 1]


@DTYPES
def test_draw_is_the_inverse_of_the_cumulative_sum(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = (2 * torch.randn(9, generator=torch.Generator().manual_seed(5))).to(dtype)
    grid = (torch.arange(5000, dtype=torch.float64) + 0.5) / 5000
    monkeypatch.setattr(Noise, "bits", lambda self, count: bits(grid))
    index = reference.draw_index(logits.expand(5000, 9), Noise(torch.tensor(0)))
    # Each class owns its share of the grid, up to a point at either end.
    share = torch.bincount(index, minlength=9).double().numpy()
    assert np.abs(share - 5000 * exact(logits)).max() <= 1
    assert (index.diff() >= 0).all()


@pytest.mark.parametrize("uniform", [2.0**-53, 1 - 2.0**-53])
def test_impossible_classes_are_never_drawn(
    uniform: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at the ends of the row either, whatever the uniform."""
    low = -INFINITY
    logits = torch.tensor([[low, low, 1.0, low, 3.0, low], [-200.0, low, 0.0, 0.1, low, -900.0]])
    fill = torch.full((2,), uniform, dtype=torch.float64)
    monkeypatch.setattr(Noise, "bits", lambda self, count: bits(fill))
    index = reference.draw_index(logits, Noise(torch.tensor(0)))
    assert index.tolist() == ([2, 2] if uniform < 0.5 else [4, 3])


def test_logits_of_any_size() -> None:
    """A shift of the logits changes nothing, up to the largest finite ones."""
    logits = torch.tensor([0.0, 1.0, 2.0]).expand(100, 3)
    z = st.categorical(logits, seed=6)
    assert torch.equal(z, st.categorical(logits + 2.0**14, seed=6))
    huge = torch.tensor([1.0, -1.0, 0.5]) * torch.finfo(torch.float32).max
    assert st.categorical(huge, seed=6).tolist() == [1, 0, 0]


# Gradients.


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("dim", [-1, 0, 1])
def test_backward_is_the_estimators_vjp(rule: CategoricalEstimator, dim: int) -> None:
    logits = torch.randn(4, 5, 3, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(4, 5, 3, dtype=torch.float64)
    z = st.categorical(logits, rule, dim=dim, seed=8)
    got = torch.autograd.grad(z, logits, grad)[0]
    moved = [tensor.detach().movedim(dim, -1) for tensor in (logits, z, grad)]
    wanted = rule.vjp(moved[0], moved[1].argmax(-1), moved[2], seed=8)
    torch.testing.assert_close(got, wanted.movedim(-1, dim), rtol=1e-12, atol=1e-15)
    assert (z.sum(dim) == 1).all()


def test_argmax_gradient_by_hand() -> None:
    """At tau 2, weights (16, 4, 4) become (4, 2, 2): p = (1/2, 1/4, 1/4), <p, g> = 3."""
    logits = torch.tensor([16.0, 4.0, 4.0], dtype=torch.float64).log().requires_grad_()
    y = st.argmax(logits, tau=2.0)
    assert y.tolist() == [1, 0, 0]
    y.backward(torch.tensor([1.0, 2.0, 8.0], dtype=torch.float64))
    # p (g - 3) / 2 = (-2/2, -1/4, 5/4) / 2
    assert logits.grad is not None
    assert logits.grad.tolist() == pytest.approx([-0.5, -0.125, 0.625], rel=1e-12)


@DTYPES
def test_argmax_ties_and_infinities(dtype: torch.dtype) -> None:
    logits = torch.tensor(
        [
            [1, 3, 3, 0],
            [-INFINITY, -5, -5, -INFINITY],
            [INFINITY, 0, INFINITY, 0],
            [0, 0, 0, 0],
            [-0.0, 0.0, 0.0, -0.0],
        ],
        dtype=dtype,
    )
    assert st.argmax(logits).argmax(-1).tolist() == [1, 1, 0, 0, 0]
    assert st.argmax(logits).sum(-1).tolist() == [1] * 5


@DTYPES
@pytest.mark.parametrize("tau", [1.0, 0.5, 1.3])
@pytest.mark.parametrize("padding", [0, 70])
def test_argmax_gradient_where_classes_are_infinite(
    dtype: torch.dtype, tau: float, padding: int
) -> None:
    """Nothing moves the softmax there: not one of them, nor two that share the weight."""
    low, high = -INFINITY, INFINITY
    rows = torch.tensor([[high, 1.0, 0.0, low], [0.0, high, low, high]], dtype=dtype)
    logits = F.pad(rows, (0, padding), value=low).requires_grad_()
    grad = F.pad(
        torch.tensor([[1.0, 2.0, 3.0, 4.0], [7.0, 4.0, 7.0, 1.0]], dtype=dtype), (0, padding)
    )
    for disabled in (contextlib.nullcontext(), kernels.disabled()):
        with disabled:
            got = torch.autograd.grad(st.argmax(logits, tau=tau), logits, grad)[0]
        assert not got.any()


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_mask_renormalises_and_gets_no_gradient(rule: CategoricalEstimator) -> None:
    logits = torch.tensor([0.3, 2.0, -1.0, 0.9], requires_grad=True)
    mask = torch.tensor([True, False, True, True])
    z = st.categorical(logits.expand(100_000, 4), rule, mask=mask, seed=9)
    wanted = exact(logits.detach().masked_fill(~mask, -INFINITY))
    assert_frequencies(counts(z.detach()), wanted)
    gradient = torch.autograd.grad((z @ torch.tensor([1.0, 5.0, -2.0, 0.5])).sum(), logits)[0]
    assert gradient.isfinite().all()
    assert gradient[1] == 0
    assert (gradient[mask] != 0).all()


# Gumbel-softmax, against torch's.

THETA = torch.tensor([0.5, -1.0, 1.5])


@pytest.mark.parametrize("tau", [0.3, 1.0, 2.0])
def test_soft_gumbel_softmax_has_the_law_of_torch(tau: float) -> None:
    torch.manual_seed(0)
    ours = st.gumbel_softmax(THETA.expand(100_000, 3), tau, seed=1)
    theirs = F.gumbel_softmax(THETA.expand(100_000, 3), tau)
    torch.testing.assert_close(ours.sum(-1), torch.ones(100_000))
    for one in range(3):
        assert_same_law(ours[:, one], theirs[:, one])
        assert_same_law((ours[:, one] / ours[:, one - 1]), theirs[:, one] / theirs[:, one - 1])


@DTYPES
def test_hard_gumbel_softmax_has_the_frequencies_of_softmax(dtype: torch.dtype) -> None:
    logits = THETA.to(dtype)
    z = st.gumbel_softmax(logits.expand(100_000, 3), 0.5, hard=True, seed=1)
    assert_frequencies(counts(z), exact(logits))


def test_soft_gumbel_softmax_gradient() -> None:
    """J(y) g / tau, y the value itself."""
    logits = torch.randn(50, 4, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(50, 4, dtype=torch.float64)
    y = st.gumbel_softmax(logits, 0.7, seed=2)
    got = torch.autograd.grad(y, logits, grad)[0]
    y = y.detach()
    wanted = y * (grad - (y * grad).sum(-1, keepdim=True)) / 0.7
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-14)


@DTYPES
def test_soft_gumbel_softmax_saves_its_value_alone(dtype: torch.dtype) -> None:
    """Or in half precision, where its value is too coarse, the logits and the seed."""
    logits = torch.randn(64, 50).to(dtype).requires_grad_()
    with saved_tensors() as saved:
        y = st.gumbel_softmax(logits, seed=0)
    kept = y if dtype in (torch.float32, torch.float64) else logits
    assert saved[0].data_ptr() == kept.data_ptr()
    assert [tuple(tensor.shape) for tensor in saved[1:]] == [()] * (kept is logits)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_second_derivative_of_a_soft_gumbel_softmax_in_half_precision(dtype: torch.dtype) -> None:
    """It is that of the same numbers in float32, rounded."""
    given = torch.randn(30, 4).to(dtype), torch.randn(30, 4).to(dtype)

    def second(logits: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
        inputs = logits.requires_grad_(), grad.requires_grad_()
        y = st.gumbel_softmax(logits, 0.7, seed=2)
        first = torch.autograd.grad(y, logits, grad, create_graph=True)[0]
        return torch.autograd.grad(first[:, 0].sum(), inputs)

    wide = second(*(tensor.float() for tensor in given))
    for got, wanted in zip(second(*given), wide, strict=True):
        torch.testing.assert_close(got, wanted.to(dtype))
        assert wanted.abs().max() > 0.1


def test_hard_gumbel_softmax_is_a_categorical_with_gumbel() -> None:
    logits = torch.randn(20, 6, requires_grad=True)
    grad = torch.randn(20, 6)
    one = st.gumbel_softmax(logits, 0.4, True, seed=3)
    other = st.categorical(logits, GumbelST(0.4), seed=3)
    assert torch.equal(one, other)
    assert torch.equal(
        torch.autograd.grad(one, logits, grad)[0], torch.autograd.grad(other, logits, grad)[0]
    )


# Lookup.


@pytest.mark.parametrize("block", [noise.BLOCK["cpu"], 5 * 7])
@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_lookup_is_the_one_hot_times_the_table(
    rule: CategoricalEstimator, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where backward goes by blocks, here of 7 of the 24 rows."""
    logits = torch.randn(3, 8, 5, dtype=torch.float64, requires_grad=True)
    table = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(3, 8, 4, dtype=torch.float64)
    ours = st.categorical_lookup(logits, table, rule, seed=4)
    product = st.categorical(logits, rule, seed=4) @ table
    assert torch.equal(ours, product)
    expected = torch.autograd.grad(product, (logits, table), grad)
    monkeypatch.setattr(noise, "BLOCK", {"cpu": block})
    for create_graph in (True, False):
        gradients = torch.autograd.grad(ours, (logits, table), grad, create_graph=create_graph)
        for got, wanted in zip(gradients, expected, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-11, atol=1e-13)


def test_lookup_returns_rows_bit_for_bit() -> None:
    """A product with a one-hot would turn the infinity into NaN and lose the sign of -0.0."""
    table = torch.tensor([[INFINITY, 1.0], [-0.0, 1e-45], [NAN, 3.0]])
    got = st.categorical_lookup(torch.tensor([0.0, 99.0, 0.0]), table, seed=0)
    assert torch.equal(got.view(torch.int32), table[1].view(torch.int32))


def test_lookup_saves_no_one_hot() -> None:
    logits = torch.randn(64, 50, requires_grad=True)
    table = torch.randn(50, 2, requires_grad=True)
    with saved_tensors() as saved:
        st.categorical_lookup(logits, table, seed=0)
    shapes = sorted(tuple(tensor.shape) for tensor in saved)
    assert shapes == [(50, 2), (64,), (64, 50)]  # table, index, logits
    assert any(tensor.data_ptr() == logits.data_ptr() for tensor in saved)


@pytest.mark.kernels
@pytest.mark.skipif(not memory.AVAILABLE, reason="no forkserver")
def test_lookup_backward_makes_no_one_hot_gradient() -> None:
    """Beyond the value and both gradients: a sixteenth of the logits at a time."""
    rows, classes = 8192, 1024
    used = memory.measure("categorical_lookup", OURS, BOTH, (rows, classes)).extra
    due = 4 * (rows * classes + rows * WIDTH + classes * WIDTH)
    assert used - due < 4 * rows * classes / 4


def test_lookup_with_dim_and_mask() -> None:
    logits = torch.randn(5, 200)
    mask = torch.tensor([True, False, True, False, False])[:, None]
    got = st.categorical_lookup(logits, torch.arange(5.0)[:, None], dim=0, mask=mask, seed=1)
    assert got.shape == (200, 1)
    assert set(got.flatten().tolist()) == {0.0, 2.0}

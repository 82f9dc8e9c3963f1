"""The estimator of minimum variance: its definition in 60 digits, its limits, its promises."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from mpmath import mpf
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import straightthrough as st
from straightthrough.estimators import MVE, ReinMax, StraightThrough
from straightthrough.estimators.mve import mve, mve_of_many


def defined(logits: Tensor, index: int, g: Tensor, tau: float) -> list[float]:
    """Return S^T g as the paper defines it, each number of the float64 logits taken as exact."""
    with mpmath.workdps(60):
        weights = [mpmath.exp(mpf(float(x))) for x in logits]
        p = [w / sum(weights) for w in weights]
        n, t = range(len(p)), mpf(tau)
        jacobian = mpmath.matrix([[(i == j) * p[i] - p[i] * p[j] for j in n] for i in n])
        a = mpmath.matrix(len(p), len(p))
        for i in n:
            for j in n:
                a[i, j] = -t * p[i] * p[j] / (1 + t * (p[i] + p[j]))
            a[i, i] = (1 + t * p[i]) * sum(p[j] / (1 + t * (p[i] + p[j])) for j in n)
            a[i, i] -= t * p[i] ** 2 / (1 + 2 * t * p[i])
        scale = mpmath.diag([(1 + t * q) / (1 + 2 * t * q) for q in p])
        v = a**-1 * scale * jacobian
        out = mpmath.matrix(1, len(p))
        for i in n:
            row = (1 + t * p[i]) * v[i, :] - t * p[i] * v[index, :]
            row += (i == index) * t * jacobian[index, :]
            out += mpf(float(g[i])) * row / (1 + t * (p[i] + p[index]))
        return [float(value) for value in out]


def problem(classes: int, spread: float, seed: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(classes, dtype=torch.float64, generator=draw)
    return logits, torch.randn(classes, dtype=torch.float64, generator=draw)


@pytest.mark.parametrize("tau", [1e-3, 1.0, 1e3, 1e6, 1e12, 1e25])
@pytest.mark.parametrize("spread", [1.0, 10.0, 50.0])
@pytest.mark.parametrize("classes", [1, 2, 5])
def test_it_is_the_definition_to_rounding(classes: int, spread: float, tau: float) -> None:
    """However sharp the probabilities are, and at outcomes that are next to impossible."""
    logits, g = problem(classes, spread, seed=classes)
    for index in range(classes):
        got = MVE(tau).vjp(logits, torch.tensor(index), g)
        wanted = torch.tensor(defined(logits, index, g, tau), dtype=torch.float64)
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-14)


@pytest.mark.parametrize("tau", [0.5, 1e6, 1e20, 1e300, 1e-300])
def test_classes_that_are_left_out_change_nothing(tau: float) -> None:
    logits, g = problem(4, 1.0, seed=0)
    wide = torch.cat([logits, torch.full((3,), -math.inf, dtype=torch.float64)])
    for index in range(4):
        outcome = torch.tensor(index)
        got = MVE(tau).vjp(wide, outcome, torch.cat([g, g[:3]]))
        torch.testing.assert_close(got[:4], MVE(tau).vjp(logits, outcome, g), rtol=0, atol=1e-14)
        assert got[4:].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_certain_row_has_no_gradient(dtype: torch.dtype) -> None:
    logits = torch.tensor([[80.0, -80.0, 0.0], [0.0, -math.inf, -math.inf]], dtype=dtype)
    grad = torch.tensor([1.0, -2.0, 3.0], dtype=dtype).expand(2, 3)
    got = MVE().vjp(logits, torch.tensor([0, 0]), grad)
    torch.testing.assert_close(got, torch.zeros_like(got), rtol=0, atol=1e-30)


def test_at_tau_0_it_is_straight_through() -> None:
    logits, g = problem(6, 2.0, seed=1)
    for index in range(6):
        ours, plain = (
            rule.vjp(logits, torch.tensor(index), g) for rule in (MVE(1e-15), StraightThrough())
        )
        torch.testing.assert_close(ours, plain, rtol=0, atol=1e-14)


def bias(rule: st.estimators.CategoricalEstimator, classes: int, linear: bool = False) -> float:
    """Return the largest error of the mean, over the outcomes of z^T A z + b^T z."""
    logits, b = problem(classes, 1.0, seed=classes)
    a = torch.randn(classes, classes, generator=torch.Generator().manual_seed(0)).double()
    a = torch.zeros_like(a) if linear else a
    p = logits.softmax(0)
    values = a.diagonal() + b
    index = torch.arange(classes)
    estimates = rule.vjp(logits.expand(classes, -1), index, a + a.T + b)
    return float((p @ estimates - p * (values - p @ values)).abs().max())


@pytest.mark.parametrize("classes", [2, 5, 17, 64])
def test_it_is_unbiased_for_quadratics_at_a_large_tau(classes: int) -> None:
    assert bias(MVE(1e14), classes) < 1e-10
    assert bias(MVE(1.0), classes) > 1e-2  # the check has teeth
    assert bias(MVE(1.0), classes, linear=True) < 1e-14


def test_the_bias_falls_as_one_over_tau() -> None:
    assert bias(MVE(1e6), 5) == pytest.approx(10 * bias(MVE(1e7), 5), rel=1e-4)


def matrices(rule: st.estimators.CategoricalEstimator, logits: Tensor) -> Tensor:
    """Return S of every outcome, `(C, C, C)`: the gradients to the basis vectors as rows."""
    size = logits.numel()
    eye = torch.eye(size, dtype=torch.float64).expand(size, -1, -1)
    index = torch.arange(size)[:, None].expand(-1, size)
    return rule.vjp(logits.expand(size, size, -1), index, eye)


@pytest.mark.parametrize("tau", [1.0, 100.0, 1e5])
def test_it_is_the_best_trade_of_variance_and_bias(tau: float) -> None:
    """It minimises E|S|^2 + tau E|bias|^2, being unbiased for linear losses.

    The bias is that on z^T A z / 2, A symmetric with independent normal entries, those of the
    diagonal of variance 2. The minimum is found here as a linear system in all entries of S.
    """
    logits, _ = problem(4, 1.0, seed=3)
    p, eye = logits.softmax(0), torch.eye(4, dtype=torch.float64)
    jacobian = torch.diag(p) - torch.outer(p, p)
    mean = torch.einsum("x,im,ko->ikxmo", p, eye, eye).reshape(16, 64)
    one_way = torch.einsum("j,im,jx,ko->ijkxmo", p, eye, eye, eye)  # of A = e_i e_j^T
    unit = (one_way + one_way.transpose(0, 1)) / 2**0.5  # of (e_i e_j^T + e_j e_i^T) / sqrt 2
    due = torch.einsum("ij,ki->ijk", eye, jacobian) / 2**0.5
    # A pair i != j comes twice, each time over sqrt 2; i = j once, as sqrt 2 e_i e_i^T.
    unit, due = unit.reshape(64, 64), due.reshape(64)
    cost = torch.diag(p.repeat_interleave(16)) + tau * unit.T @ unit
    corner = torch.zeros(16, 16, dtype=torch.float64)
    system = torch.cat([torch.cat([cost, mean.T], 1), torch.cat([mean, corner], 1)])
    right = torch.cat([tau * unit.T @ due, jacobian.flatten()])
    best = torch.linalg.lstsq(system, right[:, None], driver="gelsd").solution[:64, 0]
    torch.testing.assert_close(matrices(MVE(tau), logits).flatten(), best, rtol=0, atol=1e-10)


def test_it_has_less_variance_than_reinmax_where_both_are_unbiased() -> None:
    logits, _ = problem(6, 1.0, seed=3)
    p = logits.softmax(0)[:, None, None]
    ours, other = (float((p * matrices(r, logits) ** 2).sum()) for r in (MVE(1e12), ReinMax()))
    assert ours < 0.99 * other


def test_published_bias_and_variance() -> None:
    torch.manual_seed(0)
    q = torch.randn(4, 4)
    a, b, eta = q.T @ q, torch.randn(4), torch.randn(4)
    row = st.audit.compare(
        lambda z: ((z @ a) * z).sum(-1) + z @ b, eta, [MVE(1e7)], rescale=True
    ).rows[0]
    assert f"{row.bias_squared:.4f}" == "0.0000"
    assert f"{row.variance:.4g}" == "13.34"


@pytest.mark.parametrize("tau", [1e-3, 1.0, 1e6, 1e14])
def test_binary_is_two_classes_in_closed_form(tau: float) -> None:
    x = torch.tensor([-40.0, -3.0, 0.0, 0.7, 40.0], dtype=torch.float64)
    for outcome in (False, True):
        got = MVE(tau).binary_gradient(
            x, torch.full((5,), outcome), torch.ones_like(x), (torch.tensor(0), 0)
        )
        zero, g = torch.zeros(1, dtype=torch.float64), torch.tensor([0.0, 1.0]).double()
        wanted = [defined(torch.cat([zero, one[None]]), outcome, g, tau)[1] for one in x]
        torch.testing.assert_close(got, torch.tensor(wanted, dtype=x.dtype), rtol=0, atol=1e-15)


def test_binary_in_single_precision_at_extremes() -> None:
    x = torch.tensor([-math.inf, -200.0, 200.0, math.inf])
    for tau in (1e6, 1e50):
        for outcome in (False, True):
            y = torch.full((4,), outcome)
            got = MVE(tau).binary_gradient(x, y, torch.ones(4), (torch.tensor(0), 0))
            assert got.isfinite().all()


@pytest.mark.parametrize("epsilon", [1e-30, 1e-12, 1e-6, 1e-2, 1.0, 1e100])
@pytest.mark.parametrize("spread", [0.0, 1.0, 10.0, 40.0])
@pytest.mark.parametrize("classes", [2, 5, 70])
def test_sums_of_exponentials_solve_the_same_equations(
    classes: int, spread: float, epsilon: float
) -> None:
    logits, g = (torch.randn(6, classes, dtype=torch.float64) for _ in range(2))
    index = torch.randint(classes, (6,))
    given = (spread * logits, index, g, epsilon)
    torch.testing.assert_close(mve_of_many(*given), mve.__wrapped__(*given), rtol=0, atol=1e-11)


def test_memory_is_linear_in_the_classes() -> None:
    classes, most = 3000, 0

    class Largest(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]  # torch's
            nonlocal most
            result = function(*args, **(kwargs or {}))
            most = max(most, result.numel()) if isinstance(result, Tensor) else most
            return result

    logits, g = problem(classes, 1.0, seed=0)
    with Largest():
        got = MVE().vjp(logits, torch.tensor(3), g)
    assert got.sum().abs() < 1e-12
    assert 80 * classes < most < 100 * classes


def test_many_rows_go_in_blocks() -> None:
    """64 classes: 128 rows a block of numbers; the result is that of row by row."""
    logits = torch.randn(300, 64)
    grad, index = torch.randn(300, 64), torch.randint(64, (300,))
    whole = MVE().vjp(logits, index, grad)
    for row in (0, 127, 128, 299):
        alone = MVE().vjp(logits[row], index[row], grad[row])
        torch.testing.assert_close(whole[row], alone, rtol=1e-5, atol=1e-7)

"""Gradients given the outcome, and the softmax's, by the kernels for GPUs: rows of many blocks."""

import pytest
import torch

from straightthrough.core import kernels
from straightthrough.core.noise import Noise
from straightthrough.estimators import darn, gapped, gumbel, mve_integer, reinmax, straight_through
from straightthrough.ops.categorical import reference as categorical
from straightthrough.ops.categorical.reference import argmax_index
from straightthrough.relaxations import softmax

pytestmark = pytest.mark.interpreter
rows = pytest.importorskip("straightthrough.core.native.rows")
NOISE = Noise(torch.tensor(7), 2**33)


@pytest.fixture(autouse=True)
def _short_blocks(monkeypatch):
    """Every row with more than 16 classes is a long one, of five blocks."""
    monkeypatch.setattr(rows, "LONGEST", 16)
    monkeypatch.setattr(rows, "BLOCK", 32)
    with torch.no_grad():
        yield


def arguments():
    x, grad = 4 * torch.randn(7, 140), torch.randn(7, 140)
    x[0, 3], x[1], x[2, 70], x[3, 5] = torch.nan, -torch.inf, torch.inf, 40
    return x, argmax_index(x).clamp(min=0), grad


def assert_near(given, exact):
    """To 2e-6 of the largest of a row, against double precision."""
    assert torch.equal(given.isnan(), exact.isnan())
    given, exact = given.double().nan_to_num(0), exact.nan_to_num(0)
    assert ((given - exact).abs() <= 4e-6 * exact.abs().amax(-1, keepdim=True) + 1e-30).all()


def float32_noise(monkeypatch):
    classes_of = Noise.classes
    monkeypatch.setattr(
        Noise,
        "classes",
        lambda self, count, classes, _, sample=0: classes_of(
            self, count, classes, torch.float32, sample
        ).double(),
    )


@pytest.mark.parametrize("tau", [1.0, 0.5, 1.3])
def test_long_rows_given_the_outcome(tau, monkeypatch, launches):
    x, index, grad = arguments()
    wide = x.double(), index, grad.double(), tau
    for operator in (straight_through.straight_through, reinmax.reinmax):
        assert_near(operator(x, index, grad, tau), operator.__wrapped__(*wide))
    assert_near(gapped.gapped(x, index, grad, tau, 0.7), gapped.gapped.__wrapped__(*wide, 0.7))
    assert_near(
        mve_integer.mve_integer(x, index, grad, tau), mve_integer.mve_integer.__wrapped__(*wide)
    )
    float32_noise(monkeypatch)
    for samples in (1, 3):
        given = gumbel.gumbel_st(x, index, grad, tau, samples, NOISE)
        with kernels.disabled():  # that of the noise too
            assert_near(given, gumbel.gumbel_st.__wrapped__(*wide, samples, NOISE))
    assert launches == [
        *("straight_through_long", "reinmax_long", "gapped_long", "mve_integer_long"),
        *("gumbel_st_long", "gumbel_st_long"),
    ]


@pytest.mark.parametrize("classes", [8200, 16384])
def test_rows_that_a_tile_just_holds_are_read_once(classes, monkeypatch, launches):
    monkeypatch.undo()
    x, grad = 4 * torch.randn(3, classes), torch.randn(3, classes)
    x[0, 3], x[1] = torch.nan, -torch.inf
    index = argmax_index(x).clamp(min=0)
    for operator, tau in (
        (straight_through.straight_through, 1.3),
        (reinmax.reinmax, 1.0),
        (reinmax.reinmax, 1.3),
    ):
        given = operator(x, index, grad, tau)
        assert_near(given, operator.__wrapped__(x.double(), index, grad.double(), tau))
    # The last holds twice as many numbers.
    assert launches == ["straight_through_short", "reinmax_short", "reinmax_long"]


@pytest.mark.parametrize("tau", [1.0, 1.3])
def test_long_softmaxes(tau, monkeypatch, launches):
    x, _, grad = arguments()
    float32_noise(monkeypatch)
    y = categorical.gumbel_softmax(x, tau, NOISE)
    with kernels.disabled():  # that of the noise too
        assert_near(y, categorical.gumbel_softmax.__wrapped__(x.double(), tau, NOISE))
    to_value, to_logits = softmax.softmax_backward_of_value, softmax.softmax_backward_of_logits
    given = to_value(y, grad, tau)
    exact = torch.softmax(y.double().log(), -1)
    assert_near(given, to_value.__wrapped__(exact, grad.double(), tau))
    assert_near(
        to_logits(x, grad, tau, 2.0), to_logits.__wrapped__(x.double(), grad.double(), tau, 2.0)
    )
    assert launches == ["gumbel_softmax_long", "of_value_long", "of_logits_long"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("classes", [1, 5, 16, 140])
def test_darn(classes, dtype, launches):
    """To the sizes of what `<p, g - g_x>` adds up, which may be much larger than it."""
    x, grad = 3 * torch.randn(24, classes), torch.randn(24, classes)
    x[0, classes // 2], x[1], x[2, 0], x[3, 0], grad[:, -1] = torch.nan, -torch.inf, 40, -60, 100
    x, grad = x.to(dtype), grad.to(dtype)
    index = torch.arange(24) % classes
    given = darn.darn(x, index, grad).double()
    wide, g = x.double(), grad.double()
    due, p = darn.darn.__wrapped__(wide, index, g), torch.softmax(wide, -1)
    terms = (p * (g - g.gather(-1, index[:, None]))).abs().sum(-1, keepdim=True)
    share = (torch.eye(classes, dtype=torch.float64)[index] - p).abs()
    bound = 4e-6 * share * terms + torch.finfo(dtype).eps * due.abs() + 1e-30
    assert torch.equal(given.isnan(), due.isnan())
    assert bool(((given - due).abs() <= bound)[~due.isnan()].all())
    short = classes * (4 if dtype == torch.float64 else 1) <= 16
    assert launches == ["darn_short" if short else "darn_long"]


def test_infinity_beside_nan_is_nan(monkeypatch):
    x, grad = torch.randn(2, 40), torch.randn(2, 40)
    x[0, 3], x[0, 35], x[1, 3] = torch.nan, torch.inf, torch.inf
    for longest in (16, 128):
        monkeypatch.setattr(rows, "LONGEST", longest)
        given = softmax.softmax_backward_of_logits(x, grad, 0.7, 1.0)
        assert given[0].isnan().all()
        assert (given[1] == 0).all()


def test_a_mean_in_half_precision_is_rounded_once():
    x, index, grad = (
        value.bfloat16() if value.is_floating_point() else value for value in arguments()
    )
    given = gumbel.gumbel_st(x, index, grad, 1.0, 3, NOISE)
    wide = gumbel.gumbel_st(x.float(), index, grad.float(), 1.0, 3, NOISE)
    assert torch.equal(given.nan_to_num(7), wide.bfloat16().nan_to_num(7))


def test_gradients_beyond_the_range_stay_finite():
    x, grad = torch.zeros(1, 4).half(), torch.tensor([[6e4, -6e4, 6e4, -6e4]]).half()
    given = straight_through.straight_through(x, torch.zeros(1, dtype=torch.int64), grad, 0.01)
    assert given.tolist() == [[65504, -65504, 65504, -65504]]


@pytest.mark.parametrize("classes", [5, 140])
@pytest.mark.parametrize("outcome", [2**40, -(2**40)])
def test_an_outcome_that_is_none_reads_nothing_outside(classes, outcome, launches):
    """Nothing asks a GPU whether one is, as that would be waited for."""
    x, index = torch.zeros(1, classes), torch.full((1,), outcome)
    for operator, *rest in (
        (darn.darn,),
        (reinmax.reinmax, 1.0),
        (reinmax.reinmax, 1.3),
        (gapped.gapped, 1.0, 0.7),
        (mve_integer.mve_integer, 1.0),
        (gumbel.gumbel_st, 1.0, 2, NOISE),
    ):
        operator(x, index, torch.ones_like(x), *rest)
    assert len(launches) == 6

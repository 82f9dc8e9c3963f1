"""The kernel of sigmoids that share a threshold for GPUs, by Triton's interpreter."""

import pytest
import torch

import straightthrough as st
from straightthrough.core import kernels
from straightthrough.relaxations.threshold import logistic_backward

triton = pytest.importorskip("straightthrough.relaxations.triton_threshold")
pytestmark = pytest.mark.interpreter


def scores(classes):
    """Rows with ties, with infinities, with too few classes allowed, and with NaN."""
    x, grad = 3 * torch.randn(40, classes), torch.randn(40, classes)
    x[1:4], x[4, :2], x[5, 2:], x[6, 0] = x[1:4].round(), torch.inf, -torch.inf, torch.nan
    x[7], x[8, 1:], x[9] = 0, x[8, 1:] - 60, x[9] * 1e30
    grad[10:20] += 1e4  # what a row's gradients have in common moves nothing
    return x, grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("classes", "k"), [(3, 1), (3, 2), (8, 2), (33, 32), (33, 9), (5, 5)])
@pytest.mark.parametrize("tau", [1.0, 0.3])
def test_gradients(classes, k, tau, dtype, launches):
    """As exact as the width of the gap at the threshold lets them be."""
    x, grad = (value.to(dtype) for value in scores(classes))
    with torch.no_grad():
        got = logistic_backward(x, grad, k, tau).double()
    due = logistic_backward.__wrapped__(x.double(), grad.double(), k, tau)
    assert torch.equal(got.isnan(), due.isnan())
    top = x.double().topk(min(k + 1, classes), -1).values
    gap = (top[:, k - 1] - top[:, -1]).nan_to_num(0, 0, 0)[:, None] / tau
    accuracy = 4e-6 + torch.finfo(dtype).eps
    bound = accuracy * due.nan_to_num(0).abs().amax(-1, keepdim=True) * (1 + gap) + 1e-30
    assert ((got - due).nan_to_num(0).abs() <= bound).all()
    assert launches == ["logistic_backward_short"]


def test_topk_is_a_launch_each_way_and_long_rows_are_the_references(launches, monkeypatch):
    x, grad = scores(8)
    given, other = x.T.contiguous().T.requires_grad_(), x.clone().requires_grad_()
    st.topk(given, 2).backward(grad)
    assert launches == ["topk_short", "logistic_backward_short"]
    with kernels.disabled():
        st.topk(other, 2).backward(grad)
    torch.testing.assert_close(given.grad, other.grad, equal_nan=True)
    monkeypatch.setattr(triton, "fits_a_tile", lambda *_: False)
    with torch.no_grad():
        long = logistic_backward(x, grad, 2, 1.0)
        assert torch.equal(long.nan_to_num(7), other.grad.nan_to_num(7))
    assert len(launches) == 2


def test_what_is_no_argument_is_refused():
    operator, x = torch.ops.straightthrough.logistic_backward, torch.zeros(2, 3)
    for wrong, said in (
        ((x.long(), x, 1, 1.0), "x must"),
        ((x, x.double(), 1, 1.0), "grad must"),
        ((x, x, 0, 1.0), "k must"),
        ((x, x, 4, 1.0), "k must"),
    ):
        with pytest.raises(RuntimeError, match=said):
            operator(*wrong)

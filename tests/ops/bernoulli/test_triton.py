"""The binary kernels for GPUs, by Triton's interpreter."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import straightthrough as st
from gof import assert_rate
from straightthrough.core import kernels
from straightthrough.core.noise import Noise
from straightthrough.ops.bernoulli.reference import binary_draw, concrete, concrete_backward

pytestmark = pytest.mark.interpreter
SEED = torch.tensor(7)
elements = pytest.importorskip("straightthrough.core.native.elements")
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.no_grad():
        yield


@DTYPES
@pytest.mark.parametrize("offset", [0, 8, 13, 2**32 - 104, 2**40 + 3])
def test_draws_of_probabilities_are_those_of_the_reference(offset: int, dtype: torch.dtype) -> None:
    """To the bit, whether eight elements share their noise or each has its own."""
    p, noise = torch.rand(100_003).to(dtype), Noise(SEED, offset)
    got, wanted = binary_draw(p, True, noise), binary_draw.__wrapped__(p, True, noise)
    for one, other in zip(got, wanted, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("offset", [0, 3])
def test_draws_of_logits_are_those_of_the_reference(offset: int) -> None:
    """But for a uniform next to a boundary, as exp has another last digit."""
    x, noise = 3 * torch.randn(300_000), Noise(SEED, offset)
    y, _ = binary_draw(x, False, noise)
    assert (y != binary_draw.__wrapped__(x, False, noise)[0]).sum() <= 3


@pytest.mark.parametrize("logit", [-12.0, -3.0, 0.5])
def test_rates(logit: float) -> None:
    x = torch.full((400_000,), logit, dtype=torch.bfloat16)
    y, _ = binary_draw(x, False, Noise(SEED))
    rate = torch.sigmoid(torch.tensor(logit, dtype=torch.float64)).item()
    assert_rate(int(y.sum(dtype=torch.float64)), len(x), rate)


@DTYPES
@pytest.mark.parametrize("of_probs", [False, True])
def test_ends(of_probs: bool, dtype: torch.dtype) -> None:
    """What is certain, and what is no parameter."""
    nan, low, high = torch.nan, -torch.inf, torch.inf
    x = torch.tensor([0.0, 1.0, -0.1, 1.1, nan] if of_probs else [low, high, nan]).to(dtype)
    y, bits = binary_draw(x, of_probs, Noise(SEED))
    wanted = [0.0, 1.0, nan, nan, nan] if of_probs else [0.0, 1.0, nan]
    torch.testing.assert_close(y, torch.tensor(wanted).to(dtype), equal_nan=True)
    assert bits.item() & 3 == 2
    gate = (0.5, -0.1, 1.1, False, of_probs, Noise(SEED))
    torch.testing.assert_close(concrete(x, *gate), y, equal_nan=True)
    grad = torch.ones_like(x)
    assert concrete_backward(x, grad, *gate)[:2].tolist() == [0, 0]


def test_a_launch_each(launches: list[str]) -> None:
    x = torch.randn(5, 6)
    gate, noise = (0.5, -0.1, 1.1, False, False), Noise(SEED)
    binary_draw(x, False, noise)
    concrete(x, *gate, noise)
    concrete_backward(x, x, *gate, noise)
    assert launches == ["draw_kernel", "gate_kernel", "gate_backward_kernel"]


@pytest.mark.parametrize("rule", ["straight_through", "reinmax", "gumbel"])
def test_a_draw_with_its_gradient_is_two_launches(rule: str, launches: list[str]) -> None:
    def gradient(x: Tensor) -> Tensor:
        with torch.enable_grad():
            y = st.bernoulli(x.requires_grad_(), estimator=rule, seed=3).sum()
        return torch.autograd.grad(y, x)[0]

    x = torch.randn(5, 6)
    found = gradient(x.clone())
    assert launches == ["draw_kernel", f"{rule}_kernel"]
    with kernels.disabled():
        torch.testing.assert_close(found, gradient(x.clone()))


def test_tiles_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, noise = torch.randn(300), Noise(SEED, 16)
    whole = [*binary_draw(x, False, noise), concrete(x, 0.5, -0.1, 1.1, False, False, noise)]
    monkeypatch.setattr(elements, "ELEMENTS", 64)
    parts = [*binary_draw(x, False, noise), concrete(x, 0.5, -0.1, 1.1, False, False, noise)]
    assert all(map(torch.equal, whole, parts))


def test_numbers_stay_on_their_device() -> None:
    x = torch.randn(50)
    numbers = (0.5, -0.1, 1.1)
    tensors = [torch.tensor(number, dtype=torch.float64) for number in numbers]
    operator = torch.ops.straightthrough.concrete
    wanted = operator(x, *numbers, False, False, SEED, 0)
    assert torch.equal(operator.numbers(x, *tensors, False, False, SEED, 0), wanted)


@pytest.mark.parametrize("view", [lambda x: x[::2], lambda x: x[:, 1::2], lambda x: x.T])
def test_other_strides(view: Callable[[Tensor], Tensor]) -> None:
    """Positions count in row-major order, wherever elements lie."""
    p = view(torch.rand(40, 40))
    for got, wanted in zip(
        binary_draw(p, True, Noise(SEED)),
        binary_draw.__wrapped__(p, True, Noise(SEED)),
        strict=True,
    ):
        assert torch.equal(got, wanted)


def test_what_is_no_argument_is_refused() -> None:
    x = torch.zeros(3, 4)
    draw = torch.ops.straightthrough.binary_draw
    backward = torch.ops.straightthrough.concrete_backward
    gate = (0.5, -0.1, 1.1, False, False)
    for operator, wrong, said in (
        (draw, (x.long(), False, SEED, 0), "x must"),
        (draw, (x, False, torch.tensor(7.0), 0), "seed"),
        (draw, (x, False, SEED, -1), "offset"),
        (backward, (x, x[:2], *gate, SEED, 0), "grad"),
        (backward, (x, x.double(), *gate, SEED, 0), "grad"),
    ):
        with pytest.raises(RuntimeError, match=said):
            operator(*wrong)

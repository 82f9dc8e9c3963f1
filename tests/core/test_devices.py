"""What the reference asks of devices other than the CPU: no float64, no order, few launches."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import straightthrough as st
from devices import Device, without_float64
from straightthrough import testing
from straightthrough.estimators import MVE
from straightthrough.relaxations import Threshold
from straightthrough.testing import Case

CASES = testing.cases()
IN_FLOAT64 = [
    case
    for case in CASES
    if case.record.family == "counts"
    or case.record.name in ("rank", "assignment", "sample_subset")
    or (case.rule == MVE() and case.record.family == "categorical")
    or case.rule == Threshold("laplace")
]
NARROW = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)


@NARROW
@pytest.mark.parametrize("case", [case for case in CASES if case not in IN_FLOAT64], ids=str)
def test_a_device_without_float64(case: Case, dtype: torch.dtype) -> None:
    """It gives what the CPU does, without float64 and without what is not deterministic."""
    inputs = case.input(30, dtype=dtype)
    grad = case.incoming(inputs)
    outputs, gradients = case.backward(inputs, grad)
    with without_float64() as device:
        others, found = case.backward(inputs, grad)
    assert device.launches
    for one, other in zip(outputs, others, strict=True):
        assert torch.equal(one, other)
    for one, other in zip(gradients, found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("case", IN_FLOAT64, ids=str)
def test_what_needs_float64_says_so(case: Case) -> None:
    inputs = case.input()
    grad = case.incoming(inputs)
    with without_float64(), pytest.raises(st.StraightThroughError, match="in float64, which cpu"):
        case.backward(inputs, grad)


LAUNCHES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], int]] = {
    "categorical": (lambda x, seed: st.categorical(x, seed=seed), 57),
    "gumbel": (lambda x, seed: st.categorical(x, "gumbel", seed=seed), 102),
    "bernoulli": (lambda x, seed: st.bernoulli(x, seed=seed), 54),
    "hard_concrete": (lambda x, seed: st.hard_concrete(x, seed=seed), 103),
}


@pytest.mark.parametrize("name", LAUNCHES)
def test_launches(name: str) -> None:
    """Forward and backward, however large the input: nothing is cut into blocks off the CPU."""
    call, most = LAUNCHES[name]
    x = torch.zeros(65_536, 64, device="meta", requires_grad=True)
    seed, grad = torch.zeros((), dtype=torch.int64, device="meta"), torch.zeros_like(x)
    with Device() as device:
        call(x, seed).backward(grad)
    assert device.launches <= most


@pytest.mark.parametrize("seed", [7, torch.tensor(7), st.Seed(torch.tensor(7), 3), None], ids=str)
def test_no_seed_is_waited_for(seed: int | Tensor | st.Seed | None) -> None:
    """Nor copied to the device: while a CUDA graph is recorded neither is allowed."""
    x = torch.zeros(4, 5, device="meta", requires_grad=True)
    with Device():
        y = st.categorical(x, "gumbel", seed=seed)
        y.backward(torch.zeros_like(y))


SCHEDULED: dict[str, Callable[[], torch.nn.Module]] = {
    "confidence": lambda: st.nn.Argmax(st.nn.schedules.Confidence()),
    "constant": lambda: st.nn.TopK(2, tau=st.nn.schedules.Constant(0.5)),
    "cosine": lambda: st.nn.Categorical("gumbel", tau=st.nn.schedules.Cosine(2.0, 1.0, 10)),
    "exponential": lambda: st.nn.BinaryConcrete(tau=st.nn.schedules.Exponential(1.0, 0.5, 10)),
    "linear": lambda: st.nn.Sign("atan", alpha=st.nn.schedules.Linear(1.0, 2.0, 10)),
    "own": lambda: st.nn.Heaviside(st.nn.schedules.Linear(0.0, 1.0, 10)),
}


@pytest.mark.parametrize("name", SCHEDULED)
def test_no_schedule_is_waited_for(name: str) -> None:
    module = SCHEDULED[name]().to("meta")
    x = torch.zeros(4, 5, device="meta", requires_grad=True)
    with Device():
        for _ in range(2):
            y = module(x)
            y.backward(torch.zeros_like(y))
            st.nn.step_schedules(module)

"""Every promise of every operator on another device, where references serve: `make test-device`.

Its memory is the CPU's and torch's operators run there, but a tensor on the CPU is refused beside
one of it, as a GPU does. torch.compile is left out: it can't copy the constants of graphs there.
"""

from __future__ import annotations

import importlib.util
import os
from types import SimpleNamespace

import pytest
import torch

from straightthrough import testing

pytestmark = pytest.mark.device

NAME = "pretended"
LIBRARY = os.environ.get("STRAIGHTTHROUGH_DEVICE")


def begin(path: str) -> None:
    """Make the device known to torch."""
    spec = importlib.util.spec_from_file_location("device", path)
    assert spec
    assert spec.loader
    library = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(library)
    torch.utils.rename_privateuse1_backend(NAME)
    module = SimpleNamespace(
        is_available=lambda: True,
        is_initialized=lambda: True,
        device_count=lambda: 1,
        current_device=lambda: 0,
        manual_seed_all=lambda seed: None,
        get_rng_state=lambda device=0: torch.zeros(1, dtype=torch.uint8),
        set_rng_state=lambda state, device=0: None,
        get_amp_supported_dtype=lambda: [torch.bfloat16, torch.float16],
        _is_in_bad_fork=lambda: False,
    )
    torch._register_device_module(NAME, module)
    torch.utils.generate_methods_for_privateuse1_backend()
    library.begin()


if LIBRARY:
    begin(LIBRARY)
CASES = testing.cases(NAME) if LIBRARY else []
MATRIX = [
    (check, case)
    for case in CASES
    for check in testing.applicable(case)
    if check is not testing.check_compiled
]


@pytest.mark.parametrize(("check", "case"), MATRIX, ids=lambda x: getattr(x, "__name__", str(x)))
def test_conformance(check, case):
    check(case)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients_are_those_of_the_cpu(case, dtype):
    here = testing.Case(case.record, case.rule)
    inputs = here.input(30, dtype=dtype)
    grad = here.incoming(inputs)
    outputs, gradients = here.backward(inputs, grad)
    there = tuple(x.to(NAME) for x in inputs)
    others, found = case.backward(there, grad.to(NAME))
    torch.testing.assert_close(
        [*outputs, *gradients], [x.cpu() for x in (*others, *found)], equal_nan=True
    )

"""Buffers of running means keep their dtype, whatever a model is moved to and a file holds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import straightthrough as st

INT4 = st.grids.Int(4)


def _prepared() -> nn.Module:
    return st.nn.prepare(nn.Linear(4, 4), [("", "w4")]).eval()


MAKE: dict[str, Callable[[], nn.Module]] = {
    "router": lambda: st.nn.TopKRouter(4, 2),
    "statistics": lambda: st.nn.Codebook(8, 4).statistics,
    "control": lambda: st.nn.ControlVariate(4),
    "confidence": lambda: st.nn.schedules.Confidence(),
    "answering": lambda: st.nn.schedules.Answering(),
    "learned": lambda: st.nn.Quantizer(INT4, st.scales.Learned(offset=True)),
    "observed": lambda: st.nn.Quantizer(INT4, st.scales.Observed()),
    "temperature": lambda: st.nn.Argmax(torch.tensor(1.5)),
    "packed": lambda: st.nn.convert(_prepared(), to="packed").weight_quantizer,
    "oscillation": lambda: next(iter(st.nn.Oscillations(_prepared()).children())),
}


def _dtypes(module: nn.Module) -> dict[str, torch.dtype]:
    return {name: buffer.dtype for name, buffer in module.named_buffers()}


@pytest.mark.parametrize("made", MAKE)
def test_a_file_of_half_precision_does_not_coarsen_them(made: str) -> None:
    """Else a router's bias of 0.6 stood still, as bfloat16 has no 0.601."""
    module = MAKE[made]()
    before = _dtypes(module)
    state = {
        n: v.bfloat16() if v.is_floating_point() else v for n, v in module.state_dict().items()
    }
    module.load_state_dict(state, assign=True)
    assert _dtypes(module) == before
    for name, buffer in module.named_buffers():
        if name in state:
            assert torch.equal(buffer.nan_to_num(), state[name].to(buffer.dtype).nan_to_num())


@pytest.mark.parametrize("made", MAKE)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_move_leaves_them(made: str, dtype: torch.dtype) -> None:
    module = MAKE[made]()
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    module.to(dtype)
    for name, buffer in module.named_buffers():
        assert buffer.dtype == before[name].dtype
        assert torch.equal(buffer.nan_to_num(), before[name].nan_to_num())


def test_what_is_the_users_moves() -> None:
    class Own(st.nn.Sign):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("own", torch.ones(2))

    assert Own().half().own.dtype == torch.float16

"""What ranks do in the tests of tensor parallelism: modules between the layers that it cuts."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

import straightthrough as st
from frameworks.training import whole
from straightthrough.scales import Learned, Observed, Scale

WIDTH = 8
SCALES: tuple[Scale, ...] = (
    Learned(start="max"),
    Learned(axis=-1),
    Learned(block=4),
    Learned(zero_point=True),
    Learned(offset=True),
    Observed(),
    Observed(axis=-1, zero_point=True),
)


def rows(seed: int) -> Tensor:
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(seed))


def network(middle: nn.Module) -> nn.Sequential:
    """Return two layers and a module that sees the columns of the first one."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, WIDTH), middle, nn.Linear(WIDTH, 4))


def cut(model: nn.Sequential, middle_too: bool) -> nn.Sequential:
    """Return a copy whose columns between the layers lie on the ranks.

    The module between them is left alone, or its parameters and buffers lie whole on the mesh.
    """
    model = copy.deepcopy(model)
    plan = {"0": ColwiseParallel(use_local_output=False), "2": RowwiseParallel()}
    if middle_too:
        plan["1"] = SequenceParallel(sequence_dim=1, use_local_output=False)
    parallelize_module(model, init_device_mesh("cpu", (2,)), plan)
    return model


def step(model: nn.Module, x: Tensor) -> Tensor:
    y = model(x)
    y.square().sum().backward()
    found: Tensor = whole(y.detach())
    return found


def assert_alike(model: nn.Module, alone: nn.Module) -> None:
    """The gradients and buffers of ranks are those of one process."""
    for (name, p), q in zip(model.named_parameters(), alone.parameters(), strict=True):
        assert q.grad is not None, name
        assert q.grad.any(), name
        torch.testing.assert_close(whole(p.grad), q.grad, msg=name)
    for (name, buffer), other in zip(model.named_buffers(), alone.buffers(), strict=True):
        torch.testing.assert_close(whole(buffer), other, msg=name)


def try_kept_scales(rank: int) -> None:
    for scale in SCALES:
        shifts = bool(scale.shifts)
        for middle_too in (False, True):
            grid = st.grids.Int(4, signed=not shifts)
            alone = network(st.nn.Quantizer(grid, scale, shape=(6, WIDTH)))
            model = cut(alone, middle_too)
            for seed in range(2):  # the first one starts the scale
                x = rows(seed)
                torch.testing.assert_close(step(model, x), step(alone, x), msg=str(scale))
            assert_alike(model, alone)


def try_counted(rank: int) -> None:
    """A rule that counts elements says what to do."""
    model = cut(network(st.nn.Quantizer(st.grids.Int(4), Learned(), "lsq")), middle_too=False)
    with pytest.raises(st.ArgumentError, match=r"use a rule that counts none, as 'ste', or pass"):
        model(rows(0))

"""What ranks do in the tests of tensor parallelism: modules between the layers that it cuts."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_module, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

import straightthrough as st
from frameworks.training import whole
from straightthrough.nn.statistics import together
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


CODEBOOKS: list[Callable[[], nn.Module]] = [
    lambda: st.nn.VectorQuantizer(3, 4, revive=0.9),
    lambda: st.nn.VectorQuantizer(3, 4, revive=0.9, update="manual", k_means=False),
    lambda: st.nn.VectorQuantizer(3, 4, learn="loss"),
    lambda: st.nn.VectorQuantizer(3, 4, metric="cosine"),
    lambda: st.nn.ResidualVQ(2, 3, 4),
    lambda: st.nn.GroupedVQ(2, 3, 4),
]


def try_codebooks(rank: int) -> None:
    """A rank counts the rows of a DTensor that it holds, of what both hold the first one all."""
    mesh, z = init_device_mesh("cpu", (2,)), rows(2).reshape(2, 3, 4).repeat(1, 2, 1)
    z += 0.1 * torch.arange(48.0).reshape(2, 6, 4).cos()
    for make in CODEBOOKS:
        for placement in (Shard(1), Replicate()):
            torch.manual_seed(0)
            model = make()
            alone = copy.deepcopy(model)
            own = z.chunk(2, 1)[rank] if placement == Shard(1) else z[:, : 6 * (rank == 0)]
            for _ in range(3):
                found, due = model(distribute_tensor(z, mesh, [placement])), alone(own)
                if due.loss.requires_grad:
                    (2 * found.loss).backward()
                    due.loss.backward()
                for each in (model, alone):
                    each.update_codebook()
            if placement == Shard(1):
                torch.testing.assert_close(found.quantized.to_local(), due.quantized)
                assert torch.equal(found.index.to_local(), due.index)
                for p, q in zip(model.parameters(), alone.parameters(), strict=True):
                    dist.all_reduce(q.grad)
                    torch.testing.assert_close(p.grad, q.grad)
            for (name, got), wanted in zip(model.named_buffers(), alone.buffers(), strict=True):
                if "candidates" not in name:
                    torch.testing.assert_close(got, wanted, msg=name)


def try_routers(rank: int) -> None:
    """The bias of a router left alone, or with buffers on the mesh, is that of all tokens."""
    mesh, logits = init_device_mesh("cpu", (2,)), rows(3).reshape(2, 3, 4).repeat(1, 2, 1)
    for placement in (Shard(1), Replicate()):
        for on_it in (False, True):
            model, alone = st.nn.TopKRouter(4, 2, rate=0.1), st.nn.TopKRouter(4, 2, rate=0.1)
            if on_it:
                parallelize_module(model, mesh, SequenceParallel(use_local_output=False))
            for _ in range(3):
                found, due = model(distribute_tensor(logits, mesh, [placement])), alone(logits)
                for got, wanted in zip(found, due, strict=True):
                    torch.testing.assert_close(whole(got), wanted)
                model.update(), alone.update()
            assert torch.equal(whole(model.bias), alone.bias)
            assert alone.bias.any()


def try_sums(rank: int) -> None:
    mesh = init_device_mesh("cpu", (2,))
    for placement in (Replicate(), Shard(0)):
        laid = distribute_tensor(torch.tensor([1.0, 2.0]), mesh, [placement])
        assert whole(together(laid)).tolist() == [1.0, 2.0]  # each rank has it, and it counts once


def try_refused(rank: int) -> None:
    """What can't be counted or cut, or was laid on a mesh, says what to do."""
    mesh, z = init_device_mesh("cpu", (2,)), rows(4)
    model = st.nn.VectorQuantizer(3, 4)
    with pytest.raises(st.ArgumentError, match="all classes of a row must lie on one rank"):
        model(distribute_tensor(z, mesh, [Shard(1)]))
    parallelize_module(model, mesh, SequenceParallel(sequence_dim=0))
    with pytest.raises(st.ArgumentError, match="leave the quantizer out of the plan"):
        model(distribute_tensor(z, mesh, [Shard(0)]))
    layer = st.nn.prepare(nn.Linear(4, 4), [("", "w4a8")])
    with pytest.raises(st.ArgumentError, match=r"leave it out of the plan, or shard the model by"):
        parallelize_module(layer, mesh, ColwiseParallel())


def try_quantized(rank: int) -> None:
    """A prepared layer that keeps no scale can be cut by columns, or by a function of ours."""
    mesh, x = init_device_mesh("cpu", (2,)), torch.randn(4, 64)
    dist.broadcast(x, 0)

    def by_rows(name: str, module: nn.Module, mesh: DeviceMesh) -> None:
        if not name:
            module.weight = nn.Parameter(distribute_tensor(module.weight, mesh, [Shard(1)]))

    for config in ("bitnet", "mxfp4", "nvfp4"):
        alone = st.nn.prepare(nn.Linear(64, 64), [("", config)])
        for parameter in alone.parameters():
            dist.broadcast(parameter.data, 0)
        columns, rows = copy.deepcopy(alone), copy.deepcopy(alone)
        parallelize_module(columns, mesh, ColwiseParallel(use_local_output=False))
        distribute_module(rows, mesh, by_rows)
        due = step(alone, x)
        for layer, laid in ((columns, Replicate()), (rows, Shard(1))):
            torch.testing.assert_close(step(layer, distribute_tensor(x, mesh, [laid])), due)
            assert_alike(layer, alone)

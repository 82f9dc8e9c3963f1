"""What ranks do in the tests of training: a small VAE, alone, replicated and sharded."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import straightthrough as st

BATCH, PIXELS, LATENTS, CATEGORIES = 8, 10, 3, 4
STEPS = 5
Step = Callable[[int], None]


class VAE(nn.Module):
    """One-hot codes of images, the same units of which are gated for all of them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        units = LATENTS * CATEGORIES
        self.encoder = nn.Linear(PIXELS, units)
        self.choose = st.nn.Categorical("gumbel", tau=st.nn.schedules.Linear(2.0, 0.5, steps=5))
        self.gate = st.nn.HardConcreteGate(units, probs=0.7)
        self.decoder = nn.Linear(units, PIXELS)
        self.double()

    def forward(self, images: Tensor, step: int, first: int) -> Tensor:
        """Return the mean loss of images, of which `first` come before these in the batch."""
        logits = self.encoder(images).unflatten(-1, (LATENTS, CATEGORIES))
        seed = st.Seed(2 * step, offset=first * LATENTS)
        code = st.categorical(logits, self.choose.estimator, seed=seed).flatten(-2)
        gate = st.hard_concrete(self.gate.logits, seed=2 * step + 1)
        pixels = self.decoder(code * gate)
        return (F.softplus(pixels) - pixels * images).sum(-1).mean()


def images_of(step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    return torch.rand(BATCH, PIXELS, generator=generator, dtype=torch.float64)


def trainer(model: nn.Module, parts: int = 1) -> tuple[torch.optim.Optimizer, Step]:
    """Return an optimizer and what trains a step on this rank's images, some `parts` in turn."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

    def step(number: int) -> None:
        optimizer.zero_grad()
        shares = dist.get_world_size() * parts
        size = BATCH // shares
        for part in range(parts):
            first = (dist.get_rank() * parts + part) * size
            images = images_of(number)[first : first + size]
            (model(images, number, first) / parts).backward()
        optimizer.step()
        st.nn.step_schedules(model)

    return optimizer, step


class Classifier(nn.Module):
    """Layers whose weights and inputs are quantized, one of them in the fourth step for the first
    time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(8, PIXELS)
        self.first, self.last = nn.Linear(PIXELS, 8), nn.Linear(8, 4)
        self.double()
        rows = st.nn.Scheme(st.grids.Int(4), st.scales.Learned(axis=0), "lsq")
        signed = st.nn.Scheme(st.grids.Int(4), st.scales.Learned(), "ste")
        late = st.nn.Config(rows, signed, delay=3)
        st.nn.prepare(self, [("last", late), ("first", st.nn.Config(rows, signed)), ("*", "w4")])

    def forward(self, images: Tensor, step: int, first: int) -> Tensor:
        """Return the mean loss of images, of which `first` come before these in the batch."""
        words = self.embed(torch.arange(first, first + len(images)))
        return self.last(self.first(images + 3 * words).tanh()).square().sum(-1).mean()


Make = type[VAE] | type[Classifier]


def positions(model: nn.Module) -> list[int]:
    schedules = (
        module for module in model.modules() if isinstance(module, st.nn.schedules.Schedule)
    )
    return [int(schedule.position) for schedule in schedules]


def alone(make: Make, steps: int) -> nn.Module:
    """Return a model that one process trains on whole batches, the gradients of the last kept."""
    model = make()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for number in range(steps):
        optimizer.zero_grad()
        model(images_of(number), number, 0).backward()
        optimizer.step()
        st.nn.step_schedules(model)
    return model


def whole(x: Any) -> Any:
    return x.full_tensor() if isinstance(x, DTensor) else x


def shard(model: nn.Module) -> None:
    fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))


def try_gradients(rank: int, make: Make, sharded: bool) -> None:
    model = make()
    if sharded:
        shard(model)
    replica = model if sharded else DistributedDataParallel(model)
    _, step = trainer(replica)
    for number in range(STEPS):
        step(number)
    wanted = alone(make, STEPS)
    assert positions(model) == positions(wanted) != []
    _assert_same_everywhere(model)
    pairs = zip(model.named_parameters(), wanted.parameters(), strict=True)
    for (name, parameter), other in pairs:
        assert isinstance(parameter, DTensor) == sharded
        assert other.grad.abs().max() > 1e-4, name
        torch.testing.assert_close(whole(parameter.grad), other.grad, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(whole(parameter), other, rtol=1e-9, atol=1e-12)


def state_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    of_model, of_optimizer = get_state_dict(model, optimizer)
    return {"model": of_model, "optimizer": of_optimizer}


def gathered(model: nn.Module) -> dict[str, Any]:
    """Return the state of a model, whole, as it is now."""
    return {name: copy.deepcopy(whole(x)) for name, x in model.state_dict().items()}


def _assert_same_everywhere(model: nn.Module) -> None:
    for name, buffer in model.named_buffers():
        found = [torch.empty_like(buffer) for _ in range(dist.get_world_size())]
        dist.all_gather(found, buffer)
        assert all(torch.equal(each, buffer) for each in found), name


def train_and_save(rank: int, make: Make, folder: Path) -> None:
    """Train two steps, save, and train two more without an interruption."""
    model = make()
    shard(model)
    optimizer, step = trainer(model)
    step(0), step(1)
    dcp.save(state_of(model, optimizer), checkpoint_id=folder / "checkpoint")
    saved = gathered(model)
    step(2), step(3)
    end = gathered(model)
    if rank == 0:
        torch.save((saved, end), folder / "states.pt")


def resume(rank: int, make: Make, folder: Path) -> None:
    """Load what other ranks saved, and train on as they did: each their shares in turn."""
    saved, end = torch.load(folder / "states.pt")
    model = make()
    shard(model)
    optimizer, step = trainer(model, parts=2 // dist.get_world_size())
    state = state_of(model, optimizer)
    dcp.load(state, checkpoint_id=folder / "checkpoint")
    set_state_dict(
        model,
        optimizer,
        model_state_dict=state["model"],
        optim_state_dict=state["optimizer"],
    )
    assert set(positions(model)) == {2}
    _assert_same_bits(gathered(model), saved)
    step(2), step(3)
    _assert_same_bits(gathered(model), end)


def _assert_same_bits(got: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert got.keys() == wanted.keys()
    for name, x in got.items():
        assert torch.equal(x, wanted[name]), name

"""What ranks do in the tests of codebooks that learn: sharded, stopped, and resumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import set_state_dict
from torch.distributed.tensor import DTensor

import straightthrough as st
from frameworks.training import gathered, shard, state_of

ROWS, PIXELS, WIDTH, CODES = 24, 6, 4, 10
LEARNS = ("ema", "loss", "gradient")
Step = Callable[[int], None]


class Autoencoder(nn.Module):
    """Rows through a codebook most of whose codes start far away, and so are revived."""

    def __init__(self, learn: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.decoder = nn.Linear(PIXELS, WIDTH), nn.Linear(WIDTH, PIXELS)
        update = "forward" if learn == "ema" else "manual"
        options = {"revive": 0.5, "decay": 0.5, "update": update, "k_means": False}
        self.quantizer = st.nn.VectorQuantizer(CODES, WIDTH, "both", learn=learn, **options)
        with torch.no_grad():
            self.quantizer.book.codebook[CODES // 2 :] += 100

    def forward(self, rows: Tensor) -> Tensor:
        q, _, loss = self.quantizer(self.encoder(rows))
        return (self.decoder(q) - rows).square().mean() + loss


def rows_of(step: int) -> Tensor:
    """Return this rank's part of a step's rows, which are not the same number on each."""
    rows = torch.randn(ROWS, PIXELS, generator=torch.Generator().manual_seed(step))
    return rows[: ROWS // 3] if dist.get_rank() == 0 else rows[ROWS // 3 :]


def trainer(learn: str) -> tuple[Autoencoder, torch.optim.Optimizer, Step]:
    model = Autoencoder(learn)
    shard(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    book = model.quantizer.book

    def step(number: int) -> None:
        optimizer.zero_grad()
        model(rows_of(number)).backward()
        optimizer.step()
        if book.update == "manual":
            before = gathered(model)["quantizer.book.codebook"]
            book.update_codebook(optimizer)
            assert isinstance(book.codebook, DTensor)
            given = (gathered(model)["quantizer.book.codebook"] != before).any(-1)
            moments = optimizer.state[book.codebook]["exp_avg"].full_tensor()
            assert not moments[given].any()
            assert number or (given.any() and moments[~given].any())

    return model, optimizer, step


def assert_one_codebook(model: nn.Module) -> None:
    """Assert that all ranks hold the same bits, and that no code lies where it started."""
    whole = gathered(model)
    mine = torch.cat(
        [whole[f"quantizer.book.{n}"].flatten() for n in ("codebook", "statistics.total")]
    )
    every = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(every, mine)
    assert all(torch.equal(each, mine) for each in every)
    assert whole["quantizer.book.codebook"].abs().max() < 50


def train_and_save(rank: int, folder: Path) -> None:
    """Train three steps, save, and train three more without an interruption."""
    for learn in LEARNS:
        model, optimizer, step = trainer(learn)
        step(0), step(1), step(2)
        dcp.save(state_of(model, optimizer), checkpoint_id=folder / learn)
        step(3), step(4), step(5)
        assert_one_codebook(model)
        end = gathered(model)
        if rank == 0:
            torch.save(end, folder / f"{learn}.pt")


def resume(rank: int, folder: Path) -> None:
    """Load what was saved into a model that started elsewhere, and train on."""
    for learn in LEARNS:
        model, optimizer, step = trainer(learn)
        with torch.no_grad():
            for value in model.state_dict().values():
                if isinstance(value, Tensor):
                    value.zero_()
        state = state_of(model, optimizer)
        dcp.load(state, checkpoint_id=folder / learn)
        parts = {"model_state_dict": state["model"], "optim_state_dict": state["optimizer"]}
        set_state_dict(model, optimizer, **parts)
        step(3), step(4), step(5)
        end = torch.load(folder / f"{learn}.pt")
        for name, value in gathered(model).items():
            same = (
                torch.equal(value, end[name]) if isinstance(value, Tensor) else value == end[name]
            )
            assert same, f"{learn}: {name}"


def try_start(rank: int) -> None:
    """A sharded codebook starts at the means of all ranks' rows."""
    model, _, _ = trainer("loss")
    rows = rows_of(7)[:, :WIDTH]
    model.quantizer.book.start(rows)
    assert model.quantizer.book.started
    start = gathered(model)["quantizer.book.codebook"]
    assert torch.equal(start, model.quantizer.book.statistics.total)
    whole = torch.cat([torch.randn(ROWS, PIXELS, generator=torch.Generator().manual_seed(7))])
    number = st.nearest(whole[:, :WIDTH], start)
    for k in range(CODES):
        torch.testing.assert_close(start[k], whole[number == k, :WIDTH].mean(0))


def try_start_in_forward(rank: int) -> None:
    """What a forward writes to a parameter that is gathered for it is lost, so it raises."""
    for learn in ("loss", "gradient"):
        models = [Autoencoder(learn), Autoencoder(learn)]
        for model in models:
            model.quantizer = st.nn.VectorQuantizer(CODES, WIDTH, "both", learn=learn)
            shard(model)
        with pytest.raises(st.ArgumentError, match=r"lost: call start\(z\) .* before"):
            models[0](rows_of(1))
        assert not models[0].quantizer.book.started
        models[1].quantizer.book.start(rows_of(1)[:, :WIDTH])
        start = gathered(models[1])["quantizer.book.codebook"]
        models[1](rows_of(1)).backward()
        assert torch.equal(gathered(models[1])["quantizer.book.codebook"], start)


def try_broadcast(rank: int) -> None:
    """What one rank has loaded, and others get by DistributedDataParallel, has started on all."""
    torch.manual_seed(0)
    first, model = (st.nn.prepare(nn.Sequential(nn.Linear(4, 4)), [("0", "w8a8")]) for _ in "12")
    first(torch.randn(5, 4))
    if rank == 0:
        model.load_state_dict(first.state_dict())
    replica = nn.parallel.DistributedDataParallel(model)
    replica(100 * torch.randn(5, 4)).sum().backward()
    assert torch.equal(model[0].input_quantizer.scale, first[0].input_quantizer.scale)
    first, model = (st.nn.VectorQuantizer(4, 2, learn="loss") for _ in "12")
    first(torch.randn(9, 2))
    if rank == 0:
        model.load_state_dict(first.state_dict())
    nn.parallel.DistributedDataParallel(model)(100 * torch.randn(9, 2))
    assert torch.equal(model.book.codebook, first.book.codebook)

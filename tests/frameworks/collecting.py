"""What ranks do in the tests of what is collected in several forwards of a step."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import straightthrough as st

CHOSEN = torch.tensor([[[0, 1, 2], [0, 3, 3]], [[1, 1, 3], [0, 2, 1]]])
"""Of each rank, in each forward of a step."""


class Model(nn.Module):
    """Rows that lie on the codewords, which are the experts' logits too."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4, bias=False)
        self.router = st.nn.TopKRouter(4, 1)
        self.quantizer = st.nn.VectorQuantizer(4, 4, decay=0.0, update="manual", revive=0.1)
        self.quantizer.book.start_at(torch.eye(4))
        nn.init.eye_(self.linear.weight)

    def forward(self, rows: Tensor) -> Tensor:
        rows = self.linear(rows)
        q, _, loss = self.quantizer(rows)
        return (self.router(rows).gates * q).sum() + loss


def replica(broadcasts: bool = True) -> tuple[Model, DistributedDataParallel]:
    model = Model()
    return model, DistributedDataParallel(model, broadcast_buffers=broadcasts)


def rows_of(rank: int, part: int) -> Tensor:
    return torch.eye(4)[CHOSEN[rank, part]]


def try_collected(rank: int) -> None:
    """What several forwards collect is that of all ranks, under `no_sync` or without broadcasts."""
    for broadcasts in (True, False):
        model, parallel = replica(broadcasts)
        for _ in range(3):
            with parallel.no_sync() if broadcasts else nullcontext():
                parallel(rows_of(rank, 0)).backward()
            parallel(rows_of(rank, 1)).backward()
            bias = model.router.bias.clone()
            model.router.update(), model.quantizer.update_codebook()
            counts = CHOSEN.flatten().bincount().float()
            assert torch.equal(model.quantizer.book.statistics.count, counts)
            assert torch.equal(model.router.bias, bias + 1e-3 * (counts.mean() - counts).sign())


def try_lost(rank: int) -> None:
    """What DistributedDataParallel writes over is told of on all ranks."""
    for evaluates in (False, True):
        model, parallel = replica()
        parallel(rows_of(rank, 0)).backward()
        with torch.no_grad():
            parallel.train(not evaluates)(rows_of(rank, 1))
        for update in (model.router.update, model.quantizer.update_codebook):
            with pytest.raises(st.ArgumentError, match=r"lost: .* no_sync\(\).*broadcast_buffers"):
                update()


def try_one_codebook(rank: int) -> None:
    """100 steps of unequal batches, with revival, leave one codebook to the bit."""
    torch.manual_seed(0)
    quantizer = st.nn.VectorQuantizer(32, 4, revive=0.5)
    encoder = DistributedDataParallel(nn.Linear(4, 4))
    torch.manual_seed(rank)
    for step in range(100):
        q, _, loss = quantizer(encoder(torch.randn(10 + 7 * rank + step % 3, 4)))
        (q.square().mean() + loss).backward()
    state = quantizer.state_dict()
    for name in ("book.codebook", "book.statistics.count", "book.statistics.total"):
        kept = [torch.empty_like(state[name]) for _ in range(2)]
        dist.all_gather(kept, state[name])
        assert torch.equal(*kept), name
    assert state["book.statistics.step"] == 101  # the start, and the steps

"""How often codes are chosen and what chose them, over time and over processes."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.compiler import is_compiling

from ..core.errors import ArgumentError
from ..core.mesh import laid_as, on_mesh, whole
from ..core.noise import Noise
from ..core.once import before, put
from ..ops.codebook.search import nearest_index
from .kept import KeptDtypes

SAMPLE = 64
"""Rows a code that k-means looks at, at most."""


class Owner(KeptDtypes):
    """Which rank's own numbers are in buffers that collect some until they are summed and applied.

    `DistributedDataParallel` writes the first rank's buffers over those of the others before a
    forward, unless the one before was under `no_sync()`.
    """

    rank: Tensor

    def __init__(self) -> None:
        super().__init__()
        # One more than the rank; 0 for none, and -1 for several.
        self.register_buffer("rank", torch.zeros((), dtype=torch.int64), persistent=False)

    def take(self, beside: Tensor) -> None:
        """Note that this rank has added to what is collected, `beside`."""
        if not spread():
            return
        self.move(beside)
        held, mine = before(self.rank), dist.get_rank() + 1
        self.rank.copy_(torch.where((held == 0) | (held == mine), mine, -1))

    def move(self, beside: Tensor) -> None:
        """Lie where what is collected does: a state dict that is assigned holds that alone."""
        if self.rank.device != beside.device:
            self.rank = torch.zeros_like(self.rank, device=beside.device)

    def give(self) -> None:
        """Note that what was collected is going to be applied, on all ranks.

        Raises:
            ArgumentError: if a rank has numbers of another among its own.
        """
        if not spread():
            return
        others = (self.rank != 0) & (self.rank != dist.get_rank() + 1)
        if not is_compiling() and together(others.float()) > 0:
            raise ArgumentError(
                "what a rank collected in its forwards is lost: before each of them "
                "DistributedDataParallel writes the buffers of the first rank over those of the "
                "others; call all forwards of a step but the last under no_sync(), and none in "
                "between in eval(), or pass it broadcast_buffers=False"
            )
        self.rank.zero_()


class CodebookStatistics(KeptDtypes):
    """Moving averages of how often each code is chosen and of the sum of what chose it, in float32.

    They are collected at a forward, summed over all processes when they are applied, and the same
    to the bit on each. Nothing of them depends on torch's random state. A checkpoint belongs after
    what was collected is applied: until then each process has its own.
    """

    count: Tensor
    total: Tensor
    new_count: Tensor
    new_total: Tensor
    candidates: Tensor
    offered: Tensor
    step: Tensor

    def __init__(self, codes: int, width: int, decay: float) -> None:
        super().__init__()
        self.decay, self.owner = decay, Owner()
        wide = torch.float32  # whatever the default is
        self.register_buffer("count", torch.ones(codes, dtype=wide))
        self.register_buffer("total", torch.zeros(codes, width, dtype=wide))
        self.register_buffer("new_count", torch.zeros(codes, dtype=wide))
        self.register_buffer("new_total", torch.zeros(codes, width, dtype=wide))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        # Rows of the last forward that had some, which differ from process to process, and how many
        # there are; no bools of which are, as torch's AveragedModel takes no means of these.
        candidates = torch.zeros(codes, width, dtype=wide)
        self.register_buffer("candidates", candidates, persistent=False)
        offered = torch.zeros((), dtype=torch.int64)
        self.register_buffer("offered", offered, persistent=False)

    def set(self, codebook: Tensor, begun: Tensor | None = None) -> None:
        """Begin at a codebook, each of whose codes was chosen once; what was collected is gone.

        Not where they have `begun`, if that is given.
        """
        put(self.count, 1, begun)
        put(self.total, codebook, begun)
        for collected in (self.new_count, self.new_total, self.offered, self.owner.rank):
            put(collected, 0, begun)

    def collect(self, rows: Tensor, index: Tensor, candidates: bool) -> None:
        """Take in vectors `(N, D)` and the codes `(N)` that they chose; -1 for none.

        Some of them may be `candidates` that dead codes are given.
        """
        count, total = sums(rows, index, len(self.count))
        self.new_count.copy_(before(self.new_count) + count)
        self.new_total.add_(total)
        if candidates:
            chosen, offered = self.sample(rows, index >= 0)
            none = offered == 0  # those of the forward before stay
            put(self.candidates, chosen, none)
            put(self.offered, offered, none)

    def sample(self, rows: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Return as many distinct rows as there are codes, and how many of them are rows."""
        count, given = len(self.count), rows.shape[0]  # an export would keep `len(rows)` as it is
        if not given:
            return torch.zeros_like(self.candidates), torch.zeros_like(self.offered)
        key = torch.where(valid, Noise(self.step).rows(given), 2**53)
        # Behind them as many that are none: of a batch of any size there are enough.
        key, order = F.pad(key, (0, count), value=2**53).sort()
        some = key[:count] < 2**53
        chosen = rows[order[:count].clamp(max=given - 1)]
        return torch.where(some.unsqueeze(-1), chosen.float(), 0), some.sum()

    def apply_collected(self) -> None:
        """Move the averages towards what was collected, over all processes, if anything was."""
        new = together(torch.cat([self.new_count.unsqueeze(-1), self.new_total], -1))
        some = (new[:, 0] > 0).any()
        decay = new.new_full((), self.decay).masked_fill_(~some, 1)
        self.count.mul_(decay).add_(new[:, 0], alpha=1 - self.decay)
        self.total.mul_(decay).add_(new[:, 1:], alpha=1 - self.decay)
        self.new_count.zero_()
        self.new_total.zero_()
        self.step.add_(some)

    def means(self, codebook: Tensor) -> Tensor:
        """Return the codebook that the averages make; codes long unused stay where they are.

        Nothing is added to the counts, which would pull rare codes to 0.
        """
        used = self.count.unsqueeze(-1)
        return torch.where(used > 1e-20, self.total / used, codebook)

    def revive(self, share: float) -> tuple[Tensor, Tensor]:
        """Give codes chosen less than `share` times as often as the mean a row of the batch each.

        Returns which were, `(K)`, and the rows, `(K, D)`, 0 elsewhere. No row is given twice, nor
        once more at another call.
        """
        mean = self.count.mean()
        rows, given = self.distributed(self.count < share * mean, self.candidates, self.offered)
        self.count.copy_(torch.where(given, mean, self.count))
        self.total.copy_(torch.where(given.unsqueeze(-1), mean * rows, self.total))
        self.offered.zero_()
        return given, rows

    def distributed(
        self, wanting: Tensor, candidates: Tensor, offered: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return a row for each code that wants one, of each process in turn, and which got one."""
        size, rank = (dist.get_world_size(), dist.get_rank()) if spread() else (1, 0)
        turn = wanting.cumsum(0) - 1
        place = (turn // size).clamp(0, len(candidates) - 1)
        mine = wanting & (turn % size == rank) & (place < offered)
        found = torch.cat([candidates[place], torch.ones_like(candidates[:, :1])], -1)
        found = together(torch.where(mine.unsqueeze(-1), found, 0))
        return found[:, :-1], found[:, -1] > 0

    def k_means(self, codebook: Tensor, rows: Tensor, valid: Tensor, rounds: int = 10) -> Tensor:
        """Return means of the rows, at most one a row; codes beyond are those of `codebook`."""
        everyone = torch.ones_like(self.count, dtype=torch.bool)
        start, given = self.distributed(everyone, *self.sample(rows, valid))
        codebook = torch.where(given.unsqueeze(-1), start, codebook.float())
        rows, valid = rows[: SAMPLE * len(codebook)].float(), valid[: SAMPLE * len(codebook)]
        for _ in range(rounds):
            index = torch.where(valid, nearest_index(rows, codebook), -1)
            count, total = sums(rows, index, len(codebook))
            both = together(torch.cat([count.unsqueeze(-1), total], -1))
            found = both[:, 1:] / both[:, :1].clamp(min=1)
            codebook = torch.where(both[:, :1] > 0, found, codebook)
        return codebook

    def _load_from_state_dict(self, *args: Any) -> None:  # those of a module
        super()._load_from_state_dict(*args)
        for name in ("candidates", "offered"):  # which no file has, where the others are assigned
            buffer = getattr(self, name)
            if buffer.device != self.count.device:
                self._buffers[name] = torch.zeros_like(buffer, device=self.count.device)
        self.owner.move(self.count)


def sums(rows: Tensor, index: Tensor, codes: int) -> tuple[Tensor, Tensor]:
    """Return how often each code was chosen and the sum of what chose it, in float32."""
    valid = index >= 0
    wide = torch.where(valid.unsqueeze(-1), rows.float(), 0)
    place = index.clamp(min=0)
    count = wide.new_zeros(codes).index_add(0, place, valid.to(wide.dtype))
    return count, wide.new_zeros(codes, rows.shape[-1]).index_add(0, place, wide)


def spread() -> bool:
    """Whether there are other processes."""
    return dist.is_available() and dist.is_initialized()


def together(x: Tensor) -> Tensor:
    """Return the sum of `x` over all processes."""
    if spread() and on_mesh(x):
        held = whole(x)
        first = not any(x.device_mesh.get_coordinate() or ())
        return laid_as(together(held if first else torch.zeros_like(held)), x)
    if spread():
        dist.all_reduce(x)
    return x

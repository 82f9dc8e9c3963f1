"""A codebook that learns, starts at the data and stays alive, and its losses."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.compiler import is_compiling

from ..core.errors import (
    ArgumentError,
    ShapeError,
    check_at_least,
    check_count,
    check_floating,
)
from ..core.internals import held, in_files, transforms_active
from ..core.mesh import laid_as, whole
from ..core.once import before, check_start, has_begun, runs_again
from ..core.precision import compute_dtype
from ..ops.codebook import api
from ..ops.codebook.arguments import check_index, check_row_mask, check_vectors
from .base import detached
from .statistics import CodebookStatistics, spread, together

DEAD = 0.01
"""A code is dead that is chosen less than this share of the mean rate, if it is never revived."""


@in_files
class Quantized(NamedTuple):
    """What a module of codes returns.

    The codes, of the shape and dtype of the input; their numbers, int64, -1 where a row is masked
    or not finite; and a loss, 0-d, to be added to that of the task.
    """

    quantized: Tensor
    index: Tensor  # type: ignore[assignment]  # tuples have a method of that name
    loss: Tensor


def commitment(z: Tensor, q: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the mean over rows and entries of `(z - q)^2`, q held: it pulls z to its codeword.

    Args:
        z, q: `(..., D)`, floating, of one shape.
        mask: bool `(...)`, True where a row counts.

    Raises:
        DtypeError, ShapeError: for arguments other than these.
    """
    _check_pair(z, q, mask)
    return _distance(z, detached(q), mask)


def codebook_loss(z: Tensor, q: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the mean over rows and entries of `(z - q)^2`, z held: it pulls the codeword to z.

    Args:
        z, q: `(..., D)`, floating, of one shape.
        mask: bool `(...)`, True where a row counts.

    Raises:
        DtypeError, ShapeError: for arguments other than these.
    """
    _check_pair(z, q, mask)
    return _distance(detached(z), q, mask)


def _check_pair(z: Tensor, q: Tensor, mask: Tensor | None) -> None:
    check_vectors(z)
    check_floating("q", q)
    if q.shape != z.shape:
        raise ShapeError(f"q must have the shape {tuple(z.shape)} of z, got {tuple(q.shape)}")
    check_row_mask(z, mask)


def _distance(z: Tensor, q: Tensor, mask: Tensor | None) -> Tensor:
    wide = compute_dtype(z.dtype)
    difference = z.to(wide) - q.to(wide)
    if mask is None:
        return difference.square().mean()
    known = mask.unsqueeze(-1)
    z, q = torch.where(known, z, 0), torch.where(known, q, 0)
    square = (z.to(wide) - q.to(wide)).square()
    return square.sum() / (mask.sum() * z.shape[-1]).clamp(min=1)


class Codebook(nn.Module):
    """K codewords that learn; `VectorQuantizer` and its like hold one or several.

    Args:
        codes: K.
        width: D.
        learn: how it does: `"ema"`, by moving averages of what chose each code; `"loss"`, by
            `codebook_loss`, which is added to the loss; `"gradient"`, by what the rule sends it, as
            `"diveq"` and `"both"` do; by `"ste"` and `"rotation"`, which send none, it learns of
            no other loss than one of your own.
        decay: of the moving averages, in [0, 1).
        commitment: the weight of that loss.
        revive: a code chosen less than this share of the mean code's rate is given a row of the
            batch; 0 for never. A codebook that is not learned by `"ema"` is a parameter, whose
            optimizer has moments of that code: it wants `update="manual"`, and
            `update_codebook(optimizer)` resets them.
        k_means: whether it starts at means of the first batch in training.
        update: `"forward"`, or `"manual"`: statistics of several forwards are collected, and
            `update_codebook()` applies them, once a step of the optimizer. Under
            `torch.utils.checkpoint`, which runs a forward again, `"ema"` wants `"manual"`.
        metric: `"euclidean"`, or `"cosine"`: z and the codewords are brought to length 1.
        transform: a module that makes the codebook out of a fixed random one, `(K, D)` to `(K, D)`,
            and learns in its place; it excludes `learn="ema"`, k-means and revival.

    Attributes:
        frozen: set it, and nothing is learned or counted, in `train()` as in `eval()`.
        commitment, revive, decay: may be set too, as `frozen` on each codebook of a quantizer.
    """

    codebook: Tensor

    def __init__(
        self,
        codes: int,
        width: int,
        *,
        learn: str = "ema",
        decay: float = 0.99,
        commitment: float = 0.25,
        revive: float = 0.0,
        k_means: bool | None = None,
        update: str = "forward",
        metric: str = "euclidean",
        transform: nn.Module | None = None,
    ) -> None:
        super().__init__()
        codes, width = check_count("codes", codes), check_count("width", width)
        _check_one_of("learn", learn, "ema", "loss", "gradient")
        _check_one_of("update", update, "forward", "manual")
        _check_one_of("metric", metric, "euclidean", "cosine")
        if transform is not None and (learn == "ema" or revive or k_means):
            raise ArgumentError("transform learns by itself: pass learn='loss' or 'gradient' alone")
        if revive and learn != "ema" and update != "manual":
            raise ArgumentError(
                f"revive with learn={learn!r} needs update='manual', and after optimizer.step() "
                f"update_codebook(optimizer), which also resets the moments of revived codes"
            )
        self.codes, self.width, self.learn, self.update = codes, width, learn, update
        self.metric, self.transform = metric, transform
        self.commitment = check_at_least("commitment", commitment, 0)
        self.revive = check_at_least("revive", revive, 0)
        self._given = self.started = transform is not None or k_means is False
        self.frozen = False
        start = torch.randn(codes, width) / width**0.5
        if learn == "ema" or transform is not None:
            self.register_buffer("codebook", start)
        else:
            self.codebook = nn.Parameter(start)
        self.statistics = CodebookStatistics(codes, width, decay)
        self.statistics.set(start)
        self.decay = decay

    @property
    def decay(self) -> float:
        """That of the moving averages, in [0, 1); it may be set."""
        return self.statistics.decay

    @decay.setter
    def decay(self, decay: float) -> None:
        if not 0 <= check_at_least("decay", decay, 0) < 1:
            raise ArgumentError(f"decay must lie in [0, 1), got {decay}")
        self.statistics.decay = decay

    def codewords(self) -> Tensor:
        """Return the codebook as it is now, `(K, D)`."""
        made = self.codebook if self.transform is None else self.transform(self.codebook)
        return self.directed(made)

    def directed(self, x: Tensor) -> Tensor:
        """Return vectors as they are compared: of length 1 for the cosine."""
        if self.metric == "euclidean":
            return x
        return F.normalize(x.to(compute_dtype(x.dtype)), dim=-1).to(x.dtype)

    def select(self, z: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the codeword of each vector, differentiable in the codebook, and its number.

        In training, what was chosen counts. Where `mask` is False the codeword is 0, the number -1.
        """
        learning = self.training and not self.frozen
        if learning and not self._begun() and (z.numel() or spread()):
            check_start()
            self._start(z.detach(), mask, anew=not is_compiling())
        learning = learning and self._begun()  # an empty batch starts none
        codebook = self.codewords().to(z.dtype)
        if self.frozen:
            codebook = detached(codebook)
        again = learning and runs_again()
        moves = learning and self.learn == "ema" and self.update == "forward"
        if moves:
            codebook = before(codebook)
        if again and moves:
            raise ArgumentError(
                "this forward runs again in backward, as torch.utils.checkpoint has it, and the "
                "codebook has moved since the first time: pass update='manual', and call "
                "update_codebook() after optimizer.step()"
            )
        index = api.nearest(z, codebook)
        q = api.codewords(codebook, index).to(z.dtype)
        if mask is not None:
            index = torch.where(mask, index, -1)
            q = torch.where(mask.unsqueeze(-1), q, 0)
        if learning and not again:
            rows = detached(z).reshape(-1, self.width)
            self.statistics.collect(rows, index.flatten(), self.revive > 0)
            if self.update == "forward":
                self._update()
        return q, index

    def _begun(self) -> bool:
        """Whether it has started: its buffers say so, which may be those of another for a while.

        Other ranks' come by broadcast, and any by `torch.func.functional_call`.
        """
        step = self.statistics.step
        if self._given or is_compiling() or step.is_meta:
            return self.started
        if transforms_active():
            return has_begun(step)
        if step.is_cpu or not self.started:
            self.started = has_begun(step)
        return self.started

    def loss(self, z: Tensor, q: Tensor, index: Tensor) -> Tensor:
        """Return the weighted losses of what `select` gave for `z`."""
        loss = self.commitment * commitment(z, q, index >= 0)
        learned = self.learn == "loss" and not self.frozen
        return loss + codebook_loss(z, q, index >= 0) if learned else loss

    @torch.no_grad()
    def update_codebook(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Apply what was collected, and revive dead codes.

        A codebook that is a parameter needs its optimizer for that, which forgets its moments of
        codes that were revived.
        """
        self._update(optimizer)

    def _update(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Do so; at a forward all is of buffers, and `no_grad` would be a graph that has no output.

        Torch can't write such a one to a file.
        """
        self.statistics.apply_collected()
        if self.revive:
            given, rows = self.statistics.revive(self.revive)
            if self.learn != "ema":
                self._replace(given.unsqueeze(-1), rows, optimizer)
        if self.learn == "ema":
            self.codebook.copy_(self.statistics.means(self.codebook))

    def _replace(
        self, given: Tensor, rows: Tensor, optimizer: torch.optim.Optimizer | None
    ) -> None:
        """Write rows into a parameter, which may be sharded, and 0 into the moments of them."""
        if optimizer is None:
            raise ArgumentError(
                "a codebook that is a parameter is revived by its optimizer: pass it"
            )
        given, rows = laid_as(given, self.codebook), laid_as(rows, self.codebook)
        self.codebook.copy_(torch.where(given, rows.to(self.codebook.dtype), self.codebook))
        for moment in optimizer.state.get(self.codebook, {}).values():
            if isinstance(moment, Tensor) and moment.shape == self.codebook.shape:
                moment.masked_fill_(given, 0)

    @torch.no_grad()
    def start(self, z: Tensor, mask: Tensor | None = None) -> None:
        """Set the codebook to the means of vectors `(..., D)`, on all processes at once.

        The first forward in training does so, unless `k_means=False`; where no vector counts and is
        finite the next one does, but not in compiled code, which can't ask. A parameter that
        `torch.distributed.fsdp.fully_shard` has cut can't be written to there: call this before.
        """
        self._start(z, mask)

    @torch.no_grad()
    def _start(self, z: Tensor, mask: Tensor | None, anew: bool = True) -> None:
        """Do so; unless `anew`, where it has not started by its buffers."""
        rows = z.reshape(-1, self.width)
        valid = rows.isfinite().all(-1)
        valid = valid if mask is None else valid & mask.flatten()
        if not is_compiling() and not held(together(valid.sum())).any():
            return
        statistics = self.statistics
        means = statistics.k_means(whole(self.codebook), rows, valid)
        begun = statistics.step > 0
        for kept, value in (
            (self.codebook, laid_as(means.to(self.codebook.dtype), self.codebook)),
            (statistics.count, torch.ones_like(statistics.count)),
            (statistics.total, means),
            (statistics.step, statistics.step + 1),
        ):
            if not anew:  # they may be of another model, and compiled code reads none before
                value = torch.where(laid_as(begun.expand(kept.shape), kept), kept, value)
            kept.copy_(value)
        self.started = True

    def decode(self, index: Tensor) -> Tensor:
        """Return the codewords of numbers of any shape, int64, a NaN row for -1.

        Raises:
            DtypeError, ArgumentError: for numbers that are not int64, or of no code.
        """
        check_index(index, self.codes)
        return api.codewords(self.codewords(), index).to(self.codebook.dtype)

    @property
    def perplexity(self) -> Tensor:
        """The exponential of the entropy of how often each code is chosen, over time."""
        share = self.statistics.count / self.statistics.count.sum()
        return torch.special.entr(share).sum().exp()

    @property
    def dead_codes(self) -> Tensor:
        """How many codes are chosen less than `revive` (or 0.01) times as often as the mean one."""
        count = self.statistics.count
        return (count < (self.revive or DEAD) * count.mean()).sum()

    def get_extra_state(self) -> Tensor:
        """Return whether it started; a tensor, as files of safetensors hold nothing else."""
        return torch.tensor(self._begun(), device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        self._given = self.started = bool(state)

    def extra_repr(self) -> str:
        return f"{self.codes}, {self.width}, learn={self.learn!r}"


def unmasked(z: Tensor, mask: Tensor | None) -> Tensor:
    """Return z, 0 where the mask is False: what is there may be anything."""
    return z if mask is None else torch.where(mask.unsqueeze(-1), z, 0)


def _check_one_of(name: str, value: str, *known: str) -> None:
    if value not in known:
        raise ArgumentError(f"{name} must be one of {', '.join(known)}, got {value!r}")

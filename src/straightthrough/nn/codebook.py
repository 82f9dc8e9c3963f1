"""A codebook that learns, starts at the data and stays alive."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.compiler import is_compiling

from ..core.errors import (
    ArgumentError,
    ShapeError,
    check_count,
    check_flag,
    check_floating,
)
from ..core.internals import held, transforms_active
from ..core.mesh import everywhere, laid_as, on_mesh, own, whole
from ..core.once import before, check_start, has_begun, put, runs_again
from ..core.precision import compute_dtype
from ..core.sharded import check_rows_whole
from ..ops.codebook import api
from ..ops.codebook.arguments import check_index
from .base import detached
from .checked import Checked, Checks, check_fraction, check_weight, one_of
from .quantized import codebook_loss, commitment
from .statistics import CodebookStatistics, spread, together

DEAD = 0.01
"""A code is dead that is chosen less than this share of the mean rate, if it is never revived."""
TRANSFORMED = "transform learns by itself: pass learn='loss' or 'gradient' alone"


class Codebook(Checked):
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
        commitment, revive, decay, update: may be set too, as `frozen` on each codebook of a
            quantizer.
    """

    codebook: Tensor
    _cut = False
    fixed = ("codes", "width", "learn", "metric", "k_means")
    checks: ClassVar[Checks] = {
        "codes": check_count,
        "width": check_count,
        "learn": one_of("ema", "loss", "gradient"),
        "update": one_of("forward", "manual"),
        "metric": one_of("euclidean", "cosine"),
        "commitment": check_weight,
        "revive": check_weight,
        "frozen": check_flag,
        "k_means": check_flag,
    }

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
        self.codes, self.width, self.learn, self.metric = codes, width, learn, metric
        self.k_means = transform is None if k_means is None else k_means
        if transform is not None and self.k_means:
            raise ArgumentError(TRANSFORMED)
        self.transform, self.update, self.revive = transform, update, revive
        self.commitment, self.frozen = commitment, False
        self._given = self.started = not self.k_means
        start = torch.randn(self.codes, self.width) / self.width**0.5
        if learn == "ema" or transform is not None:
            self.register_buffer("codebook", start)
        else:
            self.codebook = nn.Parameter(start)
        self.statistics = CodebookStatistics(self.codes, self.width, decay)
        self.statistics.set(start)
        self.decay = decay

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("transform", "update", "revive"):
            self._check_together(name, value)
        super().__setattr__(name, value)
        if name == "codebook" and on_mesh(value):  # as `fully_shard` assigns it
            self.__dict__["_cut"] = True

    def _check_together(self, name: str, value: Any) -> None:
        """Raise unless a value of that name goes with what the codebook has."""
        present = getattr(self, "transform", value)
        if name == "transform" and (present is None) is not (value is None):
            raise ArgumentError("a codebook is made with a transform or without; make another")
        options = {n: getattr(self, n, None) for n in ("transform", "update", "revive")}
        options[name] = value
        revive = options["revive"]
        if options["transform"] is not None and (self.learn == "ema" or revive):
            raise ArgumentError(TRANSFORMED)
        if revive and self.learn != "ema" and options["update"] != "manual":
            raise ArgumentError(
                f"revive with learn={self.learn!r} needs update='manual', and after "
                f"optimizer.step() update_codebook(optimizer), which also resets the moments of "
                f"revived codes"
            )

    @property
    def decay(self) -> float:
        """That of the moving averages, in [0, 1); it may be set."""
        return self.statistics.decay

    @decay.setter
    def decay(self, decay: float) -> None:
        self.statistics.decay = check_fraction("decay", decay)

    def codewords(self) -> Tensor:
        """Return the codebook as it is now, `(K, D)`."""
        made = self.codebook if self.transform is None else self.transform(self.codebook)
        return self.directed(made)

    def directed(self, x: Tensor) -> Tensor:
        """Return vectors as they are compared: of length 1 for the cosine."""
        if self.metric == "euclidean":
            return x
        wide = x.to(compute_dtype(x.dtype))
        size = detached(wide).abs().amax(-1, keepdim=True)  # whose square may be 0, or infinite
        return F.normalize(wide / torch.where(size > 0, size, 1), dim=-1).to(x.dtype)

    def select(self, z: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the codeword of each vector, differentiable in the codebook, and its number.

        In training, what was chosen counts. Where `mask` is False the codeword is 0, the number -1.
        """
        learning = self.training and not self.frozen
        if on_mesh(z):
            check_rows_whole(z, z.ndim - 1)
            self._check_statistics()
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
        if on_mesh(z):
            codebook = everywhere(codebook, z)
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
            rows = own(detached(z)).reshape(-1, self.width)
            self.statistics.collect(rows, own(index).flatten(), self.revive > 0)
            if self.update == "forward":
                self._update()
            else:
                self.statistics.owner.take(rows)
        return q, index

    def _check_statistics(self) -> None:
        if on_mesh(self.statistics.count):
            raise ArgumentError(
                "the statistics of a codebook are summed over all processes, and lie on no mesh: "
                "leave the quantizer out of the plan of parallelize_module and of "
                "distribute_module; it takes DTensors all the same"
            )

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
            begun = has_begun(step)
            if begun is not self.started:  # an assignment takes longer
                self.started = begun
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
        codes that were revived. One that is frozen, or has not started, stays as it is.
        """
        if self._begun() and not self.frozen:
            if self.revive and self.learn != "ema":
                self._check_optimizer(optimizer)
            self.statistics.owner.give()
            self._update(optimizer)

    def _check_optimizer(self, optimizer: torch.optim.Optimizer | None) -> None:
        if optimizer is None:
            raise ArgumentError(
                "a codebook that is a parameter is revived by its optimizer: pass it"
            )
        groups = getattr(optimizer, "param_groups", [])  # what wraps one may be of any class
        if not any(p is self.codebook for group in groups for p in group["params"]):
            raise ArgumentError(
                f"the optimizer that revives codes must hold the codebook, whose moments it "
                f"forgets, got a {type(optimizer).__name__} without it"
            )

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
        given, rows = laid_as(given, self.codebook), laid_as(rows, self.codebook)
        self.codebook.copy_(torch.where(given, rows.to(self.codebook.dtype), self.codebook))
        assert optimizer is not None
        for moment in optimizer.state.get(self.codebook, {}).values():
            if isinstance(moment, Tensor) and moment.shape == self.codebook.shape:
                moment.masked_fill_(given, 0)

    @torch.no_grad()
    def start(self, z: Tensor, mask: Tensor | None = None) -> None:
        """Set the codebook to the means of vectors `(..., D)`, on all processes at once.

        The first forward in training does so, unless `k_means=False`; where no vector counts and is
        finite the next one does, but not in compiled code, which can't ask. A parameter that
        `torch.distributed.fsdp.fully_shard` has cut can't be written to there: call this before.

        Raises:
            ArgumentError: where that is called for.
        """
        self._start(z, mask)

    @torch.no_grad()
    def _start(self, z: Tensor, mask: Tensor | None, anew: bool = True) -> None:
        """Do so; unless `anew`, where it has not started by its buffers."""
        rows = own(z).reshape(-1, self.width)
        valid = rows.isfinite().all(-1)
        valid = valid if mask is None else valid & own(mask).flatten()
        if not is_compiling() and not held(together(valid.sum())).any():
            return
        means = self.statistics.k_means(whole(self.codebook), rows, valid)
        self._start_at(means, anew)

    def start_at(self, codewords: Tensor) -> None:
        """Set the codebook to codewords `(K, D)`, as they were found elsewhere, started or not.

        The same on all processes. A codebook of `"ema"` that is written to in another way goes back
        to its averages. A state dict with a codebook and no statistics is taken likewise.

        Raises:
            ArgumentError: where a transform makes the codebook.
            DtypeError, ShapeError: for other codewords.
        """
        if self.transform is not None:
            raise ArgumentError("the transform makes the codewords; set what it makes them of")
        check_floating("codewords", codewords)
        if codewords.shape != (self.codes, self.width):
            raise ShapeError(
                f"codewords must be {(self.codes, self.width)}, got {tuple(codewords.shape)}"
            )
        self._start_at(self.directed(codewords.detach()))

    @torch.no_grad()
    def _start_at(self, codewords: Tensor, anew: bool = True) -> None:
        if self._cut and not on_mesh(self.codebook):
            raise ArgumentError(
                "the codebook is a parameter that fully_shard has cut, and what is written to it "
                "while it is gathered for a forward is lost: call start(z) or start_at(codewords) "
                "of the codebook before the first forward, or make it with k_means=False"
            )
        step = self.statistics.step
        begun = None if anew else step > 0
        put(self.codebook, laid_as(codewords.to(self.codebook.dtype), self.codebook), begun)
        self.statistics.set(codewords, begun)
        put(step, step + 1, begun)
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
        self._given = self.started = bool(state) or not self.k_means

    def _load_from_state_dict(self, state: Any, prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict(state, prefix, *rest)
        alone = f"{prefix}codebook" in state and f"{prefix}statistics.count" not in state
        if alone and self.transform is None:
            self._start_at(whole(self.codebook.detach()))

    def extra_repr(self) -> str:
        return (
            f"{self.codes}, {self.width}, learn={self.learn!r}, decay={self.decay}, "
            f"commitment={self.commitment}, revive={self.revive}, k_means={self.k_means}, "
            f"update={self.update!r}, metric={self.metric!r}{', frozen' * self.frozen}"
        )

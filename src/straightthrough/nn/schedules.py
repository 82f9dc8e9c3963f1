"""Numbers that move with training: temperatures, slopes, any field of a rule."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling, is_exporting

from ..core.errors import (
    Number,
    StraightThroughError,
    apply_mask,
    check_limit,
    check_model,
    check_number,
    check_positive,
    check_rows,
)
from ..core.internals import held, transforms_active
from ..core.mesh import whole
from ..core.once import alike, before, runs_again
from ..core.precision import widest
from .checked import Checked, Checks, check_fraction
from .kept import KeptDtypes
from .measured import blended


class Schedule(KeptDtypes, Checked, ABC):
    """A number that goes from `start` to `end` in `steps` steps, and stays there.

    `value` is the number at the present position, `step()` moves on by one, as torch's
    learning-rate schedulers do. The position is a buffer: it is part of the state dict of every
    module that holds the schedule, so a checkpoint resumes where it stopped, and compiled and
    exported code computes the value from it, so a step is no new graph. A checkpoint that is older
    than the schedule, and lacks it alone, loads all the same and puts it at its start; one that
    lacks what is before it too leaves it. Numbers may be set later, for the next forward on.

    Args:
        start: the value at position 0.
        end: the value at position `steps` and after it.
        steps: an int of at least 0.

    Raises:
        ArgumentError: if a value is not finite or `steps` is not an int of at least 0.
    """

    position: Tensor
    checks: ClassVar[Checks] = {"start": check_number, "end": check_number, "steps": check_limit}
    # Of the `load_state_dict` that found it, by a list that is that call's alone: a schedule that
    # modules share has several names, of which a file may keep one.
    _found_by: list[str] | None = None

    def __init__(self, start: float, end: float, steps: int) -> None:
        super().__init__()
        self.start, self.end, self.steps = start, end, steps
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))

    @abstractmethod
    def between(self, fraction: Any) -> Any:
        """Return the value after `fraction`, in [0, 1), of the steps: a number, or a 0-d tensor."""

    @property
    def value(self) -> float:
        """The value at the present position."""
        position = self._position()
        if position >= self.steps:
            return self.end
        return self.between(position / self.steps)

    @property
    def current(self) -> Number:
        """The value as an operator takes it: a number, or a 0-d tensor.

        It is a tensor in compiled code, inside a transform, where models of an ensemble may be at
        positions of their own, and where the position is on a device that would be waited for if
        it were read.
        """
        if self._readable():
            return self.value
        fraction = self.position.to(widest(self.position.device)) / max(self.steps, 1)
        end = torch.full_like(fraction, self.end)
        return torch.where(self.position >= self.steps, end, self.between(fraction))

    def step(self) -> None:
        """Move on by one step; at the end the position stays."""
        self.position.add_(1).clamp_(max=self.steps)

    def observe(self, logits: Tensor, dim: int, mask: Tensor | None) -> None:
        """See what a module chooses from in training; only `Confidence` looks."""

    def _readable(self) -> bool:
        return self.position.is_cpu and not (is_compiling() or transforms_active())

    def _position(self) -> float:
        """Return the position as it is now, also if it was written through `.data`; on meta NaN."""
        return math.nan if self.position.is_meta else self.position.item()

    def _load_from_state_dict(
        self, state: Any, prefix: str, metadata: Any, strict: bool, missing: list[str], *rest: Any
    ) -> None:
        if any(prefix + name in state for name in self._buffers):
            self._found_by = missing
            super()._load_from_state_dict(state, prefix, metadata, strict, missing, *rest)
        elif self._found_by is not missing and not missing:
            self._begin()

    def extra_repr(self) -> str:
        return f"{self.start} -> {self.end}, position {self._position()} of {self.steps}"


class Constant(Schedule):
    """The same value always, where a schedule is asked for.

    Example:
        >>> st.nn.schedules.Constant(0.5).value
        0.5
    """

    fixed = ("start", "end", "steps")

    def __init__(self, value: float) -> None:
        super().__init__(check_number("value", value), value, 0)

    def between(self, fraction: Any) -> Any:
        return self.start


class Linear(Schedule):
    """`start + (end - start) t`, t the fraction of the steps that is done.

    Example:
        >>> slope = st.nn.schedules.Linear(1, 5, steps=2)
        >>> slope.step()
        >>> slope.value
        3.0
    """

    def between(self, fraction: Any) -> Any:
        return self.start + (self.end - self.start) * fraction


class Exponential(Schedule):
    """`start (end / start)^t`, t the fraction of the steps that is done; both ends above 0.

    Example:
        >>> tau = st.nn.schedules.Exponential(1.0, 0.01, steps=2)
        >>> tau.step()
        >>> round(tau.value, 6)
        0.1
    """

    checks: ClassVar[Checks] = {
        "start": check_positive,
        "end": check_positive,
        "steps": check_limit,
    }

    def between(self, fraction: Any) -> Any:
        return self.start * (self.end / self.start) ** fraction


class Cosine(Schedule):
    """`end + (start - end) (1 + cos(pi t)) / 2`, t the fraction done: flat at both ends.

    Example:
        >>> tau = st.nn.schedules.Cosine(1.0, 0.5, steps=2)
        >>> tau.step()
        >>> tau.value
        0.75
    """

    def between(self, fraction: Any) -> Any:
        cos = torch.cos if isinstance(fraction, Tensor) else math.cos
        return self.end + (self.start - self.end) * (1 + cos(math.pi * fraction)) / 2


class Delay(Schedule):
    """0 for some steps, then 1: what begins later.

    Models of an ensemble that `vmap` runs at once begin together; others raise there.

    Example:
        >>> delay = st.nn.schedules.Delay(1)
        >>> delay.step()
        >>> delay.over
        True
    """

    fixed = ("start", "end")

    def __init__(self, steps: int) -> None:
        super().__init__(0.0, 1.0, steps)
        self._over = self.steps == 0

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in ("steps", "position") and "position" in self._buffers:
            self._over = self._position() >= self.steps

    @property
    def over(self) -> bool:
        """Whether the steps are done; a bool, which compiled code takes for a constant."""
        if self._readable():
            self._over = self._position() >= self.steps
        elif not (is_compiling() or self.position.is_meta) and transforms_active():
            over = held(self.position) >= self.steps
            return alike(over, "some are past their delay and some are not")
        return self._over

    def check_export(self) -> None:
        """Raise where a graph is exported, which would keep for good that it is not over."""
        if is_exporting() and not self.over:
            raise StraightThroughError(
                f"a delay of {self.steps} steps is not over, and the export would never quantize; "
                f"train on, set enabled=False, or call an average of models on a batch first"
            )

    def between(self, fraction: Any) -> Any:
        return 0 * fraction

    def step(self) -> None:
        super().step()
        self._over = self._position() >= self.steps

    def _begin(self) -> None:
        super()._begin()
        self._over = self._position() >= self.steps

    def _load_from_state_dict(self, *args: Any) -> None:  # those of a module
        super()._load_from_state_dict(*args)
        self._over = self._position() >= self.steps


class Confidence(Schedule):
    """`start + (end - start) c`, c the running mean of the largest probability of a row.

    The temperature of CAGE: wide while the choices are open, sharp when they are made. Of a module
    that chooses along `dim` (`Argmax` in the original, `Categorical`, `TopK`, ...) each forward in
    training moves `c <- decay c + (1 - decay) mean(max(softmax(logits)))`; after `step()` forwards
    take the value at that c; modules without `dim`, as `Bernoulli`, move none. Classes that are not
    last, as an image's channels, want the module's `dim=1`: else c is that of another dimension.
    Nothing waits for the device. c begins at 0, and is in the state dict; replicas have their own.

    Args:
        start: the value where c is 0.
        end: the value where c is 1.
        decay: of the running mean, in [0, 1).

    References:
        Kim, "Align forward, adapt backward: closing the discretization gap in logic gate
        networks", 2026.

    Example:
        >>> tau = st.nn.schedules.Confidence(decay=0.5)
        >>> choose = st.nn.Argmax(tau)
        >>> choose(torch.zeros(3, 4))[0]
        tensor([1., 0., 0., 0.])
        >>> st.nn.step_schedules(choose)
        >>> tau.value  # c = (0 + 1/4) / 2
        2.6875
    """

    running: Tensor
    checks: ClassVar[Checks] = {**Schedule.checks, "decay": check_fraction}
    fixed = ("steps",)

    def __init__(self, start: float = 3.0, end: float = 0.5, decay: float = 0.99) -> None:
        super().__init__(start, end, 1)
        self.decay = decay
        self.register_buffer("position", torch.zeros((), dtype=torch.float32))
        self.register_buffer("running", torch.zeros((), dtype=torch.float32))

    def between(self, fraction: Any) -> Any:
        return self.start + (self.end - self.start) * fraction

    @torch.no_grad()
    def observe(self, logits: Tensor, dim: int, mask: Tensor | None) -> None:
        """Move the running mean by the rows of `logits`; those that hold NaN do not count."""
        if runs_again():
            return
        dim = check_rows("logits", logits, dim)
        rows = apply_mask("logits", logits, mask).to(torch.float32)
        confidence = whole(rows.softmax(dim).amax(dim)).nanmean()
        running = before(self.running)
        moved = running.lerp(confidence.to(running.device), 1 - self.decay)
        self.running.copy_(torch.where(moved.isnan(), running, moved))

    def step(self) -> None:
        """Take the running mean: the value is that of it until the next step."""
        self.position.copy_(self.running)

    def extra_repr(self) -> str:
        return f"{self.start} -> {self.end}, confidence {self._position():.3g}, decay={self.decay}"


class Answering(Schedule):
    """A step that grows until the solver answers to it: the lam of adaptive implicit MLE.

    Of `st.nn.Solve` each backward in training moves `c <- decay c + (1 - decay) m`, m the mean
    count of entries of a problem whose gradient is not 0, of those whose gradient is finite.
    `step()` adds `rate` where c lies below `target`, and takes it away above it, and leaves the
    value at `rate` at least. It and c are part of the state dict, and without `torch.distributed`
    of one process.

    Args:
        start: the first value, > 0.
        rate: how far a step moves it, > 0.
        target: of the entries whose gradient is not 0, > 0.
        decay: of the running mean, in [0, 1).

    References:
        Minervini, Franceschi, Niepert, "Adaptive perturbation-based gradient estimation for
        discrete latent variable models", 2023.

    Example:
        >>> lam = st.nn.schedules.Answering(0.5, rate=0.25, decay=0.0)
        >>> lam.see(torch.zeros(4, 3))
        >>> lam.step()
        >>> lam.value
        0.75
    """

    running: Tensor
    checks: ClassVar[Checks] = {
        "start": check_positive,
        "end": check_positive,
        "rate": check_positive,
        "target": check_positive,
        "decay": check_fraction,
    }
    fixed = ("end", "steps")

    def __init__(
        self, start: float = 1.0, rate: float = 1e-3, target: float = 1.0, decay: float = 0.9
    ) -> None:
        super().__init__(start, start, 1)
        self.rate, self.target, self.decay = rate, target, decay
        self.register_buffer("position", torch.zeros((), dtype=torch.float32))
        self.register_buffer("running", torch.full((), float(target), dtype=torch.float32))

    def between(self, fraction: Any) -> Any:
        return self.start + fraction

    @property
    def value(self) -> float:
        """The present step."""
        return self.start + self._position()

    @property
    def current(self) -> Number:
        """The same as an operator takes it: a number, or, as in `Schedule`, a 0-d tensor."""
        if self._readable():
            return self.value
        return self.start + self.position.to(widest(self.position.device))

    @torch.no_grad()
    def see(self, gradient: Tensor, running: Tensor | None = None) -> None:
        """Move the running mean, or one in its place, by finite rows of a gradient `(..., n)`."""
        if not gradient.numel():
            return
        rows = whole(gradient)
        count = (rows != 0).sum(-1, dtype=torch.float32)
        counted = torch.where(rows.isfinite().all(-1), count, torch.nan).nanmean()
        mean = self.running if running is None else running
        mean.copy_(blended(mean, counted.to(mean.device), 1 - self.decay))

    def step(self) -> None:
        """Move the value by `rate`, up or down."""
        moved = self.position + self.rate * (self.target - self.running).sign()
        self.position.copy_(moved.clamp(min=self.rate - self.start))

    def _begin(self) -> None:
        super()._begin()
        self.running.fill_(self.target)

    def extra_repr(self) -> str:
        return f"{self.value:.3g}, rate={self.rate}, target={self.target}, decay={self.decay}"


def step_schedules(model: nn.Module) -> None:
    """Move every schedule in `model` on by one step; one that several modules share moves once.

    Raises:
        ArgumentError: if the model is no module.

    Example:
        >>> tau = st.nn.schedules.Exponential(1.0, 0.1, steps=1000)
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4), st.nn.GumbelSoftmax(tau))
        >>> st.nn.step_schedules(model)
        >>> tau.position
        tensor(1)
    """
    check_model(model)
    for module in model.modules():
        if isinstance(module, Schedule):
            module.step()

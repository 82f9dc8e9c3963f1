"""What ails quantized weights in training: codes that oscillate; and what is done about it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ...core.errors import ArgumentError, StraightThroughError, check_count, check_number
from ...core.mesh import whole
from ...core.precision import compute_dtype
from ...grids.block import Blocks
from ...scales import Fixed, Learned
from ..checked import Checked, Checks, check_fraction, check_weight
from ..kept import KeptDtypes
from ..quantizer import Quantizer
from .convert import Weight, quantized_weights


class Oscillation(KeptDtypes):
    """How often the codes of one weight change against the direction of their last change.

    Attributes:
        frequency: a running mean of that event, an element.
        average: a running mean of the codes.
        frozen: which elements stay at a code, and `code`, for these that one.

    Codes are counted in the order of their values, which those of a floating format, its bits, are
    not in.
    """

    code: Tensor
    direction: Tensor
    frequency: Tensor
    average: Tensor
    frozen: Tensor

    def __init__(self, weight: Weight) -> None:
        super().__init__()
        self._weight = (weight,)  # in a tuple, so that it is no submodule
        active = weight.quantizer.active
        codes = self._codes() if active else torch.zeros_like(weight.latent, dtype=torch.int32)
        self.register_buffer("code", codes)
        self.register_buffer("direction", torch.zeros_like(codes, dtype=torch.int8))
        self.register_buffer("frequency", torch.zeros_like(codes, dtype=torch.float32))
        # NaN before the first code.
        self.register_buffer("average", codes.float() if active else codes / 0)
        self.register_buffer("frozen", torch.zeros_like(codes, dtype=torch.bool))

    @property
    def module(self) -> nn.Module:
        """What has the weight."""
        return self._weight[0].module

    def check(self, threshold: float | None) -> None:
        """Raise if codes are to be frozen whose scale would move with the values that they give."""
        (weight,) = self._weight
        scaling = weight.quantizer.scaling
        if threshold is not None and not isinstance(scaling, Fixed | Learned):
            raise ArgumentError(
                f"{scaling} is measured on each input; no code of {weight.path!r} would stay "
                f"frozen, as the scale moves with the values of those that are: use a Learned "
                f"scale, or threshold=None"
            )

    @torch.no_grad()
    def step(self, momentum: float, threshold: float | None) -> None:
        """Look at the codes, and freeze what oscillates more often than the threshold."""
        self.check(threshold)
        if not self._weight[0].quantizer.active:
            return
        codes = torch.where(self.frozen, self.code, self._codes())
        first = self.average.isnan()
        self.code.copy_(torch.where(first, codes, self.code))
        self.average.copy_(torch.where(first, codes, self.average))
        change = (codes - self.code).sign().to(torch.int8)
        against = (change * self.direction == -1).float()
        self.frequency.lerp_(against, momentum)
        self.average.lerp_(codes.float(), momentum)
        self.direction.copy_(torch.where(change != 0, change, self.direction))
        self.code.copy_(codes)
        if threshold is not None:
            now = ~self.frozen & (self.frequency > threshold)
            self.code.copy_(torch.where(now, self.average.round().to(self.code.dtype), self.code))
            self.frozen.logical_or_(now)
        if bool(whole(self.frozen.any())):
            self._hold()

    def _codes(self) -> Tensor:
        (weight,) = self._weight
        return weight.quantizer.grid.in_order(weight.quantizer.codes(weight.present))

    def _hold(self) -> None:
        (weight,) = self._weight
        quantizer, latent = weight.quantizer, weight.present
        codes = quantizer.grid.of_order(self.code)
        values = quantizer.decode(codes, quantizer.scale_of(latent))
        latent.copy_(torch.where(self.frozen, values.to(latent.dtype), latent))


def _check_momentum(name: str, value: Any) -> Any:
    momentum = check_number(name, value)
    if not 0 < momentum <= 1:
        raise ArgumentError(f"{name} must lie in (0, 1], got {value}")
    return momentum


def _check_threshold(name: str, value: Any) -> Any:
    return None if value is None else check_weight(name, value)


class Oscillations(Checked):
    """Tracks the oscillations of a prepared model's weights, and freezes them if asked to.

    An oscillation is a change of a weight's code against the direction of its last change. Its
    frequency is a running mean, `f <- f + momentum (o - f)`, o being 1 at a step with one and else
    0. A weight whose frequency exceeds the threshold is frozen: at the code nearest to the running
    mean of its codes, whatever its scale does, for good.

    Call `step()` after each step of the optimizer. The state dict has all it knows, so a training
    that goes on with it goes on the same. `st.audit.Monitor` shows the mean frequency and the share
    that is frozen. Weights whose grid's blocks have scales of their own (`MX`, `NVFP4`) are left
    out, as their codes move with their neighbours; so are those that others make, as those of
    weight norm do, or that a `transform` changes first, as no value can be set. What does not
    quantize, as its delay is not over or it is not `enabled`, is neither looked at nor frozen until
    it does.

    Args:
        model: prepared; scales of weights that have not started do.
        momentum: of both running means, in (0, 1].
        threshold: the frequency, at least 0, above which a weight is frozen; None for never. Both
            can be assigned at any time: the paper lowers it by a cosine, to 0.011 for 3 bits.

    Attributes:
        weights: an `Oscillation` a weight, by name, with `frequency`, `average` and `frozen`.

    Raises:
        ArgumentError: for other numbers, and if nothing is quantized; with a threshold, here or at
            the next step, if a scale is measured on the weight at each call, as `AbsMax` and, in
            training, `Observed` are.

    Cost: a pass over the weights and 14 bytes an element.

    Example:
        >>> net = st.nn.prepare(torch.nn.Sequential(torch.nn.Linear(4, 4)), [("0", "w4")])
        >>> oscillations = st.nn.Oscillations(net, threshold=0.02)
        >>> optimizer = torch.optim.SGD(st.nn.param_groups(net, lr=0.1))
        >>> for _ in range(10):
        ...     optimizer.zero_grad()
        ...     net(torch.randn(8, 4)).square().mean().backward()
        ...     optimizer.step()
        ...     oscillations.step()
        >>> oscillations.share(0.005).dtype
        torch.float32

    References:
        Nagel et al., "Overcoming oscillations in quantization-aware training", 2022, sections 2.2
        and 4.3.
    """

    checks: ClassVar[Checks] = {"momentum": _check_momentum, "threshold": _check_threshold}

    def __init__(
        self, model: nn.Module, *, momentum: float = 0.01, threshold: float | None = None
    ) -> None:
        super().__init__()
        self.momentum, self.threshold = momentum, threshold
        self.weights: dict[str, Oscillation] = {}
        for weight in _parameters(model):
            if not isinstance(weight.quantizer.grid, Blocks):
                found = Oscillation(weight)
                found.check(threshold)
                self.weights[weight.path] = found
                self.add_module(weight.path.replace(".", "/"), found)
                weight.quantizer.__dict__["oscillation"] = found
        if not self.weights:
            raise ArgumentError(
                "the model has no weight with codes of its own; first prepare it. One that is made "
                "by others is left out: of torch.nn.utils.prune, call prune.remove(layer, 'weight')"
            )

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        if not all(id(weight.module) in memo for weight in self.weights.values()):
            raise StraightThroughError(
                "a copy of Oscillations alone would watch a copy of the model that nothing trains; "
                "copy both, copy.deepcopy((model, oscillations)), or keep the state_dict()"
            )
        memo[id(self)] = copied = type(self).__new__(type(self))
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return copied

    def step(self) -> None:
        """Look at every weight, after a step of the optimizer."""
        for weight in self.weights.values():
            weight.step(self.momentum, self.threshold)

    def extra_repr(self) -> str:
        return f"momentum={self.momentum}, threshold={self.threshold}"

    def share(self, frequency: float) -> Tensor:
        """Return the share of all elements that oscillate more often than a frequency."""
        found = [whole(weight.frequency) > frequency for weight in self.weights.values()]
        return torch.cat([each.flatten() for each in found]).float().mean()


def dampening(model: nn.Module) -> Tensor:
    """Return a loss that draws weights to the values they are quantized to.

    The sum of `(q(w) - clip(w))^2` over all quantized weights, `q(w)` held and the clip that to the
    ends of the grid: what lies beyond is not drawn, nor is what does not quantize, as its delay is
    not over or it is not `enabled`, or what a `transform` changes first. A weight that others make,
    as those of weight norm do, draws these; one that a hook makes, as in `torch.nn.utils.prune`, is
    that of the last forward, so call this behind it. Add it, times a number that grows with
    training (the paper: a cosine from 0 to 0.1), to the loss.

    Args:
        model: prepared.

    Example:
        >>> scheme = st.nn.Scheme(st.grids.Int(4), st.scales.Fixed(1.0))
        >>> net = st.nn.prepare(torch.nn.Linear(2, 1), [("", st.nn.Config(scheme))])
        >>> _ = net.weight.data.copy_(torch.tensor([[0.75, 9.0]]))
        >>> loss = st.nn.dampening(net)
        >>> loss.backward()
        >>> loss.item(), net.weight.grad
        (0.0625, tensor([[-0.5000, -0.0000]]))

    References:
        Nagel et al., "Overcoming oscillations in quantization-aware training", 2022, section 4.2.
    """
    total: Tensor | None = None
    for weight in _weights(model):
        quantizer, latent = weight.quantizer, weight.latent
        if not quantizer.active:
            continue
        with torch.no_grad():
            values = quantizer.values(latent)
            # Beyond the ends the nearest value is an end, and the distance to it is not to shrink.
            beyond = _beyond(quantizer, latent)
        off = torch.where(beyond, 0, values - latent)
        part = off.to(compute_dtype(off.dtype)).square().sum()
        total = part if total is None else total + part
    return torch.zeros(()) if total is None else total


class CAGE(Checked):
    """Pulls weights to the grid after every step of an optimizer.

    `w <- w - lr l (w - q(w))` after the step, lr that of the weight's group. l is 0 for the first
    part of the steps and then grows linearly to the strength: decoupled, as weight decay is. What
    does not quantize, as its delay is not over or it is not `enabled`, is left alone, and so is a
    weight that others make, as those of weight norm do, or that a `transform` changes first.

    Args:
        optimizer: of the model's parameters.
        model: prepared.
        steps: how many steps there will be, at least 1.
        strength: l at the end, >= 0.
        start: the part of the steps before, in [0, 1).

    Attributes:
        position: how many steps were done; in the state dict.

    Raises:
        ArgumentError: for other numbers, and if the optimizer has no weight that is quantized.

    Example:
        >>> net = st.nn.prepare(torch.nn.Linear(4, 4), [("", "w4")])
        >>> optimizer = torch.optim.AdamW(st.nn.param_groups(net, lr=1e-3))
        >>> pull = st.nn.CAGE(optimizer, net, steps=1000)
        >>> pull.strength_now
        0.0

    References:
        "CAGE: curvature-aware gradient estimation for accurate quantization-aware training", 2025,
        the decoupled form.
    """

    position: Tensor
    checks: ClassVar[Checks] = {
        "steps": check_count,
        "strength": check_weight,
        "start": check_fraction,
    }

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        model: nn.Module,
        *,
        steps: int,
        strength: float = 10.0,
        start: float = 0.8,
    ) -> None:
        super().__init__()
        self.steps, self.strength, self.start = steps, strength, start
        if not hasattr(optimizer, "register_step_post_hook"):  # what wraps one may be of any class
            raise ArgumentError(f"optimizer must be a torch.optim.Optimizer, got {optimizer!r}")
        self._optimizer = optimizer
        self._weights = {id(weight.latent): weight for weight in _parameters(model)}
        parameters = (p for group in optimizer.param_groups for p in group["params"])
        if not any(id(parameter) in self._weights for parameter in parameters):
            raise ArgumentError(
                "the optimizer has no weight of the model that is quantized as it is; first "
                "prepare the model, and make the optimizer of its parameters"
            )
        self._handle: RemovableHandle | None = optimizer.register_step_post_hook(self._pull)
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None, "_works": self._handle is not None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Be at work in a copy too, on the optimizer and the weights that were copied with it."""
        works = state.pop("_works")
        super().__setstate__(state)
        self._weights = {id(weight.latent): weight for weight in self._weights.values()}
        if works:
            self._handle = self._optimizer.register_step_post_hook(self._pull)

    @property
    def strength_now(self) -> float:
        """The strength at the present position."""
        done = min(self.position.item() / self.steps, 1.0)
        return self.strength * max(0.0, (done - self.start) / (1 - self.start))

    def extra_repr(self) -> str:
        done = "nan" if self.position.is_meta else self.position.item()
        return f"strength={self.strength}, start={self.start}, position {done} of {self.steps}"

    def remove(self) -> None:
        """Take the hook off the optimizer."""
        if self._handle is not None:
            self._handle.remove()
        self._handle = None

    @torch.no_grad()
    def _pull(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self.position += 1
        strength = self.strength_now
        if strength == 0:
            return
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                weight = self._weights.get(id(parameter))
                if weight is not None and weight.quantizer.active:
                    off = parameter - weight.quantizer.values(parameter)
                    parameter.sub_(off, alpha=float(group["lr"]) * strength)


def _weights(model: nn.Module) -> Iterator[Weight]:
    """Yield the quantized weights, each of those that are shared once.

    Not those that are transformed first, whose values lie elsewhere than they do.
    """
    seen: dict[int, Tensor] = {}  # which keeps those that are computed, and their ids
    for weight in quantized_weights(model):
        if not weight.quantizer.transform and id(weight.latent) not in seen:
            seen[id(weight.latent)] = weight.latent
            yield weight


def _parameters(model: nn.Module) -> Iterator[Weight]:
    """Yield those of them that are parameters, which can be set."""
    for weight in _weights(model):
        # By what they are, since `torch.func.functional_call` puts tensors in their place.
        if any(weight.latent is each for each in weight.module.parameters()):
            yield weight


def _beyond(quantizer: Quantizer, x: Tensor) -> Tensor:
    """Return which elements lie beyond the least and the largest value of the grid.

    Where blocks have scales of their own, of what an element reaches in its block.
    """
    grid, zero, v = quantizer.grid, quantizer.zero_point, quantizer.in_steps(x)
    v = v if zero is None else v + zero.round()
    if isinstance(grid, Blocks):
        v, grid = grid.elements(v), grid.of
    return ((v < grid.low) | (v > grid.high)).reshape(x.shape)

"""Noise as a pure function of a seed and of positions, which `uniforms.py` makes of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn, Self, cast

import numpy as np
import torch
from torch import Tensor
from torch.compiler import is_compiling, is_exporting

from .errors import (
    ArgumentError,
    DtypeError,
    ShapeError,
    StraightThroughError,
    check_not_onnx,
)
from .internals import Operator, constant_in_graphs, tracing, transforms_active
from .library import library
from .mesh import agreed, on_mesh
from .uniforms import class_uniforms, element_uniforms, row_uniforms

DRAW, CONDITIONAL = 0, 1
"""Streams: the outcome in forward; the noise given the outcome in backward."""

WHOLE = (int, torch.SymInt)
"""Types of a whole number, the second that of one which compiled code leaves open."""


@dataclass(frozen=True, eq=False)
class Seed:
    """A seed, and where in the whole tensor the one at hand lies.

    A shard draws what the whole would have drawn there. Its elements (of operators on rows: its
    rows) lie in runs of `run`, each `stride` after the one before; a shard along the first
    dimension is one run.

    Args:
        value: an int, or a 0-d int64 tensor. It stays on its device and is not copied, which
            would be a launch: `seed = seed + 1` counts up where backward is still to come, and
            `seed += 1` makes torch raise there.
        offset: the flat position of the first row (or, for elementwise operators, of the first
            element) in the whole.
        run: how many elements (or rows) lie beside each other in the whole too; 0 if all do.
        stride: from the start of one run to that of the next, in the whole; where `run` is 0 it
            is not looked at. All three lie in [0, 2**62).

    Example:
        >>> logits = torch.zeros(6, 4)
        >>> whole = st.categorical(logits, seed=7)
        >>> shard = st.categorical(logits[4:], seed=st.Seed(7, offset=4))
        >>> torch.equal(whole[4:], shard)
        True
        >>> whole = st.bernoulli(torch.zeros(6, 10), seed=7)
        >>> columns = st.bernoulli(torch.zeros(6, 3), seed=st.Seed(7, offset=2, run=3, stride=10))
        >>> torch.equal(whole[:, 2:5], columns)
        True
    """

    value: int | Tensor
    offset: int = 0
    run: int = 0
    stride: int = 0

    def __post_init__(self) -> None:
        for name in ("value", "offset", "run", "stride"):
            if isinstance(number := getattr(self, name), np.integer):
                object.__setattr__(self, name, int(number))
        value = self.value
        if isinstance(value, Tensor):
            if value.dtype != torch.int64:
                raise DtypeError(f"a seed tensor must be int64, got {value.dtype}")
            if value.ndim:
                raise ShapeError(f"a seed tensor must be 0-d, got shape {tuple(value.shape)}")
        elif isinstance(value, bool) or not isinstance(value, WHOLE):
            raise ArgumentError(f"seed must be an int, an int64 tensor or st.Seed, got {value!r}")
        elif not -(2**63) <= value < 2**63:
            raise ArgumentError(f"seed must lie in [-2**63, 2**63), got {value}")
        for name in ("offset", "run", "stride"):
            number = getattr(self, name)
            whole = isinstance(number, WHOLE) and not isinstance(number, bool)
            # A graph would be bound to sizes below that.
            beyond = whole and not is_compiling() and number >= 2**62
            if not whole or number < 0 or beyond:
                raise ArgumentError(f"{name} must be an int in [0, 2**62), got {number!r}")
        if self.stride < self.run:
            raise ArgumentError(
                f"runs overlap: stride must be at least run, got run={self.run} and "
                f"stride={self.stride}"
            )

    @property
    def place(self) -> Place:
        """Where the tensor lies in the whole."""
        return self.offset, self.run, self.stride

    def tensor(self, device: torch.device) -> Tensor:
        """Return the value as a 0-d int64 tensor on `device`."""
        value = self.value
        if isinstance(value, Tensor):
            if value.device == device:
                return value
            if not value.is_cpu or tracing() or transforms_active():
                return value.to(device)
            value = int(value)  # which is there, while a copy to the device would be waited for
        return torch.full((), value, dtype=torch.int64, device=device)


Place = tuple[int, int, int]
"""Offset, run and stride of a `Seed`."""


def make_seed(
    seed: int | Tensor | Seed | None, generator: torch.Generator | None, x: Tensor
) -> tuple[Tensor, Place]:
    """Return the seed on the device of `x` that a random function's arguments ask for."""
    if seed is not None:
        if generator is not None:
            raise ArgumentError("seed= and generator= exclude each other; pass one of them")
        given = seed if isinstance(seed, Seed) else Seed(seed)
        return given.tensor(x.device), given.place
    if generator is not None and not isinstance(generator, torch.Generator):
        raise ArgumentError(
            f"generator must be a torch.Generator, got {generator!r}; pass an int as seed="
        )
    if hasattr(x, "device_mesh") and on_mesh(x):
        value, place = make_seed(None, generator, x.to_local().detach())
        return agreed(value, x), place
    if is_compiling():
        if generator is not None:
            raise ArgumentError(
                "a graph can't draw from a generator; pass seed=, drawn from it outside of what is "
                "compiled or exported: torch.randint(2**63 - 1, (), generator=generator)"
            )
        if is_exporting():  # AOTInductor can't pass a list of sizes on that is empty
            return _drawn_seed(_distinct(x.device), (1,)).reshape(()), (0, 0, 0)
        return _drawn_seed(_distinct(x.device), ()), (0, 0, 0)
    return _new_seed((), generator=generator, device=x.device), (0, 0, 0)


_new_seed = functools.partial(torch.randint, 2**63 - 1)


def _distinct(device: torch.device) -> Tensor:
    """Return an empty tensor that is no other call's, and of whose kind `vmap` has as many as ours.

    Of equal calls the compiler keeps one, and it does not know that ours are random. Of torch's own
    it knows that, and that no two of `torch.empty` are equal; `randperm` draws nothing for 0.
    """
    if _inside_transform():
        return torch.randperm(0, device=device)
    return torch.empty(0, device=device)


@constant_in_graphs
def _inside_transform() -> bool:
    return transforms_active()


# Inductor would draw torch.randint from a generator of its own; behind an operator of ours,
# compiled code takes the same seed from torch's default generator as eager code does.
library.define(
    "fresh_seed(Tensor like, int[] shape) -> Tensor", tags=torch.Tag.nondeterministic_seeded
)
_drawn_seed: Operator = torch.ops.straightthrough.fresh_seed.default


def _fresh_seed(like: Tensor, shape: Sequence[int]) -> Tensor:
    return _new_seed([*shape], device=like.device)


def _fresh_seeds(
    info: Any, dims: tuple[Any, ...], like: Tensor, shape: Sequence[int]
) -> tuple[Tensor, int | None]:
    """Draw under `vmap`, as torch's own random functions do there."""
    if info.randomness == "error":
        raise RuntimeError(
            "vmap: a seed is drawn inside; pass seed=, or randomness='same' or 'different' to vmap"
        )
    if info.randomness == "same":
        return _drawn_seed(like, shape), None
    return _drawn_seed(like, [info.batch_size, *shape]), 0


def _fake_seed(like: Tensor, shape: Sequence[int]) -> Tensor:
    check_not_onnx("a draw without a seed", "pass seed=, or export the module in eval()")
    return like.new_empty(shape, dtype=torch.int64)


library.impl("fresh_seed", _fresh_seed, "CompositeExplicitAutograd")
torch.library.register_fake("straightthrough::fresh_seed", _fake_seed, lib=library)
torch.library.register_vmap("straightthrough::fresh_seed", _fresh_seeds, lib=library)


class Noise(NamedTuple):
    """Where an operator's noise comes from: a seed, and the map from its positions to the whole's.

    Attributes:
        seed: 0-d int64, on the device of the noise.
        offset, run, stride: as in `Seed`.
        start: the local position that is asked for first.
    """

    seed: Tensor
    offset: int = 0
    run: int = 0
    stride: int = 0
    start: int = 0

    def after(self, count: int) -> Noise:
        """Return the noise without its first `count` rows, or elements."""
        if not self.run:
            return self._replace(offset=self.offset + count)
        return self._replace(start=self.start + count)

    @property
    def place(self) -> tuple[int, int, int, int]:
        """All but the seed."""
        return self.offset, self.run, self.stride, self.start

    def rows(self, count: int) -> Tensor:
        """Return one 53-bit uniform a row, `(count,)`, as its odd numerator over 2^53 in int64."""
        return 2 * self.bits(count) + 1

    def bits(self, count: int) -> Tensor:
        """Return of these numerators all bits but the last, which is set in each of them."""
        return row_uniforms(self.seed, self.place, count)

    def classes(
        self,
        rows: int,
        classes: int,
        dtype: torch.dtype,
        sample: int = 0,
        stream: int = CONDITIONAL,
    ) -> Tensor:
        """Return one uniform a row and class, `(rows, classes)`, all in (0, 1)."""
        return class_uniforms(self.seed, self.place, rows, classes, dtype, stream + 256 * sample)

    def elements(
        self, count: int, dtype: torch.dtype, stream: int = DRAW, sample: int = 0
    ) -> Tensor:
        """Return one uniform an element, `(count,)`, all in (0, 1)."""
        return element_uniforms(self.seed, self.place, count, dtype, stream + 256 * sample)


class _Noiseless:
    def after(self, count: int) -> Self:
        return self

    def __getattr__(self, name: str) -> NoReturn:
        raise StraightThroughError(
            "a rule asks for noise and does not say that it draws any: write draws_noise = True in "
            "its class"
        )


NOISELESS = cast(Noise, _Noiseless())
"""What a rule gets that does not say that it draws noise; asking it for some raises."""


def exponential(uniform: Tensor) -> Tensor:
    """Map uniforms to Exp(1)."""
    return -torch.log1p(-uniform)


def gumbel(uniform: Tensor) -> Tensor:
    """Map uniforms to the standard Gumbel law."""
    return -exponential(uniform).log()


def logistic(uniform: Tensor) -> Tensor:
    """Map uniforms to the standard logistic law, the difference of two Gumbels.

    It decreases in the uniform, so `logit + noise > 0` is the event `uniform < sigmoid(logit)`.
    """
    return torch.log1p(-uniform) - uniform.log()


BLOCK = {"cpu": 2**19}
"""Elements that are worked on at once, by device: the integers of Philox then stay in the cache."""

ELSEWHERE = 2**26
"""On the others, whose memory has to hold some integers an element."""


def rows_at_once(device: torch.device, width: int) -> int:
    """Return how many rows of so many elements are worked on at a time, 1 or more."""
    return max(1, BLOCK.get(device.type, ELSEWHERE) // max(1, width))


def in_blocks(
    function: Callable[..., Tensor], *tensors: Tensor, width: int | None = None
) -> Tensor:
    """Apply `function(first row, *blocks)` to blocks of rows and join the results.

    All tensors have the same first dimension; `width` elements are worked on a row, by default
    those of the first tensor. Where no graph is recorded there is never more than the result and
    one block. Compiled code takes one block, and is fused.
    """
    rows = tensors[0].shape[0]
    width = width or max(1, tensors[0].numel() // max(rows, 1))
    step = rows_at_once(tensors[0].device, width)
    if tracing() or rows <= step:
        return function(0, *tensors)
    parts = zip(*(tensor.split(step) for tensor in tensors), strict=True)
    if torch.is_grad_enabled() or transforms_active():
        return torch.cat([function(i * step, *part) for i, part in enumerate(parts)])
    block = function(0, *next(parts))
    whole = block.new_empty(rows, *block.shape[1:])
    whole[:step] = block
    del block
    for i, part in enumerate(parts, 1):
        whole[i * step : (i + 1) * step] = function(i * step, *part)
    return whole

"""Noise as a pure function of (seed, position): Philox4x32-10 in torch integer arithmetic.

A counter of four 32-bit words names a block of four random words; the seed's two halves are the
key. What the counter means is fixed here, for every implementation of every operator:

    words 0, 1   the position (of the row, or of a group of elements), low and high half
    word 2       the group of classes within the row; for elements, which half of their words
    word 3       the stream (what the noise is for), plus 256 times the number of the sample

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.compiler import is_compiling

from .errors import ArgumentError, DtypeError, ShapeError, check_not_onnx
from .internals import tracing, transforms_active
from .library import library
from .mesh import agreed, local

MULTIPLIER_0, MULTIPLIER_1 = 0xD2511F53, 0xCD9E8D57
WEYL_0, WEYL_1 = 0x9E3779B9, 0xBB67AE85
MASK, HALF = 0xFFFFFFFF, 0xFFFF

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
        value: an int, or a 0-d int64 tensor (it stays on its device).
        offset: the flat position of the first row (or, for elementwise operators, of the first
            element) in the whole.
        run: how many elements (or rows) lie beside each other in the whole too; 0 if all do.
        stride: from the start of one run to that of the next, in the whole.

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
            if isinstance(number, bool) or not isinstance(number, WHOLE) or number < 0:
                raise ArgumentError(f"{name} must be an int of at least 0, got {number!r}")
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
        if isinstance(self.value, Tensor):
            return self.value if self.value.device == device else self.value.to(device)
        return torch.full((), self.value, dtype=torch.int64, device=device)


Place = tuple[int, int, int]
"""Offset, run and stride of a `Seed`."""

START: Place = (0, 0, 0)


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
    if is_compiling():
        return agreed(torch.ops.straightthrough.fresh_seed(local(x.detach())), x), START
    return agreed(_new_seed((), generator=generator, device=x.device), x), START


_new_seed = functools.partial(torch.randint, 2**63 - 1)


# Inductor would draw torch.randint from a generator of its own; behind an operator of ours,
# compiled code takes the same seed from torch's default generator as eager code does.
library.define(
    "fresh_seed(Tensor like, int[] shape=[]) -> Tensor", tags=torch.Tag.nondeterministic_seeded
)


def _fresh_seed(like: Tensor, shape: Sequence[int] = ()) -> Tensor:
    return _new_seed([*shape], device=like.device)


def _fresh_seeds(
    info: Any, dims: tuple[Any, ...], like: Tensor, shape: Sequence[int] = ()
) -> tuple[Tensor, int | None]:
    """Draw under `vmap`, as torch's own random functions do there."""
    if info.randomness == "error":
        raise RuntimeError(
            "vmap: a seed is drawn inside; pass seed=, or randomness='same' or 'different' to vmap"
        )
    if info.randomness == "same":
        return torch.ops.straightthrough.fresh_seed(like, shape), None
    return torch.ops.straightthrough.fresh_seed(like, [info.batch_size, *shape]), 0


def _fake_seed(like: Tensor, shape: Sequence[int] = ()) -> Tensor:
    check_not_onnx("a draw without a seed", "pass seed=, or export the module in eval()")
    return like.new_empty(shape, dtype=torch.int64)


library.impl("fresh_seed", _fresh_seed, "CompositeExplicitAutograd")
torch.library.register_fake("straightthrough::fresh_seed", _fake_seed, lib=library)
torch.library.register_vmap("straightthrough::fresh_seed", _fresh_seeds, lib=library)


def philox(counter: tuple[Tensor, ...], seed: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the four 32-bit words (in int64) of each block that `counter` names.

    Args:
        counter: four int64 tensors of 32-bit words that broadcast together.
        seed: int64; its low half is the first word of the key, its high half the second.
    """
    # Whole 64-bit products are carried along; a word is masked only where it is used.
    c0, c1, c2, c3 = counter
    key_0, key_1 = seed & MASK, (seed >> 32) & MASK
    for _ in range(10):
        product_0, product_1 = c0 * MULTIPLIER_0, c2 * MULTIPLIER_1
        c0 = ((product_1 >> 32) ^ c1 ^ key_0).bitwise_and_(MASK)
        c2 = ((product_0 >> 32) ^ c3 ^ key_1).bitwise_and_(MASK)
        c1, c3 = product_1, product_0
        key_0, key_1 = (key_0 + WEYL_0) & MASK, (key_1 + WEYL_1) & MASK
    return c0, c1 & MASK, c2, c3 & MASK


def _blocks(
    seed: Tensor, position: Tensor, group: Tensor, stream: int, sample: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    tag = torch.full((), stream + 256 * sample, dtype=torch.int64, device=seed.device)
    return philox((position & MASK, position >> 32, group, tag), seed)


def _unit53(high: Tensor, low: Tensor) -> Tensor:
    """Map 64 random bits to the odd multiples of 2^-53 in (0, 1): never 0, never 1."""
    bits = ((high << 20) ^ (low >> 12)) << 1 | 1
    return bits.to(torch.float64) * 2.0**-53


def _unit(words: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
    """Turn words into uniforms in (0, 1), side by side: a word each in float32, two in float64."""
    if dtype == torch.float64:
        pairs = [_unit53(words[0], words[1]), _unit53(words[2], words[3])]
        return torch.stack(pairs, -1)
    unit = torch.stack([word.to(torch.float32) for word in words], -1)
    return ((unit + 0.5) * 2.0**-32).clamp(max=1 - 2.0**-24)


def _width(dtype: torch.dtype) -> int:
    return 2 if dtype == torch.float64 else 4


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

    def positions(self, count: int) -> Tensor:
        """Return the places in the whole of the first `count` rows, or elements."""
        device = self.seed.device
        if not self.run:
            return torch.arange(self.offset, self.offset + count, device=device)
        local = torch.arange(self.start, self.start + count, device=device)
        return self.offset + local // self.run * self.stride + local % self.run

    def rows(self, count: int) -> Tensor:
        """Return one 53-bit uniform a row, float64 `(count,)`, all in (0, 1)."""
        position = self.positions(count)
        words = _blocks(self.seed, position, torch.zeros_like(position), DRAW, 0)
        return _unit53(words[0], words[1])

    def classes(
        self,
        rows: int,
        classes: int,
        dtype: torch.dtype,
        sample: int = 0,
        stream: int = CONDITIONAL,
    ) -> Tensor:
        """Return one uniform a row and class, `(rows, classes)`, all in (0, 1)."""
        position = self.positions(rows).unsqueeze(-1)
        width = _width(dtype)
        # Not -(-classes // width): ONNX rounds the quotient of a size left open towards 0.
        groups = (classes + width - 1) // width
        group = torch.arange(groups, device=self.seed.device)
        unit = _unit(_blocks(self.seed, position, group, stream, sample), dtype)
        return unit.flatten(-2)[..., :classes]

    def elements(
        self, count: int, dtype: torch.dtype, stream: int = DRAW, sample: int = 0
    ) -> Tensor:
        """Return one uniform an element, `(count,)`, all in (0, 1).

        In float64 a block holds two. In float32 two blocks hold eight: one the upper halves of
        their words, the other the lower halves. The first alone decides most binary draws.
        """
        width = 2 if dtype == torch.float64 else 8
        if self.run:
            position = self.positions(count)
            every = self._groups(position // width, dtype, stream, sample)
            return every.gather(-1, (position % width).unsqueeze(-1)).squeeze(-1)
        first, last = self.offset // width, (self.offset + count + width - 1) // width
        group = torch.arange(first, last, device=self.seed.device)
        every = self._groups(group, dtype, stream, sample).flatten()
        skip = self.offset - first * width
        if isinstance(count, int):
            return every[skip:][:count]
        # A size left open, of which no slice is known to be short enough.
        return every.index_select(0, torch.arange(skip, skip + count, device=every.device))

    def _groups(self, group: Tensor, dtype: torch.dtype, stream: int, sample: int) -> Tensor:
        """Return the uniforms of groups of elements, `(groups, 2 or 8)`."""
        upper, lower = torch.zeros_like(group), torch.ones_like(group)
        words: tuple[Tensor, ...] = _blocks(self.seed, group, upper, stream, sample)
        if dtype != torch.float64:
            others = _blocks(self.seed, group, lower, stream, sample)
            pairs = (_joined_halves(*pair) for pair in zip(words, others, strict=True))
            words = tuple(word for pair in pairs for word in pair)
        return _unit(words, dtype)


def _joined_halves(upper: Tensor, lower: Tensor) -> tuple[Tensor, Tensor]:
    """Return two words, the first of both lower halves, the second of both upper halves."""
    return (upper & HALF) << 16 | lower & HALF, upper & ~HALF | lower >> 16


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


BLOCK = 2**19
"""Elements that are worked on at once: the integers of Philox then stay in the cache."""


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
    step = max(1, BLOCK // width)
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

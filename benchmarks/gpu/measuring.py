"""How long calls take on the GPU that there is, beside the same in plain torch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from triton.testing import do_bench

from straightthrough.core.registry import OPERATORS

from ..cases import BOTH, Call, Inputs, Way, inputs_of
from ..plain import PLAIN
from ..shapes import written
from .compiling import size_of
from .roofline import CALLS, CARDS, DTYPES, arguments

SHAPES = ((4096, 1000), (65536, 16), (65536, 64), (256, 131072), (32, 10))
LARGE = 2**22
"""Elements from which on a call is bound by the card's memory, not by its host."""

OURS, PLAIN_TORCH = "ours", "torch"
OURS_COMPILED, PLAIN_COMPILED = "ours, compiled", "torch, compiled"
WAYS = (OURS, PLAIN_TORCH, OURS_COMPILED, PLAIN_COMPILED)

TARGETS = {
    "categorical, straight_through": 8.0,
    "categorical, reinmax": 8.0,
    "categorical, gumbel": 4.0,
    "bernoulli, straight_through": 3.0,
    "bernoulli, reinmax": 3.0,
    "bernoulli, gumbel": 3.0,
    "hard_concrete": 3.0,
}
"""How many times faster than plain torch a call should be where its input is large."""

COPIED = 2**26
"""Elements of the copy that the bandwidth of a card is told by: more than its caches hold."""

CALLS_IN_A_ROW = 50


@dataclass(frozen=True)
class Measurement:
    """What forward and backward of a call take.

    Attributes:
        seconds: by way; None where one failed.
        share: of the bandwidth of a copy, if ours moved the fewest bytes that it can.
    """

    call: str
    shape: tuple[int, int]
    dtype: str
    card: str
    seconds: dict[str, float | None]
    share: float | None

    @property
    def ratio(self) -> float | None:
        """The time of plain torch over ours."""
        return self._over(PLAIN_TORCH, OURS)

    @property
    def target(self) -> float:
        """What the ratio should be at least."""
        large = self.shape[0] * self.shape[1] >= LARGE
        return TARGETS.get(self.call, 1.0) if large else 1.0

    @property
    def compiled(self) -> float | None:
        """Our eager time over our compiled one."""
        return self._over(OURS, OURS_COMPILED)

    def _over(self, first: str, second: str) -> float | None:
        above, below = self.seconds[first], self.seconds[second]
        return None if above is None or below is None else above / below


def card_of(device: str) -> str:
    """Return the name of a card, as in `CARDS` if it is one of them."""
    name = torch.cuda.get_device_name(device)
    return next((known for known in CARDS if known in name), name)


def measure(
    call: str, shape: tuple[int, int], dtype: str, device: str, say: Callable[[str], None]
) -> Measurement:
    """Time a call in every way; what fails is said, and left out."""
    seconds: dict[str, float | None] = dict.fromkeys(WAYS)
    torch.compiler.reset()
    inputs = inputs_on(device, call, shape, dtype)
    for way, function in ways(call).items():
        try:
            seconds[way] = _seconds(Way(function).call(BOTH, inputs))
        except Exception as error:
            first = next(iter(str(error).splitlines()), type(error).__name__)
            say(f"{call} at {written(shape)}, {way}, is left out, as it fails: {first}")
    ours = seconds[OURS]
    copied = 2 * COPIED * DTYPES["float32"].itemsize / _copy(device)
    share = None if ours is None else least_bytes(call, shape, dtype) / ours / copied
    return Measurement(call, shape, dtype, card_of(device), seconds, share)


def inputs_on(device: str, call: str, shape: tuple[int, int], dtype: str) -> Inputs:
    """Return the inputs of a call on a device."""
    record = OPERATORS[call.partition(", ")[0]]
    return tuple(x.to(device, DTYPES[dtype]) for x in inputs_of(record, shape))


def ways(call: str) -> dict[str, Callable[..., Tensor]]:
    """Return ours and plain torch, each eager and compiled."""
    operator, _, rule = call.partition(", ")
    record = OPERATORS[operator]
    ruled: dict[str, Any] = {str(record.rule): rule} if rule else {}
    ours = partial(record.call, **record.arguments, **ruled)
    plain = partial(PLAIN[operator], **record.arguments)
    return {
        OURS: ours,
        PLAIN_TORCH: plain,
        OURS_COMPILED: torch.compile(ours, dynamic=False),
        PLAIN_COMPILED: torch.compile(plain, dynamic=False),
    }


def least_bytes(call: str, shape: tuple[int, int], dtype: str) -> int:
    """Return the bytes of what the kernels of a call are given and return, each once."""
    total = 0
    for kernel in CALLS[call]:
        given = arguments(kernel, shape, DTYPES[dtype])
        made = getattr(torch.ops.straightthrough, kernel)(*given)
        total += size_of((*given, *(made if isinstance(made, tuple) else (made,))))
    return total


def _seconds(work: Call) -> float:
    """Return what a call takes: the GPU with cold caches or, if longer, one of a row of calls."""
    cold = 1e-3 * float(do_bench(work, return_mode="median"))
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(CALLS_IN_A_ROW):
        work()
    torch.cuda.synchronize()
    return max(cold, (time.perf_counter() - start) / CALLS_IN_A_ROW)


def _copy(device: str) -> float:
    x = torch.empty(COPIED, device=device)
    y = torch.empty_like(x)

    def copy() -> Tensor:
        return y.copy_(x)

    return _seconds(copy)

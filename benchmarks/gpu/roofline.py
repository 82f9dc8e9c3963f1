"""How long a GPU takes at least: for the bytes, for the instructions, for the launches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from triton.backends.compiler import GPUTarget

from straightthrough.core.registry import OPERATORS

from ..plain import PLAIN
from .compiling import Counted, Launch, launches, size_of

REACHED_BANDWIDTH, REACHED_ISSUE = 0.85, 0.7
"""Shares of what a card says of itself that good kernels are known to reach."""

LAUNCH = 5e-6
"""Seconds that a launch costs."""


@dataclass(frozen=True)
class Card:
    """A GPU as its maker describes it.

    Attributes:
        units, clock: streaming multiprocessors or compute units, and their Hz.
        bandwidth: of its memory, bytes a second.
        lanes: results a clock and unit, by pipe; `all` is what is issued altogether.
    """

    target: GPUTarget
    units: int
    clock: float
    bandwidth: float
    lanes: dict[str, int] = field(hash=False)

    def seconds(self, launch: Launch) -> float:
        """Return what a launch takes: the longest of memory and of every pipe, and the launch."""
        lanes = {"all": sum(launch.instructions.values()), **launch.instructions}
        rate = self.units * self.clock * REACHED_ISSUE
        pipes = (count * launch.lanes / (self.lanes[pipe] * rate) for pipe, count in lanes.items())
        return max(self.memory(launch.bytes), *pipes) + LAUNCH

    def memory(self, size: int) -> float:
        """Return the seconds that bytes take."""
        return size / (self.bandwidth * REACHED_BANDWIDTH)


def _lanes(fp64: int, float_: int, special: int = 16, memory: int = 32) -> dict[str, int]:
    pipes = {"fp64": fp64, "special": special, "memory": memory, "float": float_, "integer": 64}
    return {"all": 128, **pipes}


CARDS = {
    "A100": Card(GPUTarget("cuda", 80, 32), 108, 1.41e9, 2.04e12, _lanes(32, 64)),
    "H100": Card(GPUTarget("cuda", 90, 32), 132, 1.755e9, 3.35e12, _lanes(64, 128)),
    "RTX 4090": Card(GPUTarget("cuda", 89, 32), 128, 2.52e9, 1.008e12, _lanes(2, 128)),
    "MI300X": Card(GPUTarget("hip", "gfx942", 64), 304, 2.1e9, 5.3e12, _lanes(64, 64, 16, 64)),
}

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

CALLS: dict[str, tuple[str, ...]] = {
    "categorical, straight_through": ("draw", "straight_through"),
    "categorical, darn": ("draw", "darn"),
    "categorical, reinmax": ("draw", "reinmax"),
    "categorical, gumbel": ("draw", "gumbel_st"),
    "categorical, gapped": ("draw", "gapped"),
    "categorical, mve_integer": ("draw", "mve_integer"),
    "argmax": ("argmax_hot", "softmax_backward_of_logits"),
    "gumbel_softmax": ("gumbel_softmax", "softmax_backward_of_value"),
    "bernoulli, straight_through": ("binary_draw", "binary_straight_through"),
    "bernoulli, reinmax": ("binary_draw", "binary_reinmax"),
    "bernoulli, gumbel": ("binary_draw", "binary_gumbel_st"),
    "hard_concrete": ("concrete", "concrete_backward"),
    "geometric": ("geometric", "fini"),
    "fake_quantize": ("integers", "integers_backward"),
    "stochastic_quantize": ("integers_drawn", "integers_drawn_backward"),
    "stochastic_round": ("stochastic_round",),
    "sign": ("sign_and_window", "window_gradient"),
    "heaviside": ("heaviside", "Sigmoid"),
}
"""Forward and backward of an operator with a rule, as kernels; its snippet has its first name."""

VALUES: dict[str, Any] = {"float": 1.0, "int": 1, "offset": 0, "bool": False, "order": 2}
"""What kernels are given for arguments that are no tensors, by type or by name."""


def arguments(kernel: str, shape: tuple[int, int], dtype: torch.dtype) -> list[Any]:
    """Return arguments without data for a kernel, out of its schema."""

    def made(argument: Any) -> Any:
        if str(argument.type) != "Tensor":
            return VALUES.get(argument.name, VALUES.get(str(argument.type)))
        sizes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
            "seed": ((), torch.int64),
            "scales": ((), torch.float32),
            "index": (shape[:1], torch.int64),
            "outcome": (((shape[0] * shape[1] + 7) // 8,), torch.uint8),
            "bits": (((shape[0] * shape[1] + 7) // 8,), torch.uint8),
        }
        size, kind = sizes.get(argument.name, (shape, dtype))
        return torch.empty(size, dtype=kind, device="meta")

    return [made(argument) for argument in schema(kernel).arguments]


def schema(kernel: str) -> Any:
    """Return the schema of a kernel's operator."""
    return getattr(torch.ops.straightthrough, kernel).default._schema


@dataclass(frozen=True)
class Prediction:
    """What a call launches on a card and how long it takes, beside its snippet in plain torch."""

    call: str
    shape: tuple[int, int]
    dtype: str
    card: str
    launches: list[Launch]
    least_bytes: int
    seconds: float
    plain_launches: int
    plain_bytes: int
    plain_seconds: float


def predict(call: str, shape: tuple[int, int], dtype: str, name: str) -> Prediction:
    """Compile the kernels of a call and predict its time; a draw's seed is one launch more."""
    kind, card = DTYPES[dtype], CARDS[name]
    found: list[Launch] = []
    seconds, least = 0.0, 0
    for kernel in CALLS[call]:
        given = arguments(kernel, shape, kind)
        launched, results = launches(kernel, given, card.target)
        found += launched
        least += size_of((*given, *results))
        draws = any(argument.name == "seed" for argument in schema(kernel).arguments)
        seconds += sum(map(card.seconds, launched)) + (draws and LAUNCH)
    operator = call.partition(",")[0]
    record = OPERATORS[operator]
    shapes = [shape, *[()] * (len(record.inputs) - 1)]
    plain = snippet(partial(PLAIN[operator], **record.arguments), kind, *shapes)
    torch_seconds = sum(card.memory(size) + LAUNCH for size in plain)
    ours = call, shape, dtype, name, found, least, seconds
    return Prediction(*ours, len(plain), sum(plain), torch_seconds)


def snippet(plain: Callable[..., Tensor], dtype: torch.dtype, *shapes: Sequence[int]) -> list[int]:
    """Return the bytes of every launch of a snippet's forward and backward, of inputs by shape."""

    def made(shape: Sequence[int]) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta", requires_grad=True)

    inputs = [*map(made, shapes)]
    with Counted() as counted:
        y = plain(*inputs)
        y.backward(torch.empty_like(y))
    return counted.bytes

"""What every study records besides its numbers, and how it becomes JSON and is read again."""

from __future__ import annotations

import base64
import dataclasses
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
import torch
from torch import Tensor

import straightthrough as st


def environment() -> dict[str, str | int]:
    """Return the machine and the versions that a number was made with."""
    return {
        "straightthrough": st.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _processor(),
        "processors": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def _processor() -> str:
    """Return the processor's name; Linux keeps it in a file only."""
    try:
        with open("/proc/cpuinfo") as lines:
            names = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


@dataclass
class Header:
    """Which study a result is of, and how it came about."""

    study: str
    command: str = field(default_factory=lambda: " ".join(["straightthrough", *sys.argv[1:]]))
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    environment: dict[str, str | int] = field(default_factory=environment)
    seconds: float = 0.0
    complete: bool = False


@contextmanager
def recording(header: Header) -> Iterator[Callable[[], None]]:
    """Time what is inside; Ctrl-C ends it and leaves the header marked as incomplete.

    It gives what brings the header's time up to date.
    """
    start = time.perf_counter() - header.seconds

    def tick() -> None:
        header.seconds = time.perf_counter() - start

    try:
        yield tick
        header.complete = True
    except KeyboardInterrupt:
        pass
    finally:
        tick()


@dataclass(frozen=True)
class Pictures:
    """Grey images as JSON: bytes in base64, 255 = white."""

    shape: tuple[int, ...]
    data: str


def pictures(images: Tensor) -> Pictures:
    """Pack images with values in [0, 1], `(N, height, width)`; what lies beyond is at the bound."""
    grey = (images.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    return Pictures(tuple(grey.shape), base64.b64encode(grey.tobytes()).decode())


def to_json(result: Any) -> dict[str, Any]:
    """Return a result as plain JSON values; numbers that are not finite become None."""
    return dict(_plain(dataclasses.asdict(result)))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def from_json(kind: Any, value: Any) -> Any:
    """Return what `to_json` was given, of type `kind`; where a number was not finite it is NaN.

    Raises:
        ValueError, TypeError, AttributeError: if the JSON is not of that type.
    """
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        if value.keys() != hints.keys():
            raise ValueError(f"{kind} has {', '.join(hints)}, got {', '.join(value)}")
        return kind(**{name: from_json(hints[name], value[name]) for name in hints})
    if value is None:
        return math.nan if kind is float else None
    origin, parts = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return from_json(parts[0], value)
    if origin is dict:
        return {key: from_json(parts[1], item) for key, item in value.items()}
    if origin is tuple:
        return tuple(value)
    if origin in (list, Sequence):
        return [from_json(parts[0], item) for item in value]
    return value

"""Where a monitor's observations go while it runs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

from ...core.errors import StraightThroughError


@dataclass(frozen=True)
class Observation:
    """One number that a monitor saw.

    Attributes:
        step: the calls of `Monitor.step` before it.
        operator: the path of the operator's module in the model.
        quantity: what was observed.
        value: finite, the mean over the operator's calls in that step.
    """

    step: int
    operator: str
    quantity: str
    value: float


Sink = Callable[[Sequence[Observation]], None]
"""Takes the observations of one step, at every observed step."""


class JsonLines:
    """A sink that appends an object a line, with the fields of `Observation`, to a file.

    Args:
        path: of the file.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "run.jsonl")
        >>> st.audit.JsonLines(path)([st.audit.Observation(0, "sign", "flip_rate", 0.25)])
        >>> path.read_text().strip()
        '{"step": 0, "operator": "sign", "quantity": "flip_rate", "value": 0.25}'
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self._path = path

    def __call__(self, observations: Sequence[Observation]) -> None:
        with open(self._path, "a", encoding="utf-8") as file:
            file.writelines(json.dumps(dataclasses.asdict(seen)) + "\n" for seen in observations)


class TensorBoard:
    """A sink that writes scalars `operator/quantity` for TensorBoard.

    Args:
        folder: of the run, as `torch.utils.tensorboard.SummaryWriter` takes it.

    Raises:
        StraightThroughError: if tensorboard is not installed.
    """

    def __init__(self, folder: str | PathLike[str]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise StraightThroughError(
                "st.audit.TensorBoard needs tensorboard; pip install 'straightthrough[tensorboard]'"
            ) from None
        self._writer: Any = SummaryWriter(folder)

    def __call__(self, observations: Sequence[Observation]) -> None:
        for seen in observations:
            tag = f"{seen.operator}/{seen.quantity}"
            self._writer.add_scalar(tag, seen.value, global_step=seen.step)
        self._writer.flush()

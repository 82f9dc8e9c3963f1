"""What the callbacks of all frameworks do: schedules move and a monitor watches, step by step."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ..audit import Monitor
from ..audit.monitor.sinks import Sink
from ..nn import step_schedules


class Steps:
    """Moves the schedules of a model once an optimizer step, and ends the step of a `Monitor`.

    Args:
        every: observe each so many steps; None for no monitor.
        elements: as in `Monitor`.
        sinks: as in `Monitor`.

    Attributes:
        monitor: that of the last training, on the first process; None where there is none.
    """

    def __init__(
        self, *, every: int | None = 50, elements: int = 2**14, sinks: Sequence[Sink] = ()
    ) -> None:
        super().__init__()
        self.monitor: Monitor | None = None
        self._every, self._elements, self._sinks = every, elements, sinks

    def begin(self, model: nn.Module, step: int, first: bool) -> None:
        """Put a monitor on the model, if this is the first process, in the place of another."""
        self.end()
        if self._every is not None and first:
            self.monitor = Monitor(
                model, every=self._every, elements=self._elements, sinks=self._sinks, start=step
            )

    def step(self, model: nn.Module) -> None:
        """End an optimizer step."""
        if self.monitor is not None:
            self.monitor.step()
        step_schedules(model)

    def end(self) -> None:
        """Take the monitor off; its observations stay."""
        if self.monitor is not None:
            self.monitor.remove()

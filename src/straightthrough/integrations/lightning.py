"""A callback for Lightning's Trainer, `straightthrough.integrations.lightning.Operators`."""

from __future__ import annotations

from typing import Any

from .steps import Steps

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ModuleNotFoundError as error:
    raise ImportError(
        "straightthrough.integrations.lightning needs Lightning; "
        "pip install 'straightthrough[lightning]'"
    ) from error

__all__ = ["Operators"]


class Operators(Steps, Callback):
    """Schedules that move with training, and `st.audit.Monitor`, as a callback of a `Trainer`.

    Each optimizer step (not each batch, where gradients are accumulated) moves every schedule of
    the module by one; a checkpoint holds their positions, and a resumed fit goes on from them. On
    the first process a monitor watches the operators of the module; its steps are the trainer's
    `global_step`.

    Args:
        every: observe each so many steps; None for no monitor, where the module has no operator.
        elements, sinks: as in `st.audit.Monitor`.

    Attributes:
        monitor: that of the last fit, None before it and on other processes.
    """

    _seen: int

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._seen = trainer.global_step
        self.begin(pl_module, self._seen, trainer.is_global_zero)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step != self._seen:
            self._seen = trainer.global_step
            self.step(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.end()

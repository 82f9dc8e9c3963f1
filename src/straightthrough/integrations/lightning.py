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
    `global_step`. A batch that steps several optimizers is one step of both, though it is several
    of `global_step`.

    Args:
        every: observe each so many steps; None for no monitor, where the module has no operator.
        elements, sinks: as in `st.audit.Monitor`.

    Attributes:
        monitor: that of the last fit, None before it and on other processes.
    """

    _seen: int
    _done: int = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._seen = trainer.global_step
        # 0 where a fit begins anew; a checkpoint that this callback has no part in says less.
        self._done = min(self._done or self._seen, self._seen)
        self.begin(pl_module, self._done, trainer.is_global_zero)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step != self._seen:
            self._seen = trainer.global_step
            self._done += 1
            self.step(pl_module)

    def state_dict(self) -> dict[str, Any]:
        return {"done": self._done}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._done = state_dict["done"]

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.end()

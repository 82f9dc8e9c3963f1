"""A callback for transformers' Trainer, `straightthrough.integrations.transformers.Operators`."""

from __future__ import annotations

from typing import Any

from torch import nn

from .steps import Steps

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ModuleNotFoundError as error:
    raise ImportError(
        "straightthrough.integrations.transformers needs transformers; "
        "pip install 'straightthrough[transformers]'"
    ) from error

__all__ = ["Operators"]


class Operators(Steps, TrainerCallback):
    """Schedules that move with training, and `st.audit.Monitor`, as a callback of a `Trainer`.

    Each optimizer step moves every schedule of the model by one; a checkpoint holds their
    positions, and `train(resume_from_checkpoint=...)` goes on from them. On the first process a
    monitor watches the operators of the model; its steps are the state's `global_step`.

    Args:
        every: observe each so many steps; None for no monitor, where the model has no operator.
        elements, sinks: as in `st.audit.Monitor`.

    Attributes:
        monitor: that of the last training, None before it and on other processes.
    """

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: nn.Module,
        **_: Any,
    ) -> None:
        self.begin(model, state.global_step, state.is_world_process_zero)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: nn.Module,
        **_: Any,
    ) -> None:
        self.step(model)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.end()

"""The examples of docs/guides/frameworks.md: they fit, save and resume; schedules move, a monitor
sees."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import lightning.pytorch as pl
import pytest
import torch
from transformers import PretrainedConfig, PreTrainedModel, Trainer, TrainingArguments

import straightthrough as st
from straightthrough.integrations import lightning, transformers
from straightthrough.integrations.steps import Steps

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "frameworks.md"
BATCHES = 8
Fit = Callable[..., tuple[torch.nn.Module, Steps]]

pytestmark = pytest.mark.filterwarnings("ignore")  # the frameworks', of each other


def example(heading: str) -> dict[str, Any]:
    """Return the names that the code below a heading of the page defines."""
    section = PAGE.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2]
    (code,) = re.findall(r"```python\n(.*?)```", section.partition("\n## ")[0], re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, str(PAGE), "exec"), names)
    return names


CHECKPOINTS = {"Lightning": "last.ckpt", "transformers": f"checkpoint-{2 * BATCHES}"}


@pytest.mark.parametrize("framework", CHECKPOINTS)
def test_a_fit_is_resumed_where_it_stopped(framework: str, tmp_path: Path) -> None:
    fit: Fit = example(framework)["fit"]

    def seeded(*args: Any) -> tuple[torch.nn.Module, Steps]:
        torch.manual_seed(7)
        return fit(*args)

    first, steps = seeded(str(tmp_path / "a"), 2)
    tau = first.get_submodule("code.2.tau")
    assert tau.position == 2 * BATCHES
    assert first.code[2].rule.tau == tau.value == pytest.approx(0.1 ** (16 / 100))
    assert [*dict.fromkeys(seen.step for seen in steps.monitor.observations)] == [0, 4, 8, 12]

    checkpoint = str(tmp_path / "a" / CHECKPOINTS[framework])
    second, steps = seeded(str(tmp_path / "b"), 3, checkpoint)
    assert second.get_submodule("code.2.tau").position == 3 * BATCHES
    assert {seen.step for seen in steps.monitor.observations} == {16, 20}
    quantities = {seen.quantity for seen in steps.monitor.observations}
    assert {"entropy", "perplexity", "gradient_snr"} <= quantities
    moved = zip(first.parameters(), second.parameters(), strict=True)
    assert all(0 < (one - other).abs().max() < 0.2 for one, other in moved), "it began anew"
    assert not any(module._forward_hooks for module in second.modules()), "the monitor stays on"


def test_accumulated_gradients_are_one_step(tmp_path: Path) -> None:
    names = example("Lightning")
    for every in (1, None):
        model, steps = names["Autoencoder"](), lightning.Operators(every=every)
        trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=1,
            accumulate_grad_batches=4,
            callbacks=[steps],
            default_root_dir=tmp_path,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
        )
        trainer.fit(model, torch.utils.data.DataLoader(torch.randn(64, 16), batch_size=8))
        assert model.get_submodule("code.2.tau").position == BATCHES // 4
        if every is None:
            assert steps.monitor is None
        else:
            assert {seen.step for seen in steps.monitor.observations} == {0, 1}


def test_a_failing_step_takes_the_monitor_off(tmp_path: Path) -> None:
    names = example("Lightning")

    class Failing(names["Autoencoder"]):
        def training_step(self, x: torch.Tensor, batch: int) -> torch.Tensor:
            super().training_step(x, batch)
            raise RuntimeError("out of rows")

    model = Failing()
    trainer = pl.Trainer(
        accelerator="cpu",
        callbacks=[lightning.Operators()],
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    with pytest.raises(RuntimeError, match="out of rows"):
        trainer.fit(model, torch.utils.data.DataLoader(torch.randn(64, 16), batch_size=8))
    assert not any(module._forward_hooks for module in model.modules())


def test_the_callbacks_are_the_frameworks_own() -> None:
    assert issubclass(lightning.Operators, pl.Callback)
    with pytest.raises(st.ArgumentError, match="model must hold an operator"):
        transformers.Operators().begin(torch.nn.Linear(2, 2), 0, True)


def test_a_batch_that_steps_several_optimizers_is_one_step_also_where_it_is_resumed(
    tmp_path: Path,
) -> None:
    class Two(example("Lightning")["Autoencoder"]):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, x: torch.Tensor, batch: int) -> None:
            self.manual_backward(super().training_step(x, batch))
            for optimizer in self.optimizers():
                optimizer.step()
                optimizer.zero_grad()

        def configure_optimizers(self) -> list[torch.optim.Optimizer]:
            return [torch.optim.SGD(part.parameters()) for part in (self.code, self.decoder)]

    steps, checkpoint = lightning.Operators(every=1), tmp_path / "last.ckpt"

    def fit(epochs: int, resumed: Path | None = None) -> Two:
        model = Two()
        trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            callbacks=[steps],
            default_root_dir=tmp_path,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
        )
        rows = torch.utils.data.DataLoader(torch.randn(64, 16), batch_size=8)
        trainer.fit(model, rows, ckpt_path=resumed)
        assert trainer.global_step == 2 * BATCHES * epochs
        trainer.save_checkpoint(checkpoint)
        return model

    def seen() -> list[int]:
        return [*dict.fromkeys(seen.step for seen in steps.monitor.observations)]

    for _ in range(2):
        assert fit(1).get_submodule("code.2.tau").position == BATCHES
        assert seen() == [*range(BATCHES)], "a training that begins anew counts anew"
    steps = lightning.Operators(every=1)
    assert fit(2, checkpoint).get_submodule("code.2.tau").position == 2 * BATCHES
    assert seen() == [*range(BATCHES, 2 * BATCHES)]


def test_a_training_that_begins_again_after_an_error_has_one_monitor() -> None:
    """transformers tells a callback nothing of an error, and tries smaller batches after some."""
    model, steps = torch.nn.Sequential(st.nn.Sign()), transformers.Operators(every=1)
    steps.begin(model, 0, True)
    hooks = len(model[0]._forward_hooks)
    steps.begin(model, 0, True)
    assert len(model[0]._forward_hooks) == hooks
    steps.end()
    assert not model[0]._forward_hooks


class Coder(PreTrainedModel):
    """What it saves has no tensor under two names, nor anything that is no tensor."""

    config_class = PretrainedConfig
    _tied_weights_keys: ClassVar[dict[str, str]] = {"last.tau.position": "first.tau.position"}

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        tau = st.nn.schedules.Linear(1.0, 0.1, steps=100)
        self.first, self.last = st.nn.Categorical("gumbel", tau=tau), st.nn.Argmax(tau)
        self.rows, self.codes = torch.nn.Linear(2, 2), st.nn.VectorQuantizer(4, 2)
        self.post_init()

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        quantized, _, commitment = self.codes(self.last(self.first(self.rows(x))))
        return {"loss": commitment.sum() + quantized.square().mean()}


def test_checkpoints_of_transformers_keep_a_codebook_and_a_schedule_that_is_shared(
    tmp_path: Path,
) -> None:
    def trained(epochs: int, checkpoint: Path | None = None) -> Coder:
        model = Coder(PretrainedConfig())
        arguments = TrainingArguments(
            tmp_path,
            num_train_epochs=epochs,
            per_device_train_batch_size=8,
            save_strategy="epoch",
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            label_names=[],
        )
        rows = [{"x": row} for row in torch.randn(64, 2)]
        steps = transformers.Operators(every=None)
        trainer = Trainer(model, arguments, train_dataset=rows, callbacks=[steps])
        trainer.train(resume_from_checkpoint=checkpoint)
        return model

    assert trained(1).get_submodule("first.tau").position == BATCHES
    resumed = trained(2, tmp_path / f"checkpoint-{BATCHES}")
    assert resumed.get_submodule("first.tau").position == 2 * BATCHES
    assert resumed.get_submodule("codes.book").statistics.step == 1 + 2 * BATCHES
    loaded = Coder.from_pretrained(tmp_path / f"checkpoint-{2 * BATCHES}")
    assert loaded.get_submodule("last.tau").position == 2 * BATCHES
    assert loaded.get_submodule("codes.book").started

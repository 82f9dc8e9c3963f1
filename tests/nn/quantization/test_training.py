"""Prepared models train where models do: compiled, under autocast, in Lightning; and resume."""

from __future__ import annotations

import copy
import io

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel

import straightthrough as st
from straightthrough.grids import Int
from straightthrough.integrations.lightning import Operators
from straightthrough.nn import CONFIGS, Config, Scheme, param_groups, prepare
from straightthrough.scales import AbsMax, Learned, Observed

ZERO = Scheme(Int(4, signed=False), Observed(zero_point=True))
CASES = {**CONFIGS, "zero points": Config(Scheme(Int(4), Learned(axis=0)), ZERO)}


def net(config, delay=0):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32))
    if isinstance(config, str):
        config = CASES[config]
    return prepare(model, [("*", Config(config.weight, config.input, delay=delay))])


def batches(count):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 8, 32, generator=generator).unbind()


def train(model, count, first=0, optimizer=None, call=None):
    optimizer = optimizer or torch.optim.Adam(param_groups(model, lr=0.01))
    for x in batches(first + count)[first:]:
        optimizer.zero_grad()
        (call or model)(x).square().mean().backward()
        optimizer.step()
        st.nn.step_schedules(model)
    return optimizer


@pytest.mark.parametrize("name", ["w4a8", "bitnet", "nvfp4", "zero points"])
def test_compiled_whole_it_trains_the_same(name):
    torch.compiler.reset()
    model, twin = net(name, delay=1), net(name, delay=1)
    calls = torch.compile(model, fullgraph=True, backend="aot_eager_decomp_partition")
    train(model, 4, call=calls)
    train(twin, 4)
    for (key, got), due in zip(model.state_dict().items(), twin.state_dict().values(), strict=True):
        torch.testing.assert_close(got, due, msg=key)
    x = batches(1)[0]
    torch.testing.assert_close(calls(x), twin(x))


@pytest.mark.parametrize("name", ["w4a8", "bitnet", "zero points"])
def test_under_autocast_weights_are_quantized_before_they_are_narrowed(name):
    model = net(name)
    x = batches(1)[0]
    wanted = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = model(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), wanted, rtol=0.05, atol=0.1)
    y.float().square().mean().backward()
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())
    assert model[0].weight.grad.abs().max() > 0


@pytest.mark.parametrize("name", CASES)
def test_a_training_is_resumed_to_the_bit(name):
    model = net(name, delay=1)
    optimizer = train(model, 3)
    file = io.BytesIO()
    torch.save((model.state_dict(), optimizer.state_dict()), file)
    train(model, 3, 3, optimizer)
    twin = net(name, delay=1)
    other = torch.optim.Adam(param_groups(twin, lr=0.5))
    file.seek(0)
    of_model, of_optimizer = torch.load(file)
    twin.load_state_dict(of_model)
    other.load_state_dict(of_optimizer)
    train(twin, 3, 3, other)
    for (key, got), due in zip(twin.state_dict().items(), model.state_dict().values(), strict=True):
        assert torch.equal(got, due), key


@pytest.mark.parametrize("buffers", [False, True])
def test_an_average_that_was_made_before_the_start_has_started(buffers):
    torch.manual_seed(0)
    model = prepare(nn.Sequential(nn.Linear(8, 8)), [("0", "w8a8")])
    average, x = AveragedModel(model, use_buffers=buffers), torch.randn(4, 8)
    model(x)
    with torch.no_grad():
        model[0].input_quantizer.parameter.add_(0.7)
    for _ in range(2):
        average.update_parameters(model)
    assert torch.equal(average.eval()(x), model.eval()(x))


@pytest.mark.parametrize("scale", [AbsMax(), Learned(), Observed(zero_point=True)], ids=repr)
@pytest.mark.parametrize("called", [False, True])
def test_a_compiled_average_has_the_delay_of_its_buffers(scale, called):
    """It is moved by no step, and flags of Python said that its delay was not over."""
    torch.manual_seed(0)
    torch._dynamo.reset()
    quantize = st.nn.Quantizer(Int(4), scale, delay=2)
    model, x = nn.Sequential(nn.Linear(8, 8), quantize), torch.randn(8, 8)
    average, y = AveragedModel(model).eval(), model[0](x)
    compiled = torch.compile(average, fullgraph=True, backend="aot_eager")
    if called:
        assert torch.equal(compiled(x), y)
    for _ in range(2):
        model(x)
        st.nn.step_schedules(model)
    average.update_parameters(model)
    kept = quantize.scaling.kept
    assert torch.equal(compiled(x), y if kept else quantize.values(y))  # as none has started
    assert not (kept and average.module[1].started)
    model(x)
    average.update_parameters(model)
    assert torch.equal(compiled(x), model.eval()(x))
    assert not torch.equal(compiled(x), y)


@pytest.mark.parametrize("training", [False, True])
def test_a_delay_that_is_not_over_is_not_exported(training):
    model = st.nn.Quantizer(Int(4), delay=2).train(training)
    x = (torch.randn(8),)
    with pytest.raises(st.StraightThroughError, match="a delay of 2 steps is not over"):
        torch.export.export(model, x)
    model.delay = None
    assert torch.equal(torch.export.export(model, x).module()(*x), model(*x))


class Lit(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = net("w4a8", delay=2)

    def training_step(self, x, index):
        return F.mse_loss(self.net(x), x)

    def configure_optimizers(self):
        return torch.optim.Adam(param_groups(self.net, lr=0.01))


@pytest.mark.filterwarnings("ignore")  # Lightning's, of itself
def test_lightning_trains_and_resumes(tmp_path):
    def fit(epochs, checkpoint=None):
        model = Lit()
        trainer = pl.Trainer(
            accelerator="cpu", max_epochs=epochs, callbacks=[Operators()], logger=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        )  # fmt: skip
        data = torch.utils.data.DataLoader(torch.stack(batches(4)).flatten(0, 1), batch_size=8)
        trainer.fit(model, data, ckpt_path=checkpoint)
        trainer.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return model

    first = copy.deepcopy(fit(1).state_dict())
    assert first["net.0.weight_quantizer.started"]
    whole = fit(2).state_dict()
    resumed = fit(2, tmp_path / "1.ckpt").state_dict()
    assert all(torch.equal(resumed[key], value) for key, value in whole.items())
    assert not torch.equal(first["net.0.weight"], whole["net.0.weight"])

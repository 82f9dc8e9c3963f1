"""torchao's tensors and slots: the values are those that were trained."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

import straightthrough as st
from straightthrough.grids import Int, Stretched, Ternary
from straightthrough.nn import Config, Scheme, convert, param_groups, prepare
from straightthrough.scales import AbsMax, AbsMean, Learned

torchao = pytest.importorskip("torchao")
from torchao.quantization import (  # noqa: E402  # where it is installed
    FqnToConfig,
    IntxUnpackedToInt8Tensor,
    IntxWeightOnlyConfig,
    PerAxis,
    PerGroup,
    quantize_,
)
from torchao.quantization.qat import FakeQuantizedLinear, QATConfig  # noqa: E402  # as above

from straightthrough.integrations.torchao import (  # noqa: E402  # as above
    Prepare,
    WeightSlot,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # torchao's, of itself

A8 = Scheme(Int(8), Learned(start="max"), "lsq")
ROWS = Scheme(Int(4), Learned(axis=0), "lsq")
FITTING = {
    "rows": ROWS,
    "int3 blocks": Scheme(Int(3), Learned(block=8), "lsq"),
    "int8 tensor": Scheme(Int(8, narrow=True), AbsMax()),
    "unsigned": Scheme(Int(4, signed=False), Learned(zero_point=True, axis=0)),
    "signed zero": Scheme(Int(5), Learned(zero_point=True, block=16)),
    "ternary": Scheme(Ternary(), AbsMean(), "identity"),
}


def trained(model, configs, make_input):
    prepare(model, configs)
    optimizer = torch.optim.Adam(param_groups(model, lr=0.01))
    for _ in range(5):
        optimizer.zero_grad()
        model(make_input()).square().mean().backward()
        optimizer.step()
    return model.eval()


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.conv = nn.Embedding(9, 32), nn.Conv1d(32, 32, 1)
        self.head = nn.Linear(32, 16)

    def forward(self, index):
        return self.head(self.conv(self.embed(index).mT).mT)


@pytest.mark.parametrize("name", FITTING)
def test_its_tensors_have_what_was_trained(name):
    index = torch.randint(9, (4, 7))
    config = Config(FITTING[name], A8)
    blocks = FITTING[name].scale.block is not None  # which do not divide a kernel of 1
    configs = [(nn.Conv1d, "w4" if blocks else config), ("*", config)]
    model = trained(Words(), configs, lambda: index)
    ready = convert(model, to="torchao")
    assert torch.equal(ready(index), model(index))
    for layer in (ready.head, ready.embed):
        assert isinstance(layer.weight, IntxUnpackedToInt8Tensor)
    assert type(ready.conv.weight) is nn.Parameter


@pytest.mark.parametrize(
    "scheme", [Scheme(Stretched(2)), Scheme(Int(12)), Scheme(Int(4), AbsMax(axis=1))]
)
def test_what_it_has_no_tensor_for_stays_floating(scheme):
    model = prepare(nn.Sequential(nn.Linear(8, 4)), [("0", Config(scheme))]).eval()
    ready, x = convert(model, to="torchao"), torch.randn(3, 8)
    assert type(ready[0].weight) is nn.Parameter
    assert torch.equal(ready(x), model(x))


def test_an_attention_ships():
    layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True, dropout=0.0)
    model = prepare(nn.Sequential(layer), [("*linear*", "w4"), ("*attn*", "w4")]).eval()
    x = torch.randn(2, 5, 32)
    ready = convert(model, to="torchao")
    assert isinstance(ready[0].linear1.weight, IntxUnpackedToInt8Tensor)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(ready(x), model(x))


def test_it_has_no_tensor_for_float64():
    model = prepare(nn.Sequential(nn.Linear(8, 4).double()), [("0", Config(ROWS))]).eval()
    ready, x = convert(model, to="torchao"), torch.randn(3, 8).double()
    assert type(ready[0].weight) is nn.Parameter
    assert torch.equal(ready(x), model(x))


def test_its_quantize_takes_our_configurations():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    quantize_(model, FqnToConfig(OrderedDict([("2", Prepare("w2"))])), filter_fn=None)
    assert type(model[0]) is nn.Linear
    assert model[2].weight_quantizer.grid == Stretched(2)
    quantize_(model, Prepare(Config(ROWS, A8)), filter_fn=lambda module, name: name == "0")
    assert model[0].input_quantizer.grid == Int(8)
    model(torch.randn(2, 8)).sum().backward()


@pytest.mark.parametrize("block", [None, 8])
def test_its_slot_takes_our_quantizers(block):
    torch.manual_seed(0)
    model = nn.Sequential(FakeQuantizedLinear(16, 8, bias=True), nn.ReLU())
    scale = Learned(axis=0) if block is None else Learned(block=block)
    quantizer = Scheme(Int(4), scale, st.estimators.LSQ(batch_dims=0)).quantizer((8, 16))
    model[0].weight_fake_quantizer = WeightSlot(quantizer)
    x = torch.randn(4, 16)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(5):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    wanted = model.eval()(x)
    shared = PerAxis(0) if block is None else PerGroup(block)
    base = IntxWeightOnlyConfig(torch.int4, shared)
    quantize_(model, QATConfig(base, step="convert"))
    assert isinstance(model[0].weight, IntxUnpackedToInt8Tensor)
    assert torch.equal(model(x), wanted)


def test_its_switches_work():
    slot = WeightSlot(ROWS.quantizer((4, 8)))
    weight = torch.randn(4, 8)
    assert not torch.equal(slot(weight), weight)
    slot.enabled = False
    assert slot(weight) is weight


@pytest.mark.parametrize(
    "scheme",
    [Scheme(Stretched(2), Learned()), Scheme(Int(4), AbsMax(axis=0)), Scheme(Int(4), Learned())],
)
def test_its_slot_refuses_what_it_can_not_say(scheme):
    with pytest.raises(st.ArgumentError, match="signed integers with a learned scale a row or a"):
        WeightSlot(scheme.quantizer())

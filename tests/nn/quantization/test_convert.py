"""What was trained is what ships: converted models compute what the prepared ones did."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn.utils.prune import l1_unstructured

import straightthrough as st
from straightthrough.core.bits import pack_numbers, unpack_numbers
from straightthrough.grids import MX, NVFP4, Binary, Float, HalfInt, Int, Stretched, Ternary
from straightthrough.nn import CONFIGS, Config, Scheme, convert, param_groups, prepare
from straightthrough.scales import AbsMax, AbsMean, Fixed, Learned, Observed

A8 = Scheme(Int(8), Learned(start="max"), "lsq")
SCHEMES = {
    "int8 rows": (Scheme(Int(8), Learned(axis=0), "lsq"), 8),
    "int4": (Scheme(Int(4, narrow=True), Observed()), 4),
    "int3 blocks": (Scheme(Int(3), Learned(block=8, start="mse"), "lsq"), 3),
    "uint4 zero": (Scheme(Int(4, signed=False), Learned(zero_point=True, axis=0)), 4),
    "uint4 offset": (Scheme(Int(4, signed=False), Learned(offset=True)), 4),
    "int12": (Scheme(Int(12), AbsMax()), 12),
    "half": (Scheme(HalfInt(2), AbsMax()), 2),
    "2 bits": (Scheme(Stretched(2), Learned(axis=0, start="max"), "lsq"), 2),
    "1.58 bits": (Scheme(Stretched(1.58), Learned(start="max"), "lsq"), 2),
    "dorefa": (st.nn.preset("dorefa").weight.scheme(4), 4),
    "twn": (st.nn.preset("twn").weight.scheme(), 2),
    "ternary": (Scheme(Ternary(), AbsMean(), "identity"), 2),
    "binary": (Scheme(Binary(), AbsMean(axis=0), "identity"), 1),
    "e4m3": (Scheme(Float("e4m3"), AbsMax(axis=0)), 8),
    "e3m2": (Scheme(Float("e3m2"), AbsMax()), 6),
    "mxfp4": (Scheme(MX("e2m1"), Fixed(), "identity"), 4),
    "mxfp8": (Scheme(MX("e5m2", block=16, mode="rceil"), Fixed(), "identity"), 8),
    "nvfp4": (Scheme(NVFP4(), AbsMax(), "identity"), 4),
}


def trained(weight, dtype=torch.float32):
    """A model whose weights, scales and zero points have moved for some steps, in eval()."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 64)).to(dtype)
    prepare(model, [(nn.Linear, Config(weight, A8))])
    optimizer = torch.optim.Adam(param_groups(model, lr=0.01))
    for _ in range(5):
        optimizer.zero_grad()
        model(torch.randn(8, 32, dtype=dtype)).square().mean().backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", SCHEMES)
def test_what_was_trained_is_what_ships(name, dtype):
    scheme, width = SCHEMES[name]
    model, x = trained(scheme, dtype), torch.randn(16, 32, dtype=dtype)
    y = model(x)
    before = copy.deepcopy(model.state_dict())
    baked = convert(model)
    assert torch.equal(baked(x), y)
    packed = convert(model, to="packed")
    if dtype == torch.float64:
        torch.testing.assert_close(packed(x), y, rtol=1e-6, atol=1e-6)
    else:
        assert torch.equal(packed(x), y)
    weight = packed[2].weight
    assert (weight.dtype, weight.numel()) == (torch.uint8, 64 * 32 * width // 8)
    assert torch.equal(baked[2].weight, packed[2].quantized_weight().to(dtype)) or (
        dtype == torch.float64
    )
    now = model.state_dict()
    assert all(torch.equal(now[key], value) for key, value in before.items())


@pytest.mark.parametrize("name", SCHEMES)
def test_packed_codes_load_into_another_model(name):
    model = convert(trained(SCHEMES[name][0]), to="packed")
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    torch.manual_seed(1)
    other = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 64))
    prepare(other, [(nn.Linear, Config(SCHEMES[name][0], A8))])
    other = convert(other.eval(), to="packed")
    x = torch.randn(16, 32)
    assert not torch.equal(other(x), model(x))
    other.load_state_dict(torch.load(file))
    assert torch.equal(other(x), model(x))


class Everything(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(9, 8), nn.Linear(8, 9, bias=False)
        self.head.weight = self.embed.weight
        self.conv, self.up = nn.Conv1d(8, 6, 3, padding=1), nn.ConvTranspose1d(6, 8, 3, padding=1)
        self.rnn, self.attend = nn.GRU(8, 8), nn.MultiheadAttention(8, 2)

    def forward(self, index):
        x = self.embed(index)
        # Of what lies otherwise torch's product with a weight that learns is rounded otherwise.
        x = self.up(self.conv(x.mT)).mT.contiguous()
        x = self.rnn(x)[0]
        return self.head(x + self.attend(x, x, x)[0])


@pytest.mark.parametrize("to", ["float", "packed"])
def test_every_kind_of_layer_ships(to):
    model, index = Everything(), torch.randint(9, (4, 5))
    w4 = Config(Scheme(Int(4), Learned(axis=0), "lsq"))
    only = [("re:embed|head", w4), (nn.Conv1d, "w4a8"), ("*", w4)]
    prepare(model, only)
    model(index).sum().backward()
    y = model.eval()(index)
    ready = convert(model, to=to)
    assert torch.equal(ready(index), y)
    assert torch.equal(model(index), y), "the model stays as it is"
    assert ready.head.weight is ready.embed.weight
    if to == "float":
        types = {name: type(module) for name, module in Everything().named_modules()}
        types["conv"] = type(model.conv)  # its input is quantized
        types["conv.input_quantizer"] = st.nn.Quantizer
        assert {name: type(module) for name, module in ready.named_modules()} == types
    else:
        floats = [name for name, t in ready.state_dict().items() if t.dtype.is_floating_point]
        assert all("quantizer" in n or "bias" in n or ".0." in n for n in floats), floats
    again = copy.deepcopy(ready)
    assert torch.equal(again(index), y)
    again.load_state_dict(ready.state_dict())


@pytest.mark.parametrize("to", ["float", "packed"])
def test_what_is_packed_is_converted_again(to):
    model, index = Everything(), torch.randint(9, (4, 5))
    prepare(model, [(nn.Conv1d, "w4a8"), ("*", Config(Scheme(Int(4), AbsMax())))]).eval()
    y = model(index)
    packed = convert(model, to="packed")
    again, due = convert(packed, to=to), convert(model, to=to)
    assert torch.equal(again(index), y)
    assert torch.equal(packed(index), y), "the model stays as it is"
    assert again.head.weight is again.embed.weight
    assert str(again) == str(due)
    found, tensors = again.state_dict(), due.state_dict()
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("to", ["float", "packed"])
def test_weights_that_are_parametrized_already_ship(to):
    torch.manual_seed(0)
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(8, 4)), nn.Linear(4, 4))
    plain = model[0].weight.detach().clone()
    w4 = Scheme(Int(4), Learned(axis=0, start="max"), "lsq")
    model = prepare(model, [("*", Config(w4))]).eval()
    assert torch.equal(model[0].weight, w4.quantizer(plain.shape)(plain))
    x = torch.randn(3, 8)
    ready = convert(model, to=to)
    assert torch.equal(ready(x), model(x))
    if to == "float":
        assert type(ready[0]) is nn.Linear


class Tripled(nn.Module):
    def forward(self, x):
        return 3 * x


@pytest.mark.parametrize("to", ["float", "packed"])
@pytest.mark.parametrize("config", ["w4", "w4a8"])
@pytest.mark.parametrize("name", ["weight", "bias", "norm"])
def test_layers_that_are_parametrized_later_ship(to, config, name):
    """Their weight is made before each call, and quantized then."""
    torch.manual_seed(0)
    model = prepare(nn.Sequential(nn.Linear(8, 6)), [("0", config)])
    if name == "norm":
        nn.utils.parametrizations.weight_norm(model[0])
    else:
        nn.utils.parametrize.register_parametrization(model[0], name, Tripled())
    x = torch.randn(5, 8)
    y = model.train()(x)
    assert torch.equal(convert(model.eval(), to)(x), y)
    assert torch.equal(model(x), y)


@pytest.mark.parametrize("grid", [MX("e2m1", block=8), NVFP4()], ids=repr)
@pytest.mark.parametrize(
    ("scale", "transform"), [(Learned(offset=True), ""), (Fixed(), "tanh"), (AbsMax(), "twn")]
)
def test_blocks_have_the_scales_of_what_is_rounded(grid, scale, transform):
    model, x = trained(Scheme(grid, scale, "identity", transform)), torch.randn(3, 32)
    assert torch.equal(convert(model, to="packed")(x), model(x))


@pytest.mark.parametrize("name", CONFIGS)
def test_named_configurations_ship(name):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32)), torch.randn(9, 32)
    y = prepare(model, [(nn.Linear, name)]).eval()(x)
    for to in ("float", "packed"):
        assert torch.equal(convert(model, to=to)(x), y)


@pytest.mark.parametrize("to", ["float", "packed"])
@pytest.mark.parametrize("layer", [nn.Conv2d, nn.ConvTranspose2d])
def test_channels_that_are_last_ship(layer, to):
    torch.manual_seed(0)
    model = prepare(nn.Sequential(layer(16, 16, 3)), [("0", Config(Scheme(Int(4), AbsMax())))])
    model = model.to(memory_format=torch.channels_last).eval()
    x = torch.randn(2, 16, 6, 6)
    y, z = model(x), convert(model, to=to)(x)
    assert torch.equal(z, y)
    assert z.stride() == y.stride()


@pytest.mark.parametrize("to", ["float", "packed"])
def test_what_ships_is_saved_whole(to):
    layers = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3).to(memory_format=torch.channels_last)
    model, x = prepare(nn.Sequential(*layers), [("*", "w4a8")]).eval(), torch.randn(2, 3, 6, 6)
    y, file = model(x), io.BytesIO()
    torch.save(convert(model, to=to), file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(x), y)


@pytest.mark.parametrize("to", ["float", "packed"])
def test_a_skeleton_takes_what_ships(to):
    with torch.device("meta"):
        empty = convert(prepare(nn.Sequential(nn.Linear(8, 4)), [("0", "w4")]).eval(), to=to)
    model, x = prepare(nn.Sequential(nn.Linear(8, 4)), [("0", "w4")]).eval(), torch.randn(3, 8)
    empty.load_state_dict(convert(model, to=to).state_dict(), assign=True)
    assert torch.equal(empty(x), model(x))


def test_what_is_frozen_stays_frozen():
    model = prepare(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), [("*", "w4")]).eval()
    model[0].requires_grad_(False)
    learn = [parameter.requires_grad for parameter in convert(model).parameters()]
    assert learn == [False, False, True, True]


@pytest.mark.parametrize("to", ["float", "packed"])
def test_a_weight_that_modules_quantize_differently_is_another_in_each(to):
    """Each was prepared by itself, as torchao's `quantize_` does, with a quantizer of its own."""
    model = nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 10, bias=False)).eval()
    model[1].weight = model[0].weight
    prepare(model[0], [("", "w2")])
    prepare(model[1], [("", "w4")])
    index = torch.arange(10)
    assert torch.equal(convert(model, to=to)(index), model(index))


def test_a_weight_whose_quantizer_is_off_ships_as_it_is():
    model, x = trained(SCHEMES["int4"][0]), torch.randn(4, 32)
    model[0].weight_quantizer.enabled = False
    for to in ("float", "packed"):
        ready = convert(model, to=to)
        assert torch.equal(ready(x), model(x))
        assert torch.equal(ready[0].weight, model[0].weight)


@pytest.mark.parametrize("name", ["w8a8", "w4"])
def test_a_batch_norm_is_not_folded_into_bytes(name):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    packed = convert(prepare(model, [("0", name)]).eval(), to="packed")
    folded = nn.utils.fuse_conv_bn_eval(*packed)
    with pytest.raises(st.ShapeError, match="before the model is prepared"):
        folded(torch.randn(1, 3, 5, 5))


def test_a_packed_model_moves_to_another_dtype():
    model, x = trained(SCHEMES["int8 rows"][0]), torch.randn(4, 32)
    packed = convert(model, to="packed").to(torch.bfloat16)
    assert packed[0].weight_quantizer.scale.dtype == torch.float32
    got = packed(x.bfloat16())
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), model(x), rtol=0.05, atol=0.05)


def test_a_report_says_what_the_state_dict_takes():
    model = convert(prepare(Everything().eval(), [("*", Config(Scheme(Int(4))))]), to="packed")
    report = st.nn.size_report(model)
    shared = {id(t): t.nbytes for t in model.state_dict(keep_vars=True).values()}
    assert report.bytes == sum(shared.values())
    assert report.unpacked == sum(p.nbytes for p in Everything().parameters())
    rows = {row.name: row for row in report.rows}
    assert rows["embed"] == st.nn.Size("embed", 4, 72 // 2 + 4, 72 * 4)
    assert "head" not in rows, "it shares the weight"
    assert rows["rnn.parametrizations.weight_ih_l0"].bytes == 24 * 8 // 2 + 4
    assert str(report).splitlines()[-1].split() == [
        "all",
        *(f"{n:,}" for n in (report.bytes, report.unpacked)),
    ]


def test_a_report_counts_the_bytes_of_tensors_of_torchao():
    pytest.importorskip("torchao")
    model = prepare(nn.Sequential(nn.Linear(64, 32, bias=False)), [("0", "w4")]).eval()
    (row,) = st.nn.size_report(convert(model, to="torchao")).rows
    codes, scales, zero_points = 32 * 64, 32 * 4, 32
    assert row == st.nn.Size("0", None, codes + scales + zero_points, 32 * 64 * 4)


def test_codes_of_another_grid_are_refused(tmp_path):
    """Of as many bits, they would fit, and be other values."""
    grids = (Int(4), Int(4, signed=False), HalfInt(4), Float("e2m1"))
    configs = [Config(Scheme(grid, AbsMax(axis=0), "identity")) for grid in grids]
    saved = convert(prepare(nn.Linear(8, 4), [("", configs[0])]).eval(), to="packed")
    torch.save(saved.state_dict(), tmp_path / "saved.pt")
    state = torch.load(tmp_path / "saved.pt", weights_only=True)
    for grid, config in zip(grids, configs, strict=True):
        other = convert(prepare(nn.Linear(8, 4), [("", config)]).eval(), to="packed")
        if grid == grids[0]:
            other.load_state_dict(state)
            assert torch.equal(other.weight, saved.weight)
            continue
        with pytest.raises(RuntimeError, match=r"weight_quantizer has codes of .* those of Int"):
            other.load_state_dict(state)


@pytest.mark.parametrize("width", range(1, 17))
def test_numbers_are_packed(width):
    numbers = torch.randint(2**width, (3, 7), dtype=torch.int32)
    packed = pack_numbers(numbers, width)
    assert packed.dtype == torch.uint8
    assert packed.numel() == -(-21 * width // 8)
    assert torch.equal(unpack_numbers(packed, width, numbers.shape), numbers)
    lowest = pack_numbers(torch.tensor([1, 0, 0]), width)
    assert lowest[0] == 1


REFUSED = [
    (lambda m: convert(m.train()), "'0' is in training; call eval() before you convert"),
    (lambda m: (m[2].input_quantizer.train(), convert(m)), "'2' is in training"),
    (lambda m: (l1_unstructured(m[0], "weight", 0.5), convert(m)), "call prune.remove(layer, 'wei"),
    (lambda m: (m[0].weight.data.fill_(torch.nan), convert(m, to="packed")), "'0.weight' is NaN"),
    (lambda m: convert(m, to="int8"), "to must be one of float, packed, torchao, got 'int8'"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_what_is_refused(call, message):
    with pytest.raises(st.ArgumentError) as caught:
        call(trained(SCHEMES["int4"][0]))
    assert message in str(caught.value)


def test_a_delay_that_is_not_over_is_refused():
    config = Config(Scheme(Int(4)), delay=3)
    model = prepare(nn.Sequential(nn.LSTM(3, 4)), [("0", config)]).eval()
    with pytest.raises(st.ArgumentError, match="'0' does not quantize yet: the delay is not over"):
        convert(model)

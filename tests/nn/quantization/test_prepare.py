"""Prepared models: what layers compute, whose weights those are, patterns, what is refused."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import straightthrough as st
from straightthrough.grids import MX, Int
from straightthrough.nn import CONFIGS, Config, Scheme, param_groups, prepare
from straightthrough.scales import AbsMax, Learned, Observed

W4 = Scheme(Int(4), AbsMax(axis=0), "ste")
A8 = Scheme(Int(8), AbsMax(), "ste")
BY_ROW = Config(Scheme(Int(4), Learned(axis=0, start="max"), "lsq"))


def by_hand(x, bits, axis=None):
    dims = [d for d in range(x.ndim) if d != axis]
    scale = x.detach().abs().amax(dims, keepdim=True).clamp(min=1e-5) / (2 ** (bits - 1) - 1)
    return st.fake_quantize(x, scale, grid=Int(bits))


LAYERS = {
    "linear": (lambda: nn.Linear(6, 4), (3, 6), ()),
    "without a bias": (lambda: nn.Linear(6, 4, bias=False), (2, 3, 6), ()),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, groups=2, dilation=2), (2, 4, 9), ()),
    "conv2d": (lambda: nn.Conv2d(2, 3, 3, stride=2, padding=1), (2, 2, 6, 7), ()),
    "reflect": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), (2, 2, 6, 7), ()),
    "conv3d": (lambda: nn.Conv3d(1, 2, 2), (1, 1, 4, 4, 4), ()),
    "up 1d": (lambda: nn.ConvTranspose1d(4, 6, 3, stride=2, groups=2), (2, 4, 5), ()),
    "up 2d": (lambda: nn.ConvTranspose2d(2, 3, 3, stride=2), (1, 2, 4, 4), ([10, 10],)),
    "up 3d": (lambda: nn.ConvTranspose3d(1, 2, 2, padding=1), (1, 1, 4, 4, 4), ()),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_computes_with_quantized_numbers(name):
    make, shape, args = LAYERS[name]
    torch.manual_seed(0)
    plain, x = make(), torch.randn(shape, requires_grad=True)
    layer = prepare(copy.deepcopy(plain), [("", Config(W4, A8, A8))])
    axis = 1 if isinstance(plain, nn.modules.conv._ConvTransposeNd) else 0
    weight = plain.weight
    quantized = by_hand(weight, 4, axis)
    with torch.no_grad():
        plain.weight = nn.Parameter(quantized.detach())
    y = by_hand(plain(by_hand(x, 8), *args), 8)
    found = layer(x, *args)
    assert torch.equal(found, y)
    grad = torch.randn_like(y)
    wanted = torch.autograd.grad(y, [x, plain.weight], grad)
    got = torch.autograd.grad(found, [x, layer.weight], grad)
    assert torch.equal(got[0], wanted[0])
    torch.testing.assert_close(got[1], torch.autograd.grad(quantized, weight, wanted[1])[0])


def test_layers_are_called_as_those_of_torch_are():
    up = nn.ConvTranspose2d(2, 3, 3, stride=2)
    x, y = torch.randn(1, 2, 4, 4), up(torch.randn(1, 2, 4, 4), output_size=(10, 10))
    prepare(up, [("", Config(W4))])
    assert up(x, output_size=(10, 10)).shape == y.shape
    assert torch.equal(up(input=x, output_size=(10, 10)), up(x, [10, 10]))
    with pytest.raises(TypeError, match="positional arguments"):
        prepare(nn.Linear(4, 2), [("", Config(W4))])(torch.randn(3, 4), None)


def test_the_gradient_of_a_frequent_row_is_scaled():
    plain = nn.Embedding(5, 4, scale_grad_by_freq=True)
    model = prepare(copy.deepcopy(plain), [("", Config(Scheme(Int(8), rule="identity")))])
    index = torch.tensor([0, 0, 0, 1])
    plain(index).sum().backward()
    model(index).sum().backward()
    assert torch.equal(model.weight.grad, plain.weight.grad)


def test_an_embedding_quantizes_its_rows():
    plain = nn.Embedding(7, 4, padding_idx=2)
    layer = prepare(copy.deepcopy(plain), [(nn.Embedding, Config(W4, A8))])
    index = torch.tensor([[1, 2], [6, 1]])
    y = layer(index)
    assert torch.equal(y, by_hand(plain.weight, 4, 0)[index])
    y.sum().backward()
    assert layer.weight.grad.sum(1).tolist() == [0, 8, 0, 0, 0, 0, 4]


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)
    )


IMAGES = torch.randn(3, 1, 6, 6, generator=torch.Generator().manual_seed(1))


def test_parameters_stay_and_a_float_checkpoint_loads():
    model, other = net(), net()
    with torch.no_grad():
        other[4].weight.mul_(3)
    weight = model[0].weight
    prepare(model, [(nn.Conv2d, "w4"), (nn.Linear, "w4a8")])
    assert model[0].weight is weight
    assert isinstance(model[0], nn.Conv2d)
    assert {*other.state_dict()} <= {*model.state_dict()}
    model.load_state_dict(other.state_dict())
    assert not model[4].weight_quantizer.started
    model(IMAGES)
    alone = prepare(other, [("4", "w4")])[4].weight_quantizer
    alone(other[4].weight)
    assert torch.equal(model[4].weight_quantizer.scale, alone.scale)
    model.load_state_dict(net().state_dict())  # and start once more
    model(IMAGES)
    torch.testing.assert_close(3 * model[4].weight_quantizer.scale, alone.scale)


def test_a_part_of_a_model_leaves_scales_where_they_are():
    model = prepare(net(), [("*", "w8a8")])
    model(IMAGES)
    quantizers = [module for module in model.modules() if isinstance(module, st.nn.Quantizer)]
    scales = [quantizer.scale.clone() for quantizer in quantizers]
    model.load_state_dict({"4.bias": torch.zeros(5)}, strict=False)
    model(100 * IMAGES)
    changed = [not torch.equal(q.scale, s) for q, s in zip(quantizers, scales, strict=True)]
    assert not any(changed)


@pytest.mark.parametrize("name", CONFIGS)
def test_named_configurations_train(name):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32))
    prepare(model, [(nn.Linear, name)])
    x, due = torch.randn(64, 32), torch.randn(64, 32)
    optimizer = torch.optim.Adam(param_groups(model, lr=3e-3))
    losses = []
    for _ in range(60):
        loss = F.mse_loss(model(x), due)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    row = model[0].quantized_weight()[0, :16]
    most = {"w2": 4, "bitnet": 3}.get(name, 16)
    assert 2 < len(row.unique()) <= most


def test_the_first_pattern_that_fits_counts():
    model = nn.Sequential(net(), nn.ModuleDict({"head": nn.Linear(5, 5), "tail": nn.Linear(5, 2)}))
    prepare(model, [("re:.*head", None), ("1.*", "w2"), (nn.Linear, "w8a8"), ("*", "w4")])
    grids = {
        name: module.weight_quantizer.grid.bits
        for name, module in model.named_modules()
        if isinstance(module, st.nn.quantization.layers.Quantized)
    }
    assert grids == {"0.0": 4, "0.4": 8, "1.tail": 2}
    assert type(model[1]["head"]) is nn.Linear


def test_a_name_is_itself():
    model = prepare(
        nn.ModuleDict({"a[0]": nn.Linear(2, 2), "a0": nn.Linear(2, 2)}), [("a[0]", "w4")]
    )
    assert hasattr(model["a[0]"], "weight_quantizer")


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(self.embed(x))


def test_a_tied_weight_is_quantized_once():
    model = prepare(Tied(), [("*", BY_ROW)])
    assert model.head.weight is model.embed.weight
    assert model.head.weight_quantizer is model.embed.weight_quantizer
    assert torch.equal(model.head.quantized_weight(), model.embed.quantized_weight())
    assert sum(p.numel() for p in model.parameters()) == 36 + 9
    with pytest.raises(st.ArgumentError, match="'embed' and 'head' share a weight"):
        prepare(Tied(), [(nn.Linear, "w4")])


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(4, 6))
        self.gain = nn.Parameter(torch.ones(6))

    def forward(self, x):
        return (x @ self.table) * self.gain


def test_parameters_of_other_modules_are_parametrized():
    model = Own()
    table, x = model.table, torch.randn(3, 4)
    wanted = x @ by_hand(table, 4, 0)
    prepare(model, [(Own, Config(W4))])
    assert model.parametrizations.table.original is table
    assert torch.equal(model.table, by_hand(table, 4, 0))
    assert torch.equal(model(x), wanted)
    model(x).sum().backward()
    assert table.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_recurrent_net_computes_with_quantized_weights(kind):
    torch.manual_seed(0)
    plain, x = kind(3, 5, num_layers=2), torch.randn(7, 2, 3)
    model = prepare(copy.deepcopy(plain), [("", Config(W4))])
    for weight in plain.parameters():
        if weight.ndim > 1:
            weight.data = by_hand(weight, 4, 0).detach()
    assert torch.equal(model(x)[0], plain(x)[0])
    assert torch.equal(copy.deepcopy(model)(x)[0], plain(x)[0])
    model(x)[0].sum().backward()
    assert model.parametrizations.weight_hh_l1.original.grad.abs().sum() > 0


@pytest.mark.filterwarnings("ignore:enable_nested_tensor:UserWarning")
def test_a_transformer_computes_the_same_in_eval():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 2)
    prepare(model, [("*.self_attn*", Config(W4)), (nn.Linear, Config(W4, A8))])
    x = torch.randn(2, 3, 8)
    pad = torch.tensor([[False, False, True], [False, False, False]])
    for mask in (None, pad):
        wanted = model.train()(x, src_key_padding_mask=mask)
        with torch.no_grad():
            got = model.eval()(x, src_key_padding_mask=mask)
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    raw = nn.TransformerEncoder(layer, 2).eval()(x)
    assert (model.eval()(x) - raw).abs().max() > 1e-2


def test_layers_of_a_transformer_that_are_prepared_alone_are_called():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    for linear in (layer.linear1, layer.linear2):
        prepare(linear, [("", "w2")])
    x = torch.randn(2, 5, 8)
    y = layer.eval()(x)
    ready = [layer, *(st.nn.convert(layer, to=to) for to in ("float", "packed"))]
    with torch.no_grad():
        for each in ready:
            torch.testing.assert_close(each(x), y)
    assert not ready[1].linear1._forward_pre_hooks


def test_scales_do_not_decay():
    model = prepare(net(), [(nn.Linear, "w4a8")])
    rest, scales = param_groups(model, lr=0.1, weight_decay=0.5)
    names = {id(p): name for name, p in model.named_parameters()}
    found = [[names[id(p)] for p in group["params"]] for group in (rest, scales)]
    assert found[1] == ["4.weight_quantizer.parameter", "4.input_quantizer.parameter"]
    assert sorted(found[0] + found[1]) == sorted(names.values())
    assert (rest["weight_decay"], scales["weight_decay"]) == (0.5, 0)
    assert rest["lr"] == scales["lr"] == 0.1
    assert len(param_groups(net())) == 1


def test_a_delay_and_a_switch():
    model = prepare(net(), [(nn.Linear, Config(BY_ROW.weight, A8, delay=2))]).eval()
    wanted = net().eval()(IMAGES)
    for _ in range(2):
        assert torch.equal(model(IMAGES), wanted)
        st.nn.step_schedules(model)
    quantized = model(IMAGES)
    assert not torch.equal(quantized, wanted)
    fresh = prepare(net(), [(nn.Linear, Config(BY_ROW.weight, A8, delay=2))]).eval()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(IMAGES), quantized)
    for quantizer in (fresh[4].weight_quantizer, fresh[4].input_quantizer):
        quantizer.enabled = False
    assert torch.equal(fresh(IMAGES), wanted)


def test_scales_that_wait_have_gradients_of_zero():
    model = prepare(nn.Linear(3, 2), [("", Config(BY_ROW.weight, A8, delay=1))])
    x = torch.tensor([[-0.0, 2.0, -3.0]])
    wanted = F.linear(x, model.weight, model.bias)
    y = model(x)
    assert torch.equal(y, wanted)
    y.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert model.weight_quantizer.parameter.grad.tolist() == [[0.0], [0.0]]
    assert torch.equal(model.weight.grad, x.expand(2, 3))
    assert not model.weight_quantizer.started


@pytest.mark.parametrize("way", ["pickle", "copy"])
def test_prepared_models_are_copied(way):
    model = prepare(net(), [(nn.Linear, "w4a8"), ("*", "w4")])
    y = model(IMAGES)
    twin = copy.deepcopy(model) if way == "copy" else pickle.loads(pickle.dumps(model))
    assert torch.equal(twin(IMAGES), y)


def test_quantizers_are_where_their_layer_is():
    model = nn.Linear(4, 2, device="meta", dtype=torch.bfloat16).eval()
    prepare(model, [("", Config(BY_ROW.weight, Scheme(Int(8), Observed())))])
    assert {t.device.type for t in model.state_dict().values()} == {"meta"}
    assert not model.weight_quantizer.training
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.weight_quantizer.origin.dtype == torch.float32


def lazy():
    return nn.Sequential(nn.LazyLinear(4))


def wrapped():
    model = net()
    model.__class__ = nn.parallel.DistributedDataParallel
    return model


def hooked():
    return nn.utils.weight_norm(nn.Linear(4, 2))


MHA = nn.MultiheadAttention
REFUSED = [
    (net, [(nn.Conv3d, "w4")], "nothing that can be quantized is left for the pattern 'Conv3d'"),
    (net, [("*", "w4"), ("4", None)], "the first pattern that a module fits counts"),
    (net, [("re:4", "w5")], "'w5' is no configuration; pass a Config, or one of w8a8"),
    (hooked, [("", "w4")], "the weight of '' is no parameter, but made before each call"),
    (lazy, [(nn.Linear, "w4")], "'0' is lazy and has no weight yet; first run it on an input"),
    (lambda: prepare(net(), [("4", "w4")]), [("0", "w4")], "'4' is prepared already"),
    (lambda: prepare(Own(), [("", "w4")]), [("", "w4")], "'' is prepared already"),
    (wrapped, [("*", "w4")], "before DistributedDataParallel takes it"),
    (lambda: MHA(4, 2), [("", "w8a8")], "a MultiheadAttention, of which only weights can be"),
    (lambda: nn.Embedding(3, 2, max_norm=1.0), [("", "w4")], "'' has max_norm or sparse gradients"),
    (lambda: nn.Embedding(3, 2, sparse=True), [("", "w4")], "'' has max_norm or sparse gradients"),
    (lambda: nn.EmbeddingBag(3, 2, max_norm=1.0), [("", "w4")], "'' has max_norm or sparse"),
    (lambda: nn.EmbeddingBag(3, 2, sparse=True), [("", "w4")], "'' has max_norm or sparse"),
    (net, ("4", "w4"), "a list of pairs of a pattern and a configuration, as [(torch.nn.Linear"),
    (net, {"4": "w4"}, "a list of pairs of a pattern and a configuration"),
    (net, "w4", "got 'w4' for a pair"),
    (net, Config(W4), "got Config(weight=Scheme("),
    (net, None, "got None for a pair"),
    (net, [(nn.Linear(2, 2), "w4")], "a pattern must be a class of modules or a tuple of them"),
    (net, [((nn.GRU, nn.LSTM), "w4")], "nothing that can be quantized is left for the pattern"),
    (net, [("re:(", "w4")], "'re:(' is no regular expression: missing )"),
    (net, [("4", {"bits": 4})], "{'bits': 4} is no configuration; pass a Config, or one of"),
    (net, [("4", st.nn.preset("lsq"))], "a Preset is no configuration; pass a Config, or one of"),
    (net, [("4", "lsq")], "is made of its preset, as Config(st.nn.preset('lsq').weight.scheme())"),
    (net, [("4", Config(Scheme(MX(block=8), Learned(block=4))))], "'4': blocks of 8 do not"),
    (net, [("*", Config(Scheme(MX(block=32))))], "'0': blocks of 32 do not divide the last"),
    (
        net,
        [("4", Config(W4, Scheme(Int(8), Learned(axis=1))))],
        "'4': Learned would keep a scale a",
    ),
    (net, [("4", Config(Scheme(Int(4), Learned(block=7))))], "'4': blocks of 7 do not divide"),
]


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize(("make", "configs", "message"), REFUSED)
def test_what_is_refused_says_why_and_changes_nothing(make, configs, message):
    model = make()
    before = {name: type(module) for name, module in model.named_modules()}
    with pytest.raises(st.StraightThroughError) as caught:
        prepare(model, configs)
    assert message in str(caught.value)
    assert {name: type(module) for name, module in model.named_modules()} == before


WRONG = [
    (lambda: Config(), "a Config needs a weight, an input or an output"),
    (lambda: Config("w4"), "weight must be a Scheme or None, got 'w4'"),
    (lambda: Config(W4, delay=-1), "delay must be"),
    (lambda: Scheme("int4"), "grid must be one of st.grids"),
    (lambda: Scheme(Int(4), "max"), "scale must be one of st.scales"),
    (lambda: Scheme(Int(4), rule="foo"), "rule='foo' is unknown here"),
    (lambda: Scheme(Int(4), transform="foo"), "transform must be one of tanh"),
]


@pytest.mark.parametrize(("call", "message"), WRONG)
def test_wrong_configurations(call, message):
    with pytest.raises(st.ArgumentError) as caught:
        call()
    assert message in str(caught.value)

"""What is quantized of a model: which modules patterns mean, and which weights are their own."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import straightthrough as st
from straightthrough.grids import Int
from straightthrough.nn import CONFIGS, Config, Quantizer, Scheme, convert, prepare
from straightthrough.scales import AbsMax

W4 = Config(Scheme(Int(4), AbsMax(axis=0)))
A8 = Scheme(Int(8), AbsMax())
NORMED = "ignore:.*weight_norm:FutureWarning"


def on_grid(weight):
    """Whether every row is whole numbers times its largest size over 7."""
    weight = weight.detach()
    codes = weight / (weight.abs().amax(1, keepdim=True) / 7)
    return torch.allclose(codes, codes.round(), atol=1e-4)


def test_weights_that_are_computed_have_quantizers_of_their_own():
    """They were told apart by the ids of tensors that were gone, and these come again."""
    sizes = [(8, 8), (8, 8), (8, 9), (9, 8), (8, 8)]
    model = nn.Sequential(*(parametrizations.weight_norm(nn.Linear(*size)) for size in sizes))
    prepare(model, [(nn.Linear, "w4")])
    assert sum(isinstance(module, Quantizer) for module in model.modules()) == len(sizes)
    x = torch.randn(2, 8)
    y = model.eval()(x)
    assert torch.equal(convert(model, to="packed")(x), y)


class Diagonal(nn.Module):
    def forward(self, x):
        return torch.diag(x)


def test_a_matrix_that_is_made_of_a_vector_is_quantized():
    layer = nn.Linear(4, 4)
    layer.weight = nn.Parameter(torch.randn(4))
    parametrize.register_parametrization(layer, "weight", Diagonal(), unsafe=True)
    model = prepare(nn.Sequential(layer, nn.Linear(4, 4)), [(nn.Linear, CONFIGS["w2"])]).eval()
    quantizer, x = layer.parametrizations.weight[1], torch.randn(2, 4)
    assert isinstance(quantizer, Quantizer)
    wanted = quantizer(torch.diag(layer.parametrizations.weight.original))
    assert torch.equal(layer.weight, wanted)
    assert torch.equal(convert(model)(x), model(x))


def wrapped():
    """Return a layer whose forward was assigned, as wrappers for devices or dtypes do."""
    layer = nn.Linear(6, 4)
    own = layer.forward
    layer.forward = lambda x: 2 * own(x)
    return layer


def test_a_layer_with_an_assigned_forward_computes_with_a_quantized_weight():
    layer, x = wrapped(), torch.randn(3, 6)
    model = prepare(nn.Sequential(layer), [(nn.Linear, W4)])
    assert on_grid(layer.weight)
    assert torch.equal(model(x), 2 * nn.functional.linear(x, layer.weight, layer.bias))
    with pytest.raises(st.ArgumentError, match="'0' is a Linear with a forward of its own, of wh"):
        prepare(nn.Sequential(wrapped()), [(nn.Linear, "w4a8")])


@pytest.mark.filterwarnings(NORMED)
@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.utils.weight_norm(nn.Bilinear(3, 3, 4)),
        lambda: nn.utils.weight_norm(nn.LSTM(3, 4), "weight_hh_l0"),
        lambda: nn.utils.spectral_norm(nn.Bilinear(3, 3, 4)),
        lambda: prune.l1_unstructured(nn.MultiheadAttention(4, 2), "in_proj_weight", 0.5),
    ],
)
def test_what_a_hook_makes_a_weight_of_is_not_quantized_for_it(make):
    model = nn.Sequential(make())
    with pytest.raises(st.ArgumentError, match="of '0' is no parameter, but made before each call"):
        prepare(model, [("*", "w4")])


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_scripted_model_is_refused():
    with pytest.raises(st.ArgumentError, match="prepare the model before RecursiveScriptModule"):
        prepare(torch.jit.script(nn.Sequential(nn.Linear(3, 3))), [("*", "w4")])


class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.turn = nn.Parameter(torch.ones(3, 3, dtype=torch.complex64))


def test_a_parameter_that_is_not_of_floats_is_refused():
    model = nn.ModuleDict({"turn": Complex(), "other": nn.Linear(3, 3)})
    with pytest.raises(st.ArgumentError, match=r"'turn' of 'turn' is of torch\.complex64"):
        prepare(model, [("*", "w4")])
    prepare(model, [("turn", None), ("*", "w4")])


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_a_table_has_no_input_to_quantize(kind):
    model = prepare(nn.Sequential(kind(5, 4), nn.Linear(4, 3)), [("*", Config(W4.weight, A8))])
    assert sum(isinstance(module, Quantizer) for module in model.modules()) == 3
    assert on_grid(model[0](torch.arange(5).unsqueeze(1)).reshape(5, 4))


class Shared(nn.Module):
    """A model of which one layer has two names."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.decoder = nn.Sequential(self.embed, nn.Linear(4, 5))


@pytest.mark.parametrize("pattern", ["decoder.0", "decoder.*", r"re:decoder\.\d"])
def test_a_layer_of_several_names_fits_by_each(pattern):
    model = prepare(Shared(), [(pattern, W4)])
    assert model.embed.weight_quantizer is not None
    assert on_grid(model.embed.quantized_weight())
    model = prepare(Shared(), [("embed", None), ("decoder.*", W4)])
    assert type(model.embed) is nn.Embedding


def attention(**options):
    return nn.ModuleDict({"attend": nn.MultiheadAttention(8, 2, **options)})


@pytest.mark.parametrize("options", [{}, {"kdim": 6, "vdim": 5}])
@pytest.mark.parametrize("pattern", ["attend", "re:at+end", nn.MultiheadAttention])
def test_an_attention_is_quantized_whole(pattern, options):
    """Its output's weight is in a module that is never called."""
    model = prepare(attention(**options), [(pattern, W4)])["attend"]
    names = ["in_proj_weight"] if not options else [f"{n}_proj_weight" for n in "qkv"]
    assert all(on_grid(getattr(model, name)) for name in names)
    assert on_grid(model.out_proj.weight)


def test_an_attention_is_left_alone_whole():
    layer = nn.TransformerEncoderLayer(8, 2, 16)
    before = copy.deepcopy(layer.self_attn)
    prepare(layer, [(nn.MultiheadAttention, None), (nn.Linear, "w4a8")])
    assert type(layer.self_attn.out_proj) is type(before.out_proj)
    model = prepare(attention(), [("*.out_proj", None), (nn.MultiheadAttention, W4)])
    assert not on_grid(model["attend"].out_proj.weight)


def test_modules_that_share_a_weight_begin_with_it_at_once():
    model = Shared()
    model.decoder[1].weight = model.embed.weight
    late = Config(W4.weight, delay=9)
    with pytest.raises(st.ArgumentError, match=r"a delay of 9 and .* a delay of 0;"):
        prepare(model, [("embed", late), ("*", W4)])


@pytest.mark.parametrize("pattern", ["1.book", st.nn.Codebook, "1.*"])
def test_a_codebook_is_no_weight_to_quantize(pattern):
    """It was computed of a parameter that no longer was a codebook: where it starts was lost."""
    quantizer = st.nn.VectorQuantizer(8, 4, learn="loss")
    model = nn.Sequential(nn.Linear(4, 4), quantizer)
    with pytest.raises(st.ArgumentError, match="nothing that can be quantized is left"):
        prepare(model, [(pattern, W4)])
    prepare(model, [("*", W4)])
    quantizer.book.start_at(torch.ones(8, 4))
    assert torch.equal(quantizer.book.codebook, torch.ones(8, 4))

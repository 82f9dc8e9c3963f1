"""Presets against formulas of their papers, written out here in plain torch."""

from __future__ import annotations

import math

import pytest
import torch

import straightthrough as st
from straightthrough.nn import PRESETS, Quantizer, preset
from straightthrough.scales import AbsMax

GENERATOR = torch.Generator().manual_seed(0)
W = torch.randn(12, 64, generator=GENERATOR) * 0.3
A = torch.randn(9, 64, generator=GENERATOR).relu() * 2
G = torch.randn(12, 64, generator=GENERATOR)
GA = torch.randn(9, 64, generator=GENERATOR)


def pulled(quantize, x, grad):
    """The value, the gradient to the input, and those to the parameters."""
    x = x.clone().requires_grad_()
    y = quantize(x)
    learned = [*quantize.parameters()]
    to_x, *to_learned = torch.autograd.grad(y, [x, *learned], grad)
    return y.detach(), to_x, *(g.squeeze() if g.numel() == 1 else g for g in to_learned)


def assert_codes(got, due, step):
    """The same to rounding, but for one code on at most 1e-5 of the entries."""
    off = (got - due).abs()
    assert bool((off <= 1.01 * step).all())
    assert (off > 1e-5 * step + 1e-6 * due.abs()).double().mean() <= 1e-5


def lsq(x, grad, low, high, count):
    """Eqs. 1 to 3 and 5 of the paper, from its start on."""
    s = 2 * x.abs().mean() / math.sqrt(high)
    v = x / s
    inside = (v > low) & (v < high)
    y = v.clamp(low, high).round() * s
    slope = torch.where(inside, v.round() - v, v.clamp(low, high))
    return s, y, grad * inside, (grad * slope).sum() / math.sqrt(count * high)


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_lsq(bits):
    most = 2 ** (bits - 1)
    quantize = preset("lsq").weight.quantizer(bits)
    s, *due = lsq(W, G, -most, most - 1, W.numel())
    found = pulled(quantize, W, G)
    torch.testing.assert_close(quantize.scale.detach(), s)
    assert_codes(found[0], due[0], s)
    torch.testing.assert_close(list(found[1:]), due[1:], rtol=1e-4, atol=1e-5)
    _, *due = lsq(A, GA, 0, 2 * most - 1, A[0].numel())
    found = pulled(preset("lsq").activation.quantizer(bits), A, GA)
    torch.testing.assert_close(list(found), due, rtol=1e-4, atol=1e-4)


def test_lsq_plus():
    quantize = preset("lsq+").weight.quantizer(4)
    quantize(W)
    mean, sigma = W.mean(), W.std(correction=0)
    due = torch.maximum((mean - 3 * sigma).abs(), (mean + 3 * sigma).abs()) / 8
    torch.testing.assert_close(quantize.scale.detach(), due)

    quantize, x = preset("lsq+").activation.quantizer(4), A - 0.3
    quantize(x)
    with torch.no_grad():  # so that something lies beyond the range
        quantize.origin.mul_(0.5)
    s, b = quantize.scale.item(), quantize.offset.item()
    assert s == pytest.approx(0.5 * float(x.max() - x.min()) / 15, rel=1e-5)
    assert b == pytest.approx(float(x.min()), rel=1e-5)
    v = (x - b) / s
    inside = (v > 0) & (v < 15)
    code = v.clamp(0, 15).round()
    k = 1 / math.sqrt(64 * 15)
    y, to_x, to_s, to_b = pulled(quantize, x, GA)
    assert_codes(y, code * s + b, s)
    assert torch.equal(to_x, GA * inside)
    due = k * (GA * torch.where(inside, code - v, code)).sum()
    torch.testing.assert_close(to_s, due, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(to_b, k * (GA * ~inside).sum(), rtol=1e-4, atol=1e-4)


def test_pact():
    quantize, x = preset("pact").activation.quantizer(3), 8 * A
    y, to_x, to_s = pulled(quantize, x, GA)
    a, q = 10.0, 7
    torch.testing.assert_close(quantize.scale.item() * q, a)
    assert_codes(y, (x.clamp(0, a) * q / a).round() * a / q, a / q)
    assert torch.equal(to_x, GA * ((x > 0) & (x < a)))
    torch.testing.assert_close(to_s / q, (GA * (x >= a)).sum(), rtol=1e-4, atol=1e-4)


def test_dorefa():
    quantize, x = preset("dorefa").activation.quantizer(2), A / 2
    y, to_x = pulled(quantize, x, GA)
    assert_codes(y, (x.clamp(0, 1) * 3).round() / 3, 1 / 3)
    assert torch.equal(to_x, GA * ((x > 0) & (x < 1)))


def test_tqt():
    quantize = preset("tqt").weight.quantizer(4)
    y, to_x, to_log_s = pulled(quantize, W, G)
    t = W.mean().abs() + 3 * W.std(correction=0)
    s = 2.0 ** math.ceil(math.log2(t)) / 8
    assert quantize.scale.item() == s
    code = (W / s).round()
    inside = (code >= -8) & (code <= 7)
    assert torch.equal(y, code.clamp(-8, 7) * s)
    assert torch.equal(to_x, G * inside)
    slope = torch.where(inside, code - W / s, code.clamp(-8, 7))
    torch.testing.assert_close(to_log_s, s * math.log(2) * (G * slope).sum(), rtol=1e-4, atol=1e-4)


def test_ewgs():
    """On the domain of the official code, [0, 1], where delta is 1e-3."""
    quantize = preset("ewgs").activation.quantizer(2)
    quantize(A)
    s = quantize.scale.detach()
    found = pulled(quantize, A, GA)[1]
    x = A / (3 * s)
    rounded = (x.clamp(0, 1) * 3).round() / 3
    inside = (x >= 0) & (x <= 1)
    due = GA * (1 + 1e-3 * GA.sign() * (x - rounded)) * inside
    torch.testing.assert_close(found, due, rtol=1e-5, atol=1e-7)


def test_bitnet():
    """The published code: a floor of 1e-5, and x + (q(x) - x).detach()."""
    y, to_w = pulled(preset("bitnet").weight.quantizer(), W, G)
    m = W.abs().mean().clamp(min=1e-5)
    assert_codes(y, (W / m).round().clamp(-1, 1) * m, m)
    assert torch.equal(to_w, G)
    y, to_a = pulled(preset("bitnet").activation.quantizer(), A, GA)
    scale = 127 / A.abs().amax(-1, keepdim=True).clamp(min=1e-5)
    assert_codes(y, (A * scale).round().clamp(-128, 127) / scale, 1 / scale)
    assert torch.equal(to_a, GA)
    zeros = torch.zeros(2, 8)
    assert torch.equal(preset("bitnet").activation.quantizer()(zeros), zeros)


@pytest.mark.parametrize(("bits", "steps", "shift"), [(2, 2.0, 0.5), (1.58, 1.5, 0.0)])
def test_seq(bits, steps, shift):
    quantize = preset("seq").weight.quantizer(bits, shape=W.shape)
    quantize(W)
    with torch.no_grad():
        quantize.origin.mul_(0.6)
    a = quantize.scale.detach()
    torch.testing.assert_close(a, 0.6 * W.abs().amax(1, keepdim=True))
    y, to_w, to_a = pulled(quantize, W, G)
    v = W / a
    q = ((v.clamp(-0.99, 0.99) * steps - shift).round() + shift) / steps
    assert_codes(y, q * a, a / steps)
    inside = v.abs() <= 0.99
    assert torch.equal(to_w, G * inside)
    top = 0.75 if bits == 2 else 2 / 3
    slope = torch.where(inside, q - v, top * v.sign())
    due = (G * slope).sum(1, keepdim=True) / math.sqrt(64)
    torch.testing.assert_close(to_a, due, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_quest(bits):
    alpha = {1: 0.79788, 2: 1.49353, 4: 2.51393, 8: 3.88494}[bits]
    y, to_w = pulled(preset("quest").weight.quantizer(bits), W, G)
    a = alpha * W.square().mean(1, keepdim=True).sqrt()
    step = 2 * a / (2**bits - 1)
    due = (W.clamp(-a, a) / step + 0.5).round() * step - step / 2
    assert_codes(y, due, step)
    margin = (y - W).abs() - step / 2
    sure = margin.abs() > 1e-5
    assert torch.equal(to_w[sure], (G * (margin < 0))[sure])


def test_mxfp4():
    quantize = preset("mxfp4").weight.quantizer()
    y, to_w = pulled(quantize, W, G)
    blocks = W.reshape(12, 2, 32)
    scale = 2 ** (blocks.abs().amax(-1, keepdim=True).log2().floor() - 2)
    levels = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    levels = torch.cat([-levels.flip(0)[:-1], levels])
    nearest = ((blocks / scale).unsqueeze(-1) - levels).abs().argmin(-1)
    torch.testing.assert_close(y, (levels[nearest] * scale).reshape(12, 64), rtol=0, atol=0)
    assert torch.equal(to_w, G)


def test_nvfp4():
    y, to_w = pulled(preset("nvfp4").weight.quantizer(), W, G)
    g = W.abs().max() / (448 * 6)
    blocks = W.reshape(12, 4, 16)
    scale = (blocks.abs().amax(-1, keepdim=True) / 6 / g).clamp(2**-6, 448)
    scale = scale.to(torch.float8_e4m3fn).float() * g
    levels = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    levels = torch.cat([-levels.flip(0)[:-1], levels])
    nearest = ((blocks / scale).unsqueeze(-1) - levels).abs().argmin(-1)
    due = (levels[nearest] * scale).reshape(12, 64)
    torch.testing.assert_close(y, due, rtol=1e-6, atol=0)
    assert torch.equal(to_w, G)


def test_every_row_has_a_source_and_makes_quantizers():
    tested = {"lsq", "lsq+", "pact", "dorefa", "tqt", "ewgs", "bitnet", "twn", "seq", "quest"}
    assert set(PRESETS) == tested | {"mxfp4", "nvfp4"}
    for name, row in PRESETS.items():
        assert ", 20" in row.source, name
        assert row.weight or row.activation
        for recipe in filter(None, (row.weight, row.activation)):
            assert isinstance(recipe.quantizer(shape=W.shape), Quantizer)


def test_unknown_presets():
    with pytest.raises(st.ArgumentError, match="'lsqq' is no preset; known: lsq, "):
        preset("lsqq")
    with pytest.raises(st.ArgumentError, match="bits must be one of 1, 2, "):
        preset("quest").weight.quantizer(9)


def test_bits_that_a_grid_has_not_are_refused():
    for name, bits in [("lsq", 1.58), ("dorefa", 2.5)]:
        with pytest.raises(st.ArgumentError, match=f"bits must be an int .*{bits}"):
            preset(name).weight.quantizer(bits)
    for name, only in [("mxfp4", 4), ("nvfp4", 4), ("bitnet", 1.58)]:
        with pytest.raises(st.ArgumentError, match=f"bits must be {only}, as there are no others"):
            preset(name).weight.quantizer(8)
        assert preset(name).weight.scheme(only) == preset(name).weight.scheme()


@pytest.mark.parametrize("bits", [2, 4])
def test_dorefa_weights(bits):
    steps = 2**bits - 1
    t, largest = torch.tanh(W), torch.tanh(W).abs().max()
    due = 2 * ((t / (2 * largest) + 0.5) * steps).round() / steps - 1
    y, to_w = pulled(preset("dorefa").weight.quantizer(bits), W, G)
    assert_codes(y, due, 2 / steps)
    torch.testing.assert_close(to_w, G * (1 - t.square()) / largest)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_dorefa_weights_that_are_all_zero_learn(dtype):
    """As of a layer that starts at 0: a gradient over the least number of the dtype ended it."""
    w = torch.zeros(4, 3, dtype=dtype, requires_grad=True)
    y = preset("dorefa").weight.quantizer(bits=4)(w)
    assert torch.equal(torch.autograd.grad(y.sum(), w)[0], torch.ones_like(w))


def test_dorefa_weights_of_one_bit():
    y, to_w = pulled(preset("dorefa").weight.quantizer(1), W, G)
    torch.testing.assert_close(y, torch.where(W >= 0, 1.0, -1.0) * W.abs().mean())
    assert torch.equal(to_w, G)


def ternary(x):
    """Section 2 of the paper, of one filter."""
    kept = x.abs() > 0.7 * x.abs().mean()
    return torch.where(kept, x.sign() * x[kept].abs().mean(), 0)


def test_twn():
    y, to_w = pulled(preset("twn").weight.quantizer(shape=W.shape), W, G)
    for row, got in zip(W, y, strict=True):
        torch.testing.assert_close(got, ternary(row))
    assert torch.equal(to_w, G)
    quantize = preset("twn").weight.quantizer()
    assert torch.equal(quantize(torch.zeros(2, 3)), torch.zeros(2, 3))
    codes = quantize.codes(W)
    assert codes.unique().tolist() == [-1, 0, 1]
    assert torch.equal(quantize.decode(codes, quantize.scale_of(W)), y)


@pytest.mark.parametrize(
    ("scale", "rows"),
    [
        (AbsMax(), lambda x: x.reshape(1, -1)),
        (AbsMax(axis=0), lambda x: x),
        (AbsMax(axis=-1), lambda x: x.mT),
        (AbsMax(block=16), lambda x: x.reshape(-1, 16)),
        (AbsMax(token=True), lambda x: x),
    ],
    ids=["all", "rows", "columns", "blocks", "tokens"],
)
def test_twn_has_one_size_in_what_shares_a_scale(scale, rows):
    w = W * torch.linspace(0.1, 2, 64)  # a size of something else would be another
    y, to_w = pulled(Quantizer(st.grids.Ternary(), scale, "identity", transform="twn"), w, G)
    torch.testing.assert_close(rows(y), torch.stack([ternary(row) for row in rows(w)]))
    assert torch.equal(to_w, G)


def test_twn_of_a_transposed_convolution_has_a_size_an_output_channel():
    layer = torch.nn.ConvTranspose2d(8, 4, 3)
    due = torch.stack([ternary(layer.weight[:, channel]) for channel in range(4)], 1)
    config = st.nn.Config(preset("twn").weight.scheme())
    layer = st.nn.prepare(torch.nn.Sequential(layer), [("0", config)])[0]
    torch.testing.assert_close(layer.weight_quantizer(layer.weight), due)


def test_twn_of_a_vector_has_one_size():
    y = preset("twn").weight.quantizer()(torch.tensor([1.0, 0.1, -2.0]))
    assert y.tolist() == [1.5, 0.0, -1.5]


def test_an_unknown_transform():
    with pytest.raises(st.ArgumentError, match="transform must be one of tanh, twn, or '', got 's"):
        st.nn.Quantizer(st.grids.Int(4), transform="sin")

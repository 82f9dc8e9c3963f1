"""What torchao and brevitas do differently: the rows of docs/guides/coming-from-torchao.md."""

from __future__ import annotations

import pytest
import torch

import straightthrough as st
from straightthrough.grids import MX, NVFP4, Binary, Int, Ternary
from straightthrough.nn import Quantizer, Scheme, preset
from straightthrough.scales import AbsMax, Fixed, Learned

pytestmark = pytest.mark.filterwarnings("ignore")  # the peers', of themselves

W = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
G = torch.randn(64, 128, generator=torch.Generator().manual_seed(1))


def torchao(name):
    return pytest.importorskip(f"torchao.{name}", reason="torchao is not installed")


def brevitas(name):
    return pytest.importorskip(f"brevitas.{name}", reason="brevitas is not installed")


def pulled(quantize, x=W, grad=G):
    x = x.clone().requires_grad_()
    y = quantize(x)
    return y.detach(), torch.autograd.grad(y, x, grad)[0]


def off_by_one(got, due, step):
    """Assert the same codes, but for one step at a few entries; return how many these are."""
    codes = ((got - due) / step).round().abs()
    assert codes.max() <= 1
    return int(codes.count_nonzero())


def group_scale(x):
    return torchao("quantization.utils").get_group_qparams_symmetric(x, 4, 32)[0]


def test_torchaos_symmetric_scale_ends_at_half_a_code_more():
    ours = Quantizer(Int(4), AbsMax(block=32)).scale_of(W).squeeze(-1)
    torch.testing.assert_close(ours * 7, group_scale(W) * 7.5)


def test_torchao_multiplies_by_a_reciprocal_and_its_gradient_is_not_bit_for_bit():
    fake = torchao("quantization.quant_primitives")._fake_quantize_affine
    scale = 0.9 * group_scale(W)  # at its own, the largest lie between two codes
    zero = torch.zeros_like(scale, dtype=torch.int32)
    y, to_x = pulled(lambda x: fake(x, (1, 32), scale, zero, torch.int8, -8, 7))
    laid = scale.unsqueeze(-1)
    ours, ours_to_x = pulled(
        lambda x: st.fake_quantize(x.unflatten(-1, (-1, 32)), laid, grid=Int(4)).flatten(-2)
    )
    assert off_by_one(ours, y, scale.repeat_interleave(32, -1)) <= 1
    assert bool(((ours_to_x == G) | (ours_to_x == 0)).all())
    assert 0.5 < (to_x == G).double().mean() < 0.95
    torch.testing.assert_close(to_x, ours_to_x)


def test_torchaos_bitnet_is_ours():
    bitnet = torchao("prototype.quantized_training.bitnet")
    scale = bitnet.get_bitnet_scale(W)
    due = bitnet.quantize_bitnet_weight(W, scale) * scale
    assert torch.equal(preset("bitnet").weight.quantizer()(W), due)


@pytest.mark.parametrize("mode", ["floor", "rceil", "ceil", "even"])
def test_torchaos_mx_is_ours_in_the_same_mode(mode):
    formats = torchao("prototype.mx_formats.mx_tensor")
    modes = torchao("prototype.mx_formats.config").ScaleCalculationMode
    x = 10 * W
    kept = formats.MXTensor.to_mx(x, torch.float4_e2m1fn_x2, 32, modes[mode.upper()])
    due = kept.dequantize(torch.float32)
    ours = Quantizer(MX("e2m1", mode=mode), Fixed(), "identity")
    assert torch.equal(ours(x), due)
    other = Quantizer(MX("e2m1", mode="floor" if mode != "floor" else "rceil"), Fixed())
    assert not torch.equal(other(x), due)


def test_torchaos_nvfp4_is_ours_to_rounding():
    module = torchao("prototype.mx_formats.nvfp4_tensor")
    scale = module.per_tensor_amax_to_scale(W.abs().max())
    due = module.NVFP4Tensor.to_nvfp4(W, per_tensor_scale=scale).dequantize(torch.float32)
    torch.testing.assert_close(Quantizer(NVFP4(), AbsMax())(W), due, rtol=1e-6, atol=1e-7)


def test_torchaos_fake_quantized_linear_is_another_module():
    qat = torchao("quantization.qat")
    layer = torch.nn.Linear(128, 64)
    config = qat.IntxFakeQuantizeConfig(torch.int4, group_size=32)
    assert qat.FakeQuantizedLinear.from_linear(layer, weight_config=config) is not layer
    assert st.nn.prepare(layer, [("", "w4")]) is layer


def test_brevitas_scale_is_in_the_graph():
    nn, quant = brevitas("nn"), brevitas("quant")
    layer = nn.QuantLinear(
        128, 64, bias=False, weight_quant=quant.Int8WeightPerTensorFloat, weight_bit_width=4
    )
    layer.weight.data.copy_(W)
    value = layer.quant_weight().value
    scheme = Scheme(Int(4, narrow=True), AbsMax(), "identity")
    ours, to_w = pulled(scheme.quantizer())
    assert off_by_one(ours, value.detach(), W.abs().max() / 7) <= 1e-3 * W.numel()
    found = torch.autograd.grad(value, layer.weight, G)[0]
    differs = (found - to_w).abs() > 1e-4
    assert differs.nonzero().tolist() == [[*divmod(int(W.abs().argmax()), 128)]]
    assert torch.equal(to_w, G)


def test_brevitas_learns_the_end_of_the_range_and_we_the_step():
    nn, quant = brevitas("nn"), brevitas("quant")
    layer = nn.QuantIdentity(
        act_quant=quant.Int8ActPerTensorFloat,
        scaling_impl_type="parameter",
        scaling_init=1.0,
        bit_width=4,
    )
    assert layer.act_quant.scale().item() == pytest.approx(1 / 8)
    value, to_x = pulled(lambda x: layer(x).value if hasattr(layer(x), "value") else layer(x))
    ours, ours_to_x = pulled(lambda x: st.fake_quantize(x, 1 / 8, grid=Int(4)))
    torch.testing.assert_close(value, ours)
    torch.testing.assert_close(to_x, ours_to_x)
    end = Learned(start=7 / 8)
    torch.testing.assert_close(Quantizer(Int(4), end).scale_of(W).item(), 1 / 8)


def test_brevitas_binary_gradient_has_the_scale():
    core = brevitas("core.quant"), brevitas("core.scaling")
    binary = core[0].BinaryQuant(core[1].ConstScaling(0.5))
    value, to_x = pulled(lambda x: binary(x)[0])
    ours, ours_to_x = pulled(lambda x: st.fake_quantize(x, 0.5, grid=Binary(), rule="identity"))
    torch.testing.assert_close(value, ours)
    torch.testing.assert_close(to_x, 0.5 * G)
    assert torch.equal(ours_to_x, G)


def test_brevitas_ternary_has_no_gradient_at_0():
    core = brevitas("core.quant"), brevitas("core.scaling")
    ternary = core[0].TernaryQuant(core[1].ConstScaling(1.0), 0.5)
    value, to_x = pulled(lambda x: ternary(x)[0])
    ours, ours_to_x = pulled(lambda x: st.fake_quantize(x, 1.0, grid=Ternary(), rule="identity"))
    assert torch.equal(value + 0.0, ours)
    assert bool((to_x[W.abs() < 0.5] == 0).all())
    assert torch.equal(ours_to_x, G)

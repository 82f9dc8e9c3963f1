"""ONNX graphs of prepared models, run by onnxruntime: integers, and values as trained."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import straightthrough as st
from straightthrough.grids import MX, NVFP4, Binary, Float, HalfInt, Int, Stretched, Ternary
from straightthrough.nn import Config, Scheme, prepare, to_onnx
from straightthrough.scales import AbsMax, AbsMean, Fixed, Learned, Observed

pytestmark = pytest.mark.filterwarnings("ignore")  # the exporter's, of itself

INT4, INT8, INT16, FLOAT = 22, 3, 5, 1
A8 = Scheme(Int(8), Learned(start="max"), "lsq")
WEIGHTS = {
    "int8": (Scheme(Int(8), Learned(axis=0), "lsq"), INT8),
    "int4": (Scheme(Int(4), Learned(axis=0), "lsq"), INT4),
    "int3 blocks": (Scheme(Int(3), Learned(block=8), "lsq"), INT4),
    "uint4": (Scheme(Int(4, signed=False), Learned(axis=0, zero_point=True)), INT4),
    "uint8": (Scheme(Int(8, signed=False), Learned(zero_point=True)), INT8),
    "uint6 at 0": (Scheme(Int(6, signed=False), AbsMax()), INT8),
    "int12": (Scheme(Int(12), AbsMax()), INT16),
    "rows": (Scheme(Int(4), AbsMax(token=True)), INT4),
    "2 bits": (Scheme(Stretched(2), Learned(axis=0, start="max"), "lsq"), INT4),
    "1.58 bits": (Scheme(Stretched(1.58), AbsMax()), INT4),
    "half": (Scheme(HalfInt(4), AbsMax()), INT8),
    "half of 16 bits": (Scheme(HalfInt(16), AbsMax()), FLOAT),
    "ternary": (Scheme(Ternary(), AbsMean(axis=0), "identity"), INT4),
    "binary": (Scheme(Binary(), AbsMean(axis=0), "identity"), INT4),
    "e4m3": (Scheme(Float("e4m3"), AbsMax()), FLOAT),
    "mxfp4": (Scheme(MX("e2m1"), Fixed(), "identity"), FLOAT),
    "offset": (Scheme(Int(4, signed=False), Learned(offset=True)), FLOAT),
}


def run(program, x, optimized=False):
    levels = onnxruntime.GraphOptimizationLevel
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = (
        levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    )
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), options)
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


def exported(model, x):
    return to_onnx(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch", max=512)},))


def types(program):
    return {each.name: each.data_type for each in program.model_proto.graph.initializer}


class Side(nn.Module):
    """Modules beside each other, which take one input."""

    def __init__(self, modules):
        super().__init__()
        self.parts = nn.ModuleList(modules)

    def forward(self, x):
        return torch.stack([part(x) for part in self.parts])


def test_weights_are_integers_of_the_same_value():
    torch.manual_seed(0)
    model = Side([nn.Linear(32, 8, bias=False) for _ in WEIGHTS])
    schemes = [(f"parts.{n}", Config(scheme)) for n, (scheme, _) in enumerate(WEIGHTS.values())]
    model = prepare(model, schemes).eval()
    x = torch.randn(16, 32)
    program = exported(model, x[:2])
    found = types(program)
    for n, (name, (_, due)) in enumerate(WEIGHTS.items()):
        assert found[f"parts.{n}.weight"] == due, name
    torch.testing.assert_close(run(program, x), model(x).detach(), rtol=1e-5, atol=1e-5)
    eye = torch.eye(32)  # the weights themselves, without a sum
    torch.testing.assert_close(run(program, eye), model(eye).detach(), rtol=3e-7, atol=0)


INPUTS = {
    "int8": A8,
    "narrow": Scheme(Int(8, narrow=True), AbsMax()),
    "uint4": Scheme(Int(4, signed=False), Learned(start="mse"), "lsq"),
    "zero point": Scheme(Int(8, signed=False), Observed(zero_point=True)),
    "tokens": Scheme(Int(8), AbsMax(token=True)),
    "blocks": Scheme(Int(5), AbsMax(block=8)),
    "channels": Scheme(Int(6), AbsMax(axis=1)),
    "int10": Scheme(Int(10), AbsMax()),
    "ternary": Scheme(Ternary(), AbsMean()),
}


def test_inputs_go_through_nodes_exactly():
    torch.manual_seed(0)
    model = Side([scheme.quantizer((3, 5, 16)) for scheme in INPUTS.values()]).eval()
    x = torch.randn(3, 5, 16)
    model(x)
    program, x = to_onnx(model, (x,)), 2 * x
    count = Counter(node.op_type for node in program.model_proto.graph.node)
    assert count["QuantizeLinear"] == count["DequantizeLinear"] == len(INPUTS)
    for name, got, due in zip(INPUTS, run(program, x), model(x).detach(), strict=True):
        assert torch.equal(got, due), name


def test_narrow_inputs_of_several_layers_are_clipped_apart():
    scheme = Scheme(Int(4), Learned())
    model = Side([scheme.quantizer() for _ in range(3)]).eval()
    for part, scale in zip(model.parts, (0.1, 0.2, 0.4), strict=True):
        part.start_at(scale)
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    program = to_onnx(model, (x,))
    assert [node.op_type for node in program.model_proto.graph.node].count("Clip") == 3
    assert torch.equal(run(program, x), model(x).detach())


def test_what_has_no_node_is_exported_as_arithmetic():
    grids = [HalfInt(3), Float("e2m1"), Float("e5m2"), Stretched(2), Binary(), MX("e2m1"), NVFP4()]
    schemes = [*map(Scheme, grids), Scheme(Int(4, signed=False), Learned(offset=True))]
    model, x = Side([scheme.quantizer() for scheme in schemes]).eval(), torch.randn(3, 5, 32)
    y = model(x).detach()
    program = to_onnx(model, (x,))
    assert "QuantizeLinear" not in {node.op_type for node in program.model_proto.graph.node}
    for scheme, got, due in zip(schemes, run(program, x), y, strict=True):
        torch.testing.assert_close(got, due, rtol=1e-6, atol=1e-6, msg=str(scheme))


class Net(nn.Module):
    """Layers of every kind that graphs of images and words have."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.fc, self.head = nn.Linear(4 * 12 * 12, 64), nn.Linear(64, 10)

    def forward(self, x):
        x = self.norm(self.conv(x)).relu()
        x = self.up(x).relu().flatten(1)
        return self.head(self.fc(x).relu())


def test_a_model_in_float64_is_exported_as_arithmetic():
    """For which the nodes are not: a graph with them is refused by the runtime."""
    schemes = [Config(Scheme(Int(4), Learned(axis=0)), A8, Scheme(Ternary(), Learned())), "w8a8"]
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).double()
    model = prepare(model, [("0", schemes[0]), ("2", schemes[1])]).eval()
    x = torch.randn(5, 8, dtype=torch.float64)
    y = model(x)
    torch.testing.assert_close(run(exported(model, x), x), y.detach())


def test_a_tensor_alone_is_one_argument():
    """As to `torch.onnx.export`; its rows were taken for the arguments."""
    model = prepare(nn.Sequential(nn.Linear(8, 4)), [("0", "w4")]).eval()
    for rows in (1, 3):
        x = torch.randn(rows, 8)
        torch.testing.assert_close(run(to_onnx(model, x), x), model(x).detach())


def test_a_net_is_the_one_that_was_trained():
    torch.manual_seed(0)
    a4 = Scheme(Int(4, signed=False), Learned(start="mse"), "lsq")
    w4 = Scheme(Int(4), Learned(axis=0, start="mse"), st.estimators.LSQ(batch_dims=0))
    model = prepare(Net(), [("conv", "w8a8"), ("head", Config(w4, A8, A8)), ("*", Config(w4, a4))])
    optimizer = torch.optim.Adam(st.nn.param_groups(model, lr=3e-3))
    x = torch.randn(512, 1, 8, 8)
    for images in x.split(128):
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()
    model.eval()
    y, program = model(x).detach(), exported(model, x[:2])
    assert types(program)["up.weight"] == INT4
    assert types(program)["conv.weight"] == INT8
    step = model.head.output_quantizer.scale.item()
    off = (run(program, x) - y).abs()
    assert (off < 1e-5).double().mean() > 0.999  # a sum in another order may cross a threshold
    fast = (run(program, x, optimized=True) - y).abs()
    assert (fast < 1.01 * step).double().mean() > 0.999
    size = sum(len(each.raw_data) for each in program.model_proto.graph.initializer)
    assert size < 0.15 * sum(p.nbytes for p in Net().parameters())


def test_parametrized_weights_and_embeddings_are_integers():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(9, 8)
            self.attend = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, index):
            x = self.embed(index)
            return self.attend(x, x, x, need_weights=False)[0]

    torch.manual_seed(0)
    model, index = Words().eval(), torch.randint(9, (2, 5))
    prepare(model, [("*", Config(Scheme(Int(4), Learned(axis=0))))])
    with torch.no_grad():
        y = model(index)
    program = to_onnx(model, (index,))
    assert sorted(types(program).values()).count(INT4) == 3
    torch.testing.assert_close(run(program, index), y, rtol=1e-5, atol=1e-5)


def test_integers_are_those_of_the_node_itself():
    """QuantizeLinear divides, rounds half to even and adds the zero point, as fake_quantize."""
    from onnx import TensorProto, helper

    x = torch.cat([torch.randn(20_000), torch.arange(-20, 20) / 4 * 0.3])
    scale, zero = np.float32(0.3), np.uint8(7)
    names = ["QuantizeLinear", "DequantizeLinear"]
    nodes = [
        helper.make_node(name, [a, "s", "z"], [b])
        for name, a, b in zip(names, ["x", "q"], ["q", "y"], strict=True)
    ]
    x_of, y_of = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [None]) for n in "xy")
    constants = [
        helper.make_tensor("s", TensorProto.FLOAT, [], [scale]),
        helper.make_tensor("z", TensorProto.UINT8, [], [zero]),
    ]
    graph = helper.make_graph(nodes, "g", [x_of], [y_of], constants)
    opsets = [helper.make_opsetid("", 21)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    due = torch.from_numpy(session.run(None, {"x": x.numpy()})[0])
    y = st.fake_quantize(x, float(scale), 7, grid=Int(8, signed=False))
    assert torch.equal(y, due)


def test_what_is_refused():
    model = prepare(nn.Linear(4, 2), [("", "w4")])
    with pytest.raises(st.ArgumentError, match=r"'' is in training; call eval\(\)"):
        to_onnx(model, (torch.randn(1, 4),))
    fresh = prepare(nn.Linear(4, 2), [("", "w4a8")]).eval()
    with pytest.raises(st.ArgumentError, match="'input_quantizer' has no scale yet; first run"):
        to_onnx(fresh, (torch.randn(1, 4),))
    with pytest.raises(st.ArgumentError, match="opset_version must be at least 21"):
        to_onnx(model.eval(), (torch.randn(1, 4),), opset_version=18)
    packed = st.nn.convert(model, to="packed")
    with pytest.raises(st.ArgumentError, match="the model is packed, by operations on bytes"):
        to_onnx(packed, (torch.randn(1, 4),))
    to_onnx(st.nn.convert(packed), (torch.randn(1, 4),))

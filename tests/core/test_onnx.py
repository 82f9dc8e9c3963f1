"""Modules in ONNX, which has no operator of ours, run by onnxruntime as eager code runs them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import straightthrough as st
from calls import Calls


def run(model: nn.Module, seen: Tensor, *inputs: Tensor) -> list[list[Tensor]]:
    """Return what a model that is exported by one batch gives for others in onnxruntime."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        batch = ({0: torch.export.Dim("batch", max=64)},)
        program = torch.onnx.export(model, (seen,), dynamo=True, dynamic_shapes=batch)
    assert program is not None
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    name = session.get_inputs()[0].name
    return [[*map(torch.as_tensor, session.run(None, {name: x.numpy()}))] for x in inputs]


def started(model: nn.Module) -> nn.Module:
    model(torch.randn(50, 6))
    return model.eval()


@pytest.mark.parametrize(
    "make",
    [
        lambda: started(st.nn.VectorQuantizer(16, 6)),
        lambda: started(st.nn.VectorQuantizer(16, 6, "rotation", metric="cosine", learn="loss")),
        lambda: started(st.nn.ResidualVQ(3, 16, 6)),
        lambda: started(st.nn.GroupedVQ(2, 16, 6)),
        lambda: Calls(lambda x: st.vector_quantize(x.unflatten(-1, (2, 3)), BOOKS)),
        lambda: st.nn.FSQ([3, 4, 5, 8, 2, 7]),
        lambda: st.nn.FSQ([3, 4, 5, 8, 2, 7], symmetric=True, bound="sigmoid"),
        lambda: st.nn.LFQ(6).eval(),
        lambda: Calls(st.bsq),
        lambda: Calls(lambda x: st.fsq_decode(x[:, 0].abs().clamp(max=59).long(), (3, 4, 5))),
        lambda: Calls(lambda x: st.lfq_decode(x[:, 0].abs().clamp(max=59).long(), 6)),
        lambda: st.nn.TopKRouter(6, 2),
        lambda: st.nn.TopKRouter(6, 3, scores="sigmoid", normalize=False).eval(),
        lambda: Calls(st.rank),
        lambda: Calls(lambda x: st.rank(x, descending=False)),
        lambda: Calls(st.permutation),
        lambda: st.nn.Quantizer(st.grids.Int(4), transform="tanh"),
    ],
)
def test_onnxruntime_gives_what_eager_code_gives(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = make()
    plain = 3 * torch.randn(9, 6)
    gaps = plain.masked_fill(torch.rand(9, 6) < 0.3, -math.inf)
    inputs = [plain, plain.round(), torch.zeros(2, 6)]
    if not isinstance(model, st.nn.Quantizer):  # whose scale would be infinite
        inputs.append(gaps)
    for x, got in zip(inputs, run(model, torch.randn(4, 6), *inputs), strict=True):
        due = model(x)
        due = [*due] if isinstance(due, tuple) else [due]
        torch.testing.assert_close(got, due, rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("make", [st.nn.Argmax, st.nn.Categorical, st.nn.CategoricalInteger])
def test_a_row_that_holds_nan_is_nan(make: Callable[[], nn.Module]) -> None:
    x, model = torch.tensor([[1.0, math.nan, 2.0], [0.0, 1.0, 2.0]]), make().eval()
    [[got]] = run(model, torch.randn(4, 3), x)
    torch.testing.assert_close(got, model(x), equal_nan=True)


BOOKS = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_the_nearest_codeword_is_found_however_far_from_0_everything_lies(offset: float) -> None:
    codebook = offset + torch.randn(300, 4)
    codebook[7], codebook[8] = torch.nan, codebook[3]  # never chosen, and second of a pair
    z = torch.cat([offset + torch.randn(60, 4), codebook[2:5]])
    [[index]] = run(Calls(lambda x: st.nearest(x, codebook)), z[:3], z)
    distance = (z.double().unsqueeze(1) - codebook.double()).square().sum(-1)
    assert torch.equal(index, distance.nan_to_num(math.inf).argmin(-1))


def test_numbers_of_many_bits_are_exact() -> None:
    """The runtime sums whole numbers as floats."""
    z = torch.randn(30, 60)
    [[index]] = run(Calls(lambda x: st.lfq(x)[1]), z[:3], z)
    assert torch.equal(index, st.lfq(z)[1])

"""Vector quantization: the codeword bit for bit, and gradients to z and to the codebook."""

from __future__ import annotations

import io
import math

import pytest
import torch
from torch import nn

import straightthrough as st
from straightthrough.core.errors import FLOATING

RULES = ["ste", "both", "rotation", "diveq"]
EACH_RULE = pytest.mark.parametrize("rule", RULES)
EACH_DTYPE = pytest.mark.parametrize("dtype", FLOATING)


@EACH_DTYPE
@EACH_RULE
def test_the_value_is_the_codeword_bit_for_bit(rule, dtype):
    """`z + (q - z)` and a rotation of z miss it in 9 to 65 % of the entries."""
    z = torch.randn(500, 8).to(dtype).requires_grad_()
    codebook = torch.randn(64, 8).to(dtype).requires_grad_()
    q, index = st.vector_quantize(z, codebook, rule)
    assert torch.equal(q, codebook[index])
    assert torch.equal(index, st.nearest(z, codebook))
    zero = torch.zeros(1, 8, dtype=dtype, requires_grad=True)
    assert torch.equal(*[st.vector_quantize(zero, codebook, r)[0] for r in (rule, "ste")])


@EACH_RULE
def test_gradients_are_the_rules_summed_over_the_picks(rule):
    z = torch.randn(50, 3, dtype=torch.float64, requires_grad=True)
    codebook = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    q, index = st.vector_quantize(z, codebook, rule)
    grad = torch.randn_like(z)
    to_z, to_codebook = torch.autograd.grad(q, (z, codebook), grad, materialize_grads=True)
    resolved = st.core.registry.resolve("estimator", rule, st.estimators.PairEstimator)
    due_z, due_q = resolved.vjp(z.detach(), codebook.detach()[index], grad)
    torch.testing.assert_close(to_z, due_z)
    for k in range(4):
        torch.testing.assert_close(to_codebook[k], due_q[index == k].sum(0))


def through(z, codebook, rule):
    return st.through(z, codebook[: len(z)], rule)


def quantized(z, codebook, rule):
    return st.vector_quantize(z, codebook, rule)[0]


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("rows", [5, 5000])
@pytest.mark.parametrize("call", [through, quantized])
@pytest.mark.parametrize("rule", ["ste", "rotation"])
def test_an_optimizer_leaves_a_codebook_alone_that_gets_no_gradient(rule, call, rows, compiled):
    """Zeros in the place of None would be decayed, as no snippet with `detach` is."""
    torch.compiler.reset()
    codebook = nn.Parameter(torch.randn(6000, 4))
    before, z = codebook.detach().clone(), torch.randn(rows, 4, requires_grad=True)
    if compiled:
        call = torch.compile(call, backend="aot_eager")
    optimizer = torch.optim.AdamW([codebook], lr=0.1, weight_decay=0.1)
    call(z, codebook, rule).sum().backward()
    optimizer.step()
    assert codebook.grad is None
    assert torch.equal(codebook, before)
    assert z.grad is not None


def test_gradients_of_a_half_codebook_are_added_up_in_float32():
    codebook = torch.zeros(1, 1, dtype=torch.bfloat16, requires_grad=True)
    q, _ = st.vector_quantize(torch.ones(4096, 1, dtype=torch.bfloat16), codebook, "both")
    q.sum().backward()
    assert codebook.grad.item() == 4096
    codebook = torch.zeros(1, 1, dtype=torch.float16, requires_grad=True)
    q, _ = st.vector_quantize(torch.ones(4, 1, dtype=torch.float16), codebook, "both")
    q.backward(torch.full_like(q, 6e4))
    assert codebook.grad.item() == torch.finfo(torch.float16).max


@EACH_RULE
def test_the_codebook_may_be_written_to_before_backward(rule):
    z = torch.randn(20, 3, requires_grad=True)
    codebook = torch.randn(4, 3)
    due = torch.autograd.grad(st.vector_quantize(z, codebook, rule)[0].sum(), z)[0]
    q, _ = st.vector_quantize(z, codebook, rule)
    codebook.mul_(2)
    assert torch.equal(torch.autograd.grad(q.sum(), z)[0], due)


@EACH_RULE
def test_a_row_without_a_codeword_is_nan_and_teaches_nothing(rule):
    z = torch.tensor([[1.0, 1.0], [math.nan, 1.0], [math.inf, 0.0]], requires_grad=True)
    codebook = torch.randn(3, 2, requires_grad=True)
    q, index = st.vector_quantize(z, codebook, rule)
    assert index[1:].tolist() == [-1, -1]
    assert q[1:].isnan().all()
    assert q[0].isfinite().all()
    (to_codebook,) = torch.autograd.grad(q.sum(), codebook, materialize_grads=True)
    assert to_codebook.isfinite().all()
    with st.strict(), pytest.raises(st.ArgumentError, match=r"row \(1,\).*mend .*the vector"):
        st.vector_quantize(z, codebook, rule)


def test_a_codebook_a_head_learns_by_itself():
    z, codebook = torch.randn(9, 2, 3, requires_grad=True), torch.randn(2, 4, 3, requires_grad=True)
    q, index = st.vector_quantize(z, codebook, "diveq")
    grad = torch.randn_like(q)
    together = torch.autograd.grad(q, (z, codebook), grad)
    for head in range(2):
        own, numbers = st.vector_quantize(z[:, head], codebook[head], "diveq")
        assert torch.equal(q[:, head], own)
        assert torch.equal(index[:, head], numbers)
        alone = torch.autograd.grad(own, (z, codebook), grad[:, head])
        torch.testing.assert_close(together[0][:, head], alone[0][:, head])
        torch.testing.assert_close(together[1][head], alone[1][head])


def test_autocast_casts_the_codebook():
    codebook = torch.randn(4, 3, requires_grad=True)
    z = torch.randn(5, 3, dtype=torch.bfloat16, requires_grad=True)
    with pytest.raises(st.DtypeError, match=r"codebook must have the dtype torch\.bfloat16"):
        st.vector_quantize(z, codebook)
    with torch.autocast("cpu", torch.bfloat16):
        q, index = st.vector_quantize(z, codebook, "both")
    assert torch.equal(q, codebook.bfloat16()[index])
    q.sum().backward()
    assert codebook.grad.dtype == torch.float32


class Quantizer(nn.Module):
    def __init__(self, rule: str) -> None:
        super().__init__()
        self.rule, self.codebook = rule, nn.Parameter(torch.randn(6, 3))

    def forward(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return st.vector_quantize(2 * z, self.codebook, self.rule)


@EACH_RULE
@pytest.mark.parametrize("strict", [True, False])
def test_an_exported_module_has_the_value_and_the_gradients(rule, strict):
    model, z = Quantizer(rule), torch.randn(5, 3)
    dynamic = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(model, (z,), strict=strict, dynamic_shapes=dynamic)
    file = io.BytesIO()
    torch.export.save(program, file)
    twin, z = torch.export.load(file).module(), torch.randn(9, 3, requires_grad=True)
    (q, index), (due, number) = twin(z), model(z)
    assert torch.equal(q, due)
    assert torch.equal(index, number)
    got, wanted = (
        torch.autograd.grad(value.square().sum(), (z, of.codebook), materialize_grads=True)
        for value, of in ((q, twin), (due, model))
    )
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_through_checks_its_pair():
    with pytest.raises(st.ShapeError, match=r"q must have the shape \(3,\) of z, got \(1, 3\)"):
        st.through(torch.ones(3), torch.ones(1, 3))
    with pytest.raises(st.DtypeError, match=r"q must have the dtype torch\.float32"):
        st.through(torch.ones(3), torch.ones(3).double())

"""Operators of known outcomes, defined here alone: the suite checks them by their records."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor

import straightthrough as st
from straightthrough import testing
from straightthrough.core.engine import apply
from straightthrough.core.errors import check_floating, check_outcomes
from straightthrough.core.operation import Operation
from straightthrough.core.outcomes import Codeword, OneHot
from straightthrough.core.precision import compute_dtype, narrowed
from straightthrough.core.registry import OPERATORS, OperatorRecord
from straightthrough.core.signature import Input, sizes
from straightthrough.testing import Case

# ---- two inputs, a value and an index, a gradient to both ----


def nearest_number(z: Tensor, codebook: Tensor) -> Tensor:
    """The first codeword whose largest difference is the least; -1 where it is not finite."""
    largest = (z.double().unsqueeze(-2) - codebook.double()).abs().amax(-1)
    least, number = largest.min(-1)
    return torch.where(least.isfinite(), number, -1)


@dataclass(frozen=True)
class Nearest(Operation):
    """The nearest codeword and its number; the gradient goes through to z and to the codeword."""

    learned: bool = True
    returned: ClassVar[slice] = slice(2)

    def forward(self, z: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
        number = nearest_number(z, codebook)
        quantized = codebook[number.clamp(min=0)]
        return torch.where((number < 0).unsqueeze(-1), math.nan, quantized), number

    def residuals(self, inputs, outputs):
        return inputs[1], outputs[1]

    def backward(self, grad: Tensor, codebook: Tensor, number: Tensor):
        if not self.learned:
            return grad, None
        wide = grad.reshape(-1, grad.shape[-1]).to(compute_dtype(grad.dtype))
        sums = wide.new_zeros(len(codebook) + 1, codebook.shape[-1])
        to_codebook = sums.index_add(0, number.reshape(-1) % len(sums), wide)[:-1]
        return grad, narrowed(to_codebook, grad.dtype)

    def jvp(self, tangents, codebook: Tensor, number: Tensor) -> Tensor:
        to_z, to_codebook = tangents
        if not self.learned:
            return to_z
        rows = to_codebook[number.clamp(min=0)]
        return to_z + torch.where((number < 0).unsqueeze(-1), 0, rows)


def nearest(z: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest codeword and its number."""
    return _nearest(Nearest(), z, codebook)


def nearest_of_fixed(z: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest codeword and its number, of a codebook that gets no gradient."""
    return _nearest(Nearest(learned=False), z, codebook)


def _nearest(operation: Nearest, z: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    check_floating("z", z)
    check_floating("codebook", codebook)
    if codebook.dtype != z.dtype:
        raise st.DtypeError(f"codebook must have the dtype {z.dtype} of z, got {codebook.dtype}")
    if codebook.ndim != 2 or codebook.shape[-1] != z.shape[-1]:
        raise st.ShapeError(f"codebook must be (K, D), got {tuple(codebook.shape)}")
    quantized, number = apply(operation, z, codebook)
    check_outcomes("nearest", lambda: number < 0)
    return quantized, number


def specified(z: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """One codeword after the other, a later one where it is strictly nearer."""
    least = torch.full(z.shape[:-1], math.inf, dtype=torch.float64)
    value, number = torch.full_like(z, math.nan), torch.full(z.shape[:-1], -1)
    for k, codeword in enumerate(codebook):
        differences = z.double() - codeword.double()
        largest = torch.linalg.vector_norm(differences, math.inf, -1)
        nearer = largest < least
        least, number = torch.where(nearer, largest, least), torch.where(nearer, k, number)
        value = torch.where(nearer.unsqueeze(-1), codeword, value)
    return value, number


def gradient_to_both(rule, z, codebook, quantized, number, grad, noise):
    hot = (number.unsqueeze(-1) == torch.arange(len(codebook))).double()
    grad = grad.double()
    return grad, hot.flatten(0, -2).T @ grad.reshape(-1, grad.shape[-1])


NEAREST = OperatorRecord(
    name="nearest",
    family="tests",
    function=nearest,
    inputs=(Input("z", "... D"), Input("codebook", "K D")),
    outcome=Codeword(),
    expected=specified,
    gradient=gradient_to_both,
    saved_bytes=lambda rule, z, codebook: codebook.nbytes + 8 * z.shape[:-1].numel(),
)
OF_FIXED = replace(
    NEAREST,
    name="nearest_of_fixed",
    function=nearest_of_fixed,
    inputs=(Input("z", "... D"), Input("codebook", "K D", differentiable=False)),
    gradient=lambda *given: gradient_to_both(*given)[:1],
)

# ---- a draw of classes, of an outcome that is there ----


def flattened(logits, estimator="reinmax", *, dim=-1, mask=None, generator=None, seed=None):
    """A one-hot drawn from the softmax of half the logits."""
    check_floating("logits", logits)
    noise = {"generator": generator, "seed": seed}
    return st.categorical(logits / 2, estimator, dim=dim, mask=mask, **noise)


def gradient_of_flattened(rule, logits, y, grad, noise):
    return (OPERATORS["categorical"].gradient(rule, logits / 2, y, grad, noise)[0] / 2,)


FLATTENED = replace(
    OPERATORS["categorical"],
    name="flattened",
    family="tests",
    function=flattened,
    outcome=OneHot(),
    expected=lambda logits: torch.softmax(logits.double() / 2, -1),
    gradient=gradient_of_flattened,
)

RECORDS = {record.name: record for record in (NEAREST, OF_FIXED, FLATTENED)}
CASES = [
    Case(record, rule.example)
    for record in RECORDS.values()
    for rule in (record.rules() if record.rule else [])
]
CASES += [Case(NEAREST), Case(OF_FIXED)]


@pytest.mark.parametrize(
    ("check", "case"),
    [(check, case) for case in CASES for check in testing.applicable(case)],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_an_operator_of_a_known_outcome_passes_the_suite(check, case):
    check(case)


def test_all_checks_of_any_operator_are_about_these():
    checked = {check for case in CASES for check in testing.applicable(case)}
    of_rules = {testing.check_defined, testing.check_primitive}
    assert checked == set(testing.CHECKS) - of_rules
    testing.check_operator(NEAREST)


# ---- broken ones fail ----


def index_off_by_one(z, codebook):
    quantized, number = nearest(z, codebook)
    return quantized, (number + 1) % len(codebook)


def value_beside_the_codeword(z, codebook):
    quantized, number = nearest(z, codebook)
    return quantized + (quantized == 3), number


def codebook_learns_twice(z, codebook):
    return nearest(z, 2 * codebook - codebook.detach())


def codebook_unchecked(z, codebook):
    return nearest(z, torch.as_tensor(codebook).float())


BROKEN = [
    (testing.check_hard_value, index_off_by_one, r"nearest.*\(2 of 2\): .* wrong, first at"),
    (testing.check_hard_value, value_beside_the_codeword, r"\(1 of 2\): .* wrong, first at"),
    (testing.check_gradient, codebook_learns_twice, r"gradient at .*\(2 of 2\)"),
    (testing.check_double_backward, codebook_learns_twice, "second derivative along grad"),
    (testing.check_errors, codebook_unchecked, "no DtypeError about 'int64'"),
]


@pytest.mark.parametrize(("check", "function", "message"), BROKEN)
def test_a_broken_one_fails(check, function, message):
    with pytest.raises(AssertionError, match=message):
        check(Case(replace(NEAREST, function=function)))


# ---- value and index ----

Z = torch.tensor([[0.1, 0.0], [0.9, 2.0], [math.nan, 0.0]])
CODEBOOK = torch.tensor([[0.0, 0.0], [1.0, 1.0], [5.0, 5.0]])


def assert_by_hand(quantized: Tensor, number: Tensor) -> None:
    assert number.tolist() == [0, 1, -1]
    assert number.dtype == torch.int64
    assert not number.requires_grad
    assert quantized[:2].tolist() == [[0, 0], [1, 1]]
    assert bool(quantized[2].isnan().all())


def test_value_and_index_by_hand():
    for z, codebook in (
        (Z, CODEBOOK),
        (Z.clone().requires_grad_(), CODEBOOK),
        (Z, CODEBOOK.clone().requires_grad_()),
    ):
        quantized, number = nearest(z, codebook)
        assert_by_hand(quantized, number)
        assert quantized.requires_grad == (z.requires_grad or codebook.requires_grad)
        with torch.no_grad():
            assert_by_hand(*nearest(z, codebook))


def test_gradients_of_value_beside_index_by_hand():
    z, codebook = Z.clone().requires_grad_(), CODEBOOK.clone().requires_grad_()
    quantized, number = nearest(z, codebook)
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    (quantized.nan_to_num(0) * weight * (number >= 0).unsqueeze(-1)).sum().backward()
    assert z.grad.tolist() == [[1, 2], [3, 4], [0, 0]]
    assert codebook.grad.tolist() == [[1, 2], [3, 4], [0, 0]]


def test_forward_mode_of_eager_calls():
    with torch.autograd.forward_ad.dual_level():
        duals = [torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)) for x in (Z, CODEBOOK)]
        quantized, number = nearest(*duals)
        tangent = torch.autograd.forward_ad.unpack_dual(quantized).tangent
    assert tangent.tolist() == [[2, 2], [2, 2], [1, 1]]
    assert number.tolist() == [0, 1, -1]


class Quantizer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.codebook = torch.nn.Parameter(CODEBOOK.clone())

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return nearest(2 * z, self.codebook)


@pytest.mark.parametrize("strict", [True, False])
def test_an_exported_module_returns_both(strict):
    program = torch.export.export(Quantizer(), (Z / 2,), strict=strict)
    file = io.BytesIO()
    torch.export.save(program, file)
    twin = torch.export.load(file).module()
    z = (Z / 2).requires_grad_()
    quantized, number = twin(z)
    assert_by_hand(quantized, number)
    to_z, to_codebook = torch.autograd.grad(quantized[:2].sum(), (z, twin.codebook))
    assert to_z.tolist() == [[2, 2], [2, 2], [0, 0]]
    assert to_codebook.tolist() == [[1, 1], [1, 1], [0, 0]]


def test_inputs_that_do_not_fit_have_no_shape():
    assert NEAREST.shapes(torch.zeros(4, 3, 2), torch.zeros(9, 2)) == [(4, 3, 2), (4, 3)]
    with pytest.raises(st.ArgumentError, match="codebook has D = 5, not 2"):
        sizes(NEAREST.inputs, [torch.zeros(3, 2), torch.zeros(9, 5)])

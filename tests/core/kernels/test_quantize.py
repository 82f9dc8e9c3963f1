"""Kernels of quantized numbers against their references, bit by bit but for sums."""

import math

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import straightthrough as st
from quantized import assert_agrees, assert_bits_same, inputs, numbers
from straightthrough.core import kernels
from straightthrough.core.bits import pack
from straightthrough.core.noise import Noise
from straightthrough.estimators import LSQ, PACT, STE, TQT, LSQPlus
from straightthrough.grids import MX, NVFP4, Binary, Float, Int, Ternary
from straightthrough.grids.block import MODES
from straightthrough.grids.floating import FORMATS
from straightthrough.ops.quantize import reference
from straightthrough.ops.quantize.operation import FakeQuantize, StochasticQuantize
from straightthrough.ops.quantize.served import in_rows, kernels_of, one_a_row
from straightthrough.testing import DTYPES

pytestmark = pytest.mark.kernels

SHAPES = [((1,), 1), ((77,), 1), ((5000,), 1), ((0, 5), 1), ((6, 32), 6), ((40, 96), 40)]
SHAPES += [((3, 5, 64), 15), ((2, 8192 + 32), 2), ((3, 70_016), 3)]
RANGES = [(-8.0, 7.0), (0.0, 3.0), (-128.0, 127.0), (0.0, 65535.0), (-1.0, 1.0)]


@pytest.fixture(autouse=True)
def _inference():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("ends", RANGES, ids=str)
@pytest.mark.parametrize(("shape", "rows"), SHAPES, ids=str)
class TestAgreementOfIntegers:
    def test_without_a_zero_point(self, shape, rows, ends, dtype):
        x, scales, grad = inputs(shape, rows, dtype, ends[1])
        assert_agrees("integers", x, grad, (scales,), *ends)

    def test_drawn(self, shape, rows, ends, dtype):
        x, scales, grad = inputs(shape, rows, dtype, ends[1])
        for offset in (0, 3, 2**33 + 77):
            noise = (Noise(torch.tensor(11), offset),)
            assert_agrees("integers_drawn", x, grad, (scales,), *ends, noise=noise)

    def test_with_a_zero_point(self, shape, rows, ends, dtype):
        x, scales, grad = inputs(shape, rows, dtype, ends[1])
        zeros = torch.arange(-3, rows - 3).to(scales.dtype)
        if rows > 14:
            zeros[8:15] = torch.tensor([math.nan, math.inf, 3e7, -1e9, 1.5, 2.0**22, -0.0])
        assert_agrees("shifted", x, grad, (scales, zeros), False, *ends)

    def test_with_an_offset(self, shape, rows, ends, dtype):
        x, scales, grad = inputs(shape, rows, dtype, ends[1])
        offsets = torch.linspace(-0.7, 0.9, rows).to(scales.dtype)
        if rows > 14:
            offsets[8:14] = torch.tensor([math.nan, math.inf, 1e30, -0.0, 1e-40, 0.0])
        assert_agrees("shifted", x, grad, (scales, offsets), True, *ends)


FORMS = [(name, 0, "") for name in FORMATS]
FORMS += [(name, 8 * (n + 1), mode) for n, name in enumerate(FORMATS) for mode in MODES]
FORMS += [("e2m1", 16, "nvfp4")]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", [1, 6])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_agreement_of_floats(form, rows, dtype):
    x, scales, grad = numbers(rows, dtype)
    assert_agrees("floats", x, grad, (scales,), *form)
    for offset in (0, 5):
        noise = (Noise(torch.tensor(7), offset),)
        assert_agrees("floats_drawn", x, grad, (scales,), *form, noise=noise)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", [0, 1, 9, 64, 1003])
def test_gradients_by_bits_pass_bit_by_bit(count, dtype):
    grad = torch.randn(count).to(dtype)
    grad[:2] = torch.tensor([math.inf, -0.0])[:count]
    inside = torch.rand(count) < 0.6
    found = reference.passed_bits(grad, pack(inside))
    assert_bits_same(found, torch.where(inside, grad, 0))


def test_which_scales_are_one_a_row():
    x = torch.empty(4, 8, 64)
    yes = [(), (1,), (1, 1, 1), (4, 1, 1), (4, 8, 1)]
    no = [(8, 1), (64,), (1, 8, 1), (4, 1, 64), (4, 8, 64)]
    assert all(one_a_row(x, torch.ones(shape)) for shape in yes)
    assert not any(one_a_row(x, torch.ones(shape)) for shape in no)
    assert not one_a_row(torch.empty(4, 33), torch.ones(4, 1))
    assert one_a_row(torch.empty(4, 3, 32), torch.ones(4, 1, 1))
    none = torch.empty(0, 64)
    assert not one_a_row(none, torch.ones(0, 1))
    assert st.fake_quantize(none, torch.ones(0, 1), grid=Int(4)).shape == none.shape


def test_a_scale_and_a_zero_point_have_the_same_rows():
    x = torch.empty(4, 8, 64)
    for shapes, rows in ((((), ()), 1), (((4, 1, 1), ()), 4), (((), (4, 8, 1)), 32)):
        laid = in_rows(x, *map(torch.ones, shapes))
        assert [each.shape for each in laid] == [(rows,), (rows,)]
    assert [each.shape for each in in_rows(x, torch.ones(4, 1, 1))] == [(4, 1, 1)]
    assert in_rows(x, torch.ones(4, 1, 1), torch.ones(4, 8, 1)) is None
    assert in_rows(x, torch.ones(4, 1, 1), torch.ones(8, 1)) is None


def test_which_grids_have_kernels():
    class Coarse(Int):
        def rounded(self, v, zero=0, rounding=torch.round):
            return 2 * super().rounded(v / 2, zero, rounding)

    class Even(MX):
        def of_largest(self, largest):
            return torch.ones_like(largest)

    for shift, arguments in (("zero_point", (False, -8, 7)), ("offset", (True, -8, 7))):
        found = kernels_of(Int(4), shift)
        assert found.values is reference.shifted
        assert found.arguments == arguments
    assert kernels_of(Int(4), "").values is kernels_of(Ternary(), "").values
    assert kernels_of(MX("e2m1", 8, "even"), "").arguments == ("e2m1", 8, "even")
    for grid in (Binary(), Coarse(4), Even(), MX(block=4)):
        assert kernels_of(grid, "") is None
    for grid in (Float("e4m3"), NVFP4()):
        assert kernels_of(grid, "offset") is None


RULES = [STE(), STE("value"), LSQ(), LSQ("code", 0), TQT(), LSQPlus()]


def pulled(grid, rule, x, scale, grad, operator=st.fake_quantize, **shift):
    """The value and the gradients to all tensors."""
    leaves = [each.clone().requires_grad_() for each in (x, scale, *shift.values())]
    with torch.enable_grad():
        moved = dict(zip(shift, leaves[2:], strict=True))
        y = operator(*leaves[:2], **moved, grid=grid, rule=rule)
    return y.detach(), *torch.autograd.grad(y, leaves, grad)


def drawn_with_a_seed(*args, **named):
    return st.stochastic_quantize(*args, **named, seed=st.Seed(9, 4))


OPERATORS = {
    st.fake_quantize: lambda grid, rule, x, scale: FakeQuantize(grid, rule).served(x, scale),
    drawn_with_a_seed: lambda grid, rule, x, scale: StochasticQuantize(grid, rule).served(
        x, scale, torch.tensor(0)
    ),
}


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("grid", [Int(3), Ternary(), Float("e4m3"), MX(), NVFP4()], ids=str)
@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("shape", [(), (6, 1)], ids=str)
def test_an_operator_with_kernels_has_the_gradients_of_the_reference(shape, rule, grid, operator):
    x, grad, scale = torch.randn(6, 64), torch.randn(6, 64), torch.rand(shape) / 4 + 0.1
    assert OPERATORS[operator](grid, rule, x, scale)
    found = pulled(grid, rule, x, scale, grad, operator)
    with kernels.disabled():
        due = pulled(grid, rule, x, scale, grad, operator)
    assert torch.equal(found[0], due[0])
    assert torch.equal(found[1], due[1])
    torch.testing.assert_close(found[2], due[2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize(
    "shapes", [((), ()), ((6, 1), ()), ((), (6, 1)), ((6, 1), (6, 1))], ids=str
)
@pytest.mark.parametrize("shift", ["zero_point", "offset"])
def test_the_same_of_a_shifted_grid(shift, rule, shapes):
    grid, x, grad = Int(3, signed=False), torch.randn(6, 64), torch.randn(6, 64)
    scale, by = torch.rand(shapes[0]) / 4 + 0.1, 3 + 2 * torch.rand(shapes[1])
    by = by if shift == "zero_point" else (by - 5) / 4
    assert FakeQuantize(grid, rule, shift).served(x, scale, by)
    found = pulled(grid, rule, x, scale, grad, **{shift: by})
    with kernels.disabled():
        due = pulled(grid, rule, x, scale, grad, **{shift: by})
    assert torch.equal(found[0], due[0])
    assert torch.equal(found[1], due[1])
    for got, wanted in zip(found[2:], due[2:], strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rule", [STE(), LSQ(), TQT(), PACT()], ids=repr)
@pytest.mark.parametrize("grid", [Int(3), MX(), NVFP4(), Float("e2m1")], ids=str)
@pytest.mark.parametrize("operator", OPERATORS)
def test_where_the_scale_does_not_learn_one_bit_an_element_is_saved(operator, grid, rule):
    saved = []
    x = torch.randn(4, 64, requires_grad=True)

    def keep(tensor):
        saved.append(tensor.nbytes)
        return tensor

    for context in (kernels.disabled(), torch.enable_grad()):
        saved.clear()
        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with torch.enable_grad(), hooks, context:
            operator(x, 0.3, grid=grid, rule=rule).sum().backward()
        assert saved == [x.numel() // 8]


def test_the_factor_of_a_graph_that_leaves_sizes_open_compiles_once():
    counter = CompileCounterWithBackend("aot_eager")
    rule = LSQ(batch_dims=0)
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda x, scale: st.fake_quantize(x, scale, grid=Int(3), rule=rule),
        backend=counter,
        dynamic=True,
        fullgraph=True,
    )
    for rows in (6, 9, 12):
        x, grad, scale = torch.randn(rows, 64), torch.randn(rows, 64), torch.tensor(0.3)
        leaves = [x.requires_grad_(), scale.requires_grad_()]
        with torch.enable_grad():
            found = torch.autograd.grad(compiled(*leaves), leaves, grad)
        due = pulled(Int(3), rule, x.detach(), scale.detach(), grad)[1:]
        torch.testing.assert_close(found, due)
    assert counter.frame_count == 1

"""The kernels of quantized numbers for GPUs, by Triton's interpreter."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import straightthrough as st
from quantized import assert_agrees, assert_bits_same, inputs, numbers
from straightthrough.core import kernels
from straightthrough.core.bits import pack
from straightthrough.core.noise import Noise
from straightthrough.estimators import LSQ, PACT, STE, TQT, LSQPlus
from straightthrough.grids import MX, NVFP4, Float, HalfInt, Int, Ternary
from straightthrough.grids.block import MODES
from straightthrough.grids.floating import FORMATS
from straightthrough.ops.quantize import reference, reference_drawn
from straightthrough.testing import DTYPES

pytest.importorskip("triton")
from straightthrough.core.native import elements
from straightthrough.ops.quantize import triton_steps as steps

pytestmark = pytest.mark.interpreter

SEED = torch.tensor(11)
SHAPES = [((1,), 1), ((77,), 1), ((40_001,), 1), ((0, 5), 1), ((6, 0), 6), ((6, 32), 6)]
SHAPES += [((40, 96), 40), ((3, 5, 64), 15), ((2, 8192 + 32), 2)]
EACH = pytest.mark.parametrize(("shape", "rows"), SHAPES, ids=str)
TYPES = pytest.mark.parametrize("dtype", DTYPES, ids=str)
NVIDIAS = ("e2m1", 16, "nvfp4")
FORMS = [(name, 0, "") for name in FORMATS]
FORMS += [(name, 8 * 2 ** (n % 4), mode) for n, name in enumerate(FORMATS) for mode in MODES]
FEW = [*FORMS[:1], *(FORMS[5 + 5 * n] for n in range(4)), NVIDIAS]
RULES = [STE(), STE("value"), LSQ(), LSQ("code", 0), TQT(), LSQPlus()]


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.no_grad():
        yield


@TYPES
@EACH
@pytest.mark.parametrize("ends", [(-8.0, 7.0), (0.0, 65535.0)], ids=str)
def test_integers_are_those_of_the_reference(ends, shape, rows, dtype):
    """To the bit, but for sums: ties, NaN, infinities, denormal numbers, scales that are none."""
    x, scales, grad = inputs(shape, rows, dtype, ends[1])
    assert_agrees("integers", x, grad, (scales,), *ends)


@TYPES
@EACH
def test_integers_with_a_zero_point(shape, rows, dtype):
    x, scales, grad = inputs(shape, rows, dtype, 3.0)
    zeros = torch.arange(-3, rows - 3).to(scales.dtype)
    if rows > 14:
        zeros[8:15] = torch.tensor([torch.nan, torch.inf, 3e7, -1e9, 1.5, 2.0**22, -0.0])
    assert_agrees("shifted", x, grad, (scales, zeros), False, 0.0, 3.0)


@TYPES
@EACH
def test_integers_above_an_offset(shape, rows, dtype):
    """The product with the scale is rounded before the offset is added."""
    x, scales, grad = inputs(shape, rows, dtype, 7.0)
    offsets = torch.linspace(-0.7, 0.9, rows).to(scales.dtype)
    if rows > 14:
        offsets[8:14] = torch.tensor([torch.nan, torch.inf, 1e30, -0.0, 1e-40, 0.0])
    assert_agrees("shifted", x, grad, (scales, offsets), True, -8.0, 7.0)


@TYPES
@EACH
def test_drawn_integers(shape, rows, dtype):
    """Whether eight elements share their noise or each has its own."""
    x, scales, grad = inputs(shape, rows, dtype, 7.0)
    for offset in (0, 2**33 + 77):
        noise = (Noise(SEED, offset),)
        assert_agrees("integers_drawn", x, grad, (scales,), -8.0, 7.0, noise=noise)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("form", [*FORMS, NVIDIAS], ids=str)
def test_floats_are_those_of_the_reference(form, dtype):
    """To the bit, but for sums: of blocks of zeros, of what is no number, of denormal numbers."""
    x, scales, grad = numbers(6, dtype)
    assert_agrees("floats", x, grad, (scales,), *form)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("form", FEW, ids=str)
def test_floats_of_other_dtypes_with_one_scale(form, dtype):
    x, scales, grad = numbers(1, dtype)
    assert_agrees("floats", x, grad, (scales,), *form)


@TYPES
@pytest.mark.parametrize("form", FEW, ids=str)
def test_drawn_floats(form, dtype):
    x, scales, grad = numbers(6, dtype)
    for offset in (0, 5):
        noise = (Noise(SEED, offset),)
        assert_agrees("floats_drawn", x, grad, (scales,), *form, noise=noise)


@TYPES
@pytest.mark.parametrize("offset", [0, 13, 2**32 - 104, 2**40 + 3])
def test_stochastic_rounding(offset, dtype):
    x = 300 * torch.randn(40_003)
    x[:9] = torch.tensor([0.0, -0.0, -0.3, 1e-40, 2.0**24, 5.0, torch.nan, torch.inf, -torch.inf])
    noise, operator = Noise(SEED, offset), reference_drawn.stochastic_round
    assert_bits_same(operator(x.to(dtype), noise), operator.__wrapped__(x.to(dtype), noise))


@TYPES
@pytest.mark.parametrize("count", [0, 1, 9, 64, 1003])
def test_gradients_by_bits_pass_bit_by_bit(count, dtype):
    grad = torch.randn(count).to(dtype)
    grad[:2] = torch.tensor([torch.inf, -0.0])[:count]
    inside = torch.rand(count) < 0.6
    for bits in (pack(inside), inside):
        assert_bits_same(reference.passed_bits(grad, bits), torch.where(inside, grad, 0))


@pytest.mark.parametrize("view", [lambda x: x[::2], lambda x: x[:, 1::2], lambda x: x.T])
def test_other_strides(view: Callable[[Tensor], Tensor]) -> None:
    """Rows and positions count in row-major order, wherever elements lie."""
    x, grad = view(torch.randn(64, 64)), view(torch.randn(64, 64))
    scales = torch.rand(2 * len(x))[::2] / 4 + 0.1
    assert_agrees("integers", x, grad, (scales,), -4.0, 3.0)
    assert_agrees("shifted", x, grad, (scales, scales.flip(0)), True, -4.0, 3.0)
    noise = (Noise(SEED, 5),)
    assert_agrees("integers_drawn", x, grad, (scales,), -4.0, 3.0, noise=noise)


@pytest.mark.parametrize("size", [64, 512])
@pytest.mark.parametrize(("shape", "rows"), [((1003,), 1), ((5, 416), 5), ((33, 32), 33)], ids=str)
def test_tiles_change_nothing(shape, rows, size, monkeypatch, launches):
    """Parts of rows, and parts of these that are added up, may be of any sizes."""
    monkeypatch.setattr(elements, "ELEMENTS", size)
    monkeypatch.setattr(steps, "PARTS", 4)
    x, scales, grad = inputs(shape, rows, torch.float32, 7.0)
    assert_agrees("shifted", x, grad, (scales, scales.flip(0)), True, -8.0, 7.0)
    assert ("sums_kernel" in launches) == (shape != (33, 32))


def pulled(
    x: Tensor, scale: Tensor, grad: Tensor, operator=st.fake_quantize, **named
) -> tuple[Tensor, ...]:
    """The value and the gradients to all tensors."""
    leaves = [each.clone().requires_grad_() for each in (x, scale)]
    moved = {name: each for name, each in named.items() if isinstance(each, Tensor)}
    moved = {name: each.clone().requires_grad_() for name, each in moved.items()}
    with torch.enable_grad():
        y = operator(*leaves, **named | moved)
    leaves += moved.values()
    return y.detach(), *torch.autograd.grad(y, leaves, grad)


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("grid", [Int(3), Ternary(), Float("e4m3"), MX(), NVFP4()], ids=str)
@pytest.mark.parametrize("drawn", [False, True])
@pytest.mark.parametrize("shape", [(), (6, 1)], ids=str)
def test_operators_are_a_launch_each_way(shape, drawn, grid, rule, launches):
    x, grad, scale = torch.randn(6, 64), torch.randn(6, 64), torch.rand(shape) / 4 + 0.1
    operator = st.stochastic_quantize if drawn else st.fake_quantize
    named = {"operator": operator, "grid": grid, "rule": rule}
    if drawn:
        named["seed"] = st.Seed(9, 4)
    found = pulled(x, scale, grad, **named)
    kind = "integers" if isinstance(grid, Int | Ternary) else "floats"
    assert launches == [f"{kind}_kernel", f"{kind}_backward_kernel"]
    with kernels.disabled():
        due = pulled(x, scale, grad, **named)
    assert torch.equal(found[0], due[0])
    assert torch.equal(found[1], due[1])
    torch.testing.assert_close(found[2], due[2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rule", [STE(), LSQPlus()], ids=repr)
@pytest.mark.parametrize(
    "shapes", [((), ()), ((6, 1), ()), ((), (6, 1)), ((6, 1), (6, 1))], ids=str
)
@pytest.mark.parametrize("shift", ["zero_point", "offset"])
def test_shifted_ones_too(shift, shapes, rule, launches):
    x, grad = torch.randn(6, 64), torch.randn(6, 64)
    scale, by = torch.rand(shapes[0]) / 4 + 0.1, 3 + 2 * torch.rand(shapes[1])
    named = {"grid": Int(3, signed=False), "rule": rule}
    named[shift] = by if shift == "zero_point" else (by - 5) / 4
    found = pulled(x, scale, grad, **named)
    assert launches == ["integers_kernel", "integers_backward_kernel"]
    with kernels.disabled():
        due = pulled(x, scale, grad, **named)
    assert torch.equal(found[0], due[0])
    for got, wanted in zip(found[1:], due[1:], strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


def test_a_number_that_is_repeated_is_not_copied():
    repeated = torch.ones(1).expand(6)
    assert steps.each_in_order(repeated) is repeated
    assert steps.each_in_order(torch.ones(12)[::2]).is_contiguous()


def test_long_rows_are_a_launch_more(launches):
    x, grad = torch.randn(2, 3 * 2**15), torch.randn(2, 3 * 2**15)
    pulled(x, torch.tensor(0.3), grad, grid=Int(4))
    assert launches == ["integers_kernel", "integers_backward_kernel", "sums_kernel"]


@pytest.mark.parametrize("rule", [STE(), LSQ(), PACT()], ids=repr)
def test_where_the_scale_does_not_learn_bits_are_saved(rule, launches):
    x = torch.randn(5, 13)
    x, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    with torch.enable_grad():
        st.fake_quantize(x, 0.3, grid=Int(3), rule=rule).sum().backward()
    assert launches == ["integers_kernel", "passed_bits_kernel"]
    with torch.enable_grad(), kernels.disabled():
        st.fake_quantize(other, 0.3, grid=Int(3), rule=rule).sum().backward()
    assert torch.equal(x.grad, other.grad)


def test_stochastic_rounding_is_a_launch(launches):
    st.stochastic_round(torch.randn(5, 6), seed=3)
    assert launches == ["round_kernel"]


@pytest.mark.parametrize("grid", [HalfInt(3), MX(block=24), MX(block=2048)], ids=str)
def test_what_has_no_kernels_has_the_reference(grid, launches):
    x, grad, scale = torch.randn(3, 6144), torch.randn(3, 6144), torch.tensor(0.3)
    found = pulled(x, scale, grad, grid=grid)
    with kernels.disabled():
        due = pulled(x, scale, grad, grid=grid)
    assert all(map(torch.equal, found, due))
    assert launches == []


def test_numbers_stay_on_their_device():
    x, grad, scales = torch.randn(4, 32), torch.randn(4, 32), torch.rand(4) + 0.1
    ends, factor = (-8.0, 7.0), 0.3
    operators = torch.ops.straightthrough
    tensors = [torch.tensor(number, dtype=torch.float64) for number in (*ends, factor)]
    wanted = operators.integers_backward(x, grad, scales, *ends, True, factor)
    given = *tensors[:2], True, tensors[2]
    found = operators.integers_backward.numbers(x, grad, scales, *given)
    assert all(map(torch.equal, found, wanted))
    found = operators.integers.numbers(x, scales, *tensors[:2])
    assert torch.equal(found, operators.integers(x, scales, *ends))


def test_what_is_no_argument_is_refused():
    x, scales, ends = torch.zeros(3, 32), torch.ones(3), (-8.0, 7.0)
    pulls, operators = (*ends, False, 1.0), torch.ops.straightthrough
    for operator, wrong, said in (
        (operators.integers, (x.long(), scales, *ends), "x must"),
        (operators.integers, (x, scales.double(), *ends), "scales"),
        (operators.integers, (x.bfloat16(), scales.bfloat16(), *ends), "scales"),
        (operators.integers, (x, torch.ones(0), *ends), "scales"),
        (operators.integers, (x, torch.ones(5), *ends), "scales"),
        (operators.integers, (x, torch.ones(6), *ends), "scales"),  # rows of 16
        (operators.shifted, (x, scales, torch.ones(1), True, *ends), "shifts"),
        (operators.shifted, (x, scales, scales.double(), True, *ends), "shifts"),
        (operators.integers_backward, (x, x[:2], scales, *pulls), "grad"),
        (operators.integers_backward, (x, x.double(), scales, *pulls), "grad"),
        (operators.floats, (x, scales, "e8m0", 0, ""), "element"),
        (operators.floats, (x, scales, "e2m1", 8, "round"), "mode"),
        (operators.floats, (x, scales, "e2m1", 0, "floor"), "block"),
        (operators.floats, (x, scales, "e2m1", 32, ""), "block"),
        (operators.floats, (x, scales, "e2m1", 24, "floor"), "block"),
        (operators.floats, (x, scales, "e2m1", 64, "floor"), "block"),  # rows of 32
        (operators.floats, (x, scales, "e2m1", 4, "floor"), "block"),
        (operators.floats_backward, (x, x[:2], scales, "e2m1", 0, "", False, 1.0), "grad"),
        (operators.integers_drawn, (x, scales, *ends, torch.tensor(7.0), 0), "seed"),
        (operators.stochastic_round, (x, SEED, -1), "offset"),
        (operators.stochastic_round, (x.long(), SEED, 0), "x must"),
        (operators.passed_bits, (x, torch.zeros(3, dtype=torch.uint8)), "bits"),
    ):
        with pytest.raises(RuntimeError, match=said):
            operator(*wrong)

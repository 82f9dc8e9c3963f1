"""Every kernel against its reference, at every instruction set that this machine has."""

from functools import partial

import pytest
import torch

from straightthrough.core import gpu, kernels
from straightthrough.core.bits import unpack
from straightthrough.core.noise import Noise
from straightthrough.core.registry import RULES
from straightthrough.core.rules import Derivative
from straightthrough.estimators import (
    exactly_k,
    gapped,
    gumbel,
    mve,
    mve_integer,
    reinmax,
    straight_through,
)
from straightthrough.ops.bernoulli import reference as binary
from straightthrough.ops.categorical import reference as categorical
from straightthrough.ops.permutation import reference as orders
from straightthrough.ops.pointwise import reference as pointwise
from straightthrough.ops.subset import reference as subset
from straightthrough.relaxations import softmax, threshold
from straightthrough.relaxations.jacobian import relative_to
from straightthrough.surrogates.window import Window, window_bits, window_gradient
from straightthrough.testing.compare import assert_bits

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SHAPES = [(1,), (7, 3), (40, 16), (3, 5, 10), (65, 64), (33, 65), (4, 1000), (2, 70001), (0, 5)]
NOISE = Noise(torch.tensor(0x123456789ABCDEF), 5)
ACCURACY = 2e-6  # of float32 against float64, relative to the largest term of a row
TOLERANCE = {  # between two that are each as accurate as their dtype allows
    torch.float32: 2 * ACCURACY,
    torch.float64: 1e-13,
    torch.bfloat16: 2.0**-7,
    torch.float16: 2.0**-10,
}


def rows(shape, dtype):
    """Logits over +-80 with what is special: NaN, infinities, ties, classes left out."""
    generator = torch.Generator().manual_seed(len(shape) + shape[-1])
    x = (torch.rand(shape, generator=generator) * 160 - 80).to(dtype)
    x[..., 1:2] = -torch.inf
    flat = x.reshape(-1, shape[-1])
    if len(flat) > 3:
        flat[0, 0] = torch.nan
        flat[1] = -torch.inf
        flat[2] = 0
        flat[3, 0] = torch.inf
        flat[4:] /= 20
    return x, torch.randn(shape, generator=generator).to(dtype)


def widened(argument, precision):
    floating = isinstance(argument, torch.Tensor) and argument.is_floating_point()
    return argument.to(torch.promote_types(argument.dtype, precision)) if floating else argument


def uniforms_of(dtype):
    """`Noise.classes` that draws what a kernel of `dtype` does, whatever it is computed in."""
    drawn, classes_of = torch.promote_types(dtype, torch.float32), Noise.classes

    def uniforms(self, rows, classes, precision, sample):
        return classes_of(self, rows, classes, drawn, sample).to(precision)

    return uniforms


@pytest.fixture(autouse=True)
def _inference():
    with torch.no_grad():
        yield


def counts_of_subsets(n):
    """Of a short row few, half and nearly all; of a longer one few."""
    return {1, 2, (n + 1) // 2, n - 1, n} & {*range(1, n + 1)} if n <= 100 else {2, 20}


def left_out(operator):
    """Whether only kernels for GPUs are asked for, and the operator has none."""
    if kernels.level != kernels.INTERPRETER:
        return False
    return operator.__name__ not in gpu.loaded("CPU")


def assert_agrees(operator, *arguments, exact=False, precision=torch.float32, nearest=True):
    """The kernel's result is that of the reference, which computes in `precision` at least.

    Both are rounded to the `nearest`, unless what is given leaves its last digits open.
    """
    if left_out(operator):
        return
    dtype = arguments[0].dtype
    assert kernels.has_kernel(arguments[0], name=operator.__name__)
    wide = [widened(argument, precision) for argument in arguments]
    given, expected = operator(*arguments), operator.__wrapped__(*wide)
    expected = expected.to(dtype) if expected.is_floating_point() else expected
    assert given.shape == expected.shape
    assert given.dtype == expected.dtype
    assert torch.equal(given.isnan(), expected.isnan())
    if exact:
        assert torch.equal(given.nan_to_num(7), expected.nan_to_num(7))
        return
    given, expected = given.double().nan_to_num(0), expected.double().nan_to_num(0)
    scale = expected.abs().amax(-1, keepdim=True) if expected.numel() else expected
    assert ((given - expected).abs() <= TOLERANCE[dtype] * scale + 1e-38).all()
    if nearest and dtype.itemsize == 2:  # few values lie near the middle of two
        large = expected.abs() > scale / 256
        assert (given != expected)[large].sum() <= large.sum() / 20 + 1


@pytest.mark.kernels
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
class TestAgreement:
    def test_categorical_draws(self, shape, dtype):
        x, _ = rows(shape, dtype)
        assert_agrees(categorical.draw_index, x, NOISE, exact=True)
        assert_bits(categorical.draw(x, NOISE), categorical.draw.__wrapped__(x, NOISE), "draws")

    @pytest.mark.parametrize("tau", [1.0, 0.5, 1.3])
    def test_categorical_gradients(self, shape, dtype, tau, monkeypatch):
        """In double precision, as torch's softmax of a long row in single is off by 5e-6 on Arm."""
        x, grad = rows(shape, dtype)
        index = categorical.draw_index(x, NOISE).clamp(min=0)
        agree = partial(assert_agrees, precision=torch.float64)
        agree(straight_through.straight_through, x, index, grad, tau)
        agree(reinmax.reinmax, x, index, grad, tau)
        agree(gapped.gapped, x, index, grad, tau, 0.7)
        agree(mve_integer.mve_integer, x, index, grad, tau)
        if shape[-1] <= mve.FEW:
            agree(mve.mve, x, index, grad, 1e-3 / tau)
        monkeypatch.setattr(Noise, "classes", uniforms_of(dtype))
        for samples in (1, 3):
            agree(gumbel.gumbel_st, x, index, grad, tau, samples, NOISE)

    @pytest.mark.parametrize("tau", [1.0, 0.5, 1.3])
    def test_softmaxes(self, shape, dtype, tau):
        x, grad = rows(shape, dtype)
        assert_agrees(categorical.gumbel_softmax, x, tau, NOISE)
        y = categorical.gumbel_softmax(x, tau, NOISE)
        # Values in half precision don't sum to 1, and those on the CPU divide by their sum.
        assert_agrees(softmax.softmax_backward_of_value, y, grad, tau, nearest=False)
        assert_agrees(softmax.softmax_backward_of_logits, x, grad, tau, 2.0)

    def test_largest_classes(self, shape, dtype):
        x, _ = rows(shape, dtype)
        for scores in (x, x.round()):  # the second with many ties
            assert_agrees(categorical.argmax_hot, scores, exact=True)
            for k in {1, 2, 3, (shape[-1] + 1) // 2, shape[-1]}.intersection(range(shape[-1] + 1)):
                assert_agrees(subset.topk_hot, scores, k, exact=True)

    def test_drawn_subsets(self, shape, dtype):
        x, _ = rows(shape, dtype)
        for logits in (x, x / 16):
            for k in counts_of_subsets(shape[-1]):
                assert_agrees(subset.draw_subset, logits, k, NOISE, exact=True)

    @pytest.mark.parametrize("directions", [0, 1, 2])
    def test_moments_of_subsets(self, shape, dtype, directions):
        """To their dtype's accuracy, or k roundings of the directions: some moments are 0."""
        x, _ = rows(shape, dtype)
        generator = torch.Generator().manual_seed(directions)
        along = torch.randn(directions, *shape, generator=generator).to(dtype)
        for logits in (x, x / 16)[: 2 if shape[-1] <= 1000 else 1]:
            for k in counts_of_subsets(shape[-1]):
                given = exactly_k.subset_cumulant(logits, along, k)
                wide = logits.double(), along.double()
                due = exactly_k.subset_cumulant.__wrapped__(*wide, k)
                assert given.dtype == dtype
                assert torch.equal(given.isnan(), due.isnan())
                if not due.numel():
                    continue
                scale = due.nan_to_num(0).abs().amax(-1, keepdim=True)
                bound = TOLERANCE[dtype] * scale
                bound += k * 2**-52 * along.double().abs().amax(-1, keepdim=True).prod(0)
                bound += torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
                assert ((given.double() - due).nan_to_num(0).abs() <= bound).all()

    @pytest.mark.parametrize("descending", [False, True])
    def test_ranks(self, shape, dtype, descending):
        x, grad = rows(shape, dtype)
        for scores, strength in ((x, 2.0), (x.round(), 0.5), (x.nan_to_num(0, 0, 0), 30.0)):
            found = orders.ranks(scores, descending)
            assert_bits(found, orders.ranks.__wrapped__(scores, descending), "ranks")
            assert_agrees(orders.rank_gradient, scores, found[1], grad, strength, descending)

    @pytest.mark.parametrize("tau", [1.0, 0.5])
    def test_thresholds(self, shape, dtype, tau):
        """In double precision; a threshold in a wide gap has as many digits as the gap's width."""
        (x, grad), n = rows(shape, dtype), shape[-1]
        for scores in (x, (x / 8).round()):  # the second with many ties
            for k in {1, 2, (n + 1) // 2, n - 1, n}.intersection(range(1, n + 1)):
                given = threshold.logistic_backward(scores, grad, k, tau)
                wide = scores.double(), grad.double()
                exact = threshold.logistic_backward.__wrapped__(*wide, k, tau).to(dtype).double()
                assert given.dtype == dtype
                assert torch.equal(given.isnan(), exact.isnan())
                largest = wide[0].topk(min(k + 1, n), -1).values
                gap = (largest[..., k - 1] - largest[..., -1]).nan_to_num(0, 0, 0).unsqueeze(-1)
                scale = exact.nan_to_num(0).abs().amax(-1, keepdim=True) if n * len(x) else exact
                bound = TOLERANCE[dtype] * scale * (1 + gap / tau)
                bound += torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
                assert ((given.double() - exact).nan_to_num(0).abs() <= bound).all()

    @pytest.mark.parametrize("of_probs", [False, True])
    def test_binary_draws(self, shape, dtype, of_probs):
        x, _ = rows(shape, dtype)
        assert kernels.has_kernel(x, name="binary_draw") or left_out(binary.binary_draw)
        x = torch.sigmoid(x) if of_probs else x
        y, bits = binary.binary_draw(x, of_probs, NOISE)
        expected, expected_bits = binary.binary_draw.__wrapped__(x, of_probs, NOISE)
        assert torch.equal(y.nan_to_num(7), expected.nan_to_num(7))
        assert torch.equal(bits, expected_bits)

    @pytest.mark.parametrize("tau", [1.0, 0.5, 1.3])
    def test_binary_gradients(self, shape, dtype, tau):
        x, grad = rows(shape, dtype)
        bits = binary.binary_draw(x, False, NOISE)[1]
        outcome = unpack(bits, x.shape)
        assert_agrees(straight_through.binary_straight_through, x, outcome, grad, tau)
        assert_agrees(reinmax.binary_reinmax, x, outcome, grad, tau)
        for samples in (1, 3):
            assert_agrees(gumbel.binary_gumbel_st, x, outcome, grad, tau, samples, NOISE)
        of_bits = reinmax.binary_reinmax(x, bits, grad, tau).nan_to_num(7)
        assert torch.equal(of_bits, reinmax.binary_reinmax(x, outcome, grad, tau).nan_to_num(7))

    @pytest.mark.parametrize("of_probs", [False, True])
    @pytest.mark.parametrize("hard", [False, True])
    def test_gates(self, shape, dtype, of_probs, hard):
        x, grad = rows(shape, dtype)
        x = torch.sigmoid(x / 8) if of_probs else x / 8
        gate = (2 / 3, -0.1, 1.1, hard, of_probs)
        assert_agrees(binary.concrete, x, *gate, NOISE, exact=hard)
        assert_agrees(binary.concrete_backward, x, grad, *gate, NOISE)


SURROGATES = [r.example for r in RULES.values() if issubclass(r.type, Derivative)]


@pytest.mark.kernels
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rule", SURROGATES, ids=repr)
class TestSurrogateAgreement:
    def test_derivatives(self, rule, dtype):
        special = [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, torch.inf, -torch.inf, torch.nan, 80.0, -1e4]
        x = torch.cat([torch.tensor(special), torch.linspace(-3, 3, 4002)]).to(dtype)
        grad = torch.linspace(1, 2, len(x)).to(dtype)
        given = rule.vjp(x, grad)
        with kernels.disabled():
            expected = rule.vjp(x, grad)
        assert given.dtype == dtype
        assert torch.equal(given.isnan(), expected.isnan())
        given, expected = given.double().nan_to_num(0), expected.double().nan_to_num(0)
        # Where a rule changes its sign, its terms cancel, and their size is what counts.
        size = expected.abs().max() if (expected < 0).any() else expected.abs()
        close = (given - expected).abs() <= TOLERANCE[dtype] * size + torch.finfo(dtype).tiny
        assert close.all(), x[~close]

    def test_which_are_fused(self, rule, dtype):
        fused = isinstance(rule, Window) or type(rule).__name__ in kernels.KERNELS
        assert hasattr(type(rule).derivative, "kernel") == fused


@pytest.mark.kernels
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 16, 33, 4001], ids=str)
class TestPointwiseAgreement:
    def test_hard_values(self, size, dtype):
        special = torch.tensor([0.0, -0.0, 0.3, -0.3, torch.nan, torch.inf, -torch.inf])
        x = torch.cat([special, torch.linspace(-3, 3, size)])[:size].to(dtype)
        for operator, arguments in (
            (pointwise.sign, ()),
            (pointwise.heaviside, (0.3,)),
            (pointwise.ternary, (0.3,)),
        ):
            assert_agrees_bit_for_bit(operator, x, *arguments)

    @pytest.mark.parametrize("closed", [True, False])
    @pytest.mark.parametrize("centre", [0.0, 0.25])
    def test_windows(self, size, dtype, centre, closed):
        special = torch.tensor([1.0, -1.0, 1.25, -0.75, torch.nan, torch.inf, -torch.inf])
        x = torch.cat([special, torch.linspace(-3, 3, size)])[:size].to(dtype)
        grad = torch.linspace(1, 2, size).to(dtype)
        for z in (x, x.nan_to_num(0.5)):
            bits = window_bits(z, centre, 1.0, closed, False)
            assert len(bits) == -(-size // 8) * (2 if z.isnan().any() else 1)
            assert_agrees_bit_for_bit(window_gradient, grad, bits, 0.5, 0.25)
            for fixed in (False, True):
                bits = window_bits(z, centre, 1.0, closed, fixed)
                assert torch.equal(bits, window_bits.__wrapped__(z, centre, 1.0, closed, fixed))
                value, same_bits = pointwise.sign_and_window(z, centre, 1.0, closed, fixed)
                assert_bits(value, pointwise.sign(z), "sign beside its window")
                assert torch.equal(same_bits, bits)
            assert_agrees_bit_for_bit(window_gradient, grad, bits, 0.5, 0.25)


@pytest.mark.kernels
@pytest.mark.parametrize("size", [0, 1, 2, 3, 16])
def test_bools_are_no_bits_of_nan(size):
    """Two of them are as many as the bytes of bits, and of bits of NaN, that two elements have."""
    grad, inside = torch.ones(size), torch.arange(size) % 2 == 0
    assert window_gradient(grad, inside, 0.5, 0.25).equal(torch.where(inside, 0.5, 0.25))


def assert_agrees_bit_for_bit(operator, x, *arguments):
    if left_out(operator):
        return
    assert kernels.has_kernel(x, name=operator.__name__)
    given, expected = operator(x, *arguments), operator.__wrapped__(x, *arguments)
    assert given.dtype == expected.dtype
    assert torch.equal(given.isnan(), expected.isnan())
    assert torch.equal(given.nan_to_num(7), expected.nan_to_num(7))
    assert torch.equal(given.signbit(), expected.signbit()) or given.isnan().any()


@pytest.mark.kernels
def test_hard_values_keep_the_order_of_dimensions():
    x = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    for each in (x, x[:, :2], x.transpose(0, 2)):
        y = pointwise.sign(each)
        assert torch.equal(y, pointwise.sign.__wrapped__(each))
    assert pointwise.sign(x).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("tau", [1.0, 0.5, 1.3])
@pytest.mark.parametrize("shape", [(400, 16), (300, 64), (40, 1000)], ids=str)
def test_accuracy_against_double_precision(shape, tau):
    x, grad = rows(shape, torch.float32)
    index = categorical.draw_index(x, NOISE).clamp(min=0)
    for operator in (straight_through.straight_through, reinmax.reinmax):
        given = operator(x, index, grad, tau).double()
        exact = operator.__wrapped__(x.double(), index, grad.double(), tau)
        valid = ~exact.isnan()
        assert torch.equal(valid, ~given.isnan())
        # Of the largest term of a row's sums; in rows more certain than 1e-9 the rounding of
        # x - max x is what is left, 4e-6 at 40.
        terms = torch.softmax(x.double() / tau, -1) * relative_to(index, grad.double()) / tau
        largest = torch.maximum(terms.abs(), exact.abs()).amax(-1, keepdim=True)
        error = (given - exact).abs() / largest
        assert (error[valid & (largest > 1e-9)] < ACCURACY).all()


@pytest.mark.kernels
@pytest.mark.parametrize("tau", [1.0, 0.5, 1.3])
@pytest.mark.parametrize("shape", [(400, 16), (300, 64), (40, 1000)], ids=str)
def test_accuracy_of_softmaxes(shape, tau):
    """The value is softmax((x + G) / tau) of the float32 uniforms, worked out in float64."""
    x, grad = rows(shape, torch.float32)
    x[4::2] *= 20
    uniform = NOISE.classes(*shape, torch.float32).double()
    noisy = x.double() - (-torch.log1p(-uniform)).log()
    given = categorical.gumbel_softmax(x, tau, NOISE)
    exact = torch.softmax(noisy / tau, -1)
    assert torch.equal(given.isnan(), exact.isnan())
    error = (given - exact).abs() / exact.amax(-1, keepdim=True)
    assert (error.nan_to_num(0) < ACCURACY).all()
    # The gradients, as above.
    for got, z in (
        (softmax.softmax_backward_of_value(given, grad, tau), noisy),
        # A row of +infinity is one of the largest numbers.
        (
            softmax.softmax_backward_of_logits(x, grad, tau, 1.0),
            x.double().clamp(max=torch.finfo(x.dtype).max),
        ),
    ):
        p = torch.softmax(z / tau, -1)
        terms = p * relative_to(p.argmax(-1), grad.double()) / tau
        exact = terms - p * terms.sum(-1, keepdim=True)
        largest = torch.maximum(terms.abs(), exact.abs()).amax(-1, keepdim=True)
        error = (got - exact).abs() / largest
        assert torch.equal(got.isnan(), exact.isnan())
        assert (error[(largest > 1e-9).expand_as(error)] < ACCURACY).all()


@pytest.mark.kernels
def test_gradient_of_another_dtype_is_left_to_the_reference():
    x, grad = rows((7, 3), torch.float16)
    index = categorical.draw_index(x, NOISE).clamp(min=0)
    for rule in (RULES[n].example for n in ("straight_through", "darn", "reinmax", "gumbel")):
        given = rule.vjp(x, index, grad.float(), seed=0)
        with kernels.disabled():
            assert torch.equal(
                given.nan_to_num(7), rule.vjp(x, index, grad.float(), seed=0).nan_to_num(7)
            )
    relaxation = softmax.Softmax(0.5)
    given = relaxation.vjp(x, grad.float())
    assert given.dtype == torch.float16
    wide = relaxation.vjp(x.float(), grad.float())
    assert torch.equal(given.nan_to_num(7), wide.half().nan_to_num(7))
    with pytest.raises(RuntimeError, match="dtype"):
        torch.ops.straightthrough.reinmax(x, index, grad.float(), 1.0)

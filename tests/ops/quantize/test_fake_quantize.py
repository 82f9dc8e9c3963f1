"""Quantized numbers: every grid and shape of a scale under the suite, values by hand, errors."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

import straightthrough as st
from straightthrough import testing
from straightthrough.core.outcomes import GridValue, special_elements
from straightthrough.core.registry import OPERATORS
from straightthrough.core.signature import Input
from straightthrough.estimators import DGE, LSQ, STE, LSQPlus, Trust
from straightthrough.grids import MX, NVFP4, Binary, Float, HalfInt, Int, Placed, Stretched, Ternary
from straightthrough.testing import DTYPES, Case
from straightthrough.testing.values import saved_tensors

NAN, INF = math.nan, math.inf
RECORD = OPERATORS["fake_quantize"]
RULES = [rule.example for rule in RECORD.rules()]
GRIDS = [Int(2), Int(8, signed=False), Int(3, narrow=True), Stretched(1.58), Stretched(2)]
GRIDS += [
    HalfInt(3),
    Ternary(),
    Binary(),
    Float("e3m2"),
    Float("e2m1"),
    MX(block=5),
    MX("e2m3", 5, "even"),
]


class Channels(GridValue):
    """A value of a grid an element, of a scale a column."""

    outputs = ("... C",)

    def special(self, dtype):
        x = special_elements(dtype).unsqueeze(-1).expand(-1, 5)
        return x, torch.tensor([0.5, 1.0, 0.0, -1.0, 0.25], dtype=dtype)


class Shifted(Channels):
    """The same with an offset a column."""

    def special(self, dtype):
        return *super().special(dtype), torch.tensor([0.0, 0.3, -0.5, 2.0, -0.7], dtype=dtype)


def with_offset(x, scale, offset, **options):
    return st.fake_quantize(x, scale, offset=offset, **options)


SCALE = Input("scale", "C", positive=True, broadcasts=True)
OFFSET = Input("offset", "C", broadcasts=True)
CHANNELS = dataclasses.replace(RECORD, inputs=(Input("x", "... C"), SCALE), outcome=Channels())
OFFSETS = dataclasses.replace(
    RECORD,
    inputs=(*CHANNELS.inputs, OFFSET),
    outcome=Shifted(),
    function=with_offset,
    saved_bytes=lambda rule, *inputs: sum(x.nbytes for x in inputs),
)


def with_grid(record, grid):
    return dataclasses.replace(record, arguments={"grid": grid})


CASES = [Case(CHANNELS, STE()), Case(CHANNELS, LSQ()), Case(OFFSETS, LSQPlus())]
CASES += [Case(with_grid(CHANNELS, grid), LSQ()) for grid in (Binary(), Float("e2m1"), MX(block=5))]


@pytest.mark.parametrize(
    ("check", "case"),
    [
        (check, case)
        for case in CASES
        for check in testing.applicable(case)
        if check is not testing.check_strict  # which would name a row, where this names an element
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_scale_a_channel_passes_the_suite(check, case):
    check(case)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_every_grid_with_every_rule(grid, rule):
    for record in (CHANNELS, OFFSETS):
        case = Case(with_grid(record, grid), rule)
        # A slope this steep is no more exact than the place in the cell.
        for dtype in DTYPES if rule != DGE() else [torch.float64]:
            given = case.input(6, dtype=dtype)
            testing.assert_value(case, *case.special(dtype))
            testing.assert_value(case, *given)
            testing.assert_gradient(case, *given)
            if (rule, grid) != (
                Trust(),
                Stretched(1.58),
            ):  # v = 1 lies on its bound, up to rounding
                testing.assert_gradient(case, *(x.clamp(-1e3, 1e3) for x in case.special(dtype)))


SHAPES = [(), (1,), (5,), (3, 1), (3, 5), (4, 1, 1), (4, 3, 1), (1, 3, 5), (4, 3, 5)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("rule", [STE(), LSQ(), LSQ(batch_dims=0), LSQ("code", 2)], ids=str)
def test_scales_of_any_shape(shape, rule):
    case = Case(RECORD, rule)
    x = 3 * case.normal(4, 3, 5, dtype=torch.float64)
    scale = case.normal(*shape, dtype=torch.float64, seed=1).abs() + 0.1
    testing.assert_value(case, x, scale)
    testing.assert_gradient(case, x, scale)


def gradients(x, scale, *rest, grad=None, **options):
    x, scale = x.clone().requires_grad_(), scale.clone().requires_grad_()
    y = st.fake_quantize(x, scale, *rest, **options)
    return torch.autograd.grad(y, (x, scale), torch.ones_like(y) if grad is None else grad)


def test_lsq_by_hand():
    """Step 1/2, the range -2 to 1: v = -2, -1.5, .2, 1, 3."""
    x, s = torch.tensor([-1.0, -0.75, 0.1, 0.5, 1.5]), torch.tensor(0.5)
    grad = torch.tensor([1.0, 10.0, 100.0, 1000.0, 10000.0])
    to_x, to_s = gradients(x, s, grad=grad, grid=Int(2), rule="lsq")
    assert to_x.tolist() == [0, 10, 100, 0, 0]  # strict at -2 and at 1
    # -2 + 10 (-2 + 1.5) + 100 (0 - .2) + 1000 + 10000, over sqrt(5 * 1)
    torch.testing.assert_close(to_s, torch.tensor((-2 - 5 - 20 + 11000) / math.sqrt(5)))


def test_ste_by_hand():
    x, s = torch.tensor([-1.25, -1.3, 0.1, 0.75, 0.8]), torch.tensor(0.5)
    grad = torch.tensor([1.0, 10.0, 100.0, 1000.0, 10000.0])
    to_x, to_s = gradients(x, s, grad=grad, grid=Int(2))
    assert to_x.tolist() == [1, 0, 100, 0, 0]  # v = -2.5 becomes -2; 1.5 becomes 2
    # (-2 + 2.5) - 10 * 2 + 100 (0 - .2) + 1000 + 10000
    torch.testing.assert_close(to_s, torch.tensor(0.5 - 20 - 20 + 11000))


def test_the_batch_does_not_count_for_lsq():
    x, s = torch.randn(6, 10), torch.tensor(0.3)
    one, two = (gradients(y, s, grid=Int(4), rule="lsq")[1] for y in (x, torch.cat([x, x])))
    torch.testing.assert_close(two, 2 * one)
    weights = gradients(x, s, grid=Int(4), rule=LSQ(batch_dims=0))[1]
    torch.testing.assert_close(weights * math.sqrt(60), one * math.sqrt(10))


def test_the_offset_of_lsq_plus_by_hand():
    """Offset 1/4, step 1/2, the range 0 to 3: v = .3, 17.5, -.7."""
    x, s, b = torch.tensor([0.4, 9.0, -0.1]), torch.tensor(0.5), torch.tensor(0.25)
    b.requires_grad_()
    y = st.fake_quantize(x, s, offset=b, grid=Int(2, signed=False), rule="lsq_plus")
    assert y.tolist() == [0.25, 1.75, 0.25]
    to_b = torch.autograd.grad(y, b, torch.tensor([1.0, 10.0, 100.0]))[0]
    torch.testing.assert_close(to_b, torch.tensor(110 / math.sqrt(3 * 3)))


def test_pact_has_the_published_gradient_of_its_level():
    """Level a = 3 s = 1.5: the sum of g over x >= a, and g where 0 < x < a."""
    a = torch.tensor(1.5, requires_grad=True)
    x = torch.tensor([-1.0, 0.0, 0.7, 1.5, 4.0], requires_grad=True)
    y = st.fake_quantize(x, a / 3, grid=Int(2, signed=False), rule="pact")
    grad = torch.tensor([1.0, 10.0, 100.0, 1000.0, 10000.0])
    to_x, to_a = torch.autograd.grad(y, (x, a), grad)
    assert to_x.tolist() == [0, 0, 100, 0, 0]
    torch.testing.assert_close(to_a, torch.tensor(11000.0))


def test_tqt_has_the_published_gradient_of_its_threshold():
    """At s = 2^-1, v = -2.6, .2, 3, the range -2 to 1: s ln 2 (-2 + 10 (0 - .2) + 100)."""
    log_t = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
    x = torch.tensor([-1.3, 0.1, 1.5], dtype=torch.float64)
    y = st.fake_quantize(x, 2 ** st.ceil(log_t) / 2, grid=Int(2), rule="tqt")
    grad = torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64)
    to_log_t = torch.autograd.grad(y, log_t, grad)[0]
    assert to_log_t.item() == pytest.approx(0.5 * math.log(2) * (-2 - 2 + 100), rel=1e-12)


def test_seq_has_the_published_gradient():
    """v = -1, -.6, .2, 1.5 on the values of 2 bits, whose ends are 3/4."""
    x, a = torch.tensor([-2.0, -1.2, 0.4, 3.0]), torch.tensor(2.0)
    grad = torch.tensor([1.0, 10.0, 100.0, 1000.0])
    to_x, to_a = gradients(x, a, grad=grad, grid=Stretched(2), rule=LSQ("code", 0))
    assert to_x.tolist() == [0, 10, 100, 0]
    # -.75 + 10 (-.75 + .6) + 100 (.25 - .2) + 1000 * .75, over sqrt(4 * 1)
    torch.testing.assert_close(to_a, torch.tensor((-0.75 - 1.5 + 5 + 750) / 2))


def test_binary_scales_learn_from_the_sign():
    x, a = torch.tensor([-2.0, -0.5, 0.0, 1.5]), torch.tensor(1.0)
    grad = torch.tensor([1.0, 10.0, 100.0, 1000.0])
    to_x, to_a = gradients(x, a, grad=grad, grid=Binary())
    assert to_x.tolist() == [0, 10, 100, 0]
    assert to_a.item() == -1 - 10 + 100 + 1000


def test_other_rules_by_hand():
    """v = .25 and 9 at step 2, g = 3: the errors are .25 and 2 beyond 7."""
    x, s, g = torch.tensor([0.5, 18.0]), torch.tensor(2.0), torch.tensor([-3.0, -3.0])
    found = {
        rule: gradients(x, s, grad=g, grid=Int(4), rule=rule)[0].tolist()
        for rule in ("ewgs", "trust", "dge", "poly", "identity")
    }
    assert found["ewgs"] == pytest.approx([-3 * (1 - 0.2 * 0.25), 0])
    assert found["trust"] == [-3, 0]
    assert found["dge"] == pytest.approx([-3 * 0.5**-0.8 / 5, 0])
    x = torch.tensor([0.25], requires_grad=True)
    st.fake_quantize(x, 1.0, grid=Int(4), rule=DGE(cap=1e300)).sum().backward()
    assert x.grad.item() == pytest.approx(0.5**-0.8 / 5)
    c = math.sqrt(2) * math.pi * 0.1 * math.cos(math.pi / 4)
    assert found["poly"] == pytest.approx([-3 * (1 - c) / (1 + c), 0])
    assert found["identity"] == [-3, -3]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rule", ["ste", "lsq", "pact", "tqt", "trust", "identity"])
def test_the_gradient_is_the_given_one_or_0_bit_by_bit(rule, dtype):
    x, grad = torch.randn(4000).to(dtype), torch.randn(4000).to(dtype)
    grad[:3] = torch.tensor([INF, -0.0, torch.finfo(dtype).max])
    x[:3] = torch.tensor([0.1, 0.2, 90.0])
    scale = torch.tensor(0.37)  # float32 beside half precision too
    scale = scale.double() if dtype == torch.float64 else scale
    to_x = gradients(x, scale, grad=grad, grid=Int(3), rule=rule)[0]
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[grad.element_size()]
    same = to_x.view(bits) == grad.view(bits)
    assert bool((same | (to_x.view(bits) == 0)).all())
    assert bool(same[:2].all())
    share = same.float().mean()
    assert share == 1 if rule == "identity" else 0.7 < share < 0.99


def test_nan_stays_and_spoils_nothing_else():
    x = torch.tensor([NAN, 0.3, INF, -INF])
    for rule in RULES:
        to_x, to_s = gradients(x, torch.tensor(0.5), grid=Int(4), rule=rule)
        assert to_s.isfinite(), rule
        assert to_x[1:].isfinite().all(), rule
    y = st.fake_quantize(x, 0.5, grid=Int(4))
    assert y[0].isnan()
    assert y[1:].tolist() == [0.5, 3.5, -4.0]


@pytest.mark.parametrize("bad", [0.0, -1.0, NAN, INF])
def test_a_row_without_a_scale_is_nan(bad):
    x, scale = torch.tensor([[0.3, 9.0], [0.3, 9.0]]), torch.tensor([[0.5], [bad]])
    y = st.fake_quantize(x, scale, grid=Int(4))
    assert y[0].tolist() == [0.5, 3.5]
    assert y[1].isnan().all()
    to_x, to_scale = gradients(x, scale, grid=Int(4))
    assert to_x.tolist() == [[1, 0], [0, 0]]
    assert to_scale.flatten().tolist() == pytest.approx([0.4 + 7, 0])
    with st.strict(), pytest.raises(st.ArgumentError, match=r"row \(1, 0\) has no valid outcome"):
        st.fake_quantize(x, scale, grid=Int(4))


@pytest.mark.parametrize("size", [2, 32])  # of which kernels take the second
@pytest.mark.parametrize("bad", [0.0, -1.0, NAN, INF])
def test_a_zero_point_that_rows_share_learns_from_those_with_a_scale(bad, size):
    x, scale = torch.full((2, size), 9.0), torch.tensor([[0.5], [bad]])
    zero = torch.tensor(1.0, requires_grad=True)
    y = st.fake_quantize(x, scale, zero, grid=Int(4))
    assert torch.autograd.grad(y[0].sum(), zero)[0] == -0.5 * size


def saved_bytes(x, scale, rule):
    with saved_tensors() as saved:
        st.fake_quantize(x, scale, grid=Int(4), rule=rule)
    return sum(t.nbytes for t in saved)


def test_what_is_saved():
    x, scale = torch.randn(1000, requires_grad=True), torch.tensor(0.1)
    assert saved_bytes(x, scale, "ste") == 125
    assert saved_bytes(x, scale, "identity") == 0
    assert saved_bytes(x, scale, "lsq") == 125
    assert saved_bytes(x, scale, "dge") == 4004
    assert saved_bytes(x, scale.requires_grad_(), "ste") == 4004
    assert saved_bytes(x, scale, "lsq") == 4004


def test_the_identity_passes_the_gradient_with_nothing_saved():
    x, grad = torch.randn(64, requires_grad=True), torch.randn(64)
    for options in ({"grid": MX()}, {"grid": Int(4), "offset": 0.3}):
        y = st.fake_quantize(x, 0.1, rule="identity", **options)
        assert torch.equal(torch.autograd.grad(y, x, grad)[0], grad)


def test_a_tangent_of_the_scale_alone_is_not_lost():
    x = torch.tensor([0.3, 9.0], requires_grad=True)
    with torch.autograd.forward_ad.dual_level():
        scale = torch.autograd.forward_ad.make_dual(torch.tensor(0.5), torch.tensor(2.0))
        y = st.fake_quantize(x, scale, grid=Int(4))
        tangent = torch.autograd.forward_ad.unpack_dual(y).tangent
    torch.testing.assert_close(tangent, 2 * torch.tensor([0.4, 7.0]))


X = torch.zeros(2, 3)
WRONG = [
    (lambda: st.fake_quantize(X, 0.0, grid=Int(4)), "scale must be above 0, got 0.0"),
    (lambda: st.fake_quantize(X, -1, grid=Int(4)), "scale must be above 0, got -1"),
    (lambda: st.fake_quantize(X, NAN, grid=Int(4)), "scale must be a finite number, got nan"),
    (lambda: st.fake_quantize(X, 1e39, grid=Int(4)), "scale is beyond the range of torch.float32"),
    (lambda: st.fake_quantize(X, 1e-46, grid=Int(4)), "scale is beyond the range of torch.float32"),
    (lambda: st.fake_quantize(X, 1.0, grid="int4"), "grid must be one of st.grids, such as Int(4)"),
    (lambda: st.fake_quantize(X, 1.0, 8, grid=Int(4)), "a whole number in [-8, 7], got 8"),
    (lambda: st.fake_quantize(X, 1.0, 1.0, grid=Int(4)), "a whole number in [-8, 7], got 1.0"),
    (lambda: st.fake_quantize(X, 1.0, True, grid=Int(4)), "a whole number in [-8, 7], got True"),
    (lambda: st.fake_quantize(X, 1.0, np.ones(3), grid=Int(4)), "a tensor or a whole number in"),
    (lambda: st.fake_quantize(X, 1.0, 1, grid=Ternary()), "zero_point is for st.grids.Int, got 1"),
    (lambda: st.fake_quantize(X, 1.0, 1, grid=Int(4), offset=1.0), "exclude each other"),
    (lambda: st.fake_quantize(X, 1.0, offset=NAN, grid=Int(4)), "offset must be a finite number"),
    (lambda: st.fake_quantize(X, torch.ones(2), grid=Int(4)), "scale of shape (2,) does not broad"),
    (lambda: st.fake_quantize(X, torch.ones(1, 2, 3), grid=Int(4)), "of shape (1, 2, 3) does not"),
    (
        lambda: st.fake_quantize(X, 1.0, torch.zeros(2, dtype=torch.int32), grid=Int(4)),
        "zero_point of shape (2,) does not broadcast to x of shape (2, 3)",
    ),
    (lambda: st.fake_quantize(X.half(), torch.ones(()).double(), grid=Int(4)), "torch.float16 or"),
    (lambda: st.fake_quantize(X, "1", grid=Int(4)), "scale must be a tensor, got str"),
    (lambda: st.fake_quantize(X, torch.ones((), device="meta"), grid=Int(4)), "must be on cpu"),
]


@pytest.mark.parametrize(("call", "message"), WRONG)
def test_wrong_arguments(call, message):
    with pytest.raises(st.StraightThroughError) as caught:
        call()
    assert message in str(caught.value)


def test_nvfp4_under_the_rules():
    """Blocks of 16, which the other tests have no room for."""
    record = with_grid(RECORD, NVFP4())
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(3, 32, generator=generator, dtype=torch.float64)
    for rule in (STE(), LSQ(), st.surrogates.Identity()):
        for dtype in DTYPES:
            given = x.to(dtype), torch.tensor(0.25, dtype=dtype)
            testing.assert_value(Case(record, rule), *given)
            testing.assert_gradient(Case(record, rule), *given)


@pytest.mark.parametrize("learned", [False, True])
def test_a_range_of_ones_own_is_asked(learned: bool) -> None:
    @dataclasses.dataclass(frozen=True)
    class Upper(STE):
        """Passes where the value is above 0."""

        def within(self, at: Placed) -> torch.Tensor:
            return at.v > 0

    x = torch.tensor([-3.0, -0.5, 0.5, 3.0], requires_grad=True)
    scale = torch.tensor(0.25, requires_grad=learned)
    y = st.fake_quantize(x, scale, grid=Int(4), rule=Upper())
    y.sum().backward()
    assert torch.equal(x.grad, torch.tensor([0.0, 0.0, 1.0, 1.0]))


def test_numbers_of_a_grid_stay_constants_where_compiled_code_leaves_numbers_open():
    torch.compiler.reset()
    module = st.nn.Quantizer(Stretched(1.58), st.scales.AbsMax())
    x = torch.randn(4, 32)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True, dynamic=True)
    assert torch.equal(compiled(x), module(x))


@pytest.mark.parametrize("grid", [Int(4), HalfInt(4)])
def test_bits_of_a_grid_stay_constants_where_compiled_code_leaves_numbers_open(grid):
    torch.compiler.reset()

    def call(x):
        return st.stochastic_quantize(st.fake_quantize(x, 0.3, grid=grid), 0.7, grid=grid, seed=1)

    compiled = torch.compile(call, backend="aot_eager", fullgraph=True, dynamic=True)
    x = torch.randn(4, 32)
    assert torch.equal(compiled(x), call(x))


@pytest.mark.parametrize("shape", [(6, 1), (4, 1, 1), (4, 6, 1)])
def test_scales_beside_sizes_that_compiled_code_leaves_open(shape):
    torch.compiler.reset()

    def call(x, scale):
        return st.fake_quantize(x, scale, grid=Int(4), rule="lsq")

    compiled = torch.compile(call, backend="aot_eager", fullgraph=True, dynamic=True)
    x, scale = torch.randn(4, 6, 32), torch.rand(shape) + 0.1
    static = scale.clone().requires_grad_()  # as a parameter's, whose sizes are not open
    assert torch.equal(compiled(x, scale), call(x, scale))
    torch._dynamo.mark_static(static)
    torch.compiler.reset()
    assert torch.equal(compiled(x, static), call(x, static))

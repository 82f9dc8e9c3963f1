"""The quantizer module: where scales start, what is kept, codes, numbers of rules."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch

import straightthrough as st
from straightthrough.core.errors import FLOATING
from straightthrough.estimators import LSQ, STE
from straightthrough.grids import MX, Int, Stretched, Ternary
from straightthrough.nn import Quantizer
from straightthrough.scales import RMS, AbsMax, AbsMean, Fixed, Learned, Observed, Scale
from straightthrough.surrogates import Identity

X = torch.tensor([[0.5, -1.0, 2.0, 0.1], [4.0, 0.0, -3.0, 1.0]])

# Scale, and what it is of X with Int(3), whose largest code is 3, by hand.
MEASURED = [
    (AbsMax(), 4 / 3),
    (AbsMax(axis=0), [[2 / 3], [4 / 3]]),
    (AbsMax(axis=-1), [[4 / 3, 1 / 3, 1, 1 / 3]]),
    (AbsMax(token=True), [[2 / 3], [4 / 3]]),
    (AbsMax(block=2), [[[1 / 3], [2 / 3]], [[4 / 3], [1]]]),
    (AbsMax(floor=9.0), 3.0),
    (AbsMean(), 11.6 / 8),
    (AbsMean(0.5, axis=0), [[3.6 / 8], [8 / 8]]),
    (Observed(), 4 / 3),
    (Observed(50.0), 1 / 3),  # the fourth of 0 .1 .5 1 1 2 3 4
    (Learned(), 2 * 11.6 / 8 / math.sqrt(3)),
    (Learned(start=6.0), 2.0),
    (RMS(0.5, token=True), [[math.sqrt(5.26 / 4) / 2], [math.sqrt(26 / 4) / 2]]),
    (Fixed(0.25), 0.25),
    (Observed(zero_point=True), 7 / 7),
    (Learned(zero_point=True, form="log2", axis=0), [[3 / 7], [1]]),
    (Learned(axis=0), [[1.8 / math.sqrt(3)], [4 / math.sqrt(3)]]),
    (Learned(start="max", form="log2"), 4 / 3),
    (Learned(start="max", form="log2", power_of_two=True), 2.0),
    (Learned(start="max", form="clip", block=2), [[[1 / 3], [2 / 3]], [[4 / 3], [1]]]),
]


@pytest.mark.parametrize(("scale", "due"), MEASURED, ids=str)
def test_scales_by_hand(scale, due):
    quantize = Quantizer(Int(3), scale, shape=X.shape)
    found = quantize.scale_of(X)
    torch.testing.assert_close(found.detach(), torch.tensor(due))
    zero = {"zero_point": quantize.zero_point} if scale.shifts else {}
    wanted = st.fake_quantize(scale.blocks(X), found, grid=Int(3), **zero).reshape(X.shape)
    assert torch.equal(quantize(X), wanted)


def test_the_scale_of_a_stretched_grid_is_its_end():
    assert Quantizer(Stretched(2), AbsMax()).scale_of(X) == 4
    assert Quantizer(Stretched(1.58), Learned(start="max")).scale_of(X).item() == pytest.approx(4)


@pytest.mark.parametrize("transform", ["tanh", "twn"])
@pytest.mark.parametrize("shape", [(0,), (0, 4), (4, 0)])
def test_an_empty_input_passes_a_transform(transform, shape):
    assert Quantizer(Int(4), transform=transform)(torch.empty(shape)).shape == shape


@pytest.mark.parametrize("scale", [AbsMax(), Observed(), Learned(start="max"), Learned(start=4.0)])
def test_one_signed_bit_reaches_its_lower_end(scale):
    assert Quantizer(Int(1), scale)(X).unique().tolist() == [-4.0, 0.0]


def test_three_sigma_and_least_squares():
    x = torch.tensor([1.0, 3.0, 5.0, 7.0])  # mean 4, variance 5
    three = Quantizer(Int(3), Learned(start="3sigma")).scale_of(x)
    torch.testing.assert_close(three.detach(), torch.tensor((4 + 3 * math.sqrt(5)) / 4))
    x = torch.randn(500, generator=torch.Generator().manual_seed(0))
    best = Quantizer(Int(3), Learned(start="mse")).scale_of(x).item()

    def error(s):
        return sum(min((s * code - value) ** 2 for code in range(-4, 4)) for value in x.tolist())

    tried = [float(x.abs().max()) / 3 * step / 100 for step in range(1, 101)]
    assert best == pytest.approx(min(tried, key=error), rel=1e-5)


def test_a_learned_scale_starts_once_and_learns():
    quantize = Quantizer(Int(4), Learned(), "lsq")
    quantize(X).square().sum().backward()
    before = quantize.scale.item()
    assert quantize.parameter.grad.abs() > 0
    torch.optim.SGD(quantize.parameters(), lr=0.1).step()
    assert 0 < quantize.scale.item() != before
    now = quantize.scale.item()
    quantize(100 * X)
    assert quantize.scale.item() == now


@pytest.mark.parametrize("form", ["softplus", "log2", "clip"])
def test_no_step_makes_a_scale_negative(form):
    quantize = Quantizer(Int(4), Learned(form=form), "lsq")
    quantize(X)
    with torch.no_grad():
        quantize.parameter.fill_(-30.0)
    assert quantize.scale > 0
    quantize(X).sum().backward()
    assert quantize.parameter.grad.isfinite()


@pytest.mark.parametrize("percentile", [1, 50, 100])
def test_a_percentile_of_a_single_number_is_its_size(percentile):
    assert Quantizer(Int(4), Observed(percentile))(torch.tensor(-3.0)) == -3


AXES = [
    AbsMax,
    AbsMean,
    RMS,
    Learned,
    Observed,
    lambda axis: Observed(50, axis=axis),
    lambda axis: Observed(zero_point=True, axis=axis),
    lambda axis: Learned(start="3sigma", axis=axis),
    lambda axis: Learned(start="mse", axis=axis),
    lambda axis: Learned(offset=True, axis=axis),
]


@pytest.mark.parametrize("scale", AXES)
def test_an_axis_that_is_all_there_is(scale):
    """Channels of one element each are what the rows of a matrix of one column are."""
    x = torch.tensor([0.5, -3.0, 20.0])
    for axis in (0, -1):
        one = Quantizer(Int(4), scale(axis=axis), shape=(3,))
        rows = Quantizer(Int(4), scale(axis=0), shape=(3, 1))
        assert torch.equal(one(x), rows(x[:, None])[:, 0])
        assert torch.equal(one.codes(x), rows.codes(x[:, None])[:, 0])
        assert one.scale_of(x).flatten().tolist() == rows.scale_of(x[:, None]).flatten().tolist()


def test_observed_scales_move_in_training_alone():
    quantize = Quantizer(Int(4), Observed(momentum=0.25))
    quantize(torch.tensor([7.0]))
    quantize(torch.tensor([-21.0]))
    assert quantize.scale.item() == 1.5
    quantize.eval()(torch.tensor([70.0]))
    assert quantize.scale.item() == 1.5
    assert quantize.scale_of(torch.tensor([70.0])).item() == 1.5


def test_a_zero_point_is_where_zero_lies():
    x = torch.tensor([-1.0, 0.5, 2.0])  # a step of 0.2: 5 of them below 0
    for scale in (Learned(zero_point=True), Observed(zero_point=True)):
        quantize = Quantizer(Int(4, signed=False), scale)
        torch.testing.assert_close(quantize(x), torch.tensor([-1.0, 0.4, 2.0]))
        assert quantize.zero_point.item() == pytest.approx(5)
        assert quantize.codes(x).tolist() == [0, 7, 15]
        positive = Quantizer(Int(4, signed=False), scale)
        positive(x + 4)
        assert positive.zero_point == 0
        assert positive.scale.item() == pytest.approx(6 / 15)


def test_a_zero_point_learns_and_stays_in_range():
    quantize = Quantizer(Int(4, signed=False), Learned(zero_point=True), "ste")
    quantize(torch.tensor([-1.0, 2.0]))
    s = quantize.scale.item()
    quantize(torch.tensor([-1.0, 0.0, 9.0])).sum().backward()
    assert quantize.shift.grad.item() == pytest.approx(-s)
    with torch.no_grad():
        quantize.shift.fill_(99.0)
    assert quantize.zero_point == 15
    assert quantize(torch.tensor([3.0])) == 0


def test_an_observed_zero_point_moves():
    quantize = Quantizer(Int(4, signed=False), Observed(momentum=0.5, zero_point=True))
    quantize(torch.tensor([-1.0, 2.0]))
    quantize(torch.tensor([-3.0, 0.0]))
    assert quantize.zero_point.item() == pytest.approx(10)
    assert quantize.eval()(torch.tensor([-2.0])).item() == pytest.approx(-2)


@pytest.mark.parametrize("scale", [Learned(axis=0), Observed(axis=0), AbsMax(axis=0)], ids=str)
@pytest.mark.parametrize("way", ["state dict", "pickle", "copy"])
def test_what_is_kept_is_carried_over(scale, way):
    first = Quantizer(Int(4), scale, "lsq", shape=X.shape)
    y = first(X)
    ways = {
        "pickle": lambda: pickle.loads(pickle.dumps(first)),
        "copy": lambda: copy.deepcopy(first),
    }
    if way == "state dict":
        twin = Quantizer(Int(4), scale, "lsq", shape=X.shape)
        twin.load_state_dict(first.state_dict())
    else:
        twin = ways[way]()
    assert torch.equal(twin(X), y)
    wanted = first.eval()(9 * X)
    assert torch.equal(twin.eval()(9 * X), wanted)


@pytest.mark.parametrize("grid", [Int(4), Int(3, narrow=True), Stretched(2), Ternary()], ids=str)
@pytest.mark.parametrize("scale", [AbsMax(block=2), Learned(axis=0), AbsMean()], ids=str)
def test_codes_are_those_of_the_values(grid, scale):
    quantize = Quantizer(grid, scale, shape=X.shape)
    y, codes = quantize(X), quantize.codes(X)
    assert codes.dtype == torch.int32
    assert codes.shape == X.shape
    assert torch.equal(quantize.decode(codes, quantize.scale_of(X)), y)


def test_numbers_of_the_rule_are_attributes():
    quantize = Quantizer(Int(4), AbsMax(), "ewgs", delta=st.nn.schedules.Linear(0.0, 0.4, steps=2))
    assert quantize.rule.delta == 0
    st.nn.step_schedules(quantize)
    assert quantize.rule.delta == pytest.approx(0.2)
    quantize.rule = "identity"
    assert quantize.rule == Identity()
    quantize.rule = LSQ(batch_dims=0)
    assert quantize.batch_dims == 0
    quantize.batch_dims = 1
    assert quantize.rule == LSQ()
    with pytest.raises(st.ArgumentError, match="above 0"):
        Quantizer(Int(4), AbsMax(), "trust", bound=0)


def test_disabled_it_passes_its_input():
    quantize = Quantizer(Int(4), Learned())
    quantize.enabled = False
    assert quantize(X) is X
    assert not quantize.started
    quantize.enabled = True
    quantize(X)
    assert quantize.started


def test_a_start_is_kept_where_parameters_are_copies():
    """As shards are put together for a forward, and forgotten after it."""
    quantize = Quantizer(Int(4), Learned(start="max"), "lsq")
    copies = {name: p.detach().clone() for name, p in quantize.named_parameters()}
    torch.func.functional_call(quantize, copies, (X,))
    assert quantize.scale.item() == pytest.approx(4 / 7)


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("scale", [AbsMax(), Learned(), Observed()], ids=str)
def test_dtypes(scale, dtype):
    quantize = Quantizer(Int(4), scale)
    y = quantize(X.to(dtype))
    assert y.dtype == dtype
    assert bool(y.isfinite().all())
    assert quantize.to(dtype)(X.to(dtype)).dtype == dtype


@pytest.mark.parametrize("scale", [AbsMax(), AbsMean(axis=0), Learned(axis=0)], ids=str)
def test_compiled_it_is_the_same(scale):
    torch.compiler.reset()
    quantize = Quantizer(Int(4), scale, "lsq", shape=X.shape)
    quantize.start(X) if scale.kept else None
    compiled = torch.compile(quantize, fullgraph=True, backend="aot_eager_decomp_partition")
    found, wanted = X.clone().requires_grad_(), X.clone().requires_grad_()
    y, z = compiled(found), quantize(wanted)
    assert torch.equal(y, z)
    y.square().sum().backward()
    z.square().sum().backward()
    assert torch.equal(found.grad, wanted.grad)


def channels(scale):
    """A quantizer that has started, and gets other channels."""
    quantize = Quantizer(Int(4), scale(axis=1), shape=(2, 3))
    quantize(torch.randn(2, 3)) if scale is Observed else None
    return quantize


@pytest.mark.parametrize("scale", [Learned, Observed])
def test_channels_of_another_dimension_are_refused_after_the_start_too(scale):
    x = torch.tensor([1.0, 10.0, 100.0])[:, None].expand(3, 4)
    quantize = Quantizer(Int(4), scale(axis=0), shape=x.shape)
    quantize(x)
    for mode in (True, False):
        for wrong in (torch.ones(7, 3, 4), torch.ones(4), torch.ones(2, 4)):  # the first broadcasts
            with pytest.raises(st.ShapeError, match=r"those that are kept are of \(3, 1\)"):
                quantize.train(mode)(wrong)
    for first in ((2, 3), (5, 2, 3)):
        last = Quantizer(Int(4), scale(axis=-1), shape=(3,))
        last(torch.ones(first))
        for shape in ((5, 2, 3), (0, 2, 3), (0, 3)):
            for mode in (True, False):
                assert last.train(mode)(torch.ones(shape)).shape == shape
        assert last.scale.shape == (1, 3)


WRONG = [
    (lambda: Quantizer("int4"), "grid must be one of st.grids"),
    (lambda: Quantizer(Int(4), "absmax"), "scale must be one of st.scales, such as AbsMax()"),
    (lambda: Quantizer(Int(4), AbsMax(), "no"), "rule='no' is unknown here"),
    (lambda: Quantizer(Int(4), Learned(axis=0)), "shape= is missing"),
    (lambda: Quantizer(Int(4), Learned(axis=0), shape=3), "the sizes of the input, ints, got 3"),
    (lambda: Quantizer(Int(4), Learned(axis=0), shape=(3, "4")), "ints, got (3, '4')"),
    (lambda: Quantizer(Int(4), Learned(axis=0), shape=(3, -4)), "ints, got (3, -4)"),
    (lambda: Quantizer(Int(4), Learned(axis=0), shape=(3, True)), "ints, got (3, True)"),
    (lambda: Quantizer(Int(4), AbsMax()).scale, "is measured on each input; use scale_of(x)"),
    (lambda: AbsMax(axis=0, block=2), "axis, block and token exclude each other"),
    (lambda: AbsMax(axis=1.0), "axis must be an int, got 1.0"),
    (lambda: AbsMax(block=0), "block must be an int of at least 1, got 0"),
    (lambda: AbsMax(floor=0), "floor must be above 0, got 0"),
    (lambda: AbsMax(token=1), "token must be True or False, got 1"),
    (lambda: AbsMean(-1.0), "factor must be above 0, got -1.0"),
    (lambda: Observed(0), "percentile must lie in (0, 100], got 0"),
    (lambda: Observed(momentum=1.5), "momentum must lie in (0, 1], got 1.5"),
    (lambda: Learned(form="exp"), "form must be one of softplus, log2, clip, got 'exp'"),
    (lambda: Learned(start="no"), "start must be one of lsq, 3sigma, mse, max, got 'no'"),
    (lambda: Learned(start=-1.0), "start must be above 0, got -1.0"),
    (lambda: Learned(offset=True, zero_point=True), "offset and zero_point exclude each other"),
    (lambda: Observed(99.0, zero_point=True), "zero_point needs percentile=100, got 99.0"),
    (lambda: Quantizer(Ternary(), Learned(zero_point=True)), "zero_point is for st.grids.Int, got"),
    (lambda: RMS(0), "factor must be above 0, got 0"),
    (lambda: Fixed(0), "value must be above 0, got 0"),
    (lambda: Learned(token=True), "Learned has no tokens"),
    (lambda: Observed(token=True), "Observed has no tokens"),
    (lambda: channels(Learned)(X), "scales of shape (1, 4), but those that are kept are of (1, 3)"),
    (lambda: channels(Observed)(X), "make the quantizer with the input's shape="),
    (lambda: channels(Learned)(X), "has grown, start_at(scale) with those of before"),
    (lambda: Quantizer(MX(block=4)).decode(X, X), "have no values without the scales of their"),
    (lambda: Quantizer(Int(4), Learned()).to("meta").start(X), "is on the meta device, where none"),
    (lambda: Learned(power_of_two=True), "power_of_two needs form='log2', got 'softplus'"),
    (lambda: Quantizer(Int(4), AbsMax(block=3))(X), "blocks of 3 do not divide the last dimension"),
    (lambda: Quantizer(Int(4), AbsMax(axis=2))(X), "axis must lie in [-2, 1] for an input of 2"),
]


@pytest.mark.parametrize(("call", "message"), WRONG)
def test_wrong_arguments(call, message):
    with pytest.raises(st.StraightThroughError) as caught:
        call()
    assert message in str(caught.value)


def test_the_default_scale_is_the_largest_size():
    assert Quantizer(Int(4)).scaling == AbsMax()
    assert Quantizer(Int(4)).rule == STE()


def test_what_was_on_the_meta_device_starts_wherever_it_comes():
    quantize = Quantizer(Int(4), Learned()).to("meta")
    quantize.load_state_dict(Quantizer(Int(4), Learned()).state_dict(), assign=True)
    assert torch.equal(quantize(X), Quantizer(Int(4), Learned())(X))
    for other in (Quantizer(Int(4), Learned()), copy.deepcopy(quantize)):
        other.to("meta").to_empty(device="cpu")
        assert torch.equal(other(X), quantize(X))
    empty = Quantizer(Int(4), Learned()).to("meta")
    with pytest.warns(UserWarning, match="a no-op"):
        empty.load_state_dict(quantize.state_dict())


KEPT = [Learned(), Learned(start="mse"), Learned(zero_point=True), Observed()]


OTHERS = [Learned(start="3sigma"), Learned(offset=True), Observed(percentile=50)]


@pytest.mark.parametrize("scaling", [*KEPT, *OTHERS], ids=repr)
@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_what_is_no_number_is_in_no_scale_that_is_kept(scaling: Scale, bad: float) -> None:
    x = torch.tensor([2.5, 1.0, 3.0])
    broken = torch.tensor([2.5, 1.0, 3.0, bad, bad])
    one, other = (Quantizer(Int(8, signed=not scaling.shifts), scaling) for _ in range(2))
    for _ in range(2):  # the second is observed by a scale that has started
        one(x)
        y = other(broken)
    assert torch.equal(one.scale, other.scale)
    assert y.isnan().tolist() == [False] * 3 + [math.isnan(bad)] * 2
    assert torch.equal(one(x), other(x))


@pytest.mark.parametrize("scaling", [Observed(axis=0), Observed(axis=0, percentile=60)], ids=repr)
def test_a_channel_without_a_number_keeps_its_scale(scaling: Scale) -> None:
    quantize = Quantizer(Int(4), scaling, shape=(2, 3))
    x = torch.tensor([[7.0, 7.0, -7.0], [14.0, 14.0, -14.0]])
    quantize(x)
    x[1] = math.nan
    quantize(2 * x)
    torch.testing.assert_close(quantize.scale, torch.tensor([[1.1], [2.0]]))


@pytest.mark.parametrize("scaling", [*KEPT, AbsMax(), AbsMean(), AbsMax(token=True)], ids=repr)
def test_an_empty_input_passes_and_starts_nothing(scaling: Scale) -> None:
    quantize = Quantizer(Int(8, signed=not scaling.shifts), scaling)
    x = torch.empty(0, 4, requires_grad=True)
    assert quantize(x).shape == quantize.codes(x).shape == (0, 4)
    quantize(x).sum().backward()
    assert not (scaling.kept and quantize.started)
    again, full = Quantizer(Int(8, signed=not scaling.shifts), scaling), torch.randn(3, 4)
    assert torch.equal(quantize(full), again(full))

"""Learned scales: what their state means, where they start, and where float32 ends."""

from __future__ import annotations

import copy
import itertools
import re

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn

import straightthrough as st
from straightthrough.grids import Int
from straightthrough.nn import Quantizer, prepare
from straightthrough.scales import RMS, AbsMean, Learned, Observed

X = torch.tensor([[0.5, -1.0, 2.0, 0.1], [4.0, 0.0, -3.0, 1.0]])

MEANINGS = [
    Learned(**form, **shift)
    for form in ({}, {"form": "log2"}, {"form": "clip"}, {"form": "log2", "power_of_two": True})
    for shift in ({}, {"zero_point": True}, {"offset": True})
]


def test_a_state_dict_of_another_form_is_refused():
    """Its numbers fit, and would be another scale."""
    saved = []
    for scale in MEANINGS:
        quantize = Quantizer(Int(4), scale)
        quantize(X)
        saved.append(quantize.state_dict())
    for (at, scale), (of, state) in itertools.product(enumerate(MEANINGS), enumerate(saved)):
        quantize = Quantizer(Int(4), scale)
        quantize(3 * X)
        if at == of:
            quantize.load_state_dict(state)
            assert torch.equal(quantize.origin, state["origin"])
            continue
        before = quantize.scale.item()
        same = scale.mark == MEANINGS[of].mark  # then the one has a zero point and the other none
        message = "Missing|Unexpected" if same else "another meaning than in Learned"
        with pytest.raises(RuntimeError, match=message):
            quantize.load_state_dict(state, strict=same)
        if same:
            continue
        assert quantize.scale.item() == before


def test_a_state_dict_that_has_not_started_fits_every_form():
    fresh = Quantizer(Int(4), Learned()).state_dict()
    quantize = Quantizer(Int(4), Learned(form="log2"))
    quantize.load_state_dict(fresh)
    quantize(X)
    assert quantize.started


def test_a_state_dict_of_another_grid_is_refused(tmp_path):
    """At the scale of 8 bits one of 4 would clip nearly everything."""
    model = nn.Sequential(nn.Linear(16, 8), nn.LSTM(8, 4))
    wide, narrow = (
        prepare(copy.deepcopy(model), [("1", "w4"), ("0", name)]) for name in ("w8a8", "w4a8")
    )
    x = torch.randn(3, 16)
    narrow.load_state_dict(wide.state_dict())  # whose scales have not started
    wide(x)
    torch.save(wide.state_dict(), tmp_path / "saved.pt")
    state = torch.load(tmp_path / "saved.pt", weights_only=True)
    message = r"0.weight_quantizer.origin is of Learned and Int\(bits=8.* Learned and Int\(bits=4"
    for assign in (False, True):
        with pytest.raises(RuntimeError, match=message):
            narrow.load_state_dict(state, assign=assign)
    for key in [key for key in state if key.startswith("0.weight_quantizer.")]:
        del state[key]
    narrow.load_state_dict(state)
    narrow(x)
    weight = model[0].weight
    assert (narrow[0].quantized_weight() - weight).abs().max() < weight.abs().max() / 7
    assert torch.equal(narrow[0].input_quantizer.scale, wide[0].input_quantizer.scale)


LEARNED_OR_SEEN = (Learned(start="max"), Observed())


@pytest.mark.parametrize(("of", "into"), [LEARNED_OR_SEEN, LEARNED_OR_SEEN[::-1]])
def test_a_state_dict_of_another_class_is_refused(of, into):
    """What is kept of the one is the scale, and of the other what a scale is made of."""
    source, target = Quantizer(Int(8), of), Quantizer(Int(8), into)
    source(X)
    with pytest.raises(RuntimeError, match=f"is of {type(of).__name__} and Int"):
        target.load_state_dict(source.state_dict(), strict=False)
    target(2 * X)
    torch.testing.assert_close(target(X), X, rtol=0, atol=0.05)


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.95, 0.99, 0.999, 0.9999])
def test_a_mean_over_steps_has_the_same_meaning(decay):
    for scale in MEANINGS:
        quantize = Quantizer(Int(4), scale)
        for mean in (
            {"multi_avg_fn": get_ema_multi_avg_fn(decay)},
            {"avg_fn": get_ema_avg_fn(decay)},
        ):
            average = AveragedModel(quantize, use_buffers=True, **mean)
            for _ in range(5):
                quantize(X)
                average.update_parameters(quantize)
            assert average.module.started == quantize.started
            quantize.load_state_dict(average.module.state_dict())


@pytest.mark.parametrize("form", ["softplus", "log2", "clip"])
@pytest.mark.parametrize("start", ["lsq", "3sigma", "max"])
def test_a_start_is_finite_where_sums_and_squares_are_not(form, start):
    x = 3e38 * torch.tensor([-1.0, 1.0, -1.0, 1.0, 0.5, -0.5])
    quantize = Quantizer(Int(4), Learned(form=form, start=start))
    quantize(x)
    small = Quantizer(Int(4), Learned(form=form, start=start))
    small(x.double() / 1e30)
    wanted = 1e30 * small.scale.double()
    torch.testing.assert_close(quantize.scale.double(), wanted, rtol=1e-4, atol=0)


@pytest.mark.parametrize("scale", [AbsMean(), RMS()])
def test_a_mean_beyond_the_dtype_is_infinite(scale):
    x = torch.full((4,), 3e38)
    quantize = Quantizer(Int(4), scale)
    assert quantize.scale_of(x) == torch.inf
    assert quantize(x).isnan().all()


@pytest.mark.parametrize(
    ("form", "least", "most"), [("softplus", -103.0, 1e38), ("log2", -149.0, 127.0)]
)
def test_a_parameter_may_leave_what_float32_has_a_scale_for(form, least, most):
    quantize = Quantizer(Int(4), Learned(form=form), "lsq")
    quantize.start(X)
    quantize.origin.zero_()
    for parameter, fine in [(least, True), (most, True), (least - 2, False), (2e38, False)]:
        if form == "softplus" and parameter == 2e38:
            parameter = torch.inf
        with torch.no_grad():
            quantize.parameter.fill_(parameter)
        assert (0 < quantize.scale < torch.inf) == fine
        if not fine:
            assert quantize(X).isnan().all()
            with st.strict(), pytest.raises(st.ArgumentError, match="not a finite number above 0"):
                quantize(X)


def test_a_clipped_scale_comes_back_from_its_floor():
    quantize = Quantizer(Int(4), Learned(form="clip"), "lsq")
    quantize.start(X)
    with torch.no_grad():
        quantize.parameter.fill_(-100.0)
    assert quantize.scale == torch.tensor(1e-5)
    quantize(X).square().sum().backward()
    assert quantize.parameter.grad != 0


@pytest.mark.parametrize("scale", [*MEANINGS, Observed(), Observed(zero_point=True)], ids=str)
def test_a_scale_may_be_set(scale):
    """As that of a checkpoint of other code is."""
    quantize = Quantizer(Int(4), scale)
    shift = {"zero_point": 2.0, "offset": 0.5}.get(scale.shifts, 0.0)
    for _ in range(2):
        quantize.start_at(0.25, shift)
        assert quantize.scale.item() == pytest.approx(0.25)
        assert scale.shifts == "" or getattr(quantize, scale.shifts) == shift
        quantize(9 * X)  # in training: what is observed moves on
    if not isinstance(scale, Observed):
        shifts = {scale.shifts: torch.tensor(shift)} if scale.shifts else {}
        wanted = st.fake_quantize(X, quantize.scale, grid=Int(4), **shifts)
        assert torch.equal(quantize(X), wanted)


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_scales_of_channels_may_be_set(shape, dtype):
    quantize = Quantizer(Int(4), Learned(axis=0), shape=X.shape)
    quantize.start_at(torch.tensor([0.5, 2.0], dtype=dtype).reshape(shape))
    torch.testing.assert_close(quantize.scale.detach(), torch.tensor([[0.5], [2.0]]))
    quantize.start_at(torch.tensor(3.0))
    torch.testing.assert_close(quantize.scale.detach(), torch.tensor([[3.0], [3.0]]))


CANT_BE_SET = [
    (AbsMean(), (1.0,), "is measured on each input; set one that is kept"),
    (Learned(), (0.0,), "scale must be above 0, got 0"),
    (Learned(), (torch.tensor(-1.0),), "scale must be finite and above 0, got -1"),
    (Learned(), (1.0, 2.0), "has neither a zero point nor an offset to set"),
    (
        Learned(zero_point=True),
        (1.0, torch.tensor(torch.inf)),
        "zero_point must be finite, got inf",
    ),
    (Learned(zero_point=True), (1.0, 8), "zero_point must lie in [-8, 7]"),
    (Observed(zero_point=True), (1.0, torch.tensor(-9.0)), "zero_point must lie in [-8, 7]"),
    (Learned(axis=0), (torch.ones(3),), r"scale must be one number or (2, 1), got (3,)"),
    (Learned(axis=0), (torch.ones(1, 2),), r"scale must be one number or (2, 1), got (1, 2)"),
    (Learned(axis=0), (torch.tensor(1),), "scale must be float16, bfloat16, float32 or float64"),
]


@pytest.mark.parametrize(("scale", "values", "message"), CANT_BE_SET)
def test_what_can_not_be_set(scale, values, message):
    with pytest.raises(st.StraightThroughError, match=re.escape(message)):
        Quantizer(Int(4), scale, shape=X.shape).start_at(*values)


@pytest.mark.parametrize("scaling", [Learned(), Learned(axis=0, offset=True), Observed()])
def test_compiled_code_starts_no_scale_whose_buffers_come_from_another_model(scaling):
    torch.compiler.reset()  # of one function there are only so many graphs
    shape = X.shape if scaling.axis is not None else None
    known, copy = (Quantizer(Int(4), scaling, shape=shape) for _ in range(2))
    known(X)
    for into, tensor in zip(copy.buffers(), known.buffers(), strict=True):
        into.copy_(tensor)
    found = torch.compile(copy.eval(), backend="aot_eager", fullgraph=True)(5 * X)
    torch.testing.assert_close(found, known.eval()(5 * X))


@pytest.mark.parametrize("zero_point", [False, True])
def test_compiled_code_observes_at_once_where_buffers_come_from_another_model(zero_point):
    torch.compiler.reset()  # of one function there are only so many graphs
    scaling = Observed(momentum=0.5, zero_point=zero_point)
    known, copy = (Quantizer(Int(4), scaling) for _ in range(2))
    known(X)
    for into, tensor in zip(copy.buffers(), known.buffers(), strict=True):
        into.copy_(tensor)
    compiled = torch.compile(copy, backend="aot_eager", fullgraph=True)
    for x in (5 * X + 1, 3 * X):
        torch.testing.assert_close(compiled(x), known(x))
    torch.testing.assert_close(copy.state_dict(), known.state_dict())


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e20, 1e30])
def test_a_least_squared_error_is_found_where_squares_are_0_or_infinite(size):
    x = torch.randn(500, generator=torch.Generator().manual_seed(0))
    scale = Learned(form="log2", start="mse", floor=1e-38)
    found, wanted = (Quantizer(Int(3), scale) for _ in range(2))
    found(size * x)
    wanted(x)
    torch.testing.assert_close(found.scale / size, wanted.scale, rtol=1e-4, atol=0)

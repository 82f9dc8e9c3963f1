"""What is assigned to a module that is made: it counts from the next forward, or is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import straightthrough as st

S = st.nn.schedules
X = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
MAKE: dict[str, Callable[[], Any]] = {
    "router": lambda: st.nn.TopKRouter(4, 2),
    "book": lambda: st.nn.Codebook(8, 4),
    "residual": lambda: st.nn.ResidualVQ(2, 8, 4),
    "vq": lambda: st.nn.VectorQuantizer(8, 4),
    "fsq": lambda: st.nn.FSQ([4, 4, 4, 4]),
    "lfq": lambda: st.nn.LFQ(4),
    "control": lambda: st.nn.ControlVariate(4),
    "linear": lambda: S.Linear(1, 2, 10),
    "exponential": lambda: S.Exponential(1, 2, 10),
    "confidence": lambda: S.Confidence(),
    "answering": lambda: S.Answering(),
    "delay": lambda: S.Delay(3),
    "quantizer": lambda: st.nn.Quantizer(st.grids.Int(4)),
    "learned": lambda: st.nn.Quantizer(st.grids.Int(4), st.scales.Learned(zero_point=True)),
}
OUT = [  # module, attribute, value, and what the message says
    ("router", "k", 5, r"k must lie in \[1, 4\] for 4 experts, got 5"),
    ("router", "k", 0, "k must be an int of at least 1, got 0"),
    ("router", "scores", "relu", "scores must be one of softmax, sigmoid, got 'relu'"),
    ("router", "normalize", 1, "normalize must be True or False, got 1"),
    ("router", "rate", -1.0, "rate must be at least 0, got -1"),
    ("router", "experts", 8, "experts is 4 since this TopKRouter was made, and can't become 8"),
    ("book", "learn", "loss", "learn is 'ema' since this Codebook was made"),
    ("book", "metric", "cosine", "metric is 'euclidean' since"),
    ("book", "codes", 9, "codes is 8 since"),
    ("book", "k_means", False, "k_means is True since"),
    ("book", "update", "never", "update must be one of forward, manual"),
    ("book", "revive", -0.1, "revive must be at least 0"),
    ("book", "commitment", float("nan"), "commitment must be a finite number"),
    ("book", "frozen", "yes", "frozen must be True or False, got 'yes'"),
    ("book", "transform", nn.Identity(), "made with a transform or without"),
    ("vq", "update", "manual", "update is a codebook's, and of no effect here"),
    ("vq", "metric", "cosine", "metric is a codebook's"),
    ("vq", "k_means", False, "k_means is a codebook's"),
    ("vq", "codes", 16, "codes is 8 since this VectorQuantizer was made"),
    ("residual", "dropout", 0.5, "dropout must be True or False, got 0.5"),
    ("fsq", "levels", [1], "levels must be ints of at least 2"),
    ("fsq", "bound", "relu", "bound must be 'tanh' or 'sigmoid'"),
    ("lfq", "entropy", -1, "entropy must be at least 0, got -1"),
    ("lfq", "diversity", float("nan"), "diversity must be a finite number"),
    ("lfq", "bits", 64, "codes at most"),
    ("control", "decay", 1.0, r"decay must lie in \[0, 1\), got 1"),
    ("linear", "end", float("inf"), "end must be a finite number"),
    ("linear", "steps", -1, "steps must be an int of at least 0"),
    ("exponential", "start", -1.0, "start must be above 0"),
    ("confidence", "decay", 2, r"decay must lie in \[0, 1\), got 2"),
    ("confidence", "steps", 2, "steps is 1 since"),
    ("answering", "rate", 0, "rate must be above 0"),
    ("answering", "end", 3.0, "end is 1.0 since"),
    ("delay", "end", 3.0, "end is 1.0 since"),
    ("quantizer", "grid", 4, "grid must be one of st.grids"),
    ("quantizer", "scaling", "max", "scale must be one of st.scales"),
    ("quantizer", "scaling", st.scales.Learned(), "no meaning for Learned"),
    ("quantizer", "transform", "relu", "transform must be one of tanh, twn"),
    ("quantizer", "enabled", "no", "enabled must be True or False"),
    ("quantizer", "delay", -1, "delay must be an int of at least 0"),
    ("quantizer", "delay", S.Linear(0, 1, 3), "delay must be an int of at least 0"),
    ("learned", "scaling", st.scales.AbsMax(), "what is kept of it has no meaning for AbsMax"),
    ("learned", "scaling", st.scales.Learned(form="log2", zero_point=True), "no meaning"),
    ("learned", "grid", st.grids.Ternary(), "zero_point is for st.grids.Int, got Ternary"),
]


@pytest.mark.parametrize(("made", "name", "value", "message"), OUT)
def test_what_the_making_refuses_is_refused(
    made: str, name: str, value: object, message: str
) -> None:
    module = MAKE[made]()
    before = getattr(module, name, None)
    with pytest.raises(st.ArgumentError, match=message):
        setattr(module, name, value)
    assert getattr(module, name, None) is before


@pytest.mark.parametrize("made", MAKE)
def test_what_is_there_may_be_assigned_again(made: str) -> None:
    module = MAKE[made]()
    for name in (*getattr(module, "fixed", ()), *getattr(module, "checks", {})):
        value = getattr(module, name)
        setattr(module, name, value)
        assert getattr(module, name) == value


def test_numbers_of_numpy_become_those_of_python() -> None:
    router, book = MAKE["router"](), MAKE["book"]()
    router.k, router.normalize, book.revive = np.int64(3), np.bool_(False), np.float64(0.25)
    assert type(router.k) is int
    assert type(router.normalize) is bool
    assert book.revive == 0.25


def test_routers_take_other_numbers() -> None:
    router, fresh = MAKE["router"](), st.nn.TopKRouter(4, 3, scores="sigmoid", normalize=False)
    router.k, router.scores, router.normalize = 3, "sigmoid", False
    torch.testing.assert_close(router(X).gates, fresh(X).gates, rtol=0, atol=0)


def test_codes_follow_what_they_are_counted_from() -> None:
    fsq, lfq = MAKE["fsq"](), MAKE["lfq"]()
    fsq.levels, lfq.bits = [8, 8], 6
    assert fsq.codes == 64
    assert fsq.levels == (8, 8)
    assert lfq.codes == 64


def test_revival_of_a_parameter_wants_updates_by_hand() -> None:
    book = st.nn.Codebook(8, 4, learn="loss")
    with pytest.raises(st.ArgumentError, match="revive with learn='loss' needs update='manual'"):
        book.revive = 0.1
    book.update = "manual"
    book.revive = 0.1
    with pytest.raises(st.ArgumentError, match="revive with learn='loss' needs update='manual'"):
        book.update = "forward"
    made = st.nn.Codebook(8, 4, learn="loss", transform=nn.Identity())
    with pytest.raises(st.ArgumentError, match="transform learns by itself"):
        made.revive = 0.1
    made.transform = nn.Linear(4, 4)  # as what changes modules assigns others
    assert made.codewords().grad_fn is not None


def test_a_delay_may_be_an_int_or_none() -> None:
    quantize = MAKE["quantizer"]()
    quantize.delay = 1
    assert isinstance(quantize.delay, S.Delay)
    assert torch.equal(quantize(X), X)
    st.nn.step_schedules(quantize)
    assert not torch.equal(quantize(X), X)
    quantize.delay = S.Delay(2)
    assert torch.equal(quantize(X), X)
    quantize.delay = 0
    assert quantize.delay is None
    assert not torch.equal(quantize(X), X)


@pytest.mark.parametrize(("name", "value"), [("steps", 0), ("position", torch.tensor(2))])
def test_compiled_code_sees_what_is_assigned_to_a_delay(name: str, value: object) -> None:
    quantize = st.nn.Quantizer(st.grids.Int(4), delay=2)
    compiled = torch.compile(quantize, backend="eager", fullgraph=True)
    assert torch.equal(compiled(X), X)
    setattr(quantize.delay, name, value)
    assert torch.equal(compiled(X), st.nn.Quantizer(st.grids.Int(4))(X))


def test_a_grid_and_a_scale_that_means_the_same_count_at_once() -> None:
    quantize: Any = st.nn.Quantizer(st.grids.Int(4), st.scales.Observed(momentum=0.1))
    quantize(torch.tensor([7.0]))
    quantize.scaling = st.scales.Observed(momentum=1.0)
    quantize(torch.tensor([14.0]))
    assert quantize.scale == 2
    quantize.grid = st.grids.Int(8)
    assert quantize(torch.tensor([100.0])) != 14


@pytest.mark.parametrize("name", ["momentum", "threshold"])
def test_oscillations_take_other_numbers(name: str) -> None:
    model = st.nn.prepare(nn.Sequential(nn.Linear(4, 4)), [("0", "w4")])
    seen: Any = st.nn.Oscillations(model, threshold=0.5)
    with pytest.raises(st.ArgumentError, match=f"{name} must "):
        setattr(seen, name, -1.0)
    seen.momentum, seen.threshold = 1.0, None
    (weight,) = seen.weights.values()
    with torch.no_grad():
        weight._weight[0].present.mul_(-1)
    seen.step()
    assert torch.equal(weight.average, weight.code.float())


def test_a_pull_takes_other_numbers() -> None:
    model = st.nn.prepare(nn.Linear(4, 4), [("", "w4")])
    pull: Any = st.nn.CAGE(torch.optim.SGD(model.parameters(), lr=0.1), model, steps=10)
    with pytest.raises(st.ArgumentError, match=r"start must lie in \[0, 1\), got 1"):
        pull.start = 1.0
    with pytest.raises(st.ArgumentError, match="strength must be at least 0"):
        pull.strength = -1.0
    pull.start, pull.strength = 0.0, 2.0
    pull.position.fill_(5)
    assert pull.strength_now == 1.0


def test_a_subclass_may_assign_before_and_after_it_is_made() -> None:
    class Own(st.nn.TopKRouter):
        def __init__(self) -> None:
            self.k = 3
            super().__init__(4, self.k)
            self.experts = 4

    assert Own()(X).index.shape == (64, 3)

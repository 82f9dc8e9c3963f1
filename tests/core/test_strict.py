"""Elements without an outcome: NaN, an error in `st.strict()`, of functions and of modules."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import straightthrough as st

PROBS, RATES = torch.tensor([0.5, 1.5, -0.5]), torch.tensor([1.0, -1.0, 2.0**21])
ROWS = torch.tensor([[0.0, 1.0], [float("nan"), 1.0], [float("nan"), 0.0]])
PROBABILITY = "holds a NaN, or a probability outside its range"
COUNT = "holds a NaN, or a parameter outside its range"
OUTSIDE = (
    r"(probs must lie in [\[(]0, 1[\])], got 1\.5|rate must be at least 0, got -1) "
    r"at \(1,\); clamp it"
)
ELEMENTS: dict[str, tuple[Callable[[], Tensor], str, str]] = {
    "bernoulli": (lambda: st.bernoulli(probs=PROBS), "bernoulli", PROBABILITY),
    "binary_concrete": (lambda: st.binary_concrete(probs=PROBS), "binary_concrete", PROBABILITY),
    "hard_concrete": (lambda: st.hard_concrete(probs=PROBS), "hard_concrete", PROBABILITY),
    "poisson": (lambda: st.poisson(RATES), "poisson", COUNT),
    "binomial": (lambda: st.binomial(probs=PROBS, total_count=3), "binomial", COUNT),
    "geometric": (lambda: st.geometric(probs=PROBS), "geometric", COUNT),
    "negative_binomial": (
        lambda: st.negative_binomial(probs=PROBS, total_count=3),
        "negative_binomial",
        COUNT,
    ),
}
MODULES: dict[str, tuple[torch.nn.Module, dict[str, Tensor], str]] = {
    "Bernoulli": (st.nn.Bernoulli(), {"probs": PROBS}, "bernoulli"),
    "BinaryConcrete": (st.nn.BinaryConcrete(), {"probs": PROBS}, "binary_concrete"),
    "BinaryConcrete, hard": (st.nn.BinaryConcrete(hard=True), {"probs": PROBS}, "binary_concrete"),
    "Poisson": (st.nn.Poisson(), {"rate": RATES}, "poisson"),
    "Binomial": (st.nn.Binomial(3), {"probs": PROBS}, "binomial"),
    "Geometric": (st.nn.Geometric(), {"probs": PROBS}, "geometric"),
    "NegativeBinomial": (st.nn.NegativeBinomial(2.5), {"probs": PROBS}, "negative_binomial"),
    "Categorical": (st.nn.Categorical(), {"logits": ROWS}, ""),
    "GumbelSoftmax": (st.nn.GumbelSoftmax(), {"logits": ROWS}, "gumbel_softmax"),
    "CategoricalLookup": (st.nn.CategoricalLookup(2, 2), {"logits": ROWS}, "categorical_lookup"),
}


@pytest.mark.parametrize("case", ELEMENTS)
def test_elements_out_of_range_have_no_outcome(case: str) -> None:
    call, name, holds = ELEMENTS[case]
    assert call().isnan().tolist() == [False, True, True]
    says = rf"^{name}: row \(1,\) has no valid outcome: it {holds}; mend the parameter"
    with st.strict(), pytest.raises(st.ArgumentError, match=says):
        call()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("case", MODULES)
def test_modules_raise_in_training_and_in_eval(case: str, training: bool) -> None:
    module, arguments, name = MODULES[case]
    module.train(training)
    for nan in (False, True) if "logits" not in arguments else (True,):
        given = {key: without_range(x) if nan else x for key, x in arguments.items()}
        says = rf"^{name}.*: row \(1,\) has no valid outcome" if nan else OUTSIDE
        with st.strict(), pytest.raises(st.ArgumentError, match=says):
            module(**given)
        if nan:
            without = module(**given).isnan().reshape(3, -1)[:, 0]
            assert without.tolist() == [False, True, True]


def without_range(x: Tensor) -> Tensor:
    """NaN in the place of what lies outside the range of a probability or a rate."""
    return x if x is ROWS else x.where((x >= 0) & (x <= 1), torch.nan)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("case", [case for case in MODULES if "logits" not in MODULES[case][1]])
def test_modules_refuse_what_is_out_of_range_outside_strict_too(case: str, training: bool) -> None:
    module, arguments, _ = MODULES[case]
    module.train(training)
    with pytest.raises(st.ArgumentError, match=OUTSIDE):
        module(**arguments)
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    assert compiled(**arguments)[1].isnan()
    ((name, x),) = arguments.items()
    mapped = torch.vmap(lambda x: module(**{name: x}), randomness="different")(x)
    assert mapped[1].isnan()
    inside = {"Geometric": [1.0], "NegativeBinomial": [0.0]}.get(case, [0.0, 1.0])
    module(**{name: torch.tensor(inside)})


@pytest.mark.parametrize(
    ("module", "outside", "span"),
    [(st.nn.Geometric(), 0.0, "(0, 1]"), (st.nn.NegativeBinomial(2.5), 1.0, "[0, 1)")],
    ids=str,
)
def test_a_probability_without_a_mean_is_out_of_range(
    module: torch.nn.Module, outside: float, span: str
) -> None:
    for training in (True, False):
        with pytest.raises(st.ArgumentError, match=re.escape(f"probs must lie in {span}, got")):
            module.train(training)(probs=torch.tensor([0.5, outside]))
        assert module(probs=torch.tensor([1.0 - outside])) == 0


@pytest.mark.parametrize(
    ("make", "given"),
    [
        (st.distributions.Bernoulli, torch.tensor([0.5, 1.5])),
        (st.distributions.Bernoulli, torch.tensor([0.5, -0.5])),
        (st.distributions.OneHotCategorical, torch.tensor([1.5, -0.5])),
    ],
)
def test_distributions_refuse_it_where_they_validate(
    make: Callable[..., object], given: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    says = r"probs must .*, got -?[01]\.5 at \(1,\); clamp it, or pass logits="
    with pytest.raises(st.ArgumentError, match=says):
        make(given, validate_args=True)
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", False)
    make(given)
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", True)
    with pytest.raises(st.ArgumentError, match=says):
        make(given)

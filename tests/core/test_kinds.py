"""Tensors of another kind than dense ones, and tools that run without values: our words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import straightthrough as st
from straightthrough.core.errors import StraightThroughError
from straightthrough.core.registry import OPERATORS

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own, of prototypes and deprecations

X, GRID = torch.ones(3, 3), st.grids.Int(4)
ROWS = [torch.ones(2), torch.ones(3)]
KINDS: dict[str, tuple[Callable[[], Tensor], type[Exception], str]] = {
    "coo": (lambda: torch.eye(3).to_sparse(), st.ArgumentError, "layout torch.sparse_coo"),
    "csr": (lambda: torch.eye(3).to_sparse_csr(), st.ArgumentError, "layout torch.sparse_csr"),
    "mkldnn": (lambda: torch.eye(3).to_mkldnn(), st.ArgumentError, "layout torch._mkldnn"),
    "nested": (lambda: torch.nested.nested_tensor(ROWS), st.ArgumentError, "nested one"),
    "jagged": (
        lambda: torch.nested.nested_tensor(ROWS, layout=torch.jagged),
        st.ArgumentError,
        "nested one",
    ),
    "masked": (
        lambda: torch.masked.masked_tensor(torch.eye(3), torch.eye(3) > 0),
        st.ArgumentError,
        "masked one",
    ),
    "quantized": (
        lambda: torch.quantize_per_tensor(torch.eye(3), 0.1, 0, torch.qint8),
        st.DtypeError,
        "quantized tensor of torch.qint8; use .*dequantize",
    ),
}
FUNCTIONS: dict[str, Callable[[Tensor], Any]] = {
    **{name: lambda x, r=record: r.call(x, **r.arguments) for name, record in OPERATORS.items()},
    "categorical_lookup": lambda x: st.categorical_lookup(x, torch.ones(3, 2)),
    "categorical_lookup's table": lambda x: st.categorical_lookup(torch.zeros(2, 3), x),
    "fake_quantize": lambda x: st.fake_quantize(x, 1.0, grid=GRID),
    "fake_quantize's scale": lambda x: st.fake_quantize(X, x, grid=GRID),
    "fake_quantize's offset": lambda x: st.fake_quantize(X, 1.0, grid=GRID, offset=x),
    "stochastic_quantize": lambda x: st.stochastic_quantize(x, 1.0, grid=GRID),
    "a quantizer": lambda x: st.nn.Quantizer(GRID)(x),
    "nearest": lambda x: st.nearest(x, torch.ones(2, 3)),
    "vector_quantize": lambda x: st.vector_quantize(x, torch.ones(2, 3)),
    "vector_quantize's codebook": lambda x: st.vector_quantize(torch.ones(3, 3), x),
    "through": lambda x: st.through(x, torch.ones(3, 3)),
    "through's q": lambda x: st.through(torch.ones(3, 3), x),
    "reorder": lambda x: st.reorder(x, torch.ones(3, 3, 2)),
    "reorder's values": lambda x: st.reorder(torch.ones(3), x),
    "hard_concrete_mean": st.hard_concrete_mean,
    "l0_norm": st.l0_norm,
    "straight_through": lambda x: st.straight_through(torch.ones(3, 3), x),
    "straight_through's hard": lambda x: st.straight_through(x, torch.ones(3, 3)),
    "derivative.vjp": lambda x: st.surrogates.Tanh().vjp(x, x),
    "estimator.vjp": lambda x: st.estimators.ReinMax().vjp(x, torch.zeros(3).long(), x),
    "a row in eval": st.nn.GumbelSoftmax().eval(),
    "a lookup in eval": st.nn.CategoricalLookup(3, 2).eval(),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_other_kinds_of_tensors_are_refused(name: str, kind: str) -> None:
    make, error, says = KINDS[kind]
    if name.endswith(".vjp") and kind == "nested":
        says, error = "NestedTensor", RuntimeError  # torch's own: nothing there reads as nested
    for grad in (False, True):
        with torch.set_grad_enabled(grad), pytest.raises(error, match=says):
            FUNCTIONS[name](make())


def test_a_sparse_mask_is_refused() -> None:
    with pytest.raises(st.ArgumentError, match="mask must be a dense tensor"):
        st.argmax(torch.zeros(3, 3), mask=torch.eye(3).bool().to_sparse())


MODULES: dict[str, Callable[[], nn.Module]] = {
    "Sign": st.nn.Sign,
    "Heaviside": st.nn.Heaviside,
    "Round": st.nn.Round,
    "Floor": st.nn.Floor,
    "Ceil": st.nn.Ceil,
    "Trunc": st.nn.Trunc,
    "Clamp": lambda: st.nn.Clamp(0, 1),
    "Ternary": lambda: st.nn.Ternary(0.5),
    "Categorical": st.nn.Categorical,
    "CategoricalInteger": st.nn.CategoricalInteger,
    "CategoricalLookup": lambda: st.nn.CategoricalLookup(3, 2),
    "Argmax": lambda: st.nn.Argmax(st.nn.schedules.Confidence()),
    "GumbelSoftmax": st.nn.GumbelSoftmax,
    "TopK": lambda: st.nn.TopK(2),
    "SampleTopK": lambda: st.nn.SampleTopK(2),
    "SampleSubset": lambda: st.nn.SampleSubset(2),
    "Solve": lambda: st.nn.Solve(OPERATORS["solve"].arguments["solver"]),
    "TopKRouter": lambda: st.nn.TopKRouter(3, 2),
    "Bernoulli": st.nn.Bernoulli,
    "BinaryConcrete": st.nn.BinaryConcrete,
    "HardConcreteGate": lambda: st.nn.HardConcreteGate(3),
    "Poisson": st.nn.Poisson,
    "Binomial": lambda: st.nn.Binomial(3),
    "Geometric": st.nn.Geometric,
    "NegativeBinomial": lambda: st.nn.NegativeBinomial(2.5),
    "Quantizer": lambda: st.nn.Quantizer(GRID, st.scales.Learned(), "lsq"),
    "VectorQuantizer": lambda: st.nn.VectorQuantizer(4, 3),
    "ResidualVQ": lambda: st.nn.ResidualVQ(2, 4, 3),
    "GroupedVQ": lambda: st.nn.GroupedVQ(3, 4, 3),
    "FSQ": lambda: st.nn.FSQ([3, 3]),
    "LFQ": lambda: st.nn.LFQ(3),
}


class Around(nn.Module):
    """A module of a user's that holds one of ours."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.inner() if hasattr(self.inner, "logits") else self.inner(x)
        return result


def test_every_module_is_tried() -> None:
    public = {name: getattr(st.nn, name) for name in st.nn.__all__}
    modules = {
        name
        for name, value in public.items()
        if isinstance(value, type) and issubclass(value, nn.Module)
    }
    others = {"Codebook", "ControlVariate", "CAGE", "Oscillation", "Oscillations"}
    assert modules - set(MODULES) == others


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("wrap", [lambda m: m, Around])
@pytest.mark.parametrize("name", MODULES)
def test_tracing_and_scripting_say_what_to_use(
    name: str, wrap: Callable[[nn.Module], nn.Module], training: bool
) -> None:
    module = wrap(MODULES[name]()).train(training)
    for tool in (torch.fx.symbolic_trace, torch.jit.script):
        with pytest.raises(
            StraightThroughError, match=f"^{name} can't be .*torch.export"
        ) as caught:
            tool(module)
        assert caught.type is StraightThroughError

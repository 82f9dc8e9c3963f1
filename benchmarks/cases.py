"""What is timed: a case an operator of the registry, some more, and the ways to do their work."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import straightthrough as st
from straightthrough import testing
from straightthrough.core import kernels
from straightthrough.core.outcomes import Count
from straightthrough.core.registry import OPERATORS, OperatorRecord
from straightthrough.core.signature import names, shaped
from straightthrough.ops.categorical.api import gumbel_softmax

from . import codebooks, layers, plain, quantized
from .shapes import COUNTS, DEAR, LAYER, OWN, ROWS, WIDTH, Shape

Inputs = tuple[Tensor, ...]
Call = Callable[[], object]

OURS, REFERENCE, PLAIN, COMPILED = "ours", "reference", "plain torch", "torch.compile"
OURS_COMPILED, DOUBLE, DOUBLE_COMPILED = "ours, compiled", "x * 2", "x * 2, compiled"
TORCHS, TORCHAO = "torch's operator", "torchao"
GRAPH_WAYS = (OURS_COMPILED, DOUBLE, DOUBLE_COMPILED)
FORWARD, BOTH = "forward", "forward + backward"
MODES = (FORWARD, BOTH)
SHORT = {FORWARD: "fwd", BOTH: "fwd+bwd"}

PRODUCT = "product of matrices"
"""The part of a search that is no overhead."""

EVERY_RULE = ("categorical",)
"""Operators with a case for each of their rules; the others have one, for the default rule."""


@dataclass(frozen=True)
class Way:
    """One way to do a case's work.

    Attributes:
        forward: takes the inputs, returns the value.
        backward: takes the incoming gradient and the inputs; None where autograd does it.
        differentiable: whether there is a backward.
    """

    forward: Callable[..., Tensor]
    backward: Callable[..., object] | None = None
    differentiable: bool = True

    def modes(self) -> tuple[str, ...]:
        """Return what can be timed."""
        return MODES if self.differentiable else (FORWARD,)

    def call(self, mode: str, inputs: Inputs) -> Call:
        """Return what is timed: the work on `inputs`, with no argument left."""
        if mode == FORWARD:
            return lambda: self.forward(*inputs)
        y = self.forward(*inputs)
        grad = torch.randn(y.shape, generator=_generator(1)).to(y)
        if self.backward is not None:
            pull = self.backward
            return lambda: (self.forward(*inputs), pull(grad, *inputs))
        leaves = [tensor.detach().requires_grad_() for tensor in inputs]
        return lambda: torch.autograd.grad(self.forward(*leaves), leaves, grad, allow_unused=True)


@dataclass(frozen=True)
class _Reference(Way):
    """Our own way with the kernels turned off."""

    def call(self, mode: str, inputs: Inputs) -> Call:
        run = Way.call(self, mode, inputs)

        def slow() -> object:
            with kernels.disabled():
                return run()

        return slow


@dataclass(frozen=True)
class _Compiled(Way):
    """A function compiled for one shape when it is asked for, and called so many times."""

    calls: int = 1

    def call(self, mode: str, inputs: Inputs) -> Call:
        compiled = torch.compile(self.forward, dynamic=False)
        return Way(mean_of(self.calls, compiled)).call(mode, inputs)


def mean_of(calls: int, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the mean of so many calls of a function."""
    if calls == 1:
        return function

    def mean(*inputs: Tensor) -> Tensor:
        total = function(*inputs)
        for _ in range(calls - 1):
            total = total + function(*inputs)
        return total / calls

    return mean


def normal(shape: Shape) -> Inputs:
    """Return the one tensor that most operators take."""
    return (torch.randn(shape, generator=_generator(0)),)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@dataclass(frozen=True)
class Case:
    """One work and the ways to do it.

    Attributes:
        name: the operator's, and its rule's where there is a case for each.
        function: ours; takes the inputs, and a `seed` if it draws noise.
        plain: the same work in plain torch.
        calls: how many calls of that average over as much noise.
        samples: whether it draws noise.
        rows: whether a value depends on a row of the input, rather than on an element.
        others: more ways by name.
        inputs: makes the inputs at a shape.
        shapes: where it is timed, if not at all the others' shapes.
        conformance: its case of the conformance suite, if the operator is registered.
        composed: whether it is made of operators that have cases, and are checked there.
    """

    name: str
    function: Callable[..., Tensor]
    plain: Callable[..., Tensor] | None
    calls: int = 1
    samples: bool = False
    rows: bool = False
    others: Mapping[str, Way] = field(default_factory=dict)
    inputs: Callable[[Shape], Inputs] = normal
    shapes: tuple[Shape, ...] | None = None
    conformance: testing.Case | None = None
    composed: bool = False

    def ways(self) -> dict[str, Way]:
        """Return every way by name, ours first."""
        found = {OURS: Way(self.function)}
        if kernels.level is not None:
            found[REFERENCE] = _Reference(self.function)
        if self.plain is not None:
            found[PLAIN] = Way(mean_of(self.calls, self.plain))
            found[COMPILED] = _Compiled(self.plain, calls=self.calls)
        return {**found, **self.others}

    def graph_ways(self) -> dict[str, Way]:
        """Return ours and the least that a graph can do, each eager and compiled."""
        return {
            OURS: Way(self.function),
            OURS_COMPILED: _Compiled(self.function),
            DOUBLE: Way(_double),
            DOUBLE_COMPILED: _Compiled(_double),
        }


def _double(x: Tensor, *_: Tensor) -> Tensor:
    return x * 2


def cases() -> dict[str, Case]:
    """Return every case by name: those of the registry, then the declared ones."""
    found = [case for record in OPERATORS.values() for case in _of_operator(record)]
    return {case.name: case for case in [*found, *_declared()]}


def _of_operator(record: OperatorRecord) -> list[Case]:
    if record.name not in EVERY_RULE:
        return [_case(record, record.name, testing.Case(record), {})]
    return [
        _case(
            record,
            f"{record.name}-{rule.name}",
            testing.Case(record, rule.example),
            {str(record.rule): rule.example},
            DEAR.get(rule.name),
        )
        for rule in record.rules()
    ]


def _case(
    record: OperatorRecord,
    name: str,
    conformance: testing.Case,
    rule: dict[str, Any],
    shapes: tuple[Shape, ...] | None = None,
) -> Case:
    snippet = plain.PLAIN.get(record.name)
    function = partial(record.call, **record.arguments, **rule)
    return Case(
        name,
        partial(_value, function) if len(record.outcome.outputs) > 1 else function,
        partial(snippet, **record.arguments) if snippet else None,
        calls=getattr(rule.get("estimator"), "samples", 1),
        samples=record.samples,
        rows=bool(names(record.outcome.outputs[0])),
        others={**_OTHERS.get(record.name, {}), **_peer(name)},
        inputs=partial(inputs_of, record),
        shapes=COUNTS if isinstance(record.outcome, Count) else OWN.get(record.name, shapes),
        conformance=conformance,
    )


def _value(function: Callable[..., Any], *inputs: Tensor, **options: Any) -> Tensor:
    """Return the value alone, of an operator that returns an index beside it."""
    value: Tensor = function(*inputs, **options)[0]
    return value


def inputs_of(record: OperatorRecord, shape: Shape) -> Inputs:
    """Return the inputs of an operator, the first of them of that shape, or of squares of rows."""
    first, *others = record.inputs
    known = dict(zip(reversed(dict.fromkeys(first.named)), reversed(shape), strict=False))
    lead = shape[: len(shape) - len(known)]
    sizes = {name: known.get(name, WIDTH) for one in others for name in one.named}
    drawn = (torch.randn(shaped(one.dims, lead, sizes)) for one in others)
    pairs = zip(others, drawn, strict=True)
    whole = (*lead, *(known[name] for name in first.named))
    return (*normal(whole), *(x.abs() + 0.25 if one.positive else x for one, x in pairs))


def _declared() -> list[Case]:
    """Return the cases that are no operator's of the registry."""
    relaxed = Case(
        "gumbel_softmax-relaxed", gumbel_softmax, F.gumbel_softmax, samples=True, rows=True
    )
    layer = Case(
        "masked_linear",
        layers.masked,
        plain.masked_linear,
        samples=True,
        others={"no mask": Way(layers.bare, differentiable=False)},
        inputs=layers.inputs,
        shapes=(LAYER,),
        composed=True,
    )
    codebook = Case(
        "vector_quantizer",
        codebooks.quantize,
        None,
        others={PRODUCT: Way(codebooks.product, _nothing), **_peer("vector_quantizer")},
        shapes=(ROWS,),
        composed=True,
    )
    return [relaxed, layer, codebook, *_quantized()]


def _nothing(grad: Tensor, z: Tensor) -> None:
    """The backward of what has none."""


def _quantized() -> list[Case]:
    """Return what `fake_quantize` is timed at beside its own case."""
    identity, lsq = "identity", st.estimators.LSQ(batch_dims=0)
    mx, nvfp4, unsigned = st.grids.MX(), st.grids.NVFP4(), quantized.UNSIGNED
    torchs = {TORCHS: Way(quantized.of_torch)}
    learned = {TORCHS: Way(quantized.learned_of_torch)}
    laid = partial(Case, shapes=(LAYER,), inputs=quantized.inputs)
    name = "fake_quantize-{}".format
    ste = {**torchs, **_peer(name("ste"))}
    return [
        laid(name("ste"), quantized.ours(), quantized.snippet, others=ste),
        laid(
            name("lsq"),
            quantized.ours(lsq),
            quantized.learned_snippet,
            others={**learned, **_peer(name("ste"))},
            inputs=quantized.with_scale,
        ),
        laid(
            name("zero_point"),
            quantized.ours(grid=unsigned),
            None,
            others=learned,
            inputs=quantized.with_zero_point,
        ),
        laid(name("mx"), quantized.ours(identity, mx), None, others=_peer(name("mx"))),
        laid(name("nvfp4"), quantized.ours(identity, nvfp4), None, others=_peer(name("nvfp4"))),
    ]


_ARGMAX = {"torch.argmax": Way(lambda x: x.argmax(-1), differentiable=False)}
_OTHERS: dict[str, dict[str, Way]] = {
    "categorical": _ARGMAX,
    "argmax": _ARGMAX,
    "bernoulli": {
        "torch.bernoulli": Way(lambda x: torch.bernoulli(torch.sigmoid(x)), differentiable=False)
    },
    "sign": {
        "aten": Way(torch.sign, lambda grad, x: torch.ops.aten.hardtanh_backward(grad, x, -1, 1))
    },
}
"""By operator: torch's own functions that do a part of the work, or do it without autograd."""

_AS_IT_IS: dict[str, Any] = {"softness": 1.0, "standardize": False}
"""For softtorch: the softmax of the scores themselves."""

PEERS: dict[str, tuple[str, Callable[[Any], Way]]] = {
    "vector_quantizer": (
        "vector_quantize_pytorch",
        lambda peer: Way(codebooks.their_quantizer(peer)),
    ),
    "fsq": ("vector_quantize_pytorch", lambda peer: Way(codebooks.their_scalars(peer, 5))),
    "fake_quantize-ste": (
        "torchao.quantization.quant_primitives",
        lambda peer: Way(quantized.their_integers(peer)),
    ),
    "fake_quantize-mx": (
        "torchao.prototype.mx_formats.mx_tensor",
        lambda peer: Way(quantized.their_mx(peer)),
    ),
    "fake_quantize-nvfp4": (
        "torchao.prototype.mx_formats.nvfp4_tensor",
        lambda peer: Way(quantized.their_nvfp4(peer)),
    ),
    "rank": ("torchsort", lambda peer: Way(lambda x: peer.soft_rank(plain.in_gaps(x)))),
    "categorical-reinmax": ("reinmax", lambda peer: Way(lambda x: peer.reinmax(x, 1.0)[0])),
    "heaviside": (
        "snntorch.surrogate",
        lambda peer: Way(lambda x, fire=peer.sigmoid(slope=4): fire(x - 0.3)),
    ),
    "sign": ("softtorch", lambda peer: Way(partial(peer.sign_st, softness=0.2, mode="c0"))),
    "argmax": ("softtorch", lambda peer: Way(partial(peer.argmax_st, dim=-1, **_AS_IT_IS))),
    "topk": (
        "softtorch",
        lambda peer: Way(
            lambda x: peer.topk_st(x, 2, method="softsort", **_AS_IT_IS).indices.sum(-2)
        ),
    ),
}
"""By case: the module of another library, and how it does the work.

Values and gradients are those of ours, except for the value of `rank`, which is soft there, and the
gradient of `topk`, whose relaxation here is softsort: the ones that softtorch has else take a
matrix of classes by classes, or iterate.
"""


def missing_peers() -> list[str]:
    """Return the libraries of `PEERS` that cannot be imported."""
    modules = dict.fromkeys(module for module, _ in PEERS.values())
    return [*dict.fromkeys(_package(m) for m in modules if _imported(m) is None)]


def _peer(case: str) -> dict[str, Way]:
    if case not in PEERS:
        return {}
    module, way = PEERS[case]
    peer = _imported(module)
    return {} if peer is None else {_package(module): way(peer)}


def _package(module: str) -> str:
    return module.partition(".")[0]


def _imported(module: str) -> Any:
    """Return the module; None where it, or what it needs, is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return None

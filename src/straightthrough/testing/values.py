"""Checks of the value: exact, in every dtype and layout, and free of backward's work."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..core import kernels
from ..core.rules import Rule, Saved
from ..surrogates.window import Window, window_bits
from .case import DTYPES, Case, Tensors, check
from .compare import assert_bits, assert_close

FAILURE_RATE = 1e-6
"""How likely `check_frequencies` is to refuse a correct operator under a seed of one's own."""


@check(lambda case: not case.soft)
def check_hard_value(case: Case) -> None:
    """The value is the hard operation's own, bit for bit, in all four dtypes.

    Of an operator that samples: what its outcome can be, NaN where there is none, and never an
    outcome of probability 0.
    """
    for dtype in DTYPES:
        for inputs in (case.special(dtype), case.input(4, dtype=dtype)):
            assert_value(case, *inputs)


def assert_value(case: Case, *inputs: Tensor) -> None:
    """Assert what is returned for one input."""
    outputs, about = case(*inputs), f"{case}: value in {inputs[0].dtype}"
    for y, shape in zip(outputs, case.record.shapes(*inputs), strict=True):
        dtype = inputs[0].dtype if y is outputs[0] else torch.int64
        for name, due in (("dtype", dtype), ("shape", shape), ("device", inputs[0].device)):
            assert getattr(y, name) == due, f"{about}: {name} is {getattr(y, name)}, not {due}"
    if not case.record.samples:
        assert_bits(outputs, case.expected(*inputs), about)
    try:
        case.record.outcome.check(outputs, inputs, case.mean(*inputs))
    except AssertionError as error:
        raise AssertionError(f"{about}: {error}, at {inputs[0].tolist()}") from error


@check(lambda case: case.record.samples and case.record.outcome.indicates and not case.soft)
def check_frequencies(case: Case) -> None:
    """Draws come at the rates of the specified mean, in all four dtypes.

    Bernstein's inequality bounds each rate's error at `FAILURE_RATE` for all rates together. It is
    left out where a mean does not say its law, as that of a count.
    """
    trials = 20_000
    for dtype in DTYPES:
        inputs = case.input(dtype=dtype)
        mean = case.mean(*inputs)
        many = case.map(inputs, lambda x: x.expand(trials, *x.shape))
        rate = case.statistic(case(*many), many).double().mean(0)
        slack = math.log(2 * len(DTYPES) * mean.numel() / FAILURE_RATE) / trials
        bound = (2 * slack * mean * (1 - mean)).sqrt() + slack / 3
        off = ((rate - mean).abs() / bound).max()
        assert off <= 1, (
            f"{case}: drawn at the rates {rate.tolist()}, not {mean.tolist()}, in {dtype}"
        )


@check()
def check_layouts(case: Case) -> None:
    """Dtype, device, shape, value and gradients don't depend on strides; nor do sizes 0 and 1."""
    for name, inputs in layouts(case):
        grad = case.normal(*case.record.shapes(*inputs)[0], seed=1)
        outputs, gradients = case.backward(inputs, grad)
        plain_outputs, plain = case.backward([x.contiguous() for x in inputs], grad)
        case.assert_same(outputs, plain_outputs, f"value of a {name} input")
        about = f"{case}: gradient of a {name} input"
        for gradient, x in zip(gradients, case.differentiable(inputs), strict=True):
            assert (gradient.dtype, gradient.device) == (x.dtype, x.device), about
        assert_close(gradients, plain, about)
        strided = grad.mT.contiguous().mT if grad.ndim > 1 else grad
        assert_close(case.backward(inputs, strided)[1], gradients, f"{about} and gradient")


def layouts(case: Case) -> Iterator[tuple[str, Tensors]]:
    """Yield a name and inputs of every layout that fits the operator."""
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "transposed": lambda x: x.transpose(0, 1),
        "strided": lambda x: torch.stack([x, x], 1)[:, 0],
        "expanded": lambda x: x[0, :1].expand(4, *x.shape[2:]),
        "size-1": lambda x: x[:1, :1],
        "one-dimensional": lambda x: x[0, 0],
        "empty": lambda x: x[:0],
        "four-dimensional": lambda x: x.unsqueeze(1),
    }
    if case.record.inputs[0].named:
        ways["last dimension first in memory"] = _last_first
    else:
        ways["0-d"] = lambda x: x[0, 0, 0]
        ways["row of no element"] = lambda x: x[..., :0]
    inputs = case.input(2)
    for name, way in ways.items():
        yield name, case.map(inputs, way, _last_first)


def _last_first(x: Tensor) -> Tensor:
    return x.mT.contiguous().mT if x.ndim > 1 else torch.stack([x, x], -1)[..., 0]


@check()
def check_lean_forward(case: Case) -> None:
    """Forward does not ask the rule, and does the same work whether or not a gradient is due.

    All that may come on top where one is due is the packing of a window's bits.
    """
    inputs, leaves = case.input(), case.leaves(case.input())
    if case.rule is not None:
        refusing = dataclasses.replace(case, rule=_refusing(case, case.rule))
        refusing(*inputs)
        refusing(*leaves)
    rule = case.rule or case.record.default
    window = rule if isinstance(rule, Window) and rule.saved is Saved.WINDOW else None
    packing: Counter[str] = Counter()
    with kernels.disabled():  # a kernel is one operation, whatever it does
        bare, recorded = _count_operations(case, inputs), _count_operations(case, leaves)
        if window is not None:
            sides = (1.0, window.window()[0], window.includes_bound, False)
            packing = _count_operations(lambda x: window_bits(x, *sides), inputs)
    assert bare <= recorded <= bare + packing, (
        f"{case}: forward runs {dict(recorded)} where a gradient is due, not {dict(bare)}"
    )


def _refusing(case: Case, rule: Rule) -> Rule:
    """Return the rule, except that it fails when it is asked for anything."""

    def refusal(method: Callable[..., object]) -> Callable[..., object]:
        @functools.wraps(method)  # with what is marked on it
        def refuse(self: Rule, *_: object, **__: object) -> Tensor:
            raise AssertionError(f"{case}: the rule is asked in forward")

        return refuse

    kind = type(rule)
    formulas = {"derivative", "primitive", "soft", "soft_topk", "gradient", "binary_gradient"}
    formulas |= {"scale_gradient", "tangent"}
    asked = formulas | {"backward", "binary_backward", "forward"}
    methods = {name: refusal(getattr(kind, name)) for name in asked.intersection(dir(kind))}
    twin = copy.copy(rule)
    object.__setattr__(twin, "__class__", type(kind.__name__, (kind,), methods))
    return twin


def _count_operations(function: Callable[..., object], inputs: Tensors) -> Counter[str]:
    counts: Counter[str] = Counter()

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]  # torch's
            name = str(function)
            if "detach" not in name and "alias" not in name:
                counts[name] += 1
            return function(*args, **(kwargs or {}))

    with Mode():
        function(*inputs)
    return counts


@check()
def check_no_grad(case: Case) -> None:
    """Where no gradient is due, the value is the same, carries no graph and saves nothing."""
    inputs = case.input()
    expected = [y.detach() for y in case(*case.leaves(inputs))]
    with saved_tensors() as saved:
        outputs = case(*inputs)
        with torch.no_grad():
            others = case(*case.leaves(inputs))
    for values in (outputs, others):
        assert_bits(values, expected, f"{case}: value without a gradient")
        due = any(value.requires_grad for value in values)
        assert not due, f"{case}: the value requires a gradient that is not due"
    assert not saved, f"{case}: saved {[t.shape for t in saved]} where no gradient is due"


@check()
def check_saved_bytes(case: Case) -> None:
    """What is kept for backward is at most what the record declares."""
    for dtype in DTYPES:
        leaves = case.leaves(case.input(4, dtype=dtype))
        with saved_tensors() as saved:
            y = case(*leaves)[0]
        rule = case.rule or case.record.default
        declared = case.record.saved_bytes(rule, *leaves)
        total = sum({t.untyped_storage().data_ptr(): t.nbytes for t in saved}.values())
        assert y.requires_grad, f"{case}: no gradient"
        assert total <= declared, (
            f"{case}: saves {total} bytes for backward in {dtype}, declared are {declared}"
        )


@contextmanager
def saved_tensors() -> Iterator[list[Tensor]]:
    """Collect the tensors that autograd saves inside the context."""
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved


@check()
def check_aliasing(case: Case) -> None:
    """What is returned has memory of its own, and neither pass writes into what it was given."""
    inputs = case.input()
    grad = case.incoming(inputs)
    before = [x.clone() for x in inputs], grad.clone()
    outputs, _ = case.backward(inputs, grad)
    assert_bits(inputs, before[0], f"{case}: the input after both passes")
    assert_bits(grad, before[1], f"{case}: the incoming gradient after backward")
    given = {x.untyped_storage().data_ptr() for x in inputs}
    shared = any(y.untyped_storage().data_ptr() in given for y in outputs)
    assert not shared, f"{case}: the value shares the input's memory"


@check()
def check_autocast(case: Case) -> None:
    """Autocast changes neither the value nor the gradients, nor their dtype."""
    for dtype in DTYPES:
        inputs = case.input(dtype=dtype)
        grad = case.incoming(inputs)
        outputs, gradients = case.backward(inputs, grad)
        with torch.autocast(inputs[0].device.type, torch.bfloat16):
            cast_outputs, cast_gradients = case.backward(inputs, grad)
        assert_bits(cast_outputs, outputs, f"{case}: value under autocast, {dtype}")
        assert_bits(cast_gradients, gradients, f"{case}: gradient under autocast, {dtype}")

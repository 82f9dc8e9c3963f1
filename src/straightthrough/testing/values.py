"""Checks of the value: exact, in every dtype and layout, and free of backward's work."""

from __future__ import annotations

import copy
import dataclasses
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
from .case import DTYPES, Case, assert_bits, assert_close, check

FAILURE_RATE = 1e-6
"""How likely `check_frequencies` is to refuse a correct operator under a seed of one's own."""


@check(lambda case: not case.soft)
def check_hard_value(case: Case) -> None:
    """The value is the hard operation's own, bit for bit, in all four dtypes.

    Of an operator that samples: 0 and 1 (or whole numbers, where it counts), one-hot where there
    are rows, NaN where there is no outcome, and never an outcome of probability 0.
    """
    for dtype in DTYPES:
        for x in (case.special(dtype), case.input(4, dtype=dtype)):
            assert_value(case, x)


def assert_value(case: Case, x: Tensor) -> None:
    """Assert the value at one input."""
    y, hard = case(x), case.hard(x)
    about = f"{case}: value in {x.dtype}"
    if not case.record.samples:
        return assert_bits(y, hard, about)
    shape = case.of_value(x).shape
    assert (y.dtype, y.shape, y.device) == (x.dtype, shape, x.device), (
        f"{about}: {y.dtype}, {y.shape}, {y.device}, not {x.dtype}, {shape}, {x.device}"
    )
    y = case.shown(y, x)
    valid = ~hard.isnan()
    if case.record.rows:
        sums = y.double().sum(-1)[valid.all(-1)]
        assert bool((sums == 1).all()), f"{about}: rows sum to {sums.tolist()}, not 1"
    assert bool(y[~valid].isnan().all()), f"{about}: {y[~valid].tolist()} without an outcome"
    got, mean = y[valid], hard[valid]
    if case.record.counts:
        whole = got.isfinite() & (got >= 0) & (got == got.floor())
        assert bool(whole.all()), f"{about}: {got.tolist()}, not whole numbers from 0 on"
        wrong = (mean == 0) & (got != 0)
    else:
        assert bool(((got == 0) | (got == 1)).all()), f"{about}: {got.tolist()}, not 0 and 1"
        wrong = ((mean == 0) & (got != 0)) | ((mean == 1) & (got != 1))
    assert not bool(wrong.any()), f"{about}: an outcome of probability 0 at {x.tolist()}"
    return None


@check(lambda case: case.record.samples and not case.record.counts and not case.soft)
def check_frequencies(case: Case) -> None:
    """Draws of 0 and 1 come at the rates of the specified mean, in all four dtypes.

    Bernstein's inequality bounds each rate's error at `FAILURE_RATE` for all rates together. A
    count's mean does not say its law.
    """
    trials = 20_000
    for dtype in DTYPES:
        x = case.input(dtype=dtype)
        mean = case.hard(x)
        rate = case.shown(case(x.expand(trials, *x.shape)), x).double().mean(0)
        slack = math.log(2 * len(DTYPES) * x.numel() / FAILURE_RATE) / trials
        bound = (2 * slack * mean * (1 - mean)).sqrt() + slack / 3
        off = ((rate - mean).abs() / bound).max()
        assert off <= 1, (
            f"{case}: drawn at the rates {rate.tolist()}, not {mean.tolist()}, in {dtype}"
        )


@check()
def check_layouts(case: Case) -> None:
    """Dtype, device, shape, value and gradient don't depend on strides; nor do sizes 0 and 1."""
    for name, x in layouts(case):
        grad = case.normal(*case.of_value(x).shape, seed=1)
        y, gradient = case.pull(x, grad)
        plain_y, plain_gradient = case.pull(x.contiguous(), grad)
        case.assert_same(y, plain_y, f"value of a {name} input")
        about = f"{case}: gradient of a {name} input"
        assert (gradient.dtype, gradient.device) == (x.dtype, x.device), about
        assert_close(gradient, plain_gradient, about, scale=1.0)
        strided = grad.mT.contiguous().mT if grad.ndim > 1 else grad
        assert_close(case.pull(x, strided)[1], gradient, f"{about} and gradient", scale=1.0)


def layouts(case: Case) -> Iterator[tuple[str, Tensor]]:
    """Yield a name and an input of every layout that fits the operator."""
    x = case.input(2)
    yield "transposed", x.transpose(0, 1)
    yield "strided", case.input(4)[::2]
    yield "expanded", case.input()[:1].expand(4, -1)
    yield "size-1", x[:1, :1]
    yield "one-dimensional", x[0, 0]
    yield "empty", x[:0]
    yield "four-dimensional", case.input(1, 3)
    if case.record.rows:
        yield "classes-first in memory", x.mT.contiguous().mT
    else:
        yield "0-d", x[0, 0, 0]
        yield "row of no element", x[..., :0]


@check()
def check_lean_forward(case: Case) -> None:
    """Forward does not ask the rule, and does the same work whether or not a gradient is due.

    All that may come on top where one is due is the packing of a window's bits.
    """
    x, leaf = case.input(), case.input().requires_grad_()
    if case.rule is not None:
        refusing = dataclasses.replace(case, rule=_refusing(case, case.rule))
        refusing(x)
        refusing(leaf)
    rule = case.rule or case.record.default
    window = rule if isinstance(rule, Window) and rule.saved is Saved.WINDOW else None
    packing: Counter[str] = Counter()
    with kernels.disabled():  # a kernel is one operation, whatever it does
        bare, recorded = _count_operations(case, x), _count_operations(case, leaf)
        if window is not None:
            sides = (1.0, window.window()[0], window.closed)
            packing = _count_operations(lambda x: window_bits(x, *sides), x)
    assert bare <= recorded <= bare + packing, (
        f"{case}: forward runs {dict(recorded)} where a gradient is due, not {dict(bare)}"
    )


def _refusing(case: Case, rule: Rule) -> Rule:
    """Return the rule, except that it fails when it is asked for anything."""

    def refuse(self: Rule, *_: object, **__: object) -> Tensor:
        raise AssertionError(f"{case}: the rule is asked in forward")

    kind = type(rule)
    formulas = {"derivative", "primitive", "soft", "gradient", "binary_gradient"}
    asked = formulas | {"backward", "binary_backward", "forward"}
    methods = dict.fromkeys(asked.intersection(dir(kind)), refuse)
    twin = copy.copy(rule)
    object.__setattr__(twin, "__class__", type(kind.__name__, (kind,), methods))
    return twin


def _count_operations(function: Callable[[Tensor], Tensor], x: Tensor) -> Counter[str]:
    counts: Counter[str] = Counter()

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]  # torch's
            name = str(function)
            if "detach" not in name and "alias" not in name:
                counts[name] += 1
            return function(*args, **(kwargs or {}))

    with Mode():
        function(x)
    return counts


@check()
def check_no_grad(case: Case) -> None:
    """Where no gradient is due, the value is the same, carries no graph and saves nothing."""
    x = case.input()
    expected = case(x.clone().requires_grad_()).detach()
    with saved_tensors() as saved:
        y = case(x)
        with torch.no_grad():
            z = case(x.requires_grad_())
    for value in (y, z):
        assert_bits(value, expected, f"{case}: value without a gradient")
        assert not value.requires_grad, f"{case}: the value requires a gradient that is not due"
    assert not saved, f"{case}: saved {[t.shape for t in saved]} where no gradient is due"


@check()
def check_saved_bytes(case: Case) -> None:
    """What is kept for backward is at most what the record declares."""
    for dtype in DTYPES:
        x = case.input(4, dtype=dtype).requires_grad_()
        with saved_tensors() as saved:
            y = case(x)
        rows = x.numel() // x.shape[-1]
        rule = case.rule or case.record.default
        declared = case.record.saved_bytes(rule, x.numel(), x.element_size(), rows)
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
    """The value is a tensor of its own, and neither pass writes into what it was given."""
    x, grad = case.input(), case.of_value(case.input(seed=1))
    before = x.clone(), grad.clone()
    y, _ = case.pull(x, grad)
    assert_bits(x, before[0], f"{case}: the input after both passes")
    assert_bits(grad, before[1], f"{case}: the incoming gradient after backward")
    shared = y.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
    assert not shared, f"{case}: the value shares the input's memory"


@check()
def check_autocast(case: Case) -> None:
    """Autocast changes neither the value nor the gradient, nor their dtype."""
    for dtype in DTYPES:
        x = case.input(dtype=dtype)
        grad = case.of_value(case.input(dtype=dtype, seed=1))
        y, gradient = case.pull(x, grad)
        with torch.autocast(x.device.type, torch.bfloat16):
            cast_y, cast_gradient = case.pull(x, grad)
        assert_bits(cast_y, y, f"{case}: value under autocast, {dtype}")
        assert_bits(cast_gradient, gradient, f"{case}: gradient under autocast, {dtype}")

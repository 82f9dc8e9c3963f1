"""Binary operators: a 0/1 draw, and gates that are exactly 0 or 1 much of the time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...core.engine import apply
from ...core.errors import (
    NO_PROBABILITY,
    ArgumentError,
    Number,
    check_flag,
    check_floating,
    check_not_nested,
    check_not_traced,
    check_number,
    check_outcomes,
    check_positive,
)
from ...core.noise import Seed, make_seed
from ...core.outcomes import Binary
from ...core.precision import cast, compute_dtype
from ...core.registry import operator, resolve
from ...core.rules import Derivative, Rule, Saved
from ...core.signature import Input
from ...estimators import CategoricalEstimator, ReinMax
from . import reference, specification
from .operation import BinaryDraw, Concrete, SurrogateDraw


def parameter(
    logits: Tensor | None, probs: Tensor | None, names: tuple[str, str] = ("logits", "probs")
) -> tuple[Tensor, bool]:
    """Return the one of the two that was given, and whether it is the probabilities."""
    if (logits is None) == (probs is None):
        check_not_traced(logits)
        given = "both" if logits is not None else "neither"
        raise ArgumentError(f"exactly one of {' and '.join(names)} must be given, got {given}")
    x = probs if logits is None else logits
    check_floating(names[1] if logits is None else names[0], x)
    assert x is not None
    return x, logits is None


def check_stretch(gamma: object, zeta: object) -> tuple[Any, Any]:
    """Return the stretch of a gate, gamma below 0 and zeta above 1."""
    low, high = check_number("gamma", gamma), check_number("zeta", zeta)
    known = not isinstance(low, Tensor) and not isinstance(high, Tensor)
    if known and not (low < 0 and high > 1):
        raise ArgumentError(f"gamma must be below 0 and zeta above 1, got {gamma} and {zeta}")
    return low, high


def _what_the_rule_needs(rule: Rule, logits: Tensor) -> int:
    if isinstance(rule, Derivative):
        return 0 if rule.saved is Saved.NOTHING else logits.nbytes
    return logits.nbytes + (logits.numel() + 7) // 8 + 8 * rule.draws_noise


def _input_and_seed(rule: object, logits: Tensor) -> int:
    return logits.nbytes + 8


_COMMON = {
    "family": "bernoulli",
    "inputs": (Input("logits"),),
    "outcome": Binary(),
    "expected": specification.probability,
}


@operator(
    gradient=specification.gradient,
    rule="estimator",
    fits=(CategoricalEstimator, Derivative),
    default=ReinMax(),
    saved_bytes=_what_the_rule_needs,
    forward_mode=False,
    **_COMMON,
)
def bernoulli(
    logits: Tensor | None = None,
    estimator: CategoricalEstimator | Derivative | str = "reinmax",
    *,
    probs: Tensor | None = None,
    generator: torch.Generator | None = None,
    seed: int | Tensor | Seed | None = None,
    **fields: Number,
) -> Tensor:
    """A 0/1 draw an element, with an estimator's gradient.

    Forward: `y = 1[u < p]`, `p = sigmoid(logits)` or `probs`, u one uniform an element.
    Backward: the estimator on the two classes with logits 0 and `logits`; for `probs` times
    `1 / (p (1 - p))`. `ReinMax`: `g (1 - p) / 2` if y = 1, `g p / 2` if y = 0. `GumbelST`: the
    binary concrete, its logistic noise drawn given y. A surrogate (`"identity"`, `"clipped"`,
    `"sigmoid"`, ...) multiplies g by its derivative at the parameter that was passed.

    Noise is logistic, the difference of two Gumbels. A single Gumbel would fire with
    `1 - exp(-odds)` instead of p: .9000 for p = .697.

    Args:
        logits: any shape; the log-odds of a 1; floating.
        estimator: a `CategoricalEstimator`, a `Derivative`, or a shorthand of either.
        probs: any shape; the probability of a 1, in [0, 1]; exactly one of it and `logits`.
        generator: draws the seed; torch's default generator when neither is given.
        seed: an int, a 0-d int64 tensor or `st.Seed(value, offset)`; excludes `generator`.
        fields: numbers for the estimator's fields, as `tau=0.5` beside `"gumbel"`.

    Returns:
        0 and 1 in the shape, dtype and device of the parameter.

    Raises:
        DtypeError: if the parameter is not floating.
        ArgumentError: if not exactly one parameter is given, the estimator or a field is unknown,
            or both `seed` and `generator` are given.

    Edge cases: p = 0 and p = 1 are certain, with a gradient of 0 but by a surrogate; NaN, and a
    probability outside [0, 1], have no outcome and give NaN (in `st.strict()` an error).

    Higher order: double backward differentiates the rule's formula, outcome and noise held; that to
    `probs` has an error of some eps / (p (1 - p)). Forward mode raises.

    Cost: a sigmoid and a uniform an element; the parameter and one bit an element are saved, and
    the seed if the rule draws noise; for a surrogate the parameter alone, for `"identity"` nothing.

    Example:
        >>> st.bernoulli(probs=torch.tensor([0.0, 1.0]), estimator="identity", seed=0)
        tensor([0., 1.])

    References:
        Bengio, Leonard, Courville, 2013; Liu et al., "Bridging discrete and backpropagation",
        2023.
    """
    x, of_probs = parameter(logits, probs)
    rule = resolve("estimator", estimator, CategoricalEstimator, Derivative, fields=fields)
    value, place = make_seed(seed, generator, x)
    operation = SurrogateDraw if isinstance(rule, Derivative) else BinaryDraw
    y = apply(operation(rule, place, of_probs), x, value)
    check_outcomes("bernoulli", lambda: y.isnan(), NO_PROBABILITY)
    return y


@operator(
    gradient=specification.soft_gradient,
    saved_bytes=_input_and_seed,
    arguments={"hard": True, "tau": 0.5},
    **_COMMON,
)
def binary_concrete(
    logits: Tensor | None = None,
    *,
    probs: Tensor | None = None,
    tau: float = 1.0,
    hard: bool = False,
    generator: torch.Generator | None = None,
    seed: int | Tensor | Seed | None = None,
) -> Tensor:
    """The binary concrete (relaxed Bernoulli), soft or hard.

    Forward: `y = sigmoid((logits + L) / tau)`, L logistic noise; `hard=True`: 1 where
    `logits + L > 0`, else 0. Backward: that of the soft value, in both modes.

    Args:
        logits: any shape; the log-odds of a 1; floating.
        probs: any shape; the probability of a 1; exactly one of the two.
        tau: temperature, > 0.
        hard: whether the value is 0 or 1.
        generator: draws the seed; torch's default generator when neither is given.
        seed: an int, a 0-d int64 tensor or `st.Seed(value, offset)`; excludes `generator`.

    Returns:
        A tensor of the shape, dtype and device of the parameter.

    Raises:
        DtypeError: if the parameter is not floating.
        ArgumentError: if not exactly one parameter is given, `tau` is not above 0, `hard` is not
            True or False, or both `seed` and `generator` are given.

    Edge cases: probabilities 0 and 1 give 0 and 1 with gradient 0; NaN, and a probability outside
    [0, 1], have no outcome and give NaN (in `st.strict()` an error).

    Higher order: double backward and forward mode work, the noise held.

    Cost: noise is drawn in forward, as the value needs it, and made again in backward from the
    seed; the parameter and the seed are saved.

    Example:
        >>> st.binary_concrete(torch.tensor([-99.0, 99.0]), hard=True, seed=0)
        tensor([0., 1.])

    References:
        Maddison, Mnih, Teh, "The concrete distribution", 2017, appendix B.
    """
    tau = check_positive("tau", tau)
    x, of_probs = parameter(logits, probs)
    value, place = make_seed(seed, generator, x)
    y = apply(Concrete(tau, 0.0, 1.0, check_flag("hard", hard), of_probs, place), x, value)
    check_outcomes("binary_concrete", lambda: y.isnan(), NO_PROBABILITY)
    return y


@operator(
    gradient=specification.soft_gradient,
    saved_bytes=_input_and_seed,
    arguments={"hard": True, "tau": 0.5, "gamma": -0.1, "zeta": 1.1},
    **_COMMON,
)
def hard_concrete(
    logits: Tensor | None = None,
    *,
    probs: Tensor | None = None,
    tau: float = 2 / 3,
    gamma: float = -0.1,
    zeta: float = 1.1,
    hard: bool = False,
    generator: torch.Generator | None = None,
    seed: int | Tensor | Seed | None = None,
) -> Tensor:
    """The hard concrete gate of L0 regularisation, soft or hard.

    Forward: `y = clamp(s (zeta - gamma) + gamma, 0, 1)`, `s = sigmoid((logits + L) / tau)`, L
    logistic noise; `hard=True`: 1 where `logits + L > 0`, else 0. Backward: that of the soft
    value, in both modes; the clamp passes it where its argument lies in [0, 1].

    Noise is logistic, the difference of two Gumbels. A single Gumbel would fire with
    `1 - exp(-odds)` instead of p: .9000 for p = .697.

    Args:
        logits: any shape; the log-odds of an open gate (log alpha); floating.
        probs: any shape; the probability of an open gate; exactly one of the two.
        tau: temperature, > 0.
        gamma, zeta: the stretch, gamma < 0 and zeta > 1.
        hard: whether the value is 0 or 1.
        generator: draws the seed; torch's default generator when neither is given.
        seed: an int, a 0-d int64 tensor or `st.Seed(value, offset)`; excludes `generator`.

    Returns:
        A tensor of the shape, dtype and device of the parameter, in [0, 1].

    Raises:
        DtypeError: if the parameter is not floating.
        ArgumentError: if not exactly one parameter is given, `tau`, `gamma` or `zeta` lies
            outside its range, `hard` is not True or False, or both `seed` and `generator` are
            given.

    Edge cases: probabilities 0 and 1 give 0 and 1 with gradient 0; NaN, and a probability outside
    [0, 1], have no outcome and give NaN (in `st.strict()` an error).

    Higher order: double backward and forward mode work, the noise held.

    Cost: noise is drawn in forward, as the value needs it, and made again in backward from the
    seed; the parameter and the seed are saved.

    Example:
        >>> gate = st.hard_concrete(probs=torch.full((1000,), 0.7), hard=True, seed=0)
        >>> gate.unique(), abs(gate.mean().item() - 0.7) < 0.05
        (tensor([0., 1.]), True)

    References:
        Louizos, Welling, Kingma, "Learning sparse neural networks through L0 regularization",
        2018, eqs. 10 and 11.
    """
    tau = check_positive("tau", tau)
    gamma, zeta = check_stretch(gamma, zeta)
    x, of_probs = parameter(logits, probs)
    value, place = make_seed(seed, generator, x)
    y = apply(Concrete(tau, gamma, zeta, check_flag("hard", hard), of_probs, place), x, value)
    check_outcomes("hard_concrete", lambda: y.isnan(), NO_PROBABILITY)
    return y


def hard_concrete_mean(logits: Tensor, *, gamma: float = -0.1, zeta: float = 1.1) -> Tensor:
    """The test-time gate of `st.hard_concrete`: no noise, no temperature.

    Value: `clamp(sigmoid(logits) (zeta - gamma) + gamma, 0, 1)`, differentiable as it is.

    Args:
        logits: any shape; the log-odds of an open gate; floating.
        gamma, zeta: the stretch, gamma < 0 and zeta > 1.

    Returns:
        A tensor of the shape, dtype and device of `logits`, in [0, 1].

    Raises:
        DtypeError: if the logits are not floating.
        ArgumentError: if the stretch lies outside its range.

    Edge cases: infinities give 0 and 1; NaN gives NaN; the gradient is 0 where the clamp bites.

    Higher order: that of the formula; forward mode works.

    Cost: a sigmoid and a clamp, differentiated by autograd.

    Example:
        >>> st.hard_concrete_mean(torch.tensor([-9.0, 0.0, 9.0]))
        tensor([0.0000, 0.5000, 1.0000])

    References:
        Louizos, Welling, Kingma, 2018, eq. 13.
    """
    check_floating("logits", logits)
    check_not_nested("logits", logits)
    gamma, zeta = check_stretch(gamma, zeta)
    wide = logits.to(compute_dtype(logits.dtype))
    gamma, zeta = cast(gamma, wide.dtype), cast(zeta, wide.dtype)
    return reference.stretch(torch.sigmoid(wide), gamma, zeta).to(logits.dtype)


def l0_norm(
    logits: Tensor, *, tau: float = 2 / 3, gamma: float = -0.1, zeta: float = 1.1
) -> Tensor:
    """The probability that a hard concrete gate is not 0, elementwise.

    Value: `sigmoid(logits - tau log(-gamma / zeta))`; its sum is the expected L0 norm.

    Args:
        logits: any shape; the log-odds of an open gate; floating.
        tau: temperature, > 0.
        gamma, zeta: the stretch, gamma < 0 and zeta > 1.

    Returns:
        A tensor of the shape, dtype and device of `logits`, in [0, 1].

    Raises:
        DtypeError: if the logits are not floating.
        ArgumentError: if `tau` or the stretch lies outside its range.

    Edge cases: infinities give 0 and 1; NaN gives NaN.

    Higher order: that of the formula; forward mode works.

    Cost: a sigmoid, differentiated by autograd.

    Example:
        >>> st.l0_norm(torch.zeros(1))
        tensor([0.8318])

    References:
        Louizos, Welling, Kingma, 2018, eq. 12.
    """
    check_floating("logits", logits)
    check_not_nested("logits", logits)
    tau = check_positive("tau", tau)
    gamma, zeta = check_stretch(gamma, zeta)
    wide = logits.to(compute_dtype(logits.dtype))
    ratio = torch.as_tensor(-gamma / zeta, dtype=wide.dtype, device=wide.device)
    return torch.sigmoid(wide - cast(tau, wide.dtype) * ratio.log()).to(logits.dtype)

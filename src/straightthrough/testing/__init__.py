"""The conformance suite: every promise of an operator or a rule as a check of its own.

`check_rule` runs what applies to a rule, a third party's included; `check_operator` what applies
to an operator with each of its rules. Each `check_*` takes a `Case` and raises an
`AssertionError` that names the operator, the rule, the dtype and the values.
"""

from __future__ import annotations

from ..core.errors import ArgumentError
from ..core.registry import OPERATORS, OperatorRecord, resolve
from ..core.rules import Rule
from .case import CHECKS, CLASSES, DTYPES, Case, applicable, cases
from .compare import assert_bits, assert_close
from .contracts import (
    check_dim,
    check_errors,
    check_mask,
    check_row_errors,
    check_rule_object,
    check_seed_errors,
    check_strict,
)
from .gradients import (
    assert_gradient,
    check_alone,
    check_defined,
    check_double_backward,
    check_gradient,
    check_jvp,
    check_primitive,
    check_repeated_backward,
)
from .sampling import check_default_seed, check_seed, check_shards, check_vmap_randomness
from .transforms import check_compiled, check_recorded, check_vmap, check_vmap_grad
from .values import (
    assert_value,
    check_aliasing,
    check_autocast,
    check_frequencies,
    check_hard_value,
    check_layouts,
    check_lean_forward,
    check_no_grad,
    check_saved_bytes,
)

__all__ = [
    "CHECKS",
    "CLASSES",
    "DTYPES",
    "Case",
    "applicable",
    "assert_bits",
    "assert_close",
    "assert_gradient",
    "assert_value",
    "cases",
    "check_aliasing",
    "check_alone",
    "check_autocast",
    "check_compiled",
    "check_default_seed",
    "check_defined",
    "check_dim",
    "check_double_backward",
    "check_errors",
    "check_frequencies",
    "check_gradient",
    "check_hard_value",
    "check_jvp",
    "check_layouts",
    "check_lean_forward",
    "check_mask",
    "check_no_grad",
    "check_operator",
    "check_primitive",
    "check_recorded",
    "check_repeated_backward",
    "check_row_errors",
    "check_rule",
    "check_rule_object",
    "check_saved_bytes",
    "check_seed",
    "check_seed_errors",
    "check_shards",
    "check_strict",
    "check_vmap",
    "check_vmap_grad",
    "check_vmap_randomness",
]


def check_rule(rule: Rule, *, device: str = "cpu") -> None:
    """Run every check that applies to `rule`, with every operator that takes its form.

    Each `Derivative` is also compared with the slope of its primitive, if it has one. A rule must
    be a frozen dataclass of an importable module, as it is pickled.

    Args:
        rule: a `Derivative`, a `Relaxation`, or an estimator of classes, counts, subsets, numbers
            on a grid, codewords or solutions, registered or not.
        device: where the inputs lie.

    Raises:
        AssertionError: at the first check that fails, naming operator, rule, dtype and values.
        ArgumentError: if no operator takes a rule of this form, or it is no frozen dataclass.
        StraightThroughError: under `python -O`, which leaves assertions out.

    Cost: seconds; each operator is compiled once or twice, by the backend "aot_eager".

    Example:
        The test of a third party's rule is one line; here with a rule of this library.

        >>> from straightthrough.testing import check_rule
        >>> check_rule(st.relaxations.Softmax(tau=0.5))
    """
    takers = [record for record in OPERATORS.values() if isinstance(rule, record.fits)]
    if not takers:
        raise ArgumentError(
            f"no operator takes {rule!r}; "
            f"a rule is a Derivative, a Relaxation, or a CategoricalEstimator, CountEstimator, "
            f"GridEstimator, PairEstimator, SolverEstimator or SubsetEstimator"
        )
    resolve("rule", rule, *takers[0].fits)
    for record in takers:
        _check(Case(record, rule, device))


def check_operator(record: OperatorRecord, *, device: str = "cpu") -> None:
    """Run every check that applies to `record`, with each registered rule that fits it.

    Raises:
        AssertionError: at the first check that fails, naming operator, rule, dtype and values.
    """
    for rule in [found.example for found in record.rules()] if record.rule else [None]:
        _check(Case(record, rule, device))


def _check(case: Case) -> None:
    for function in applicable(case):
        function(case)

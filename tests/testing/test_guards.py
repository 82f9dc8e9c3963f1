"""Guards of the guards: for every check an operator or rule that is broken in one way.

The broken one must fail the check, and its working twin must pass it.
"""

import dataclasses
import subprocess
import sys

import pytest

import broken
from straightthrough import testing
from straightthrough.core.registry import OPERATORS
from straightthrough.surrogates import Tanh
from straightthrough.testing import Case


def replaced(operator: str, function=None, rule=None) -> Case:
    record = OPERATORS[operator]
    return Case(dataclasses.replace(record, function=function or record.function), rule)


GUARDS = [
    (testing.check_hard_value, replaced("sign", broken.float_in_forward), "dtype is torch.float32"),
    (
        testing.check_hard_value,
        replaced("sign", broken.hard_minus_soft_plus_soft),
        "wrong, first at",
    ),
    (testing.check_hard_value, replaced("argmax", broken.ties_to_the_last), "wrong, first at"),
    (
        testing.check_hard_value,
        replaced("poisson", broken.count_above_the_hard_one),
        "not whole numbers",
    ),
    (
        testing.check_frequencies,
        replaced("categorical_integer", broken.counts_backwards),
        "drawn at the rates",
    ),
    (
        testing.check_hard_value,
        replaced("categorical_lookup", broken.rows_rounded),
        "not all rows of the table",
    ),
    (testing.check_frequencies, replaced("bernoulli", broken.single_gumbel), "drawn at the rates"),
    (
        testing.check_layouts,
        replaced("sign", broken.contiguous_assumed),
        "value of a transposed input",
    ),
    (testing.check_layouts, replaced("sign", broken.size_one_lost), r"\(1, 1, 7\) gave \(7,\)"),
    (
        testing.check_lean_forward,
        replaced("sign", broken.soft_in_forward, Tanh()),
        "is asked in forward",
    ),
    (testing.check_lean_forward, replaced("sign", broken.soft_beside_the_hard), "forward runs"),
    (testing.check_no_grad, replaced("sign", broken.graph_where_none_is_due), "not due"),
    (
        testing.check_saved_bytes,
        replaced("sign", broken.saves_a_copy_more),
        "bytes for backward in torch.float32",
    ),
    (testing.check_aliasing, replaced("sign", broken.backward_writes), "the incoming gradient"),
    (
        testing.check_autocast,
        replaced("sign", broken.product_under_autocast),
        "dtype is torch.bfloat16",
    ),
    (testing.check_gradient, replaced("sign", broken.doubled_gradient), "gradient at"),
    (testing.check_gradient, replaced("sign", None, broken.NarrowVjp()), "gradient at"),
    (
        testing.check_gradient,
        replaced("categorical_lookup", broken.table_learns_twice),
        r"\(2 of 2\)",
    ),
    (
        testing.check_alone,
        replaced("round", None, broken.ByNeighbours()),
        "gradient of number 0 alone",
    ),
    (
        testing.check_defined,
        replaced("sign", None, broken.NaiveSigmoid()),
        r"derivative NaN at \[-",
    ),
    (
        testing.check_primitive,
        replaced("heaviside", None, broken.TwiceTooSteep()),
        "the primitive's slope",
    ),
    (
        testing.check_double_backward,
        replaced("sign", None, broken.OnceDifferentiable()),
        "differences",
    ),
    (testing.check_double_backward, replaced("sign", broken.slope_held, Tanh()), "along x"),
    (
        testing.check_repeated_backward,
        replaced("sign", broken.second_backward_is_empty),
        "two backwards",
    ),
    (testing.check_jvp, replaced("sign", broken.wrong_tangent), "<g, J t>"),
    (testing.check_vmap, replaced("sign", broken.vmap_of_the_first), "vmap"),
    (testing.check_vmap_grad, replaced("sign", None, broken.Stateful()), "vmap of grad"),
    (
        testing.check_recorded,
        replaced("sign", broken.written_behind_torch),
        "value recorded",
    ),
    (testing.check_compiled, replaced("sign", broken.compiles_again), "recompile"),
    (testing.check_seed, replaced("categorical", broken.seed_ignored), "under seed=20"),
    (testing.check_shards, replaced("categorical", broken.offset_ignored), "shard 2:5"),
    (
        testing.check_default_seed,
        replaced("categorical", broken.one_seed_for_all),
        "the same draw",
    ),
    (testing.check_vmap_randomness, replaced("categorical", broken.one_seed_for_all), "different"),
    (testing.check_seed_errors, replaced("categorical", broken.one_seed_for_all), "generator"),
    (
        testing.check_errors,
        replaced("sign", broken.no_check_of_the_input),
        "no DtypeError about 'int64'",
    ),
    (
        testing.check_errors,
        replaced("categorical_lookup", broken.no_check_of_the_table),
        "no DtypeError about 'int64'",
    ),
    (testing.check_row_errors, replaced("argmax", broken.no_check_of_the_row), "ShapeError"),
    (testing.check_strict, replaced("argmax", broken.nan_hidden), "no ArgumentError"),
    (testing.check_mask, replaced("argmax", broken.mask_ignored), "a masked class was chosen"),
    (testing.check_dim, replaced("argmax", broken.dim_ignored), "value along dim 0"),
    (testing.check_rule_object, replaced("sign", None, broken.Loose()), "not equal to its copy"),
]


def label(check, case: Case, says: str) -> str:
    function = case.record.function
    registered = function is OPERATORS[case.record.name].function
    return f"{check.__name__}-{type(case.rule).__name__ if registered else function.__name__}"


guards = pytest.mark.parametrize(
    ("check", "case", "says"), GUARDS, ids=[label(*guard) for guard in GUARDS]
)


@guards
def test_a_broken_one_fails(check, case, says):
    with pytest.raises(AssertionError, match=rf"{case.record.name}.*{says}"):
        check(case)


@guards
def test_its_twin_passes(check, case, says):
    working = OPERATORS[case.record.name]
    check(Case(working, working.default if working.rule else None))


def test_every_check_has_a_guard():
    assert {check for check, *_ in GUARDS} == set(testing.CHECKS)


def test_without_assertions_nothing_passes():
    checked = (
        "from straightthrough import surrogates, testing; testing.check_rule(surrogates.Tanh())"
    )
    done = subprocess.run([sys.executable, "-O", "-c", checked], capture_output=True, text=True)
    assert done.returncode == 1
    assert "StraightThroughError: checks are assertions, which python -O" in done.stderr

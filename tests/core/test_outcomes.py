"""What each outcome accepts and refuses, by values written out by hand."""

import math

import pytest
import torch

from straightthrough.core.outcomes import (
    Binary,
    ClassNumber,
    Code,
    Codeword,
    Count,
    Elementwise,
    GridValue,
    KHot,
    Neighbour,
    OneHot,
    Row,
    TableRow,
)
from straightthrough.core.registry import OPERATORS, first_line
from straightthrough.ops.permutation.outcomes import Assignment, Permutation, Ranks, Reordered
from straightthrough.testing import DTYPES, Case

NAN = math.nan
X = [[0.0, 0.0, 0.0]]  # logits, of which the shape counts
MEAN = [[0.5, 0.5, 0.0]]
NONE = [[NAN, NAN, NAN]]
TABLE = [[1.0, 2.0], [3.0, 4.0], [1.0, 2.0]]
BOOK = [[1.0, 2.0], [3.0, 4.0]]
SWAP = [[0.0, 1.0], [1.0, 0.0]]
BLANK = [[NAN, NAN], [NAN, NAN]]

RIGHT = [
    (Elementwise(), [X], [X], X),
    (GridValue(), [[0.5, -2.0, NAN]], [[0.4, -9.0, 0.0], 0.5], [0.5, -2.0, NAN]),
    (Neighbour(), [[1.0, -2.0, 3.0, NAN]], [[0.5, -1.5, 3.0, NAN]], [0.5, 0.5, 0.0, NAN]),
    (Code(), [[[1.0, -0.5], [NAN, NAN]], [3, -1]], [BOOK], BOOK),
    (Row(), [TABLE], [TABLE, TABLE], TABLE),
    (Binary(), [[0.0, 1.0, NAN]], [[0.0] * 3], [0.3, 1.0, NAN]),
    (Count(), [[0.0, 7.0, NAN]], [[0.0] * 3], [0.0, 0.2, NAN]),
    (OneHot(), [[[0.0, 1.0, 0.0]]], [X], MEAN),
    (OneHot(), [NONE], [X], NONE),
    (KHot(), [[[1.0, 1.0, 0.0]]], [X], [[0.9, 1.0, 0.1]]),
    (ClassNumber(), [[1.0]], [X], MEAN),
    (ClassNumber(), [[NAN]], [X], NONE),
    (TableRow(), [[[3.0, 4.0]]], [X, TABLE], MEAN),
    (TableRow(), [[[1.0, 2.0]]], [X, TABLE], MEAN),
    (TableRow(), [[[NAN, NAN]]], [X, TABLE], NONE),
    (Codeword(), [[[3.0, 4.0]], [1]], [[[3.0, 4.0]], BOOK], [[0.0, 1.0]]),
    (Codeword(), [[[NAN, NAN]], [-1]], [[[NAN, 4.0]], BOOK], [[NAN, NAN]]),
    (Ranks(), [[[2.0, 1.0, 3.0]]], [X], [[2.0, 1.0, 3.0]]),
    (Ranks(), [[[0.0, 2.0, 1.0]]], [[[-math.inf, 2.0, 1.0]]], [[0.0, 2.0, 1.0]]),
    (Ranks(), [NONE], [[[NAN, 0.0, 0.0]]], NONE),
    (Permutation(), [[SWAP]], [[[1.0, 2.0]]], [SWAP]),
    (Permutation(), [[BLANK]], [[[NAN, 2.0]]], [BLANK]),
    (Assignment(), [[SWAP]], [[BOOK]], [SWAP]),
    (Assignment(), [[BLANK]], [[BLANK]], [BLANK]),
    (Reordered(), [[[[3.0, 4.0], [1.0, 2.0]]]], [[[1.0, 2.0]], [BOOK]], [BOOK]),
    (Reordered(), [[BLANK]], [[[NAN, 2.0]], [BOOK]], [BLANK]),
]

WRONG = [
    (GridValue(), [[0.5]], [[NAN], 0.5], [NAN], "without an outcome"),
    (GridValue(), [[NAN]], [[0.4], 0.5], [0.5], "NaN where there is an outcome"),
    (Neighbour(), [[2.0]], [[0.5]], [0.5], "not 0 and 1"),
    (Neighbour(), [[4.0]], [[3.0]], [0.0], "probability 0"),
    (Code(), [[[1.0, 1.5]], [3]], [BOOK], BOOK, "beyond -1 to 1"),
    (Code(), [[[NAN, NAN]], [3]], [BOOK], BOOK, "NaN beside"),
    (Binary(), [[0.5]], [[0.0]], [0.5], "not 0 and 1"),
    (Binary(), [[0.0]], [[0.0]], [1.0], "probability 0"),
    (Binary(), [[0.0]], [[0.0]], [NAN], "without an outcome"),
    (Count(), [[1.5]], [[0.0]], [1.5], "not whole numbers"),
    (Count(), [[math.inf]], [[0.0]], [1.5], "not whole numbers"),
    (Count(), [[1.0]], [[0.0]], [0.0], "probability 0"),
    (OneHot(), [[[0.0, 0.0, 1.0]]], [X], MEAN, "probability 0"),
    (OneHot(), [[[1.0, 1.0, 0.0]]], [X], MEAN, "rows sum to"),
    (OneHot(), [[[0.0, 1.0, 0.0]]], [X], NONE, "without an outcome"),
    (KHot(), [[[1.0, 0.0, 0.0]]], [X], [[0.9, 0.9, 0.2]], "rows sum to"),
    (ClassNumber(), [[2.0]], [X], MEAN, "probability 0"),
    (ClassNumber(), [[3.0]], [X], MEAN, "rows sum to"),
    (ClassNumber(), [[1.0]], [X], NONE, "without an outcome"),
    (TableRow(), [[[1.0, 4.0]]], [X, TABLE], MEAN, "not all rows of the table"),
    (TableRow(), [[[3.0, 4.0]]], [X, TABLE], [[0.5, 0.0, 0.5]], "probability 0"),
    (TableRow(), [[[3.0, 4.0]]], [X, TABLE], NONE, "without an outcome"),
    (Codeword(), [[[3.0, 4.0]], [0]], [[[3.0, 4.0]], BOOK], [[1.0, 0.0]], "not the codewords"),
    (Codeword(), [[[3.0, 4.0]], [1]], [[[3.0, 4.0]], BOOK], [[1.0, 0.0]], "probability 0"),
    (Codeword(), [[[3.0, 4.0]], [1]], [[[3.0, 4.0]], BOOK], [[NAN, NAN]], "without an outcome"),
    (Ranks(), [[[2.0, 2.0, 1.0]]], [X], [[2.0, 1.0, 3.0]], "not every rank once"),
    (Ranks(), [[[1.0, 3.0, 2.0]]], [[[-math.inf, 2.0, 1.0]]], X, "not every rank once"),
    (Ranks(), [[[1.0, 3.0, 2.0]]], [X], NONE, "without an outcome"),
    (Permutation(), [[[[0.0, 1.0], [0.0, 1.0]]]], [[[1.0, 2.0]]], [SWAP], "sums along -2"),
    (Permutation(), [[[[0.5, 0.5], [0.5, 0.5]]]], [[[1.0, 2.0]]], [SWAP], "not 0 and 1"),
    (Permutation(), [[SWAP]], [[[NAN, 2.0]]], [BLANK], "without an outcome"),
    (Assignment(), [[SWAP]], [[[[2.0, 1.0], [0.0, 0.0]]]], [SWAP], "keeps .* of"),
    (Assignment(), [[SWAP]], [[[[2.0, -math.inf], [0.0, 0.0]]]], [SWAP], "keeps .* of"),
    (Assignment(), [[BLANK]], [[BOOK]], [BLANK], "an outcome where there is none, or none"),
    (Reordered(), [[[[3.0, 4.0]] * 2]], [[[1.0, 2.0]], [BOOK]], [BOOK], "in another order"),
]


def tensors(values):
    return [torch.tensor(value) for value in values]


@pytest.mark.parametrize(("outcome", "outputs", "inputs", "mean"), RIGHT)
def test_what_can_be_is_accepted(outcome, outputs, inputs, mean):
    outcome.check(tensors(outputs), tensors(inputs), torch.tensor(mean))


@pytest.mark.parametrize(("outcome", "outputs", "inputs", "mean", "message"), WRONG)
def test_what_cannot_be_is_refused(outcome, outputs, inputs, mean, message):
    with pytest.raises(AssertionError, match=message):
        outcome.check(tensors(outputs), tensors(inputs), torch.tensor(mean))


def test_every_outcome_is_one_of_these_and_says_what_it_is():
    every = {type(outcome) for outcome, *_ in RIGHT}
    assert {type(record.outcome) for record in OPERATORS.values()} <= every
    assert all(first_line(outcome()).endswith(".") for outcome in every)


@pytest.mark.parametrize("record", OPERATORS.values(), ids=list(OPERATORS))
def test_edge_cases_fit_the_operator_and_are_edge_cases(record):
    for dtype in DTYPES:
        x, *rest = inputs = record.outcome.special(dtype)
        shapes = record.shapes(*inputs)
        assert [tuple(y.shape) for y in Case(record)(*inputs)] == [tuple(s) for s in shapes]
        assert {one.dtype for one in inputs} == {dtype}
        found = [x == 0, x.isposinf(), x.isneginf(), x.isnan(), x == torch.finfo(dtype).max]
        assert all(bool(each.any()) for each in found)
        assert all(bool(each.isfinite().all()) for each in rest)

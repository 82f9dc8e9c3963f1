"""Uniform grids: values, ranges and codes by hand."""

import math

import pytest
import torch

import straightthrough as st
from straightthrough.grids import Binary, HalfInt, Int, Stretched, Ternary

NAN, INF = math.nan, math.inf

# Grid, inputs, the values that they become, their codes.
BY_HAND = [
    (Int(4), [-9, -8.4, -0.5, 0.5, 1.5, 2.5, 7.5, INF], [-8, -8, 0, 0, 2, 2, 7, 7], None),
    (Int(4, narrow=True), [-9, -7.4, 7.6], [-7, -7, 7], None),
    (Int(2, signed=False), [-1, 0.6, 2.5, 9], [0, 1, 2, 3], None),
    (Int(2, signed=False, narrow=True), [-1, 0.6, 9], [1, 1, 3], None),
    (Int(1), [-3, -0.4, 5], [-1, 0, 0], None),
    (Int(1, signed=False), [-3, 0.6, 5], [0, 1, 1], None),
    # v + .5 is -2.5, -.1, .4, .6, 2.5: clamped, -1.5 to 1.5.
    (HalfInt(2), [-3, -0.6, -0.1, 0.1, 2], [-1.5, -0.5, -0.5, 0.5, 1.5], [-2, -1, -1, 0, 1]),
    (HalfInt(1), [-3, 0.1, 9], [-0.5, 0.5, 0.5], [-1, 0, 0]),
    (Ternary(), [-INF, -0.51, -0.5, 0.5, 0.51, 2], [-1, -1, 0, 0, 1, 1], None),
    (Binary(), [-INF, -0.1, -0.0, 0, 3], [-1, -1, 1, 1, 1], [0, 0, 1, 1, 1]),
    # 2 v - .5 is -2.48, -.7, -.3, 1.3: the codes -2, -1, 0, 1.
    (Stretched(2), [-3, -0.1, 0.1, 0.9], [-0.75, -0.25, 0.25, 0.75], [-2, -1, 0, 1]),
    # 1.5 v is -1.485, -.45, .6.
    (Stretched(1.58), [-3, -0.3, 0.4], [-2 / 3, 0, 2 / 3], [-1, 0, 1]),
]


@pytest.mark.parametrize(("grid", "given", "values", "codes"), BY_HAND)
def test_values_and_codes(grid, given, values, codes):
    v, due = torch.tensor(given, dtype=torch.float64), torch.tensor(values, dtype=torch.float64)
    found = grid.nearest(v)
    assert torch.equal(found, due)
    assert not bool((found.signbit() & (found == 0)).any())
    whole = torch.tensor(values if codes is None else codes, dtype=torch.int32)
    assert torch.equal(grid.codes(v), whole)
    torch.testing.assert_close(grid.decode(whole).double(), due, rtol=1e-7, atol=0)
    assert grid.nearest(torch.tensor([NAN])).isnan().all()
    assert not grid.inside(torch.tensor([NAN])).any()
    assert found.min() >= grid.low - 1e-9
    assert found.max() <= grid.high + 1e-9


def test_a_zero_point_is_added_after_rounding():
    v = torch.tensor([0.5, -9.0, 30.0])
    assert Int(4).nearest(v, 1).tolist() == [0, -9, 6]  # the codes 1, -8 and 7
    assert Int(4).codes(v, 1).tolist() == [1, -8, 7]
    assert Int(4).decode(torch.tensor([1, -8, 7]), 1).tolist() == [0, -9, 6]
    assert Int(4).inside(torch.tensor([-9.5, -9.6, 6.4, 6.6]), 1).tolist() == [0, 0, 1, 0]
    ends = torch.tensor([-9.0, -8.9, 6.0, 5.9])
    assert Int(4).inside(ends, 1, "value").tolist() == [0, 1, 0, 1]


RANGES = [
    # Grid, inputs, inside by the code, inside by the value.
    (Int(3), [-4.5, -4.6, -4.0, 3.0, 3.4, 3.6], [1, 0, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0]),
    (Int(3), [-3.9, 2.9], [1, 1], [1, 1]),
    (HalfInt(2), [-2.1, -1.6, 1.5, 1.4], [0, 1, 1, 1], [0, 0, 0, 1]),
    (Ternary(), [-1.5, -1.4, 1.0, 0.9], [0, 1, 1, 1], [0, 0, 0, 1]),
    (Binary(), [-1.1, -1.0, 0.9], [0, 1, 1], [0, 0, 1]),
    (Stretched(2), [-1.0, -0.99, 0.98], [0, 1, 1], [0, 0, 1]),
]


@pytest.mark.parametrize(("grid", "given", "code", "value"), RANGES)
def test_ranges(grid, given, code, value):
    v = torch.tensor(given, dtype=torch.float64)
    assert grid.inside(v).tolist() == [bool(one) for one in code]
    assert grid.inside(v, what="value").tolist() == [bool(one) for one in value]


WRONG = [
    (lambda: Int(0), "bits must be an int in [1, 16], got 0"),
    (lambda: Int(17), "bits must be an int in [1, 16], got 17"),
    (lambda: Int(4.0), "bits must be an int in [1, 16], got 4.0"),
    (lambda: Int(True), "bits must be an int in [1, 16], got True"),
    (lambda: Int(4, signed=1), "signed must be True or False, got 1"),
    (lambda: Int(1, narrow=True), "has the one code 0; use more bits or narrow=False"),
    (lambda: Int(1, signed=False, narrow=True), "has the one code 1; use more bits"),
    (lambda: Stretched(3), "bits must be 1.58 or 2, got 3"),
    (lambda: Stretched(True), "bits must be 1.58 or 2, got True"),
]


@pytest.mark.parametrize(("make", "message"), WRONG)
def test_what_is_no_grid(make, message):
    with pytest.raises(st.ArgumentError) as caught:
        make()
    assert message in str(caught.value)

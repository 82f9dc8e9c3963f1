"""Rules whose gradients are not finite: who, and where, is said."""

import json
from dataclasses import dataclass

import pytest
import torch

import straightthrough as st
from straightthrough.audit import compare
from straightthrough.estimators import CategoricalEstimator, SubsetEstimator

WEIGHTS = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]])
MESSAGE = "Broken(): its gradient is not finite at the outcome with classes [1, "


@dataclass(frozen=True)
class Broken(CategoricalEstimator):
    """Right but where the first variable has the class 1."""

    def gradient(self, logits, index, grad, noise):
        wrong = (index == 1) & (torch.arange(index.shape[-1]) == 0)
        return torch.where(wrong[..., None], torch.inf, grad)


@dataclass(frozen=True)
class BrokenSubset(SubsetEstimator):
    def gradient(self, logits, k, value, grad):
        return torch.where(value[..., :1] == 1, torch.nan, grad)


def linear(z):
    return (z * WEIGHTS.to(z.dtype)).sum((-2, -1))


@pytest.mark.parametrize("limit", [9, 8], ids=["enumerated", "sampled"])
def test_the_table_and_the_row_say_which_rule_and_where(limit):
    audit = compare(linear, torch.zeros(2, 3), [Broken(), "reinmax"], samples=64, limit=limit)
    broken, reinmax = audit.rows
    assert f"{broken.name}: {broken.flaw}".startswith(MESSAGE)
    assert reinmax.flaw == ""
    assert MESSAGE in audit.table()
    assert audit.table().count("not finite") == 1


def test_numbers_that_are_not_finite_are_null_in_json():
    audit = compare(linear, torch.zeros(2, 3), ["reinmax", Broken()])

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    _, broken = json.loads(audit.to_json(), parse_constant=refuse)["rows"]
    assert broken["mse"] is broken["bias_squared"] is broken["relative_squared_bias"] is None
    assert broken["flaw"] == audit.rows[1].flaw


@pytest.mark.parametrize("order", [1, -1])
def test_a_picture_names_it_and_does_not_draw_it_at_zero(order):
    audit = compare(linear, torch.zeros(2, 3), [Broken(), "reinmax", "gumbel"][::order], samples=8)
    figure = audit.plot()
    (axes,) = figure.axes
    drawn = {line.get_label() for line in axes.lines}
    assert {"reinmax", "gumbel"} <= drawn
    assert "Broken()" not in drawn
    assert MESSAGE in axes.get_title().replace("\n", " ")
    figure.draw_without_rendering()
    title, legend = axes.title.get_window_extent(), figure.legends[0].get_window_extent()
    assert not title.overlaps(legend)
    alone = compare(linear, torch.zeros(2, 3), [Broken()])
    with pytest.raises(st.ArgumentError, match="a finite row to be drawn: 9 outcomes"):
        alone.plot()


def test_a_square_that_overflows_is_told_from_a_gradient_that_does():
    audit = compare(lambda z: 1e170 * linear(z), torch.zeros(2, 3, dtype=torch.float64), ["darn"])
    assert audit.rows[0].flaw == "squares of its gradient are beyond float64; scale the loss down"


def test_of_subsets_too():
    audit = compare(lambda z: z @ WEIGHTS[0], torch.zeros(3), [BrokenSubset()], k=2)
    assert "gradient is not finite at the outcome with classes [" in audit.rows[0].flaw

"""Runs gathered over their seeds."""

import pytest

from page_results import vae_result
from straightthrough.report import runs
from straightthrough.report.charts import Line


@pytest.fixture
def groups():
    """Two runs of one rule, and one of another."""
    return runs.grouped({"runs": vae_result()["runs"][:3]}, "rule")


def test_runs_that_got_less_far_are_not_averaged_with_whole_ones(groups):
    groups["A(tau=1.0)"][1]["points"].pop()
    assert runs.rows(groups, {"test": 1})[0] == ["A(tau=1.0)", "1", "2", "25.0"]
    line, _ = runs.lines(groups, "test", suffix="test")
    assert line == Line("A(tau=1.0) test", 0, [0, 2], [40.5, 25.0])
    later, _ = runs.lines(groups, "test", first=1)
    assert later == Line("A(tau=1.0)", 0, [2], [25.0])


def test_checkpoints_are_averaged_by_epoch(groups):
    """That of an interrupt lies beside those of whole runs."""
    groups["A(tau=1.0)"][0]["points"][-1]["epoch"] = 1
    line, _ = runs.lines(groups, "test")
    assert line == Line("A(tau=1.0)", 0, [0, 2], [40.5, 27.0])


def test_a_deviation_is_explained_where_there_is_one(groups):
    assert runs.deviation(groups) == " ± is the standard deviation over seeds."
    del groups["A(tau=1.0)"]
    assert runs.deviation(groups) == ""

"""Runs gathered over their seeds."""

import pytest

from page_results import vae_result
from straightthrough.report import runs
from straightthrough.report.charts import Line


@pytest.fixture
def vae():
    return vae_result()


def test_runs_that_got_less_far_are_not_averaged_with_whole_ones(vae):
    groups = runs.grouped(vae, "rule")
    groups["A(tau=1.0)"][1]["points"].pop()
    assert runs.rows(groups, {"test": 1})[0] == ["A(tau=1.0)", "1", "2", "25.0"]
    line, _ = runs.lines(groups, "test", suffix="test")
    assert line == Line("A(tau=1.0) test", 0, [0, 2], [40.5, 25.0])
    later, _ = runs.lines(groups, "test", first=1)
    assert later == Line("A(tau=1.0)", 0, [2], [25.0])

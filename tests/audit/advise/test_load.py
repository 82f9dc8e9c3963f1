"""The same seed gives the same advice, whatever the machine does beside it, or its clock."""

import itertools
import os
import random
import subprocess
import sys
import time

import pytest
import torch

from straightthrough.audit import advise
from straightthrough.audit.advise.admission import ENUMERATED, SMALL
from straightthrough.estimators import DARN, MVE, GumbelST, ReinMax, StraightThrough


def problem(variables, classes):
    generator = torch.Generator().manual_seed(0)
    sizes = ((variables * classes, 7), (7,), (variables, classes))
    first, second, logits = (
        torch.randn(*size, generator=generator, dtype=torch.float64) for size in sizes
    )
    return (lambda z: (z.flatten(1) @ first).tanh() @ second), logits


def said(advice):
    """Everything but times."""
    rows = [
        (row.label, row.bias_squared, row.variance, row.cosine, row.interval) for row in advice.rows
    ]
    return repr((rows, [row.label for row in advice.ties], advice.skipped))


@pytest.fixture
def busy():
    """Keep every processor busy, several times over."""
    workers = []
    endless = [sys.executable, "-S", "-c", "while True: pass"]
    yield lambda: workers.extend(subprocess.Popen(endless) for _ in range(2 * os.cpu_count() + 2))
    for worker in workers:
        worker.kill()
        worker.wait()


def test_a_loaded_machine_gives_the_same_advice(busy):
    loss, logits = problem(3, 4)  # 64 outcomes
    rules = ["reinmax", "straight_through", "gumbel", "gumbel_rao", "mve", DARN()]
    quiet = advise(loss, logits, estimators=rules)
    busy()
    loaded = advise(loss, logits, estimators=rules)
    assert quiet.skipped == loaded.skipped == ()
    assert said(quiet) == said(loaded)


@pytest.mark.parametrize("seed", range(3))
def test_the_clock_decides_nothing_of_a_small_problem(monkeypatch, seed):
    loss, logits = problem(3, 4)
    # The first two are all but alike and noisy, so that the race between them is a long one.
    rules = [GumbelST(0.1), GumbelST(0.101), "reinmax", "straight_through", DARN(), MVE()]
    expected = said(advise(loss, logits, estimators=rules, seed=1))
    jumps, now = random.Random(seed), itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: next(now) + 100 * jumps.random())
    assert said(advise(loss, logits, estimators=rules, seed=1, budget=0.01)) == expected
    assert said(advise(loss, logits, estimators=rules, seed=2, budget=0.01)) != expected


def test_larger_ones_are_enumerated_for_the_rules_without_noise(clock):
    loss, logits = problem(4, 6)
    assert SMALL < 6**4 * logits.numel() <= ENUMERATED

    def slow(z):
        clock[0] += 0.1 * len(z)
        return loss(z)

    rules = [ReinMax(), StraightThrough(), DARN(), MVE(), GumbelST()]
    advice = advise(slow, logits, estimators=rules, budget=1.0)
    assert advice.method == "enumerated"
    tried = {row.rule for row in advice.rows if row.rule is not None}
    assert tried == {*rules} - {GumbelST()}
    assert all(row.interval[0] == row.interval[1] for row in advice.rows)
    ((name, reason),) = advice.skipped
    assert (name, reason.split(":")[0]) == (repr(GumbelST()), "is too dear for the budget")
    assert advise(slow, logits, estimators=rules, budget=1.0, limit=1000).method == "sampled"


def test_what_seemed_too_dear_is_tried_while_budget_is_left(clock):
    """The first two timings are those of a busy machine."""
    loss, logits = problem(4, 6)
    calls = [0]

    class Loaded(GumbelST):
        def gradient(self, logits, index, grad, noise):
            calls[0] += 1
            clock[0] += 10.0 if calls[0] <= 2 else 0.2
            return super().gradient(logits, index, grad, noise)

    advice = advise(loss, logits, estimators=[ReinMax(), Loaded()], budget=60.0)
    assert advice.skipped == ()
    assert {row.rule for row in advice.rows} == {ReinMax(), Loaded(), None}

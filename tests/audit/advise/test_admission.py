"""Who is let into a race: the cheapest that fit, enumerated where the exact ones do."""

from dataclasses import dataclass

import pytest
import torch

from straightthrough.audit import advise
from straightthrough.audit.advise.admission import (
    Cost,
    Entrant,
    admit,
    admit_late,
    cost_of_loss,
    price,
)
from straightthrough.estimators import GumbelST, ReinMax, StraightThrough

FREE = Cost(0.0, 0.0)


def entrant(rule, call, outcome=0.0):
    return Entrant("name", rule, Cost(call, outcome))


def rules(admission):
    return [found.rule for found in admission.entrants]


def test_the_cheapest_are_admitted_while_they_fit():
    # Half of ten seconds. A rule without noise takes one audit and the backward that is timed, one
    # with noise five audits and that: 1 + 1.8 + 2 fit, and 2.4 more do not.
    given = [
        entrant(GumbelST(0.4), 0.4),
        entrant(ReinMax(), 1.0),
        entrant(GumbelST(0.3), 0.3),
        entrant(StraightThrough(), 0.5),
    ]
    found = admit(given, FREE, outcomes=10, batch=1, limit=10, budget=10.0)
    assert rules(found) == [StraightThrough(), GumbelST(0.3), ReinMax()]
    assert found.work.enumerated
    (left_out,) = found.left_out
    name, reason = found.work.refusal(left_out)
    assert name == repr(GumbelST(0.4))
    assert reason == "is too dear for the budget: its audits take about 2.4 s"


def test_outcomes_draws_and_the_batch_are_counted():
    # 100 outcomes of 1 ms and a batch of 1000: 0.1 + 1 s without noise; with noise, which is drawn
    # twice, 5 * 0.2 + 1 s.
    for rule, needed in ((ReinMax(), 1.1), (GumbelST(), 2.0)):
        given = [entrant(rule, 0.0, 1e-3)]
        for budget, fits in ((2.02 * needed, True), (1.98 * needed, False)):
            found = admit(given, FREE, outcomes=100, batch=1000, limit=100, budget=budget)
            assert found.work.enumerated == fits


def test_outcomes_are_drawn_where_an_exact_rule_would_not_fit():
    given = [entrant(ReinMax(), 0.0, 1e-3), entrant(StraightThrough(), 0.0, 1e-6)]
    found = admit(given, FREE, outcomes=10_000, batch=1, limit=10_000, budget=10.0)
    assert not found.work.enumerated  # it would take ten seconds; 5 * 64 draws a third of one
    assert rules(found) == [StraightThrough(), ReinMax()]
    noisy = [entrant(GumbelST(), 0.0, 1e-3), entrant(StraightThrough(), 0.0, 1e-6)]
    found = admit(noisy, FREE, outcomes=10_000, batch=1, limit=10_000, budget=10.0)
    assert found.work.enumerated  # for what is exact then; the others are left out
    assert rules(found) == [StraightThrough()]


def test_what_is_always_enumerated_admits_every_exact_rule_whatever_it_takes():
    given = [entrant(ReinMax(), 0.0, 1.0), entrant(GumbelST(), 0.0, 1e-3)]
    options = {"outcomes": 100, "batch": 1, "limit": 100, "budget": 1.0}
    found = admit(given, Cost(0.0, 1.0), always=True, **options)
    assert found.work.enumerated
    assert rules(found) == [GumbelST(), ReinMax()]
    assert not admit(given, Cost(0.0, 1.0), **options).work.enumerated
    over = admit(given, FREE, always=True, **{**options, "limit": 99})
    assert not over.work.enumerated


def test_who_was_too_dear_is_let_in_when_it_proves_cheap(clock):
    slow = [1.0]

    @dataclass(frozen=True)
    class Slow(GumbelST):
        def gradient(self, logits, index, grad, noise):
            clock[0] += slow[0]
            return super().gradient(logits, index, grad, noise)

    logits = torch.zeros(3)
    entrants, _ = price([("slow", Slow())], logits)
    given = [*entrants, entrant(ReinMax(), 0.0)]
    found = admit(given, FREE, outcomes=3, batch=1, limit=3, budget=2.0)
    assert [each.rule for each in found.left_out] == [Slow()]
    still = admit_late(found, FREE, logits, samples=2, left=2.0)
    assert (still.entrants, still.left_out) == ((), found.left_out)
    slow[0] = 0.1  # 5 audits and a backward: 0.6 s
    late = admit_late(found, FREE, logits, samples=2, left=0.7)
    assert rules(late) == [Slow()]
    assert rules(admit_late(found, FREE, logits, samples=2, left=0.5)) == []


def test_a_loss_too_dear_to_enumerate_is_drawn():
    given = [entrant(ReinMax(), 0.0)]
    for outcome, enumerated in ((1e-3, True), (1e-2, False)):
        found = admit(given, Cost(0.0, outcome), outcomes=1000, batch=1, limit=1000, budget=5.0)
        assert found.work.enumerated == enumerated
        assert rules(found) == [ReinMax()]


def test_the_cheapest_is_admitted_whatever_it_takes():
    given = [entrant(GumbelST(0.5), 9.0), entrant(GumbelST(0.4), 8.0)]
    found = admit(given, FREE, outcomes=3, batch=1, limit=3, budget=1.0)
    assert rules(found) == [GumbelST(0.4)]
    assert not found.work.enumerated


def test_a_cost_tells_the_call_from_what_it_is_given(clock):
    @dataclass(frozen=True)
    class Slow(GumbelST):
        def gradient(self, logits, index, grad, seed):
            clock[0] += 4e-3 + 1e-4 * len(logits)
            return super().gradient(logits, index, grad, seed)

    entrants, failed = price([("slow", Slow()), ("slow", Slow(0.5))], torch.zeros(5, 3))
    assert failed == []
    assert entrants[0].cost is entrants[1].cost  # one that differs in its temperature alone
    assert entrants[0].cost.call == pytest.approx(4e-3)
    assert entrants[0].cost.outcome == pytest.approx(5e-4)  # of five rows


def test_the_cost_of_a_loss_is_that_of_an_outcome(clock):
    def loss(z):
        clock[0] += 1e-4 + 1e-5 * len(z)
        return z.square().sum(-1)

    cost = cost_of_loss(loss, torch.zeros(3))
    assert (cost.call, cost.outcome) == (pytest.approx(1e-4), pytest.approx(1e-5))


def interrupted(after):
    """Return what raises Ctrl-C at the progress that is told `after` the first."""
    told = []

    def notify(progress):
        told.append(progress)
        if len(told) > after:
            raise KeyboardInterrupt

    return notify


def test_ctrl_c_leaves_what_is_known():
    def loss(z):
        return (z @ torch.tensor([1.0, 2.0, 4.0])) ** 2

    def ask(after):
        given = [ReinMax(), GumbelST(0.5), GumbelST(0.5001)]
        notify = interrupted(after)
        return advise(loss, torch.zeros(3), estimators=given, budget=60.0, notify=notify)

    with pytest.raises(KeyboardInterrupt):
        ask(after=0)
    early = ask(after=1)
    assert not early.complete
    assert [row.rule for row in early.rows] == [ReinMax(), None]
    assert [reason for _, reason in early.skipped] == ["was interrupted"] * 2
    later = ask(after=5)
    assert not later.complete
    assert len(later.rows) == 4
    assert later.seconds < 30

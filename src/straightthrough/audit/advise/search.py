"""Which estimator, at which temperature: candidates race on the caller's own loss."""

from __future__ import annotations

import time
from collections.abc import Sequence

from torch import Tensor

from ...core.errors import check_count, check_flag, check_limit, check_positive
from ...core.noise import Seed
from ...core.progress import Notify, Progress, silent
from ...estimators import CategoricalEstimator
from ..compare.exact import LIMIT, Loss, count_outcomes
from .candidate import zero
from .criterion import ranked
from .question import Question
from .race import AUDITS
from .result import Advice
from .runner import candidates


def advise(
    loss: Loss,
    logits: Tensor,
    *,
    budget: float = 10.0,
    batch: int = 1,
    estimators: Sequence[CategoricalEstimator | str] | None = None,
    seed: int = 0,
    rescale: bool = True,
    limit: int = LIMIT,
    notify: Notify = silent,
) -> Advice:
    """Say which estimator, at which temperature, errs least on a loss, and what it costs.

    Value: the candidates by relative squared bias, `|mean estimate - g|^2 / |g|^2`, g the true
    gradient of `E[loss(z)]`: bias does not average out over steps. Means are first scaled to the
    length of g, as a learning rate takes care of lengths, so that this is `2 (1 - cosine)`. Rules
    within 0.01 of the least are equal in it, and go by their error, `bias^2 + variance / batch`
    over `|g|^2`, that of an average over `batch` independent draws; within 5% of the least error,
    those without noise go first, then those listed first. A gradient of zero is a row, with 1 in
    both; a rule whose mean points away from g is worse, and comes after it.

    Small problems, of at most 2^13 elements of one-hots (C**L outcomes of L C each), are
    enumerated, and every candidate gets the same audits however long they take, so that the same
    seed gives the same advice on a busy machine; the clock has a say in `seconds` alone. So are,
    up to 2^17 elements, the rules without noise, which one audit makes exact.

    Otherwise a few calls tell what the loss and each rule cost. Half of the budget goes to audits
    that all candidates get: the cheapest are admitted while they fit. Outcomes are enumerated where
    the limit and the budget allow it for all rules without noise, and otherwise drawn. What was
    too dear is timed again while budget is left, and let in if it fits; `skipped` names the rest.

    Rules that are not exact are audited 5 to 17 times, each time with fresh noise (and outcomes,
    where these are drawn); the scatter of the audits gives a 95% t interval. A candidate is
    dropped when its interval lies above that of another one, or its mean points away from the
    gradient.

    Args:
        loss: maps one-hots `(N, C)` or `(N, L, C)`, N outcomes at a time in the logits' dtype,
            to `(N,)`; differentiable, each outcome's loss a function of that outcome alone.
            `st.audit.probe` makes one of a model.
        logits: `(C,)`, one variable, or `(L, C)`; floating.
        budget: seconds, > 0, for what is not small.
        batch: how many independent draws a training step averages over, >= 1.
        estimators: the candidates, rules as they are or shorthands for a rule at several
            temperatures; by default every registered one.
        seed: of the noise.
        rescale: as in `compare`. Without it lengths count too: a rule that shrinks its gradient
            is rewarded where variance dominates, which a learning rate does as well.
        limit: how many outcomes, C**L, are enumerated at most; of more, samples are drawn.
        notify: called with `Progress` at the start and after each audit.

    Returns:
        An `Advice`: `best`, `rows`, `ties`, `verdict`, `criterion`, `table()`, `plot()`,
        `to_json()`; printed, it is a short table.

    Raises:
        DtypeError, ShapeError: for logits or a loss as in `exact_gradient`.
        ArgumentError: if the budget or the batch is out of range, an estimator is unknown, none
            can be tried, or the loss is not differentiable or finite at an outcome.

    Edge cases: a rule that raises at these logits, whose gradients are not finite, or which is too
    dear, is left out and named in `skipped`. Where the true gradient is 0 nothing is relative to
    it, and candidates stay as they are listed. Ctrl-C ends it: with `complete=False` and what is
    known by then or, where that is nothing, a `KeyboardInterrupt`.

    Cost: of small problems a few seconds with all rules; of others about `budget` seconds at most.

    Example:
        >>> loss = lambda z: (z @ torch.tensor([1.0, 2.0, 4.0])) ** 2
        >>> rules = [st.estimators.StraightThrough(), st.estimators.ReinMax()]
        >>> advice = st.audit.advise(loss, torch.zeros(3), estimators=rules)
        >>> advice.best.rule
        ReinMax(tau=1.0)
        >>> for row in advice.rows:
        ...     print(f"{row.label:25} {row.relative_squared_bias:.3f} {row.relative_error:.3f}")
        ReinMax(tau=1.0)          0.000 0.741
        StraightThrough(tau=1.0)  0.021 0.306
        zero gradient             1.000 1.000
    """
    check_positive("budget", budget)
    batch, limit = check_count("batch", batch), check_limit("limit", limit)
    check_flag("rescale", rescale)
    seed = int(Seed(seed).value)  # which checks it
    outcomes = count_outcomes(logits)
    question = Question(
        loss=loss,
        logits=logits.detach(),
        budget=budget,
        batch=batch,
        seed=seed,
        rescale=rescale,
        limit=limit,
        outcomes=outcomes,
        started=time.perf_counter(),
    )
    given = list(candidates(estimators))
    notify(Progress("audit", 0, AUDITS, f"looking at {len(given)} candidates"))
    race, admission, complete = question.answer(given, notify)
    order = [id(rule) for _, rule in given]
    runners = sorted(race.runners, key=lambda runner: order.index(id(runner.rule)))
    rows = [runner.candidate() for runner in runners]
    return Advice(
        rows=tuple(ranked([*rows, zero(rows[0].gradient_squared)])),
        skipped=(*race.skipped, *map(admission.work.refusal, admission.left_out)),
        batch=batch,
        budget=budget,
        seed=seed,
        rescale=rescale,
        outcomes=outcomes,
        method="enumerated" if admission.work.enumerated else "sampled",
        seconds=time.perf_counter() - question.started,
        complete=complete,
    )

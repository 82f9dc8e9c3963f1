"""Which estimator, at which temperature: candidates race on the caller's own loss."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from torch import Tensor

from ...core.errors import check_count, check_limit, check_positive
from ...core.noise import Seed
from ...core.progress import Notify, Progress, silent
from ...estimators import CategoricalEstimator
from ..compare.comparison import compare
from ..compare.exact import LIMIT, Loss, count_outcomes
from ..compare.result import Audit
from .admission import admit, cost_of_loss, price
from .race import Race
from .result import Advice
from .runner import Runner, candidates


def advise(
    loss: Loss,
    logits: Tensor,
    *,
    budget: float = 10.0,
    batch: int = 1,
    estimators: Sequence[CategoricalEstimator | str] | None = None,
    seed: int = 0,
    rescale: bool = False,
    limit: int = LIMIT,
    notify: Notify = silent,
) -> Advice:
    """Say which estimator, at which temperature, errs least on a loss, and what it costs.

    Value: for each candidate `mse = bias_squared + variance / batch`, the mean squared error of
    the gradient of `E[loss(z)]` when a step averages over `batch` independent draws. One draw
    wants little variance, many want little bias.

    First a few calls tell what the loss and each rule cost. Half of the budget goes to audits that
    all candidates get: the cheapest are admitted while they fit, and `skipped` says what the
    others would take. Where the outcomes can be enumerated, and the budget allows it for all rules
    without noise, one audit makes these exact; otherwise outcomes are drawn.

    The others are audited again and again, each time with fresh noise (and outcomes, where these
    are drawn); the scatter of the audits gives a 95% t interval. A candidate is dropped when its
    interval lies above that of another one, or its mean points away from the gradient, so that
    time goes to the contenders, until one is left or the budget is spent.

    Args:
        loss: maps one-hots `(N, C)` or `(N, L, C)`, N outcomes at a time in the logits' dtype,
            to `(N,)`; differentiable, each outcome's loss a function of that outcome alone.
        logits: `(C,)`, one variable, or `(L, C)`; floating.
        budget: seconds, > 0; five audits of the cheapest candidate are always made.
        batch: how many independent draws a training step averages over, >= 1.
        estimators: the candidates, rules as they are or shorthands for a rule at several
            temperatures; by default every registered one.
        seed: of the noise; how much of it is drawn is for the time to say.
        rescale: as in `compare`: only the direction counts. Without it, a rule that shrinks its
            gradient is rewarded where variance dominates, which a learning rate does as well.
        limit: how many outcomes, C**L, are enumerated at most; of more, samples are drawn.
        notify: called with `Progress` at the start and after each audit.

    Returns:
        An `Advice`: `best`, `rows`, `ties`, `verdict`, `table()`, `plot()`, `to_json()`.

    Raises:
        DtypeError, ShapeError: for logits or a loss as in `exact_gradient`.
        ArgumentError: if the budget or the batch is out of range, an estimator is unknown, none
            can be tried, or the loss is not differentiable or finite at an outcome.

    Edge cases: a rule that raises at these logits, whose gradients are not finite, or which is too
    dear, is left out and named in `skipped`. Where variance dominates, even a mean that points
    away from the gradient may have the least error; such rules come last. Ctrl-C ends it: with
    `complete=False` and what is known by then or, where that is nothing, a `KeyboardInterrupt`.

    Cost: about `budget` seconds, less where all is exact or decided sooner.

    Example:
        >>> loss = lambda z: (z @ torch.tensor([1.0, 2.0, 4.0])) ** 2
        >>> rules = [st.estimators.StraightThrough(), st.estimators.ReinMax()]
        >>> one = st.audit.advise(loss, torch.zeros(3), estimators=rules, rescale=True)
        >>> many = st.audit.advise(loss, torch.zeros(3), estimators=rules, batch=1000)
        >>> one.best.rule, many.best.rule
        (StraightThrough(tau=1.0), ReinMax(tau=1.0))
    """
    check_positive("budget", budget)
    check_count("batch", batch)
    check_limit("limit", limit)
    Seed(seed)  # checks it
    started, outcomes, logits = time.perf_counter(), count_outcomes(logits), logits.detach()
    given = list(candidates(estimators))
    notify(Progress("audit", 0, math.ceil(budget), f"pricing {len(given)} candidates"))
    cost = cost_of_loss(loss, logits)
    entrants, skipped = price(given, logits)
    admission = admit(entrants, cost, outcomes, batch, limit, budget)
    skipped += [(repr(entrant.rule), reason) for entrant, reason in admission.left_out]
    runners = []
    for entrant in admission.entrants:
        try:
            runners.append(Runner(entrant.name, entrant.rule, logits, batch))
        except Exception as error:
            skipped.append((repr(entrant.rule), f"raises {type(error).__name__}: {error}"))

    def audit(rules: Sequence[CategoricalEstimator], samples: int, seed: int) -> Audit:
        most = outcomes if admission.enumerated else 0
        return compare(loss, logits, rules, samples=samples, seed=seed, rescale=rescale, limit=most)

    race, complete = Race(audit, seed, runners, skipped), True
    try:
        race.run(budget, started, notify)
    except KeyboardInterrupt:
        race.stop()
        if not race.runners:
            raise
        complete = False
    rows = [runner.candidate() for runner in race.runners]
    rows.sort(key=lambda row: (not row.cosine > 0, row.mse, row.seconds))
    return Advice(
        rows=tuple(rows),
        skipped=tuple(race.skipped),
        batch=batch,
        budget=budget,
        seed=seed,
        rescale=rescale,
        outcomes=outcomes,
        method="enumerated" if admission.enumerated else "sampled",
        seconds=time.perf_counter() - started,
        complete=complete,
    )

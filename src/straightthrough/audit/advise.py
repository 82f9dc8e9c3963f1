"""Which estimator, at which temperature: candidates race on the caller's own loss."""

from __future__ import annotations

import time
from collections.abc import Sequence

from torch import Tensor

from ..core.errors import check_count, check_positive
from ..core.progress import Notify, silent
from ..estimators import Estimator
from .advice import Advice
from .compare import compare
from .exact import LIMIT, Loss, count_outcomes
from .groups import GROUPS, group_size
from .race import FIRST, LEAST, Race
from .result import Audit
from .runner import candidates


def advise(
    loss: Loss,
    logits: Tensor,
    *,
    budget: float = 10.0,
    batch: int = 1,
    estimators: Sequence[Estimator | str] | None = None,
    seed: int = 0,
    rescale: bool = False,
    limit: int = LIMIT,
    notify: Notify = silent,
) -> Advice:
    """Say which estimator, at which temperature, errs least on a loss, and what it costs.

    Value: for each candidate `mse = bias_squared + variance / batch`, the mean squared error of
    the gradient of `E[loss(z)]` when a step averages over `batch` independent draws. One draw
    wants little variance, many want little bias.

    Where the outcomes can be enumerated, a rule without noise is exact after one look. Others are
    audited again and again, each time with fresh noise (and outcomes, where these are drawn); the
    scatter of the audits gives a 95% t interval. A candidate is dropped when its interval lies
    above that of another one, or its mean points away from the gradient, so that time goes to the
    contenders, until one is left or the budget is spent.

    Args:
        loss: maps one-hots `(N, C)` or `(N, L, C)`, N outcomes at a time in the logits' dtype,
            to `(N,)`; differentiable, each outcome's loss a function of that outcome alone.
        logits: `(C,)`, one variable, or `(L, C)`; floating.
        budget: seconds, > 0; one look at all and four audits of those with noise are always made.
        batch: how many independent draws a training step averages over, >= 1.
        estimators: the candidates, rules as they are or shorthands for a rule at several
            temperatures; by default every registered one.
        seed: of the noise; how much of it is drawn is for the time to say.
        rescale: as in `compare`: only the direction counts. Without it, a rule that shrinks its
            gradient is rewarded where variance dominates, which a learning rate does as well.
        limit: how many outcomes, C**L, are enumerated at most; of more, samples are drawn.
        notify: called with `Progress` after each audit.

    Returns:
        An `Advice`: `best`, `rows`, `ties`, `verdict`, `table()`, `plot()`, `to_json()`.

    Raises:
        DtypeError, ShapeError: for logits or a loss as in `exact_gradient`.
        ArgumentError: if the budget or the batch is out of range, an estimator is unknown, none
            can be tried, or the loss is not differentiable or finite at an outcome.

    Edge cases: a rule that raises at these logits, whose gradients are not finite, or which takes
    more than its part of the budget, is left out and named in `skipped`. Where variance dominates,
    even a mean that points away from the gradient may have the least error; such rules come last.

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
    started, outcomes, logits = time.perf_counter(), count_outcomes(logits), logits.detach()

    def audit(rules: Sequence[Estimator], samples: int, seed: int) -> Audit:
        return compare(
            loss, logits, rules, samples=samples, seed=seed, rescale=rescale, limit=limit
        )

    race = Race(audit, seed)
    draws = FIRST * outcomes if outcomes <= limit else GROUPS * group_size(FIRST, 2)
    race.enter(candidates(estimators), logits, batch, budget / (1 + LEAST) / draws)
    first = race.run(budget, notify)
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
        method=first.method,
        seconds=time.perf_counter() - started,
    )

"""The rules that studies of one-hots compare: all that are registered."""

from __future__ import annotations

from typing import Any

from ..core.registry import shorthands
from ..estimators import CategoricalEstimator, DecoupledST, MVEInteger


def one_hot_rules() -> dict[str, CategoricalEstimator]:
    """Return every categorical rule by name, by its defaults where these are a rule of its own.

    `MVEInteger` is left out, which is for losses of a number. `DecoupledST` has another temperature
    forward, as it is `StraightThrough` without.
    """
    records = shorthands(CategoricalEstimator).items()
    rules: dict[str, Any] = {
        name: record.example for name, record in records if record.type is not MVEInteger
    }
    return {**rules, "decoupled": DecoupledST(tau_forward=0.5)}

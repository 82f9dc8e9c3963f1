"""What a monitor saw, as a short table."""

from __future__ import annotations

from collections.abc import Sequence

from ...core.errors import ArgumentError
from ..text import aligned
from .sinks import Observation

TITLES = {
    "saturation": "saturation",
    "gradient_snr": "gradient |mean| / std",
    "flip_rate": "flip rate",
    "sparsity": "sparsity",
    "entropy": "entropy (nats)",
    "code_use": "code use",
    "perplexity": "perplexity",
    "dead_codes": "dead codes",
    "unique_ids": "unique ids",
    "collision_rate": "collision rate",
    "oscillation": "oscillation",
    "frozen": "frozen",
}
"""Of every quantity, in the order of their columns."""

Series = dict[tuple[str, str], list[Observation]]


def by_operator(observations: Sequence[Observation]) -> tuple[Series, list[str], list[str]]:
    """Return what was seen by operator and quantity, the operators, and the quantities.

    Raises:
        ArgumentError: if there is nothing.
    """
    if not observations:
        raise ArgumentError("nothing was observed yet; call step() at the end of a training step")
    series: Series = {}
    for seen in observations:
        series.setdefault((seen.operator, seen.quantity), []).append(seen)
    operators = list(dict.fromkeys(operator for operator, _ in series))
    present = {quantity for _, quantity in series}
    return series, operators, [quantity for quantity in TITLES if quantity in present]


def summarize(observations: Sequence[Observation]) -> str:
    """Return a row an operator and a column a quantity, and which steps were seen."""
    series, operators, quantities = by_operator(observations)
    rows = [
        [operator, *(_first_and_last(series.get((operator, each), [])) for each in quantities)]
        for operator in operators
    ]
    steps = sorted({seen.step for seen in observations})
    foot = f"steps {steps[0]} to {steps[-1]}, {len(steps)} observed: first -> last"
    table = aligned(["operator", *(TITLES[each] for each in quantities)], rows)
    return f"{table}\n{foot}"


def _first_and_last(seen: Sequence[Observation]) -> str:
    """Return the first value and the last, or the only one."""
    ends = [*seen[:1], *seen[1:][-1:]]
    return " -> ".join(f"{each.value:{'.2g' if each.value < 99.5 else '.0f'}}" for each in ends)

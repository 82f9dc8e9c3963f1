"""`straightthrough list`: every operator and rule, from the registry, and the other functions."""

from __future__ import annotations

import inspect
from itertools import groupby
from typing import Any

import straightthrough as st

from ..core.registry import OPERATORS, RULES, first_line
from ..studies.polynomial.study import EXACT
from .console import Json, print_json, print_table

BASELINES = [
    {
        "name": EXACT,
        "where": "study polynomial --estimators",
        "summary": "The gradient of the expected loss, by enumeration.",
    }
]


def main(json: Json = False) -> None:
    """List every operator, every rule, and the other functions."""
    operators = [_operator(name) for name in OPERATORS]
    rules = [_rule(name) for name in RULES]
    functions = _functions()
    if json:
        print_json(
            {"operators": operators, "rules": rules, "baselines": BASELINES, "functions": functions}
        )
        return
    print_table(
        ("Operator", "Family", "Default rule", "What it is"),
        [(row["name"], row["family"], row["default"] or "–", row["summary"]) for row in operators],
    )
    print_table(
        ("Operators", "Rules that fit them"),
        [
            (", ".join(row["name"] for row in group), f"{keyword}= {', '.join(fitting)}")
            for (keyword, fitting), group in groupby(operators, _fitting)
            if keyword
        ],
    )
    print_table(
        ("Rule", "Class", "What it is"),
        [(row["name"], row["class"], row["summary"]) for row in rules],
    )
    print_table(
        ("Not a rule", "Where it is taken", "What it is"),
        [(row["name"], row["where"], row["summary"]) for row in BASELINES],
    )
    print_table(
        ("Also", "What it does"),
        [(row["name"], row["summary"]) for row in functions],
    )


def _fitting(row: dict[str, Any]) -> tuple[str, list[str]]:
    return row["keyword"], row["rules"]


def _operator(name: str) -> dict[str, Any]:
    record = OPERATORS[name]
    return {
        "name": name,
        "family": record.family,
        "keyword": record.rule,
        "default": repr(record.default) if record.default else None,
        "rules": [rule.shorthand for rule in record.rules()] if record.rule else [],
        "inputs": {one.name: one.dims for one in record.inputs},
        "outcome": type(record.outcome).__name__,
        "outputs": list(record.outcome.outputs),
        "samples": record.samples,
        "summary": record.summary,
    }


def _rule(name: str) -> dict[str, Any]:
    record = RULES[name]
    return {
        "name": record.shorthand,
        "class": record.type.__name__,
        "fits": [
            operator for operator, row in OPERATORS.items() if row.rule and record in row.rules()
        ],
        "summary": record.summary,
    }


def _functions() -> list[dict[str, str]]:
    """Return the public functions that are no operators of the registry."""
    others = {name: getattr(st, name) for name in st.__all__ if name not in OPERATORS}
    return [
        {"name": name, "summary": first_line(value)}
        for name, value in others.items()
        if inspect.isfunction(value)
    ]

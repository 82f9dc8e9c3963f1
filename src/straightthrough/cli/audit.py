"""`straightthrough audit`: bias and variance of estimators on a random quadratic."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from ..audit import compare
from ..audit.exact import LIMIT
from ..audit.quadratic import quadratic
from ..core.errors import ArgumentError
from ..core.registry import resolve
from ..estimators import Estimator
from .console import Json, inform, names, writable


def main(
    estimators: Annotated[
        str, typer.Option(help="Comma-separated, each a NAME or NAME:TAU.")
    ] = "straight_through,reinmax,reinmax:1.5,gumbel:0.1",
    size: Annotated[int, typer.Option(min=1, max=4096, help="Classes of the one variable.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Of the quadratic and of the noise.")] = 0,
    samples: Annotated[
        int,
        typer.Option(min=1, help="Of a rule's own noise, an outcome; past the limit, outcomes."),
    ] = 1024,
    rescale: Annotated[
        bool, typer.Option(help="Scale mean estimates to the exact gradient's norm first.")
    ] = True,
    limit: Annotated[
        int, typer.Option(min=0, help="Outcomes enumerated at most; of more, samples are drawn.")
    ] = LIMIT,
    output: Annotated[
        Path | None, typer.Option(help="Folder for audit.png and audit.json.")
    ] = None,
    json: Json = False,
) -> None:
    """Compare estimators with the exact gradient of a random quadratic.

    The loss is z^T A z + b^T z at a one-hot z drawn from softmax(eta), with A = Q^T Q and Q, b
    and eta standard normal. A class is an outcome, so that a limit below the size has outcomes
    drawn instead of enumerated, and the numbers come with standard errors.
    """
    rules = [_rule(text) for text in names(estimators)]
    folder = writable(output) if output else None
    loss, eta = quadratic(size, seed)
    audit = compare(loss, eta, rules, samples=samples, seed=seed, rescale=rescale, limit=limit)
    print(audit.to_json() if json else audit.table())
    if folder:
        audit.plot(folder / "audit.png")
        (folder / "audit.json").write_text(audit.to_json())
        inform(f"written: {folder / 'audit.png'}, {folder / 'audit.json'}")


def _rule(text: str) -> Estimator:
    """Read `reinmax` or `reinmax:1.5`."""
    name, colon, tau = text.partition(":")
    rule: Estimator = resolve("estimators", name, Estimator)
    if not colon:
        return rule
    try:
        return dataclasses.replace(rule, tau=float(tau))  # type: ignore[type-var]  # all are dataclasses
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"{text!r} must be NAME:TAU with a temperature: {error}") from error

"""`straightthrough audit`: bias and variance of estimators on a quadratic, or advice on a loss."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ..audit import compare
from ..audit.compare.exact import LIMIT
from ..audit.compare.quadratic import quadratic
from ..core.errors import ArgumentError
from ..core.registry import resolve
from ..core.rules import Relaxation, Rule
from ..estimators import CategoricalEstimator, SubsetEstimator
from . import advice
from .console import Json, inform, names, writable

DEFAULTS = ["straight_through", "reinmax", "reinmax:1.5", "gumbel:0.1"]
SUBSETS = ["simple", "second_order", "logistic", "softmax"]


def main(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODULE:FUNCTION]",
            help="A function that takes nothing and returns (loss, logits), as st.audit.advise "
            "takes them. Default: a random quadratic.",
        ),
    ] = None,
    estimators: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated, each a NAME or NAME:TAU. Default: a few or, with a function, "
            "all; a NAME is then tried at several temperatures."
        ),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(help="Of a function, unless it is small: seconds, above 0. Default: 10."),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(help="Of a function: draws that a step averages over. Default: 1."),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(min=1, max=4096, help="Of the quadratic: classes. Default: 4."),
    ] = None,
    subset: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Of the quadratic: how many classes are drawn, by st.sample_subset. Default: one, "
            "by st.categorical.",
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Of the quadratic: draws of a rule's own noise, an outcome; past the limit, "
            "outcomes. Default: 1024.",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**63 - 1, help="Of the noise, and of the quadratic.")
    ] = 0,
    rescale: Annotated[
        bool,
        typer.Option(
            "--rescale/--no-rescale",
            help="Scale mean estimates to the exact gradient's norm first.",
        ),
    ] = True,
    limit: Annotated[
        int, typer.Option(min=0, help="Outcomes enumerated at most; of more, samples are drawn.")
    ] = LIMIT,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder: of report.html and audit.json (default: results/audit), or of the "
            "quadratic's audit.png and audit.json."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Say how wrong the gradients of estimators are.

    With MODULE:FUNCTION, a loss of your own: which estimator, at which temperature, errs least on
    it, and what it costs; `return st.audit.probe(model, loss, batch)` makes one of a model. The
    module is imported from the current folder too, as `python -m` does.

    Without, a random quadratic: z^T A z + b^T z at a one-hot z drawn from softmax(eta), with
    A = Q^T Q and Q, b and eta standard normal. A class is an outcome, so that a limit below the
    size has outcomes drawn instead of enumerated, and the numbers come with standard errors.
    With --subset k, z is a k-hot, whose outcomes are enumerated always.
    """
    given = names(estimators) if estimators is not None else None
    if target is not None:
        quadratics = {"--size": size, "--subset": subset, "--samples": samples}
        _refuse("the random quadratic, not of a function", quadratics)
        settings = advice.Settings(
            loss=target,
            budget=10.0 if budget is None else budget,
            batch=1 if batch is None else batch,
            seed=seed,
            rescale=rescale,
            limit=limit,
        )
        rules = None if given is None else partial(_several, given)
        return advice.run(settings, rules, output or Path("results/audit"), json)
    _refuse("a function, given as MODULE:FUNCTION", {"--budget": budget, "--batch": batch})
    size = 4 if size is None else size
    if subset is not None and subset > size:
        raise ArgumentError(f"--subset must be at most --size, {size}, got {subset}")
    _on_quadratic(
        [_rule(text, subset) for text in given or (SUBSETS if subset else DEFAULTS)],
        size=size,
        subset=subset,
        samples=1024 if samples is None else samples,
        seed=seed,
        rescale=rescale,
        limit=limit,
        output=output,
        json=json,
    )
    return None


def _refuse(what: str, options: dict[str, Any]) -> None:
    """Refuse options of the other mode."""
    for name, value in options.items():
        if value is not None:
            raise ArgumentError(f"{name} is of {what}")


def _on_quadratic(
    rules: list[Rule],
    *,
    size: int,
    subset: int | None,
    samples: int,
    seed: int,
    rescale: bool,
    limit: int,
    output: Path | None,
    json: bool,
) -> None:
    folder = writable(output) if output else None
    loss, eta = quadratic(size, seed)
    settings: dict[str, Any] = {"samples": samples, "seed": seed, "rescale": rescale}
    audit = compare(loss, eta, rules, k=subset, limit=limit, **settings)
    print(audit.to_json() if json else audit.table())
    if folder:
        audit.plot(folder / "audit.png")
        (folder / "audit.json").write_text(audit.to_json())
        inform(f"written: {folder / 'audit.png'}, {folder / 'audit.json'}")


def _several(texts: list[str]) -> list[Any]:
    """Read `reinmax:1.5` as a rule, and leave `reinmax`, which is tried at several temperatures."""
    return [_rule(text) if ":" in text else text for text in texts]


def _rule(text: str, subset: int | None = None) -> Any:
    """Read `reinmax` or `reinmax:1.5`, of a subset's rules where it is one that is drawn."""
    name, colon, tau = text.partition(":")
    fits = (SubsetEstimator, Relaxation) if subset else (CategoricalEstimator,)
    rule: Rule = resolve("estimators", name, *fits)
    if not colon:
        return rule
    if "tau" not in vars(rule):
        raise ArgumentError(f"{text!r} must be without a temperature, as {name} has none")
    try:
        number = float(tau)
    except ValueError:
        raise ArgumentError(f"{text!r} must be NAME:TAU, such as {name}:0.5") from None
    return dataclasses.replace(rule, tau=number)  # type: ignore[type-var]  # all are dataclasses

"""All commands under one name."""

from __future__ import annotations

import typer

from . import audit, env, listing, report, study

app = typer.Typer(
    help="Straight-through estimators: what there is, how good it is, and studies.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("list")(listing.main)
app.command("audit")(audit.main)
app.command("env")(env.main)
app.command("report")(report.main)
app.add_typer(study.app, name="study")

"""All commands under one name."""

from __future__ import annotations

from typing import Annotated

import typer

import straightthrough as st

from . import audit, env, listing, report, study

app = typer.Typer(
    help="Straight-through estimators: what there is, how good it is, and studies.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("list")(listing.main)
app.command("audit")(audit.main)
app.command("env")(env.main)
app.command("report")(report.main)
app.add_typer(study.app, name="study", no_args_is_help=False)


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Print the version, or without a command the help."""
    if version:
        print(f"straightthrough {st.__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())

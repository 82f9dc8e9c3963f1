"""`straightthrough study NAME`: train or measure, print a table, write a page."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from ..core.errors import ArgumentError
from ..core.progress import Notify
from ..report import Table
from ..studies.bias import page as bias_page
from ..studies.bias import study as bias_study
from ..studies.journal import Journal
from ..studies.mask import page as mask_page
from ..studies.mask import study as mask_study
from ..studies.polynomial import page as polynomial_page
from ..studies.polynomial import study as polynomial_study
from ..studies.qat import page as qat_page
from ..studies.qat import study as qat_study
from ..studies.qat.model import PRECISIONS, RULES
from ..studies.record import to_json
from ..studies.select import page as select_page
from ..studies.select import study as select_study
from ..studies.select.model import METHODS
from ..studies.vae import page as vae_page
from ..studies.vae import study as vae_study
from ..studies.vae.presets import PRESETS
from ..studies.vqvae import page as vqvae_page
from ..studies.vqvae import study as vqvae_study
from . import pages
from .console import Failure, Json, names, print_json, print_table, writable
from .progress import live

app = typer.Typer(
    help="Train or measure, and write a report.", no_args_is_help=True, rich_markup_mode=None
)

Data = Annotated[str, typer.Option(help="digits, mnist or fashion-mnist.")]
Folder = Annotated[
    str | None,
    typer.Option("--data-dir", help="Holds IDX files (.gz or not) or an .npz; not for digits."),
]
Seeds = Annotated[
    str,
    typer.Option(
        help="A list such as 0,1,5, or 7, for one seed; or a count: 3 means 0,1,2.",
        metavar="LIST|COUNT",
    ),
]
MOST = 10_000
"""A count of seeds at most: a larger number is meant as a seed."""

Number = TypeVar("Number", int, float)

Epochs = Annotated[int | None, typer.Option(min=1, help="Default: what suits the data.")]
Control = Annotated[
    str | None,
    typer.Option(
        help="Comma-separated, or none, the default: what is trained once more with "
        "st.nn.ControlVariate."
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume", help="Go on with what is in --output; all other options as they were."
    ),
]


@app.command()
def vae(
    preset: Annotated[
        str | None,
        typer.Option(help=f"{', '.join(PRESETS)}. Default: what suits the data."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="digits, mnist or fashion-mnist. Default: the preset's, or digits."),
    ] = None,
    data_dir: Folder = None,
    estimators: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated; `straightthrough list` shows them. Default: the preset's."
        ),
    ] = None,
    without_bias: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated, or none: what is trained once more with its bias removed. "
            "Default: the preset's."
        ),
    ] = None,
    control: Control = None,
    seeds: Seeds = "1",
    epochs: Epochs = None,
    output: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("results/vae"),
    resume: Resume = False,
    json: Json = False,
) -> None:
    """Categorical VAE: how well each estimator trains it, and how good its gradient is."""
    settings = vae_study.Settings(
        data,
        data_dir,
        None if estimators is None else names(estimators),
        None if without_bias is None else names(without_bias) * (without_bias != "none"),
        [] if control in (None, "none") else names(control),
        _seeds(seeds),
        epochs,
        preset,
    )
    _run(partial(vae_study.run, settings), vae_page.tables, output, resume, json)


@app.command()
def mask(
    data: Data = "digits",
    data_dir: Folder = None,
    seeds: Seeds = "1",
    epochs: Epochs = None,
    output: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("results/mask"),
    resume: Resume = False,
    json: Json = False,
) -> None:
    """Masked network: how many weights it keeps, and what the mask costs."""
    settings = mask_study.Settings(data, data_dir, _seeds(seeds), epochs)
    _run(partial(mask_study.run, settings), mask_page.tables, output, resume, json)


@app.command()
def vqvae(
    data: Data = "digits",
    data_dir: Folder = None,
    seeds: Seeds = "1",
    epochs: Epochs = None,
    output: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("results/vqvae"),
    resume: Resume = False,
    json: Json = False,
) -> None:
    """Vector-quantized autoencoder: rules, ways to learn a codebook, revival, and no codebook."""
    settings = vqvae_study.Settings(data, data_dir, None, _seeds(seeds), epochs)
    _run(partial(vqvae_study.run, settings), vqvae_page.tables, output, resume, json)


@app.command()
def qat(
    data: Data = "digits",
    data_dir: Folder = None,
    precisions: Annotated[
        str, typer.Option(help="Comma-separated; W and A for the bits of weights and inputs.")
    ] = ",".join(PRECISIONS),
    rules: Annotated[str, typer.Option(help="Comma-separated.")] = ",".join(RULES),
    rounding: Annotated[
        bool, typer.Option(help="Whether rules for the rounding of weights alone are compared.")
    ] = True,
    seeds: Seeds = "1",
    epochs: Epochs = None,
    output: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("results/qat"),
    resume: Resume = False,
    json: Json = False,
) -> None:
    """Quantized networks: bits and rules, what ships, and rules for the rounding alone."""
    settings = qat_study.Settings(
        data, data_dir, names(precisions), names(rules), rounding, _seeds(seeds), epochs
    )
    _run(partial(qat_study.run, settings), qat_page.tables, output, resume, json)


@app.command()
def select(
    data: Data = "digits",
    data_dir: Folder = None,
    methods: Annotated[str, typer.Option(help="Comma-separated.")] = ",".join(METHODS),
    k: Annotated[
        int | None, typer.Option(help="How many pixels. Default: what suits the data.")
    ] = None,
    seeds: Seeds = "1",
    epochs: Epochs = None,
    output: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("results/select"),
    resume: Resume = False,
    json: Json = False,
) -> None:
    """The k pixels that decide the class: chosen by scores that learn, or by a count."""
    settings = select_study.Settings(data, data_dir, names(methods), k, _seeds(seeds), epochs)
    _run(partial(select_study.run, settings), select_page.tables, output, resume, json)


@app.command()
def polynomial(
    powers: Annotated[str, typer.Option(help="Exponents of the loss, comma-separated.")] = (
        "1.5,2,3"
    ),
    estimators: Annotated[
        str, typer.Option(help="Comma-separated; exact is the gradient of the expected loss.")
    ] = ",".join(polynomial_study.Settings.estimators),
    control: Control = None,
    seeds: Seeds = "1,2,3",
    epochs: Annotated[int, typer.Option(min=1, help="Of 200 steps.")] = polynomial_study.EPOCHS,
    output: Annotated[Path, typer.Option(help="Folder of the report.")] = Path(
        "results/polynomial"
    ),
    resume: Resume = False,
    json: Json = False,
) -> None:
    """Polynomial programming: the loss that each estimator reaches, beside published ones."""
    settings = polynomial_study.Settings(
        _numbers("powers", powers, float),
        names(estimators),
        [] if control in (None, "none") else names(control),
        _seeds(seeds),
        epochs,
    )
    _run(partial(polynomial_study.run, settings), polynomial_page.tables, output, resume, json)


@app.command()
def bias(
    sizes: Annotated[str, typer.Option(help="Numbers of classes, comma-separated.")] = "4,8,16",
    seeds: Seeds = "3",
    draws: Annotated[
        int, typer.Option(min=1, help="Vectors of Gumbels an outcome, of rules that draw noise.")
    ] = bias_study.Settings.draws,
    repetitions: Annotated[
        int, typer.Option(min=1, help="Of the published way of measuring.")
    ] = bias_study.Settings.repetitions,
    output: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("results/bias"),
    resume: Resume = False,
    json: Json = False,
) -> None:
    """Random quadratics: bias and variance of every estimator, beside published ones."""
    settings = bias_study.Settings(_numbers("sizes", sizes, int), _seeds(seeds), draws, repetitions)
    _run(partial(bias_study.run, settings), bias_page.tables, output, resume, json)


def _numbers(option: str, text: str, kind: type[Number]) -> list[Number]:
    """Read a comma-separated list."""
    parts = names(text)
    try:
        return [kind(part) for part in parts]
    except ValueError:
        raise ArgumentError(f"{option} must be numbers, such as 2,4, got {text!r}") from None


def _seeds(text: str) -> Sequence[int]:
    """Read `0,1,5` as a list and `3` as a count."""
    try:
        listed = [int(part) for part in names(text)]
    except ValueError:
        listed = []
    count = len(listed) == 1 and "," not in text
    if count and listed[0] > MOST:
        raise ArgumentError(
            f"seeds must be a list or a count of at most {MOST:,}, got {text!r}; the one seed "
            f"{listed[0]} is the list {listed[0]}, with a comma behind it"
        )
    seeds = list(range(listed[0])) if count else listed
    if not seeds or min(seeds) < 0:
        raise ArgumentError(f"seeds must be a list such as 0,1,5 or a count above 0, got {text!r}")
    if len({*seeds}) < len(seeds) or max(seeds) >= 2**63:
        raise ArgumentError(f"seeds must be different, and below 2^63, got {text!r}")
    return seeds


def _run(
    study: Callable[[Notify, Journal], Any],
    tables: Callable[[dict[str, Any]], list[Table]],
    output: Path,
    resume: bool,
    json: bool,
) -> None:
    """Run a study with a live display, then print and write what came of it."""
    folder = writable(output)
    try:
        with live() as notify:
            result = to_json(study(notify, Journal(folder, resume=resume)))
    except KeyboardInterrupt:
        raise Failure("interrupted before anything was measured") from None
    page = pages.write(result, folder)
    if json:
        print_json(result)
    else:
        for table in tables(result):
            print_table(table.columns, table.rows, numbers=True)
            print(f"{textwrap.fill(table.note, 100)}\n")
        print(f"Report: {page}")
    if not result["header"]["complete"]:
        raise Failure(f"interrupted: the report is partial, {page}; --resume goes on")

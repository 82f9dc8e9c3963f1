"""The API pages: one an operator, one a rule, written from the registry into docs/_generated."""

import dataclasses
import json
from pathlib import Path

import plots
import torch
from typer.main import get_command

import straightthrough as st
from benchmarks import results, tables
from straightthrough.cli.app import app
from straightthrough.cli.pages import layout
from straightthrough.core.registry import OPERATORS, RULES, first_line
from straightthrough.estimators import GridEstimator, SolverEstimator
from straightthrough.report import markdown
from straightthrough.report.markdown import table

HERE = Path(__file__).parent
STUDIES = HERE / "studies" / "results"

FORMS = {
    "surrogates": (
        "Surrogates",
        "Pointwise rules: backward multiplies the gradient by `derivative(x)`. Any of them goes "
        "with any pointwise operator, and with `st.bernoulli`, as an object or by its shorthand.",
    ),
    "relaxations": (
        "Relaxations",
        "Smooth functions that stand for a selection in backward: of `st.topk`, which takes any of "
        "them, and of `st.argmax`, whose relaxation is the softmax.",
    ),
    "estimators": (
        "Estimators",
        "Rules for draws, codewords and numbers on a grid. `Fini` gives the gradient of a count; "
        "those that fit "
        "`st.fake_quantize` the gradients of a number on a grid; `PairSTE`, `Both`, `Rotation` and "
        "`DiVeQ` those of a vector and its codeword; `SolverIdentity`, `Blackbox`, `IMLE` and "
        "`Perturbed` those of what a solver returns; all others that of a draw of classes. "
        "The shaded band of a picture is one standard deviation of a single sample.",
    ),
}


def write_pages(folder: Path) -> None:
    """Write every generated page and picture."""
    for name in ("operators", *FORMS):
        (folder / name).mkdir(parents=True, exist_ok=True)
    write(folder / "command_line.md", command_line_page())
    write_speed(folder)
    write_studies(folder / "studies")
    write_operators(folder / "operators")
    for form in FORMS:
        write_rules(folder / form, form)
    plots.draw_gallery(folder / "surrogates" / "gallery.svg")


def write_operators(folder: Path) -> None:
    """Write one page for each public function of the families, and their index."""
    functions = {name: value for name, value in vars(st).items() if of_a_family(name, value)}
    families: dict[str, list[str]] = {}
    for name, function in functions.items():
        families.setdefault(family_of(function), []).append(name)
        write(folder / f"{name}.md", operator_page(name, function))
    sections = []
    for family, names in families.items():
        rows = [[f"[`st.{n}`]({n}.md)", first_line(functions[n])] for n in names]
        sections.append(f"## {family.capitalize()}\n\n{table(['operator', 'what it is'], rows)}")
    body = "\n\n".join(sections)
    pages = {name: f"st.{name}" for name in functions}
    write(folder / "index.md", f"# Operators\n\n{body}\n\n{toctree(pages)}")


def operator_page(name: str, function: object) -> str:
    """Return the page of an operator: the table of its record, then its docstring."""
    record = OPERATORS.get(name)
    facts = f"\n{record_table(record)}\n" if record else ""
    return f"# `st.{name}`\n{facts}\n{autodoc('autofunction', f'straightthrough.{name}')}"


def record_table(record) -> str:
    """Return what the registry says of an operator as a table."""
    takes = (f"`{one.name}` ({shown(one.dims)})" for one in record.inputs)
    returns = " and ".join(f"({shown(dims)})" for dims in record.outcome.outputs)
    rows = [
        ["family", record.family],
        ["takes", ", ".join(takes)],
        ["returns", f"{returns}: {first_line(record.outcome)}"],
        ["draws noise", "yes" if record.samples else "no"],
        ["forward mode (jvp)", "yes" if record.forward_mode else "no, it raises"],
        ["saved for backward", saved(record)],
    ]
    if record.default:
        rows += [["default rule" if record.rule else "built-in rule", f"`{record.default!r}`"]]
    if record.rule:
        fits = [
            f"[`{rule.shorthand}`](../{form_of(rule)}/{rule.name}.md)" for rule in record.rules()
        ]
        rows += [[f"`{record.rule}=` takes", ", ".join(fits)]]
    return table(["", ""], rows)


def shown(dims: str) -> str:
    """Return dimensions as docstrings write them: `..., C`."""
    return ", ".join(dims.split())


def saved(record) -> str:
    """Say in words what a record's `saved_bytes` computes for float32 and the default rule."""
    others = record.inputs[1:]

    def count(rows: int, columns: int, more: int = 0) -> int:
        shapes = [(rows, columns), *((more, *[1] * (len(one.named) - 1)) for one in others)]
        inputs = [torch.empty(shape, device="meta") for shape in shapes]
        return record.saved_bytes(record.default, *inputs)

    constant, row = count(0, 8), count(1, 0)
    octet = count(1, 8) - row
    parts = [
        (octet // 8, "bytes an element"),
        (octet % 8, "bit an element"),
        (row - constant, "a row"),
        ((count(0, 8, 8) - constant) // 8, f"an element of {', '.join(o.name for o in others)}"),
        (constant, "for the seed"),
    ]
    said = [f"{number} {unit}" for number, unit in parts if number]
    most = f"at most {' + '.join(said)} in float32" if said else "nothing"
    return f"{most}, with the default rule" if record.rule else most


def write_rules(folder: Path, form: str) -> None:
    """Write one page and one picture for each rule of a form, and their index."""
    title, introduction = FORMS[form]
    records = {name: rule for name, rule in RULES.items() if form_of(rule) == form}
    rows = []
    for name, record in records.items():
        plots.draw(record.example, folder / f"{name}.svg")
        write(folder / f"{name}.md", rule_page(record, form))
        rows.append([f"[`{titled(record)}`]({name}.md)", f'`"{record.shorthand}"`', record.summary])
    listing = table(["rule", "shorthand", "what it is"], rows)
    gallery = (
        "\n![Every surrogate with its defaults](gallery.svg)\n" if form == "surrogates" else ""
    )
    pages = {name: titled(record) for name, record in records.items()}
    body = f"# {title}\n\n{introduction}\n{gallery}\n{listing}\n\n{toctree(pages)}"
    write(folder / "index.md", body)


def rule_page(record, form: str) -> str:
    """Return the page of a rule: shorthand, picture, docstring."""
    name = record.type.__name__
    takers = [
        f"[`st.{operator.name}`](../operators/{operator.name}.md)"
        for operator in OPERATORS.values()
        if record in operator.rules()
    ]
    needs = [f.name for f in dataclasses.fields(record.type) if f.default is dataclasses.MISSING]
    shorthand = (
        "none, as it has an argument without a default" if needs else f'`"{record.shorthand}"`'
    )
    facts = table(["", ""], [["shorthand", shorthand], ["fits", ", ".join(takers)]])
    members = "derivative, primitive" if form == "surrogates" else "vjp"
    members = "" if issubclass(record.type, (GridEstimator, SolverEstimator)) else members
    first = next(each for each in RULES.values() if each.type is record.type)
    docs = autodoc("autoclass", f"straightthrough.{form}.{name}", members, record is first)
    return f"# `st.{form}.{titled(record)}`\n\n![{name}]({record.name}.svg)\n\n{facts}\n\n{docs}"


def titled(record) -> str:
    """Return the class of a rule, with what its name fixes: `Threshold("laplace")`."""
    fixed = ", ".join(f'"{value}"' for value in record.fields.values())
    return record.type.__name__ + (f"({fixed})" if fixed else "")


def command_line_page() -> str:
    """Return the help of every command."""
    sections = []

    def visit(command, path: str, parent=None) -> None:
        context = command.context_class(command, info_name=path.split()[-1], parent=parent)
        sections.append(f"## `{path}`\n\n```text\n{command.get_help(context)}\n```")
        for name, child in getattr(command, "commands", {}).items():
            visit(child, f"{path} {name}", context)

    visit(get_command(app), "straightthrough")
    introduction = (
        "It comes with `pip install 'straightthrough[studies]'`. Every command has `--json`, for "
        "scripts, and exits with 0 (fine), 1 (failed) or 2 (wrong use)."
    )
    return f"# Command line\n\n{introduction}\n\n" + "\n\n".join(sections)


def write_speed(folder: Path) -> None:
    """Write the page of the last committed run, which is named by its date, and its pictures."""
    run = results.newest()
    records = results.read(run)
    pictures = tables.pictures(records)
    for name, png in pictures.items():
        (folder / f"speed-{name}.png").write_bytes(png)
    places = {name: f"speed-{name}.png" for name in pictures}
    body = f"Measured on {run.stem}. {tables.markdown(records, places)}"
    introduction = (
        "Every operator against the same work in plain torch, in one run in which all ways take "
        "turns, so that ratios hold on a busy machine too. An operator whose value or gradient is "
        "wrong is not timed. In a clone, `make bench` measures it on yours:\n\n"
        '```text\nmake bench ARGS="--quick"\n'
        'make bench ARGS="--output benchmarks/results/$(date -I).jsonl"\n```'
    )
    write(folder / "speed.md", f"# Speed\n\n{introduction}\n\n{body}")


def write_studies(folder: Path) -> None:
    """Write what each committed result of a study says, for the pages in docs/studies to include.

    `NAME.json`, the `result.json` of a run, becomes `NAME.md` and its pictures.
    """
    folder.mkdir(exist_ok=True)
    for path in sorted(STUDIES.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        markdown.write(layout(result), folder / f"{path.stem}.md")


def form_of(record) -> str:
    """Return the folder of a rule's page, which has the name of its package."""
    return record.type.__module__.split(".")[1]


def of_a_family(name: str, value: object) -> bool:
    """Say whether a public name of the package is a function of one of the families."""
    module = getattr(value, "__module__", "")
    return name in st.__all__ and module.startswith("straightthrough.ops.")


def family_of(function) -> str:
    """Return the package under `ops` that holds a function."""
    return function.__module__.split(".")[2]


def autodoc(directive: str, target: str, members: str = "", indexed: bool = True) -> str:
    """Return a block that has Sphinx set the docstring of `target`."""
    option = f"\n   :members: {members}" if members else ""
    option += "" if indexed else "\n   :no-index:"
    return f"```{{eval-rst}}\n.. {directive}:: {target}{option}\n```"


def toctree(titles: dict[str, str]) -> str:
    """Return a hidden table of contents out of pages and their titles."""
    entries = "\n".join(f"{title} <{page}>" for page, title in titles.items())
    return f"```{{toctree}}\n:hidden:\n{entries}\n```"


def write(path: Path, text: str) -> None:
    """Write a page unless it is there already, so that Sphinx rebuilds what has changed only."""
    if not path.exists() or path.read_text(encoding="utf-8") != text + "\n":
        path.write_text(text + "\n", encoding="utf-8")

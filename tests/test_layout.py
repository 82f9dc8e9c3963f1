"""The layout: imports point down, files are short, docstrings have every section."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import straightthrough as st

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "straightthrough"
LONGEST = 400

# A package imports from layers below its own, and from itself.
LAYERS = [
    {"core"},
    {"surrogates", "estimators"},
    {"ops"},
    {"nn", "distributions", "testing", "report"},
    {"audit"},
    {"straightthrough"},  # the public names
    {"studies"},
    {"cli"},
]
HEIGHT = {package: height for height, layer in enumerate(LAYERS) for package in layer}
MODULES = sorted(PACKAGE.rglob("*.py"))


def package_of(module: Path) -> str:
    first, *rest = module.relative_to(PACKAGE).parts
    return first if rest else "straightthrough"


def imported(module: Path) -> Iterator[str]:
    """Yield the packages of this library that a module imports from, also inside functions."""
    here = ("straightthrough", *module.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            targets = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = here[: len(here) + 1 - node.level] if node.level else ()
            start = ".".join([*origin, *([node.module] if node.module else [])])
            targets = [f"{start}.{name.name}" for name in node.names]
        else:
            continue
        for target in targets:
            first, *rest = target.split(".")
            if first == "straightthrough":
                yield rest[0] if rest and rest[0] in HEIGHT else "straightthrough"


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("module", MODULES, ids=relative)
def test_imports_point_down(module: Path) -> None:
    own = package_of(module)
    assert own in HEIGHT, f"{own} has no place in LAYERS"
    up = {other for other in imported(module) if other != own and HEIGHT[other] >= HEIGHT[own]}
    assert not up, f"{own} imports from {', '.join(up)}, which is not below it"


def test_files_are_short() -> None:
    folders = [ROOT / name for name in ("src", "tests", "docs", "benchmarks")]
    files = [
        f for folder in folders for kind in ("py", "cpp", "h") for f in folder.rglob(f"*.{kind}")
    ]
    lines = {relative(f): len(f.read_text(encoding="utf-8").splitlines()) for f in files}
    assert lines["tests/test_layout.py"] > 50
    assert {name: count for name, count in lines.items() if count > LONGEST} == {}


def test_silenced_warnings_have_a_reason() -> None:
    silenced = re.compile(r"# (type: ignore|noqa)(?!(\[[\w-]+\]|: [A-Z]+\d+)  # \w)")
    folders = [ROOT / name for name in ("src", "tests", "docs")]
    bare = [
        f"{relative(file)}:{number}"
        for folder in folders
        for file in folder.rglob("*.py")
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if silenced.search(line) and file != Path(__file__)
    ]
    assert bare == []


IN_ROOMS = [
    name
    for name in st.__all__
    if getattr(getattr(st, name), "__module__", "").startswith("straightthrough.ops.")
]
SECTIONS = ["Args:", "Returns:", "Raises:", "Edge cases:", "Higher order:", "Cost:", "Example:"]


@pytest.mark.parametrize("name", IN_ROOMS)
def test_docstrings_have_every_section_and_argument(name: str) -> None:
    text = inspect.getdoc(getattr(st, name)) or ""
    formulas = (
        ["Value:"] if name in ("hard_concrete_mean", "l0_norm") else ["Forward:", "Backward:"]
    )
    found = [text.find(section) for section in formulas + SECTIONS]
    assert -1 not in found
    assert found == sorted(found)
    arguments = text.partition("Args:")[2].partition("Returns:")[0]
    described = re.findall(r"^    (\w+(?:, \w+)*):", arguments, re.MULTILINE)
    assert ", ".join(described).split(", ") == [*inspect.signature(getattr(st, name)).parameters]

"""The layout: imports and includes point down, what declares a kernel stands beside it, files are
short, docstrings have every section."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import straightthrough as st
from straightthrough.core import gpu
from straightthrough.core.kernels import KERNELS
from straightthrough.core.registry import OPERATORS

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "straightthrough"
LONGEST = 400
WIDEST = 100

# A package imports from layers below its own, and from itself.
LAYERS = [
    {"core"},
    {"grids", "relaxations"},
    {"surrogates", "estimators"},
    {"ops"},
    {"scales"},
    {"nn", "distributions", "testing", "report"},
    {"audit"},
    {"straightthrough"},  # the public names
    {"studies", "integrations"},
    {"cli"},
    {"__main__"},
]
HEIGHT = {package: height for height, layer in enumerate(LAYERS) for package in layer}
MODULES = sorted(PACKAGE.rglob("*.py"))
NATIVE = sorted(path for kind in ("cpp", "h") for path in PACKAGE.rglob(f"*.{kind}"))


def name_of(module: Path) -> str:
    parts = ("straightthrough", *module.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(module): module for module in MODULES}


def package_of(name: str) -> str:
    """Return the package of the first level that a module is of."""
    first = [*name.split("."), "straightthrough"][1]
    return first if first in HEIGHT else "straightthrough"


def imported(module: Path) -> Iterator[str]:
    """Yield the modules of this library that one imports, also inside functions and for types."""
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
            while target and target not in NAMES:
                target = target.rpartition(".")[0]
            if target:
                yield target


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("module", MODULES, ids=relative)
def test_imports_point_down(module: Path) -> None:
    first, *deeper = module.relative_to(PACKAGE).parts
    assert not deeper or first in HEIGHT, f"{first} has no place in LAYERS"
    own = package_of(name_of(module))
    others = {package_of(name) for name in imported(module)} - {own}
    up = {other for other in others if HEIGHT[other] >= HEIGHT[own]}
    assert not up, f"{own} imports from {', '.join(up)}, which is not below it"


@pytest.mark.parametrize("source", NATIVE, ids=relative)
def test_includes_point_down(source: Path) -> None:
    own = package_of(name_of(source))
    for name in re.findall(r'#include "(.*)"', source.read_text(encoding="utf-8")):
        header = (source.parent / name).resolve()
        assert header.exists(), f"there is no {name}"
        other = package_of(name_of(header))
        below = other == own or HEIGHT[other] < HEIGHT[own]
        assert below, f"{relative(source)} includes {name}, which is not below it"


def implemented(source: Path) -> list[str]:
    """Return the operators that a file registers kernels of."""
    return re.findall(r'(?m)^ *implement<.*>\(m, "(\w+)"\);', source.read_text(encoding="utf-8"))


def on_gpus(source: Path) -> list[str]:
    """Return the operators that a file registers kernels for GPUs of."""
    said = re.findall(r"(?m)^implement\(([^)]*)\)", source.read_text(encoding="utf-8"))
    return [name for names in said for name in names.replace(",", " ").split()]


def declaring_folders() -> dict[str, Path]:
    return {
        name: PACKAGE.joinpath(*module.split(".")[1:-1]) for name, module in gpu.DECLARED.items()
    }


ON_GPUS_ALONE = gpu.DECLARED.keys() - KERNELS.keys()

FOR_GPUS = [source for source in sorted(PACKAGE.rglob("triton*.py")) if on_gpus(source)]


@pytest.mark.parametrize("source", FOR_GPUS, ids=relative)
def test_kernels_for_gpus_stand_beside_those_for_the_cpu(source: Path) -> None:
    """And in their order, file by file, but for those of noise, which the CPU's have inside."""
    declared, found = declaring_folders(), on_gpus(source)
    assert {declared[name] for name in found} == {source.parent}
    found = [name for name in found if name not in ON_GPUS_ALONE]
    on_cpus = [
        name for file in sorted(source.parent.glob("cpu*.cpp")) for name in implemented(file)
    ]
    assert found == [name for name in on_cpus if name in found]


def test_every_kernel_for_gpus_is_registered() -> None:
    """Files without one of their own are a part of another's."""
    assert {source.parent for source in FOR_GPUS} == {
        source.parent for source in PACKAGE.rglob("triton*.py")
    }


def test_what_declares_a_kernel_stands_beside_it() -> None:
    found = [(name, source.parent) for source in NATIVE for name in implemented(source)]
    declared = declaring_folders()
    assert len(declared) > 30
    alone = {PACKAGE / "core", PACKAGE / "ops" / "categorical"}
    assert {declared.pop(name) for name in ON_GPUS_ALONE} == alone
    declared["fresh_seed"] = PACKAGE / "core"  # which draws, and has no reference to be equal to
    assert sorted(found) == sorted(declared.items())


def test_kernels_are_in_the_files_that_are_compiled() -> None:
    compiled = {*PACKAGE.rglob("cpu*.cpp")}
    assert [relative(source) for source in NATIVE if implemented(source)] == [
        relative(source) for source in NATIVE if source in compiled
    ]


@pytest.mark.parametrize("module", sorted(PACKAGE.glob("ops/*/*.py")), ids=relative)
def test_operations_and_references_have_a_file_each(module: Path) -> None:
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        bases = {*map(ast.unparse, node.bases)} if isinstance(node, ast.ClassDef) else set()
        if bases & {"Operation", "Draw", "RuledDraw"}:
            assert module.name == "operation.py", node.name
        elif isinstance(node, ast.FunctionDef):
            decorators = [ast.unparse(each) for each in node.decorator_list]
            if any(each.startswith("kernel(") for each in decorators):
                assert module.name.startswith("reference"), node.name
        assert not module.name.startswith("reference") or not isinstance(node, ast.ClassDef)


@pytest.mark.parametrize("source", NATIVE, ids=relative)
def test_lines_of_native_sources_are_short(source: Path) -> None:
    lines = source.read_text(encoding="utf-8").splitlines()
    assert [number for number, line in enumerate(lines, 1) if len(line) > WIDEST] == []


def test_no_imports_go_in_circles() -> None:
    """Those inside functions and those for types count too."""
    imports = {name: {*imported(module)} - {name} for name, module in NAMES.items()}
    while True:
        used = {other for others in imports.values() for other in others}
        free = {n for n, others in imports.items() if n not in used or not others & imports.keys()}
        if not free:
            break
        imports = {name: others for name, others in imports.items() if name not in free}
    circles = {name: sorted(others & imports.keys()) for name, others in imports.items()}
    assert circles == {}


def test_files_are_short() -> None:
    folders = [ROOT / name for name in ("src", "tests", "tools", "docs", "benchmarks")]
    files = [
        f for folder in folders for kind in ("py", "cpp", "h") for f in folder.rglob(f"*.{kind}")
    ]
    lines = {relative(f): len(f.read_text(encoding="utf-8").splitlines()) for f in files}
    assert lines["tests/test_layout.py"] > 50
    assert {relative(source) for source in NATIVE} <= lines.keys()
    assert {name: count for name, count in lines.items() if count > LONGEST} == {}


def test_silenced_warnings_have_a_reason() -> None:
    silenced = re.compile(r"# (type: ignore|noqa)(?!(\[[\w-]+\]|: [A-Z]+\d+)  # \w)")
    folders = [ROOT / name for name in ("src", "tests", "tools", "docs", "benchmarks")]
    bare = [
        f"{relative(file)}:{number}"
        for folder in folders
        for file in folder.rglob("*.py")
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if silenced.search(line) and file != Path(__file__)
    ]
    assert bare == []


FUNCTIONS_OF_FAMILIES = [
    name
    for name in st.__all__
    if getattr(getattr(st, name), "__module__", "").startswith("straightthrough.ops.")
]
SECTIONS = ["Args:", "Returns:", "Raises:", "Edge cases:", "Higher order:", "Cost:", "Example:"]


@pytest.mark.parametrize("name", FUNCTIONS_OF_FAMILIES)
def test_docstrings_have_every_section_and_argument(name: str) -> None:
    text = inspect.getdoc(getattr(st, name)) or ""
    operator = name in OPERATORS
    formulas = ["Forward:", "Backward:"] if operator else ["Value:"]
    found = [text.find(section) for section in formulas + SECTIONS]
    assert -1 not in found
    assert found == sorted(found)
    arguments = text.partition("Args:")[2].partition("Returns:")[0]
    described = re.findall(r"^    (\w+(?:, \w+)*):", arguments, re.MULTILINE)
    assert ", ".join(described).split(", ") == [*inspect.signature(getattr(st, name)).parameters]

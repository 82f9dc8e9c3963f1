"""What pip makes of the source distribution, with a C++ compiler and without."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

from short import SHORT
from straightthrough.core import kernels

pytestmark = pytest.mark.xdist_group("install")  # one process has what its tests share
ROOT = Path(__file__).parent.parent
NO_COMPILER = {"PATH": "", "CXX": ""}
REQUIRED = {"STRAIGHTTHROUGH_REQUIRE_KERNELS": "1"}
BEST = {"AVX512": "avx512", "AVX2": "avx2"}.get(
    torch.backends.cpu.get_cpu_capability(), kernels.LEVELS[-1]
)
IMPORT = "import straightthrough"


def attempt(*command: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    cache = {"STRAIGHTTHROUGH_KERNEL_CACHE": str(ROOT / "build" / "kernels"), **os.environ}
    environment = {kernels.VARIABLE: "", **cache, "OMP_NUM_THREADS": "1", "PIP_NO_INDEX": "1"}
    environment |= variables
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    done = attempt(*command, cwd=cwd, **variables)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_kernels_serve_where_there_is_a_compiler() -> None:
    """Where they are not built, all tests of kernels are left out without a word."""
    compiler = shutil.which(os.environ.get("CXX", "")) or shutil.which("g++")
    off = os.environ.get(kernels.VARIABLE) == "off"
    assert kernels.level is not None or off or compiler is None, kernels.reason


PIP = (sys.executable, "-m", "pip")
QUIETLY = ("--quiet", "--no-deps")


def pip(action: str, *arguments: str | Path, cwd: Path, **variables: str) -> None:
    """Run pip with the build tools that are here, and the dependencies too."""
    run(*PIP, action, *QUIETLY, *arguments, cwd=cwd, **variables)


def env(installed: Path) -> dict[str, dict[str, str]]:
    """Return what the command of an install says, and see that it is that of the install."""
    where = "import straightthrough; print(straightthrough.__file__)"
    path = {"PYTHONPATH": str(installed)}
    assert run(sys.executable, "-c", where, cwd=installed, **path).startswith(str(installed))
    command = installed / "bin" / "straightthrough"
    return json.loads(run(command, "env", "--json", cwd=installed, **path))


def suite(names: tuple[str, ...], installed: Path, folder: Path, **variables: str) -> None:
    """Run some of the suite's files on an install, in a folder where no source is."""
    for name in ("tests", "benchmarks", "tools"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "pyproject.toml", folder)
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *names)
    run(*command, cwd=folder, PYTHONPATH=str(installed), **variables)


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder, cwd=ROOT)
    (path,) = folder.iterdir()
    return path


def test_the_source_has_what_a_build_needs_and_no_library_or_run(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        files = {Path(*Path(name).parts[1:]) for name in archive.getnames()}
    sources = [*ROOT.glob("src/**/*.h"), *ROOT.glob("src/**/cpu*.cpp")]
    assert len(sources) > 10
    assert {path.relative_to(ROOT) for path in [ROOT / "hatch_build.py", *sources]} <= files
    assert not [path for path in files if "_kernels" in path.parts]
    assert not [path for path in files if path.is_relative_to("benchmarks/results")]


def test_without_a_compiler_the_reference_serves_and_all_say_so(
    sdist: Path, tmp_path: Path
) -> None:
    installed = tmp_path / "installed"
    terminal = (sys.executable, "-c", "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]))")
    build = ("--target", installed, "--no-build-isolation", sdist)
    said = run(*terminal, *PIP, "install", *QUIETLY, *build, cwd=tmp_path, **NO_COMPILER)
    missing = "no C++ compiler (set CXX, or install g++)"
    assert f"WARNING: straightthrough is installed without its CPU kernels: {missing}" in said

    def warning(**variables: str) -> str:
        path = {"PYTHONPATH": str(installed), **variables}
        return attempt(sys.executable, "-c", IMPORT, cwd=installed, **path).stderr

    again = f"pip install --force-reinstall --no-deps --no-cache-dir {sdist.as_uri()}"
    assert warning(**{kernels.VARIABLE: "off"}) == ""
    first = warning()
    assert "RuntimeWarning: straightthrough has no CPU kernels here and is slower" in first
    assert f"not built: {missing}. When that is mended: {again}" in first
    assert warning() == ""

    listed = env(installed)
    assert listed["kernels"] == dict.fromkeys(kernels.LEVELS, f"not built: {missing}")
    assert listed["mend"] == again
    on_gpus = {"on_gpus": "Triton kernels"}
    served = {"serves": "reference", "why": f"not built: {missing}"} | on_gpus
    assert listed["implementations"]["categorical"] == served
    suite(SHORT, installed, tmp_path / "suite", **NO_COMPILER)


def test_the_suite_does_not_stumble_over_the_first_imports_warning(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_it():\n    pass\n")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "conftest.py").write_text(
        "import pathlib\nfrom straightthrough.core import installed\n"
        "folder = pathlib.Path(__file__).parent\n(folder / 'unsaid').touch()\n"
        "installed.warn_once('not built', folder)\n"
    )
    run(sys.executable, "-m", "pytest", "-q", tmp_path / "test_it.py", cwd=tmp_path)
    assert not (tmp_path / "unsaid").exists()


def test_a_compiler_that_fails_is_quoted(sdist: Path, tmp_path: Path) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho 'In file a.h:' >&2\necho 'a.h:1: error: no' >&2\nexit 1\n")
    compiler.chmod(0o755)
    installed = tmp_path / "installed"
    build = ("--no-build-isolation", sdist)
    pip("install", "--target", installed, *build, cwd=tmp_path, CXX=str(compiler))
    why = f"not built: {compiler} failed: a.h:1: error: no"
    assert env(installed)["kernels"] == dict.fromkeys(kernels.LEVELS, why)


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make wheel` makes."""
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-build-isolation", "--wheel-dir", folder, sdist, cwd=folder, **REQUIRED)
    (path,) = folder.iterdir()
    return path


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_make_wheel_is_made_of_the_source_distribution_and_wants_kernels() -> None:
    said = run("make", "-n", "-B", "wheel", cwd=ROOT)
    _, source, wheel = said.partition("hatchling build -t sdist")
    assert source
    assert "STRAIGHTTHROUGH_REQUIRE_KERNELS=1" in wheel
    assert "--wheel-dir dist build/sdist/*" in wheel


def test_no_wheel_is_made_without_the_kernels_that_it_is_to_have(
    sdist: Path, tmp_path: Path
) -> None:
    build = ("--no-build-isolation", "--wheel-dir", tmp_path / "made", sdist)
    done = attempt(*PIP, "wheel", *QUIETLY, *build, cwd=tmp_path, **REQUIRED, **NO_COMPILER)
    assert done.returncode == 1
    assert "CPU kernels are not built: no C++ compiler (set CXX, or install g++)" in done.stderr
    assert list(tmp_path.rglob("*.whl")) == []


@pytest.mark.kernels
def test_the_wheel_has_every_level_and_names_no_torch_and_no_python(
    wheel: Path, tmp_path: Path
) -> None:
    python, abi, system = wheel.stem.split("-")[-3:]
    assert (python, abi) == ("py3", "none")
    libc, version = platform.libc_ver()
    glibc = f"manylinux_{version.replace('.', '_')}_{platform.machine()}"
    assert system == glibc if libc == "glibc" else not system.startswith("manylinux")
    files = zipfile.ZipFile(wheel).namelist()
    libraries = {f"straightthrough/_kernels/{level}.so" for level in kernels.LEVELS}
    assert {name for name in files if "_kernels" in name} == libraries

    installed = tmp_path / "installed"
    pip("install", "--target", installed, wheel, cwd=tmp_path, **NO_COMPILER)
    said = env(installed)
    assert said["kernels"][BEST] == "active"
    assert said["mend"] is None
    assert said["implementations"]["categorical"]["serves"] == f"{BEST} kernels"
    some = ("tests/core/kernels/test_arguments.py", "tests/ops/bernoulli")
    suite(some, installed, tmp_path / "suite")


@pytest.mark.kernels
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the name says it of glibc alone")
def test_the_wheel_wants_no_newer_glibc_than_its_name_says(wheel: Path) -> None:
    said = int(re.search(r"manylinux_2_(\d+)_", wheel.name)[1])
    archive = zipfile.ZipFile(wheel)
    for name in (name for name in archive.namelist() if name.endswith(".so")):
        wanted = [int(minor) for minor in re.findall(rb"GLIBC_2\.(\d+)", archive.read(name))]
        assert 0 < max(wanted) <= said


@pytest.mark.kernels
@pytest.mark.parametrize("order", ["torch first", "torch last"])
def test_an_empty_environment_without_a_compiler_is_served_by_kernels(
    wheel: Path, tmp_path: Path, order: str
) -> None:
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"

    def install_torch() -> None:
        """Show the environment the torch that is here, whose download would be gigabytes."""
        (site,) = python.parent.parent.glob("lib/python*/site-packages")
        (site / "torch.pth").write_text(f"{Path(torch.__file__).parent.parent}\n")

    def install() -> None:
        there = ("--python", python, "install", *QUIETLY, wheel)
        run(*PIP, *there, cwd=tmp_path, **NO_COMPILER)

    steps = [install_torch, install]
    for step in steps if order == "torch first" else reversed(steps):
        step()
    script = "import straightthrough as st; from straightthrough.core import kernels as k; "
    script += "print(st.__file__); print(k.level)"
    place, level = run(python, "-c", script, cwd=tmp_path, **NO_COMPILER, PYTHONPATH="").split()
    assert Path(place).is_relative_to(tmp_path)
    assert level == BEST

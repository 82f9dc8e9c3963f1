"""What pip makes of the source distribution, with a C++ compiler and without."""

from __future__ import annotations

import json
import os
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

ROOT = Path(__file__).parent.parent
NO_COMPILER = {"PATH": "", "CXX": ""}


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    cache = {"STRAIGHTTHROUGH_KERNEL_CACHE": str(ROOT / "build" / "kernels"), **os.environ}
    environment = {**cache, "OMP_NUM_THREADS": "1", "PIP_NO_INDEX": "1", **variables}
    environment.pop(kernels.VARIABLE, None)
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_kernels_serve_where_there_is_a_compiler() -> None:
    """Where they are not built, all tests of kernels are left out without a word."""
    compiler = shutil.which(os.environ.get("CXX", "")) or shutil.which("g++")
    off = os.environ.get(kernels.VARIABLE) == "off"
    assert kernels.level is not None or off or compiler is None, kernels.reason


def pip(action: str, *arguments: str | Path, cwd: Path, **variables: str) -> None:
    """Run pip with the build tools that are here, and the dependencies too."""
    command = (sys.executable, "-m", "pip", action, "--quiet", "--no-deps")
    run(*command, *arguments, cwd=cwd, **variables)


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


def test_without_a_compiler_the_reference_serves(sdist: Path, tmp_path: Path) -> None:
    installed = tmp_path / "installed"
    build = ("--no-build-isolation", sdist)
    pip("install", "--target", installed, *build, cwd=tmp_path, **NO_COMPILER)
    said = env(installed)
    why = "not built: no C++ compiler (set CXX, or install g++)"
    assert said["kernels"] == dict.fromkeys(kernels.LEVELS, why)
    assert said["implementations"]["categorical"] == {"serves": "reference", "why": why}
    suite(SHORT, installed, tmp_path / "suite", **NO_COMPILER)


def test_a_compiler_that_fails_is_quoted(sdist: Path, tmp_path: Path) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho 'In file a.h:' >&2\necho 'a.h:1: error: no' >&2\nexit 1\n")
    compiler.chmod(0o755)
    installed = tmp_path / "installed"
    build = ("--no-build-isolation", sdist)
    pip("install", "--target", installed, *build, cwd=tmp_path, CXX=str(compiler))
    why = f"not built: {compiler} failed: a.h:1: error: no"
    assert env(installed)["kernels"] == dict.fromkeys(kernels.LEVELS, why)


@pytest.mark.kernels
def test_with_a_compiler_the_wheel_has_every_level(sdist: Path, tmp_path: Path) -> None:
    pip("wheel", "--no-build-isolation", "--wheel-dir", tmp_path, sdist, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    python, abi, platform = wheel.stem.split("-")[-3:]
    assert (python, abi) == ("py3", "none")
    assert platform.startswith(sys.platform.replace("darwin", "macosx"))
    files = zipfile.ZipFile(wheel).namelist()
    libraries = {f"straightthrough/_kernels/{level}.so" for level in kernels.LEVELS}
    assert {name for name in files if "_kernels" in name} == libraries

    installed = tmp_path / "installed"
    pip("install", "--target", installed, wheel, cwd=tmp_path, **NO_COMPILER)
    said = env(installed)
    capability = torch.backends.cpu.get_cpu_capability()
    best = {"AVX512": "avx512", "AVX2": "avx2"}.get(capability, kernels.LEVELS[-1])
    assert said["kernels"][best] == "active"
    assert said["implementations"]["categorical"]["serves"] == f"{best} kernels"
    suite(("tests/core/kernels",), installed, tmp_path / "suite")

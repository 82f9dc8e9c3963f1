"""Kernels are compiled once for the same sources, options, compiler and torch."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

COMPILER = """#!/bin/sh
if [ "$1" = --version ]; then cat {folder}/version; exit; fi
echo compiled >> {folder}/log
while [ "$1" != -o ]; do shift; done
echo library > "$2"
"""


@pytest.fixture
def build(monkeypatch, tmp_path):
    """The build hook, with sources of one line and a compiler that counts its calls."""
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    import hatch_build

    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "cpu.cpp").write_text("one")
    (tmp_path / "version").write_text("1")
    compiler = tmp_path / "cc"
    compiler.write_text(COMPILER.format(folder=tmp_path))
    compiler.chmod(0o755)
    monkeypatch.setattr(hatch_build, "PACKAGE", tmp_path / "package")
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv(hatch_build.CACHE, str(tmp_path / "cache"))
    monkeypatch.delenv(hatch_build.FLAGS, raising=False)
    return hatch_build


def test_what_is_built_is_not_compiled_again(build, monkeypatch, tmp_path):
    if not build.torch_folder():
        pytest.skip("torch's headers are elsewhere")
    target = tmp_path / "target"

    def compiled() -> int:
        """Return how many levels a build makes: a call each for headers, source and link."""
        log = tmp_path / "log"
        log.write_text("")
        for library in target.glob("*.so"):
            library.unlink()
        target.mkdir(exist_ok=True)
        assert build.build(target) is None
        assert {path.stem for path in target.glob("*.so")} == set(levels)
        return len(log.read_text().split()) / 3

    levels = build.LEVELS.get(build.machine(), ["baseline"])
    assert [compiled(), compiled()] == [len(levels), 0]

    (tmp_path / "package" / "cpu.cpp").write_text("two")
    assert [compiled(), compiled()] == [len(levels), 0]
    (tmp_path / "package" / "rows.h").write_text("a header")
    assert [compiled(), compiled()] == [len(levels), 0]
    (tmp_path / "version").write_text("2")
    assert [compiled(), compiled()] == [len(levels), 0]
    monkeypatch.setenv(build.FLAGS, "-g")
    assert [compiled(), compiled()] == [len(levels), 0]
    monkeypatch.delenv(build.FLAGS)
    (tmp_path / "version").write_text("1")
    (tmp_path / "package" / "rows.h").unlink()
    (tmp_path / "package" / "cpu.cpp").write_text("one")
    assert compiled() == 0

"""Which library of kernels serves: the best that there is and that the machine runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from straightthrough.core import kernels

# From the best to the least; a machine that runs one runs all after it.
LESSER = kernels.LEVELS[kernels.LEVELS.index(kernels.level) + 1 :] if kernels.level else ()
COMPILED = [level for level in LESSER if (kernels.FOLDER / f"{level}.so").exists()]
DEMANDING = [level for level in (kernels.level, *COMPILED) if level in kernels.NEEDS]


@pytest.mark.kernels
@pytest.mark.parametrize("level", COMPILED)
def test_other_levels_agree(level):
    environment = os.environ | {kernels.VARIABLE: level}
    files = map(str, Path(__file__).parent.glob("test_*.py"))
    command = [sys.executable, "-m", "pytest", "-q", *files, "-k", "Agreement"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout


ASKED = kernels.VARIABLE + "="
NONE_OF = "=fast is none of off, avx512, avx2, baseline"
LEFT, MISSING = "a better one is active", "not built"
STATES = [
    # asked, what the machine has, what is built, what is said of avx512, avx2 and baseline
    ("", "AVX512", "avx512 avx2 baseline", (kernels.ACTIVE, LEFT, LEFT)),
    ("", "AVX2", "avx512 avx2 baseline", ("the machine has AVX2", kernels.ACTIVE, LEFT)),
    ("", "DEFAULT", "avx512 avx2 baseline", (*["the machine has DEFAULT"] * 2, kernels.ACTIVE)),
    ("", "AVX512", "avx2", (MISSING, kernels.ACTIVE, MISSING)),
    ("", "AVX2", "avx512", ("the machine has AVX2", MISSING, MISSING)),
    ("", "AVX512", "", (MISSING, MISSING, MISSING)),
    ("off", "AVX512", "avx512 avx2 baseline", (ASKED + "off",) * 3),
    ("fast", "AVX512", "avx512 avx2 baseline", (kernels.VARIABLE + NONE_OF,) * 3),
    ("avx2", "AVX512", "avx512 avx2", (ASKED + "avx2", kernels.ACTIVE, ASKED + "avx2")),
    ("avx512", "AVX2", "avx512 avx2", ("the machine has AVX2", *[ASKED + "avx512"] * 2)),
    ("baseline", "AVX512", "avx512", (*[ASKED + "baseline"] * 2, MISSING)),
]


@pytest.mark.parametrize(("asked", "machine", "built", "said"), STATES)
def test_what_is_said_of_every_level(tmp_path, monkeypatch, asked, machine, built, said):
    monkeypatch.setattr(kernels, "LEVELS", ("avx512", "avx2", "baseline"))
    for level in built.split():
        (tmp_path / f"{level}.so").touch()
    assert tuple(kernels.choose(asked, machine, tmp_path).values()) == said


def test_neon_is_there_on_every_arm(tmp_path, monkeypatch):
    monkeypatch.setattr(kernels, "LEVELS", ("neon",))
    (tmp_path / "why_not.txt").write_text("not built: it rained")
    assert kernels.choose("", "SVE256", tmp_path) == {"neon": "not built: it rained"}
    (tmp_path / "neon.so").touch()
    for machine in ("DEFAULT", "SVE256"):
        assert kernels.choose("", machine, tmp_path) == {"neon": kernels.ACTIVE}


def imported(**variables):
    """A new process that says what there is of kernels."""
    code = "from straightthrough.core import kernels; print(kernels.level, kernels.reason)"
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)


def loaded(**variables):
    return imported(**variables).stdout.strip()


def test_off_means_off():
    assert loaded(**{kernels.VARIABLE: "off"}) == f"None {ASKED}off"


@pytest.mark.parametrize("asked", ["AVX2", "0"])
def test_an_unknown_level_is_not_silently_none(asked):
    said = imported(**{kernels.VARIABLE: asked}).stderr
    assert f"RuntimeWarning: {ASKED}{asked} is none of off" in said


@pytest.mark.parametrize("asked", ["", "off", *kernels.LEVELS])
def test_a_known_level_is_taken_without_a_word(asked):
    assert "RuntimeWarning" not in imported(**{kernels.VARIABLE: asked}).stderr


@pytest.mark.kernels
@pytest.mark.parametrize("level", DEMANDING)
def test_what_the_machine_lacks_is_not_loaded(level):
    said = loaded(ATEN_CPU_CAPABILITY="default", **{kernels.VARIABLE: level})
    reasons = said.removeprefix("None ").split("; ")
    assert sorted(reasons) == [ASKED + level, "the machine has DEFAULT"]


def test_reference_serves_where_gradients_are_recorded():
    assert not kernels.has_kernel(torch.zeros(3))
    with torch.no_grad():
        assert kernels.has_kernel(torch.zeros(3)) == (kernels.level is not None)

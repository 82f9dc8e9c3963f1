"""The coefficients of exp and log in C++ are those that the script fits."""

import subprocess
import sys
from pathlib import Path

import straightthrough

HEADER = Path(straightthrough.__file__).parent / "core" / "native" / "coefficients.h"
SCRIPT = Path(__file__).parents[3] / "tools" / "fit_polynomials.py"


def test_the_script_prints_the_header() -> None:
    printed = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=True)
    assert printed.stdout == HEADER.read_text(encoding="utf-8")

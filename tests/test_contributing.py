"""CONTRIBUTING.md, followed to the letter on a copy of the repository."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = Path("src", "straightthrough")


def paste_before(path: Path, anchor: str, text: str) -> None:
    """Put `text` above the first line that starts with `anchor`."""
    source = path.read_text(encoding="utf-8")
    assert re.search(f"(?m)^{re.escape(anchor)}", source), f"{path.name} has no line {anchor!r}"
    pasted = re.sub(f"(?m)^{re.escape(anchor)}", lambda found: text + found[0], source, count=1)
    path.write_text(pasted, encoding="utf-8")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the repository in which everything that CONTRIBUTING shows has been done."""
    for folder in (PACKAGE, Path("tests")):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    estimator, blend, its_name, golden, surrogate, cosine, cosines_name, *rest = blocks
    formula, listed, by_hand, hard, operator = rest
    package, tests = tmp_path / PACKAGE, tmp_path / "tests"

    (package / "estimators" / "blend.py").write_text(estimator, encoding="utf-8")
    names = package / "estimators" / "__init__.py"
    paste_before(names, "from .categorical", blend)
    paste_before(names, '    "CategoricalEstimator"', its_name)
    paste_before(tests / "estimators" / "test_estimators.py", "]\n", golden)

    (package / "surrogates" / "raised_cosine.py").write_text(surrogate, encoding="utf-8")
    names = package / "surrogates" / "__init__.py"
    paste_before(names, "from .rational", cosine)
    paste_before(names, '    "Rectangle"', cosines_name)
    paste_before(tests / "formulas.py", "# Each with its default", formula + "\n\n")
    paste_before(tests / "formulas.py", "]\n", listed)
    paste_before(tests / "surrogates" / "test_surrogates.py", "    (Rectangle(), ", by_hand)

    for name, text in (("operation.py", hard), ("api.py", operator)):
        with (package / "ops" / "pointwise" / name).open("a", encoding="utf-8") as file:
            file.write(text)
    return tmp_path


def run(copy: Path, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=copy,
        env={"PYTHONPATH": "src:tests", "PATH": "", "HOME": str(copy), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_what_contributing_shows_works(copy: Path) -> None:
    said = run(copy, "-m", "pytest", "-q", "tests/estimators", "tests/surrogates")
    assert "failed" not in said
    script = """
import doctest, torch, straightthrough as st
from straightthrough.core.registry import OPERATORS
from straightthrough.estimators import blend
from straightthrough.surrogates import raised_cosine
for module in (blend, raised_cosine):
    found = doctest.testmod(module, extraglobs={"st": st, "torch": torch})
    assert found.attempted and not found.failed, found
x = torch.tensor([0.2, 0.3, 1.6], requires_grad=True)
y = OPERATORS["halves"].function(x)
y.backward(torch.tensor([1.0, 2.0, 3.0]))
assert y.tolist() == [0.0, 0.5, 1.5] and x.grad.tolist() == [1.0, 2.0, 3.0]
p = torch.randn(5, 4, requires_grad=True)
z = st.categorical(p, "blend", seed=0)
assert z.sum(-1).tolist() == [1.0] * 5
"""
    run(copy, "-c", script)

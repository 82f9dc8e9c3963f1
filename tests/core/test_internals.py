"""Where torch has lost a private name, results are the same, or a word says why there are none."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from core import without_private
from straightthrough.core import internals

pytestmark = pytest.mark.xdist_group("internals")  # one process has what its tests share
SOURCE = Path(internals.__file__).read_text(encoding="utf-8")
NAMES = re.findall(r'"(torch[\w.]*:[\w.]+)"', SOURCE)
Results = dict[str, Tensor | str]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Results]:
    folder = tmp_path_factory.mktemp("private")
    script = Path(without_private.__file__)
    names = ["", *NAMES]
    subprocess.run([sys.executable, script, folder, *names], check=True)
    return {name: torch.load(folder / f"{i}") for i, name in enumerate(names)}


def test_all_private_names_are_found_here(results: dict[str, Results]) -> None:
    assert len(NAMES) > 8
    refused = {case for case, found in results[""].items() if isinstance(found, str)}
    assert refused == {"categorical in_forward_mode"}  # as it has no derivative of that mode
    for name in NAMES:
        assert internals.private(name, None) is not None, name


@pytest.mark.parametrize("name", NAMES)
def test_without_a_name(name: str, results: dict[str, Results]) -> None:
    for case, expected in results[""].items():
        found = results[name][case]
        if isinstance(found, str):
            assert found == expected or f"has no {name}" in found, (case, found)
        else:
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)

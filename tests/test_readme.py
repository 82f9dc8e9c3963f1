"""What README.md says in its first screen, and of speed."""

import json
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import straightthrough as st
from benchmarks import readme, results, tables

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
SNIPPET, OURS, OTHER = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
PROSE = " ".join(README.split())


def outcome(code, logits, tau=1.0):
    """Run code of the README on logits, and return what it calls z."""
    names = {"torch": torch, "F": F, "st": st, "logits": logits, "tau": tau}
    names["C"] = logits.shape[-1]
    exec(code, names)
    return names["z"]


def test_what_is_said_of_the_value():
    (said,) = re.findall(r"of 64 classes at `tau = 0.5`, (\d+)% of the rows are not one-hot", PROSE)

    def share(code):
        z = outcome(code, torch.randn(20_000, 64), 0.5)
        return ((z != 0) & (z != 1)).any(-1).double().mean().item()

    assert share(SNIPPET) == pytest.approx(int(said) / 100, abs=0.01)
    assert share(OURS) == share(OTHER) == 0


def test_what_is_said_of_noise_in_half_precision():
    ((rare, times),) = re.findall(r"probability 1/(\d+) comes out (\d+) times too rarely", PROSE)
    logits = torch.tensor([0.0, -7.0], dtype=torch.bfloat16).expand(2_000_000, 2)
    p = torch.softmax(logits[0].double(), -1)[1].item()
    assert 1 / p == pytest.approx(int(rare), rel=0.01)

    def share(code):
        return (outcome(code, logits)[:, 1] > 0.5).double().mean().item()

    assert share(SNIPPET) == pytest.approx(p / int(times), rel=0.15)
    for code in (OURS, OTHER):
        assert share(code) == pytest.approx(p, rel=0.1)


@pytest.mark.parametrize(("code", "computes"), [(SNIPPET, True), (OURS, False), (OTHER, False)])
def test_what_is_said_of_the_soft_value(code, computes):
    class Calls(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            called.append(str(function))
            return function(*args, **(kwargs or {}))

    called = []
    with torch.no_grad(), Calls():
        outcome(code, torch.randn(8, 4))
    assert called
    assert any("softmax" in name for name in called) == computes


def test_the_numbers_of_the_audit(cli):
    code, out, _ = cli("audit --estimators straight_through,gumbel,reinmax --json")
    assert code == 0
    assert "`straightthrough audit --estimators straight_through,gumbel,reinmax`" in README
    plain, gumbel, reinmax = json.loads(out)["rows"]
    bias = [f"{row['bias_squared']:.2f}" for row in (plain, gumbel)]
    variance = [f"{row['variance']:.1f}" for row in (plain, gumbel, reinmax)]
    assert reinmax["bias_squared"] < 1e-20
    said = f"that of straight-through is {bias[0]} and of Gumbel-softmax {bias[1]}, at a variance"
    assert f"{said} of {variance[0]} and {variance[1]} for its {variance[2]}" in PROSE


def test_the_numbers_of_speed_are_those_of_the_newest_run():
    """If this fails after a new run, `python -m benchmarks.readme` writes them."""
    records = results.read(results.newest())
    assert readme.updated(README, records) == README
    assert README.count(f"| {tables.losses(records).rows[0][0]} |") > 0


def test_numbers_of_another_run_are_written():
    text = README.replace("**23 times**", "**7 times**").replace("| poisson |", "| sign |")
    assert text != README
    assert readme.updated(text, results.read(results.newest())) == README

"""The fuzzer, in short; and that it names what is broken, what crashes and what hangs."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch

import broken
from fuzz.__main__ import main
from fuzz.checks import fault
from fuzz.run import State, run
from fuzz.trial import pool, trial
from straightthrough.core.registry import OPERATORS
from straightthrough.surrogates import Clipped
from straightthrough.testing import DTYPES, Case

CASES = 400


def test_nothing_is_wrong():
    assert [fault(number) for number in range(CASES)] == [None] * CASES


def test_a_case_is_a_function_of_its_number():
    for number in range(50):
        one, other = trial(number), trial(number)
        assert str(one) == str(other)
        assert torch.equal(one.x.nan_to_num(7), other.x.nan_to_num(7))
    assert len({str(trial(number)) for number in range(50)}) == 50


def test_cases_are_of_every_kind():
    trials = [trial(number) for number in range(2000)]
    assert {t.record.name for t in trials} == set(OPERATORS)
    assert {t.x.dtype for t in trials} == set(DTYPES)
    assert {type(t.rule) for t in trials} == {
        type(c.rule) for each in pool().values() for c in each
    }
    kinds = {
        "empty": lambda t: t.x.numel() == 0,
        "one element": lambda t: t.x.numel() == 1,
        "thousands": lambda t: t.x.numel() > 2000,
        "strided": lambda t: not t.x.is_contiguous(),
        "expanded": lambda t: 0 in t.x.stride(),
        "infinite": lambda t: t.x.isposinf().any(),
        "NaN": lambda t: t.x.isnan().any(),
        "masked": lambda t: t.mask is not None,
        "of probabilities": lambda t: t.direct,
        "soft": lambda t: t.soft,
        "without a gradient": lambda t: t.grad is None,
        "by the reference": lambda t: not t.kernels,
    }
    assert [name for name, of in kinds.items() if not any(map(of, trials))] == []


class Nowhere(Clipped):
    """A rule whose gradient is NaN at 0, where a window's is 1."""

    def derivative(self, x):
        return super().derivative(x) * x / x


BROKEN = [
    ("argmax", broken.nan_hidden, None, "wrong, first at"),
    ("argmax", broken.ties_to_the_last, None, "wrong, first at"),
    ("poisson", broken.count_above_the_hard_one, None, "not whole numbers"),
    ("sign", broken.float_in_forward, Clipped(), "float32"),
    ("sign", broken.size_one_lost, Clipped(), "shape"),
    ("sign", None, Nowhere(), "gradient nan at"),
]


@pytest.mark.parametrize(("name", "function", "rule", "message"), BROKEN)
def test_what_is_broken_is_found(name, function, rule, message):
    record = OPERATORS[name]
    replaced = dataclasses.replace(record, function=function or record.function)
    among = {name: [Case(replaced, rule)]}
    faults = [fault(number, among) for number in range(300)]
    assert any(message in found for found in faults if found)
    assert {fault(number, {name: [Case(record)]}) for number in range(50)} == {None}


def command(body):
    """Return a worker that does `body` at every case."""
    lines = f"""
import os, time
for number in range(int(FIRST), int(TOTAL)):
    print(number, flush=True)
    {body}
print(TOTAL, flush=True)
"""

    def worker(first, total):
        code = lines.replace("FIRST", str(first)).replace("TOTAL", str(total))
        return [sys.executable, "-c", code]

    return worker


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("if number == 3: os._exit(7)", "case 3: ended the process with 7"),
        ("if number == 3: os.abort()", "case 3: ended the process with -6"),
        ("if number == 3: time.sleep(60)", "case 3: took longer than 2 s"),
        ("if number == 3: print('3 is wrong', flush=True)", "case 3: is wrong"),
    ],
)
def test_crashes_and_hangs_are_named_and_survived(tmp_path, body, message):
    said = []
    state = run(6, tmp_path / "state.json", say=said.append, command=command(body), limit=2.0)
    assert said == state.failed == [message]
    assert state.next == 6
    assert list(tmp_path.iterdir()) == []


def test_a_run_goes_on_where_it_was_stopped(tmp_path):
    file = tmp_path / "state.json"

    def interrupt(line):
        raise KeyboardInterrupt

    worker = command("if number in (2, 4): print(number, 'is wrong', flush=True)")
    with pytest.raises(KeyboardInterrupt):
        run(6, file, say=interrupt, command=worker)
    assert State(**json.loads(file.read_text())).next == 3
    state = run(6, file, say=lambda line: None, command=worker)
    assert state.failed == ["case 2: is wrong", "case 4: is wrong"]
    assert state.next == 6
    assert not file.exists()


def test_a_worker_that_cannot_start_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="no case was begun"):
        run(1, tmp_path / "state.json", command=lambda first, total: ["false"])


def test_the_command(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setattr(sys, "argv", ["fuzz", "--case", "7"])
    assert main() == 0
    assert capsys.readouterr().out == f"{trial(7)}\nnothing is wrong\n"
    monkeypatch.setattr(sys, "argv", ["fuzz", "--cases", "20"])
    assert main() == 0
    assert capsys.readouterr().out.startswith("20 of 20 cases, 0 failed, ")

"""The benchmarks: what is checked before it is timed, what is written, how two runs compare."""

import dataclasses
import json
import math
from functools import partial

import pytest
import torch

import straightthrough as st
from straightthrough.bench import cases, gate, memory, results, suite, tables, targets, timing
from straightthrough.bench.cases import BOTH, FORWARD, OURS, PLAIN, REFERENCE, Way
from straightthrough.bench.compare import compare
from straightthrough.bench.plain import PLAIN as SNIPPETS
from straightthrough.bench.results import Job, Record
from straightthrough.core import kernels
from straightthrough.core.registry import OPERATORS
from straightthrough.testing import Case as ConformanceCase

TINY = "bench --quick --threads 1 --shapes 2x4"


@pytest.fixture
def wrong_round(monkeypatch):
    """Let the registry hold a `round` that is off by one."""
    record = OPERATORS["round"]
    off = dataclasses.replace(record, function=lambda x, **options: st.round(x, **options) + 1)
    monkeypatch.setitem(OPERATORS, "round", off)


def record(case="sign", way=OURS, median=1.0, **fields):
    quantiles = {"10": median, "50": median, "90": 2 * median}
    defaults = Record(
        case, way, BOTH, (4096, 1000), "float32", 1, quantiles, 9, None, None, None, None, MACHINE
    )
    return dataclasses.replace(defaults, **fields)


MACHINE = {
    "processor": "a machine",
    "processors": 2,
    "system": "a system",
    "python": "3",
    "torch": "2",
    "straightthrough": "1",
}


def write(path, records):
    path.write_text("".join(map(results.to_line, records)))
    return path


def test_every_operator_has_a_case_and_a_snippet():
    found = cases.cases()
    operators = {name.partition("-")[0] for name in found}
    assert set(OPERATORS) <= operators
    assert set(SNIPPETS) == set(OPERATORS)
    rules = [rule.name for rule in OPERATORS["categorical"].rules()]
    assert [f"categorical-{name}" for name in rules] == [n for n in found if "categorical-" in n]


def test_snippets_have_the_value_and_the_gradient_of_the_operators():
    """Where nothing is drawn: so the two ways that are timed do the same work."""
    for case in cases.cases().values():
        if case.samples or case.plain is None:
            continue
        x = case.inputs((64, 5))[0].requires_grad_()
        grad = torch.randn(64, 5)
        ours, plain = case.function(x), case.plain(x)
        torch.testing.assert_close(plain, ours, msg=case.name)
        pulled = [torch.autograd.grad(y, x, grad)[0] for y in (ours, plain)]
        torch.testing.assert_close(*pulled, msg=case.name)


def test_snippets_that_draw_have_the_frequencies_of_the_operators():
    for name in ("bernoulli", "binary_concrete", "hard_concrete", "categorical-reinmax"):
        case = cases.cases()[name]
        x = torch.tensor([0.4, -1.0, 0.1]).expand(20_000, 3)
        torch.testing.assert_close(
            case.plain(x).mean(0), case.function(x).mean(0), rtol=0, atol=0.03
        )
    for name in ("poisson", "binomial", "geometric", "negative_binomial"):
        case = cases.cases()[name]
        x = torch.tensor([0.4, -1.0, 0.1]).expand(20_000, 3)
        plain, ours = case.plain(x), case.function(x)
        slack = 6 * (ours.std(0) + plain.std(0)) / math.sqrt(20_000)
        assert ((plain.mean(0) - ours.mean(0)).abs() < slack).all()


def test_the_gate_passes_what_is_right_and_names_what_is_wrong():
    shapes = ((3, 8),)
    assert {
        name: gate.disagreement(case, shapes) for name, case in cases.cases().items()
    } == dict.fromkeys(cases.cases())
    right = cases.cases()["sign"]
    off = dataclasses.replace(OPERATORS["sign"], function=partial(st.sign, surrogate="tanh"))
    wrong = dataclasses.replace(right, conformance=ConformanceCase(off))
    assert "gradient" in gate.disagreement(wrong, shapes)


@pytest.mark.parametrize("broken", ["value", "gradient"])
def test_the_gate_compares_what_serves_with_the_reference(monkeypatch, broken):
    monkeypatch.setattr(kernels, "level", "broken")

    def function(x):
        served = kernels.level is not None
        if broken == "value":
            return x + served
        return x + (x - x.detach()) * served

    message = gate.disagreement(cases.Case("twice", function, None), ((4, 4),))
    assert "twice at [4, 4]" in message
    assert ("gradient" in message) == (broken == "gradient")
    assert kernels.level == "broken"


def test_the_reference_is_timed_without_kernels(monkeypatch):
    monkeypatch.setattr(kernels, "level", "fast")
    served = []

    def function(x):
        served.append(kernels.level)
        return x + 1

    ways = cases.Case("watched", function, None).ways()
    for mode in cases.MODES:
        for way, level in {OURS: "fast", REFERENCE: None}.items():
            call = ways[way].call(mode, cases.normal((2, 3)))
            served.clear()
            call()
            assert served == [level]


def test_a_wrong_operator_is_left_out_and_fails_the_command(cli, wrong_round):
    code, out, err = cli(f"{TINY} --operators round,sign --json")
    assert code == 1
    assert {row["case"] for row in json.loads(out)} == {"sign"}
    assert [line for line in err.splitlines() if "round is wrong" in line]
    code, out, err = cli(f"{TINY} --operators round")
    assert (code, out) == (1, "")


def test_records_hold_what_was_measured_where(cli, tmp_path):
    path = tmp_path / "new" / "run.jsonl"
    code, out, _ = cli(f"{TINY} --operators bernoulli --json --output", path)
    assert code == 0
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert json.loads(out) == rows
    ours = [REFERENCE] * (kernels.level is not None)
    forward = {OURS, *ours, PLAIN, "torch.bernoulli"}
    assert {row["way"] for row in rows if row["mode"] == FORWARD} == forward
    assert {row["way"] for row in rows if row["mode"] == BOTH} == forward - {"torch.bernoulli"}
    for row in rows:
        assert (row["case"], row["shape"], row["dtype"]) == ("bernoulli", [2, 4], "float32")
        assert (row["threads"], row["level"]) == (1, kernels.level)
        assert row["environment"]["torch"] == torch.__version__
        assert 0 < row["seconds"]["10"] <= row["seconds"]["50"] <= row["seconds"]["90"]
        assert row["rounds"] >= timing.FEWEST
        assert row["extra_bytes"] is None
    again = results.read(path)
    assert [json.loads(results.to_line(record)) for record in again] == rows
    page = path.with_suffix(".md").read_text()
    assert "| bernoulli | 2x4 | fwd |" in page
    for name in ("time", "ratio"):
        assert f"(run-{name}.png)" in page
        assert (path.parent / f"run-{name}.png").read_bytes().startswith(b"\x89PNG")


def test_ways_take_turns():
    order = []
    calls = {name: partial(order.append, name) for name in "ab"}
    times = timing.interleave(calls, budget=0.0)
    assert {name: len(samples) for name, samples in times.items()} == {
        "a": timing.FEWEST,
        "b": timing.FEWEST,
    }
    blocks = [name for i, name in enumerate(order) if i == 0 or order[i - 1] != name]
    # Each is called once to see how long it takes; then the first begins, and in each round
    # the other takes over once.
    assert len(blocks) == 3 + timing.FEWEST


def test_a_way_that_fails_is_left_out_and_said():
    def fails(x):
        raise RuntimeError("no compiler\nmore")

    case = dataclasses.replace(cases.cases()["sign"], others={"broken": Way(fails)})
    plan = suite.Plan(threads=[1], shapes=[(2, 4)], budget=0.0, memory=False, compiled=False)
    said = []
    found = list(suite.run({"sign": case}, plan.jobs([case]), plan, lambda _: None, said.append))
    assert "broken" not in {record.way for record in found}
    assert len(said) == 2
    assert said[0].endswith("broken is left out, as it fails: no compiler")


def test_memory_is_that_of_the_tensors():
    """A rounding allocates its value alone, as its gradient is the one that came in."""
    shape, size = (1024, 512), 4 * 1024 * 512
    ours = memory.measure("round", OURS, BOTH, shape)
    assert (ours.extra, ours.saved) == (size, 0)
    plain = memory.measure("sign", PLAIN, BOTH, shape)
    assert plain.extra >= 2 * size
    assert plain.saved == size
    assert plain.resident > 0


def test_compare_finds_what_grew(cli, tmp_path):
    def run(name, sign, floor):
        rows = [record(way=PLAIN, median=10.0), record(median=sign)]
        rows += [record("floor", PLAIN, 4.0), record("floor", median=floor)]
        return write(tmp_path / name, rows)

    old, same, worse = run("old", 2.0, 1.0), run("same", 2.2, 0.5), run("worse", 2.0, 1.2)
    code, out, _ = cli("bench --json --compare", old, same)
    assert code == 0
    assert [(row["job"]["case"], row["regressed"]) for row in json.loads(out)] == [
        ("sign", False),
        ("floor", False),
    ]
    assert json.loads(out)[0]["growth"] == pytest.approx(0.1)
    code, out, _ = cli("bench --compare", old, worse)
    assert code == 1
    assert "1 of 2 regressed by over 15%" in out
    row = next(line for line in out.splitlines() if "regressed" in line)
    assert row.split()[0] == "floor"
    assert "+20 %" in row


def test_compare_is_free_of_the_machine():
    slow = [record(median=20.0), record(way=PLAIN, median=100.0)]
    fast = [record(median=2.0), record(way=PLAIN, median=10.0)]
    assert compare(slow, fast)[0].growth == pytest.approx(0)


def test_targets_are_judged_by_ratio_on_every_number_of_threads(cli, tmp_path):
    def verdict(records):
        found = targets.judge(records)
        return next(v for v in found if "sign 4096x1000 fwd+bwd vs aten" in v.target.work)

    fine = [record(median=1.1), record(way="aten", median=1.0)]
    two = [dataclasses.replace(row, threads=2) for row in fine]
    slow = [dataclasses.replace(two[0], seconds={"10": 1, "50": 1.3, "90": 2}), two[1]]
    assert verdict(fine).met is True
    assert verdict(fine + two).values == pytest.approx({1: 1.1, 2: 1.1})
    assert verdict(fine + slow).met is False
    assert verdict(fine[:1]).met is None

    path = write(tmp_path / "run.jsonl", fine + slow)
    code, out, _ = cli("bench --targets --input", path)
    assert code == 0
    row = next(line for line in out.splitlines() if "sign 4096x1000 fwd+bwd vs aten" in line)
    assert row.split()[-3:] == ["1.1", "1.3", "missed"]
    code, out, _ = cli("bench --targets --json --input", path)
    found = next(row for row in json.loads(out) if "vs aten" in row["work"])
    assert (found["met"], found["measured"]) == (False, {"1": 1.1, "2": 1.3})


def test_targets_of_memory_count_what_is_beyond_the_tensors():
    tensors = 2 * 4 * 4096 * 1000
    at = record("categorical-reinmax", extra_bytes=tensors + 24 * 4096)
    over = dataclasses.replace(at, extra_bytes=tensors + 25 * 4096)
    for row, met in ((at, True), (over, False)):
        found = [v for v in targets.judge([row]) if v.target.unit == "bytes a row"]
        assert [v.met for v in found] == [met]


def test_targets_name_cases_and_ways_that_there_are():
    found = cases.cases()
    for target in targets.TARGETS:
        assert set(target.ways) <= set(found[target.case].ways())
    plan = suite.Plan(threads=[1, 2])
    jobs = plan.target_jobs(found)
    job = Job("sign", BOTH, cases.MAIN, "float32", 2)
    assert jobs[job] == [OURS, "aten"]
    assert {job.threads for job in jobs} == {1, 2}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--operators rond", "'rond' is no case"),
        ("--shapes 4", "shapes must be such as 32x10"),
        ("--shapes 4x0", "shapes must be such as 32x10"),
        ("--threads 0", "threads must be such as 1,2,4"),
        ("--input nowhere.jsonl", "nowhere.jsonl cannot be read"),
        ("--input nowhere.jsonl --quick", "--input measures nothing"),
        ("--compare a.jsonl b.jsonl --quick", "--compare measures nothing"),
        ("--targets --operators topk", "no target is about topk"),
        ("--compare nowhere.jsonl nowhere.jsonl", "nowhere.jsonl cannot be read"),
        ("--quick --output /dev/null/x", "cannot write"),
    ],
)
def test_wrong_use_is_one_line_and_exit_2(cli, arguments, said):
    code, out, err = cli(f"bench {arguments}")
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("text", ["", "{}\n", "[1]\n", "no\n"])
def test_a_file_without_measurements_is_refused(cli, tmp_path, text):
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    code, _, err = cli("bench --input", path)
    assert code == 2
    assert "measurement" in err


def test_files_without_a_common_job_do_not_compare(cli, tmp_path):
    old = write(tmp_path / "old", [record(), record(way=PLAIN)])
    new = write(tmp_path / "new", [record("floor"), record("floor", PLAIN)])
    code, _, err = cli("bench --compare", old, new)
    assert code == 2
    assert "no job was measured in both" in err


def test_pictures_of_forward_alone():
    found = tables.pictures([dataclasses.replace(record(), mode=FORWARD)])
    assert all(png.startswith(b"\x89PNG") for png in found.values())


def test_tables_show_ratios_and_scaling():
    one = [record(median=2e-3), record(way=PLAIN, median=8e-3), record(way="aten", median=1e-3)]
    two = [dataclasses.replace(record(median=1e-3), threads=2)]
    found = tables.tables(one + two)
    assert list(found) == ["On 1 thread", "Against others, on 1 thread", "On 2 threads"]
    row = dict(zip(found["On 1 thread"].columns, found["On 1 thread"].rows[0], strict=True))
    assert (row["ours"], row[PLAIN], row["Ratio"]) == ("0.488", "1.95", "4")
    row = dict(zip(found["On 2 threads"].columns, found["On 2 threads"].rows[0], strict=True))
    assert row["Scaling"] == "2"
    assert found["Against others, on 1 thread"].rows[0][-1] == "0.5"

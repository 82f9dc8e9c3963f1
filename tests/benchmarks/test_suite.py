"""The benchmarks: what is timed, what is checked before, and what is kept when something fails."""

import dataclasses
import json
import math
import platform
import subprocess
import sys
from functools import partial

import pytest
import torch

import benchmarks.__main__
import straightthrough as st
from benchmarks import cases, gate, memory, results, suite, timing
from benchmarks.cases import BOTH, FORWARD, OURS, PLAIN, REFERENCE, Way
from benchmarks.plain import PLAIN as SNIPPETS
from benchmarks.shapes import CODES
from straightthrough.core import kernels
from straightthrough.core.registry import OPERATORS
from straightthrough.testing import Case as ConformanceCase

TINY = "--quick --threads 1 --shapes 2x4"


@pytest.fixture
def wrong_round(monkeypatch):
    """Let the registry hold a `round` that is off by one."""
    record = OPERATORS["round"]
    off = dataclasses.replace(record, function=lambda x, **options: st.round(x, **options) + 1)
    monkeypatch.setitem(OPERATORS, "round", off)


def test_every_operator_has_a_case_and_a_snippet():
    found = cases.cases()
    operators = {name.partition("-")[0] for name in found}
    assert set(OPERATORS) <= operators
    # What is registered outside of the package has a case, and no snippet.
    public = {name for name in OPERATORS if hasattr(st, name)}
    assert set(SNIPPETS) == public
    rules = [rule.name for rule in OPERATORS["categorical"].rules()]
    assert [f"categorical-{name}" for name in rules] == [n for n in found if "categorical-" in n]


def test_snippets_have_the_value_and_the_gradient_of_the_operators():
    """Where nothing is drawn: so the two ways that are timed do the same work."""
    for case in cases.cases().values():
        if case.samples or case.plain is None:
            continue
        leaves = [x.requires_grad_() for x in case.inputs((64, 5)) if x.is_floating_point()]
        ours, plain = case.function(*leaves), case.plain(*leaves)
        grad = torch.randn_like(ours)
        torch.testing.assert_close(plain, ours, msg=case.name)
        pulled = [
            torch.autograd.grad(y, leaves, grad, allow_unused=True, materialize_grads=True)
            for y in (ours, plain)
        ]
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


OTHER_GRADIENT, OTHER_VALUE = ("topk",), ("rank",)
LEARNED = ("vector_quantizer",)
"""Whose value depends on where a codebook starts."""

BLOCKS = ("fake_quantize-mx", "fake_quantize-nvfp4")
"""Whose rows are of whole blocks."""


@pytest.mark.parametrize("name", [name for name in cases.PEERS if name not in LEARNED])
def test_peers_have_the_value_and_the_gradient_of_the_operators(name):
    case, package = cases.cases()[name], cases.PEERS[name][0].partition(".")[0]
    if package not in case.others:
        assert package in cases.missing_peers()
        return
    shape = (64, 32 if name in BLOCKS else 5)
    x = case.inputs(shape)[0].requires_grad_()
    grad = torch.randn(shape)
    theirs = case.others[package].forward(x)
    pulled = torch.autograd.grad(theirs, x, grad)[0]
    if case.samples:
        # The gradient of ours where it had drawn what theirs did.
        assert torch.equal(theirs, torch.nn.functional.one_hot(theirs.argmax(-1), 5).float())
        expected = case.conformance.rule.vjp(x.detach(), theirs.argmax(-1), grad)
    else:
        ours = case.function(x)
        assert torch.equal(theirs, ours) == (name not in OTHER_VALUE)
        expected = torch.autograd.grad(ours, x, grad)[0]
    assert torch.allclose(pulled, expected, atol=1e-6) == (name not in OTHER_GRADIENT)


def test_a_peer_that_lacks_what_it_needs_is_missing(monkeypatch):
    def needs_more(module):
        raise ImportError(module)

    monkeypatch.setattr(cases.importlib, "import_module", needs_more)
    missing = [
        "vector_quantize_pytorch",
        "torchao",
        "torchsort",
        "reinmax",
        "snntorch",
        "softtorch",
    ]
    assert cases.missing_peers() == missing
    assert set(cases.cases()["heaviside"].others) == set()


def test_the_gate_passes_what_is_right_and_names_what_is_wrong():
    shapes = ((3, 8),)
    assert {
        name: gate.disagreement(case, ((3, 32),) if name in BLOCKS else shapes)
        for name, case in cases.cases().items()
    } == dict.fromkeys(cases.cases())
    right = cases.cases()["sign"]
    off = dataclasses.replace(OPERATORS["sign"], function=partial(st.sign, surrogate="tanh"))
    wrong = dataclasses.replace(right, conformance=ConformanceCase(off))
    assert "gradient" in gate.disagreement(wrong, shapes)


def test_a_quick_run_has_codes_at_shapes_whose_numbers_are_an_int64s():
    found = cases.cases()
    jobs = benchmarks.__main__._plan(None, "1", quick=True).jobs(found[n] for n in ("lfq", "sign"))
    at = {name: {job.shape for job in jobs if job.case == name} for name in ("lfq", "sign")}
    assert at == {"lfq": {*CODES}, "sign": {*benchmarks.__main__.QUICK}}


@pytest.mark.parametrize(("off", "passes"), [(4e-6, True), (4e-3, False)])
def test_the_gate_lets_a_sum_of_many_terms_round(monkeypatch, off, passes):
    """On the way such a sum is larger than what is left of it."""
    monkeypatch.setattr(kernels, "level", "broken")

    def scaled(x, scale):
        return x * (scale + off * (kernels.level is not None) * (scale - scale.detach()))

    def inputs(shape):
        return *cases.normal(shape), torch.tensor(1.0)

    case = cases.Case("scaled", scaled, None, inputs=inputs)
    assert (gate.disagreement(case, ((256, 1000),)) is None) == passes


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


def test_a_wrong_operator_is_left_out_and_fails_the_command(bench, wrong_round):
    code, out, err = bench(f"{TINY} --operators round,sign --json")
    assert code == 1
    assert {row["case"] for row in json.loads(out)} == {"sign"}
    assert [line for line in err.splitlines() if "round is wrong" in line]
    code, out, err = bench(f"{TINY} --operators round")
    assert (code, out) == (1, "")


def test_records_hold_what_was_measured_where(bench, tmp_path):
    path = tmp_path / "new" / "run.jsonl"
    code, out, _ = bench(f"{TINY} --operators bernoulli --json --output", path)
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
    # Each is called to see how long it takes; then the first begins, and in each round
    # the other takes over once.
    assert len(blocks) == 3 + timing.FEWEST


def test_a_slow_first_call_does_not_shorten_the_samples(monkeypatch):
    now, costs = [0.0], iter([timing.SAMPLE / 2])

    def call():
        now[0] += next(costs, timing.SAMPLE / 100)

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    timing.interleave({"cold": call}, budget=0.0)
    assert now[0] >= timing.FEWEST * timing.SAMPLE


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="no other is told to")
def test_what_is_freed_stays_with_the_process():
    """So that what is timed need not wait for memory."""
    lines = (
        "import torch",
        "from benchmarks import memory, timing",
        "timing.keep_freed_memory()",
        "large = torch.ones(25_000_000)",
        "before = memory._resident()",
        "del large",
        "assert before - memory._resident() < 2e7",
    )
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)


def test_a_way_that_fails_is_left_out_and_said():
    def fails(x):
        raise RuntimeError("no compiler\nmore")

    case = dataclasses.replace(cases.cases()["sign"], others={"broken": Way(fails)})
    found, said = measured(case, memory=False)
    assert "broken" not in {record.way for record in found}
    assert len(said) == 2
    assert said[0].endswith("broken is left out, as it fails: no compiler")


def measured(case, **settings):
    """What a run of one case yields and what it says."""
    plan = suite.Plan(threads=[1], shapes=[(2, 4)], budget=0.0, compiled=False, **settings)
    said = []
    found = suite.run({case.name: case}, plan.jobs([case]), plan, lambda _: None, said.append)
    return list(found), said


def test_a_job_that_fails_is_left_out_and_said():
    def inputs(shape):
        raise MemoryError("no room")

    case = dataclasses.replace(cases.cases()["sign"], inputs=inputs)
    found, said = measured(case)
    assert found == []
    assert said == [
        f"sign 2x4 {mode} float32, 1 thread is left out, as it fails: no room"
        for mode in ("fwd", "fwd+bwd")
    ]


def test_a_process_that_dies_costs_a_measurement_of_memory():
    """The child looks a way up by its name, and dies where there is none."""
    case = dataclasses.replace(cases.cases()["sign"], others={"unheard": Way(torch.sign)})
    found, said = measured(case)
    measured_here = {record.way: record.extra_bytes is not None for record in found}
    assert measured_here["unheard"] is False
    assert sum(measured_here.values()) == len(measured_here) - 1
    reason = "the memory of unheard is left out, as its process ended early, with code 1"
    assert said == [f"sign 2x4 {mode} float32, 1 thread: {reason}" for mode in ("fwd", "fwd+bwd")]


def test_the_command_has_help(bench):
    code, out, err = bench("--help")
    assert (code, err) == (0, "")
    assert out.startswith("Usage: python -m benchmarks")


def test_an_interrupted_run_keeps_what_it_has(bench, tmp_path, monkeypatch):
    whole = suite.run

    def run(*arguments):
        yield next(whole(*arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr(suite, "run", run)
    path = tmp_path / "run.jsonl"
    code, out, err = bench(f"{TINY} --operators sign --output", path)
    assert code == 1
    assert "interrupted: what was measured until then is kept" in err
    assert [row.way for row in results.read(path)] == [OURS]
    assert "| sign | 2x4 |" in path.with_suffix(".md").read_text()
    assert "sign" in out


def test_memory_is_that_of_the_tensors():
    """A rounding allocates its value alone, as its gradient is the one that came in."""
    shape, size = (1024, 512), 4 * 1024 * 512
    ours = memory.measure("round", OURS, BOTH, shape)
    assert (ours.extra, ours.saved) == (size, 0)
    plain = memory.measure("sign", PLAIN, BOTH, shape)
    assert plain.extra >= 2 * size
    assert plain.saved == size
    if sys.platform == "linux":
        assert ours.resident == pytest.approx(size, rel=0.2)
        assert plain.resident >= 0.9 * plain.extra


def test_memory_is_measured_of_rows_that_may_not_be_long():
    """Five levels along each of 32 dimensions would be more codes than an int64 has."""
    assert memory.measure("fsq", OURS, BOTH, (64, 16)).extra >= 4 * 64 * 16


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
        ("--targets --operators trunc", "no target is about trunc"),
        ("--compare nowhere.jsonl nowhere.jsonl", "nowhere.jsonl cannot be read"),
        ("--quick --output /dev/null/x", "cannot write"),
    ],
)
def test_wrong_use_is_one_line_and_exit_2(bench, arguments, said):
    code, out, err = bench(arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1

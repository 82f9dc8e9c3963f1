"""What is made of measurements: tables, pictures, targets, the comparison of two runs."""

import dataclasses
import json
from pathlib import Path

import pytest

from benchmarks import cases, results, shapes, suite, tables, targets
from benchmarks.cases import BOTH, FORWARD, OURS, PLAIN
from benchmarks.compare import compare
from benchmarks.results import Job, Record


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


def test_one_run_a_machine_is_kept():
    runs = list((Path(__file__).parents[2] / "benchmarks" / "results").glob("*.jsonl"))
    machines = {frozenset(row.environment["processor"] for row in results.read(p)) for p in runs}
    assert len(machines) == len(runs) > 0


def test_compare_finds_what_grew(bench, tmp_path):
    def run(name, sign, floor):
        rows = [record(way=PLAIN, median=10.0), record(median=sign)]
        rows += [record("floor", PLAIN, 4.0), record("floor", median=floor)]
        return write(tmp_path / name, rows)

    old, same, worse = run("old", 2.0, 1.0), run("same", 2.2, 0.5), run("worse", 2.0, 1.2)
    code, out, _ = bench("--json --compare", old, same)
    assert code == 0
    assert [(row["job"]["case"], row["regressed"]) for row in json.loads(out)] == [
        ("sign", False),
        ("floor", False),
    ]
    assert json.loads(out)[0]["growth"] == pytest.approx(0.1)
    code, out, _ = bench("--compare", old, worse)
    assert code == 1
    assert "1 of 2 regressed by over 15%" in out
    row = next(line for line in out.splitlines() if "regressed" in line)
    assert row.split()[0] == "floor"
    assert "+20 %" in row


def test_compare_is_free_of_the_machine():
    slow = [record(median=20.0), record(way=PLAIN, median=100.0)]
    fast = [record(median=2.0), record(way=PLAIN, median=10.0)]
    assert compare(slow, fast)[0].growth == pytest.approx(0)


def test_targets_are_judged_by_ratio_on_every_number_of_threads(bench, tmp_path):
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
    code, out, _ = bench("--targets --input", path)
    assert code == 0
    row = next(line for line in out.splitlines() if "sign 4096x1000 fwd+bwd vs aten" in line)
    assert row.split()[-3:] == ["1.1", "1.3", "missed"]
    code, out, _ = bench("--targets --json --input", path)
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
        case = found[target.case]
        assert set(target.ways) <= {*case.ways(), *case.graph_ways(), *cases.missing_peers()}
    plan = suite.Plan(threads=[1, 2])
    jobs = plan.target_jobs(found)
    job = Job("sign", BOTH, shapes.MAIN, "float32", 2)
    assert jobs[job] == [OURS, "aten"]
    assert {job.threads for job in jobs} == {1, 2}


@pytest.mark.parametrize("text", ["", "{}\n", "[1]\n", "no\n"])
def test_a_file_without_measurements_is_refused(bench, tmp_path, text):
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    code, _, err = bench("--input", path)
    assert code == 2
    assert "measurement" in err


def test_files_without_a_common_job_do_not_compare(bench, tmp_path):
    old = write(tmp_path / "old", [record(), record(way=PLAIN)])
    new = write(tmp_path / "new", [record("floor"), record("floor", PLAIN)])
    code, _, err = bench("--compare", old, new)
    assert code == 2
    assert "no job was measured in both" in err


def test_pictures_of_forward_alone():
    found = tables.pictures([dataclasses.replace(record(), mode=FORWARD)])
    assert list(found) == ["time", "ratio"]
    assert all(png.startswith(b"\x89PNG") for png in found.values())


def test_the_picture_of_scaling_shows_speed_ups_over_one_thread(monkeypatch):
    drawn = {}

    def dots(rows, series, x, theme):
        drawn[x] = (rows, series)
        return b""

    monkeypatch.setattr(tables.charts, "dots", dots)
    seconds = {OURS: {1: 8.0, 2: 5.0, 4: 2.0}, PLAIN: {1: 9.0, 2: 9.0, 4: 6.0}}
    rows = [
        record(way=way, median=median, threads=count)
        for way, times in seconds.items()
        for count, median in times.items()
    ]
    rows += [record("floor", median=3.0), record("sign", median=1.0, shape=(32, 10))]
    assert list(tables.pictures(rows)) == ["time", "ratio", "scaling"]
    assert drawn["times as fast as on one thread at 4096x1000, forward + backward"] == (
        ["sign", "floor"],
        {"ours on 2": [1.6, None], "ours on 4": [4.0, None], "plain torch on 4": [1.5, None]},
    )


def test_losses_are_what_is_slower_than_plain_torch_the_worst_first(bench, tmp_path):
    def pair(case, ours, plain, **fields):
        return [record(case, median=ours, **fields), record(case, PLAIN, plain, **fields)]

    rows = [*pair("sign", 1.0, 2.0), *pair("floor", 4.0, 3.0), *pair("ceil", 1.0, 1.0)]
    rows += [*pair("argmax", 2.0, 8.0), *pair("argmax", 4.0, 2.0, threads=2)]
    rows += [record("topk", median=1.0)]
    path = write(tmp_path / "run.jsonl", rows)
    code, out, _ = bench("--losses --json --input", path)
    assert code == 0
    both = {"Shape": "4096x1000", "fwd+bwd, 1 thread": "4", "fwd+bwd, 2 threads": "0.5"}
    one = {"Shape": "4096x1000", "fwd+bwd, 1 thread": "0.75", "fwd+bwd, 2 threads": "–"}
    assert json.loads(out) == [{"Case": "argmax", **both}, {"Case": "floor", **one}]
    code, out, _ = bench("--losses --input", path)
    assert out.startswith("Slower than plain torch\n")
    assert bench("--losses --targets --input", path)[0] == 2

    found = tables.summary(rows)
    assert found.rows[0] == ["fwd+bwd, 1 thread", "3", "1", "1.5", "4 (argmax 4096x1000)"]
    assert found.rows[1] == ["fwd+bwd, 2 threads", "0", "1", "0.5", "0.5 (argmax 4096x1000)"]


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

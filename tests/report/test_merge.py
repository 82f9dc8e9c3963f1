"""Results that several processes left, made one."""

import copy

import pytest

from straightthrough import ArgumentError
from straightthrough.cli import pages
from straightthrough.report import merge

EARLY, LATE = "2026-01-02T03:04:05+00:00", "2026-01-02T04:00:00+00:00"


def run(rule, seed):
    point = {"epoch": 1, "train": 3.0, "test": 4.0 + seed, "entropy": None, "seconds": 6.0}
    point["errors"] = {}
    return {"rule": rule, "without_bias": False, "seed": seed, "rate": 0.1, "points": [point]}


@pytest.fixture
def whole():
    return {
        "header": {
            "study": "vae",
            "command": "a\nb",
            "started": EARLY,
            "environment": {"torch": "9.8.7"},
            "seconds": 15.0,
            "complete": True,
        },
        "settings": {"data": "mnist", "estimators": ["a"], "seeds": [0, 1], "epochs": 1},
        "images": {"description": "Images.", "train": 4, "test": 4},
        "evaluated": 4,
        "tuning": "",
        "latents": 128,
        "categories": 4,
        "parameters": 99,
        "exact": False,
        "source": None,
        "originals": None,
        "runs": [run("A()", 0), run("B()", 0), run("A()", 1)],
    }


def part(whole, runs, seeds, **header):
    result = copy.deepcopy(whole)
    result["runs"] = result["runs"][runs]
    result["settings"]["seeds"] = seeds
    result["header"].update(header)
    return result


@pytest.fixture
def parts(whole):
    return [
        part(whole, slice(2), [0], command="a", started=LATE, seconds=10.0),
        part(whole, slice(2, 3), [1], command="b", seconds=5.0),
    ]


def test_parts_merge_into_the_whole(whole, parts):
    assert merge(parts) == whole
    assert merge(parts[:1]) == parts[0]


def test_measured_times_are_the_firsts_and_keep_nothing_apart(whole, parts):
    """No two results of the mask study were merged, as each has times of its own."""
    for milliseconds, each in enumerate([whole, *parts[1:], parts[0]]):
        each["costs"] = [{"name": "no mask", "milliseconds": milliseconds, "share": 0.0}]
    assert merge(parts) == {**whole, "costs": parts[0]["costs"]}


def test_the_whole_is_complete_if_its_parts_are(parts):
    parts[1]["header"]["complete"] = False
    assert not merge(parts)["header"]["complete"]


def test_runs_are_told_apart_by_whatever_they_say_of_themselves(parts):
    """Two powers of one rule and seed, or a run with its bias and one without."""
    parts[1]["runs"] = [{**parts[0]["runs"][0], "without_bias": True}]
    assert len(merge(parts)["runs"]) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["settings"].update(epochs=3), "settings.epochs 1 and 3"),
        (lambda r: r["settings"].pop("epochs"), "got settings {'data': 'mnist', 'epochs': 1} and"),
        (lambda r: r["header"].update(study="mask"), "study 'vae' and 'mask'"),
        (lambda r: r["header"]["environment"].update(torch="1"), "environment.torch '9.8.7' and"),
        (lambda r: r.update(exact=True), "exact False and True"),
        (lambda r: r["runs"].append(run("B()", 0)), r"hold rule B\(\), .*seed 0.*; leave"),
    ],
)
def test_what_does_not_belong_together_is_not_merged(parts, change, message):
    change(parts[1])
    with pytest.raises(ArgumentError, match=message):
        merge(parts)


def test_what_has_no_runs_is_written_anew_and_not_merged(cli, tmp_path):
    line = "study bias --sizes 3 --seeds 1 --draws 10 --repetitions 1 --output"
    one, other = tmp_path / "one", tmp_path / "other"
    assert cli(line, one)[0] == 0
    assert cli("report", one, "--output", other) == (0, f"{other / 'report.html'}\n", "")
    assert (other / "report.html").read_bytes() == (one / "report.html").read_bytes()
    code, out, err = cli("report", one, other, "--output", tmp_path / "both")
    assert (code, out) == (2, "")
    assert err == "error: results of 'bias' have no runs, and are not merged\n"


def test_the_command_merges(cli, whole, parts, tmp_path):
    folders = [tmp_path / name for name in ("one", "two", "both")]
    for folder, result in zip(folders[:2], parts, strict=True):
        folder.mkdir()
        pages.write(result, folder)
    code, out, err = cli("report", *folders[:2])
    assert (code, out) == (2, "")
    assert err == "error: 2 folders need an --output to be merged into\n"
    code, out, _ = cli("report", *folders[:2], "--output", folders[2])
    assert (code, out) == (0, f"{folders[2] / 'report.html'}\n")
    assert pages.read(folders[2]) == whole
    assert (folders[2] / "report.html").read_text(encoding="utf-8") == pages.render(whole)

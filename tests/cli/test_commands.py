"""The command line: what it prints, where, and with which exit code."""

import io
import json
import sys

import pytest

import straightthrough as st
from page_results import Reader
from straightthrough.cli.console import print_table
from straightthrough.core import installed, kernels
from straightthrough.core.registry import OPERATORS, RULES
from straightthrough.studies.bias import study as bias
from straightthrough.studies.mask import study as mask
from straightthrough.studies.polynomial import study as polynomial
from straightthrough.studies.qat import study as qat
from straightthrough.studies.select import study as select
from straightthrough.studies.vae import study as vae
from straightthrough.studies.vqvae import study as vqvae

STUDIES = ["vae", "mask", "select", "vqvae", "polynomial", "bias", "qat"]
COMMANDS = ["list", "audit", "env", "report", "study", *(f"study {name}" for name in STUDIES)]


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_command_has_help(cli, command):
    code, out, err = cli(f"{command} --help")
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: straightthrough {command}".strip())


def test_list_shows_every_operator_rule_and_function(cli):
    code, out, err = cli("list --json")
    assert (code, err) == (0, "")
    listed = json.loads(out)
    assert [row["name"] for row in listed["operators"]] == list(OPERATORS)
    assert [row["name"] for row in listed["rules"]] == [rule.shorthand for rule in RULES.values()]
    sign = next(row for row in listed["operators"] if row["name"] == "sign")
    assert sign["family"] == "pointwise"
    assert sign["default"] == "Clipped(width=1.0)"
    assert {"clipped", "tanh", "identity"} <= set(sign["rules"])
    reinmax = next(row for row in listed["rules"] if row["name"] == "reinmax")
    draws = ["categorical", "categorical_integer", "categorical_lookup"]
    assert reinmax["fits"] == ["bernoulli", *draws]
    lookup = next(row for row in listed["operators"] if row["name"] == "categorical_lookup")
    assert lookup["inputs"] == {"logits": "... C", "table": "C D"}
    assert lookup["outcome"] == "TableRow"
    assert lookup["outputs"] == ["... D"]
    others = ["bsq_decode", "fsq_decode", "hard_concrete_mean", "l0_norm", "lfq_decode"]
    others += ["lfq_entropy", "nearest", "straight_through", "strict"]
    others += ["subset_entropy", "subset_log_prob", "subset_marginals", "wrap"]
    assert [row["name"] for row in listed["functions"]] == others
    assert [row["name"] for row in listed["baselines"]] == ["exact"]

    code, out, err = cli("list")
    assert (code, err) == (0, "")
    words = out.replace(",", " ").split()
    names = [rule.shorthand for rule in RULES.values()]
    families = {record.family for record in OPERATORS.values()}
    assert {*OPERATORS, *names, *families, *others, "exact"} <= set(words)


@pytest.mark.parametrize("columns", ["0", "80"])
def test_a_table_is_there_where_the_width_is_said_to_be_0(monkeypatch, capsys, columns):
    """Some shells and containers without a terminal say so."""
    monkeypatch.setenv("COLUMNS", columns)
    print_table(["Operator", "Family"], [["argmax", "categorical"]])
    assert "argmax" in capsys.readouterr().out


def test_env_shows_versions_and_what_serves_each_family(cli, monkeypatch):
    code, out, err = cli("env --json")
    assert (code, err) == (0, "")
    shown = json.loads(out)
    assert shown["environment"]["straightthrough"] == st.__version__
    assert shown["environment"]["threads"] == 1
    served = shown["implementations"]
    assert set(served) == {record.family for record in OPERATORS.values()}
    none = {"serves": "reference", "on_gpus": "reference"}
    assert served["solver"] == none | {"why": "these operators have no kernels"}
    assert shown["kernels"] == kernels.states
    level = kernels.level
    assert served["categorical"]["serves"] == (f"{level} kernels" if level else "reference")

    monkeypatch.setattr(kernels, "level", None)
    monkeypatch.setattr(kernels, "reason", "not built: no compiler")
    assert "When what is missing" not in cli("env")[1]
    monkeypatch.setattr(installed, "mend", lambda: "pip install again")
    monkeypatch.setattr(kernels, "states", {"fast": "not built", "slow": "the machine has AVX2"})
    code, out, _ = cli("env")
    assert code == 0
    assert st.__version__ in out
    assert "\nWhen what is missing is there: pip install again\n" in out
    assert "fast not built slow the machine has AVX2" in " ".join(out.split())
    (line,) = [line for line in out.splitlines() if line.startswith("categorical")]
    words = line.split()
    assert words[:2] == ["categorical", "reference"]
    assert line.strip().endswith("not built: no compiler")


def test_audit_reproduces_the_published_row(cli, tmp_path):
    line = "audit --estimators straight_through,reinmax,reinmax:1.5 --json --output"
    code, out, err = cli(line, tmp_path / "made" / "here")
    assert code == 0
    assert [
        (row["name"], row["bias_squared"], row["variance"]) for row in json.loads(out)["rows"]
    ] == [
        (
            "StraightThrough(tau=1.0)",
            pytest.approx(0.2781, abs=5e-5),
            pytest.approx(0.7724, abs=5e-5),
        ),
        ("ReinMax(tau=1.0)", pytest.approx(0, abs=1e-9), pytest.approx(13.79, abs=5e-3)),
        ("ReinMax(tau=1.5)", pytest.approx(0.0474, abs=5e-5), pytest.approx(2.886, abs=5e-4)),
    ]
    assert (tmp_path / "made" / "here" / "audit.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "made" / "here" / "audit.json").read_text()) == json.loads(out)
    assert "audit.png" in err


def test_audit_without_rescaling_keeps_the_bias_of_the_length(cli):
    code, out, _ = cli("audit --no-rescale --estimators straight_through --json")
    (row,) = json.loads(out)["rows"]
    assert code == 0
    assert row["bias_squared"] != pytest.approx(0.2781, abs=0.01)


def test_audit_past_its_limit_samples_and_says_so(cli):
    code, out, _ = cli("audit --size 5 --limit 4 --samples 100 --estimators reinmax")
    assert code == 0
    assert out.splitlines()[-1] == "128 outcomes, sampled; ± one standard error"
    record = json.loads(cli("audit --size 5 --limit 4 --samples 100 --json")[1])
    assert record["method"] == "sampled"
    assert record["rows"][0]["standard_errors"]["bias_squared"] > 0
    assert json.loads(cli("audit --size 5 --json")[1])["method"] == "enumerated"


SIGNS = {"list": "rank", "audit --size 3 --limit 2 --samples 64": "sampled; ? one standard error"}


@pytest.mark.parametrize("line", SIGNS)
def test_an_encoding_without_our_signs_gets_question_marks(cli, monkeypatch, line):
    stdout = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    code, _, err = cli(line)
    stdout.flush()
    assert (code, err) == (0, "")
    found = stdout.buffer.getvalue().decode()
    assert "?" in found
    assert SIGNS[line] in found


def test_study_vae_prints_a_table_and_writes_a_page(cli, tmp_path):
    line = "study vae --epochs 1 --estimators reinmax,darn --without-bias darn --seeds 3,1 --output"
    code, out, _ = cli(line, tmp_path)
    assert code == 0
    page, result = tmp_path / "report.html", json.loads((tmp_path / "result.json").read_text())
    ran = [(run["estimator"], run["without_bias"], run["seed"]) for run in result["runs"]]
    ways = [("reinmax", False), ("darn", False), ("darn", True)]
    assert ran == [(*way, seed) for way in ways for seed in (3, 1)]
    assert result["header"]["command"].startswith("straightthrough study vae --epochs 1")
    row = next(line for line in out.splitlines() if line.startswith("ReinMax(tau=1.3)"))
    assert row.split()[1:3] == ["2", "1"]
    assert str(page) in out
    before = page.read_bytes()
    page.unlink()
    code, out, _ = cli("report --json", tmp_path)
    assert (code, json.loads(out)) == (0, {"report": str(page)})
    assert page.read_bytes() == before


@pytest.mark.parametrize("study", ["vae --without-bias none", "mask"])
def test_json_is_alone_on_stdout(cli, tmp_path, study):
    code, out, _ = cli(f"study {study} --epochs 1 --json --output", tmp_path)
    assert code == 0
    assert json.loads(out) == json.loads((tmp_path / "result.json").read_text())
    assert json.loads(out)["header"]["complete"] is True


def test_seeds_are_a_count_or_a_list(cli, tmp_path, monkeypatch):
    asked = []

    def run(settings, notify, journal):
        asked.append(list(settings.seeds))
        raise KeyboardInterrupt

    monkeypatch.setattr(vae, "run", run)
    for text in ("3", "3,", "0,7"):
        cli(f"study vae --seeds {text} --output", tmp_path)
    assert asked == [[0, 1, 2], [3], [0, 7]]


def test_what_is_trained_once_more_may_be_none(cli, tmp_path, monkeypatch):
    asked = []

    def run(settings, notify, journal):
        asked.append(settings)
        raise KeyboardInterrupt

    for study in (vae, polynomial):
        monkeypatch.setattr(study, "run", run)
    cli("study vae --control none --without-bias none --output", tmp_path)
    cli("study polynomial --control none --output", tmp_path)
    assert [list(settings.control) for settings in asked] == [[], []]
    assert asked[0].without_bias == []


WRONG = {
    "study vae --data cifar": "data 'cifar' is unknown; known: digits, mnist, fashion-mnist",
    "study mask --data mnist": "holds its IDX files or .npz; pass --data-dir",
    "study vae --data mnist --data-dir /no/such/folder": "/no/such/folder is not a folder",
    "study mask --data mnist --data-dir {empty}": "should hold train-images-idx3-ubyte",
    "study vae --data mnist --data-dir {broken}": "mnist.npz cannot be read",
    "study vae --estimators reinmix": "estimators='reinmix' is unknown here; did you mean",
    "study vae --estimators clipped": "or, in Python, the rule itself, such as ",
    "study vae --estimators ,": "must name something",
    "study vae --preset hoper": "preset 'hoper' is unknown; known: digits, mnist, reinmax, hooper",
    "study vae --preset hooper": "data 'mnist' needs the folder",
    "study vae --preset hooper --without-bias mve": "without_bias needs the exact gradient",
    "study vae --without-bias reinmix": "without_bias='reinmix' is unknown here; did you mean",
    "study bias --output {empty} --resume": "result.json cannot be read: No such file",
    "study vae --preset reinmax --data digits": "is for mnist, got data 'digits'; leave it out",
    "study vae --seeds 0": "seeds must be a list such as 0,1,5 or a count above 0, got '0'",
    "study vae --seeds 1,x": "got '1,x'",
    "study vae --output {file}/below": "cannot write into {file}/below: Not a directory",
    "study mask --output {file}": "cannot write into {file}: File exists",
    "study vae --control reinmix": "control='reinmix' is unknown here; did you mean 'reinmax'",
    "study polynomial --control reinmix": "control='reinmix' is unknown here; did you mean",
    "study polynomial --control exact": "exact draws nothing, and has no use for a control variate",
    "study select --methods gumbel": "method 'gumbel' is unknown; known: gumbel_topk, ",
    "study select --k 65": "k must lie in 1..64, the number of pixels, got 65",
    "study polynomial --powers 2,x": "powers must be numbers, such as 2,4, got '2,x'",
    "study polynomial --powers -1": "powers must be different numbers above 0",
    "study polynomial --estimators mve_integer": "not equally spaced; use mve",
    "study bias --sizes 4,2.5": "sizes must be numbers, such as 2,4, got '4,2.5'",
    "study bias --sizes 1": "sizes must be 2 to 4096 classes, got [1]",
    "study bias --sizes 1000000": "sizes must be 2 to 4096 classes, got [1000000]",
    "study mask --seeds 1,1": "seeds must be different, and below 2^63, got '1,1'",
    "study mask --seeds 9223372036854775808,": "seeds must be different, and below 2^63, got '9223",
    "audit --seed 18446744073709551616": "invalid value for '--seed': Input should be less than",
    "study bias --seeds x": "got 'x'",
    "study vae --seeds 20260101": "a count of at most 10,000, got '20260101'; the one seed 2",
    "study vae --seeds 9223372036854775808": "is the list 9223372036854775808, with a comma",
    "audit --output {file}/below": "cannot write into {file}/below: Not a directory",
    "audit --subset 5": "--subset must be at most --size, 4, got 5",
    "audit --size 2 --subset 3": "--subset must be at most --size, 2, got 3",
    "audit --estimators nothing": "estimators='nothing' is unknown here",
    "audit --estimators reinmax:0": "tau must be above 0",
    "audit --estimators reinmax:hot": "'reinmax:hot' must be NAME:TAU, such as reinmax:0.5",
    "audit --estimators darn:0.5": "'darn:0.5' must be without a temperature, as darn has none",
    "report {empty}": "result.json cannot be read",
}


INTERNALS = ("instance of", "__", "keyword argument", "could not convert", "Errno", "Traceback")


@pytest.mark.parametrize("line", WRONG)
def test_wrong_use_is_one_line_and_exit_code_2(cli, tmp_path, monkeypatch, line):
    monkeypatch.chdir(tmp_path)
    places = {name: tmp_path / name for name in ("empty", "broken", "file")}
    places["empty"].mkdir()
    places["broken"].mkdir()
    (places["broken"] / "mnist.npz").write_bytes(b"PK but no zip file")
    places["file"].touch()
    code, out, err = cli(line.format(**places))
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert WRONG[line].format(**places) in err
    assert len(err.strip().splitlines()) == 1
    assert not [words for words in INTERNALS if words in err]


USAGE = {
    "lsit": ("no such command 'lsit'; did you mean 'list'", ""),
    "nothing": ("no such command 'nothing'", ""),
    "study nothing": ("no such command 'nothing'", " study"),
    "study": ("missing command", " study"),
    "study vae --epochs 0": ("invalid value for '--epochs': ", " study vae"),
    "audit --size 0": ("invalid value for '--size': ", " audit"),
    "audit --size 3000000": ("invalid value for '--size': ", " audit"),
    "audit --size": ("option '--size' requires an argument", ""),
    "list --x": ("no such option: --x", " list"),
    "list more": ("got unexpected extra argument", " list"),
}


@pytest.mark.parametrize("line", USAGE)
def test_unknown_words_and_numbers_out_of_range_have_the_form_of_other_errors(cli, line):
    said, command = USAGE[line]
    code, out, err = cli(line)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {said}")
    assert err.endswith(f"; see straightthrough{command} --help\n")
    assert len(err.splitlines()) == 1


def test_ctrl_c_in_an_audit_is_one_line_and_exit_1(cli, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("straightthrough.cli.audit.compare", interrupt)
    assert cli("audit") == (1, "", "error: interrupted\n")


@pytest.mark.parametrize("study", [vae, mask, select, vqvae, polynomial, bias, qat])
def test_the_output_folder_is_tried_before_training(cli, tmp_path, monkeypatch, study):
    monkeypatch.setattr(study, "run", lambda *_: pytest.fail("the study ran"))
    blocked = tmp_path / "file"
    blocked.touch()
    name = study.__name__.split(".")[-2]
    assert cli(f"study {name} --output", blocked)[0] == 2


def test_ctrl_c_before_a_study_starts(cli, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(vae, "run", interrupted)
    code, out, err = cli("study vae --output", tmp_path)
    assert (code, out, err) == (1, "", "error: interrupted before anything was measured\n")


def test_ctrl_c_leaves_a_partial_report_and_resume_goes_on(ctrl_c, tmp_path):
    line = f"study vae --estimators reinmax --epochs 100000 --output {tmp_path}"
    out, err = ctrl_c(line, r"[3-9]/100000")
    report = tmp_path / "report.html"
    said = f"error: interrupted: the report is partial, {report}; --resume goes on"
    assert err.strip().endswith(said)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["header"]["complete"] is False
    (run,) = result["runs"]
    assert run["points"][0]["epoch"] == 0
    stopped = run["points"][-1]["epoch"]
    assert 3 <= stopped < 10_000  # between two of the checkpoints of a whole run
    assert run["rule"] in out
    page = Reader(report.read_text())
    assert "Partial report" in page.text
    assert str(stopped) in page.cells

    ctrl_c(f"{line} --resume", r"\d/100000")
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["runs"][0]["points"][0]["epoch"] == 0
    assert result["runs"][0]["points"][-1]["epoch"] >= stopped
    assert result["header"]["command"].count("study") == 2

"""`straightthrough audit MODULE:FUNCTION`: the advice, the page, and one line for what is wrong."""

import json
import sys

import pytest

from page_results import Reader
from straightthrough.core.registry import RULES

LOSSES = """
import time
import torch
import straightthrough as st

print("imported")

def quadratic():
    print("called")
    generator = torch.Generator().manual_seed(0)
    q, b = torch.randn(4, 4, generator=generator), torch.randn(4, generator=generator)
    logits = torch.randn(4, generator=generator)
    return lambda z: ((z @ (q.T @ q)) * z).sum(-1) + z @ b, logits

def linear():
    weight = torch.tensor([[1.0, 2.0, 4.0], [0.0, -1.0, 3.0]])
    return lambda z: (z * weight).sum((-1, -2)), torch.tensor([[0.0, 1.0, 0.5], [2.0, 0.0, 0.0]])

def slow():
    loss, logits = linear()
    def waiting(z):
        time.sleep(0.2)
        return loss(z)
    return waiting, logits

class Coder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.encode, self.draw = torch.nn.Linear(4, 6), st.nn.Categorical()
    def forward(self, x):
        return self.draw(self.encode(x).unflatten(-1, (2, 3))).flatten(1)

def model():
    return st.audit.probe(Coder(), lambda model, x: model(x).cumsum(-1).square(), torch.ones(1, 4))

def raises():
    return 1 / 0

def leaves():
    raise SystemExit

def number():
    return 3

def three():
    return 1, 2, 3

def swapped():
    loss, logits = linear()
    return logits, loss

def scalar():
    return lambda z: z.sum(), torch.zeros(3)

def undefined():
    return lambda z: z.sum(-1), torch.tensor([0.0, float("nan")])

def whole():
    return lambda z: z.sum(-1), torch.tensor([0, 1])

def batch():
    return lambda z: z.sum(-1), torch.zeros(2, 3, 4)

def infinite():
    return lambda z: (1 - z[:, 0]).log(), torch.zeros(3)

def fails():
    def loss(z):
        raise RuntimeError("no such\\nthing")
    return loss, torch.zeros(3)

def constant():
    return lambda z: torch.ones(len(z)), torch.zeros(3)

class Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z):
        return z.sum(-1)

    @staticmethod
    def backward(ctx, grad):
        raise RuntimeError("no backward")

def backward():
    return Backward.apply, torch.zeros(3)

value = 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Work in a folder with a module of losses, and forget the module afterwards."""
    (tmp_path / "losses.py").write_text(LOSSES)
    (tmp_path / "faulty.py").write_text("import no_such_module\n")
    (tmp_path / "wrong.py").write_text("def (\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in ("losses", "faulty", "wrong", "ruled"):
        sys.modules.pop(name, None)


KNOWN = "--estimators straight_through,reinmax,gumbel:0.5"


def test_the_exact_rule_wins_on_a_quadratic_at_a_large_batch(cli, folder):
    # ReinMax at temperature 1 has no bias there, every other one of these has.
    line = f"audit losses:quadratic {KNOWN} --batch 100000 --budget 2 --json --output out"
    code, out, _ = cli(line)
    assert code == 0
    result = json.loads(out)
    best = result["advice"]["rows"][0]
    assert (best["rule"], best["tau"]) == ("ReinMax(tau=1.0)", 1.0)
    assert best["relative_squared_bias"] == pytest.approx(0, abs=1e-9)
    assert best["interval"] == [best["relative_squared_bias"]] * 2
    others = result["advice"]["rows"][1:]
    assert min(row["relative_squared_bias"] for row in others) > 1e-2
    assert "zero gradient" in [row["rule"] for row in others]
    assert result["advice"]["verdict"].startswith("ReinMax(tau=1.0): relative squared bias 0.0000")
    assert "Ranked by relative squared bias" in result["advice"]["criterion"]
    assert result["header"]["complete"] is True
    assert result["header"]["command"].startswith("straightthrough audit losses:quadratic")
    assert result["settings"] == {
        "loss": "losses:quadratic",
        "budget": 2.0,
        "batch": 100_000,
        "seed": 0,
        "rescale": True,
        "limit": 2**20,
    }


def test_the_quiet_rule_wins_on_a_linear_loss(cli, folder):
    # There the straight-through estimator is the exact gradient at every outcome.
    code, out, _ = cli(f"audit losses:linear {KNOWN} --budget 2 --json")
    assert code == 0
    best, *others = json.loads(out)["advice"]["rows"]
    assert best["rule"] == "StraightThrough(tau=1.0)"
    assert best["mse"] < 1e-20
    assert all(row["mse"] > 1e-3 for row in others)
    assert (folder / "results" / "audit" / "report.html").exists()


def test_terminal_page_and_json_say_the_same(cli, folder):
    code, out, err = cli(f"audit losses:quadratic {KNOWN} --budget 2 --output out")
    assert code == 0
    result = json.loads((folder / "out" / "audit.json").read_text())
    page = (folder / "out" / "report.html").read_text()
    reader = Reader(page)
    assert reader.open == []
    assert all(load.startswith("data:image/png;base64,") for load in reader.loads)
    assert len(reader.loads) == 4  # two charts, light and dark
    advice = result["advice"]
    assert advice["verdict"] in reader.text
    for row in advice["rows"]:
        assert row["rule"] in reader.cells
        assert f"{row['relative_squared_bias']:.4f}" in reader.cells
        assert f"{row['relative_error']:.4g}" in reader.cells
    noisy = next(row for row in advice["rows"] if row["name"] == "gumbel")
    low, high = noisy["interval"]
    assert f"{low:.4f} to {high:.4f}" in reader.cells
    assert "exact" in reader.cells
    assert "losses:quadratic" in reader.text
    shown = " ".join(out.split())
    assert advice["verdict"] in shown
    best = {row["name"]: row["rule"] for row in reversed(advice["rows"])}
    assert all(rule in shown for rule in best.values())
    assert str(folder / "out") in out or "out/report.html" in out
    # What the module prints is no part of the output.
    assert "imported" not in out
    assert {"imported", "called"} <= set(err.split())


def test_a_model_is_probed(cli, folder):
    code, out, _ = cli("audit losses:model --estimators reinmax,darn --json")
    advice = json.loads(out)["advice"]
    assert (code, advice["outcomes"], advice["method"]) == (0, 9, "enumerated")


def test_the_page_is_made_again_from_its_json(cli, folder):
    cli(f"audit losses:linear {KNOWN} --budget 1 --output out")
    page = folder / "out" / "report.html"
    before = page.read_bytes()
    page.unlink()
    code, out, _ = cli("report out --json")
    assert (code, json.loads(out)) == (0, {"report": "out/report.html"})
    assert page.read_bytes() == before


def test_the_options_reach_the_advice(cli, folder):
    line = "audit losses:linear --estimators gumbel:0.5 --seed 3 --no-rescale --limit 4 --batch 7"
    code, out, _ = cli(f"{line} --budget 0.5 --json")
    advice = json.loads(out)["advice"]
    assert code == 0
    assert [row["rule"] for row in advice["rows"]] == ["GumbelST(tau=0.5)", "zero gradient"]
    assert (advice["seed"], advice["rescale"], advice["batch"]) == (3, False, 7)
    assert advice["method"] == "sampled"  # of nine outcomes, above the limit


ABSENT = "is not found in"
WRONG = {  # what is asked, the exit code, and what is said
    "nothing_here:f": (2, f"module 'nothing_here' {ABSENT}"),
    "losses.py:linear": (2, f"module 'losses.py' {ABSENT}"),
    "losses": (2, "must be given as MODULE:FUNCTION, such as losses:mine, got 'losses'"),
    ":linear": (2, "got ':linear'"),
    "losses:lin-ear": (2, "got 'losses:lin-ear'"),
    "losses:linaer": (2, "has no function 'linaer'; did you mean 'linear'?"),
    "losses:value": (2, "has no function 'value'"),
    "losses:number": (2, "losses:number must return (loss, logits), a function of one-hots and"),
    "losses:three": (2, "got 3 values"),
    "losses:swapped": (2, "got (Tensor, function)"),
    "losses:scalar": (2, "loss must map outcomes ('N', 3) to ('N',)"),
    "losses:undefined": (2, "logits must be finite or -inf"),
    "losses:whole": (2, "logits must be float16, bfloat16, float32 or float64, got torch.int64"),
    "losses:batch": (2, "logits must be (C,) or (L, C)"),
    "losses:infinite": (2, "loss is not finite at the outcome with classes [0]"),
    "losses:constant": (2, "loss has no gradient to the one-hots"),
    "losses:linear --budget 0": (2, "budget must be above 0, got 0.0"),
    "losses:linear --budget nan": (2, "budget must be a finite number, got nan"),
    "losses:linear --batch 0": (2, "batch must be an int of at least 1, got 0"),
    "losses:linear --estimators reinmix": (2, "did you mean 'reinmax'"),
    "losses:linear --estimators reinmax:0": (2, "tau must be above 0"),
    "losses:linear --size 4": (2, "--size is of the random quadratic, not of a function"),
    "losses:linear --samples 4": (2, "--samples is of the random quadratic, not of a function"),
    "losses:linear --output losses.py": (2, "cannot write into losses.py: File exists"),
    "--budget 1": (2, "--budget is of a function, given as MODULE:FUNCTION"),
    "--batch 4": (2, "--batch is of a function, given as MODULE:FUNCTION"),
    "faulty:f": (1, "module faulty raises ModuleNotFoundError: No module named 'no_such_module'"),
    "wrong:f": (1, "module wrong raises SyntaxError: "),
    "losses:raises": (1, "losses:raises raises ZeroDivisionError: division by zero (losses.py, "),
    "losses:leaves": (1, "losses:leaves raises SystemExit (losses.py, line "),
    "losses:fails": (1, "losses:fails raises RuntimeError: no such thing (losses.py, line "),
    "losses:backward": (1, "losses:backward raises RuntimeError: no backward (losses.py, line "),
}


@pytest.mark.parametrize("line", WRONG)
def test_what_is_wrong_is_one_line(cli, folder, line):
    expected, message = WRONG[line]
    code, out, err = cli(f"audit {line}")
    said = [row for row in err.splitlines() if row.startswith("error: ")]
    assert (code, out, len(said)) == (expected, "", 1)
    assert message in said[0]
    assert "Traceback" not in err
    assert not (folder / "results" / "audit" / "report.html").exists()


def test_the_line_of_the_users_code_is_named(cli, folder):
    line = 1 + LOSSES.splitlines().index("    return 1 / 0")
    assert f"(losses.py, line {line})" in cli("audit losses:raises")[2]


def test_ctrl_c_leaves_a_partial_page(ctrl_c, folder):
    rules = "--estimators straight_through:1,gumbel:0.5,gumbel:4"
    line = f"audit losses:slow {rules} --batch 100000 --budget 600 --output out"
    out, err = ctrl_c(line, r" [23]/\d+")
    assert err.strip().endswith("error: interrupted: the report is partial, out/report.html")
    assert "StraightThrough(tau=1.0)" in out
    result = json.loads((folder / "out" / "audit.json").read_text())
    assert result["header"]["complete"] is False
    assert len(result["advice"]["rows"]) == 2
    assert [why for _, why in result["advice"]["skipped"]] == ["was interrupted"] * 2
    assert "Partial report" in (folder / "out" / "report.html").read_text()


def test_ctrl_c_before_anything_is_known(cli, folder, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("straightthrough.cli.advice.advise", interrupt)
    code, out, err = cli("audit losses:linear --output out")
    assert (code, out) == (1, "")
    assert err.endswith("error: interrupted before anything was measured\n")
    assert not (folder / "out" / "report.html").exists()


RULED = """
from dataclasses import dataclass
import torch
import straightthrough as st
from straightthrough.core.registry import rule

@rule("as_it_is")
@dataclass(frozen=True)
class AsItIs(st.estimators.CategoricalEstimator):
    tau: float = 1.0
    def gradient(self, logits, index, grad, noise):
        return grad / self.tau

def linear():
    weight = torch.tensor([1.0, 2.0, 4.0])
    return lambda z: z @ weight, torch.zeros(3)
"""


def test_a_rule_that_the_module_registers_takes_a_temperature(cli, folder, monkeypatch):
    (folder / "ruled.py").write_text(RULED)
    monkeypatch.setitem(RULES, "as_it_is", None)
    monkeypatch.delitem(RULES, "as_it_is")  # which puts it back as it was
    code, out, error = cli("audit ruled:linear --estimators as_it_is:0.5,reinmax --json")
    assert code == 0, error
    assert "AsItIs(tau=0.5)" in {row["rule"] for row in json.loads(out)["advice"]["rows"]}

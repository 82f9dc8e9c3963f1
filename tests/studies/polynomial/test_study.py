"""Polynomial programming: the study against an optimizer written out here, and its page."""

import json
import math

import numpy as np
import pytest
import torch

import straightthrough as st
from straightthrough.cli import pages
from straightthrough.estimators import DecoupledST
from straightthrough.relaxations import Softmax
from straightthrough.report.page import Chart
from straightthrough.studies.polynomial import study as polynomial
from straightthrough.studies.polynomial.page import tables
from straightthrough.studies.polynomial.study import PUBLISHED, RULES, Settings, run

NORMAL = np.array([1.5409961, -0.2934289, -2.1787894, 0.5684313])  # torch.randn(4) under seed 0
NUMBERS = (NORMAL - NORMAL.min()) / (NORMAL.max() - NORMAL.min())


def costs(power):
    return np.abs(NUMBERS - 0.45) ** power


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.fixture
def far(monkeypatch):
    """Start far from uniform, so that every class has a weight of its own, and stay there."""
    monkeypatch.setattr(polynomial, "START", 2.0)
    monkeypatch.setattr(polynomial, "RATE", 0.0)


def start(seed, width=0.01):
    torch.manual_seed(seed)
    return (width * (2 * torch.rand(128, 4) - 1)).double().numpy()


def test_the_numbers_are_the_published_ones():
    np.testing.assert_allclose(polynomial.numbers(), NUMBERS, atol=1e-6)


def test_no_distribution_does_better_than_the_optimum():
    optima = run(Settings(estimators=["exact"], epochs=1)).optima
    laws = np.random.default_rng(0).dirichlet([0.05] * 4, 20_000)
    for optimum in optima:
        reached = laws @ costs(optimum.power)
        assert optimum.loss <= reached.min() < 1.05 * optimum.loss
    expected = [0.0135537, 0.0032315, 0.00018370]
    assert [optimum.loss for optimum in optima] == pytest.approx(expected, rel=1e-4)


def test_the_exact_gradient_trains_as_an_optimizer_written_out_here():
    result = run(Settings(estimators=["exact"], seeds=[3], epochs=1))
    for trained in result.runs:
        x, cost = start(3), costs(trained.power)
        first, second, losses = np.zeros_like(x), np.zeros_like(x), []
        for step in range(1, 201):
            p = softmax(x)
            losses.append((p @ cost).mean())
            gradient = p * (cost - (p @ cost)[:, None]) / 128
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient**2
            rate = 1e-3 / (1 - 0.9**step)
            x = x - rate * first / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        before, after = trained.points
        assert math.isnan(before.loss)
        assert before.expected == pytest.approx((softmax(start(3)) @ cost).mean(), rel=1e-6)
        assert after.loss == pytest.approx(np.mean(losses), rel=1e-5)
        assert after.expected == pytest.approx((softmax(x) @ cost).mean(), rel=1e-5)


@pytest.mark.usefixtures("far")
@pytest.mark.parametrize("name", ["reinmax", "decoupled"])
def test_the_sampled_loss_has_the_expected_loss_for_its_mean(name):
    temperature = RULES[name].tau_forward
    for trained in run(Settings(estimators=[name], epochs=1)).runs:
        p, cost = softmax(start(1, 2.0) / temperature), costs(trained.power)
        mean = (p @ cost).mean()
        error = math.sqrt(((p @ cost**2) - (p @ cost) ** 2).mean() / (200 * 8 * 128))
        assert trained.points[-1].expected == pytest.approx(mean, rel=1e-5)
        assert abs(trained.points[-1].loss - mean) < 5 * error


def test_reinmax_follows_the_exact_gradient_and_straight_through_does_not():
    result = run(
        Settings(powers=[2], estimators=["exact", "reinmax", "straight_through"], epochs=4)
    )
    exact, reinmax, plain = ([point.expected for point in r.points] for r in result.runs)
    assert reinmax == sorted(reinmax, reverse=True)
    assert reinmax[-1] < 0.65 * reinmax[0]
    assert exact[-1] < reinmax[-1] < exact[-1] + 0.02 < plain[-1]


def test_a_run_is_fixed_by_its_seed_and_apart_from_later_powers():
    def losses(powers, seed):
        runs = run(Settings(powers=powers, estimators=["gumbel"], seeds=[seed], epochs=1)).runs
        return [trained.points[-1].loss for trained in runs]

    both = losses([2.0, 3.0], 5)
    assert both == losses([2.0, 3.0], 5)
    assert both[:1] == losses([2.0], 5)
    assert both != losses([2.0, 3.0], 6)


@pytest.mark.usefixtures("far")
def test_a_control_variate_keeps_the_mean_and_takes_variance():
    def gradients(control):
        trainer = polynomial._Trainer([1.5, 2.0], "reinmax", 1, control=control)
        found = []
        for _ in range(500):
            trainer.optimizer.zero_grad()
            trainer._losses().sum().backward()
            found.append(trainer.logits.grad[:, 0].double())
        return torch.stack(found[200:])

    p = torch.from_numpy(softmax(start(1, 2.0)))
    cost = torch.from_numpy(costs(2.0))
    exact = p * (cost - (p @ cost)[:, None]) / 128
    plain, less = gradients(False), gradients(True)
    before, after = (each.var(0).sum((-2, -1)) for each in (plain, less))
    assert (after < 0.5 * before).all()
    for found in (plain, less):  # of the quadratic, for which ReinMax has no bias
        error = found[:, 1].var(0).sum() / len(found)
        assert (found[:, 1].mean(0) - exact).square().sum() < 2 * error


def test_every_categorical_rule_has_its_place():
    categorical = {
        name: rule
        for name, rule in st.core.registry.RULES.items()
        if issubclass(rule.type, st.estimators.CategoricalEstimator)
    }
    assert set(RULES) == set(categorical) - {"mve_integer"}
    assert all(type(rule) is categorical[name].type for name, rule in RULES.items())
    assert set(PUBLISHED) < set(RULES)
    assert RULES["decoupled"] != DecoupledST()  # which is StraightThrough()
    assert not issubclass(Softmax, st.estimators.CategoricalEstimator)


def test_what_was_published_is_kept_for_runs_of_its_length_only(monkeypatch):
    monkeypatch.setattr(polynomial, "STEPS", 1)
    whole = run(Settings(powers=[1.5, 4.0], estimators=["exact"]))
    assert whole.optima[0].published == {name: by[1.5] for name, by in PUBLISHED.items()}
    assert whole.optima[1].published == {}
    assert run(Settings(estimators=["exact"], epochs=49)).optima[0].published == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"powers": [2.0, 0.0]}, r"powers must be different numbers above 0.*got \[2.0, 0.0\]"),
        ({"powers": [math.nan]}, "powers must be different numbers above 0"),
        ({"powers": [math.inf]}, "powers must be different numbers above 0"),
        ({"powers": [2.0, 2.0]}, "powers must be different numbers above 0"),
        ({"powers": []}, "powers must be different numbers above 0"),
        ({"estimators": ["reinmix"]}, "did you mean 'reinmax'"),
        ({"estimators": ["mve_integer"]}, "not equally spaced; use mve"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_trained(settings, message):
    with pytest.raises(st.ArgumentError, match=message):
        run(Settings(**settings), lambda progress: pytest.fail("it trains"))


def test_an_interrupted_study_keeps_what_it_has():
    def notify(progress):
        if (progress.run, progress.done) == ("darn, seed 1", 1):
            raise KeyboardInterrupt

    result = run(Settings(estimators=["reinmax", "darn", "mve"], epochs=2), notify)
    assert not result.header.complete
    assert [(r.estimator, len(r.points)) for r in result.runs] == (
        [("reinmax", 3)] * 3 + [("darn", 2)] * 3
    )


def point(epoch, loss):
    return {"epoch": epoch, "loss": loss, "expected": 0.001, "seconds": 1.0}


@pytest.fixture
def result():
    def trained(name, rule, seed, *losses):
        points = [point(epoch, loss) for epoch, loss in enumerate(losses)]
        return {"estimator": name, "rule": rule, "power": 3.0, "seed": seed, "points": points}

    return {
        "header": {
            "study": "polynomial",
            "command": "straightthrough study polynomial",
            "started": "2026-01-02T03:04:05+00:00",
            "environment": {"torch": "9.8.7"},
            "seconds": 12.34,
            "complete": True,
        },
        "settings": {"powers": [3.0], "seeds": [1, 2], "epochs": 1},
        "optima": [{"power": 3.0, "loss": 0.000184, "published": {"reinmax": 0.0007}}],
        "runs": [
            trained("exact", "exact gradient", 1, None, 0.0003),
            trained("reinmax", "ReinMax()", 1, None, 0.00072),
            trained("reinmax", "ReinMax()", 2, None, 0.00074),
            trained("darn", "DARN()", 1, None, None),
        ],
    }


def test_the_table_puts_the_published_loss_beside_ours(result):
    (table,) = tables(result)
    assert table.columns[0] == "Loss |z - 0.45|^3"
    assert table.rows == [
        ["exact gradient", "1", "–", "0.00030", "–", "0.00100", "1.0"],
        ["ReinMax()", "2", "0.0007", "0.00073 ± 0.00001", "+4.3 ± 7.1", "0.00100", "1.0"],
        ["DARN()", "1", "–", "–", "–", "0.00100", "1.0"],
    ]
    assert "Least possible: 0.00018" in table.note


def test_a_run_that_was_cut_short_is_not_held_against_the_published(result):
    result["settings"]["epochs"] = 2
    (table,) = tables(result)
    assert table.rows[1][0] == "ReinMax(), epoch 1"
    assert table.rows[1][4] == "–"


def test_the_page_has_curves_of_the_published_rules_and_of_the_others(result):
    charts = [p for p in pages.layout(result).parts if isinstance(p, Chart)]
    drawn = [chart.draw.args[0] for chart in charts]
    assert [[line.label for line in lines] for lines in drawn] == [
        ["exact gradient", "ReinMax()"],
        ["exact gradient", "DARN()"],
    ]
    assert "+4.3" in pages.render(result)


def test_the_command_prints_tables_and_writes_a_page(cli, tmp_path):
    line = "study polynomial --powers 2 --estimators exact,reinmax --seeds 4,2 --epochs 1 --output"
    code, out, _ = cli(line, tmp_path)
    found = json.loads((tmp_path / "result.json").read_text())
    assert code == 0
    assert [trained["seed"] for trained in found["runs"]] == [4, 2, 4, 2]
    row = next(text for text in out.splitlines() if text.startswith("ReinMax(tau=1.0)"))
    assert row.split()[1:3] == ["2", "–"]
    assert "exact gradient" in (tmp_path / "report.html").read_text()

"""The studies: what they measure against sums written out here, and what they record."""

import itertools
import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import straightthrough as st
from straightthrough.studies import mask, vae, vae_model
from straightthrough.studies.record import pictures, to_json
from straightthrough.studies.vae_model import CategoricalVAE, gradient_cosines
from straightthrough.studies.vae_presets import PRESETS


@pytest.fixture
def model():
    torch.manual_seed(1)
    model = CategoricalVAE(9, hidden=(6, 5))
    with torch.no_grad():  # far from uniform, so that every outcome has a weight of its own
        for parameter in model.parameters():
            parameter.mul_(2)
    return model


def every_outcome(model, logits, images):
    """The probabilities and losses, both (N, 4096), of all 8**4 codes of N images."""
    indices = torch.tensor(list(itertools.product(range(8), repeat=4)))
    codes = F.one_hot(indices, 8).float()
    probability = (logits.softmax(-1).unsqueeze(1) * codes).sum(-1).prod(-1)
    pixels = model.decoder(codes)
    losses = [
        F.binary_cross_entropy_with_logits(pixels, image.expand_as(pixels), reduction="none")
        for image in images
    ]
    return probability, torch.stack(losses).sum(-1)


def test_the_exact_loss_is_the_sum_over_all_outcomes(model):
    images = torch.rand(3, 9)
    with torch.no_grad():
        logits = model.encoder(images)
        probability, losses = every_outcome(model, logits, images)
    p = logits.softmax(-1)
    kl = (p * (p / (1 / 8)).log()).sum((1, 2))
    expected = ((probability * losses).sum(1) + kl).mean()
    assert model.mean_loss(images) == pytest.approx(expected.item(), rel=1e-5)


def test_the_sampled_loss_has_the_exact_loss_for_its_mean(model):
    images = torch.rand(3, 9)
    with torch.no_grad():
        losses = model.loss(images.repeat(4000, 1), st.estimators.ReinMax())
    error = losses.std() / math.sqrt(len(losses))
    assert abs(losses.mean() - model.mean_loss(images)) < 5 * error


@pytest.mark.parametrize("name", ["straight_through", "gumbel", "reinmax"])
def test_the_cosines_are_those_to_the_gradient_of_the_enumerated_loss(model, name):
    rule = PRESETS["digits"].rule(name).rule
    images = torch.rand(3, 9)
    logits = model.encoder(images).detach().requires_grad_()
    probability, losses = every_outcome(model, logits, images)
    (exact,) = torch.autograd.grad((probability * losses.detach()).sum(), logits)
    one_draw, of_mean = gradient_cosines(model, images, rule, draws=1)

    again = logits.detach().unsqueeze(0).requires_grad_()
    pixels = model.decoder(st.categorical(again, rule, seed=0))
    F.binary_cross_entropy_with_logits(pixels, images.unsqueeze(0), reduction="sum").backward()
    cosine = F.cosine_similarity(again.grad.flatten(), exact.flatten(), dim=0)
    assert one_draw == pytest.approx(cosine.item(), abs=1e-4)
    assert one_draw < of_mean <= 1


def test_reinmax_has_no_bias_where_the_loss_is_quadratic(model, monkeypatch):
    monkeypatch.setattr(
        vae_model, "reconstruction_loss", lambda pixels, images: ((pixels - images) ** 2).sum(-1)
    )
    model.decoder = nn.Sequential(nn.Flatten(-2), nn.Linear(32, 9))
    images = torch.rand(2, 9)
    _, unbiased = gradient_cosines(model, images, st.estimators.ReinMax())
    _, biased = gradient_cosines(model, images, st.estimators.StraightThrough())
    assert unbiased == pytest.approx(1, abs=1e-5)
    assert biased < 0.999


def test_the_vae_learns_and_records():
    result = vae.run(vae.Settings(estimators=["reinmax"], seeds=[0, 1], epochs=3))
    assert result.header.complete
    assert [run.seed for run in result.runs] == [0, 1]
    for run in result.runs:
        assert [point.epoch for point in run.points] == [0, 1, 2, 3]
        assert run.points[-1].test < 0.7 * run.points[0].test
        assert run.rule == "ReinMax(tau=1.3)"
    first, second = (run.points[-1].test for run in result.runs)
    assert first != second
    assert result.originals.shape == (8, 8, 8)
    assert result.runs[0].samples.shape == (64, 8, 8)


def test_a_seed_fixes_a_run():
    settings = vae.Settings(estimators=["gumbel"], epochs=1)
    one, two = vae.run(settings).runs[0], vae.run(settings).runs[0]
    assert one.points[-1].test == two.points[-1].test
    assert one.points[-1].cosine == two.points[-1].cosine
    assert one.samples == two.samples


@pytest.fixture
def no_timing(monkeypatch):
    """Leave out the timing of masks, which takes seconds and has a test of its own."""
    monkeypatch.setattr(mask, "measure", lambda notify: [])


@pytest.mark.usefixtures("no_timing")
@pytest.mark.parametrize("study", [vae, mask])
def test_interrupted_studies_keep_what_they_have(study):
    def notify(progress):
        if progress.run in ("gumbel, seed 0", "dense, seed 0") and progress.done == 1:
            raise KeyboardInterrupt

    result = study.run(study.Settings(epochs=2), notify)
    assert not result.header.complete
    assert result.header.seconds > 0
    assert [len(run.points) for run in result.runs] == [3, 2]


@pytest.mark.parametrize("study", [vae, mask])
def test_epochs_must_be_positive(study):
    with pytest.raises(st.ArgumentError, match="epochs must be at least 1, got 0"):
        study.run(study.Settings(epochs=0))


def test_an_unknown_estimator_is_named_before_anything_is_read():
    with pytest.raises(st.ArgumentError, match="did you mean 'reinmax'"):
        vae.run(vae.Settings("mnist", "no such folder", estimators=["reinmix"]))


@pytest.mark.usefixtures("no_timing")
def test_the_masked_network_learns_with_fewer_weights():
    result = mask.run(mask.Settings(epochs=10))
    masked, dense = result.runs
    assert (masked.network, dense.network) == ("masked", "dense")
    assert masked.weights == dense.weights == 64 * 128 + 128 * 64 + 64 * 10
    assert masked.points[0].live == dense.points[-1].live == 100
    assert masked.points[-1].live < 60
    for run in (masked, dense):
        assert run.points[-1].test_error < 15 < run.points[0].test_error


def test_live_weights_are_the_ones_that_inference_uses():
    torch.manual_seed(0)
    layer = mask.MaskedLinear(5, 4).eval()
    nn.init.normal_(layer.gate.logits)
    x = torch.randn(3, 5)
    expected = x @ (layer.weight * layer.live()).T + layer.bias
    torch.testing.assert_close(layer(x), expected)
    assert 0 < layer.live().sum() < 20


def test_the_cost_is_measured_against_the_bare_layer():
    seen = []
    costs = mask.measure(seen.append, size=256, batch=8, rounds=5)
    assert [cost.name for cost in costs] == [
        "no mask",
        "soft, plain torch",
        "hard, in training",
        "hard, at inference",
    ]
    bare, soft, *_ = costs
    assert bare.share == 0
    assert soft.share == pytest.approx(100 * (1 - bare.milliseconds / soft.milliseconds))
    assert soft.share > 0
    assert [progress.done for progress in seen] == [0, 1, 2, 3, 4, 5]


def test_results_are_json_without_nan():
    point = vae.Point(1, math.inf, 2.0, 2.5, math.nan, 1.0, 3.0)
    run = vae.Run("reinmax", "ReinMax()", 0, 1e-3, points=[point])
    result = vae.Result(vae.Header("vae"), vae.Settings(), runs=[run])
    plain = to_json(result)
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["runs"][0]["points"] == [
        {
            "epoch": 1,
            "train": None,
            "test": 2.0,
            "sampled": 2.5,
            "cosine": None,
            "mean_cosine": 1.0,
            "seconds": 3.0,
        }
    ]
    assert plain["header"]["environment"]["torch"] == torch.__version__


def test_pictures_keep_grey_levels():
    images = torch.tensor([[[0.0, 0.5], [1.0, 0.25]]])
    packed = pictures(images)
    assert packed.shape == (1, 2, 2)
    assert packed.data == "AID/QA=="  # bytes 0, 128, 255, 64

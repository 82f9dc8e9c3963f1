"""The presets of the categorical VAE: what papers trained with, on images made up here."""

import copy
import json
import math
import os

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import straightthrough as st
from straightthrough.studies.data import NPZ_KEYS, Data, load
from straightthrough.studies.vae import study as vae
from straightthrough.studies.vae.gradient import errors
from straightthrough.studies.vae.model import CategoricalVAE
from straightthrough.studies.vae.presets import PRESETS, choose, constant, warm_up_and_cosine

E = st.estimators

# Learning rate, rule and train -ELBO, as the papers have them.
PUBLISHED = {
    "hooper": {
        "reinmax": (0.002043, E.ReinMax(tau=1.18), 100.34),
        "mve": (0.001269, E.MVE(tau=150), 101.11),
    },
    "reinmax": {
        "reinmax": (5e-4, E.ReinMax(tau=1.3), 124.66),
        "straight_through": (1e-3, E.StraightThrough(tau=1.3), 135.53),
        "gumbel": (3e-4, E.GumbelST(tau=0.5), 126.85),
        "gumbel_rao": (5e-4, E.GumbelRao(tau=0.5, samples=100), 125.94),
        "gapped": (5e-4, E.GappedST(tau=1.0, gap=1.0), 126.35),
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """MNIST's format, and 300 images of noise."""
    generator = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("mnist")
    arrays = [
        generator.integers(0, 256, (200, 28, 28), np.uint8),
        generator.integers(0, 10, 200, np.uint8),
        generator.integers(0, 256, (100, 28, 28), np.uint8),
        generator.integers(0, 10, 100, np.uint8),
    ]
    np.savez(folder / "mnist.npz", **dict(zip(NPZ_KEYS, arrays, strict=True)))
    return folder


def trainer(name, estimator, epochs=50):
    images, labels = torch.rand(20, 28, 28), torch.zeros(20, dtype=torch.long)
    data = Data("mnist", images, labels, images, labels)
    return vae._Trainer(data, PRESETS[name], epochs, estimator, seed=3)


@pytest.mark.parametrize("name", PUBLISHED)
def test_rates_temperatures_and_results_are_the_published_ones(name):
    preset = PRESETS[name]
    assert preset.source
    assert set(PUBLISHED[name]) <= set(preset.estimators)
    for estimator, (rate, rule, elbo) in PUBLISHED[name].items():
        tuned = preset.rule(estimator)
        assert tuned.rate == pytest.approx(rate, rel=5e-4)
        assert (tuned.rule, tuned.published) == (rule, elbo)
    others = set(preset.tuned) - set(PUBLISHED[name])
    assert all(preset.tuned[other].published is None for other in others)


def test_the_rest_of_the_papers_settings():
    hooper, reinmax = PRESETS["hooper"], PRESETS["reinmax"]
    assert hooper.data == reinmax.data == ("mnist",)
    assert (hooper.batch, hooper.epochs, hooper.repeats) == (200, 50, 2)
    assert (reinmax.batch, reinmax.epochs, reinmax.repeats) == (100, 160, 1)
    assert (hooper.schedule, reinmax.schedule) == (warm_up_and_cosine, constant)
    weights = [nn.Parameter(torch.zeros(1))]
    for preset, kind, decay in ((hooper, torch.optim.AdamW, 0.01), (reinmax, torch.optim.Adam, 0)):
        optimizer = preset.optimizer(weights, 0.5)
        assert type(optimizer) is kind
        (group,) = optimizer.param_groups
        assert (group["lr"], group["betas"], group["eps"]) == (0.5, (0.9, 0.999), 1e-8)
        assert group["weight_decay"] == decay


@pytest.mark.parametrize(
    ("name", "code", "activation"),
    [("hooper", 128 * 4, nn.LeakyReLU), ("reinmax", 8 * 4, nn.ReLU)],
)
def test_the_layers_are_the_published_ones(name, code, activation):
    model = trainer(name, "reinmax").model
    layers = [m for m in model.modules() if isinstance(m, nn.Linear)]
    sizes = [layers[0].in_features, *(layer.out_features for layer in layers)]
    assert sizes == [784, 512, 256, code, 256, 512, 784]
    between = [m for m in model.modules() if isinstance(m, nn.ReLU | nn.LeakyReLU)]
    assert [type(m) for m in between] == [activation] * 4
    if activation is nn.LeakyReLU:
        assert {m.negative_slope for m in between} == {0.2}


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")
def test_the_schedule_is_the_one_of_torchs_schedulers():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 1.0)
    schedulers = torch.optim.lr_scheduler
    torchs = schedulers.SequentialLR(
        optimizer,
        [
            schedulers.LinearLR(optimizer, start_factor=1e-3, total_iters=5),
            schedulers.CosineAnnealingLR(optimizer, T_max=45),
        ],
        milestones=[5],
    )
    for epoch in range(50):
        assert warm_up_and_cosine(epoch, 50) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        torchs.step()


@pytest.mark.parametrize("epochs", [1, 5, 6])
def test_short_runs_have_a_schedule_too(epochs):
    shares = [warm_up_and_cosine(epoch, epochs) for epoch in range(epochs)]
    assert shares[0] == pytest.approx(1e-3)
    assert shares == sorted(shares)
    assert shares[-1] <= 1


@pytest.mark.parametrize(
    ("name", "kind", "repeats", "share"),
    [("hooper", torch.optim.AdamW, 2, 1e-3), ("reinmax", torch.optim.Adam, 1, 1.0)],
)
def test_an_epoch_is_what_the_paper_says_and_reports_the_loss_it_took(name, kind, repeats, share):
    ours = trainer(name, "reinmax")
    ours.model.double()
    ours.train = ours.train.double()
    state, model = torch.get_rng_state(), copy.deepcopy(ours.model)
    (sampled,) = ours.epoch()

    torch.set_rng_state(state)
    images = ours.train[torch.randperm(20)]
    logits = model.encoder(images)
    pixels = model.decoder(st.categorical(logits, ours.rule))
    bce = F.binary_cross_entropy_with_logits(pixels, images, reduction="sum")
    prior = torch.distributions.Categorical(logits=torch.zeros_like(logits))
    kl = torch.distributions.kl_divergence(torch.distributions.Categorical(logits=logits), prior)
    loss = (bce + kl.sum()) / len(images)
    loss.backward()
    optimizer = kind(model.parameters(), share * ours.rate)
    for _ in range(repeats):
        optimizer.step()

    assert sampled == pytest.approx(loss.item(), rel=1e-12)
    for mine, reference in zip(ours.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-9, atol=1e-12)


def test_a_code_of_too_many_outcomes_is_drawn():
    torch.manual_seed(1)
    model = CategoricalVAE(9, (6, 5), latents=128, categories=4)
    images = torch.rand(3, 9)
    assert not model.enumerable
    assert CategoricalVAE(9, (6, 5), latents=4, categories=8).enumerable
    assert errors(model, images, {"reinmax": E.ReinMax()}) == {}
    with torch.no_grad():
        for layer in (model.encoder[0], model.decoder[1]):
            layer.weight.mul_(4)  # so that draws differ
        losses = model.loss(images.repeat(2000, 1), E.ReinMax())
    many = model.mean_loss(images.repeat(2000, 1))
    error = losses.std().item() / math.sqrt(len(losses))
    assert error > 1e-4
    assert abs(many - losses.mean().item()) < 5 * math.sqrt(2) * error
    assert many == model.mean_loss(images.repeat(2000, 1))


def test_drawn_and_enumerated_means_agree():
    torch.manual_seed(1)
    model = CategoricalVAE(9, (6, 5), latents=2, categories=3)
    images = torch.rand(3, 9).repeat(2000, 1)
    with torch.no_grad():
        losses = model.loss(images, E.ReinMax())
        drawn = model._drawn_loss(images)
    error = losses.std().item() / math.sqrt(len(losses))
    assert abs(drawn - model.mean_loss(images)) < 5 * error


def test_data_and_preset_find_each_other():
    assert choose(None, None) == (PRESETS["digits"], "digits")
    assert choose(None, "mnist") == (PRESETS["mnist"], "mnist")
    assert choose(None, "fashion-mnist") == (PRESETS["mnist"], "fashion-mnist")
    assert choose("hooper", None) == (PRESETS["hooper"], "mnist")
    assert choose("reinmax", "mnist") == (PRESETS["reinmax"], "mnist")


def test_an_estimator_that_was_not_tuned_gets_the_presets_rate():
    tuned = PRESETS["hooper"].rule("darn")
    assert (tuned.rate, tuned.rule, tuned.published) == (1e-3, E.DARN(), None)


@pytest.mark.parametrize("name", ["hooper", "reinmax"])
def test_a_preset_runs_from_the_command_line(cli, folder, tmp_path, monkeypatch, name):
    monkeypatch.setattr(vae, "AUDITED", 1)
    line = f"study vae --preset {name} --epochs 1 --estimators reinmax,darn --data-dir"
    code, out, _ = cli(line, folder, "--output", tmp_path)
    assert code == 0
    published = PUBLISHED[name]["reinmax"][2]
    result = json.loads((tmp_path / "result.json").read_text())
    assert [run["published"] for run in result["runs"]] == [published, None]
    assert (result["settings"]["preset"], result["settings"]["data"]) == (name, "mnist")
    assert result["source"] == PRESETS[name].source
    untrained, point = result["runs"][0]["points"]
    assert untrained["sampled"] is None
    rows = [line.split() for line in out.splitlines() if line.startswith("ReinMax(")]
    ours = point["sampled"]
    assert rows[0][3:] == [f"{ours:.2f}", f"{published:.2f}", f"{ours - published:+.2f}"]
    assert set(point["errors"]) == ({"reinmax", "darn"} if name == "reinmax" else set())
    assert ("Model trained by" in out) == (name == "reinmax")


@pytest.mark.shared
@pytest.mark.parametrize("name", ["hooper", "reinmax"])
def test_on_mnist_three_epochs_beat_every_model_without_a_code(name):
    folder = os.environ["STRAIGHTTHROUGH_DATA"]
    mean = load("mnist", folder).test.flatten(1).double().mean(0)
    without_code = F.binary_cross_entropy(mean, mean, reduction="sum").item()
    settings = vae.Settings(folder=folder, estimators=["reinmax"], epochs=3, preset=name)
    (run,) = vae.run(settings).runs
    assert run.points[0].test > without_code
    assert run.points[-1].test < 0.85 * without_code

"""The losses and gradients of the VAE against sums written out here."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import straightthrough as st
from straightthrough.studies.vae import model as vae_model
from straightthrough.studies.vae.model import CategoricalVAE, gradient_cosines
from straightthrough.studies.vae.presets import PRESETS


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

"""The losses and gradients of the VAE against sums written out here."""

import math

import pytest
import torch

import straightthrough as st
from small_vae import every_outcome, far_from_uniform
from straightthrough.studies.vae.model import entropy


@pytest.fixture
def model():
    return far_from_uniform()


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


def test_the_entropy_is_torchs(model):
    logits = model.encoder(torch.rand(3, 9))
    expected = torch.distributions.Categorical(logits=logits).entropy().sum(-1)
    torch.testing.assert_close(entropy(logits), expected)

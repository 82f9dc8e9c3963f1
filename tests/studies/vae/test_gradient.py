"""Errors of estimators on the VAE, and training without bias, against sums written out here."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import straightthrough as st
from small_vae import every_code, every_outcome, far_from_uniform
from straightthrough.studies.vae import gradient
from straightthrough.studies.vae.gradient import (
    errors,
    exact_gradient,
    loss_with_control,
    loss_without_bias,
)

E = st.estimators


@pytest.fixture
def model():
    return far_from_uniform()


def by_brute_force(model, images, rule):
    """Squared bias and variance over the squared exact gradient, of a rule without noise."""
    bias = variance = exact_squared = 0.0
    for image in images:
        logits = model.encoder(image[None]).detach().requires_grad_()
        probability, losses = every_outcome(model, logits, image[None])
        (exact,) = torch.autograd.grad((probability * losses.detach()).sum(), logits)
        codes = every_code().requires_grad_()
        pixels = model.decoder(codes)
        target = image.expand_as(pixels)
        total = F.binary_cross_entropy_with_logits(pixels, target, reduction="sum")
        (slope,) = torch.autograd.grad(total, codes)
        index = codes.argmax(-1)
        estimates = rule.vjp(logits.detach().expand_as(codes), index, slope).double()
        weight = probability[0].detach().double()[:, None, None]
        mean = (weight * estimates).sum(0)
        bias += float((mean - exact[0].double()).square().sum())
        variance += float((weight * (estimates - mean).square()).sum())
        exact_squared += float(exact.double().square().sum())
    return bias / exact_squared, variance / exact_squared


def test_errors_are_sums_over_outcomes_and_images(model):
    images = torch.rand(3, 9)
    rules = {"plain": E.StraightThrough(tau=1.3), "reinmax": E.ReinMax()}
    found = errors(model, images, rules)
    assert list(found) == list(rules)
    for name, rule in rules.items():
        bias, variance = by_brute_force(model, images, rule)
        assert found[name].bias == pytest.approx(bias, rel=1e-3)
        assert found[name].variance == pytest.approx(variance, rel=1e-3)


def test_the_noise_of_a_rule_is_taken_off_its_bias(model, monkeypatch):
    """GumbelRao averages GumbelST, so that both have the same mean, and it less variance."""
    monkeypatch.setattr(gradient, "SAMPLES", 16)
    rules = {"one": E.GumbelST(tau=0.5), "mean of ten": E.GumbelRao(tau=0.5, samples=10)}
    one, ten = errors(model, torch.rand(2, 9), rules).values()
    assert one.bias == pytest.approx(ten.bias, rel=0.05)
    assert ten.variance < 0.8 * one.variance


def test_reinmax_has_no_bias_where_the_loss_is_quadratic(model, monkeypatch):
    monkeypatch.setattr(
        gradient, "reconstruction_loss", lambda pixels, images: ((pixels - images) ** 2).sum(-1)
    )
    model.decoder = nn.Sequential(nn.Flatten(-2), nn.Linear(32, 9))
    found = errors(model, torch.rand(2, 9), {"a": E.ReinMax(), "b": E.StraightThrough()})
    assert found["a"].bias < 1e-9
    assert found["b"].bias > 1e-3


def test_the_exact_gradient_of_many_images_is_that_of_each(model):
    images = torch.rand(3, 9)
    logits = model.encoder(images).detach().requires_grad_()
    probability, losses = every_outcome(model, logits, images)
    (expected,) = torch.autograd.grad((probability * losses.detach()).sum(), logits)
    torch.testing.assert_close(
        exact_gradient(model, images, logits), expected, atol=1e-6, rtol=1e-4
    )


class Held(nn.Module):
    """An encoder that gives the logits it holds."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, images):
        return self.logits


def test_without_bias_the_mean_is_exact_and_the_covariance_that_of_the_rule(model):
    image, rule, repeats = torch.rand(1, 9), E.StraightThrough(tau=1.3), 20_000
    row = model.encoder(image).detach()
    (error,) = errors(model, image, {"plain": rule}).values()
    exact = exact_gradient(model, image, row)[0]
    kl_logits = row.clone().requires_grad_()
    (kl,) = torch.autograd.grad(gradient.divergence(kl_logits).sum(), kl_logits)

    model.encoder = Held(row.repeat(repeats, 1, 1))
    images = image.expand(repeats, -1)
    losses = loss_without_bias(model, images, rule)
    losses.sum().backward()
    estimates = model.encoder.logits.grad - kl
    squared = exact.square().sum()
    variance = float(estimates.var(0).sum() / squared)
    assert variance == pytest.approx(error.variance, rel=0.05)
    bias = float((estimates.mean(0) - exact).square().sum() / squared)
    assert bias < 5 * variance / repeats < error.bias / 20


def test_a_control_variate_keeps_the_mean_and_takes_variance(model):
    image, rule, repeats = torch.rand(1, 9), E.ReinMax(), 20_000
    row = model.encoder(image).detach()
    (error,) = errors(model, image, {"plain": rule}).values()
    exact = exact_gradient(model, image, row)[0]
    kl_logits = row.clone().requires_grad_()
    (kl,) = torch.autograd.grad(gradient.divergence(kl_logits).sum(), kl_logits)
    model.encoder = Held(row.repeat(repeats, 1, 1))
    variate = st.nn.ControlVariate(tuple(row.shape[1:]), decay=0.0)
    sample = st.nn.Categorical(rule, control=variate)
    found = []
    for _ in range(2):  # the first has no b yet, and is the rule's
        model.zero_grad()
        loss_with_control(model, image.expand(repeats, -1), sample).sum().backward()
        estimates = model.encoder.logits.grad - kl
        spread, bias = estimates.var(0).sum(), (estimates.mean(0) - exact).square().sum()
        found.append([float(part / exact.square().sum()) for part in (bias, spread)])
    (bias, plain), (same, less) = found
    assert plain == pytest.approx(error.variance, rel=0.05)
    assert less < 0.8 * plain
    for each in (bias, same):
        assert each == pytest.approx(error.bias, abs=5 * plain / repeats)


def test_without_bias_the_value_and_the_decoders_gradient_are_those_of_one_draw(model):
    images, rule = torch.rand(5, 9), E.ReinMax()
    found = []
    for loss in (type(model).loss, loss_without_bias):
        torch.manual_seed(3)
        model.zero_grad()
        losses = loss(model, images, rule)
        losses.sum().backward()
        found.append([losses.detach(), *(p.grad.clone() for p in model.decoder.parameters())])
        steered = next(model.encoder.parameters()).grad.clone()
        found[-1].append(steered)
    for plain, without in zip(found[0][:-1], found[1][:-1], strict=True):
        torch.testing.assert_close(without, plain)
    assert (found[0][-1] - found[1][-1]).abs().max() > 1e-3

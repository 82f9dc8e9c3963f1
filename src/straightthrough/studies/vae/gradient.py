"""How far estimators are from the exact gradient of the VAE, and training without their bias."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import straightthrough as st

from .model import CategoricalVAE, divergence, posterior, reconstruction_loss

Rule = st.estimators.CategoricalEstimator

SAMPLES = 4
"""Draws of a rule's own noise at each outcome; that noise is taken off its squared bias."""


@dataclass(frozen=True)
class Error:
    """Squared bias and variance of an estimator over the squared norm of the exact gradient.

    All three are sums over images, of the gradient of the reconstruction loss to the logits.
    """

    bias: float
    variance: float


def errors(model: CategoricalVAE, images: Tensor, rules: Mapping[str, Rule]) -> dict[str, Error]:
    """Return the error of each rule on one model, nothing where it is not `enumerable`."""
    if not model.enumerable:
        return {}
    exact = 0.0
    bias, variance = dict.fromkeys(rules, 0.0), dict.fromkeys(rules, 0.0)
    for image, row in zip(images, model.encoder(images).detach(), strict=True):

        def loss(code: Tensor, image: Tensor = image) -> Tensor:
            return reconstruction_loss(model.decoder(code), image)

        exact += float(st.audit.exact_gradient(loss, row).double().square().sum())
        found = st.audit.compare(loss, row, list(rules.values()), samples=SAMPLES).rows
        for name, moments in zip(rules, found, strict=True):
            bias[name] += moments.bias_squared
            variance[name] += moments.variance
    return {name: Error(bias[name] / exact, variance[name] / exact) for name in rules}


@torch.no_grad()
def exact_gradient(model: CategoricalVAE, images: Tensor, logits: Tensor) -> Tensor:
    """Return the gradient of the expected reconstruction loss to the logits, `(N, L, C)`.

    It is `E[loss 1(z_l = c)] - p_lc E[loss]`, for all images at once, as they share the outcomes.
    """
    pixels, p = model.outcomes(), logits.softmax(-1)
    losses = F.softplus(pixels).sum(-1) - images @ pixels.T
    weighed = posterior(p) * losses
    latents = range(1, 1 + model.latents)
    cube = weighed.unflatten(-1, [model.categories] * model.latents)
    by_class = torch.stack([cube.sum([d for d in latents if d != own]) for own in latents], 1)
    return by_class - p * weighed.sum(-1)[:, None, None]


def loss_with_control(model: CategoricalVAE, images: Tensor, sample: st.nn.Categorical) -> Tensor:
    """Return -ELBO, `(N,)`, as `CategoricalVAE.loss` does, the code drawn by a module."""
    logits = model.encoder(images)
    return reconstruction_loss(model.decoder(sample(logits)), images) + divergence(logits)


def loss_without_bias(model: CategoricalVAE, images: Tensor, rule: Rule) -> Tensor:
    """Return -ELBO, `(N,)`, as `CategoricalVAE.loss` does, but for the rule's bias in backward.

    The gradient to the logits is `exact + (e1 - e2) / sqrt(2)`, e1 and e2 the rule's estimates of
    two draws: its noise has mean 0 and the covariance of one estimate. The gradient to the decoder
    is that of the first draw.
    """
    logits = model.encoder(images)
    held = logits.detach().requires_grad_()
    drawn = [
        reconstruction_loss(model.decoder(st.categorical(held, rule)), images) for _ in range(2)
    ]
    one, other = (torch.autograd.grad(d.sum(), held, retain_graph=True)[0] for d in drawn)
    gradient = exact_gradient(model, images, held) + (one - other) / math.sqrt(2)
    steered = drawn[0] + (logits * gradient).sum((-2, -1))
    return st.straight_through(drawn[0], steered) + divergence(logits)

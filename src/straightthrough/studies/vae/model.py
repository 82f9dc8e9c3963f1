"""The categorical VAE and its losses, drawn and exact."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import straightthrough as st

ENUMERATED = 2**14
"""Outcomes over which an expectation is summed, at most."""


class CategoricalVAE(nn.Module):
    """An encoder to logits `(N, latents, categories)` and a decoder from one-hots to pixels."""

    def __init__(
        self,
        pixels: int,
        hidden: tuple[int, int],
        latents: int = 4,
        categories: int = 8,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        wide, narrow = hidden
        self.latents, self.categories = latents, categories
        self.encoder = nn.Sequential(
            nn.Linear(pixels, wide),
            activation(),
            nn.Linear(wide, narrow),
            activation(),
            nn.Linear(narrow, latents * categories),
            nn.Unflatten(-1, (latents, categories)),
        )
        self.decoder = nn.Sequential(
            nn.Flatten(-2),
            nn.Linear(latents * categories, narrow),
            activation(),
            nn.Linear(narrow, wide),
            activation(),
            nn.Linear(wide, pixels),
        )

    @property
    def enumerable(self) -> bool:
        """Whether the outcomes of the code are few enough for a sum over all."""
        return self.categories**self.latents <= ENUMERATED

    def loss(
        self, images: Tensor, rule: st.estimators.CategoricalEstimator, seed: int | None = None
    ) -> Tensor:
        """Return -ELBO, `(N,)`, with one draw an image."""
        logits = self.encoder(images)
        code = st.categorical(logits, rule, seed=seed)
        return reconstruction_loss(self.decoder(code), images) + divergence(logits)

    @torch.no_grad()
    def mean_loss(self, images: Tensor) -> float:
        """Return the mean -ELBO: exact where `enumerable`, else with one draw an image."""
        mean = self._exact_loss if self.enumerable else self._drawn_loss
        return mean(images)

    @torch.no_grad()
    def outcomes(self) -> Tensor:
        """Return the pixels' logits of every outcome of the code, `(outcomes, pixels)`."""
        return self.decoder(self.codes)

    @cached_property
    def codes(self) -> Tensor:
        """Every outcome of the code, `(outcomes, latents, categories)`."""
        index = torch.cartesian_prod(*[torch.arange(self.categories)] * self.latents)
        return F.one_hot(index, self.categories).float()

    def _exact_loss(self, images: Tensor) -> float:
        pixels, total = self.outcomes(), 0.0
        constant = F.softplus(pixels).sum(-1)
        for block in images.split(1000):
            logits = self.encoder(block)
            q = posterior(logits.softmax(-1))
            expected = q @ constant - (q @ pixels * block).sum(-1) + divergence(logits)
            total += float(expected.sum(dtype=torch.float64))
        return total / len(images)

    def _drawn_loss(self, images: Tensor) -> float:
        rule = st.estimators.StraightThrough()
        blocks = [
            self.loss(block, rule, seed=seed).sum(dtype=torch.float64)
            for seed, block in enumerate(images.split(1000))
        ]
        return float(sum(blocks)) / len(images)


def reconstruction_loss(pixels: Tensor, images: Tensor) -> Tensor:
    """Return the cross-entropy of grey levels, summed over pixels."""
    return (F.softplus(pixels) - pixels * images).sum(-1)


def posterior(p: Tensor) -> Tensor:
    """Return the probability of every outcome, `(N, outcomes)`, out of those of each latent."""
    q = p.new_ones(len(p), 1)
    for latent in p.unbind(1):
        q = (q.unsqueeze(-1) * latent.unsqueeze(1)).flatten(1)
    return q


def divergence(logits: Tensor) -> Tensor:
    """Return KL(q || uniform), summed over latents."""
    latents, categories = logits.shape[-2:]
    return latents * math.log(categories) - entropy(logits)


def entropy(logits: Tensor) -> Tensor:
    """Return the entropy of q, summed over latents."""
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum((-2, -1))

"""The categorical VAE: its losses, drawn and exact, and how good its gradient is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

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

    def _exact_loss(self, images: Tensor) -> float:
        codes = torch.cartesian_prod(*[torch.arange(self.categories)] * self.latents)
        pixels = self.decoder(F.one_hot(codes, self.categories).float())
        constant = F.softplus(pixels).sum(-1)
        total = 0.0
        for block in images.split(1000):
            logits = self.encoder(block)
            q = torch.ones(len(block), 1)
            for p in logits.softmax(-1).unbind(1):
                q = (q.unsqueeze(-1) * p.unsqueeze(1)).flatten(1)
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


def divergence(logits: Tensor) -> Tensor:
    """Return KL(q || uniform), summed over latents."""
    log_p = logits.log_softmax(-1)
    latents, categories = logits.shape[-2:]
    return (log_p.exp() * log_p).sum((-2, -1)) + latents * math.log(categories)


def gradient_cosines(
    model: CategoricalVAE, images: Tensor, rule: st.estimators.CategoricalEstimator, draws: int = 64
) -> tuple[float, float]:
    """Return how well the estimated gradient points along the exact one: one draw, and the mean.

    The gradient is that of the reconstruction loss to the logits; the divergence has no draw.
    First, the cosine of what a training step gets: all images' gradients from one draw each, as
    one vector, averaged over `draws`. Second, that of the estimator's expectation, which
    only bias turns away, averaged over the images. Both are NaN where the model is not
    `enumerable`.
    """
    if not model.enumerable:
        return math.nan, math.nan
    logits = model.encoder(images).detach()
    exact, of_mean = [], []
    for image, row in zip(images, logits, strict=True):

        def loss(code: Tensor, image: Tensor = image) -> Tensor:
            return reconstruction_loss(model.decoder(code), image)

        exact.append(st.audit.exact_gradient(loss, row))
        of_mean.append(st.audit.compare(loss, row, [rule], samples=1).rows[0].cosine)
    repeated = logits.repeat(draws, 1, 1, 1).requires_grad_()
    total = reconstruction_loss(model.decoder(st.categorical(repeated, rule, seed=0)), images).sum()
    (gradient,) = torch.autograd.grad(total, repeated)
    one_draw = F.cosine_similarity(gradient.flatten(1), torch.stack(exact).flatten(), dim=-1)
    return float(one_draw.mean()), statistics.mean(of_mean)

"""A small categorical VAE, and the sums over all its codes."""

import itertools

import torch
import torch.nn.functional as F

from straightthrough.studies.vae.model import CategoricalVAE


def far_from_uniform():
    """Return a model of 3 x 3 pixels in which every outcome has a weight of its own."""
    torch.manual_seed(1)
    model = CategoricalVAE(9, hidden=(6, 5))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    return model


def every_outcome(model, logits, images):
    """Return the probabilities and losses, both (N, 4096), of all 8**4 codes of N images."""
    codes = every_code()
    probability = (logits.softmax(-1).unsqueeze(1) * codes).sum(-1).prod(-1)
    pixels = model.decoder(codes)
    losses = [
        F.binary_cross_entropy_with_logits(pixels, image.expand_as(pixels), reduction="none")
        for image in images
    ]
    return probability, torch.stack(losses).sum(-1)


def every_code():
    """Return the one-hots of all codes, (4096, 4, 8)."""
    return F.one_hot(torch.tensor(list(itertools.product(range(8), repeat=4))), 8).float()

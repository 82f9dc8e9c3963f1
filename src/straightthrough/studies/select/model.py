"""Ways to choose k pixels, and the network that reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import straightthrough as st

from ..data import Data


@dataclass(frozen=True)
class Shape:
    """What is fitted to the size of the images.

    Attributes:
        k: how many pixels are chosen, unless told otherwise.
        rate: of the networks' weights.
        score_rate: of the pixels' scores.
        fit: epochs of a network whose pixels are fixed.
    """

    k: int
    hidden: int
    batch: int
    epochs: int
    rate: float
    score_rate: float
    fit: int


SMALL = Shape(k=8, hidden=64, batch=100, epochs=40, rate=3e-3, score_rate=2e-2, fit=60)
LARGE = Shape(k=16, hidden=128, batch=250, epochs=10, rate=1e-3, score_rate=2e-2, fit=5)

ONE_STEP = st.estimators.SecondOrder(steps=1)
"""Of so many pixels one step leaves an error below 1 % of the gradient, and saves a third."""

LEARNED: dict[str, Callable[[Tensor, int], Tensor]] = {
    "gumbel_topk": lambda scores, k: st.sample_topk(scores, k),
    "gumbel_topk_softmax": lambda scores, k: st.sample_topk(scores, k, "softmax"),
    "simple": lambda scores, k: st.sample_subset(scores, k),
    "second_order": lambda scores, k: st.sample_subset(scores, k, ONE_STEP),
    "topk": lambda scores, k: st.topk(scores, k),
    "topk_softmax": lambda scores, k: st.topk(scores, k, "softmax"),
}
"""From scores `(N, pixels)`, which learn, to a k-hot a row."""


def mutual_information(data: Data, k: int, seed: int) -> Tensor:
    """Return the k pixels whose grey levels say the most about the class, each by itself."""
    from sklearn.feature_selection import mutual_info_classif

    levels = (data.train.flatten(1) * 255).round().int().numpy()
    found = mutual_info_classif(levels, data.train_labels.numpy(), discrete_features=True)
    return torch.from_numpy(found).topk(k).indices


def random(data: Data, k: int, seed: int) -> Tensor:
    """Return k pixels."""
    return torch.randperm(data.pixels, generator=torch.Generator().manual_seed(seed))[:k]


FIXED: dict[str, Callable[[Data, int, int], Tensor]] = {
    "mutual_information": mutual_information,
    "random": random,
}
"""From the data, k and a seed to k pixels before any training."""

METHODS = (*LEARNED, *FIXED)


def network(inputs: int, hidden: int, classes: int) -> nn.Sequential:
    """Return a network of one hidden layer."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, classes))


def batches(images: Tensor, labels: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield every image once, in a random order."""
    for batch in torch.randperm(len(images)).split(size):
        yield images[batch], labels[batch]


def fitted(data: Data, pixels: Tensor, shape: Shape, seed: int) -> Tensor:
    """Return the classes of the test images, as a new network says that sees `pixels` alone.

    The seed fixes its weights and the order of images; torch's own generator stays as it is.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = network(len(pixels), shape.hidden, data.classes)
        optimizer = torch.optim.Adam(model.parameters(), shape.rate, fused=True)
        train, test = (images.flatten(1)[:, pixels] for images in (data.train, data.test))
        with torch.enable_grad():
            for _ in range(shape.fit):
                for images, labels in batches(train, data.train_labels, shape.batch):
                    optimizer.zero_grad()
                    F.cross_entropy(model(images), labels).backward()
                    optimizer.step()
        with torch.no_grad():
            said: Tensor = model(test)
            return said.argmax(-1)

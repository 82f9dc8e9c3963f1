"""How much the gradient to a router matters: docs/guides/routers.md has what comes out.

A mixture of small experts learns the digits of scikit-learn, with four kinds of gradient to its
router, and a router that is never trained. All experts are computed, so that every kind is at hand.

    python tools/measure_router.py
    python tools/measure_router.py --unnormalized --rate 0.001
"""

import argparse
from statistics import mean, stdev

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import straightthrough as st

EXPERTS, CHOSEN, WIDTH = 16, 2, 16
KINDS = {
    "none": "the router stays as it began",
    "sparse": "through the gates of the chosen, as routers are trained",
    "dense": "as if all experts had been added up, forward the chosen ones (DenseMixer)",
    "random": "none, and other experts at every step, at the end the router as it began",
}


class Mixture(nn.Module):
    """Two linear layers an expert, of which each token takes some."""

    def __init__(self, kind: str, normalize: bool, rate: float) -> None:
        super().__init__()
        self.kind = kind
        self.logits = nn.Linear(64, EXPERTS)
        self.router = st.nn.TopKRouter(EXPERTS, CHOSEN, normalize=normalize, rate=rate)
        self.up = nn.Parameter(torch.randn(EXPERTS, 64, WIDTH) / 8)
        self.down = nn.Parameter(torch.randn(EXPERTS, WIDTH, 10) / WIDTH**0.5)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.logits(x)
        if self.kind in ("none", "random"):
            logits = logits.detach()
        if self.kind == "random" and self.training:
            logits = torch.randn_like(logits)
        gates = self.router(logits).gates
        hidden = torch.einsum("nd,edh->neh", x, self.up).relu()
        each = torch.einsum("neh,ehc->nec", hidden, self.down)
        y = (gates.unsqueeze(-1) * each).sum(1)
        if self.kind == "dense" and self.training:
            # The value and the experts' gradients are those of the chosen.
            dense = (logits.softmax(-1).unsqueeze(-1) * each.detach()).sum(1)
            chosen = (gates.detach().unsqueeze(-1) * each).sum(1)
            return st.straight_through(y, dense) + (chosen - chosen.detach())
        return y


def accuracy(kind: str, seed: int, steps: int, **router: float) -> float:
    """Train one mixture; return the share of the test digits that it knows."""
    torch.manual_seed(seed)
    images, labels = (torch.from_numpy(x) for x in load_digits(return_X_y=True))
    x, order = images.float() / 16, torch.randperm(len(labels))
    train, test = order[:1200], order[1200:]
    model = Mixture(kind, **router)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(steps):
        batch = train[torch.randint(len(train), (128,))]
        loss = F.cross_entropy(model(x[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.router.update()
    model.eval()
    with torch.no_grad():
        found = model(x[test]).argmax(-1) == labels[test]
    return found.double().mean().item()


def main() -> None:
    """Print a row a kind."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--rate", type=float, default=1e-2, help="of the router's bias")
    parser.add_argument("--unnormalized", action="store_true", help="gates that don't sum to 1")
    given = parser.parse_args()
    router = {"normalize": not given.unnormalized, "rate": given.rate}
    print("| gradient to the router | accuracy | over seeds |\n| --- | --- | --- |")
    for kind, meaning in KINDS.items():
        found = [accuracy(kind, seed, given.steps, **router) for seed in range(given.seeds)]
        spread = stdev(found) if len(found) > 1 else 0.0
        print(f"| {kind}: {meaning} | {mean(found):.3f} | {spread:.3f} |", flush=True)


if __name__ == "__main__":
    main()

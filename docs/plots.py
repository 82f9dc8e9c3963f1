"""The docs' pictures, drawn from the registry.

`python docs/plots.py` draws the README's: docs/images/surrogates.png.
"""

import dataclasses
from pathlib import Path

import matplotlib
import torch

import straightthrough as st
from straightthrough.core.registry import RULES
from straightthrough.core.rules import Derivative, Relaxation
from straightthrough.estimators import Fini, PairEstimator

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # after the backend is chosen

INK, GREY, BLUE, ORANGE = "#1f2937", "#9ca3af", "#1d4ed8", "#ea580c"
SHADES = ("#93c5fd", BLUE, "#172554")
STYLE = {
    "font.size": 10,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e5e7eb",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "savefig.dpi": 160,
    "savefig.facecolor": "white",
}
X = torch.linspace(-3, 3, 1201, dtype=torch.float64)


def draw_surrogate(rule, path):
    """Draw the primitive and the derivative at half, once and twice the first parameter."""
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
        hard, name = hard_partner(rule)
        left.plot(X, hard, color=GREY, lw=1.2, ls="--", label=name)
        for variant, label, color in variants(rule):
            left.plot(X, variant.primitive(X), color=color, lw=2, label=label)
            right.plot(X, variant.derivative(X), color=color, lw=2, label=label)
        right.axhline(0, color=GREY, lw=0.8, zorder=0)
        left.set(title="primitive", xlabel="x")
        right.set(title="derivative: what backward multiplies by", xlabel="x")
        left.legend(loc="upper left", fontsize=9)
        figure.savefig(path)
        plt.close(figure)


def draw_relaxation(rule, path):
    """Draw the first of two entries, x and 0, and its derivative in x."""
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
        left.plot(X, (X > 0).double(), color=GREY, lw=1.2, ls="--", label="hard")
        pairs = torch.stack([X, torch.zeros_like(X)], -1)
        first = torch.tensor([1.0, 0.0], dtype=torch.float64).expand_as(pairs)
        for variant, label, color in variants(rule):
            left.plot(X, variant.soft(pairs)[:, 0], color=color, lw=2, label=label)
            right.plot(X, variant.vjp(pairs, first)[:, 0], color=color, lw=2)
        left.set(title="soft(x, 0), first entry", xlabel="x")
        right.set(title="its derivative in x", xlabel="x")
        left.legend(loc="upper left", fontsize=9)
        figure.savefig(path)
        plt.close(figure)


def draw_estimator(rule, path, draws=4096):
    """Draw the mean and the spread of the gradient of a binary draw with logits 0 and x.

    The two outcomes are enumerated; the rule's own noise is averaged over `draws` seeds. A rule of
    counts is drawn on a Poisson count of log-rate x, its outcomes summed likewise.
    """
    counts = isinstance(rule, Fini)
    centre = 2.5 if counts else 0.45
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
        x = X[200:1001:20] / 2 if counts else X[::20]
        for ax, power in zip(axes, (2, 3), strict=True):
            if counts:
                exact, mean, deviation = poisson_gradients(rule, x, power, centre)
            else:
                exact, mean, deviation = binary_gradients(rule, x, power, centre, draws)
            ax.fill_between(x, mean - deviation, mean + deviation, color=BLUE, alpha=0.12, lw=0)
            ax.plot(x, exact, color=ORANGE, lw=3, label="exact gradient")
            ax.plot(x, mean, color=BLUE, lw=1.6, label="mean of the estimate ± one deviation")
            name = "log-rate x" if counts else "logit x"
            ax.set(title=f"loss |y − {centre}|$^{power}$", xlabel=name)
        axes[0].legend(loc="upper left", fontsize=9)
        figure.savefig(path)
        plt.close(figure)


def poisson_gradients(rule, x, power, centre, largest=60):
    """Return the exact gradient, the estimate's mean and its deviation over the log-rate `x`."""
    y = torch.arange(largest + 1.0, dtype=torch.float64).unsqueeze(-1).expand(-1, len(x))
    rate = x.exp().expand_as(y)
    p = torch.distributions.Poisson(rate).log_prob(y).exp()
    off = (y - centre).abs()
    exact = (p * (y - rate) * off**power).sum(0)
    grad = power * off ** (power - 1) * (y - centre).sign()
    estimate = rate * rule.vjp(rate, y, grad)
    mean = (p * estimate).sum(0)
    return exact, mean, (p * (estimate - mean) ** 2).sum(0).sqrt()


def binary_gradients(rule, x, power, centre, draws):
    """Return the exact gradient, the estimate's mean and its deviation over `x`."""
    p = torch.sigmoid(x)
    loss = [abs(y - centre) ** power for y in (0.0, 1.0)]
    exact = p * (1 - p) * (loss[1] - loss[0])
    logits = torch.stack([torch.zeros_like(x), x], -1).expand(draws, -1, 2)
    first, second = 0.0, 0.0
    for y, weight in ((0, 1 - p), (1, p)):
        slope = power * abs(y - centre) ** (power - 1) * (1 if y > centre else -1)
        grad = torch.tensor([0.0, slope], dtype=torch.float64).expand_as(logits)
        index = torch.full(logits.shape[:-1], y)
        seed = {"seed": y} if rule.draws_noise else {}
        estimate = rule.vjp(logits, index, grad, **seed)[..., 1]
        first = first + weight * estimate.mean(0)
        second = second + weight * estimate.square().mean(0)
    return exact, first, (second - first.square()).clamp(min=0).sqrt()


def draw_pair(rule, path):
    """Draw the gradients to z = (x, 1) and to q = (1, 0) of a gradient (1, 1/2) to the value."""
    z = torch.stack([X, torch.ones_like(X)], -1)
    q, grad = (torch.tensor(v, dtype=X.dtype).expand_as(z) for v in ([1.0, 0.0], [1.0, 0.5]))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True, layout="constrained")
        named = zip(axes, rule.vjp(z, q, grad), ("z = (x, 1)", "q = (1, 0)"), strict=True)
        for ax, gradient, of in named:
            for entry, color in zip(gradient.unbind(-1), (BLUE, ORANGE), strict=True):
                ax.plot(X, entry, color=color, lw=2)
            ax.set(title=f"gradient to {of}", xlabel="x")
        axes[0].legend(["first entry", "second entry"], loc="upper left", fontsize=9)
        figure.savefig(path)
        plt.close(figure)


def draw_gallery(path):
    """Draw every surrogate with its defaults in one figure."""
    rules = [record for record in RULES.values() if issubclass(record.type, Derivative)]
    columns = 6
    rows = -(-len(rules) // columns)
    with plt.rc_context({**STYLE, "axes.grid": False, "font.size": 9}):
        figure, axes = plt.subplots(
            rows, columns, figsize=(12, 2.05 * rows), sharex=True, layout="constrained"
        )
        for ax in axes.flat[len(rules) :]:
            ax.axis("off")
        for ax, record in zip(axes.flat, rules, strict=False):
            rule = record.example
            ax.axhline(0, color="#e5e7eb", lw=1, zorder=0)
            ax.fill_between(X, rule.derivative(X), color=BLUE, alpha=0.15, lw=0)
            (slope,) = ax.plot(X, rule.derivative(X), color=BLUE, lw=1.8)
            (smooth,) = ax.plot(X, rule.primitive(X), color=ORANGE, lw=1.3)
            ax.set_title(record.type.__name__, fontweight="bold")
            ax.set_xticks([-2, 0, 2])
        figure.legend(
            [slope, smooth],
            ["derivative: what backward multiplies by", "primitive: the function it belongs to"],
            loc="outside lower center",
            ncols=2,
            fontsize=10,
        )
        figure.savefig(path)
        plt.close(figure)


def hard_partner(rule):
    """Return the hard operator that the primitive smooths, over `X`, and its name."""
    middle = float(rule.primitive(torch.zeros(1, dtype=torch.float64)))
    return (st.heaviside(X), "heaviside") if middle > 0 else (st.sign(X), "sign")


def variants(rule):
    """Yield the rule at half, once and twice its first parameter, with a label and a color."""
    names = [field.name for field in dataclasses.fields(rule)]
    if not names:
        yield rule, type(rule).__name__, BLUE
        return
    value = getattr(rule, names[0])
    for factor, color in zip((0.5, 1, 2), SHADES, strict=True):
        changed = type(value)(value * factor)
        yield dataclasses.replace(rule, **{names[0]: changed}), f"{names[0]} = {changed:g}", color


def draw(rule, path):
    """Draw whatever fits the form of `rule`."""
    if isinstance(rule, Derivative):
        draw_surrogate(rule, path)
    elif isinstance(rule, Relaxation):
        draw_relaxation(rule, path)
    elif isinstance(rule, PairEstimator):
        draw_pair(rule, path)
    else:
        draw_estimator(rule, path)


if __name__ == "__main__":
    draw_gallery(Path(__file__).parent / "images" / "surrogates.png")

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
from straightthrough.estimators import (
    Fini,
    GridEstimator,
    PairEstimator,
    SolverEstimator,
    SubsetEstimator,
)

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
REACHES = (0.1, 0.25, 0.5, 1, 2, 3, 5)


def span(rule):
    """Return the inputs where a surrogate does something: beyond, it is below 1/20 of its peak."""
    wide = torch.linspace(-10, 10, 20001, dtype=torch.float64)
    height = rule.derivative(wide).abs()
    needed = 1.25 * wide[height > height.max() / 20].abs().max()
    reach = next((reach for reach in REACHES if reach >= needed), REACHES[-1])
    return X / X[-1] * reach


def draw_surrogate(rule, path):
    """Draw the primitive and the derivative at half, once and twice the first parameter."""
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
        x = max((span(variant) for variant, *_ in variants(rule)), key=lambda x: x[-1])
        hard, name = hard_partner(rule, x)
        left.plot(x, hard, color=GREY, lw=1.2, ls="--", label=name)
        for variant, label, color in variants(rule):
            left.plot(x, variant.primitive(x), color=color, lw=2, label=label)
            right.plot(x, variant.derivative(x), color=color, lw=2, label=label)
        right.axhline(0, color=GREY, lw=0.8, zorder=0)
        smooth = torch.stack([variant.primitive(x) for variant, *_ in variants(rule)])
        height = float(smooth.max() - smooth.min())
        limits = float(smooth.min()) - 0.1 * height, float(smooth.max()) + 0.1 * height
        left.set(title="primitive", xlabel="x", ylim=limits)
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
            ax.plot(x, exact, color=ORANGE, lw=4, label="exact gradient")
            ax.plot(x, mean, color=BLUE, lw=1.6, label="mean of the estimate")
            low, high = mean - deviation, mean + deviation
            band = {"color": BLUE, "alpha": 0.12, "lw": 0}
            ax.fill_between(x, low, high, **band, label="± one deviation of a draw")
            name = "log-rate x" if counts else "logit x"
            ax.set(title=f"loss |y − {centre}|$^{power}$", xlabel=name)
        axes[0].set_ylabel(f"gradient to the {name}")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
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
        outcome = torch.full(logits.shape[:-1], y)
        if isinstance(rule, SubsetEstimator):  # one of two
            outcome = torch.nn.functional.one_hot(outcome, 2).to(logits)
        seed = {"seed": y} if rule.draws_noise else {}
        estimate = rule.vjp(logits, outcome, grad, **seed)[..., 1]
        first = first + weight * estimate.mean(0)
        second = second + weight * estimate.square().mean(0)
    return exact, first, (second - first.square()).clamp(min=0).sqrt()


def draw_grid_estimator(rule, path):
    """Draw a value of 2 bits and, at a gradient of 1, the gradients to the input and the scale."""
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
        x, scale = X.clone().requires_grad_(), torch.ones_like(X).requires_grad_()
        y = st.fake_quantize(x, scale, grid=st.grids.Int(2), rule=rule)
        to_x, to_scale = torch.autograd.grad(y.sum(), (x, scale))
        left.plot(X, X, color=GREY, lw=1.2, ls="--", label="x")
        left.plot(X, y.detach(), color=BLUE, lw=2, label="2 bits, scale 1")
        right.plot(X, to_x, color=BLUE, lw=2, label="to x")
        right.plot(X, to_scale, color=ORANGE, lw=1.6, label="to the scale, of one element")
        left.set(title="value", xlabel="x")
        right.set(title="gradients, for one of 1 to the value", xlabel="x")
        for ax in (left, right):
            ax.legend(loc="upper left", fontsize=9)
        figure.savefig(path)
        plt.close(figure)


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


def draw_solver(rule, path):
    """Draw the gradient to x that the larger of (x, 0) gets, for a gradient (1, 0) to its one-hot.

    In grey, the share of draws in which that is x, and its slope.
    """
    draws = 400
    theta = torch.stack([X[::8], torch.zeros_like(X[::8])], -1).expand(draws, -1, -1)
    theta = theta.clone().requires_grad_()
    y = st.solve(lambda t: torch.nn.functional.one_hot(t.argmax(-1), 2), theta, rule, seed=0)
    found = torch.autograd.grad(y[..., 0].sum(), theta)[0][..., 0]
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
        left.plot(X[::8], y[..., 0].detach().mean(0), color=GREY, lw=1.6)
        right.plot(X[::8], found.mean(0), color=BLUE, lw=2)
        spread = found.std(0)
        low, high = found.mean(0) - spread, found.mean(0) + spread
        right.fill_between(X[::8], low, high, color=BLUE, alpha=0.15, lw=0)
        left.set(title="share of draws with x the larger of (x, 0)", xlabel="x")
        right.set(title=f"gradient to x, mean of {draws}", xlabel="x")
        figure.savefig(path)
        plt.close(figure)


def draw_gallery(path):
    """Draw every surrogate with its defaults in one figure."""
    rules = [record for record in RULES.values() if issubclass(record.type, Derivative)]
    columns = 6
    rows = -(-len(rules) // columns)
    with plt.rc_context({**STYLE, "axes.grid": False, "font.size": 9}):
        figure, axes = plt.subplots(rows, columns, figsize=(14, 2.05 * rows), layout="constrained")
        for ax in axes.flat[len(rules) :]:
            ax.axis("off")
        for ax, record in zip(axes.flat, rules, strict=False):
            rule = record.example
            x = span(rule)
            ax.axhline(0, color="#e5e7eb", lw=1, zorder=0)
            ax.fill_between(x, rule.derivative(x), color=BLUE, alpha=0.15, lw=0)
            (slope,) = ax.plot(x, rule.derivative(x), color=BLUE, lw=1.8)
            ax.set_title(record.type.__name__, fontweight="bold")
            ax.set_xticks([float(x[0]), 0, float(x[-1])], [f"{x[0]:g}", "0", f"{x[-1]:g}"])
            ax.tick_params(axis="y", colors=BLUE, labelsize=8)
            ax.locator_params(axis="y", nbins=4)
            other = ax.twinx()  # a primitive may be 25 times as low as its derivative
            (smooth,) = other.plot(x, rule.primitive(x), color=ORANGE, lw=1.3)
            other.tick_params(axis="y", colors=ORANGE, labelsize=8)
            other.locator_params(axis="y", nbins=4)
            other.spines["right"].set_visible(True)
        figure.legend(
            [slope, smooth],
            [
                "derivative, left scale: what backward multiplies by",
                "primitive, right scale: the function it belongs to",
            ],
            loc="outside lower center",
            ncols=2,
            fontsize=10,
        )
        figure.savefig(path)
        plt.close(figure)


def hard_partner(rule, x):
    """Return the hard operator that the primitive smooths, over `x`, and its name."""
    middle = float(rule.primitive(torch.zeros(1, dtype=torch.float64)))
    return (st.heaviside(x), "heaviside") if middle > 0 else (st.sign(x), "sign")


def variants(rule):
    """Yield the rule at half, once and twice its first parameter, with a label and a color."""
    names = [f.name for f in dataclasses.fields(rule) if not isinstance(getattr(rule, f.name), str)]
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
    elif isinstance(rule, GridEstimator):
        draw_grid_estimator(rule, path)
    elif isinstance(rule, PairEstimator):
        draw_pair(rule, path)
    elif isinstance(rule, SolverEstimator):
        draw_solver(rule, path)
    else:
        draw_estimator(rule, path)


if __name__ == "__main__":
    draw_gallery(Path(__file__).parent / "images" / "surrogates.png")

"""What the kernels are meant to reach, and whether a run shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from .cases import (
    BOTH,
    COMPILED,
    DOUBLE,
    DOUBLE_COMPILED,
    FORWARD,
    OURS,
    OURS_COMPILED,
    PLAIN,
    PRODUCT,
    SHORT,
    TORCHAO,
    TORCHS,
)
from .results import Record, by_job
from .shapes import (
    CODES,
    COUNTS,
    GRAPH,
    LAYER,
    LOOKUP,
    MAIN,
    RANKS,
    ROWS,
    SMALL,
    WIDTH,
    Shape,
    written,
)

ROW_BYTES = 24
"""What a row may cost besides its value and its gradient."""

ITEM = 4
"""Bytes an element."""


@dataclass(frozen=True)
class Target:
    """A quantity of one case in one mode at one shape, and its bound.

    Attributes:
        work: what it is, in words.
        ways: what has to be measured for it, ours first.
        value: computes it from the records of those ways.
        bound: the target, a lower one where `at_least`.
        unit: written after both.
    """

    work: str
    case: str
    mode: str
    shape: Shape
    ways: tuple[str, ...]
    value: Callable[..., float | None]
    bound: float
    at_least: bool
    unit: str

    def measured(self, records: Mapping[str, Record]) -> float | None:
        """Return the quantity, from the records of one job by way."""
        if not set(self.ways) <= set(records):
            return None
        return self.value(*(records[way] for way in self.ways))

    def met(self, value: float) -> bool:
        """Whether a value reaches the bound."""
        return value >= self.bound if self.at_least else value <= self.bound

    @property
    def asked(self) -> str:
        """The bound in words."""
        return f"{'≥' if self.at_least else '≤'} {self.bound:.3g} {self.unit}"


def speedup(ours: Record, other: Record) -> float:
    """Return how many times faster ours is."""
    return other.median / ours.median


def slowdown(ours: Record, other: Record) -> float:
    """Return our time as a multiple of the other's."""
    return ours.median / other.median


def share(with_mask: Record, without: Record) -> float:
    """Return the percentage of a time that a mask costs."""
    return 100 * (1 - without.median / with_mask.median)


def row_bytes(ours: Record) -> float | None:
    """Return the bytes a row beyond value and gradient."""
    if ours.extra_bytes is None:
        return None
    return (ours.extra_bytes - 2 * ITEM * ours.elements) / ours.shape[0]


def lookup_share(ours: Record) -> float | None:
    """Return the bytes beyond value and gradients, as a share of the logits' own."""
    if ours.extra_bytes is None:
        return None
    rows, classes = ours.shape
    due = ITEM * (rows * classes + classes * WIDTH + rows * WIDTH)
    return (ours.extra_bytes - due) / (ITEM * ours.elements)


def saved_share(ours: Record) -> float | None:
    """Return the bytes saved for backward, as a share of the input's own."""
    return None if ours.saved_bytes is None else ours.saved_bytes / (ITEM * ours.elements)


LEAST = 25e-6
"""Seconds that a graph may cost an operator whatever it does."""


def graph_cost(ours: Record, compiled: Record, double: Record, double_compiled: Record) -> float:
    """Return what compiling adds beyond what it adds to `x * 2`, over what it may add."""
    added = compiled.median - ours.median - max(0.0, double_compiled.median - double.median)
    return added / max(LEAST, 0.1 * ours.median)


UNITS = {speedup: "x as fast", slowdown: "x its time", share: "% is the mask's"}


def _time(
    case: str,
    mode: str,
    than: str,
    bound: float,
    shape: Shape = MAIN,
    value: Callable[[Record, Record], float] = speedup,
) -> Target:
    work = f"{case} {written(shape)} {SHORT[mode]} vs {than}"
    at_least = value is speedup
    return Target(work, case, mode, shape, (OURS, than), value, bound, at_least, UNITS[value])


def _memory(
    case: str,
    work: str,
    value: Callable[..., float | None],
    bound: float,
    unit: str,
    shape: Shape = MAIN,
) -> Target:
    work = f"{case} {written(shape)} {SHORT[BOTH]}, {work}"
    return Target(work, case, BOTH, shape, (OURS,), value, bound, False, unit)


def peak_share(ours: Record, other: Record) -> float | None:
    """Return the bytes at the peak, as a share of the other's."""
    if ours.extra_bytes is None or other.extra_bytes is None:
        return None
    return ours.extra_bytes / other.extra_bytes


def _peak(case: str, than: str, bound: float, shape: Shape) -> Target:
    work = f"{case} {written(shape)} {SHORT[BOTH]}, memory vs {than}"
    unit = "of its peak"
    return Target(work, case, BOTH, shape, (OURS, than), peak_share, bound, False, unit)


def _graph(case: str) -> Target:
    work = f"{case} {written(GRAPH)} {SHORT[BOTH]}, compiled over eager beyond x * 2"
    ways = (OURS, OURS_COMPILED, DOUBLE, DOUBLE_COMPILED)
    unit = "of 25 us or 10 %"
    return Target(work, case, BOTH, GRAPH, ways, graph_cost, 1.0, False, unit)


VQP = "vector_quantize_pytorch"

COMPILED_CASES = (
    *("sign", "heaviside", "round", "clamp", "ternary"),
    *("categorical-reinmax", "categorical-straight_through", "categorical-gumbel"),
    *("categorical_integer", "argmax", "topk", "gumbel_softmax"),
    *("bernoulli", "binary_concrete", "hard_concrete"),
)

CHEAP = ("topk", "argmax", "poisson", "binomial", "geometric", "negative_binomial")

TARGETS: tuple[Target, ...] = (
    _time("categorical-reinmax", FORWARD, "torch.argmax", 0.75, value=slowdown),
    _time("categorical-reinmax", FORWARD, PLAIN, 40),
    _time("categorical-straight_through", BOTH, PLAIN, 20),
    _time("categorical-reinmax", BOTH, PLAIN, 20),
    _time("categorical-gumbel", BOTH, PLAIN, 10),
    _time("categorical-reinmax", BOTH, PLAIN, 12, shape=(65536, 16)),
    _time("categorical-straight_through", BOTH, COMPILED, 6),
    _time("categorical-reinmax", BOTH, COMPILED, 6),
    _time("categorical-gumbel", BOTH, COMPILED, 6),
    _time("gumbel_softmax-relaxed", BOTH, PLAIN, 6),
    _time("categorical-gumbel_rao", BOTH, PLAIN, 10),
    _time("categorical-reinmax_rao", BOTH, PLAIN, 10, shape=SMALL),
    *(_time(case, BOTH, PLAIN, 1, shape=shape) for case in CHEAP for shape in COUNTS),
    _time("categorical_lookup", FORWARD, PLAIN, 20, shape=LOOKUP),
    _memory(
        "categorical_lookup",
        "beyond value and gradients",
        lookup_share,
        0.5,
        "of the logits' bytes",
        LOOKUP,
    ),
    _time("bernoulli", FORWARD, "torch.bernoulli", 20),
    _time("bernoulli", BOTH, PLAIN, 6),
    _time("hard_concrete", BOTH, PLAIN, 8),
    _time("sign", BOTH, "aten", 1.2, value=slowdown),
    _memory("sign", "saved for backward", saved_share, 1 / 32, "of the input's bytes"),
    _time("masked_linear", FORWARD, "no mask", 6, LAYER, share),
    _time("fake_quantize-lsq", BOTH, PLAIN, 15, LAYER),
    _time("fake_quantize-lsq", BOTH, TORCHS, 30, LAYER),
    _time("fake_quantize-lsq", BOTH, TORCHAO, 8, LAYER),
    _time("fake_quantize-ste", BOTH, TORCHS, 10, LAYER),
    _time("fake_quantize-ste", BOTH, TORCHAO, 8, LAYER),
    _time("fake_quantize-mx", BOTH, TORCHAO, 10, LAYER),
    _time("fake_quantize-nvfp4", BOTH, TORCHAO, 10, LAYER),
    _memory(
        "fake_quantize-ste",
        "saved for backward",
        saved_share,
        1 / 32,
        "of the input's bytes",
        LAYER,
    ),
    _time("vector_quantizer", BOTH, VQP, 10, ROWS),
    _time("vector_quantizer", BOTH, PRODUCT, 1.4, ROWS, slowdown),
    _peak("vector_quantizer", VQP, 1 / 20, ROWS),
    *(_time("fsq", BOTH, VQP, 4, shape) for shape in CODES),
    _time("rank", BOTH, "torchsort", 1, RANKS),
    _memory(
        "categorical-reinmax", "beyond value and gradient", row_bytes, ROW_BYTES, "bytes a row"
    ),
    _time("categorical-gumbel", BOTH, PLAIN, 1 / 0.6, shape=(32, 10)),
    *map(_graph, COMPILED_CASES),
)
"""Plain torch is `F.gumbel_softmax(hard=True)` for a draw, times the table for a lookup."""


@dataclass(frozen=True)
class Verdict:
    """A target and what was measured, by number of threads; `met` on all of them."""

    target: Target
    values: Mapping[int, float]

    @property
    def met(self) -> bool | None:
        """None where nothing was measured."""
        return all(map(self.target.met, self.values.values())) if self.values else None


def judge(records: Iterable[Record]) -> list[Verdict]:
    """Return every target with what a run shows of it."""
    results = by_job(records)
    found = []
    for target in TARGETS:
        values = {
            job.threads: target.measured(ways)
            for job, ways in results.items()
            if (job.case, job.mode, job.shape) == (target.case, target.mode, target.shape)
        }
        known = {threads: value for threads, value in values.items() if value is not None}
        found.append(Verdict(target, known))
    return found

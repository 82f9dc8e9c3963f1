"""Goodness of fit: every statistical test of the suite shares one declared failure rate.

Seeds are fixed, so a test that passes keeps passing; the rate says how likely it was that a
correct library would have failed under the seed that happened to be written down.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import stats

FAILURE_RATE = 1e-6
LEAST_EXPECTED = 20.0  # below it the chi-square law of a cell's statistic is not good enough


def assert_frequencies(counts: np.ndarray, probabilities: np.ndarray) -> None:
    """Chi-square test of `counts` against exact `probabilities`; rare cells are put together."""
    counts, probabilities = np.asarray(counts, float), np.asarray(probabilities, float)
    impossible = probabilities == 0
    assert not counts[impossible].any(), f"impossible outcomes were drawn: {counts[impossible]}"
    expected = probabilities / probabilities.sum() * counts.sum()
    rare = expected < LEAST_EXPECTED
    assert_rate(int(counts[rare].sum()), int(counts.sum()), probabilities[rare].sum())
    assert (~rare).sum() > 1, "fewer than two cells are frequent enough to be compared"
    seen = np.append(counts[~rare], counts[rare].sum())
    wanted = np.append(expected[~rare], expected[rare].sum())
    kept = wanted > 0
    p_value = stats.chisquare(seen[kept], wanted[kept]).pvalue
    assert p_value > FAILURE_RATE, f"counts {counts} for {expected}: p-value {p_value:.1e}"


def assert_rate(count: int, trials: int, probability: float) -> None:
    """Exact binomial test of `count` events in `trials`."""
    probability = min(float(probability), 1.0)
    p_value = stats.binomtest(count, trials, probability).pvalue
    assert p_value > FAILURE_RATE, (
        f"{count} of {trials} where {probability * trials:.4g} are expected: p-value {p_value:.1e}"
    )


def assert_law(samples: np.ndarray, cdf: Callable[[np.ndarray], np.ndarray]) -> None:
    """Kolmogorov-Smirnov test of `samples` against a distribution function."""
    p_value = stats.kstest(np.asarray(samples, float), cdf).pvalue
    assert p_value > FAILURE_RATE, f"Kolmogorov-Smirnov p-value {p_value:.1e}"


def assert_same_law(one: np.ndarray, other: np.ndarray) -> None:
    """Two-sample Kolmogorov-Smirnov test."""
    p_value = stats.ks_2samp(np.asarray(one, float), np.asarray(other, float)).pvalue
    assert p_value > FAILURE_RATE, f"two-sample Kolmogorov-Smirnov p-value {p_value:.1e}"


def assert_same_mean(one: np.ndarray, other: np.ndarray) -> None:
    """Welch's test of the means of two samples, column by column."""
    p_values = np.atleast_1d(stats.ttest_ind(one, other, axis=0, equal_var=False).pvalue)
    assert (p_values > FAILURE_RATE / p_values.size).all(), f"Welch p-values {p_values}"

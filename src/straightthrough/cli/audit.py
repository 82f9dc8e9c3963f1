"""`straightthrough audit`: bias and variance of estimators on a quadratic."""

from __future__ import annotations


def main() -> None:
    """Compare estimators with the exact gradient of a random quadratic."""

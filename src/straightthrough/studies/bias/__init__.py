"""Bias and variance of every estimator on random quadratics."""

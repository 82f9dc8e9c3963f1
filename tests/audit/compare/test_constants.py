"""A constant in the loss, which changes no gradient."""

from __future__ import annotations

import pytest
import torch

import straightthrough as st


@pytest.mark.parametrize("k", [None, 2])
def test_a_constant_in_the_loss_changes_nothing(k):
    logits, cost = torch.randn(4, dtype=torch.float64), torch.tensor([1.0, 2.0, 4.0, 8.0]).double()
    exact = st.audit.exact_gradient(lambda z: z @ cost, logits, k=k)
    found = st.audit.exact_gradient(lambda z: z @ cost + 2.0**45, logits, k=k)
    torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-12)
    constant = st.audit.exact_gradient(lambda z: z.sum(-1), logits, k=k)
    assert constant.tolist() == [0.0] * 4


def test_a_loss_without_a_gradient_in_the_mean_has_nothing_relative_to_it():
    advice = st.audit.advise(lambda z: z.sum(-1), torch.tensor([0.0, 1.0, 0.5, -0.3]))
    assert str(advice).endswith("is listed first.")
    assert "The gradient is 0, and nothing relative to it" in str(advice)

"""Codebooks that compare directions."""

from __future__ import annotations

import pytest
import torch

import straightthrough as st


@pytest.mark.parametrize("size", [1e-38, 1e-20, 1e20, 1e38])
def test_the_cosine_is_that_of_any_length(size: float) -> None:
    torch.manual_seed(0)
    model = st.nn.VectorQuantizer(8, 3, metric="cosine", k_means=False).eval()
    z = torch.randn(100, 3).clamp(-3, 3) / 3
    x, other = (z * size).requires_grad_(), z.clone().requires_grad_()
    found, wanted = model(x), model(other)
    assert torch.equal(found.index, wanted.index)
    torch.testing.assert_close(found.loss, wanted.loss)
    torch.testing.assert_close(model.book.directed(x).norm(dim=-1), torch.ones(100))
    found.loss.backward()
    wanted.loss.backward()
    torch.testing.assert_close(x.grad * size, other.grad, rtol=1e-4, atol=1e-6)

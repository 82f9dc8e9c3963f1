"""The losses of lookup-free quantization: which rows count."""

from __future__ import annotations

import pytest
import torch

import straightthrough as st


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("commitment", [0.0, 0.25])
@pytest.mark.parametrize("masked", [False, True])
def test_a_row_that_is_not_finite_counts_in_no_loss(bad, commitment, masked):
    z = torch.randn(6, 4)
    z[2, 1] = bad
    z.requires_grad_()
    mask = torch.tensor([True, True, True, False, True, True]) if masked else None
    quantizer = st.nn.LFQ(4, commitment=commitment)
    loss = quantizer(z, mask=mask).loss
    loss.backward()
    kept = [0, 1, 4, 5] if masked else [0, 1, 3, 4, 5]
    rest = z.detach()[kept].requires_grad_()
    wanted = quantizer(rest).loss
    wanted.backward()
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(z.grad[kept], rest.grad)
    assert z.grad[2].eq(0).all()


def test_the_loss_of_rows_that_are_not_finite_is_none():
    z = torch.full((3, 4), torch.nan, requires_grad=True)
    loss = st.nn.LFQ(4, commitment=0.25)(z).loss
    loss.backward()
    assert loss == 0
    assert z.grad.eq(0).all()


def test_entropies_are_nan_where_a_row_is():
    z = torch.randn(4, 3)
    z[1, 0] = torch.nan
    assert all(e.isnan() for e in st.lfq_entropy(z))
    mask = ~z.isnan().any(-1)
    for got, due in zip(st.lfq_entropy(z, mask=mask), st.lfq_entropy(z[mask]), strict=True):
        torch.testing.assert_close(got, due)

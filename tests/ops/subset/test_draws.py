"""Drawn subsets: their laws by enumeration, and what is saved."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from torch import Tensor

import straightthrough as st
from gof import assert_frequencies
from straightthrough.core.errors import FLOATING
from subsets import Enumerated

DTYPES = pytest.mark.parametrize("dtype", FLOATING)
LOGITS = [0.5, -1.0, 2.0, 0.0, 1.25]


def counts(z: Tensor, subsets: Tensor) -> np.ndarray:
    """How often each subset is among the rows of z."""
    power = 2.0 ** torch.arange(z.shape[-1])
    wanted = (subsets.float() @ power).tolist()
    numbers, found = (z.float() @ power).unique(return_counts=True)
    seen = dict(zip(numbers.tolist(), found.tolist(), strict=True))
    assert set(seen) <= set(wanted)
    return np.array([seen.get(number, 0) for number in wanted])


@DTYPES
@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_subsets_have_their_law(dtype: torch.dtype, k: int) -> None:
    x = torch.tensor(LOGITS, dtype=dtype)
    law = Enumerated(x, k)
    z = st.sample_subset(x.expand(40_000, 5), k, seed=k)
    assert z.dtype == dtype
    assert_frequencies(counts(z, law.subsets), law.p.numpy())


@DTYPES
@pytest.mark.parametrize("k", [1, 2, 4])
def test_classes_drawn_one_by_one_have_theirs(dtype: torch.dtype, k: int) -> None:
    x = torch.tensor(LOGITS, dtype=dtype)
    law, weight = Enumerated(x, k), x.double().exp().tolist()
    p = dict.fromkeys(range(len(law.p)), 0.0)
    number = {tuple(row.nonzero()[:, 0].tolist()): i for i, row in enumerate(law.subsets)}
    for order in permutations(range(5), k):
        left, likely = sum(weight), 1.0
        for i in order:
            likely, left = likely * weight[i] / left, left - weight[i]
        p[number[tuple(sorted(order))]] += likely
    z = st.sample_topk(x.expand(40_000, 5), k, seed=k)
    assert z.dtype == dtype
    assert_frequencies(counts(z, law.subsets), np.array([*p.values()]))


def test_the_two_laws_differ() -> None:
    """Two of odds .3, .6, .5, .2: the second class has .762 and .802."""
    x = torch.tensor([0.3, 0.6, 0.5, 0.2]).logit().expand(40_000, 4)
    rates = [draw(x, 2, seed=0)[:, 1].mean().item() for draw in (st.sample_subset, st.sample_topk)]
    assert rates == pytest.approx([0.762, 0.802], abs=0.012)  # 5 deviations


@pytest.mark.parametrize("draw", [st.sample_subset, st.sample_topk])
@DTYPES
def test_always_k(draw, dtype: torch.dtype) -> None:
    for n, k, scale in ((1, 1, 1), (2, 1, 80), (7, 7, 1), (33, 32, 10), (100, 3, 80), (64, 8, 0)):
        x = (torch.randn(50, n) * scale).to(dtype)
        z = draw(x, k, seed=1)
        assert ((z == 0) | (z == 1)).all()
        assert (z.float().sum(-1) == k).all()


def test_masked_classes_are_never_drawn_and_rows_without_an_outcome_are_nan() -> None:
    low = -math.inf
    x = torch.tensor([[0.0, low, 2, 1], [low, low, low, 1], [0, math.nan, 1, 0], [low, low, 3, 1]])
    for draw in (st.sample_subset, st.sample_topk):
        z = draw(x.expand(200, 4, 4), 2, seed=3)
        assert z[:, 0, 1].eq(0).all()
        assert z[:, 1:3].isnan().all()
        assert z[:, 3].eq(torch.tensor([0.0, 0, 1, 1])).all()
        masked = draw(torch.zeros(200, 4), 2, mask=torch.tensor([True, True, False, True]), seed=1)
        assert masked[:, 2].eq(0).all()
        assert masked.sum(-1).eq(2).all()
        with st.strict(), pytest.raises(st.ArgumentError, match=r"row \(1,\) has no valid outcome"):
            draw(x, 2)


def test_keys_keep_the_noise_beside_a_far_larger_logit() -> None:
    """The last places are drawn among equals, however large the first is."""
    x = torch.tensor([1e10, 0.0, 0.0, 0.0]).expand(4000, 4)
    z = st.sample_topk(x, 2, seed=0)
    assert z[:, 0].eq(1).all()
    assert_frequencies(z[:, 1:].sum(0).numpy(), np.ones(3))


def test_gradient_is_that_of_topk_at_the_keys() -> None:
    x, grad = torch.randn(6, 9, dtype=torch.float64), torch.randn(6, 9, dtype=torch.float64)
    found = x.clone().requires_grad_()
    z = st.sample_topk(found, 3, "laplace", tau=0.5, seed=4)
    z.backward(grad)
    # Of any keys with these three largest that the noise could have made, these are the ones.
    noise = st.sample_topk.__globals__["PerturbedTopK"]
    keys = noise(3, st.relaxations.Threshold("laplace", 0.5), (0, 0, 0))._keys(x, torch.tensor(4))
    assert torch.equal(st.topk(keys, 3), z.detach())
    leaf = keys.detach().requires_grad_()
    st.topk(leaf, 3, "laplace", tau=0.5).backward(grad)
    torch.testing.assert_close(found.grad, leaf.grad)


def test_only_the_logits_and_a_bit_an_entry_are_saved() -> None:
    saved: list[Tensor] = []
    x = torch.randn(8, 40, requires_grad=True)
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t)
    with hooks:
        st.sample_subset(x, 5, "second_order")
    assert sorted(t.nbytes for t in saved) == [8 * 40 // 8, 8 * 40 * 4]


def test_a_shard_draws_what_the_whole_does() -> None:
    x = torch.randn(10, 12)
    for draw in (st.sample_subset, st.sample_topk):
        whole = draw(x, 4, seed=7)
        assert torch.equal(whole[6:], draw(x[6:], 4, seed=st.Seed(7, offset=6)))


def test_rows_are_drawn_alike_in_blocks() -> None:
    """More rows than are worked on at once."""
    x = torch.randn(300, 512)
    whole = st.sample_subset(x, 20, seed=5)
    assert torch.equal(
        whole[[0, 299]],
        torch.stack(
            [st.sample_subset(x[i : i + 1], 20, seed=st.Seed(5, offset=i))[0] for i in (0, 299)]
        ),
    )


def test_errors() -> None:
    x = torch.zeros(2, 3)
    with pytest.raises(st.ArgumentError, match="known: second_order, simple"):
        st.sample_subset(x, 1, "reinmax")
    with pytest.raises(st.ArgumentError, match=r"k must be a number, got 'simple'.*estimator="):
        st.sample_subset(x, "simple")
    with pytest.raises(st.ArgumentError, match=r"k must be a number, got 'laplace'.*relaxation="):
        st.sample_topk(x, "laplace")
    with pytest.raises(st.ArgumentError, match="seed= and generator= exclude each other"):
        st.sample_topk(x, 1, seed=1, generator=torch.Generator())

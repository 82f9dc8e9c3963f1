"""The nearest codeword: exact wherever it lies, ties, NaN, heads, transforms, memory."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import straightthrough as st
from straightthrough.core.errors import FLOATING
from straightthrough.ops.codebook import search

NAN, INFINITY = math.nan, math.inf
DTYPES = pytest.mark.parametrize("dtype", FLOATING)


def exactly(z: Tensor, codebook: Tensor) -> list[int]:
    """The first of the nearest, in whole numbers: every value times one power of two."""
    ratios = [[v.as_integer_ratio() for v in x.flatten().tolist()] for x in (z, codebook)]
    scale = max(below for ratio in ratios for _, below in ratio)
    whole = [[above * (scale // below) for above, below in ratio] for ratio in ratios]
    width = z.shape[-1]
    rows, book = ([x[i : i + width] for i in range(0, len(x), width)] for x in whole)

    def distance(x: list[int], k: int) -> int:
        return sum((a - b) ** 2 for a, b in zip(x, book[k], strict=True))

    return [min(range(len(book)), key=lambda k: distance(x, k)) for x in rows]


@DTYPES
def test_small_sizes_are_enumerated_without_rounding(dtype):
    for codes, width in ((1, 1), (3, 2), (64, 3), (65, 5), (130, 1)):
        z, codebook = torch.randn(40, width).to(dtype), torch.randn(codes, width).to(dtype)
        assert st.nearest(z, codebook).tolist() == exactly(z, codebook)


@DTYPES
def test_ties_go_to_the_lowest_number(dtype):
    z = torch.randint(-2, 3, (200, 3)).to(dtype)
    codebook = torch.randint(-2, 3, (90, 3)).to(dtype)  # many a codeword twice
    assert st.nearest(z, codebook).tolist() == exactly(z, codebook)
    assert not st.nearest(z, torch.ones(70, 3, dtype=dtype)).any()


def test_ties_of_codewords_far_apart_in_the_codebook():
    """Codewords are scored in tiles of 512, and 64 of them at a time."""
    codebook = torch.randn(2000, 3)
    for first, second in ((3, 1999), (100, 101), (60, 70), (500, 520)):
        again = codebook.clone()
        again[second] = again[first]
        assert st.nearest(again[first] + torch.tensor([[0.0, 0.0, 1e-4]]), again).item() == first
    z = torch.randn(500, 3)
    assert st.nearest(z, codebook).tolist() == exactly(z, codebook)


@DTYPES
@pytest.mark.parametrize("offset", [100.0, 1000.0])
def test_far_from_zero_no_codeword_is_wrong(dtype, offset):
    """Of float32 scores without centring 1.5 to 3 % of the rows are wrong at 100, half at 1000."""
    z, codebook = ((torch.randn(n, 8) + offset).to(dtype) for n in (200, 100))
    assert st.nearest(z, codebook).tolist() == exactly(z, codebook)


def test_a_tight_codebook_finds_itself():
    codebook = 5 + 1e-3 * torch.randn(1000, 16)
    assert torch.equal(st.nearest(codebook, codebook), torch.arange(1000))


def test_one_codeword_far_from_the_others_costs_no_digits():
    codebook = torch.cat([torch.full((1, 4), 1e6), 1e-2 * torch.randn(100, 4)])
    z = 1e-2 * torch.randn(200, 4)
    assert st.nearest(z, codebook).tolist() == exactly(z, codebook)


def test_rows_far_from_all_codewords():
    z, codebook = 1e7 * torch.randn(100, 5), torch.randn(80, 5)
    assert st.nearest(z, codebook).tolist() == exactly(z, codebook)
    huge = torch.full((1, 2), torch.finfo(torch.float32).max)
    assert st.nearest(huge, torch.tensor([[-1e38, 0.0], [3e38, 3e38]])).tolist() == [1]


def test_a_coarser_product_is_as_exact():
    """The screen alone changes: torch rounds the factors of the product to bfloat16 or TF32."""
    z, codebook = torch.randn(300, 16), torch.randn(200, 16)
    exact = st.nearest(z, codebook)
    try:
        torch.set_float32_matmul_precision("medium")
        assert search._epsilon(z) > 1e-3
        assert torch.equal(st.nearest(z, codebook), exact)
    finally:
        torch.set_float32_matmul_precision("highest")


@DTYPES
def test_what_is_not_finite_has_none_and_is_none(dtype):
    z = torch.tensor([[NAN, 0], [1, INFINITY], [-INFINITY, 0], [1, 1]], dtype=dtype)
    codebook = torch.tensor([[NAN, 1], [1, 2], [INFINITY, 1], [5, 5]], dtype=dtype)
    assert st.nearest(z, codebook).tolist() == [-1, -1, -1, 1]
    assert st.nearest(z, codebook[:1]).tolist() == [-1] * 4
    with st.strict(), pytest.raises(st.ArgumentError, match=r"nearest: row \(0,\) has no valid"):
        st.nearest(z, codebook)


@pytest.mark.parametrize(
    ("z", "codebook", "metric"),
    [
        ([[1.0, 2.0]], [[NAN, 1.0], [INFINITY, 1.0]], "euclidean"),
        ([[0.0, 0.0]], [[1.0, 1.0]], "cosine"),
    ],
)
def test_the_error_says_what_else_leaves_a_row_without_a_codeword(z, codebook, metric):
    says = r"zeros alone for the cosine, or no codeword is finite; mend the codebook, or the vector"
    with st.strict(), pytest.raises(st.ArgumentError, match=says):
        st.nearest(torch.tensor(z), torch.tensor(codebook), metric=metric)


@DTYPES
def test_cosine_is_the_largest_of_the_cosines(dtype):
    z, codebook = torch.randn(200, 6).to(dtype), (3 * torch.randn(90, 6)).to(dtype)
    cosines = torch.nn.functional.cosine_similarity(
        z.double().unsqueeze(1), codebook.double(), dim=-1
    )
    assert torch.equal(st.nearest(z, codebook, metric="cosine"), cosines.argmax(-1))


def test_cosine_of_parallel_and_zero_vectors():
    codebook = torch.tensor([[0.0, 0.0], [1e-30, 1e-30], [7.0, 7.0], [-1.0, 0.0]])
    z = torch.tensor([[1e30, 1e30], [-3.0, 0.1], [0.0, 0.0]])
    assert st.nearest(z, codebook, metric="cosine").tolist() == [1, 3, -1]
    with pytest.raises(st.ArgumentError, match="metric must be 'euclidean' or 'cosine', got 'dot'"):
        st.nearest(z, codebook, metric="dot")


def test_a_codebook_a_head():
    z, codebook = torch.randn(7, 2, 3, 4), torch.randn(2, 3, 9, 4)
    index = st.nearest(z, codebook)
    assert index.shape == (7, 2, 3)
    for i in range(2):
        for j in range(3):
            assert torch.equal(index[:, i, j], st.nearest(z[:, i, j], codebook[i, j]))


def test_leading_dimensions_and_none():
    codebook = torch.randn(5, 3)
    z = torch.randn(2, 4, 3)
    assert torch.equal(st.nearest(z, codebook)[1, 2], st.nearest(z[1, 2], codebook))
    assert st.nearest(z[:0], codebook).shape == (0, 4)


@pytest.mark.parametrize(
    ("z", "codebook"),
    [
        ((3,), (4,)),
        ((3,), (4, 2)),
        ((3,), (0, 3)),
        ((2, 3), (3, 4, 3)),
        ((), (4, 1)),
        ((0,), (4, 0)),
    ],
)
def test_what_does_not_fit_is_refused(z, codebook):
    with pytest.raises(st.ShapeError, match=r"z must be \(|codebook must be \(K, D\)"):
        st.nearest(torch.ones(z), torch.ones(codebook))


def test_vmap_over_either_or_both():
    z, codebook = torch.randn(6, 5, 3), torch.randn(6, 8, 3)
    loop = torch.stack([st.nearest(*pair) for pair in zip(z, codebook, strict=True)])
    assert torch.equal(torch.vmap(st.nearest)(z, codebook), loop)
    shared = torch.vmap(st.nearest, (1, None))(z, codebook[0])
    assert torch.equal(shared, st.nearest(z, codebook[0]).T)
    books = torch.vmap(st.nearest, (None, 0))(z[0], codebook)
    assert torch.equal(books, torch.stack([st.nearest(z[0], book) for book in codebook]))
    heads = torch.randn(4, 6, 2, 8, 3)
    nested = torch.vmap(torch.vmap(st.nearest, (0, 0)), (None, 0))(torch.randn(6, 5, 2, 3), heads)
    assert nested.shape == (4, 6, 5, 2)


def test_derivatives_pass_by():
    z, codebook = torch.randn(5, 3), torch.randn(8, 3)

    def loss(z: Tensor) -> Tensor:
        return (z * codebook[st.nearest(z, codebook)]).sum()

    due = codebook[st.nearest(z, codebook)]
    assert torch.equal(torch.func.grad(loss)(z), due)
    assert torch.equal(torch.func.jvp(loss, (z,), (z,))[1], (z * due).sum())
    compiled = torch.compile(st.nearest, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(z, codebook), st.nearest(z, codebook))


def test_scores_never_take_more_than_the_budget(monkeypatch):
    monkeypatch.setitem(search.BUDGET, "cpu", 2**14)
    z, codebook = torch.randn(1000, 4), torch.randn(512, 4)
    with torch.profiler.profile(profile_memory=True) as profile:
        index = st.nearest(z, codebook)
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    assert largest <= 4 * 2**14
    monkeypatch.undo()
    assert torch.equal(index, st.nearest(z, codebook))

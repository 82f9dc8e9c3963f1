"""What quantizers of vectors refuse, what does not start them, and the loss of no row."""

from __future__ import annotations

import pytest
import torch

import straightthrough as st

GIVEN = torch.ones(5, dtype=torch.int64)
REFUSED = [
    (
        lambda: st.nn.VectorQuantizer(8, 4)(torch.randn(5, 4), mask=GIVEN),
        "use torch.as_tensor(mask).bool()",
    ),
    (lambda: st.nn.VectorQuantizer(8, 4)(torch.randn(5, 4), mask=[True]), "got list"),
    (
        lambda: st.nn.ResidualVQ(2, 8, 4).decode(torch.ones(3, 3)),
        "index must be (..., 2)",
    ),
    (
        lambda: st.nn.VectorQuantizer(8, 4).decode(torch.tensor([0, 8])),
        "index must lie in [0, 8), or be -1 for none, got 8",
    ),
    (lambda: st.nn.VectorQuantizer(8, 4).decode(GIVEN.int()), "int64 tensor, got torch.int32"),
    (
        lambda: st.nn.ResidualVQ(2, 8, 4).decode(torch.tensor([[0, -2]])),
        "index must lie in [0, 8), or be -1 for none, got -2",
    ),
    (lambda: st.nn.GroupedVQ(2, 8, 4).decode([[0, 1]]), "an int64 tensor, got list"),
    (lambda: st.nn.GroupedVQ(2, 8, 4).decode(torch.ones(())), "for each codebook, got ()"),
    (
        lambda: st.nn.commitment(torch.ones(5, 4), torch.ones(4)),
        "q must have the shape (5, 4) of z, got (4,)",
    ),
    (
        lambda: st.nn.codebook_loss(torch.ones(5, 4), torch.ones(5, 1, 4)),
        "q must have the shape (5, 4) of z, got (5, 1, 4)",
    ),
    (
        lambda: st.nn.commitment(torch.ones(5, 4), torch.ones(5, 4), mask=GIVEN),
        "use torch.as_tensor(mask).bool()",
    ),
    (lambda: st.nn.codebook_loss(torch.ones(5, 4), GIVEN), "q must be float16, bfloat16"),
    (lambda: st.nn.commitment(torch.ones(5, 4), 3), "q must be a tensor, got int"),
    (lambda: st.nn.codebook_loss([1.0], torch.ones(1)), "z must be a tensor, got list"),
    (lambda: st.nn.GroupedVQ(2, 8, "4"), "width must be an int of at least 1, got '4'"),
    (lambda: st.nn.VectorQuantizer(8, 4, k_means=0), "k_means must be True or False, got 0"),
]


@pytest.mark.parametrize(("call", "says"), REFUSED)
def test_wrong_arguments(call, says):
    with pytest.raises(st.StraightThroughError) as caught:
        call()
    assert says in str(caught.value)


def test_an_empty_batch_starts_no_codebook():
    quantizer = st.nn.VectorQuantizer(2, 1)
    quantizer(torch.empty(0, 1))
    quantizer(torch.tensor([[5.0], [5.0], [9.0], [9.0]]))
    assert sorted(quantizer.book.codebook.flatten().tolist()) == [5.0, 9.0]


def test_a_loss_of_no_row_is_0_and_its_gradient_too():
    models = (st.nn.VectorQuantizer(8, 3), st.nn.ResidualVQ(2, 8, 3), st.nn.LFQ(3, commitment=0.1))
    for model in models:
        assert model(torch.zeros(0, 3)).loss == 0
        z = torch.randn(6, 3, requires_grad=True)
        q, _, loss = model(z, mask=torch.zeros(6, dtype=torch.bool))
        assert loss == 0
        assert not torch.autograd.grad(q.sum() + loss, z)[0].any()


@pytest.mark.parametrize("name", ["frozen", "commitment", "decay", "revive"])
def test_options_of_a_codebook_are_set_there(name):
    """On the quantizer they would be read back, and of no effect."""
    for model, where in (
        (st.nn.VectorQuantizer(8, 4), "quantizer.book"),
        (st.nn.ResidualVQ(2, 8, 4), "each of quantizer.books"),
        (st.nn.GroupedVQ(2, 8, 4), "each of quantizer.books"),
    ):
        with pytest.raises(st.ArgumentError, match=f"{name} is a codebook's.*set it on {where}"):
            setattr(model, name, True)


def test_the_decay_of_a_codebook_may_be_set():
    book = st.nn.VectorQuantizer(1, 1, k_means=False, decay=0.9).book
    book.decay = 0.0
    book.select(torch.tensor([[3.0], [5.0]]), None)
    assert (book.decay, book.codebook.item()) == (0.0, 4.0)
    with pytest.raises(st.ArgumentError, match=r"decay must lie in \[0, 1\), got 1"):
        book.decay = 1

"""Which batch a codebook starts at; averages of models that have codebooks."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import straightthrough as st


@pytest.mark.parametrize("learn", ["ema", "loss"])
@pytest.mark.parametrize(
    "make",
    [
        lambda **options: st.nn.VectorQuantizer(8, 4, **options),
        lambda **options: st.nn.ResidualVQ(2, 8, 4, **options),
        lambda **options: st.nn.GroupedVQ(2, 8, 4, **options),
    ],
)
def test_a_batch_of_padding_or_nan_starts_no_codebook(make, learn: str) -> None:
    """Else it stayed at its random codewords, and all of a batch far from 0 chose one or two."""
    model: nn.Module = make(learn=learn)
    z = 100 + torch.randn(200, 4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for padding in (
        model(z, mask=torch.zeros(200, dtype=torch.bool)),
        model(torch.full((200, 4), math.nan)),
        model(z[:0]),
    ):
        assert (padding.index == -1).all()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    index = model(z).index
    assert all(column.unique().numel() > 4 for column in index.reshape(200, -1).T)


def test_a_stage_that_dropout_left_out_starts_when_it_is_reached() -> None:
    torch.manual_seed(0)
    model = st.nn.ResidualVQ(8, 4, 3, dropout=True, decay=0.5)
    reached = torch.zeros(8, dtype=torch.bool)
    for _ in range(20):
        index = model(torch.randn(2, 30, 3)).index
        reached |= (index >= 0).any(1).any(0)
        assert [book.started for book in model.books] == reached.tolist()
    assert reached.all()


@pytest.mark.parametrize("mean", [None, get_ema_multi_avg_fn(0.5)])
def test_an_averaged_model_averages_the_buffers_of_a_codebook(mean) -> None:
    model = nn.Sequential(nn.Linear(3, 4), st.nn.VectorQuantizer(8, 4, revive=0.1))
    average = AveragedModel(model, multi_avg_fn=mean, use_buffers=True)
    found = []
    for _ in range(2):
        model(torch.randn(50, 3))
        average.update_parameters(model)
        found.append(model[1].book.codebook.clone())
    torch.testing.assert_close(average.module[1].book.codebook, torch.stack(found).mean(0))


@pytest.mark.parametrize("first", [lambda model: None, lambda model: model(torch.zeros(0, 4))])
def test_an_update_before_the_start_starts_nothing(first) -> None:
    """Else it counted as one, and the codebook stayed at its random codewords."""
    model = st.nn.VectorQuantizer(8, 4, update="manual")
    first(model)
    model.update_codebook()
    z = 100 + torch.randn(200, 4)
    assert model(z).index.unique().numel() > 4
    model.update_codebook()
    assert model(z).index.unique().numel() > 4


def test_a_frozen_codebook_stays_when_it_is_updated() -> None:
    """Else dead codes went on being revived, each by a row of the last forward."""
    torch.manual_seed(0)
    model = st.nn.VectorQuantizer(8, 4, update="manual", revive=0.9, decay=0.5, k_means=False)
    model(torch.randn(3, 4))
    model.book.frozen = True
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for _ in range(5):
        model.update_codebook()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_rows_of_a_forward_are_given_once() -> None:
    torch.manual_seed(0)
    model = st.nn.VectorQuantizer(8, 4, update="manual", revive=0.9, decay=0.5, k_means=False)
    model(torch.randn(3, 4))
    model.update_codebook()
    once = model.book.codebook.clone()
    for _ in range(5):
        model.update_codebook()
    assert torch.equal(model.book.codebook, once)


@pytest.mark.parametrize("learn", ["ema", "loss"])
@pytest.mark.parametrize("k_means", [None, False])
@pytest.mark.parametrize("how", ["start_at", "state dict"])
def test_codewords_from_elsewhere_are_kept(learn: str, k_means: bool | None, how: str) -> None:
    """Else k-means began anew, or the averages of the random codewords came back."""
    model, codewords = st.nn.VectorQuantizer(8, 4, learn=learn, k_means=k_means), torch.randn(8, 4)
    if how == "start_at":
        model.book.start_at(codewords)
    else:
        model.load_state_dict({"book.codebook": codewords}, strict=False)
    assert torch.equal(model.book.codebook, codewords)
    assert model.book.started
    assert model(codewords).index.tolist() == [*range(8)]  # each is the mean of what chose it
    torch.testing.assert_close(model.book.codebook.detach(), codewords)
    again = st.nn.VectorQuantizer(8, 4, learn=learn, k_means=k_means)
    again.load_state_dict(model.state_dict())
    assert again.book.started


def test_a_start_at_codewords_forgets_what_was_collected() -> None:
    model, codewords = st.nn.VectorQuantizer(8, 4, update="manual"), torch.randn(8, 4)
    model(torch.randn(50, 4))
    model.book.start_at(codewords)
    model.update_codebook()
    torch.testing.assert_close(model.book.codebook, codewords)


def test_a_start_at_codewords_has_their_directions() -> None:
    model = st.nn.VectorQuantizer(8, 4, metric="cosine")
    model.book.start_at(3 * torch.eye(8, 4) + 1e-3)
    torch.testing.assert_close(model.book.codebook.norm(dim=-1), torch.ones(8))


def test_other_codewords_are_refused() -> None:
    book = st.nn.Codebook(8, 4)
    with pytest.raises(st.ShapeError, match=r"codewords must be \(8, 4\), got \(4, 8\)"):
        book.start_at(torch.ones(4, 8))
    with pytest.raises(st.DtypeError, match="codewords must be float16"):
        book.start_at(torch.ones(8, 4, dtype=torch.int64))
    made = st.nn.Codebook(8, 4, learn="loss", transform=nn.Linear(4, 4))
    with pytest.raises(st.ArgumentError, match="the transform makes the codewords"):
        made.start_at(torch.ones(8, 4))


def test_a_codebook_without_k_means_takes_one_that_has_not_started_as_it_is() -> None:
    model = st.nn.VectorQuantizer(8, 4, k_means=False)
    model.load_state_dict(st.nn.VectorQuantizer(8, 4).state_dict())
    codewords = model.book.codebook.clone()
    model(codewords)
    torch.testing.assert_close(model.book.codebook, codewords)


@pytest.mark.parametrize("wrong", [None, "encoder", "adam"])
def test_only_the_optimizer_of_a_codebook_revives_its_codes(wrong: str | None) -> None:
    """Else another's moments were looked for, and those of the codebook stayed."""
    options = {"learn": "loss", "update": "manual", "revive": 0.9, "decay": 0.5}
    model, encoder = st.nn.VectorQuantizer(8, 4, **options), nn.Linear(4, 4)
    model(torch.randn(50, 4))
    model(torch.randn(3, 4))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    other = torch.optim.Adam(encoder.parameters()) if wrong == "encoder" else wrong
    with pytest.raises(st.ArgumentError, match=r"is revived by its|must hold the codebook"):
        model.update_codebook(other)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    model.update_codebook(torch.optim.Adam(model.parameters()))
    assert not torch.equal(model.book.codebook, before["book.codebook"])


@pytest.mark.parametrize("options", [{}, {"learn": "loss"}, {"revive": 0.5}, {"update": "manual"}])
def test_compiled_code_starts_no_codebook_whose_buffers_come_from_another_model(options) -> None:
    known, copy, found = (st.nn.VectorQuantizer(8, 4, **options) for _ in range(3))
    known(torch.randn(50, 4))
    for model in (copy, found):
        for into, tensor in zip(model.buffers(), known.buffers(), strict=True):
            into.copy_(tensor)
        for into, tensor in zip(model.parameters(), known.parameters(), strict=True):
            into.data.copy_(tensor)
    compiled = torch.compile(found, backend="aot_eager", fullgraph=True)
    for _ in range(2):
        z = 3 * torch.randn(30, 4)
        torch.testing.assert_close(compiled(z), copy(z))
    torch.testing.assert_close(found.state_dict(), copy.state_dict())
    torch.compiler.reset()


@pytest.mark.parametrize("update", ["forward", "manual"])
@pytest.mark.parametrize("rows", [0, 5])
def test_a_batch_without_rows_leaves_the_state_as_it_is(update, rows):
    """Its averages decayed, and the number of steps went on."""
    model = st.nn.VectorQuantizer(4, 2, decay=0.5, revive=0.5, update=update)
    model(torch.randn(50, 2))
    model.update_codebook()
    before = copy.deepcopy(model.state_dict())
    z = torch.randn(rows, 2)
    model(z, mask=torch.zeros(rows, dtype=torch.bool))
    if update == "manual":
        model.update_codebook()
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_batch_without_rows_leaves_those_that_revive():
    """Codes stayed dead where the last of several forwards had no row."""
    model = st.nn.VectorQuantizer(8, 2, revive=0.5, decay=0.0, update="manual", k_means=False)
    model.book.start_at(torch.full((8, 2), 100.0))
    model(torch.randn(50, 2))
    model(torch.randn(5, 2), mask=torch.zeros(5, dtype=torch.bool))
    model.update_codebook()
    assert (model.book.codebook.abs() < 10).all()

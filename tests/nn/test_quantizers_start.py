"""Which batch a codebook starts at; averages of models that have codebooks."""

from __future__ import annotations

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

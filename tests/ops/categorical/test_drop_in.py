"""What stands in torch's place: `gumbel_softmax` by its arguments, a lookup under autocast."""

from __future__ import annotations

import inspect
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import straightthrough as st

LOGITS = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))


def test_arguments_of_gumbel_softmax_are_torchs() -> None:
    ours = inspect.signature(st.gumbel_softmax).parameters
    theirs = inspect.signature(F.gumbel_softmax).parameters
    for (name, one), (other, two) in zip(ours.items(), theirs.items(), strict=False):
        assert (name, one.default, one.kind) == (other, two.default, two.kind)
    assert list(theirs) == list(ours)[: len(theirs)]


@pytest.mark.parametrize("hard", [True, False])
def test_eps_is_ignored_in_torchs_words(hard: bool) -> None:
    """A fourth positional 0 is an `eps`, not a `dim`."""
    with pytest.warns(UserWarning, match="eps") as theirs:
        F.gumbel_softmax(LOGITS, 0.5, hard, 0)
    with pytest.warns(UserWarning, match="eps") as ours:
        y = st.gumbel_softmax(LOGITS, 0.5, hard, 0, seed=1)
    assert [str(w.message) for w in ours] == [str(w.message) for w in theirs]
    assert ours[0].filename == __file__
    torch.testing.assert_close(y.sum(-1), torch.ones(4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(y, st.gumbel_softmax(LOGITS, 0.5, hard, 1e-10, -1, seed=1))
        across = st.gumbel_softmax(LOGITS, 0.5, hard, dim=0, seed=1)
    torch.testing.assert_close(across.sum(0), torch.ones(5))


@pytest.mark.parametrize("tau", [torch.tensor(0.5), np.float32(0.5), np.float64(0.5)])
@pytest.mark.parametrize("hard", [True, False])
def test_a_temperature_of_any_kind(hard: bool, tau: float) -> None:
    wanted = st.gumbel_softmax(LOGITS, 0.5, hard, seed=1)
    assert torch.equal(st.gumbel_softmax(LOGITS, tau, hard, seed=1), wanted)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_lookup_after_a_linear_under_autocast(training: bool, compiled: bool) -> None:
    torch._dynamo.reset()
    model = nn.Sequential(nn.Linear(3, 5), st.nn.CategoricalLookup(5, 2)).train(training)
    table = model[1].table
    run = torch.compile(model, fullgraph=True, backend="aot_eager") if compiled else model
    x = torch.randn(16, 3)
    with torch.autocast("cpu", torch.bfloat16):
        y = run(x)
        loss = (y.float() * torch.linspace(-1, 2, 2)).sum()
    loss.backward()
    assert (y.dtype, table.dtype, table.grad.dtype) == (torch.bfloat16, *[torch.float32] * 2)
    rows = table.detach().bfloat16()
    assert (y.unsqueeze(1) == rows).all(-1).any(-1).all()  # each a row of the table
    picks = (y.unsqueeze(1) == rows).all(-1).float().sum(0)
    torch.testing.assert_close(table.grad, picks[:, None] * torch.linspace(-1, 2, 2))
    if training:
        weight = model[0].weight
        assert weight.grad.dtype == torch.float32
        assert weight.grad.abs().sum() > 0


def test_other_dtypes_are_refused_still() -> None:
    table = torch.ones(5, 2)
    for logits in (LOGITS.bfloat16(), LOGITS.double()):
        with pytest.raises(st.DtypeError, match="table must have the dtype"):
            st.categorical_lookup(logits, table)
        with pytest.raises(st.DtypeError, match="table must have the dtype"):
            st.nn.CategoricalLookup(5, 2).eval()(logits)
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(st.DtypeError, match=r"got torch\.float64"),
    ):
        st.categorical_lookup(LOGITS, table.double())


def test_gradients_of_a_lookup_are_those_of_the_cast_table() -> None:
    table = torch.randn(5, 2, requires_grad=True)
    logits = LOGITS.bfloat16().requires_grad_()

    def gradients(rows: Tensor) -> tuple[Tensor, ...]:
        y = st.categorical_lookup(logits, rows, seed=3)
        return torch.autograd.grad((y * torch.tensor([1.0, -2.0])).sum(), (logits, table))

    plain = gradients(table.to(torch.bfloat16))
    with torch.autocast("cpu", torch.bfloat16):
        ours = gradients(table)
    assert all(map(torch.equal, ours, plain))

"""Categorical operators: masks, rows without an outcome, strict mode, errors."""

from __future__ import annotations

import math

import pytest
import torch

import straightthrough as st

NAN, INFINITY = math.nan, math.inf


def test_mask_broadcasts_and_follows_dim() -> None:
    logits = torch.zeros(4, 300)
    mask = torch.tensor([[True], [True], [False], [False]])
    z = st.categorical(logits, dim=0, mask=mask, seed=1)
    assert z.sum(0).tolist() == [1] * 300
    assert z[2:].sum() == 0
    assert z[0].sum() > 0
    assert st.argmax(logits, dim=0, mask=~mask)[2].sum() == 300


BAD = torch.tensor([[0.0, 1.0], [NAN, 1.0], [-INFINITY, -INFINITY], [INFINITY, 0.0]])
SAMPLERS = {
    "categorical": lambda logits, **kw: st.categorical(logits, seed=0, **kw),
    "gumbel_softmax": lambda logits, **kw: st.gumbel_softmax(logits, seed=0, **kw),
    "hard gumbel_softmax": lambda logits, **kw: st.gumbel_softmax(logits, hard=True, seed=0, **kw),
    "lookup": lambda logits, **kw: st.categorical_lookup(logits, torch.eye(2), seed=0, **kw),
}
EVERY_SAMPLER = pytest.mark.parametrize("name", SAMPLERS)


@EVERY_SAMPLER
def test_rows_without_an_outcome_are_nan(name: str) -> None:
    value = SAMPLERS[name](BAD)
    assert value[0].sum() == pytest.approx(1)
    assert value[1:].isnan().all()
    assert SAMPLERS[name](BAD[0], mask=torch.tensor([False, False])).isnan().all()


def test_argmax_of_rows_without_an_outcome() -> None:
    value = st.argmax(BAD)
    assert value[[0, 3]].tolist() == [[0, 1], [1, 0]]
    assert value[1:3].isnan().all()


@EVERY_SAMPLER
def test_a_bad_row_leaves_its_neighbours_gradients_alone(name: str) -> None:
    logits = BAD.clone().requires_grad_()
    value = SAMPLERS[name](logits)
    gradient = torch.autograd.grad(value, logits, torch.tensor([1.0, 3.0]).expand(4, 2))[0]
    assert gradient[0].isfinite().all()
    alone = BAD[:1].clone().requires_grad_()
    wanted = torch.autograd.grad(SAMPLERS[name](alone), alone, torch.tensor([[1.0, 3.0]]))[0]
    torch.testing.assert_close(gradient[:1], wanted)


@pytest.mark.parametrize("name", [*SAMPLERS, "argmax"])
def test_strict_names_the_first_bad_row(name: str) -> None:
    call = SAMPLERS.get(name, st.argmax)
    with st.strict():
        call(BAD[:1])
        with pytest.raises(st.ArgumentError, match=r"row \(2, 1\) has no valid outcome"):
            call(BAD[[0, 0, 0, 0, 0, 1]].reshape(3, 2, 2))
    assert call(BAD[1:2]).isnan().all()  # outside the context it is a NaN row again


def test_strict_blames_no_row_for_a_table_that_holds_nan() -> None:
    table = torch.full((3, 2), torch.nan)
    with st.strict():
        assert st.categorical_lookup(torch.zeros(4, 3), table).isnan().all()


@pytest.mark.parametrize("name", [*SAMPLERS, "argmax"])
def test_errors(name: str) -> None:
    call = SAMPLERS.get(name, st.argmax)
    with pytest.raises(st.ShapeError, match="0-d"):
        call(torch.tensor(1.0))
    with pytest.raises(st.ShapeError, match="no class along dim"):
        call(torch.zeros(3, 0))
    with pytest.raises(st.ShapeError, match=r"dim must lie in \[-2, 1\].*got 2"):
        call(torch.zeros(2, 2), dim=2)
    with pytest.raises(st.DtypeError, match="mask must be a bool tensor"):
        call(torch.zeros(2, 2), mask=torch.ones(2, 2))
    with pytest.raises(st.ShapeError, match="does not broadcast"):
        call(torch.zeros(2, 2), mask=torch.ones(3, dtype=torch.bool))
    with pytest.raises(st.DtypeError, match=r"torch\.int64"):
        call(torch.zeros(2, 2, dtype=torch.int64))


def test_errors_of_arguments() -> None:
    logits = torch.zeros(2, 3)
    with pytest.raises(st.ArgumentError, match="did you mean 'reinmax'"):
        st.categorical(logits, "reinmx")
    for tau in (0.0, -1.0, NAN):
        with pytest.raises(st.ArgumentError, match="tau"):
            st.argmax(logits, tau=tau)
        with pytest.raises(st.ArgumentError, match="tau"):
            st.gumbel_softmax(logits, tau)
    with pytest.raises(st.ShapeError, match=r"\(C, D\) with C = 3 classes"):
        st.categorical_lookup(logits, torch.zeros(2, 2))
    with pytest.raises(st.DtypeError, match=r"use table\.to\(logits\.dtype\)"):
        st.categorical_lookup(logits, torch.zeros(3, 2, dtype=torch.float64))


@pytest.mark.parametrize("estimator", ["straight_through", "reinmax", "gumbel", "mve"])
def test_a_row_without_an_outcome_is_in_no_second_derivative_of_a_table(estimator: str) -> None:
    def second(logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = logits.double().requires_grad_()
        table = torch.tensor([[1.0, 2.0], [-3.0, 0.5]], dtype=torch.float64, requires_grad=True)
        y = st.categorical_lookup(x, table, estimator, seed=3)
        to_x, to_table = torch.autograd.grad(y, (x, table), torch.ones_like(y), create_graph=True)
        return torch.autograd.grad(to_x[0, 0] + to_table.square().sum(), (x, table))

    to_x, to_table = second(BAD)
    due_x, due_table = second(BAD[:1])
    torch.testing.assert_close(to_x[:1], due_x)
    torch.testing.assert_close(to_table, due_table)

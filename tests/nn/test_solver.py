"""`st.nn.Solve`: the function in training, no noise in eval, and a step that adapts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import straightthrough as st
from straightthrough.nn.schedules import Answering, Linear


def largest(theta: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(theta.argmax(-1), theta.shape[-1])


def test_it_is_the_function_in_training_and_without_noise_in_eval() -> None:
    theta = torch.randn(50, 4)
    module = st.nn.Solve(largest, "imle", sigma=3.0)
    torch.manual_seed(1)
    drawn = module(theta)
    torch.manual_seed(1)
    assert torch.equal(drawn, st.solve(largest, theta, "imle", sigma=3.0))
    assert torch.equal(module.eval()(theta), largest(theta).float())
    assert not torch.equal(drawn, largest(theta).float())


def test_lam_may_be_a_schedule() -> None:
    module = st.nn.Solve(largest, "blackbox", lam=Linear(4.0, 1.0, steps=3))
    theta, grad = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    for lam in (4.0, 3.0, 2.0, 1.0):
        leaf = theta.clone().requires_grad_()
        found = torch.autograd.grad(module(leaf), leaf, grad)[0]
        due = [1 / lam, -1 / lam] if lam > 1 else [0, 0]
        assert found[0].tolist() == pytest.approx(due)
        st.nn.step_schedules(module)


def test_an_answering_step_grows_until_the_solver_answers_and_then_falls() -> None:
    lam = Answering(0.5, rate=0.25, decay=0.0)
    module = st.nn.Solve(largest, st.estimators.IMLE(sigma=1e-6, relative=True), lam=lam)
    seen = []
    for _ in range(8):
        theta = torch.tensor([[1.0, 0.0, -2.0]], requires_grad=True)
        y = module(theta)
        y.backward(torch.tensor([[1.0, 0.0, 0.0]]))
        seen.append((lam.value, int((theta.grad != 0).sum())))
        st.nn.step_schedules(module)
    # |theta| = sqrt(5), |g| = 1: above lam = 1 / sqrt(5) = .447 the step changes the solution.
    assert seen == [(0.5, 2), (0.25, 0), (0.5, 2), (0.25, 0)] * 2
    twin = st.nn.Solve(largest, st.estimators.IMLE(relative=True), lam=Answering(0.5, rate=0.25))
    twin.load_state_dict(module.state_dict())
    assert twin.lam.value == lam.value


def test_without_an_answer_it_grows_by_the_rate_and_never_falls_to_0() -> None:
    lam = Answering(1.0, rate=0.5)
    lam.see(torch.zeros(2, 3))
    for value in (1.5, 2.0):
        lam.step()
        assert lam.value == value
    lam.see(torch.full((2, 300), 1.0))
    for _ in range(9):
        lam.step()
    assert lam.value == 0.5


def test_a_gradient_of_no_problem_is_not_seen() -> None:
    lam = Answering(1.0, rate=0.5)
    lam.see(torch.zeros(2, 3))
    lam.see(torch.zeros(0, 3))
    lam.step()
    assert lam.value == 1.5


@pytest.mark.parametrize("overflow", [torch.inf, torch.nan])
def test_what_overflowed_in_backward_is_no_answer(overflow: float) -> None:
    """Of a step that loss scaling skips: each took `n` entries for answers, and c rose by them."""
    lam = Answering(9.0, decay=0.5)
    module, y = st.nn.Solve(largest, "blackbox", lam=lam), torch.tensor([[9.0, 0.0, 0.0]] * 2)
    grad = torch.tensor([[5.0, -5.0, 0.0]] * 2)
    for lost, due in ((2, 1.0), (1, 1.5), (0, 1.75)):  # c goes from 1 towards the 2 of a row
        theta = y.clone().requires_grad_()
        module(theta).backward(torch.where(torch.arange(2)[:, None] < lost, overflow, grad))
        assert theta.grad[:lost].isfinite().logical_not().all()
        assert lam.running == due


def test_two_calls_are_seen_apart() -> None:
    lam = Answering(9.0, decay=0.0)
    module = st.nn.Solve(largest, "blackbox", lam=lam)
    theta = torch.zeros(1, 5, requires_grad=True)
    (module(theta) @ torch.ones(5) + theta.sum()).backward()
    assert lam.running == 0  # the sum's gradient is not the solver's


def test_wrong_numbers_are_refused() -> None:
    for wrong in ({"start": 0}, {"rate": -1.0}, {"target": 0}, {"decay": 1.0}):
        with pytest.raises(st.ArgumentError, match=next(iter(wrong))):
            Answering(**wrong)
    with pytest.raises(st.ArgumentError, match="lam must be above 0"):
        st.nn.Solve(largest, "blackbox", lam=0)


def test_an_export_in_training_says_that_no_step_adapts_there() -> None:
    module, theta = st.nn.Solve(largest, lam=Answering(0.5)), torch.randn(5, 4)
    with pytest.raises(st.StraightThroughError, match=r"export the module in eval\(\)"):
        torch.export.export(module, (theta,))
    exported = torch.export.export(module.eval(), (theta,)).module()
    assert torch.equal(exported(theta), module(theta))

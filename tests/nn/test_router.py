"""`st.nn.TopKRouter`: gates, losses against their formulas, balance, and blindness to padding."""

from __future__ import annotations

import io
import math

import pytest
import torch
from torch import Tensor
from transformers.models.switch_transformers import modeling_switch_transformers as switch

import straightthrough as st
from straightthrough.core.errors import FLOATING

LOGITS = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))


def test_gates_by_hand() -> None:
    logits = torch.tensor([0.5, 0.3, 0.2]).log()
    route = st.nn.TopKRouter(3, 2)(logits)
    torch.testing.assert_close(route.gates, torch.tensor([0.5 / 0.8, 0.3 / 0.8, 0.0]))
    assert route.index.tolist() == [0, 1]
    plain = st.nn.TopKRouter(3, 2, normalize=False)(logits)
    torch.testing.assert_close(plain.gates, torch.tensor([0.5, 0.3, 0.0]))
    sigmoid = st.nn.TopKRouter(3, 1, scores="sigmoid", normalize=False)
    logits = torch.tensor([0.25, 0.75, 0.5]).logit()
    torch.testing.assert_close(sigmoid(logits).gates, torch.tensor([0.0, 0.75, 0.0]))


@pytest.mark.parametrize("normalize", [False, True])
def test_the_gradient_is_that_of_the_chosen_scores(normalize: bool) -> None:
    logits, grad = LOGITS.clone().requires_grad_(), torch.randn_like(LOGITS)
    found = torch.autograd.grad(
        st.nn.TopKRouter(6, 2, normalize=normalize)(logits).gates, logits, grad
    )
    chosen = torch.zeros_like(LOGITS).scatter(-1, LOGITS.topk(2).indices, 1)
    score = logits.softmax(-1) * chosen
    due = score / score.sum(-1, keepdim=True) if normalize else score
    torch.testing.assert_close(found, torch.autograd.grad(due, logits, grad))


def test_gates_sum_to_1_where_all_scores_underflow() -> None:
    logits = torch.tensor([[-100.0, -101.0, -1000.0, -1001.0], [-1e4, -1e4, -2e4, -math.inf]])
    logits.requires_grad_()
    for scores in ("sigmoid", "softmax"):
        router = st.nn.TopKRouter(4, 2, scores=scores)
        gates = router(logits).gates
        wanted = torch.tensor([[math.e, 1.0], [1.0, 1.0]])
        torch.testing.assert_close(gates[:, :2], wanted / wanted.sum(-1, keepdim=True))
        assert not gates[:, 2:].any()
        (to_logits,) = torch.autograd.grad(gates[:, 0].sum(), logits, retain_graph=True)
        slope = gates[:, 0] * gates[:, 1]
        torch.testing.assert_close(to_logits[:, :2], torch.stack([slope, -slope], -1).detach())
        (of_loss,) = torch.autograd.grad(router(logits).balance, logits)
        assert of_loss.isfinite().all()


def test_losses_are_those_of_switch() -> None:
    """Of transformers, whose balance counts one expert a token."""
    route = st.nn.TopKRouter(6, 1)(LOGITS)
    probabilities, index = LOGITS.softmax(-1), LOGITS.argmax(-1)
    hot = torch.nn.functional.one_hot(index, 6)
    due = switch.load_balancing_loss_func(probabilities.unsqueeze(0), index.unsqueeze(0))
    torch.testing.assert_close(route.balance, due)
    by_hand = 6 * (hot.float().mean(0) * probabilities.mean(0)).sum()
    torch.testing.assert_close(route.balance, by_hand)
    torch.testing.assert_close(route.z, switch.router_z_loss_func(LOGITS.unsqueeze(0)))


@pytest.mark.parametrize("k", [1, 2, 6])
def test_the_balance_is_1_where_all_are_used_alike(k: int) -> None:
    shifts = [torch.arange(6.0).roll(i) for i in range(6)]
    route = st.nn.TopKRouter(6, k, scores="sigmoid")(torch.stack(shifts))
    torch.testing.assert_close(route.balance, torch.tensor(1.0))
    alone = st.nn.TopKRouter(6, 1)(torch.tensor([99.0, 0, 0, 0, 0, 0]).expand(5, 6))
    torch.testing.assert_close(alone.balance, torch.tensor(6.0))


def test_padding_changes_nothing() -> None:
    logits = LOGITS.reshape(4, 10, 6)
    mask = torch.arange(10) < torch.tensor([10, 3, 0, 7]).unsqueeze(-1)
    padded, short = st.nn.TopKRouter(6, 2), st.nn.TopKRouter(6, 2)
    leaf = torch.where(mask.unsqueeze(-1), logits, torch.nan).requires_grad_()  # whatever is there
    route, due = padded(leaf, mask=mask), short(logits[mask])
    assert torch.equal(route.gates[mask], due.gates)
    assert not route.gates[~mask].any()
    torch.testing.assert_close(route[2:], due[2:])
    assert torch.equal(padded.load, short.load)
    (gradient,) = torch.autograd.grad(route.balance + route.z + route.gates[..., 0].sum(), leaf)
    assert gradient[mask].all()
    assert not gradient[~mask].any()
    nothing = padded(logits, mask=torch.zeros_like(mask))
    assert nothing.balance == nothing.z == 0


def test_the_index_of_padding_is_that_of_the_first_experts_whatever_the_bias() -> None:
    router = st.nn.TopKRouter(6, 2)
    router.bias.copy_(torch.arange(6.0))
    mask = torch.tensor([True, False])
    assert router(torch.zeros(2, 6), mask=mask).index.tolist() == [[4, 5], [0, 1]]


def test_the_bias_evens_out_the_loads_and_is_in_no_gate() -> None:
    torch.manual_seed(0)
    router = st.nn.TopKRouter(8, 2, scores="sigmoid", rate=0.02)
    skew = torch.linspace(-1, 1, 8)
    logits = [torch.randn(256, 8) + skew for _ in range(200)]
    first = router.eval()(logits[0]).gates.count_nonzero(0)
    router.train()
    for each in logits:
        router(each)
        router.update()
    last = router.eval()(logits[0])
    even = 256 * 2 / 8
    assert (last.gates.count_nonzero(0) - even).abs().max() < 0.4 * even
    assert (first - even).abs().max() > 0.8 * even
    score = logits[0].sigmoid() * (last.gates > 0)
    torch.testing.assert_close(last.gates, score / score.sum(-1, keepdim=True))


def test_the_bias_is_a_buffer_that_is_saved_and_stays_float32() -> None:
    router = st.nn.TopKRouter(6, 2)
    assert [*router.parameters()] == []
    router(LOGITS)
    router.update()
    file = io.BytesIO()
    torch.save(router.state_dict(), file)
    file.seek(0)
    twin = st.nn.TopKRouter(6, 2)
    twin.load_state_dict(torch.load(file))
    assert torch.equal(twin.bias, router.bias)
    assert router.bias.any()
    assert router.half().bias.dtype == torch.float32
    before = router.load.clone()
    router.eval()(LOGITS)
    assert torch.equal(router.load, before)


@pytest.mark.parametrize("dtype", FLOATING)
def test_gates_have_the_dtype_of_the_logits(dtype: torch.dtype) -> None:
    route = st.nn.TopKRouter(6, 2)(LOGITS.to(dtype))
    assert route.gates.dtype == dtype
    assert route.balance.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_ties_and_nan() -> None:
    logits = torch.zeros(2, 4)
    logits[1, 0] = torch.nan
    router = st.nn.TopKRouter(4, 2)
    route = router(logits)
    assert route.gates[0].tolist() == [0.5, 0.5, 0, 0]
    assert route.gates[1].isnan().all()
    assert router.load.tolist() == [1, 1, 0, 0]
    assert route.balance.isfinite()


@pytest.mark.parametrize("scores", ["softmax", "sigmoid"])
def test_the_bias_lifts_no_expert_that_is_ruled_out(scores: str) -> None:
    router = st.nn.TopKRouter(4, 2, scores=scores)
    router.bias.copy_(torch.tensor([0.0, -0.7, 0.0, 0.7]))
    logits = torch.tensor([[2.0, 1.0, -math.inf, -math.inf], [2.0, *[-math.inf] * 3]])
    route = router(logits)
    assert route.index.tolist() == [[0, 1], [0, 1]]
    share = logits[0, :2].softmax(-1) if scores == "softmax" else logits[0, :2].sigmoid()
    torch.testing.assert_close(route.gates[0, :2], share / share.sum())
    torch.testing.assert_close(route.gates[1], torch.tensor([1.0, 0.0, 0.0, 0.0]))


def test_it_compiles() -> None:
    router, twin = st.nn.TopKRouter(6, 2), st.nn.TopKRouter(6, 2)
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager_decomp_partition")

    def gradient(call) -> Tensor:
        leaf = LOGITS.clone().requires_grad_()
        route = call(leaf)
        loss = route.gates.square().sum() + route.balance + route.z
        return torch.autograd.grad(loss, leaf)[0]

    torch.testing.assert_close(gradient(compiled), gradient(router))
    assert torch.equal(twin.load, router.load)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"experts": 0}, "experts must be an int of at least 1"),
        ({"k": 5}, r"k must lie in \[1, 4\] for 4 experts, got 5"),
        ({"scores": "relu"}, "scores must be one of softmax, sigmoid"),
        ({"rate": -1.0}, "rate must be at least 0"),
    ],
)
def test_wrong_arguments(arguments, says) -> None:
    with pytest.raises(st.ArgumentError, match=says):
        st.nn.TopKRouter(**{"experts": 4, "k": 2, **arguments})


def test_wrong_inputs() -> None:
    router = st.nn.TopKRouter(4, 2)
    with pytest.raises(st.ShapeError, match=r"logits must be \(\.\.\., 4\) for 4 experts"):
        router(torch.zeros(2, 3))
    with pytest.raises(st.DtypeError, match="mask must be a bool tensor"):
        router(torch.zeros(2, 4), mask=torch.ones(2))
    with pytest.raises(st.ShapeError, match=r"mask must be \(2,\), one a token, got \(4,\)"):
        router(torch.zeros(2, 4), mask=torch.ones(4, dtype=torch.bool))


@pytest.mark.parametrize("scores", ["softmax", "sigmoid"])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("value", [-math.inf, math.nan])
def test_a_token_that_no_expert_may_have_is_counted_nowhere(
    scores: str, normalize: bool, value: float
) -> None:
    """Where all its logits are -infinity, two experts had it, and the z-loss was infinite."""
    logits = LOGITS.clone()
    logits[3] = value
    logits.requires_grad_()
    router = st.nn.TopKRouter(6, 2, scores=scores, normalize=normalize)
    without = st.nn.TopKRouter(6, 2, scores=scores, normalize=normalize)
    route, due = router(logits), without(torch.cat([LOGITS[:3], LOGITS[4:]]))
    torch.testing.assert_close((route.balance, route.z), (due.balance, due.z))
    assert torch.equal(router.load, without.load)
    (grad,) = torch.autograd.grad(route.balance + route.z, logits)
    assert (grad[3] == 0).all()
    assert grad.isfinite().all()

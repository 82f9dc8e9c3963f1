"""What the monitor observes, every quantity by hand."""

import inspect
import itertools
import math
import re
from statistics import fmean

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import straightthrough as st
from straightthrough.audit import Monitor, Observation
from straightthrough.audit.monitor.quantities import KINDS, code_usage, sample
from straightthrough.nn.base import OperatorModule


def watch(model, *calls, **options):
    """Run each call as a training step with the gradient that it names; return what was seen."""
    options = {"every": 1, **options}
    with Monitor(model, **options) as monitor:
        for x, grad in calls:
            y = model(*x)
            if grad is not None:
                y.backward(torch.tensor(grad, dtype=y.dtype))
            monitor.step()
    return {(seen.step, seen.quantity): seen.value for seen in monitor.observations}


def leaf(*values, dtype=torch.float32):
    return (torch.tensor(values, dtype=dtype).requires_grad_(),)


def test_sign_by_hand():
    # Clipped passes where |x| <= 1. Of the three elements with a gradient, 5 and -3 are outside.
    first = (leaf([0.5, 5.0], [-3.0, 7.0]), [[1.0, 2.0], [3.0, 0.0]])
    # Against +1 +1 / -1 +1 now -1 +1 / +1 +1: two of four flipped; 0 at a place with no gradient.
    second = (leaf([-0.5, 0.1], [0.0, 7.0]), [[1.0, 2.0], [3.0, 0.0]])
    seen = watch(st.nn.Sign(), first, second)
    # Outgoing gradients (1, 0) and (0, 0): means (1/2, 0), variances (1/2, 0).
    # Then (1, 2) and (3, 0): means (2, 1), variances (2, 2).
    assert seen == {
        (0, "saturation"): pytest.approx(2 / 3),
        (0, "gradient_snr"): pytest.approx(math.sqrt(1 / 2)),
        (1, "saturation"): 0,
        (1, "gradient_snr"): pytest.approx(math.sqrt(5 / 4)),
        (1, "flip_rate"): 0.5,
    }


def test_the_gradient_seen_is_the_operators_alone():
    sign = st.nn.Sign()
    with Monitor(sign, every=1) as monitor:
        x = torch.tensor([[3.0], [4.0]], requires_grad=True)
        h = 1 * x
        (sign(h).sum() + (h**2).sum()).backward()  # all of sign's own is 0, that of h is not
        monitor.step()
    assert monitor.observations == [Observation(0, "Sign", "saturation", 1.0)]
    assert x.grad.flatten().tolist() == [6.0, 8.0]


def test_heaviside_counts_zeros():
    seen = watch(st.nn.Heaviside(0.5), (leaf(0.2, 0.7, 0.5, 0.1), [1.0, 1.0, 1.0, 1.0]))
    assert seen[0, "sparsity"] == 0.75
    assert seen[0, "saturation"] == 0  # the sigmoid has tails


def test_clamp_has_no_outcome():
    clamp = st.nn.Clamp(-1, 1, surrogate="clipped")
    call = (leaf([0.5], [3.0]), [[1.0], [1.0]])
    assert {name for _, name in watch(clamp, call, call)} == {"saturation", "gradient_snr"}


def test_categorical_by_hand():
    logits = leaf([[0.0, 0.0, 0.0, 0.0]], [[math.log(3), 0.0, -math.inf, -math.inf]])
    with Monitor(sample := st.nn.Categorical("straight_through"), every=1) as monitor:
        z = sample(*logits)
        z.backward(torch.tensor([[[1.0, 0, 0, 0]], [[0.0, 0, 1, 1]]]))
        monitor.step()
    seen = {row.quantity: row.value for row in monitor.observations}
    # log 4; and -(3/4 log 3/4 + 1/4 log 1/4).
    entropies = math.log(4), math.log(4) - 0.75 * math.log(3)
    assert seen["entropy"] == pytest.approx(sum(entropies) / 2)
    used = len(set(z.argmax(-1).flatten().tolist()))
    assert seen["code_use"] == used / 4
    assert seen["perplexity"] == pytest.approx(used)  # two rows: one class twice, or two once
    # p (g - <p, g>): (3, -1, -1, -1) / 16 in the first row; 0 where p is, and g is elsewhere.
    assert seen["saturation"] == 0.5
    # Means half of that, variances half of the squares: |mean|^2 = 12/1024, var = 12/512.
    assert seen["gradient_snr"] == pytest.approx(math.sqrt(1 / 2))


def test_classes_that_are_masked_carry_no_entropy():
    with Monitor(draw := st.nn.Categorical(), every=1) as monitor:
        draw(torch.zeros(3, 4), mask=torch.tensor([True, False, True, False]))
        monitor.step()
    seen = {row.quantity: row.value for row in monitor.observations}
    assert seen["entropy"] == pytest.approx(math.log(2))


def test_the_outcome_of_a_soft_row_is_its_largest_class():
    # At this temperature no value is near 1; the logits leave no doubt about the largest.
    with Monitor(soft := st.nn.GumbelSoftmax(300.0), every=1) as monitor:
        for classes in ([0, 1, 1, 1], [0, 1, 1, 2]):
            assert soft(200 * torch.eye(4)[classes]).max() < 0.5
            monitor.step()
    seen = {(row.step, row.quantity): row.value for row in monitor.observations}
    assert (seen[0, "code_use"], seen[1, "code_use"]) == (0.5, 0.75)
    assert seen[1, "flip_rate"] == 0.25


def test_perplexity_by_hand():
    # Classes 0, 0, 0, 2 of four: exp(-(3/4 log 3/4 + 1/4 log 1/4)) = 4 / 3^(3/4).
    x = torch.tensor([[9.0, 0, 0, 0], [9, 0, 0, 0], [9, 0, 0, 0], [0, 0, 9, 0]])
    seen = watch(st.nn.Argmax(), ((x,), None), ((x.roll(1, 0),), None))
    assert seen[0, "code_use"] == 0.5
    assert seen[0, "perplexity"] == pytest.approx(4 / 3**0.75)
    assert seen[1, "flip_rate"] == 0.5  # the rows 0 and 3 now have the other class
    assert (0, "entropy") not in seen
    along = watch(st.nn.Argmax(dim=0), ((x.T.contiguous(),), None))
    assert along == {key: value for key, value in seen.items() if key[0] == 0}


def test_topk_by_hand():
    # Three rows choose {0, 1}, {0, 2}, {0, 1}: counts 3, 2, 1, 0 of 6.
    x = torch.tensor([[3.0, 2, 1, 0], [3, 1, 2, 0], [3, 2, 1, 0]])
    seen = watch(st.nn.TopK(2), ((x,), None))
    assert seen[0, "code_use"] == 0.75
    shares = (1 / 2, 1 / 3, 1 / 6)
    assert seen[0, "perplexity"] == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_lookup_is_known_by_the_row_it_returns(dtype):
    lookup = st.nn.CategoricalLookup(4, 3, "straight_through", dtype=dtype)
    with torch.no_grad():
        lookup.table.copy_(torch.tensor([[1.0, 2, 3], [1, 2, 4], [0, 0, 0], [1, 2, 3]]))
    sure = 50 * torch.eye(4, dtype=dtype)[torch.tensor([[1, 1], [2, 3]])]
    # The rows 1, 1, 2 and 3; 3 is equal to 0, which counts. Counts 1, 2, 1, 0 of 4.
    seen = watch(lookup, ((sure,), None), ((sure.roll(1, 0),), None))
    assert seen[0, "code_use"] == 0.75
    assert seen[0, "perplexity"] == pytest.approx(2**1.5)
    assert seen[0, "entropy"] == pytest.approx(0, abs=1e-5)
    assert seen[1, "flip_rate"] == 1.0


@pytest.mark.parametrize("dim", [1, -1])
def test_a_lookup_has_gradients_of_two_widths(dim):
    lookup = st.nn.CategoricalLookup(5, 2, dim=dim)
    x = torch.randn(*([6, 5, 3] if dim == 1 else [6, 3, 5])).requires_grad_()
    seen = watch(lookup, ((x,), [[[1.0, -1.0]] * 3] * 6))
    assert seen[0, "saturation"] == 0
    assert seen[0, "gradient_snr"] > 0
    assert seen[0, "code_use"] >= 0.2


@pytest.mark.parametrize("module", [st.nn.Bernoulli, st.nn.BinaryConcrete])
@pytest.mark.parametrize("keyword", [None, "logits", "probs"])
def test_binary_entropy_by_hand(module, keyword):
    p = torch.tensor([0.5, 0.75])
    value = p if keyword == "probs" else torch.logit(p)
    with Monitor(draw := module(), every=1) as monitor:
        y = draw(value) if keyword is None else draw(**{keyword: value})
        monitor.step()
    seen = {row.quantity: row.value for row in monitor.observations}
    entropies = math.log(2), math.log(4) - 0.75 * math.log(3)
    assert seen["entropy"] == pytest.approx(sum(entropies) / 2)
    assert seen["sparsity"] == (y == 0).float().mean()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_entropy_of_drawn_subsets_is_that_of_the_whole_subset(dtype):
    logits = torch.tensor([[0.0, 1.0, -2.0, 0.5], [0.25, 1.0, -1.0, 3.0]], dtype=dtype)
    entropies = []
    for row in (logits[0], logits[1, :3]):  # the last class of the second is never drawn
        pairs = itertools.combinations(row.tolist(), 2)
        p = torch.tensor([sum(pair) for pair in pairs], dtype=torch.float64).softmax(0)
        entropies.append(-(p * p.log()).sum().item())
    logits[1, 3] = -torch.inf
    seen = watch(st.nn.SampleSubset(2), ((logits,), None))
    assert seen[0, "entropy"] == pytest.approx(sum(entropies) / 2, rel=1e-5)


def test_gates_by_hand():
    gate = st.nn.HardConcreteGate(4)
    with torch.no_grad():
        gate.logits.copy_(torch.tensor([-50.0, -50.0, 50.0, 0.0]))
    with Monitor(gate, every=1) as monitor:
        values = [gate(), gate()]
        (values[0].sum() + values[1].sum() + gate.l0()).backward()
        monitor.step()
        with torch.no_grad():
            gate.logits.neg_()
        gate().sum().backward()
        monitor.step()
    seen = {(row.step, row.quantity): row.value for row in monitor.observations}
    closed = torch.stack(values).eq(0).float().mean()
    assert seen[0, "sparsity"] == pytest.approx(closed.item())
    assert seen[0, "entropy"] == pytest.approx(math.log(2) / 4)
    # A clamped gate passes nothing, though the penalty has a gradient to the same logits.
    clamped = torch.stack([(v == 0) | (v == 1) for v in values]).float().mean()
    assert seen[0, "saturation"] == pytest.approx(clamped.item())
    assert seen[1, "flip_rate"] in (0.75, 1.0)  # three for sure, the last by chance
    assert (0, "gradient_snr") not in seen


@pytest.mark.parametrize("hard", [True, False])
def test_gates_in_eval(hard):
    gate = st.nn.HardConcreteGate(3, hard=hard).eval()
    with torch.no_grad():
        gate.logits.copy_(torch.tensor([-9.0, 0.0, 9.0]))
    with Monitor(gate, every=1, training=False) as monitor:
        gate().sum().backward()
        monitor.step()
    seen = {row.quantity: row.value for row in monitor.observations}
    assert seen["sparsity"] == pytest.approx(2 / 3 if hard else 1 / 3)
    assert set(seen) == {"sparsity", "entropy"}


def test_weights_have_no_batch_and_flip_as_they_learn():
    layer = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.1, 0.2], [-0.3, 0.4]]))
    parametrize.register_parametrization(layer, "weight", st.nn.Sign())
    with Monitor(layer, every=1) as monitor:
        for _ in range(2):
            layer(torch.ones(3, 2)).sum().backward()
            monitor.step()
            with torch.no_grad():
                layer.parametrizations.weight.original[0, 0] = -2.0
    assert monitor.observations == [
        Observation(0, "parametrizations.weight.0", "saturation", 0.0),
        Observation(1, "parametrizations.weight.0", "flip_rate", 0.25),
        Observation(1, "parametrizations.weight.0", "saturation", 0.25),
    ]


def test_calls_of_a_step_are_averaged_and_compared_in_turn():
    # Zeros: 1 of 2, then 2 of 2. In the second step the first call's flips are 1 of 2, the
    # second's 0 of 2.
    unit = st.nn.Heaviside()
    with Monitor(unit, every=1) as monitor:
        for calls in ([[1.0, -1], [-1.0, -1]], [[1.0, 1], [-1.0, -1]]):
            for x in calls:
                unit(torch.tensor(x))
            monitor.step()
    seen = {(row.step, row.quantity): row.value for row in monitor.observations}
    assert seen == {(0, "sparsity"): 0.75, (1, "sparsity"): 0.5, (1, "flip_rate"): 0.25}


def test_every_so_many_steps():
    with Monitor(unit := st.nn.Heaviside(), every=3) as monitor:
        for value in (1.0, -1.0, -1.0, 1.0, -1.0, -1.0, -1.0):
            unit(torch.tensor([value]))
            monitor.step()
    flips = [(row.step, row.value) for row in monitor.observations if row.quantity == "flip_rate"]
    assert flips == [(3, 0.0), (6, 1.0)]  # against the last observed step, not the one before


def test_a_step_without_a_call_is_passed_over_and_more_calls_are_new():
    with Monitor(unit := st.nn.Heaviside(), every=1) as monitor:
        for calls in ([1.0], [], [1.0, -1.0]):
            for value in calls:
                unit(torch.tensor([value])).fill_(7)  # what becomes of the output is not its own
            monitor.step()
    flips = [(row.step, row.value) for row in monitor.observations if row.quantity == "flip_rate"]
    assert flips == [(2, 0.0)]


def test_another_shape_is_not_compared():
    seen = watch(st.nn.Round(), ((torch.ones(4),), None), ((torch.zeros(3),), None))
    assert (1, "flip_rate") not in seen


@pytest.mark.parametrize("dim", [1, -1])
def test_numbers_of_classes_by_hand(dim):
    # Rows that are sure of the classes 0, 0, 0, 2 of four, as in the perplexity above.
    x = 50 * torch.eye(4)[torch.tensor([[0, 0], [0, 2]])]
    draw = st.nn.CategoricalInteger(dim=dim)

    def turned(rows):
        return (rows.movedim(-1, dim).contiguous().requires_grad_(),)

    grad = [[1.0, 0.0], [1.0, 1.0]]
    seen = watch(draw, (turned(x), grad), (turned(x.roll(1, 0)), grad))
    assert seen[0, "code_use"] == 0.5
    assert seen[0, "perplexity"] == pytest.approx(4 / 3**0.75)
    assert seen[0, "entropy"] == pytest.approx(0, abs=1e-5)
    assert seen[1, "flip_rate"] == 0.5
    assert {"saturation", "gradient_snr"} <= {name for _, name in seen}


def test_counts_by_hand():
    # A rate of 0 is certain; 400 is never 0, and never the same in both of these draws.
    torch.manual_seed(0)
    rate = leaf([0.0, 400.0], [0.0, 400.0])
    seen = watch(st.nn.Poisson(), (rate, [[1.0, 1.0], [1.0, 0.0]]), (rate, None))
    assert seen[0, "sparsity"] == 0.5
    assert seen[0, "saturation"] == 0
    assert seen[1, "flip_rate"] == 0.5
    assert {name for _, name in seen} == {"sparsity", "saturation", "gradient_snr", "flip_rate"}


@pytest.mark.parametrize("module", [st.nn.Categorical, st.nn.Bernoulli])
@pytest.mark.parametrize("keyword", ["logits", "probs"])
def test_the_entropy_is_that_of_the_draws_temperature(module, keyword):
    # Log-odds of log 9 at a temperature of 2 are those of log 3: probabilities 1/4 and 3/4.
    draw = module("decoupled", tau_forward=2.0)
    if module is st.nn.Categorical:
        call = {"logits": torch.tensor([0.0, math.log(9)])}
    else:
        call = {"logits": torch.tensor([math.log(9)]), "probs": torch.tensor([0.9])}
        call = {keyword: call[keyword]}
    with Monitor(draw, every=1) as monitor:
        draw(**call)
        monitor.step()
    seen = {row.quantity: row.value for row in monitor.observations}
    assert seen["entropy"] == pytest.approx(math.log(4) - 0.75 * math.log(3))


def test_every_module_with_a_rule_is_known():
    modules = [vars(st.nn)[name] for name in st.nn.__all__]
    unknown = [
        module.__name__
        for module in modules
        if inspect.isclass(module) and issubclass(module, OperatorModule)
        if not any(base in KINDS for base in module.__mro__)
    ]
    assert unknown == []


def test_a_sample_is_no_larger_than_asked_and_prefers_no_row_or_column():
    tensor = torch.arange(24.0).reshape(4, 6, 1)
    assert sample(tensor, 100).shape == (4, 6, 1)
    assert sample(tensor, 8).shape == (4, 2, 1)
    assert sample(tensor, 3).shape == (3, 1, 1)
    weight = torch.arange(784.0 * 512).reshape(1, -1, 1)
    once, again = sample(weight, 4096), sample(weight, 4096)
    assert torch.equal(once, again)
    for place, length in ((once // 512, 784), (once % 512, 512)):
        found = torch.histc(place, 16, 0, length)  # 256 expected, five standard deviations are 78
        assert (found - 256).abs().max() < 78


def test_routers_and_solvers_are_read():
    router = st.nn.TopKRouter(experts=4, k=1)
    logits = torch.tensor([[[3.0, 0, 0, 0], [0.0, 2, 0, 0]], [[3.0, 0, 0, 0], [0.0, 0, 0, 9]]])
    logits.requires_grad_()
    with Monitor(router, every=1) as monitor:
        router(logits, mask=torch.tensor([[True, True], [True, False]])).balance.backward()
        monitor.step()
    seen = {row.quantity: row.value for row in monitor.observations}
    assert seen["code_use"] == 0.5  # experts 0 and 1; what goes to 3 is padding
    assert seen["perplexity"] == pytest.approx(3 / 4 ** (1 / 3))

    solve = st.nn.Solve(lambda theta: (theta > 0).to(theta), "blackbox")
    theta = torch.tensor([[1.0, -1.0, -1.0, -1.0]], requires_grad=True)
    with Monitor(solve, every=1) as monitor:
        solve(theta).sum().backward()
        monitor.step()
    assert {row.quantity: row.value for row in monitor.observations}["sparsity"] == 0.75


def test_quantizers_are_read():
    model = st.nn.ResidualVQ(2, 8, 3, k_means=False)
    z = torch.randn(2, 20, 3, requires_grad=True)
    with Monitor(model, every=1) as monitor:
        first = model(z)
        model.eval()(z)  # is not observed
        second = model.train()(z)
        second.quantized.sum().backward()
        monitor.step()
    indices = [y.index.reshape(-1, 2) for y in (first, second)]
    seen = {row.quantity: row.value for row in monitor.observations}
    assert seen["saturation"] == 0
    assert seen["unique_ids"] == fmean(len(index.unique(dim=0)) for index in indices)
    assert seen["collision_rate"] == pytest.approx(1 - seen["unique_ids"] / 40)
    assert seen["code_use"] == pytest.approx(
        fmean(len(column.unique()) / 8 for index in indices for column in index.unbind(-1))
    )
    title, row, _ = monitor.summary().splitlines()
    assert re.search("code use +perplexity +dead codes +unique ids +collision rate$", title)
    assert row.startswith("ResidualVQ")
    model.books[1].statistics.count[:3] = 1e-4
    with Monitor(model.eval(), every=1, training=False) as monitor:
        model(z)
        monitor.step()
    assert {row.quantity: row.value for row in monitor.observations}["dead_codes"] == 3
    found = code_usage(torch.tensor([[0, 1], [0, 1], [2, 3], [-1, 0]]), 4)
    perplexity = pytest.approx(3 / 4 ** (1 / 3))  # exp(log 3 - 2/3 log 2)
    shared = pytest.approx(1 / 3)
    assert found == {
        "code_use": 0.5,
        "perplexity": perplexity,
        "unique_ids": 2,
        "collision_rate": shared,
    }
    assert code_usage(torch.tensor([[-1, 0]]), 4) == {}

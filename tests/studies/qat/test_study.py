"""Quantized networks: how they are quantized, what is measured, and what ships."""

import copy

import pytest
import torch

import straightthrough as st
from straightthrough.studies.data import load
from straightthrough.studies.qat import model, rounding, shipping, study


@pytest.fixture(scope="module")
def data():
    return load("digits")


@pytest.fixture(scope="module")
def floats(data):
    return study._floats(data, model.SMALL, 0, 3, lambda progress: None)


def test_networks_are_quantized_as_they_are_named(data):
    for name in model.names([*model.PRECISIONS], model.RULES):
        net = model.quantized(model.network(model.SMALL, (8, 8), 10), name)
        assert net.eval()(data.test[:2].unsqueeze(1)).shape == (2, 10)
        if name == model.FLOAT:
            assert all(quantizer is None for _, quantizer in model.inner(net))
            continue
        precision, rule = name.split()
        own = model.PRECISIONS[precision]
        for layer in model.INNER:
            assert net.get_submodule(layer).weight_quantizer.grid == own.weights
            assert net.get_submodule(layer).input_quantizer.grid.bits == own.inputs
        for layer in ("0", "9"):
            for quantizer in net.get_submodule(layer).children():
                assert quantizer.grid.bits == 8
                assert isinstance(quantizer.scaling, st.scales.Learned) == (rule != "ste")


def test_a_point_is_what_the_network_does(data, floats):
    trainer = study._Trainer(data, model.SMALL, "W2A2 lsq", 0, floats, 4, ships=False)
    trainer.checkpoint(last=False)
    trainer.advance()
    trainer.checkpoint(last=True)
    (net,), (run,) = trainer.nets, trainer.runs
    first, point = run.points
    scores = net(data.test.unsqueeze(1))
    right = (scores.argmax(-1) == data.test_labels).double().mean()
    assert point.accuracy == pytest.approx(100 * right.item())
    loss = torch.nn.functional.cross_entropy(scores, data.test_labels)
    assert point.test_loss == pytest.approx(loss.item())
    assert point.train_loss < first.train_loss
    assert first.moved == 0 < point.moved < 60
    weight, quantizer = [*model.inner(net)][-1]
    # Ends of 2 bits are -2 and 1: -2, -1, 0, 1.
    assert run.weights.values == [-2, -1, 0, 1]
    near = (weight / quantizer.scale).detach()
    inside = ((near > -study.REACH) & (near < study.REACH)).sum()
    assert sum(run.weights.after) == inside
    middle = study.BINS // 2
    assert sum(run.weights.after[middle : middle + 25]) == ((near >= 0) & (near < 1)).sum()
    assert run.weights.before != run.weights.after
    assert run.shipped is None


def test_before_training_fewer_bits_lose_more_and_fitted_scales_less(data):
    floats = study._floats(data, model.SMALL, 0, 10, lambda progress: None)  # well trained

    def start(name):
        trainer = study._Trainer(data, model.SMALL, name, 0, floats, 3, ships=False)
        trainer.checkpoint(last=False)
        return trainer.runs[0].points[0].train_loss

    plain, eight, two, measured = map(start, ("float", "W8A8 lsq", "W2A2 lsq", "W2A2 ste"))
    assert eight == pytest.approx(plain, rel=0.02)
    assert 1.05 * eight < two < measured


@pytest.mark.filterwarnings("ignore")  # the exporter's, of itself
def test_what_ships_is_small_and_does_the_same(data, floats):
    images = data.test[:50].unsqueeze(1)
    net = model.quantized(copy.deepcopy(floats), "W2A2 lsq").eval()
    with torch.no_grad():
        net(images)
        shipped = shipping.ship(net, floats, images)
        plain = shipping.ship(floats, floats, images)
    assert plain.bytes == 4 * sum(p.numel() for p in floats.parameters())
    inner = sum(weight.numel() for weight, _ in model.inner(net))
    assert plain.bytes - shipped.bytes > 3.7 * inner - 1000  # of 4 bytes a quarter of one is left
    assert shipped.same >= 98
    assert plain.same == 100
    assert shipped.milliseconds > 0
    assert 0.3 < plain.share < 3


def test_networks_side_by_side_see_the_same_batches(data, floats):
    both = study._side_by_side(data, model.SMALL, study.DESCENT, 0, floats, 2)
    both.advance()
    both.checkpoint(last=True)
    ends = {run.network.split(": ")[1]: run.points[-1] for run in both.runs}
    assert [*ends] == [*rounding.variants(descent=True)]
    assert ends["ste"].same == 100
    assert 0 < ends["ste"].moved < 50
    for name in rounding.OTHERS:
        assert ends[f"{name}, its rate and start"].same > ends[f"{name}, its rate"].same


def test_one_alone_trains_as_it_does_beside_others(data, floats):
    both = study._side_by_side(data, model.SMALL, study.ADAM, 0, floats, 2)
    both.advance()
    ste = rounding.prepared(copy.deepcopy(floats), rounding.Variant(rounding.PLAIN))
    optimizer = torch.optim.Adam(
        [p for p in ste.parameters() if p.requires_grad], study.RATES["Adam"]
    )
    alone = study._Together(data, model.SMALL, {"ste": ste}, 0, optimizer, 2)
    alone.advance()
    for one, other in zip(ste.parameters(), both.nets[0].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (study.Settings(precisions=["W5A5"]), "precision 'W5A5' is unknown; known: W8A8, W4A4"),
        (study.Settings(rules=["sgd"]), "rule 'sgd' is unknown; known: lsq, ste, ewgs, poly"),
    ],
)
def test_unknown_names_are_refused(settings, said):
    with pytest.raises(st.ArgumentError, match=said):
        study.run(settings)

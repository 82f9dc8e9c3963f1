"""The pixels that decide the class: what is chosen, what is trained, and what is measured."""

import math

import numpy as np
import pytest
import torch

import straightthrough as st
from straightthrough.studies.data import Data, load
from straightthrough.studies.select import model, study

K = 3


def planted():
    """Images of noise whose class is told by pixels 5, 6 and 7, an eighth each."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(500, 4, 4, generator=generator)
    bits = (images.flatten(1)[:, 5:8] > 0.5).long()
    labels = bits @ torch.tensor([4, 2, 1])
    return Data("digits", images[:300], labels[:300], images[300:], labels[300:])


@pytest.fixture
def data(monkeypatch):
    found = planted()
    monkeypatch.setattr(study, "load", lambda name, folder: found)
    return found


def settings(*methods, **others):
    return study.Settings(methods=methods, k=K, **others)


def test_what_is_planted_is_found_by_every_way_to_draw(data):
    result = study.run(settings("gumbel_topk", "simple", "second_order", epochs=40))
    for run in result.runs:
        assert run.chosen == [5, 6, 7], run.method
        assert run.points[-1].accuracy > 60
        assert run.points[0].together < 25


def test_the_count_says_what_a_table_of_values_and_classes_says():
    digits = load("digits")
    levels = (digits.train.flatten(1) * 16).round().long().numpy()
    labels = digits.train_labels.numpy()
    found = []
    for column in levels.T:
        joint = np.zeros((17, 10))
        np.add.at(joint, (column, labels), 1 / len(labels))
        apart = joint.sum(1, keepdims=True) * joint.sum(0)
        some = joint > 0
        found.append((joint[some] * np.log(joint[some] / apart[some])).sum())
    best = np.argsort(found)[-8:]
    assert set(model.mutual_information(digits, 8, 0).tolist()) == set(best.tolist())


def test_random_pixels_differ_and_are_those_of_their_seed():
    digits = load("digits")
    one, same, other = (model.random(digits, 8, seed).tolist() for seed in (0, 0, 1))
    assert one == same != other
    assert len({*one}) == 8


@pytest.mark.parametrize("method", model.LEARNED)
def test_every_way_draws_k_hots_and_moves_the_scores(data, method):
    trainer = study._Trainer(data, model.SMALL, method, K, 0, data.test_labels)
    before = trainer.scores.detach().clone()
    mask = trainer._mask(50)
    assert mask.shape == (50, 16)
    assert torch.equal(mask.sum(-1), torch.full((50,), 3.0))
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert (len(mask.unique(dim=0)) == 1) == method.startswith("topk")
    trainer.advance()
    assert (trainer.scores - before).abs().max() > 1e-3


def test_fixed_pixels_stay_and_the_network_sees_them_alone(data):
    trainer = study._Trainer(data, model.SMALL, "random", K, 0, data.test_labels)
    hidden = trainer.model[0].weight
    before = hidden.detach().clone()
    trainer.advance()
    trainer.checkpoint(last=True)
    chosen = trainer.runs[0].chosen
    assert chosen == sorted(model.random(data, K, 0).tolist())
    assert (hidden - before).abs().amax(0).nonzero().flatten().tolist() == chosen


def test_a_point_is_what_the_networks_say(data):
    judged = torch.zeros(200, dtype=torch.long)
    trainer = study._Trainer(data, model.SMALL, "topk", K, 0, judged)
    trainer.advance()
    trainer.checkpoint(last=False)
    point = trainer.runs[0].points[0]
    assert math.isnan(point.accuracy)
    assert math.isnan(point.fidelity)
    state = torch.get_rng_state()
    trainer.checkpoint(last=True)
    assert torch.equal(torch.get_rng_state(), state)
    (run,) = trainer.runs
    point, images = run.points[0], data.test.flatten(1)
    assert run.chosen == trainer.scores.topk(K).indices.sort().values.tolist()
    hidden = images.clone()
    hidden[:, [pixel for pixel in range(16) if pixel not in run.chosen]] = 0
    together = (trainer.model(hidden).argmax(-1) == data.test_labels).float().mean()
    assert point.together == pytest.approx(100 * together.item())
    said = model.fitted(data, torch.tensor(run.chosen), model.SMALL, 0)
    right, same = ((said == other).float().mean().item() for other in (data.test_labels, judged))
    assert (point.accuracy, point.fidelity) == pytest.approx((100 * right, 100 * same))


def test_a_network_is_fitted_to_its_pixels_alone(data):
    told = model.fitted(data, torch.tensor([5, 6, 7]), model.SMALL, 0)
    assert (told == data.test_labels).float().mean() > 0.6
    blind = model.fitted(data, torch.tensor([0, 1, 2]), model.SMALL, 0)
    assert (blind == data.test_labels).float().mean() < 0.3
    scrambled = Data(data.name, data.train, data.train_labels, data.test.clone(), data.test_labels)
    scrambled.test.flatten(1)[:, :5] = 9.0
    assert torch.equal(model.fitted(scrambled, torch.tensor([5, 6, 7]), model.SMALL, 0), told)


WRONG = {
    "method 'gumbel' is unknown; known: gumbel_topk,": {"methods": ["gumbel"]},
    "k must lie in 1..64, the number of pixels, got 65": {"k": 65},
    "k must lie in 1..64, the number of pixels, got 0": {"k": 0},
    "epochs must be at least 1, got 0": {"epochs": 0},
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_settings_are_refused(message):
    with pytest.raises(st.ArgumentError, match=message):
        study.run(study.Settings(**WRONG[message]), lambda _: pytest.fail("it trains"))

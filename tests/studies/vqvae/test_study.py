"""The vector-quantized autoencoder: what is trained, what is measured, and what revival does."""

import pytest
import torch

import straightthrough as st
from straightthrough.studies.data import load
from straightthrough.studies.vqvae import model, study


def test_every_quantizer_has_as_many_codes():
    for shape in (model.SMALL, model.LARGE):
        for name in model.QUANTIZERS:
            autoencoder = model.Autoencoder(name, shape, 64)
            assert autoencoder.quantizer.codes == shape.codes, name
            back, found = autoencoder(torch.rand(3, 64))
            assert back.shape == (3, 64)
            assert found.index.shape == (3, shape.tokens)


def test_a_codebook_is_built_as_its_name_says():
    quantizer = model.QUANTIZERS["rotation, its loss, revival"](model.SMALL)
    assert isinstance(quantizer.rule, st.estimators.Rotation)
    assert (quantizer.book.learn, quantizer.book.update) == ("loss", "manual")
    assert quantizer.book.revive == model.REVIVE
    quantizer = model.QUANTIZERS["diveq, the rule's gradient"](model.SMALL)
    assert isinstance(quantizer.rule, st.estimators.DiVeQ)
    assert (quantizer.book.learn, quantizer.book.commitment) == ("gradient", 0)
    assert quantizer.book.revive == 0
    moving = model.QUANTIZERS["ste, moving averages"](model.SMALL).book
    assert (moving.learn, moving.update, moving.started) == ("ema", "forward", True)


def test_revival_uses_all_codes_and_helps():
    names = ["ste, moving averages", "ste, moving averages, revival"]
    without, revived = study.run(study.Settings(quantizers=names, epochs=10)).runs
    assert without.points[-1].used < 32
    assert revived.points[-1].used > 56
    assert revived.points[-1].test_error < without.points[-1].test_error
    assert revived.points[-1].test_error < revived.points[0].test_error / 2


def test_a_point_is_what_the_model_does():
    data = load("digits")
    trainer = study._Trainer(data, model.SMALL, "fsq", 0)
    trainer.advance()
    trainer.checkpoint(last=True)
    (run,) = trainer.runs
    back, _ = trainer.model.eval()(data.test.flatten(1))
    point = run.points[0]
    assert point.test_error == pytest.approx((back - data.test.flatten(1)).square().mean().item())
    index = trainer.model(data.train.flatten(1))[1].index
    assert point.used == len(index.unique())
    share = torch.bincount(index.flatten(), minlength=64) / index.numel()
    assert point.perplexity == pytest.approx(torch.special.entr(share).sum().exp().item(), rel=1e-4)
    assert run.shares == pytest.approx(share.sort(descending=True).values.tolist())
    assert run.codes.shape == (64, 8, 8)
    assert run.reconstructions.shape == (12, 8, 8)
    code = trainer.model.quantizer.decode(torch.tensor([5] * 4))
    one = trainer.model.decode(code.unsqueeze(0))[0]
    torch.testing.assert_close(trainer._decoded(torch.tensor([3, 5]))[1], one)


def test_pictures_are_of_the_first_seed():
    names = ["fsq"]
    first, second = study.run(study.Settings(quantizers=names, seeds=(3, 0), epochs=1)).runs
    assert first.codes.shape == (64, 8, 8)
    assert second.codes is second.reconstructions is None
    assert second.shares


def test_an_unknown_quantizer_is_refused():
    with pytest.raises(st.ArgumentError, match="quantizer 'vq' is unknown; known: ste, its loss;"):
        study.run(study.Settings(quantizers=["vq"]))

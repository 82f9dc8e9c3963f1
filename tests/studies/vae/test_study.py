"""The VAE learns, and records what it did."""

import pytest

import straightthrough as st
from straightthrough.studies.vae import study as vae


def test_the_vae_learns_and_records():
    result = vae.run(vae.Settings(estimators=["reinmax"], without_bias=[], seeds=[0, 1], epochs=3))
    assert result.header.complete
    assert [run.seed for run in result.runs] == [0, 1]
    for run in result.runs:
        assert [point.epoch for point in run.points] == [0, 1, 2, 3]
        assert run.points[-1].test < 0.7 * run.points[0].test
        assert run.rule == "ReinMax(tau=1.3)"
    first, second = (run.points[-1].test for run in result.runs)
    assert first != second
    assert result.originals.shape == (8, 8, 8)
    assert result.runs[0].samples.shape == (64, 8, 8)


def test_a_seed_fixes_a_run():
    settings = vae.Settings(estimators=["gumbel"], epochs=1)
    one, two = vae.run(settings).runs[0], vae.run(settings).runs[0]
    assert one.points[-1].test == two.points[-1].test
    assert one.points[-1].errors == two.points[-1].errors
    assert set(one.points[-1].errors) == {"gumbel"}
    assert one.samples == two.samples


def test_an_unknown_estimator_is_named_before_anything_is_read():
    with pytest.raises(st.ArgumentError, match="did you mean 'reinmax'"):
        vae.run(vae.Settings("mnist", "no such folder", estimators=["reinmix"]))

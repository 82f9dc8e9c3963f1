"""What a study records, as JSON."""

import json
import math

import pytest
import torch

from straightthrough.studies.bias import study as bias
from straightthrough.studies.data import Images
from straightthrough.studies.record import from_json, pictures, to_json
from straightthrough.studies.vae import study as vae
from straightthrough.studies.vae.gradient import Error


def result_of_the_vae():
    errors = {"reinmax": Error(0.5, math.inf)}
    point = vae.Point(1, math.inf, 2.0, 2.5, math.nan, errors, 3.0)
    run = vae.Run("reinmax", "ReinMax()", False, 0, 1e-3, points=[point])
    run.samples = pictures(torch.rand(2, 3, 3))
    images = Images("Digits", 10, 20)
    header, settings = vae.Header("vae"), vae.Settings(seeds=[0, 1], control=["reinmax"])
    return vae.Result(header, settings, images, 10, 2, 4, 8, "Tuned.", runs=[run])


def test_results_are_json_without_nan():
    plain = to_json(result_of_the_vae())
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["runs"][0]["points"] == [
        {
            "epoch": 1,
            "train": None,
            "test": 2.0,
            "sampled": 2.5,
            "entropy": None,
            "errors": {"reinmax": {"bias": 0.5, "variance": None}},
            "seconds": 3.0,
        }
    ]
    assert plain["header"]["environment"]["torch"] == torch.__version__


def test_json_is_read_again_as_what_it_was():
    result = result_of_the_vae()
    plain = json.loads(json.dumps(to_json(result)))
    again = from_json(vae.Result, plain)
    point = again.runs[0].points[0]
    assert math.isnan(point.train)
    assert point.errors["reinmax"].bias == 0.5
    assert again.runs[0].samples == result.runs[0].samples
    assert (again.header, again.settings) == (result.header, result.settings)
    assert to_json(again) == plain
    spread = bias.Spread((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    whole = bias.Point("a", "A()", 0.5, 0.1, 0.0, 1.0, (0.2, 0.3), spread)
    assert from_json(bias.Point, json.loads(json.dumps(to_json(whole)))) == whole


@pytest.mark.parametrize("change", [{"more": 1}, {"points": 3}])
def test_json_of_another_form_is_refused(change):
    plain = to_json(result_of_the_vae())
    plain["runs"][0].update(change)
    with pytest.raises((ValueError, TypeError)):
        from_json(vae.Result, plain)


def test_pictures_keep_grey_levels():
    images = torch.tensor([[[0.0, 0.5], [1.0, 0.25]]])
    packed = pictures(images)
    assert packed.shape == (1, 2, 2)
    assert packed.data == "AID/QA=="  # bytes 0, 128, 255, 64

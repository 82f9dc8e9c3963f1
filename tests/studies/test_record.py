"""What a study records, as JSON."""

import json
import math

import torch

from straightthrough.studies.record import pictures, to_json
from straightthrough.studies.vae import study as vae


def test_results_are_json_without_nan():
    point = vae.Point(1, math.inf, 2.0, 2.5, math.nan, 1.0, 3.0)
    run = vae.Run("reinmax", "ReinMax()", 0, 1e-3, points=[point])
    result = vae.Result(vae.Header("vae"), vae.Settings(), runs=[run])
    plain = to_json(result)
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["runs"][0]["points"] == [
        {
            "epoch": 1,
            "train": None,
            "test": 2.0,
            "sampled": 2.5,
            "cosine": None,
            "mean_cosine": 1.0,
            "seconds": 3.0,
        }
    ]
    assert plain["header"]["environment"]["torch"] == torch.__version__


def test_pictures_keep_grey_levels():
    images = torch.tensor([[[0.0, 0.5], [1.0, 0.25]]])
    packed = pictures(images)
    assert packed.shape == (1, 2, 2)
    assert packed.data == "AID/QA=="  # bytes 0, 128, 255, 64

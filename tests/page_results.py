"""Results made up for the tests of pages, and a reader of the pages."""

import base64
from html.parser import HTMLParser

import numpy as np


def grey(shape, value=0):
    data = base64.b64encode(np.full(shape, value, np.uint8).tobytes()).decode()
    return {"shape": list(shape), "data": data}


def header(study):
    return {
        "study": study,
        "command": f"straightthrough study {study} --seeds 0,1",
        "started": "2026-01-02T03:04:05+00:00",
        "environment": {"torch": "9.8.7", "processor": "A & B <fast>"},
        "seconds": 12.34,
        "complete": True,
    }


IMAGES = {"description": "Digits: 10 images, 8 to train on.", "train": 8, "test": 2}


def point(epoch, test, errors=None, **others):
    """Return a point of the VAE; `errors` are pairs of bias and variance, by estimator."""
    return {
        "epoch": epoch,
        "train": test - 1,
        "test": test,
        "sampled": test + 2,
        "entropy": 6.5,
        "errors": {n: {"bias": b, "variance": v} for n, (b, v) in (errors or {}).items()},
        "seconds": 2.0 * epoch,
        **others,
    }


def vae_run(rule, seed, points, *, without_bias=False):
    return {
        "estimator": rule.lower(),
        "rule": rule,
        "without_bias": without_bias,
        "seed": seed,
        "rate": 0.001,
        "published": None,
        "points": points,
        "reconstructions": grey((2, 4, 4)),
        "samples": grey((16, 4, 4)),
    }


def vae_result():
    """Return three runs of two rules, and one without bias."""
    start = point(0, 40.0, {"a(tau=1.0)": (0.01, 2.0), "b()": (0.02, 1.0)})
    ends = [
        point(2, 25.0, {"a(tau=1.0)": (0.1, 4.0), "b()": (0.5, 3.0)}),
        point(2, 27.0, {"a(tau=1.0)": (0.3, 6.0), "b()": (0.7, 5.0)}),
        point(2, 24.5, {"a(tau=1.0)": (0.25, 8.0), "b()": (0.125, 7.0)}),
        point(2, 24.0, {"a(tau=1.0)": (0.4, 9.0), "b()": (0.6, 9.5)}, entropy=5.0),
    ]
    return {
        "header": header("vae"),
        "settings": {
            "data": "digits",
            "folder": None,
            "estimators": ["a(tau=1.0)", "b()"],
            "without_bias": ["a(tau=1.0)"],
            "seeds": [0, 1],
            "epochs": 2,
        },
        "images": IMAGES,
        "evaluated": 8,
        "audited": 2,
        "latents": 4,
        "categories": 8,
        "tuning": "Temperatures are made up.",
        "source": None,
        "parameters": 1234567,
        "exact": True,
        "originals": grey((2, 4, 4), 255),
        "runs": [
            vae_run("A(tau=1.0)", 0, [start, ends[0]]),
            vae_run("A(tau=1.0)", 1, [point(0, 41.0), ends[1]]),
            vae_run("B()", 0, [point(0, 40.0), ends[2]]),
            vae_run("A(tau=1.0)", 0, [point(0, 40.0), ends[3]], without_bias=True),
        ],
    }


def mask_result():
    """Return a run of the masked network."""
    points = [
        {"epoch": e, "train_error": 9.0, "test_error": 11.5, "live": 33.3, "seconds": 1.0}
        for e in (0, 1)
    ]
    run = {"network": "masked", "seed": 0, "weights": 9, "points": points}
    return {
        "header": header("mask"),
        "settings": {"data": "digits", "epochs": 1},
        "images": IMAGES,
        "costs": [
            {"name": "no mask", "milliseconds": 1.5, "share": 0.0},
            {"name": "hard", "milliseconds": 6.0, "share": 75.0},
        ],
        "runs": [{**run, "inputs": grey((1, 4, 4), 128)}],
    }


class Reader(HTMLParser):
    """Collects what a page shows, what it loads, and whether its tags are closed."""

    VOID = frozenset({"meta", "img", "source"})

    def __init__(self, page):
        super().__init__()
        self.text, self.loads, self.open, self.cells = "", [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.loads += [values[key] for key in ("src", "srcset", "href", "data") if key in values]
        if tag in ("th", "td"):
            self.cells.append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data
        if self.open and self.open[-1] in ("th", "td"):
            self.cells[-1] += data.replace("\u00a0", " ")

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


def point(epoch, test, **others):
    return {
        "epoch": epoch,
        "train": test - 1,
        "test": test,
        "sampled": test + 2,
        "cosine": 0.5,
        "mean_cosine": 0.75,
        "seconds": 2.0 * epoch,
        **others,
    }


def vae_run(rule, seed, points):
    return {
        "estimator": rule.lower(),
        "rule": rule,
        "seed": seed,
        "rate": 0.001,
        "published": None,
        "points": points,
        "reconstructions": grey((2, 4, 4)),
        "samples": grey((16, 4, 4)),
    }


def vae_result():
    """Return three runs of two rules."""
    return {
        "header": header("vae"),
        "settings": {"data": "digits", "folder": None, "seeds": [0, 1], "epochs": 2},
        "latents": 4,
        "categories": 8,
        "parameters": 1234567,
        "exact": True,
        "source": None,
        "originals": grey((2, 4, 4), 255),
        "runs": [
            vae_run("A(tau=1.0)", 0, [point(0, 40.0), point(2, 25.0)]),
            vae_run("A(tau=1.0)", 1, [point(0, 41.0), point(2, 27.0)]),
            vae_run("B()", 0, [point(0, 40.0), point(2, 24.5, cosine=None)]),
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
            self.cells[-1] += data

"""Both forms of the distributions, validated."""

from __future__ import annotations

import importlib

import pytest
from torch import distributions as theirs


@pytest.fixture(params=["distributions", "pyro"])
def ours(request):
    """The distributions, and their forms for Pyro, which are in nothing else different."""
    return importlib.import_module(f"straightthrough.{request.param}")


@pytest.fixture(autouse=True)
def validated(monkeypatch):
    """Dynamo turns validation off for good, once it has seen torch compile anything."""
    monkeypatch.setattr(theirs.Distribution, "_validate_args", True)

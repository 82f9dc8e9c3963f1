"""What is said where the install built no kernels."""

import json
import sys
from importlib import metadata

import pytest

from straightthrough.core import installed, kernels

PIP = "pip install --force-reinstall --no-deps --no-cache-dir"


@pytest.fixture
def folder(tmp_path):
    """The folder of kernels as an install without a compiler leaves it."""
    (tmp_path / "why_not.txt").write_text("not built: it rained")
    (tmp_path / "unsaid").touch()
    return tmp_path


def test_the_first_import_warns_and_no_other(folder, recwarn):
    with pytest.warns(RuntimeWarning, match=f"it rained. When that is mended: {PIP} "):
        installed.warn_once("not built: it rained", folder)
    recwarn.clear()
    installed.warn_once("not built: it rained", folder)
    assert not recwarn.list


def test_nothing_is_said_where_the_mark_cannot_be_removed(folder, recwarn):
    (folder / "unsaid").unlink()
    (folder / "unsaid").mkdir()  # root may remove any file, and nobody a folder in this way
    installed.warn_once("not built", folder)
    assert not recwarn.list


@pytest.mark.parametrize(
    ("recorded", "source"),
    [
        (None, "straightthrough"),
        ({"url": "file:///a/clone", "dir_info": {}}, "file:///a/clone"),
        ({"url": "file:///a/clone", "dir_info": {"editable": True}}, "-e file:///a/clone"),
        ({"url": "file:///a/straightthrough-1-py3-none-any.whl"}, "straightthrough"),
    ],
)
def test_the_mend_names_the_sources(folder, monkeypatch, recorded, source):
    class Distribution:
        @staticmethod
        def read_text(name):
            return json.dumps(recorded) if recorded and name == "direct_url.json" else None

    monkeypatch.setattr(metadata, "distribution", lambda name: Distribution)
    assert installed.mend(folder) == f"{PIP} {source}"


def test_there_is_a_mend_without_pips_record_and_none_on_other_systems(folder, monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    assert installed.mend(folder) == f"{PIP} straightthrough"
    monkeypatch.setattr(sys, "platform", "win32")
    assert installed.mend(folder) is None


def test_there_is_nothing_to_mend_where_kernels_are(tmp_path):
    assert installed.mend(tmp_path) is None


def test_a_library_that_cannot_be_loaded_leaves_the_reference(tmp_path, monkeypatch):
    for level in kernels.LEVELS:
        (tmp_path / f"{level}.so").write_bytes(b"no library")
    monkeypatch.setattr(kernels, "FOLDER", tmp_path)
    monkeypatch.delenv(kernels.VARIABLE, raising=False)
    level, reason, states = kernels._load()
    assert level is None
    assert reason.startswith("cannot be loaded: ")
    assert reason in states.values()
    assert kernels.ACTIVE not in states.values()

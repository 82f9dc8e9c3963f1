"""A study's result while it grows: written as it goes, ended by Ctrl-C, taken up again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from ..core.errors import ArgumentError
from ..report.merge import difference
from .record import from_json, recording, to_json

RESULT = "result.json"
STATE = "state.pt"
"""What a run that is not complete needs to go on: weights, optimizer, random state."""

NO_FOLDER = "there is nothing to resume without a folder"


class Journal:
    """Where a result is kept: in a folder, as `result.json`, or nowhere.

    Args:
        folder: it exists; None keeps the result in memory alone.
        resume: take up the result that is in the folder.
    """

    def __init__(self, folder: Path | None = None, *, resume: bool = False) -> None:
        self.folder, self.resume = folder, resume
        self.result: Any = None
        self.kept: dict[str, Any] | None = None
        self.tick: Callable[[], None] = lambda: None

    @contextmanager
    def keep(self, result: Any) -> Iterator[None]:
        """Time what is inside, end it by Ctrl-C, and write the result, complete or not.

        Raises:
            ArgumentError: if the result to be taken up is missing, unreadable, or of other settings
                or another machine.
        """
        self.result = result
        if self.resume:
            before = self._before()
            _check(before, result)
            self.kept = self._state()
            _take_up(before, result)
        elif self.folder:
            (self.folder / STATE).unlink(missing_ok=True)
        try:
            with recording(result.header) as self.tick:
                yield
        finally:
            self.write()
        if self.folder and result.header.complete:
            (self.folder / STATE).unlink(missing_ok=True)

    def write(self, state: dict[str, Any] | None = None) -> None:
        """Write the result as it is now, then the state of the run that is under way."""
        self.tick()
        if not self.folder:
            return
        temporary = self.folder / "unfinished"
        temporary.write_text(json.dumps(to_json(self.result), indent=1, allow_nan=False), "utf-8")
        os.replace(temporary, self.folder / RESULT)
        if state:
            torch.save(state, temporary)
            os.replace(temporary, self.folder / STATE)

    def state(self, label: str) -> dict[str, Any] | None:
        """Return what an interrupted run goes on from, if it is the run of that label."""
        return self.kept if self.kept and self.kept["label"] == label else None

    @contextmanager
    def blaming_state(self) -> Iterator[None]:
        """Blame the file of the state for what is raised: it is broken, or of another version.

        Raises:
            ArgumentError: where something is.
        """
        try:
            yield
        except Exception as error:  # torch has no error of its own for a file that is broken
            assert self.folder, NO_FOLDER
            raise ArgumentError(
                f"{self.folder / STATE} cannot be read ({type(error).__name__}); delete it, and "
                f"--resume begins the run that was under way again"
            ) from error

    def _state(self) -> dict[str, Any] | None:
        assert self.folder, NO_FOLDER
        path = self.folder / STATE
        if not path.exists():
            return None
        with self.blaming_state():
            state = dict(torch.load(path, weights_only=True))
            state["label"]
            return state

    def _before(self) -> Any:
        assert self.folder, NO_FOLDER
        path = self.folder / RESULT
        try:
            return from_json(type(self.result), json.loads(path.read_text("utf-8")))
        except OSError as error:
            raise ArgumentError(
                f"{path} cannot be read: {error.strerror}; leave out --resume to begin anew"
            ) from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ArgumentError(
                f"{path} is not a result of this study as this version writes it; leave out "
                f"--resume to begin anew"
            ) from error


def _check(before: Any, result: Any) -> None:
    """Raise unless both results are of the same settings and machine."""
    one, other = (
        {"settings": each["settings"], "environment": each["header"]["environment"]}
        for each in (to_json(before), to_json(result))
    )
    if found := difference(one, other):
        raise ArgumentError(
            f"--resume needs the options and the machine of the study that was interrupted, got "
            f"{found}; leave it out, or choose another --output, to begin anew"
        )


def _take_up(before: Any, result: Any) -> None:
    """Fill the result with what there was before."""
    command = result.header.command
    for each in fields(result):
        setattr(result, each.name, getattr(before, each.name))
    if not result.header.complete:
        result.header.command += f"\n{command}"

"""A function of the user's own: found, called, and blamed for what it raises."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from ..audit.compare.exact import Loss
from ..core.errors import ArgumentError, StraightThroughError
from .console import Failure


@contextlib.contextmanager
def blaming(name: str) -> Iterator[None]:
    """Say in one line what the user's code raises, and where; what it prints goes to stderr.

    Raises:
        Failure: where something is raised that is not ours.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except StraightThroughError:
        raise
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}".rstrip(": ")
        raise Failure(f"{name} raises {reason}{_place(error)}") from error


def load(target: str) -> tuple[Loss, Tensor]:
    """Return the loss and the logits that the function at `MODULE:FUNCTION` returns.

    Raises:
        ArgumentError: if there is no such function, or it returns something else.
        Failure: if it raises.
    """
    module, _, name = target.partition(":")
    if not name.isidentifier() or not all(map(str.isidentifier, module.split("."))):
        raise ArgumentError(
            f"a function must be given as MODULE:FUNCTION, such as losses:mine, got {target!r}"
        )
    function = _function(_module(module), name)
    with blaming(target):
        found = function()
    if not isinstance(found, tuple) or len(found) != 2 or not callable(found[0]):
        got = f"{len(found)} values" if isinstance(found, tuple) else type(found).__name__
        if isinstance(found, tuple) and len(found) == 2:
            got = f"({type(found[0]).__name__}, {type(found[1]).__name__})"
        raise ArgumentError(
            f"{target} must return (loss, logits), a function of one-hots and a tensor, got {got}"
        )
    return found


def _module(name: str) -> ModuleType:
    """Import a module, from the current folder too, as `python -m` does."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    with blaming(f"module {name}"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise  # it is there, and imports one that is not
    raise ArgumentError(
        f"module {name!r} is not found in {os.getcwd()} nor among the installed ones; "
        f"name it as in an import, without .py"
    )


def _function(module: ModuleType, name: str) -> Callable[[], Any]:
    function = getattr(module, name, None)
    if callable(function):
        return function
    known = [key for key, value in vars(module).items() if callable(value)]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ArgumentError(f"module {module.__name__!r} has no function {name!r}{hint}")


def _place(error: BaseException) -> str:
    """Return the last line of the user's own that the error went through."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_relative_to(Path.cwd()) and "site-packages" not in path.parts:
            return f" ({path.relative_to(Path.cwd())}, line {frame.lineno})"
    return ""

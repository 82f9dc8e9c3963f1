"""The command `straightthrough`, outside the package, whose import is that of torch.

Ctrl-C in these seconds ends it in one line, too.
"""

from __future__ import annotations

import os
import signal
from types import FrameType


def main() -> None:
    """Import the command line, and run it."""
    before = signal.signal(signal.SIGINT, _stop)
    from straightthrough.cli.entry import load

    run = load()
    signal.signal(signal.SIGINT, before)
    run()


def _stop(number: int, frame: FrameType | None) -> None:
    """Leave at once: an exception may be caught, or lost, in an import that is half done."""
    os.write(2, b"error: interrupted\n")
    os._exit(1)

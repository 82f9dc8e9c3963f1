"""`straightthrough env`: versions, device, threads, and what serves each operator."""

from __future__ import annotations

from ..core.registry import OPERATORS
from ..studies.record import environment
from .console import Json, print_json, print_table

REFERENCE = "reference (plain torch, any device)"


def main(json: Json = False) -> None:
    """Show versions, device and threads, and which implementation serves what."""
    facts = environment()
    served = {record.room: REFERENCE for record in OPERATORS.values()}
    if json:
        print_json({"environment": facts, "implementations": served})
        return
    print_table(("Environment", ""), [(key, str(value)) for key, value in facts.items()])
    print_table(("Room", "Served by"), list(served.items()))
    print("This version has no kernels of its own, so the reference serves every operator.")

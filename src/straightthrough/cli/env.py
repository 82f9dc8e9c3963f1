"""`straightthrough env`: versions, device, threads, kernels, and what serves each operator."""

from __future__ import annotations

from pathlib import Path

from .. import ops
from ..core import kernels
from ..core.registry import OPERATORS
from ..studies.record import environment
from .console import Json, print_json, print_table


def main(json: Json = False) -> None:
    """Show versions, device and threads, every level of kernels, and what serves each operator."""
    facts = environment()
    served = {record.room: implementation(record.room) for record in OPERATORS.values()}
    if json:
        print_json({"environment": facts, "kernels": kernels.states, "implementations": served})
        return
    print_table(("Environment", ""), [(key, str(value)) for key, value in facts.items()])
    print_table(("Kernels", ""), list(kernels.states.items()))
    rows = [(room, row["serves"], row["why"]) for room, row in served.items()]
    print_table(("Room", "Served on the CPU by", "Because"), rows)
    print("The reference, plain torch, serves other devices, compiled code and transforms.")


def implementation(room: str) -> dict[str, str]:
    """Return what serves a room on the CPU, and why."""
    if not (Path(ops.__file__).parent / room / "cpu.cpp").exists():
        return {"serves": "reference", "why": "this room has no kernels"}
    name = f"{kernels.level} kernels" if kernels.level else "reference"
    return {"serves": name, "why": kernels.reason}

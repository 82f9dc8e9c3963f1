"""`straightthrough env`: versions, device, threads, kernels, and what serves each operator."""

from __future__ import annotations

from ..core import installed, kernels
from ..core.kernels import KERNELS
from ..core.registry import OPERATORS
from ..studies.record import environment
from .console import Json, print_json, print_table


def main(json: Json = False) -> None:
    """Show versions, device and threads, every level of kernels, and what serves each operator."""
    facts = environment()
    served = {record.family: implementation(record.family) for record in OPERATORS.values()}
    if json:
        print_json(
            {
                "environment": facts,
                "kernels": kernels.states,
                "mend": installed.mend(),
                "implementations": served,
            }
        )
        return
    print_table(("Environment", ""), [(key, str(value)) for key, value in facts.items()])
    print_table(("Kernels", ""), list(kernels.states.items()))
    if installed.mend():
        print(f"When what is missing is there: {installed.mend()}\n")
    rows = [(family, row["serves"], row["why"]) for family, row in served.items()]
    print_table(("Operators", "Served on the CPU by", "Because"), rows)
    print("The reference, plain torch, serves other devices and the transforms of torch.func.")


def implementation(family: str) -> dict[str, str]:
    """Return what serves the operators of a family on the CPU, and why."""
    declared = [kernel for kernel in KERNELS.values() if f".ops.{family}." in kernel.module]
    if not declared:
        return {"serves": "reference", "why": "these operators have no kernels"}
    serves = {kernel.providers().get("cpu", "reference") for kernel in declared}
    return {"serves": " and ".join(sorted(serves)), "why": kernels.reason}

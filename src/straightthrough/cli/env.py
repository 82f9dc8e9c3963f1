"""`straightthrough env`: versions, device, threads, kernels, and what serves each operator."""

from __future__ import annotations

from ..core import gpu, installed, kernels
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
    rows = [(family, row["serves"], row["on_gpus"], row["why"]) for family, row in served.items()]
    print_table(("Operators", "Served on the CPU by", "On GPUs by", "Because"), rows)
    print("The reference, plain torch, serves other devices and the transforms of torch.func.")
    if gpu.why_not():
        print(f"It serves GPUs as {gpu.why_not()}; `pip install triton` mends that.")


def implementation(family: str) -> dict[str, str]:
    """Return what serves the operators of a family, and why that on the CPU."""
    declared = [kernel for kernel in KERNELS.values() if f".ops.{family}." in kernel.module]
    if not declared:
        why = "these operators have no kernels"
        return {"serves": "reference", "on_gpus": "reference", "why": why}

    def on(device: str) -> str:
        found = {kernel.providers().get(device, "reference") for kernel in declared}
        return " and ".join(sorted(found, reverse=True))

    return {"serves": on("cpu"), "on_gpus": on("cuda"), "why": kernels.reason}

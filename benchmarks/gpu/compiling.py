"""What an operator launches on a GPU, compiled for it offline, and counted."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from straightthrough.core import gpu
from straightthrough.core.native import rows

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"

PIPES = {
    "fp64": r"D(ADD|MUL|FMA|SETP|MNMX).*|[FI]2[FI].*\.F64.*|v_\w+_f64.*",
    "special": r"MUFU.*|[FI]2[FI].*|v_(exp|log|rcp|rsq|sqrt)_f32.*",
    "memory": r"(LD|ST|ATOM|RED)[GS]?\b.*|SHFL.*|(global|buffer|ds|flat)_.*",
    "float": r"F(ADD|MUL|FMA)\b.*|IMAD.*|v_\w+_f(32|16).*",
    "integer": r"[A-Z].*|v_.*",
}
"""Where a GPU's instruction is executed; the first pattern counts."""

IGNORED = r"NOP|BRA|EXIT|U[A-Z0-9]+|S2U?R|R2UR|BAR|DEPBAR|s_.*"
"""Instructions that do not wait for a pipe of the lanes: empty, uniform, scalar."""


@dataclass(frozen=True)
class Launch:
    """A kernel of a launch, compiled.

    Attributes:
        registers, spills, shared: registers a lane, bytes that did not fit, shared memory.
        lanes: lanes of the whole launch.
        instructions: of one lane, by pipe.
        bytes: of the tensors that it is given.
    """

    kernel: str
    registers: int
    spills: int
    shared: int
    lanes: int
    instructions: dict[str, int]
    bytes: int


class Driver:
    """Says which GPU there is, where there is none."""

    def __init__(self, target: GPUTarget) -> None:
        self.target = target

    def get_current_target(self) -> GPUTarget:
        """Return it."""
        return self.target

    def get_current_device(self) -> int:
        """Return its number."""
        return 0

    def get_current_stream(self, device: int) -> int:
        """Return the default stream."""
        return 0


def launches(
    name: str, arguments: Sequence[Any], target: GPUTarget
) -> tuple[list[Launch], tuple[Tensor, ...]]:
    """Return what operator `name` launches for arguments on torch's device `meta`, and makes."""
    gpu.loaded("CUDA")
    found: list[Launch] = []
    run = JITFunction.run

    def compiled(
        self: Any, *args: Any, grid: tuple[int, ...], warmup: bool, **options: Any
    ) -> None:
        self.device_caches.clear()  # which know a device by its number
        kernel = run(self, *args, grid=grid, warmup=True, **options)
        found.append(_launch(self.fn.__name__, kernel, grid, args, target))

    driver.set_active(Driver(target))
    warps = mock.patch.object(rows, "LANES", target.warp_size)
    with warps, mock.patch.object(JITFunction, "run", compiled):
        results = gpu.IMPLEMENTED[name](*arguments)
    return found, results if isinstance(results, tuple) else (results,)


def _launch(
    name: str, kernel: Any, grid: tuple[int, ...], args: Sequence[Any], target: GPUTarget
) -> Launch:
    programs = int(torch.tensor(grid).prod())
    if target.backend == "hip":
        text = kernel.asm["amdgcn"]
        registers, scalar_spills, spills = (
            int(re.search(rf"\.{field}: +(\d+)", text)[1])  # type: ignore[index]  # all are there
            for field in ("vgpr_count", "sgpr_spill_count", "vgpr_spill_count")
        )
        spills += scalar_spills
        opcodes = re.findall(r"(?m)^\s+([a-z]\w+)", text.partition("s_endpgm")[0])
    else:
        registers, spills, opcodes = _machine_code(kernel.asm["cubin"])
    return Launch(
        name,
        registers,
        spills,
        kernel.metadata.shared,
        programs * kernel.metadata.num_warps * target.warp_size,
        {pipe: sum(pipe_of(opcode) == pipe for opcode in opcodes) for pipe in PIPES},
        size_of(args),
    )


def _machine_code(cubin: bytes) -> tuple[int, int, list[str]]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()

        def dump(what: str) -> str:
            command = [str(TOOLS / "cuobjdump"), what, file.name]
            return subprocess.run(command, check=True, capture_output=True, text=True).stdout

        usage, code = dump("-res-usage"), dump("-sass")
    registers, stack, local = (
        int(re.search(rf"{field}:(\d+)", usage)[1])  # type: ignore[index]  # all are there
        for field in ("REG", "STACK", "LOCAL")
    )
    opcodes = re.findall(r"/\*[0-9a-f]{4,}\*/ +(?:@!?U?P\w+ +)?([A-Z][A-Z0-9_.]+)", code)
    return registers, stack + local, opcodes


def pipe_of(opcode: str) -> str | None:
    """Return where an instruction is executed."""
    if re.fullmatch(IGNORED, opcode.partition(".")[0]):
        return None
    return next((pipe for pipe, pattern in PIPES.items() if re.fullmatch(pattern, opcode)), None)


class Counted(TorchDispatchMode):
    """Counts what torch's own operators launch, and the bytes of what they are given and return."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: list[int] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        schema = function._schema
        view = any(r.alias_info and not r.alias_info.is_write for r in schema.returns)
        if view or schema.name.startswith("aten::empty"):
            return result
        self.bytes.append(size_of(tree_leaves((args, kwargs, result))))
        return result


def size_of(leaves: Iterable[Any]) -> int:
    """Return the bytes of tensors, each counted once."""
    tensors = {id(x): x for x in leaves if isinstance(x, Tensor)}
    return sum(x.numel() * x.element_size() for x in tensors.values())

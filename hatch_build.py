"""Build hook: compile the CPU kernels where there is a compiler and torch, else install without.

Under pip's build isolation torch cannot be imported, and asking for it as a build requirement
would download gigabytes. The kernels need its stable headers only, so they are looked for in the
environment that the package goes to. The result depends on neither Python's nor torch's ABI.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = Path(__file__).parent / "src" / "straightthrough"
LEVELS = {
    "avx512": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
    "avx2": ["-march=x86-64-v3"],
    "baseline": ["-march=x86-64"],
}
OLDEST_TORCH = "0x020a000000000000"  # 2.10


class KernelHook(BuildHookInterface):
    """Put one library an instruction set into `straightthrough/_kernels`."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict) -> None:
        """Compile, or say in one line why not; the install goes on in both cases."""
        target = PACKAGE / "_kernels"
        shutil.rmtree(target, ignore_errors=True)
        reason = why_not()
        if not reason:
            target.mkdir()
            reason = build(target)
        if reason:
            shutil.rmtree(target, ignore_errors=True)
            self.app.display_warning(f"CPU kernels are not built: {reason}")
            return
        build_data["artifacts"].append("src/straightthrough/_kernels/*.so")
        build_data["pure_python"] = False
        tag = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{tag}"


def compiler() -> str | None:
    """Return the C++ compiler: $CXX, else g++ or clang++ from the PATH."""
    candidates = [os.environ.get("CXX"), "g++", "clang++"]
    return next((path for c in candidates if c and (path := shutil.which(c))), None)


def torch_folder() -> Path | None:
    """Return the folder of torch in the target environment, found without importing it."""
    for scheme in ("platlib", "purelib"):
        folder = Path(sysconfig.get_path(scheme)) / "torch"
        if (folder / "include" / "torch" / "csrc" / "stable" / "ops.h").exists():
            return folder
    return None


def why_not() -> str | None:
    """Return what is missing for a build, if anything."""
    if sys.platform not in ("linux", "darwin"):
        return f"there are none for {sys.platform} yet"
    if not compiler():
        return "no C++ compiler (set CXX, or install g++)"
    if not torch_folder():
        return "torch's headers are not in this environment (install torch first)"
    return None


def build(target: Path) -> str | None:
    """Compile every level; return the compiler's last lines if one fails."""
    machine = platform.machine().lower()
    levels = LEVELS if machine in ("x86_64", "amd64") else {"baseline": []}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        runs = list(pool.map(lambda level: compile_level(target, level, levels[level]), levels))
    return next((run.stderr[-2000:] for run in runs if run.returncode), None)


def compile_level(target: Path, level: str, flags: list[str]) -> subprocess.CompletedProcess:
    """Compile all rooms into the library of one instruction set."""
    torch = torch_folder()
    link = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else ["-ltorch_cpu"]
    command = [
        *(compiler(), "-O3", "-std=c++17", "-fPIC", "-shared", *flags),
        *("-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"),
        *(f"-DTORCH_TARGET_VERSION={OLDEST_TORCH}", f"-I{torch / 'include'}"),
        *map(str, sorted(PACKAGE.glob("ops/*/cpu*.cpp"))),
        *("-o", str(target / f"{level}.so"), f"-L{torch / 'lib'}", *link),
    ]
    return subprocess.run(command, capture_output=True, text=True)

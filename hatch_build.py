"""Build hook: compile the CPU kernels where there is a compiler and torch, else install without.

Under pip's build isolation torch cannot be imported, and asking for it as a build requirement
would download gigabytes. The kernels need its stable headers only, so they are looked for in the
environment that the package goes to. The result depends on neither Python's nor torch's ABI.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = Path(__file__).parent / "src" / "straightthrough"
COMMON_HEADER = PACKAGE / "core" / "native" / "registration.h"
X86 = {
    "avx512": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
    "avx2": ["-march=x86-64-v3"],
    "baseline": ["-march=x86-64"],
}
NEON = {"neon": []}  # which every 64-bit Arm has
LEVELS = {"x86_64": X86, "amd64": X86, "aarch64": NEON, "arm64": NEON}
OLDEST_TORCH = "0x020a000000000000"  # 2.10
# A product and a sum become one instruction wherever there is one, by every compiler: exp and log
# are made of these, and draws from logits take 30% longer without. Uniforms and draws from
# probabilities are the same bits either way; the others are not those of the reference as rarely
# without (1 of 60,000,000 binary draws, 2 of 300,000 rows of 1,000 classes), whose exp is another.
CONTRACTION = "-ffp-contract=fast"
COMMON = [
    *("-O3", "-std=c++17", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math"),
    *("-Wno-psabi", CONTRACTION, f"-DTORCH_TARGET_VERSION={OLDEST_TORCH}"),
]
FLAGS = "STRAIGHTTHROUGH_CXXFLAGS"  # more of them, as `make sanitize` has
CACHE = "STRAIGHTTHROUGH_KERNEL_CACHE"  # a folder of libraries, each named by what it is made of
REQUIRED = "STRAIGHTTHROUGH_REQUIRE_KERNELS"  # where nothing is made without them: `make wheel`


class KernelHook(BuildHookInterface):
    """Put one library an instruction set into `straightthrough/_kernels`."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict) -> None:
        """Compile, or say why not and leave a line of it; the install goes on in both cases."""
        target = PACKAGE / "_kernels"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        build_data["artifacts"].append("src/straightthrough/_kernels/*")
        reason = why_not() or build(target)
        if reason and os.environ.get(REQUIRED):
            raise SystemExit(f"CPU kernels are not built: {reason}")
        if reason:
            tell(f"straightthrough is installed without its CPU kernels: {reason}")
            (target / "why_not.txt").write_text(f"not built: {reason}", encoding="utf-8")
            (target / "unsaid").touch()  # core/installed.py
            return
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform_tag()}"


def tell(message: str) -> None:
    """Say it on the terminal too, if there is one: pip keeps what a build prints to itself."""
    print(message, file=sys.stderr)
    with contextlib.suppress(OSError), open("/dev/tty", "w", encoding="utf-8") as terminal:
        terminal.write(f"\nWARNING: {message}\n")


def platform_tag() -> str:
    """Return this machine as a wheel's name says it; a compiler serves one half of universal2.

    What is linked here wants a glibc at least as new as this one, so the name says which.
    """
    name = sysconfig.get_platform().replace("universal2", machine())
    libc, version = platform.libc_ver()
    if libc == "glibc":
        name = name.replace("linux", f"manylinux_{version}")
    return name.replace("-", "_").replace(".", "_")


def machine() -> str:
    """Return the processor's family."""
    return platform.machine().lower()


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
        return "torch was not in this environment (install torch first)"
    return None


def build(target: Path) -> str | None:
    """Compile every level; if one fails, keep none and return what the compiler says of it."""
    levels = LEVELS.get(machine(), {"baseline": []})
    options = {level: [*COMMON, *flags, *extra_flags()] for level, flags in levels.items()}
    missing = [level for level in levels if not take(target, level, options[level])]
    with TemporaryDirectory() as scratch, ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda level: precompile(Path(scratch) / level, options[level]), missing))
        jobs = [
            (source, Path(scratch) / f"{level}-{number}.o", options[level])
            for level in missing
            for number, source in enumerate(sorted(PACKAGE.rglob("cpu*.cpp")))
        ]
        runs = list(pool.map(lambda job: compile_source(*job), jobs))
        if not any(run.returncode for run in runs):
            runs += [link(target, level, options[level], Path(scratch)) for level in missing]
    failed = next((run for run in runs if run.returncode), None)
    if failed is None:
        return None
    for library in target.glob("*.so"):
        library.unlink()
    lines = failed.stderr.splitlines()
    said = next((line for line in lines if "error" in line), "it says nothing")
    return f"{compiler()} failed: {said}"


def extra_flags() -> list[str]:
    """Return what the environment adds to the options of every level."""
    return os.environ.get(FLAGS, "").split()


def precompile(made: Path, options: list[str]) -> None:
    """Precompile for one instruction set what all sources include: half of the time of most.

    A compiler that can't do it, or can't use it, reads the header.
    """
    made.mkdir()
    header = made / COMMON_HEADER.name
    header.write_text(f'#include "{COMMON_HEADER}"\n', encoding="utf-8")
    command = [compiler(), *options, includes(), "-x", "c++-header", str(header)]
    subprocess.run([*command, "-o", f"{header}.gch"], capture_output=True)


def compile_source(source: Path, made: Path, options: list[str]) -> subprocess.CompletedProcess:
    """Compile one source for one instruction set."""
    header = made.parent / made.name.partition("-")[0] / COMMON_HEADER.name
    command = [compiler(), *options, includes(), "-include", str(header), "-c", str(source)]
    return subprocess.run([*command, "-o", str(made)], capture_output=True, text=True)


def includes() -> str:
    """Return the option that lets torch's headers be found."""
    return f"-I{torch_folder() / 'include'}"


def link(target: Path, level: str, options: list[str], made: Path) -> subprocess.CompletedProcess:
    """Make the library of one instruction set, and keep a copy in the cache."""
    torch = torch_folder()
    library = target / f"{level}.so"
    with_torch = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else ["-ltorch_cpu"]
    command = [
        *(compiler(), *options, "-shared", *map(str, sorted(made.glob(f"{level}-*.o")))),
        *("-o", str(library), f"-L{torch / 'lib'}", *with_torch),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    cached = in_cache(options)
    if done.returncode == 0 and cached:
        cached.parent.mkdir(parents=True, exist_ok=True)
        partial = cached.with_suffix(f".{os.getpid()}")
        shutil.copy(library, partial)
        partial.replace(cached)
    return done


def take(target: Path, level: str, options: list[str]) -> bool:
    """Take the library of one instruction set from the cache; return whether it was there."""
    cached = in_cache(options)
    if cached is None or not cached.exists():
        return False
    shutil.copy(cached, target / f"{level}.so")
    return True


def in_cache(options: list[str]) -> Path | None:
    """Return where the library that these options make is kept, if there is a cache."""
    folder = os.environ.get(CACHE)
    return Path(folder) / f"{content_hash(torch_folder(), options)}.so" if folder else None


def content_hash(torch: Path, options: list[str]) -> str:
    """Return a hash of all that a library is made of: compiler, torch, options and sources."""
    version = subprocess.run([compiler(), "--version"], capture_output=True).stdout
    parts = [version, (torch / "version.py").read_bytes(), " ".join(options).encode()]
    sources = [path for path in PACKAGE.rglob("*") if path.suffix in (".cpp", ".h")]
    for path in sorted(sources):
        parts += [str(path.relative_to(PACKAGE)).encode(), path.read_bytes()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:32]

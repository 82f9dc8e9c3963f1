"""Kernels for GPUs: where they come from, what is said where there are none, their short form."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import interpreted
from straightthrough.core import gpu, kernels

ROOT = Path(__file__).parents[2]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment,
        capture_output=True,
        text=True,
    )


def test_the_interpreter_agrees():
    """A few shapes in two dtypes; `make test-triton` has them all."""
    pytest.importorskip("triton")
    dear = ("70001", "float64", "float16", "rare", "outcome", "far_from", "negative", "accuracy")
    few = " and ".join(
        f"not {name}" for name in (*dear, "mean_in_half", "long_softmaxes", "thresholds")
    )
    done = run("-m", "pytest", "-q", *interpreted.FILES, "-k", few, **interpreted.ENVIRONMENT)
    assert done.returncode == 0, done.stdout


def test_triton_is_imported_at_the_first_use_alone():
    code = "import sys, torch, straightthrough as st; st.categorical(torch.zeros(2, 3)); "
    assert run("-c", code + "assert 'triton' not in sys.modules").returncode == 0


class Pretended:
    """As much of a tensor on a GPU as is asked of one."""

    is_cpu, is_cuda = False, True


def test_a_gpu_without_triton_is_told_once(monkeypatch):
    monkeypatch.setattr(gpu, "find_spec", lambda name: None)
    gpu.loaded.cache_clear()
    gpu.warn_once.cache_clear()
    with pytest.warns(RuntimeWarning, match="triton is not installed"):
        assert not kernels.has_kernel(Pretended(), name="draw")
    assert not kernels.has_kernel(Pretended(), name="draw")  # a warning would be an error
    gpu.loaded.cache_clear()
    gpu.warn_once.cache_clear()


def test_providers():
    pytest.importorskip("triton")
    draw = kernels.KERNELS["draw"].providers()
    assert draw["cuda"] == "Triton kernels"
    assert "cuda" not in kernels.KERNELS["ranks"].providers()
    with kernels.disabled():
        assert kernels.KERNELS["draw"].providers() == {}


def test_off_is_off_on_gpus_too():
    code = "from straightthrough.core import kernels; print(kernels.KERNELS['draw'].providers())"
    done = run("-c", "import straightthrough;" + code, **{kernels.VARIABLE: "off"})
    assert done.stdout.strip() == "{}", done.stderr

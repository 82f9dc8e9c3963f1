"""What one thread does to the engine while another trains."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor

import straightthrough as st
from straightthrough.core import kernels
from straightthrough.core.engine import intercepted


def elsewhere(function: Callable[[], object]) -> object:
    """Return what a function returns in a thread of its own."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def signs() -> list[float]:
    numbers: list[float] = st.sign(torch.tensor([-1.0, 2.0])).tolist()
    return numbers


def test_a_probe_leaves_the_operators_of_other_threads_alone() -> None:
    """The probe puts outcomes in the place of draws, and another thread trains meanwhile."""
    seen: list[object] = []
    model = st.nn.Categorical()

    def loss(model: torch.nn.Module, logits: Tensor) -> Tensor:
        seen.append(elsewhere(lambda: st.categorical(torch.tensor([[0.0, -torch.inf]])).tolist()))
        return model(logits)[:, 1]

    logits = torch.zeros(1, 2)
    of_outcome, _ = st.audit.probe(model, loss, logits)
    assert of_outcome(torch.eye(2)[:, None]).tolist() == [0, 1]
    assert seen == [[[1, 0]]] * len(seen) != []


def leave_in_the_order_of_entry(contexts: list[AbstractContextManager[None]]) -> None:
    """Enter contexts in two threads, and leave first the one that was entered first."""
    with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second:
        pairs = list(zip((first, second), contexts, strict=True))
        for pool, context in pairs:
            pool.submit(context.__enter__).result()
        for pool, context in pairs:
            pool.submit(context.__exit__, None, None, None).result()


def test_an_interceptor_ends_with_its_context() -> None:
    leave_in_the_order_of_entry([intercepted(lambda *_: torch.zeros(2)) for _ in range(2)])
    assert signs() == elsewhere(signs) == [-1, 1]


def test_kernels_serve_again_when_all_contexts_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "level", "serving")
    leave_in_the_order_of_entry([kernels.disabled(), kernels.disabled()])
    assert kernels.level == "serving"
    with kernels.disabled():
        with kernels.disabled():
            pass
        assert kernels.level is None
    assert kernels.level == "serving"

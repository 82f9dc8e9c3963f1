"""Kernels serve plain tensors; a subclass that they do not know gets what torch computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from straightthrough import testing
from straightthrough.core.kernels import KERNELS
from straightthrough.testing import Case

CALLED: list[str] = []
NAMESPACE = "straightthrough::"


class Foreign(Tensor):
    """A tensor around another one, which notes every operator that it is given to."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Any:
        made = Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), dtype=inner.dtype, device=inner.device
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        CALLED.append(function.name())
        args, kwargs = tree_map_only(Foreign, lambda x: x.inner, (args, kwargs or {}))
        return tree_map_only(Tensor, cls, function(*args, **kwargs))


def called_kernels() -> list[str]:
    return [name for name in CALLED if name.split(".")[0].removeprefix(NAMESPACE) in KERNELS]


def inner(x: Tensor) -> Tensor:
    return x.inner if type(x) is Foreign else x


@pytest.mark.kernels
@pytest.mark.parametrize("case", testing.cases(), ids=str)
def test_no_kernel_gets_a_foreign_tensor(case: Case) -> None:
    inputs = case.input(5)
    grad = case.incoming(inputs)
    wanted, gradients = case.backward(inputs, grad)
    CALLED.clear()
    got, found = case.backward(tuple(map(Foreign, inputs)), Foreign(grad))
    assert CALLED, "the tensor saw no operator"
    assert called_kernels() == []
    for one, other in zip((*got, *found), (*wanted, *gradients), strict=True):
        # A gradient of 0 whatever comes is made of nothing foreign.
        assert type(one) is Foreign or not one.any()
        torch.testing.assert_close(inner(one), other)


@pytest.mark.kernels
@pytest.mark.parametrize("case", testing.cases(), ids=str)
def test_no_kernel_gets_a_foreign_gradient(case: Case) -> None:
    inputs = case.input(5)
    grad = case.incoming(inputs)
    leaves = case.leaves(inputs)
    y = case(*leaves)[0]
    CALLED.clear()
    found = torch.autograd.grad(
        y, case.differentiable(leaves), Foreign(grad), materialize_grads=True
    )
    assert called_kernels() == []
    for one, other in zip(found, case.backward(inputs, grad)[1], strict=True):
        torch.testing.assert_close(inner(one), other)

"""Checks of torch's transforms: vmap, vmap of grad, compile."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .case import Case, assert_close, check


@check()
def check_vmap(case: Case) -> None:
    """Vmap is the loop over examples, whichever dimension is mapped; so is vmap of vmap."""
    x = case.input(4)
    loop = torch.stack([case(example) for example in x])
    case.assert_same(torch.func.vmap(case)(x), loop, "vmap")
    other = torch.func.vmap(case, in_dims=1, out_dims=1)(x.transpose(0, 1))
    case.assert_same(other.transpose(0, 1), loop, "vmap over dim 1")
    nested = torch.func.vmap(torch.func.vmap(case))(x)
    rows = torch.stack([torch.stack([case(row) for row in example]) for example in x])
    case.assert_same(nested, rows, "vmap of vmap")


@check()
def check_vmap_grad(case: Case) -> None:
    """Vmap of grad is the loop over examples."""
    x, grad = case.input(4), case.of_value(case.input(4, seed=1))

    def loss(x: Tensor, grad: Tensor) -> Tensor:
        return (case(x) * grad).sum()

    loop = torch.stack([case.pull(one, other)[1] for one, other in zip(x, grad, strict=True)])
    mapped = torch.func.vmap(torch.func.grad(loss))(x, grad)
    assert_close(mapped, loop, f"{case}: vmap of grad", float(grad.abs().max()))


@check()
def check_compiled(case: Case, backend: str = "aot_eager") -> None:
    """Compiled whole, the operator has eager's value and gradient, and compiles once.

    With a seed and, where it samples, after `torch.manual_seed`.
    """
    seeds = (None,) if case.record.samples else ()
    for seed in (0, *seeds):
        torch.compiler.reset()

        def operator(x: Tensor, seed: int | None = seed) -> Tensor:
            return case(x, seed=seed)

        compiled = torch.compile(operator, fullgraph=True, backend=backend)
        _assert_as_eager(case, compiled, seed, data=0)
        with torch.compiler.set_stance("fail_on_recompile"):
            _assert_as_eager(case, compiled, seed, data=7)


def _assert_as_eager(
    case: Case, compiled: Callable[[Tensor], Tensor], seed: int | None, data: int
) -> None:
    x, grad = case.input(4, seed=data), case.of_value(case.input(4, seed=data + 1))
    torch.manual_seed(data)
    y, gradient = case.pull(x, grad, seed=seed)
    x.requires_grad_()
    torch.manual_seed(data)
    try:
        compiled_y = compiled(x)
        compiled_gradient = torch.autograd.grad(compiled_y, x, grad)[0]
    except RuntimeError as error:
        raise AssertionError(f"{case}: compiled, seed={seed}: {error}") from error
    about = f"{case}: compiled, seed={seed}"
    case.assert_same(compiled_y.detach(), y, f"value compiled, seed={seed}")
    scale = float(grad.abs().max())
    assert_close(compiled_gradient, gradient, f"{about}: gradient", scale)

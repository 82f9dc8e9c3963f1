"""Checks of torch's transforms: vmap, vmap of grad, compile."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from .case import Case, Tensors, check
from .compare import assert_close

Dims = tuple[int | None, ...]


@check()
def check_vmap(case: Case) -> None:
    """Vmap is the loop over examples, whichever dimension is mapped; so is vmap of vmap.

    So it is, too, where every example has its own of what the others share.
    """
    for inputs, dims in _mapped(case):
        loop = _stacked(case(*one) for one in _examples(inputs, dims))
        case.assert_same(torch.func.vmap(case, dims)(*inputs), loop, "vmap")
    dims = case.in_dims
    second = tuple(dim if dim is None else 1 for dim in dims)
    inputs = case.input(4)
    turned = case.map(inputs, lambda x: x.transpose(0, 1))
    loop = _stacked(case(*one) for one in _examples(inputs, dims))
    other = torch.func.vmap(case, second, out_dims=1)(*turned)
    case.assert_same([y.transpose(0, 1) for y in other], loop, "vmap over dim 1")
    nested = torch.func.vmap(torch.func.vmap(case, dims), dims)(*inputs)
    rows = _stacked(
        _stacked(case(*row) for row in _examples(one, dims)) for one in _examples(inputs, dims)
    )
    case.assert_same(nested, rows, "vmap of vmap")


@check()
def check_vmap_grad(case: Case) -> None:
    """Vmap of grad is the loop over examples."""
    places = case.differentiable(range(len(case.record.inputs)))
    for inputs, dims in _mapped(case):
        grad = case.incoming(case.input(4))

        def loss(grad: Tensor, *inputs: Tensor) -> Tensor:
            return (case(*inputs)[0] * grad).sum()

        loop = _stacked(
            case.backward(one, other)[1]
            for one, other in zip(_examples(inputs, dims), grad, strict=True)
        )
        gradients = torch.func.grad(loss, tuple(place + 1 for place in places))
        mapped = torch.func.vmap(gradients, (0, *dims))(grad, *inputs)
        assert_close(mapped, loop, f"{case}: vmap of grad", float(grad.abs().max()))


def _mapped(case: Case) -> Iterator[tuple[Tensors, Dims]]:
    """Yield four examples and which dimension of each input is mapped."""
    inputs = case.input(4)
    yield inputs, case.in_dims
    if None in case.in_dims:
        own = case.map(inputs, lambda x: x, lambda x: torch.stack([x.roll(i) for i in range(4)]))
        yield own, (0,) * len(own)


def _examples(inputs: Tensors, dims: Dims) -> Iterator[Tensors]:
    """Yield the inputs of one example after the other."""
    for i in range(len(inputs[0])):
        yield [x if dim is None else x[i] for x, dim in zip(inputs, dims, strict=True)]


def _stacked(outputs: Iterator[Tensors]) -> Tensors:
    return [torch.stack(each) for each in zip(*outputs, strict=True)]


@check()
def check_recorded(case: Case) -> None:
    """What `make_fx` records of real tensors has the value and the gradients of other ones."""
    inputs, others = case.input(4), case.input(4, seed=7)
    grad = case.incoming(inputs)
    value = make_fx(lambda *leaves: [y.detach() for y in case(*leaves)])(*case.leaves(inputs))
    gradients = make_fx(lambda grad, *given: case.backward(given, grad)[1])(grad, *inputs)
    outputs, expected = case.backward(others, grad)
    case.assert_same(value(*others), outputs, "value recorded")
    about = f"{case}: recorded: gradient"
    assert_close(gradients(grad, *others), expected, about, float(grad.abs().max()))


@check()
def check_compiled(case: Case, backend: str = "aot_eager") -> None:
    """Compiled whole, the operator has eager's value and gradients, and compiles once.

    With a seed and, where it samples, after `torch.manual_seed`.
    """
    seeds = (None,) if case.record.samples else ()
    for seed in (0, *seeds):
        torch.compiler.reset()

        def operator(*inputs: Tensor, seed: int | None = seed) -> Tensors:
            return case(*inputs, seed=seed)

        compiled = torch.compile(operator, fullgraph=True, backend=backend)
        _assert_as_eager(case, compiled, seed, data=0)
        with torch.compiler.set_stance("fail_on_recompile"):
            _assert_as_eager(case, compiled, seed, data=7)


def _assert_as_eager(
    case: Case, compiled: Callable[..., Tensors], seed: int | None, data: int
) -> None:
    inputs = case.input(4, seed=data)
    grad = case.incoming(inputs, seed=data + 1)
    torch.manual_seed(data)
    outputs, gradients = case.backward(inputs, grad, seed=seed)
    leaves = case.leaves(inputs)
    torch.manual_seed(data)
    try:
        y, *others = compiled(*leaves)
        pulled = torch.autograd.grad(y, case.differentiable(leaves), grad, materialize_grads=True)
    except RuntimeError as error:
        raise AssertionError(f"{case}: compiled, seed={seed}: {error}") from error
    case.assert_same([y.detach(), *others], outputs, f"value compiled, seed={seed}")
    about = f"{case}: compiled, seed={seed}: gradient"
    assert_close(pulled, gradients, about, float(grad.abs().max()))

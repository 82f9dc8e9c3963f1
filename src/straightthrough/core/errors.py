"""The exceptions, and the checks of arguments that raise them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import inf
from sys import float_info
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor
from torch.compiler import is_compiling

from .internals import has_tangent, transforms_active
from .mesh import whole

LARGEST = float_info.max
FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
QUANTIZED = (torch.qint8, torch.quint8, torch.qint32, torch.quint4x2, torch.quint2x4)
STRIDED = torch.strided


class StraightThroughError(Exception):
    """Base of every error that this library raises on purpose."""


class DtypeError(StraightThroughError, TypeError):
    """A tensor has a dtype that the operation cannot take."""


class ShapeError(StraightThroughError, ValueError):
    """A tensor has a shape, or a dimension, that the operation cannot take."""


class ArgumentError(StraightThroughError, ValueError):
    """An argument lies outside its allowed range or names nothing known."""


def check_floating(name: str, tensor: object) -> None:
    """Raise `DtypeError` unless `tensor` is a floating tensor of a supported dtype.

    A sparse, masked or jagged one raises `ArgumentError`. (What is nested and strided is plain in
    all that is quick to read: torch refuses it, and then `check_not_nested` says why.)
    """
    if tensor.__class__ is not Tensor:
        _check_class(name, tensor)
    if tensor.dtype not in FLOATING or tensor.layout is not STRIDED:  # type: ignore[attr-defined]  # a tensor by now
        _refuse(name, tensor)


def _check_class(name: str, tensor: object) -> None:
    if not isinstance(tensor, Tensor):
        check_not_traced(tensor)
        raise DtypeError(
            f"{name} must be a tensor, got {type(tensor).__name__}; wrap it in torch.tensor(...)"
        )
    if isinstance(tensor, torch.masked.MaskedTensor):
        check_dense(name, tensor)


def _refuse(name: str, tensor: Any) -> NoReturn:
    check_dense(name, tensor)
    raise DtypeError(
        f"{name} must be float16, bfloat16, float32 or float64, got {tensor.dtype}; "
        f"convert it with {name}.to(torch.float32)"
    )


def check_dense(name: str, tensor: Tensor) -> None:
    """Raise unless the tensor is dense: neither sparse, masked, nested nor quantized."""
    if isinstance(tensor, torch.masked.MaskedTensor):
        raise ArgumentError(
            f"{name} must be a dense tensor, got a masked one; pass {name}.get_data(), and "
            f"{name}.get_mask() as mask= where there is one"
        )
    check_not_nested(name, tensor)
    if tensor.layout is not STRIDED:
        raise ArgumentError(
            f"{name} must be a dense tensor, got one of layout {tensor.layout}; "
            f"use {name}.to_dense()"
        )
    if tensor.is_quantized:
        raise DtypeError(
            f"{name} must be float16, bfloat16, float32 or float64, got a quantized tensor of "
            f"{tensor.dtype}; use {name}.dequantize()"
        )


def check_not_nested(name: str, *tensors: Tensor) -> None:
    """Raise `ArgumentError` if one of the tensors is nested."""
    if any(tensor.is_nested for tensor in tensors):
        raise ArgumentError(
            f"{name} must be a dense tensor, got a nested one; use "
            f"torch.nested.to_padded_tensor(...), or call with each of its .unbind()"
        )


def check_not_traced(value: object) -> None:
    """Raise if `value` is what `torch.fx.symbolic_trace` passes in the place of a tensor."""
    if isinstance(value, torch.fx.Proxy):
        tracer: Any = value.tracer
        inside = [kind for _, kind in getattr(tracer, "module_stack", {}).values()]
        name = (inside[-1] if inside else type(tracer.root)).__name__
        raise StraightThroughError(
            f"{name} can't be traced by torch.fx.symbolic_trace, which runs without values; use "
            f"torch.export to get a graph of it and torch.compile to make it faster"
        )


def check_not_onnx(what: str, mend: str) -> None:
    """Raise in an export to ONNX, which has no function for `what`."""
    if torch.onnx.is_in_onnx_export():
        raise StraightThroughError(f"ONNX has no function for {what}; {mend}")


Number = float | Tensor
"""A number of a rule or an operator: a Python or numpy number, or a 0-d tensor without gradient."""


def check_positive(name: str, value: object) -> Any:
    """Return the finite number above 0 that `value` is, as `check_number` does."""
    if type(value) is float and 0 < value <= LARGEST:  # nearly always, in a third of the time
        return value
    number = check_number(name, value)
    if not isinstance(number, Tensor) and not number > 0:
        raise ArgumentError(f"{name} must be above 0, got {value}")
    return number


def check_at_least(name: str, value: object, least: float) -> Any:
    """Return the finite number of at least `least` that `value` is, as `check_number` does."""
    number = check_number(name, value)
    if not isinstance(number, Tensor) and number < least:
        raise ArgumentError(f"{name} must be at least {least}, got {value}")
    return number


def check_number(name: str, value: object) -> Any:
    """Return the finite real number that `value` is, or raise `ArgumentError`.

    A tensor on the CPU is read and another device's is copied, so that it may change before
    backward; in compiled code and inside a transform it stays what it is.
    """
    if type(value) is float or type(value) is int:
        number: Any = value
    elif isinstance(value, Tensor):
        return _check_tensor(name, value)
    elif is_compiling() and isinstance(value, np.ndarray):  # what a numpy number is there
        return _check_tensor(name, torch.as_tensor(value, device="cpu"))
    else:
        number = _plain(value)
    # Comparisons, as compiled code has symbols for numbers that change, and no isfinite for them.
    if number is None or not -LARGEST <= number <= LARGEST:
        raise ArgumentError(f"{name} must be a finite number, got {value!r}")
    return number


def _plain(value: object) -> int | float | None:
    """Return a number of Python's or numpy's as one of Python's; None for anything else."""
    value = value.item() if isinstance(value, np.number) else value
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _check_tensor(name: str, value: Tensor) -> Any:
    if value.ndim or value.dtype == torch.bool or value.is_complex():
        raise ArgumentError(
            f"{name} must be a number or a 0-d tensor of one, got {value.dtype} of shape "
            f"{tuple(value.shape)}"
        )
    if value.requires_grad or (not is_compiling() and has_tangent(value)):
        raise ArgumentError(f"{name} gets no gradient; pass {name}.detach()")
    if is_compiling() or transforms_active():
        return value
    if not value.is_cpu:
        return value.clone()
    number = value.item()
    if not -inf < number < inf:
        raise ArgumentError(f"{name} must be a finite number, got {number}")
    return number


def as_int(value: object) -> int | None:
    """Return a whole number of Python's or numpy's as one of Python's; None for anything else."""
    if type(value) is int:
        return value
    number = _plain(value)
    return number if isinstance(number, int) else None


def check_k(k: object, classes: int) -> int:
    """Return the int that `k` is, if so many of the classes can be chosen."""
    count = as_int(k)
    if count is None or not 1 <= count <= classes:
        raise ArgumentError(f"k must be an int in [1, {classes}] for {classes} classes, got {k!r}")
    return count


def check_count(name: str, value: object) -> int:
    """Return the int of at least 1 that `value` is, or raise `ArgumentError`."""
    return _check_whole(name, value, 1)


def check_dim(name: str, value: object) -> int:
    """Return the int that `value`, the number of a dimension, is, or raise `ArgumentError`."""
    number = as_int(value)
    if number is None:
        raise ArgumentError(f"{name} must be an int, got {value!r}")
    return number


def check_flag(name: str, value: object) -> bool:
    """Return the bool of Python's that `value`, one of Python's or numpy's, is."""
    if isinstance(value, bool):
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    raise ArgumentError(f"{name} must be True or False, got {value!r}")


def check_limit(name: str, value: object) -> int:
    """Return the int of at least 0 that `value` is, or raise `ArgumentError`."""
    return _check_whole(name, value, 0)


def _check_whole(name: str, value: object, least: int) -> int:
    number = as_int(value)
    if number is None or number < least:
        raise ArgumentError(f"{name} must be an int of at least {least}, got {value!r}")
    return number


def check_model(model: object) -> None:
    """Raise `ArgumentError` unless `model` is a module."""
    if not isinstance(model, torch.nn.Module):
        raise ArgumentError(f"model must be a torch.nn.Module, got {type(model).__name__}")


def check_rows(name: str, tensor: Tensor, dim: int) -> int:
    """Return `dim` counted from the end, of a floating tensor with at least one class along it."""
    check_floating(name, tensor)
    try:
        shape = tensor.shape
    except RuntimeError:
        check_not_nested(name, tensor)
        raise
    ndim = tensor.ndim
    if ndim == 0:
        mend = "st.bernoulli for a single binary outcome" if name == "logits" else f"{name}[None]"
        raise ShapeError(f"{name} must have a dimension of classes, got a 0-d tensor; use {mend}")
    at = as_int(dim)
    if at is None:
        at = check_dim("dim", dim)
    if not -ndim <= at < ndim:
        raise ShapeError(
            f"dim must lie in [{-ndim}, {ndim - 1}] for {name} of shape {tuple(shape)}, got {dim}"
        )
    if shape[at] == 0:
        raise ShapeError(
            f"{name} of shape {tuple(shape)} has no class along dim {dim}; at least one is needed"
        )
    return at - ndim if at >= 0 else at


def apply_mask(name: str, tensor: Tensor, mask: Tensor | None) -> Tensor:
    """Put -inf where `mask` (True = allowed) is False."""
    if mask is None:
        return tensor
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.layout is not STRIDED:
        check_not_traced(mask)
        if isinstance(mask, Tensor):
            check_dense("mask", mask)
        kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise DtypeError(
            f"mask must be a bool tensor (True = allowed), got {kind}; "
            f"use torch.as_tensor(mask).bool()"
        )
    try:
        shape = torch.broadcast_shapes(mask.shape, tensor.shape)
    except RuntimeError:
        shape = torch.Size()
    if shape != tensor.shape:
        raise ShapeError(
            f"mask of shape {tuple(mask.shape)} does not broadcast to {name} "
            f"of shape {tuple(tensor.shape)}"
        )
    return tensor.masked_fill(~mask, -inf)


def check_range(
    name: str, given: Tensor, most: float = inf, mend: str = "", without: float | None = None
) -> None:
    """Raise `ArgumentError` if an element lies outside [0, most]; NaN, which lies nowhere, passes.

    The end `without` does not count as inside. It reads the tensor, and waits for it where that is
    on another device.
    """
    outside = (given < 0) | (given > most)
    if without is not None:
        outside |= given == without
    if outside.any():
        place = tuple(outside.nonzero()[0].tolist())
        first, last = "(" if without == 0 else "[", ")" if without == most else "]"
        allowed = f"lie in {first}0, {most:g}{last}" if most < inf else "be at least 0"
        value = given[place].item()
        rounded = f"{value:g}"
        shown = repr(value) if 0 <= float(rounded) <= most else rounded  # by less than it shows
        raise ArgumentError(f"{name} must {allowed}, got {shown} at {place}; clamp it{mend}")


_strict: ContextVar[bool] = ContextVar("straightthrough_strict", default=False)


@contextmanager
def strict() -> Iterator[None]:
    """Raise, instead of returning a NaN row, where a row has no valid outcome.

    A row has none when it holds a NaN or when no class of it is allowed; of an operator on
    elements, an element when it is NaN or lies outside its range, as a probability of 1.5 or a
    rate of -1 does. In `st.sign`, `st.round` and the other pointwise operators NaN stays NaN.
    Modules check in `eval()` too. The check reads the result back, so it synchronises with the
    device: a debugging aid, like torch's anomaly mode.
    Compiled code does not check, and inside vmap there is nothing to read.

    Raises:
        ArgumentError: inside the context, naming the first such row.

    Example:
        >>> with st.strict():
        ...     st.argmax(torch.tensor([[0.0, 1.0], [float("nan"), 1.0]]))
        Traceback (most recent call last):
        straightthrough.core.errors.ArgumentError: argmax: row (1,) has no valid outcome: ...
    """
    token = _strict.set(True)
    try:
        yield
    finally:
        _strict.reset(token)


NO_OUTCOME = "a NaN or an infinity, or too few of its classes are allowed"
NO_PROBABILITY = "a NaN, or a probability outside its range"
NO_CODEWORD = "a NaN or an infinity, or zeros alone for the cosine, or no codeword is finite"
NOT_A_NUMBER = "a NaN"
_MEND = {
    NO_OUTCOME: "the logits or the mask",
    NO_CODEWORD: "the codebook, or the vector",
    NOT_A_NUMBER: "the vector",
}


def check_outcomes(name: str, invalid: Callable[[], Tensor], holds: str = NO_OUTCOME) -> None:
    """Inside `strict()`, raise if any entry of `invalid()` (one a row) is true.

    An operator on elements says what `holds` where there is no outcome: its row is an element.
    """
    if is_compiling() or not _strict.get():
        return
    rows = whole(invalid()).nonzero()
    if len(rows):
        row = tuple(int(i) for i in rows[0])
        mend = _MEND.get(holds, "the parameter")
        raise ArgumentError(
            f"{name}: row {row} has no valid outcome: it holds {holds}; mend {mend} of that row"
        )

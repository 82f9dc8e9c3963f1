"""What holds of every call: a hard value, and a gradient of finite numbers."""

import contextlib

import torch
from torch import Tensor

from straightthrough.core import kernels
from straightthrough.core.outcomes import Count
from straightthrough.testing import assert_value

from .trial import Pool, Trial, trial


def check(trial: Trial) -> None:
    """Raise an `AssertionError` at the first thing that does not hold."""
    with contextlib.nullcontext() if trial.kernels else kernels.disabled():
        y = _check_value(trial)
        if trial.grad is not None:
            _check_gradient(trial, trial.grad, _outcomes(trial, y))


def _check_value(trial: Trial) -> Tensor:
    specified = not (trial.soft or trial.direct)
    with torch.no_grad():
        outputs = trial(*trial.inputs)
        if specified:
            assert_value(trial, *trial.inputs)
    y, shape = outputs[0], trial.record.shapes(*trial.inputs)[0]
    _assert_like(y, trial.x.new_empty(shape), "value")
    if specified:
        return y
    valid = y[_outcomes(trial, y)]
    if trial.soft:
        assert bool(((valid >= 0) & (valid <= 1)).all()), f"soft value {valid.tolist()}"
    else:
        most = torch.inf if isinstance(trial.record.outcome, Count) else 1
        whole = (valid >= 0) & (valid <= most) & (valid == valid.floor()) & valid.isfinite()
        assert bool(whole.all()), f"value {valid[~whole][0]}"
    return y


def _outcomes(trial: Trial, y: Tensor) -> Tensor:
    """Return which elements of the value, or of the first input, there must be a number for.

    Or, where the outcome is one of other classes than the input's, which rows.
    """
    if trial.direct:
        return ~y.isnan()
    if trial.record.outcome.everywhere:
        return ~trial.x.isnan()
    known = ~trial.mean(*trial.inputs).isnan()
    known = known.all(-1) if known.ndim > trial.x.ndim else known
    return known if known.shape == trial.x.shape else known.all(-1, keepdim=True)


def _check_gradient(trial: Trial, grad: Tensor, valid: Tensor) -> None:
    gradients = trial.backward(trial.inputs, grad)[1]
    for i, (one, x) in enumerate(zip(trial.record.inputs, trial.inputs, strict=True)):
        gradient = gradients[i]
        _assert_like(gradient, x, f"gradient to {one.name}")
        wrong = ~gradient.isfinite() & (valid if i == 0 else True)
        if bool(wrong.any()):
            where = tuple(wrong.nonzero()[0].tolist())
            row = where[: len(where) - len(one.named)]
            raise AssertionError(
                f"gradient {gradient[where].item()} at {where} of {one.name}: "
                f"{_shown(x[row])}, gradient to the value {_shown(grad[row])}"
            )


def _assert_like(got: Tensor, due: Tensor, what: str) -> None:
    for name in ("dtype", "shape", "device"):
        one, other = getattr(got, name), getattr(due, name)
        assert one == other, f"{what} of {name} {one}, not {other}"


def _shown(values: Tensor) -> str:
    first = values.flatten()[:6].tolist()
    return str(first if values.numel() <= 6 else [*first, ...])


def fault(number: int, among: Pool | None = None) -> str | None:
    """Return what is wrong in the case of that number, in one line; None where nothing is."""
    case = None
    try:
        case = trial(number, among)
        check(case)
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return f"{case or 'the case could not be made'}: {text}"
    return None

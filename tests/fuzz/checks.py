"""What holds of every call: a hard value, and a gradient of finite numbers."""

import contextlib

import torch
from torch import Tensor

from straightthrough.core import kernels
from straightthrough.testing import assert_value

from .trial import Pool, Trial, trial


def check(trial: Trial) -> None:
    """Raise an `AssertionError` at the first thing that does not hold."""
    with contextlib.nullcontext() if trial.kernels else kernels.disabled():
        y = _check_value(trial)
        if trial.grad is not None:
            _check_gradient(trial, trial.grad, _outcomes(trial, y))


def _check_value(trial: Trial) -> Tensor:
    x = trial.x
    with torch.no_grad():
        y = trial(x)
        if not (trial.soft or trial.direct):
            assert_value(trial, x)
    _assert_like(y, trial.of_value(x), "value")
    if not (trial.soft or trial.direct):
        return y
    valid = y[_outcomes(trial, y)]
    if trial.soft:
        assert bool(((valid >= 0) & (valid <= 1)).all()), f"soft value {valid.tolist()}"
    else:
        most = torch.inf if trial.record.counts else 1
        whole = (valid >= 0) & (valid <= most) & (valid == valid.floor()) & valid.isfinite()
        assert bool(whole.all()), f"value {valid[~whole][0]}"
    return y


def _outcomes(trial: Trial, y: Tensor) -> Tensor:
    """Return which elements of the value, or of the input, there must be a number for."""
    x = trial.x
    if trial.direct:
        return ~y.isnan()
    if not (trial.record.samples or trial.record.rows):
        return ~x.isnan()
    return ~trial.hard(x).isnan()


def _check_gradient(trial: Trial, grad: Tensor, valid: Tensor) -> None:
    gradient = trial.pull(trial.x, grad)[1]
    _assert_like(gradient, trial.x, "gradient")
    wrong = valid & ~gradient.isfinite()
    if bool(wrong.any()):
        where = tuple(wrong.nonzero()[0].tolist())
        row = where[:-1] if trial.record.rows else where
        raise AssertionError(
            f"gradient {gradient[where].item()} at {where}: "
            f"x {_shown(trial.x[row])}, gradient to the value {_shown(grad[row])}"
        )


def _assert_like(got: Tensor, due: Tensor, what: str) -> None:
    for name in ("dtype", "shape", "device"):
        one, other = getattr(got, name), getattr(due, name)
        assert one == other, f"{what} of {name} {one}, not {other}"


def _shown(values: Tensor) -> str:
    return str(values.tolist() if values.numel() <= 6 else [*values[:6].tolist(), ...])


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

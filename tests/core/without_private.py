"""Run a few operators as with a torch that lacks a private name: `... FOLDER NAME NAME`.

The results of each name are saved in the folder under its number; a name that no torch has stands
for the torch that is here. Each is a fork, as the library can be imported only once.
"""

import os
import pkgutil
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

X = torch.linspace(-2, 2, 12, dtype=torch.float64).reshape(4, 3)
WEIGHT = torch.arange(12, dtype=torch.float64).reshape(4, 3)
Function = Callable[[Tensor], Tensor]


def eager(f: Function) -> Tensor:
    x = X.clone().requires_grad_()
    y = f(x)
    (grad,) = torch.autograd.grad((y * WEIGHT).sum(), x)
    return torch.stack([y.detach(), grad])


def without_gradient(f: Function) -> Tensor:
    return f(X)


def by_transform(f: Function) -> Tensor:
    return torch.vmap(torch.func.grad(lambda x, w: (f(x) * w).sum()))(X, WEIGHT)


def in_forward_mode(f: Function) -> Tensor:
    return torch.func.jvp(f, (X,), (WEIGHT,))[1]


def compiled(f: Function) -> Tensor:
    torch.compiler.reset()
    return eager(torch.compile(f, backend="aot_eager", fullgraph=True))


WAYS = (eager, without_gradient, by_transform, in_forward_mode)


def results() -> dict[str, Tensor | str]:
    """Return what every operator gives in every way, or the words of the error."""
    import straightthrough as st

    operators: dict[str, Function] = {
        "sign": lambda x: st.sign(x, surrogate=st.surrogates.Tanh()),
        "categorical": lambda x: st.categorical(x, seed=3),
        "wrap": st.wrap(torch.sign, torch.tanh),
    }
    found: dict[str, Tensor | str] = {}
    for name, f in operators.items():
        for way in (*WAYS, compiled) if name == "sign" else WAYS:
            try:
                found[f"{name} {way.__name__}"] = way(f)
            except Exception as error:
                found[f"{name} {way.__name__}"] = f"{type(error).__name__}: {error}"
    return found


def hide(name: str) -> None:
    """Let `internals.private` find nothing under a name."""
    there = pkgutil.resolve_name

    def resolve(asked: str) -> object:
        if asked == name:
            raise AttributeError(name)
        return there(asked)

    pkgutil.resolve_name = resolve


if __name__ == "__main__":
    torch.compile(torch.sin, backend="aot_eager")(X)  # what it imports, no fork has to
    torch.vmap(torch.func.grad(torch.sum))(X)
    for number, name in enumerate(sys.argv[2:]):
        child = os.fork()
        if child == 0:
            hide(name)
            torch.save(results(), Path(sys.argv[1]) / f"{number}")
            os._exit(0)
        os.waitpid(child, 0)

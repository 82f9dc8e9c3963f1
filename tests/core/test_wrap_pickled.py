"""wrap: an operator travels with what holds it, where its functions can."""

from __future__ import annotations

import copy
import functools
import inspect
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import straightthrough as st


def above(x: Tensor, least: float = 0.0) -> Tensor:
    """Whether it is above."""
    return x > least


def likely(x: Tensor, least: float = 0.0) -> Tensor:
    return torch.sigmoid(x - least)


@st.wrap(soft=likely)
def decorated(x: Tensor, least: float = 0.0) -> Tensor:
    return x > least


class Holder(nn.Module):
    method = st.wrap(above, likely)

    def __init__(self, operator: Callable[..., Any]) -> None:
        super().__init__()
        self.operator = operator

    def forward(self, x: Tensor) -> Tensor:
        value: Tensor = self.operator(x)
        return value


PICKLED = {
    "torch": lambda: st.wrap(torch.sign, torch.tanh),
    "method": lambda: st.wrap(Tensor.sign, Tensor.tanh),
    "functional": lambda: st.wrap(F.hardtanh, torch.tanh),
    "module": lambda: st.wrap(above, likely),
    "decorator": lambda: decorated,
    "partial": lambda: st.wrap(functools.partial(above, least=1.0), likely),
    "layer": lambda: st.wrap(nn.Hardtanh(), nn.Tanh()),
}


def saved(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded: nn.Module = torch.load(file, weights_only=False)
    return loaded


@pytest.mark.parametrize("twin", [saved, copy.deepcopy], ids=["saved", "copied"])
@pytest.mark.parametrize("name", PICKLED)
def test_a_model_that_holds_one_is_saved_and_copied(
    name: str, twin: Callable[[nn.Module], nn.Module]
) -> None:
    torch.compiler.reset()  # which doesn't tell `Tensor.sign` from other functions
    model = Holder(PICKLED[name]())
    x = torch.tensor([-2.0, 0.25, 3.0], requires_grad=True)
    values, gradients = [], []
    for each in (model, twin(model), torch.compile(model, backend="aot_eager", fullgraph=True)):
        y = each(x)
        values.append(y)
        gradients += torch.autograd.grad(y.sum(), x)
    assert torch.equal(values[0], values[1])
    assert torch.equal(values[0], values[2])
    assert gradients[0].any()
    assert torch.equal(gradients[0], gradients[1])
    torch.testing.assert_close(gradients[0], gradients[2])


def test_a_copy_has_layers_of_its_own() -> None:
    layer = nn.Linear(2, 2)
    model = Holder(st.wrap(functools.partial(F.linear, weight=layer.weight), layer))
    twin = copy.deepcopy(model)
    x = torch.ones(2)
    before = twin(x)
    with torch.no_grad():
        layer.weight.zero_()
    assert torch.equal(twin(x), before)
    assert not model(x).any()


@pytest.mark.parametrize("operator", [lambda x: x.sign(), lambda x: x.tanh()])
def test_a_lambda_is_named_by_the_error(operator: Callable[..., Any]) -> None:
    for pair in ((operator, torch.tanh), (torch.sign, operator)):
        with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
            pickle.dumps(st.wrap(*pair))


def test_it_has_the_name_the_signature_and_the_binding_of_its_function() -> None:
    operator = st.wrap(above, likely)
    assert (operator.__name__, operator.__doc__) == ("above", "Whether it is above.")
    assert inspect.signature(operator) == inspect.signature(above)
    holder: Any = Holder(operator)
    assert Holder.method(torch.tensor([1.0])) == 1
    assert inspect.ismethod(holder.method)

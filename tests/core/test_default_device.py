"""Tensors on the CPU where torch makes new ones elsewhere, as `torch.set_default_device` has it.

"meta", where nothing can be read, stands in for every other device.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import straightthrough as st
from straightthrough.audit.compare.quadratic import quadratic

MODULES: dict[str, Callable[[], torch.nn.Module]] = {
    "codebook": lambda: st.nn.VectorQuantizer(4, 4),
    "observed": lambda: st.nn.Quantizer(st.grids.Int(8), st.scales.Observed()),
    "learned": lambda: st.nn.Quantizer(st.grids.Int(8), st.scales.Learned()),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_starts_from_data_where_it_lies(name: str) -> None:
    def trained() -> tuple[Tensor, list[Tensor]]:
        torch.manual_seed(0)
        with torch.device("cpu"):
            module = MODULES[name]()
        y = module(x)
        return (y if isinstance(y, Tensor) else y[0]), [*module.state_dict().values()]

    x = torch.randn(16, 4)
    value, state = trained()
    with torch.device("meta"):
        other, its_state = trained()
    torch.testing.assert_close((other, its_state), (value, state), rtol=0, atol=0)


def test_probabilities_are_checked_where_they_lie() -> None:
    probs, beyond = torch.tensor([0.0, 1.0]), torch.tensor([1.5])
    with torch.device("meta"):
        assert st.distributions.Bernoulli(probs=probs).rsample().tolist() == [0, 1]
        with pytest.raises(st.ArgumentError, match=r"got 1.5 at \(0,\)"):
            st.distributions.Bernoulli(probs=beyond, validate_args=True)


def test_a_number_that_moves_in_compiled_code() -> None:
    step = torch.compile(st.heaviside, backend="aot_eager", fullgraph=True)
    x = torch.tensor([0.5, 1.5, 2.5], requires_grad=True)
    with torch.device("meta"):
        values = [step(x, threshold).tolist() for threshold in (0.0, 1.0, 2.0)]
    assert values == [[1, 1, 1], [0, 1, 1], [0, 0, 1]]


def test_a_monitor_looks_at_the_same_elements() -> None:
    def seen() -> list[st.audit.Observation]:
        unit = st.nn.Sign()
        with st.audit.Monitor(unit, every=1, elements=400) as monitor:
            for sign in (1, -1):
                unit((sign * x).requires_grad_()).sum().backward()
                monitor.step()
        return monitor.observations

    x = torch.randn(20, 3001)
    with torch.device("meta"):
        found = seen()
    assert found == seen() != []


def test_estimators_are_compared_by_draws() -> None:
    logits = torch.zeros(30, 12)

    def loss(z: Tensor) -> Tensor:
        return z[..., 0].sum(-1) ** 2

    def rows() -> list[tuple[float, float]]:
        found = st.audit.compare(loss, logits, ["reinmax"], samples=256).rows
        return [(row.bias_squared, row.cosine) for row in found]

    expected = rows()
    with torch.device("meta"):
        assert rows() == expected


def test_the_quadratic_is_the_same_one() -> None:
    loss, logits = quadratic(3, 0)
    with torch.device("meta"):
        other, its_logits = quadratic(3, 0)
    assert torch.equal(its_logits, logits)
    assert torch.equal(other(torch.eye(3).double()), loss(torch.eye(3).double()))

"""Counts by the kernels for GPUs, by Triton's interpreter: one launch, whatever the strides."""

import pytest
import torch

from straightthrough.core.noise import Noise
from straightthrough.ops.counts import reference

pytestmark = pytest.mark.interpreter
NOISE = Noise(torch.tensor(7), 2**33 + 8)
DRAWS = {
    "poisson": (reference.poisson, (False, 2.0**20)),
    "binomial": (reference.binomial, (False, 300)),
    "geometric": (reference.geometric, (False, 2.0**20)),
    "negative_binomial": (
        reference.negative_binomial,
        (False, 0.3, reference.nearest(0.3), 1000.0),
    ),
}


@pytest.fixture(autouse=True)
def _inference():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("view", [lambda x: x.T, lambda x: x[:, 1::2], lambda x: x[:0]])
def test_draws_of_other_strides(name, view, launches):
    draw, arguments = DRAWS[name]
    x = view(3 * torch.randn(12, 11))
    given = draw(x, *arguments, NOISE)
    assert launches == [f"{name}_kernel"] * (x.numel() > 0)
    assert given.is_contiguous()
    wanted = draw.__wrapped__(x, *arguments, NOISE)  # NaN where a mean is above the largest
    assert torch.equal(given.nan_to_num(-1), wanted.nan_to_num(-1))


def test_a_size_may_be_a_tensor():
    x = torch.linspace(-3, 3, 40)
    numbers = 0.3, reference.nearest(0.3), 1000.0
    wanted = reference.negative_binomial(x, False, *numbers, NOISE)
    tensors = (torch.tensor(number, dtype=torch.float64) for number in numbers)
    operator = torch.ops.straightthrough.negative_binomial.numbers
    assert torch.equal(operator(x, False, *tensors, NOISE.seed, NOISE.offset), wanted)


def test_gradients_are_one_launch(launches):
    x, grad = torch.linspace(-2, 2, 30).reshape(5, 6).T, torch.ones(6, 5)
    count = torch.arange(30.0).reshape(6, 5) % 5
    parameter = (2.5, False, False, 3)
    given = reference.fini(x, count, grad, *parameter)
    assert launches == ["fini_kernel"]
    torch.testing.assert_close(given, reference.fini.__wrapped__(x, count, grad, *parameter))


def test_what_is_no_argument_is_refused():
    x = torch.zeros(3)
    operators = torch.ops.straightthrough
    for call, said in (
        (lambda: operators.binomial(x, False, 0, NOISE.seed, 0), "trials"),
        (lambda: operators.poisson(x.long(), False, 9.0, NOISE.seed, 0), "x must be"),
        (lambda: operators.fini(x, x, x, 2.5, False, False, 4), "order"),
        (lambda: operators.fini(x, x[:2], x, 2.5, False, False, 2), "count"),
    ):
        with pytest.raises(RuntimeError, match=said):
            call()

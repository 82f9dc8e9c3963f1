"""What a loss may be: in which mode it is called, and that each outcome has its own."""

import pytest
import torch

import straightthrough as st
from straightthrough.audit import compare, exact_gradient


@pytest.mark.parametrize("arguments", [{}, {"k": 2}, {"limit": 1}])
def test_inference_mode_changes_nothing(arguments):
    rules = ["simple"] if "k" in arguments else ["reinmax"]

    def numbers():
        (row,) = compare(lambda z: z.square() @ cost, logits, rules, **arguments).rows
        return row.bias_squared, row.variance

    cost, logits = torch.tensor([1.0, 2.0, 4.0]), torch.zeros(3)
    expected = numbers()
    with torch.inference_mode():
        logits = torch.zeros(3)
        assert numbers() == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_what_batches_of_another_size_round_otherwise_is_no_mistake(dtype):
    torch.manual_seed(0)
    weight = torch.randn(60, 300, dtype=dtype)

    def loss(z):
        return (z.flatten(1) @ weight).square().mean(-1) + 1000

    exact_gradient(lambda z: loss(z.repeat(1, 10, 1)), torch.zeros(2, 3, dtype=dtype))


def dropout(z):
    return z * (torch.rand(z.shape, generator=torch.Generator().manual_seed(len(z))) < 0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: exact_gradient(lambda z: (z - z.mean(0)).square().sum(-1), torch.zeros(3)),
            r"that outcome alone; .* is 0.6667 in a batch of 3 and 0 in one of its own",
        ),
        (
            lambda: compare(lambda z: dropout(z).mean((-2, -1)), torch.zeros(4, 3), ["reinmax"]),
            "draw no noise",
        ),
        (
            lambda: compare(lambda z: z.std(0).sum() + z[:, 0], torch.zeros(3), ["simple"], k=2),
            "mix no outcomes",
        ),
    ],
)
def test_a_loss_that_is_not_of_the_outcome_alone_is_refused(call, message):
    with pytest.raises(st.ArgumentError, match=message):
        call()

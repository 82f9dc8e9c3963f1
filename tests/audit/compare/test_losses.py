"""What a loss may be: in which mode it is called, and that each outcome has its own."""

import pytest
import torch

import straightthrough as st
from straightthrough.audit import compare, disarm, exact_gradient, reinforce


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


def mixing(z):
    return (z - z.mean(0)).flatten(1).square().sum(-1)


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
        (
            lambda: compare(mixing, torch.zeros(12, 4), ["reinmax"]),
            r"in a batch of 1024 and .* in one of its own",
        ),
        (lambda: reinforce(mixing, torch.zeros(2, 4)), "mix no outcomes"),
        (lambda: disarm(mixing, torch.zeros(8)), "mix no outcomes"),
    ],
)
def test_a_loss_that_is_not_of_the_outcome_alone_is_refused(call, message):
    with pytest.raises(st.ArgumentError, match=message):
        call()


@pytest.mark.parametrize("estimate", [reinforce, disarm])
def test_noise_in_a_loss_leaves_what_is_drawn_without_bias(estimate):
    torch.manual_seed(0)
    cost, logits = torch.arange(6.0), torch.zeros(6)
    found = estimate(lambda z: torch.dropout(z * cost, 0.5, True).sum(-1), logits, samples=20_000)
    expected = cost / 4 if estimate is disarm else exact_gradient(lambda z: z @ cost, logits)
    assert ((found.gradient - expected).abs() <= 5 * found.standard_error + 1e-6).all()


@pytest.mark.parametrize(
    "gradient",
    [
        exact_gradient,
        lambda loss, x: exact_gradient(loss, x, k=2),
        lambda loss, x: reinforce(loss, x, seed=1).gradient,
        lambda loss, x: disarm(loss, x, seed=1).gradient,
        lambda loss, x: compare(loss, x, ["reinmax"]).rows[0].variance,
        lambda loss, x: compare(loss, x, ["reinmax"], limit=1).rows[0].variance,
    ],
)
def test_a_loss_may_write_into_the_outcomes(gradient):
    cost, logits = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.0, 1.0, -1.0])
    expected = gradient(lambda z: (2 * z) @ cost, logits)
    torch.testing.assert_close(gradient(lambda z: z.mul_(2) @ cost, logits), expected)


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_a_loss_may_be_true_or_false(noise):
    def loss(z):
        return torch.rand(len(z), dtype=torch.float64) < z[:, 0] * (1 - noise)

    torch.manual_seed(0)
    found = reinforce(loss, torch.zeros(3, dtype=torch.float64), samples=20_000)
    expected = exact_gradient(lambda z: z[:, 0] * (1 - noise), torch.zeros(3, dtype=torch.float64))
    assert ((found.gradient - expected).abs() < 5 * found.standard_error).all()

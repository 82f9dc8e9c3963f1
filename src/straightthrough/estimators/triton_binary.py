"""Binary gradients given the outcome, for its logit: the GPU kernels beside cpu_binary.cpp."""

import torch
import triton
import triton.language as tl

from ..core.gpu import implement
from ..core.native import elements, philox, stored
from ..core.native.arguments import (
    check_alike,
    check_bits,
    check_floating,
    check_noise,
    check_samples,
)
from ..core.native.elementary import exp, sigmoid
from ..core.native.elements import in_order, launch
from ..core.native.stored import number

# ---- in kernels ----


@triton.jit
def straight_through_kernel(
    x, bits, grad, to, tau, count, PACKED: tl.constexpr, SIZE: tl.constexpr
):
    """`g s (1 - s) / tau`, s the sigmoid of `x / tau`."""
    at, inside = elements.tile(count, SIZE)
    v, g = stored.load(x, at, inside, 0.0), stored.load(grad, at, inside, 0.0)
    inverse = 1 / stored.read(tau, x)
    _, slope = sigmoid(v * inverse)
    stored.store_gradient(to, at, g * (slope * inverse), inside)


@triton.jit
def reinmax_kernel(
    x, bits, grad, to, tau, count,
    CLOSED: tl.constexpr, PACKED: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """`g (1 - p) / 2` or `g p / 2` where tau is 1, else with the slope at tau less that at 1."""
    at, inside = elements.tile(count, SIZE)
    v, g = stored.load(x, at, inside, 0.0), stored.load(grad, at, inside, 0.0)
    outcome = elements.truths(bits, at, inside, count, PACKED, SIZE)
    z = v * (1 / stored.read(tau, x))
    other, slope = sigmoid(tl.where(outcome, -z, z))
    if not CLOSED:
        _, at_1 = sigmoid(v)
        other += slope - at_1
    stored.store_gradient(to, at, g * (0.5 * other), inside)


@triton.jit(do_not_specialize=["offset"])
def gumbel_kernel(
    x, bits, grad, to, tau, samples, seed, offset: tl.int64, count,
    PACKED: tl.constexpr, ALIGNED: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """`g` times the mean of `s (1 - s) / tau`, s that of x with noise given the outcome."""
    at, inside = elements.tile(count, SIZE)
    v, g = stored.load(x, at, inside, 0.0), stored.load(grad, at, inside, 0.0)
    double: tl.constexpr = v.dtype == tl.float64
    outcome = elements.truths(bits, at, inside, count, PACKED, SIZE)
    toward = tl.where(outcome, v, -v)
    inverse = 1 / stored.read(tau, x)
    # |logit + noise| is log((1 + e^toward (1 - u)) / u).
    e = exp(-tl.abs(toward))
    total = tl.zeros_like(v)
    for sample in range(samples):
        u = elements.uniforms(seed, offset, philox.conditional(sample), double, ALIGNED, SIZE)
        share = tl.where(toward > 0, e + (1 - u), 1 + e * (1 - u))
        distance = tl.where(toward < 0, 0.0, toward) + tl.log(share / u)
        _, slope = sigmoid(distance * inverse)
        total += slope
    stored.store_gradient(to, at, g * (total * (inverse / samples)), inside)


# ---- operators ----


def binary_straight_through(x, outcome, grad, tau):
    """The gradient to the logit."""
    return pulled(straight_through_kernel, x, outcome, grad, tau)


def binary_reinmax(x, outcome, grad, tau):
    """The gradient to the logit."""
    closed = not isinstance(tau, torch.Tensor) and tau == 1
    return pulled(reinmax_kernel, x, outcome, grad, tau, CLOSED=closed)


def binary_gumbel_st(x, outcome, grad, tau, samples, seed, offset):
    """The gradient to the logit."""
    check_samples(samples)
    check_noise(seed, offset, x)
    given = samples, seed, offset
    return pulled(gumbel_kernel, x, outcome, grad, tau, *given, ALIGNED=offset % 8 == 0)


def pulled(kernel, x, outcome, grad, tau, *rest, **compiled_for):
    """The gradient to the logit by a kernel."""
    check_floating("x", x)
    check_alike("grad", grad, x)
    check_bits("outcome", outcome, x, 1)
    x, to = in_order(x)
    given = x, outcome.contiguous(), grad.contiguous(), to, number(tau, x)
    packed = outcome.dtype == torch.uint8
    launch(kernel, x, *given, *rest, PACKED=packed, **compiled_for)
    return to


implement(binary_straight_through, binary_reinmax, binary_gumbel_st)

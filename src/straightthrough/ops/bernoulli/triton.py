"""Binary draws and concrete gates: the GPU kernels of reference.py, same names, same order."""

import triton
import triton.language as tl

from ...core.gpu import implement
from ...core.native import elements, philox, stored
from ...core.native.arguments import check_alike, check_floating, check_noise
from ...core.native.elementary import at_most, bounded, exp, sigmoid
from ...core.native.elements import empty_bits, in_order, launch
from ...core.native.stored import number

# ---- in kernels ----


@triton.jit
def outcome(v, u, OF_PROBS: tl.constexpr):
    """Whether u < p, and that as a number: NaN where p is no probability."""
    if OF_PROBS:
        drawn, sound = u < v, (v >= 0) & (v <= 1)
    else:
        drawn, sound = u + u * exp(-v) < 1, v == v
    return drawn, tl.where(sound, drawn.to(v.dtype), float("nan"))


@triton.jit
def noisy(v, u, OF_PROBS: tl.constexpr):
    """The logit plus logistic noise, by one logarithm."""
    return tl.log(v * (1 - u) / ((1 - v) * u)) if OF_PROBS else v + tl.log((1 - u) / u)


@triton.jit(do_not_specialize=["offset"])
def draw_kernel(
    x, y, bits, seed, offset: tl.int64, count,
    OF_PROBS: tl.constexpr, ALIGNED: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """`1[u < p]` and its bits; where there are no `bits`, the former alone."""
    at, inside = elements.tile(count, SIZE)
    v = stored.load(x, at, inside, 0.0)
    u = elements.uniforms(seed, offset, philox.DRAW, v.dtype == tl.float64, ALIGNED, SIZE)
    drawn, value = outcome(v, u, OF_PROBS)
    stored.store(y, at, value, inside)
    if bits is not None:
        elements.store_bits(bits, drawn & inside, count, SIZE)


@triton.jit(do_not_specialize=["offset"])
def gate_kernel(
    x, y, tau, gamma, zeta, seed, offset: tl.int64, count,
    OF_PROBS: tl.constexpr, ALIGNED: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """`clamp(s (zeta - gamma) + gamma, 0, 1)`."""
    at, inside = elements.tile(count, SIZE)
    v = stored.load(x, at, inside, 0.5)
    u = elements.uniforms(seed, offset, philox.DRAW, v.dtype == tl.float64, ALIGNED, SIZE)
    low, high = stored.read(gamma, x), stored.read(zeta, x)
    s, _ = sigmoid(noisy(v, u, OF_PROBS) * (1 / stored.read(tau, x)))
    gate = s * (high - low) + low
    stored.store(y, at, tl.where(gate < 0, 0.0, tl.where(gate > 1, 1.0, gate)), inside)


@triton.jit(do_not_specialize=["offset"])
def gate_backward_kernel(
    x, grad, to, tau, gamma, zeta, seed, offset: tl.int64, count,
    OF_PROBS: tl.constexpr, ALIGNED: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """`g` times the derivative of the gate, which is 0 outside the clamp."""
    at, inside = elements.tile(count, SIZE)
    v, g = stored.load(x, at, inside, 0.5), stored.load(grad, at, inside, 0.0)
    u = elements.uniforms(seed, offset, philox.DRAW, v.dtype == tl.float64, ALIGNED, SIZE)
    low, high = stored.read(gamma, x), stored.read(zeta, x)
    inverse_tau = 1 / stored.read(tau, x)
    s, slope = sigmoid(noisy(v, u, OF_PROBS) * inverse_tau)
    gate = s * (high - low) + low
    slope = slope * ((high - low) * inverse_tau)
    if OF_PROBS:
        double: tl.constexpr = v.dtype == tl.float64
        tiny: tl.constexpr = 2.0**-1022 if double else 2.0**-126
        largest: tl.constexpr = 1.7976931348623157e308 if double else 3.4028234663852886e38
        slope = at_most(largest, slope * (1 / tl.maximum(v * (1 - v), tiny)))
    value = g * tl.where((gate < 0) | (gate > 1), 0.0, slope)
    if OF_PROBS:
        value = bounded(value, g)
    stored.store_gradient(to, at, value, inside)


# ---- operators ----


def binary_draw(x, of_probs, seed, offset):
    """Draw 0 or 1 an element, and return the bits too."""
    bits = empty_bits(x)
    return drawn(x, of_probs, seed, offset, bits), bits


def concrete(x, tau, gamma, zeta, hard, of_probs, seed, offset):
    """The gate, or whether it is open."""
    if hard:
        return drawn(x, of_probs, seed, offset, None)
    check_floating("x", x)
    check_noise(seed, offset, x)
    x, y = in_order(x)
    gate = [number(each, x) for each in (tau, gamma, zeta)]
    launch(gate_kernel, x, x, y, *gate, seed, offset, **compiled_for(of_probs, offset))
    return y


def concrete_backward(x, grad, tau, gamma, zeta, hard, of_probs, seed, offset):
    """The gradient to `x`."""
    check_floating("x", x)
    check_alike("grad", grad, x)
    check_noise(seed, offset, x)
    x, to = in_order(x)
    gate = [number(each, x) for each in (tau, gamma, zeta)]
    given = x, grad.contiguous(), to, *gate, seed, offset
    launch(gate_backward_kernel, x, *given, **compiled_for(of_probs, offset))
    return to


def drawn(x, of_probs, seed, offset, bits):
    """0 or 1 an element; the bits go to `bits`."""
    check_floating("x", x)
    check_noise(seed, offset, x)
    x, y = in_order(x)
    launch(draw_kernel, x, x, y, bits, seed, offset, **compiled_for(of_probs, offset))
    return y


def compiled_for(of_probs, offset):
    """What the kernels are compiled for, beside the size of a tile."""
    return {"OF_PROBS": of_probs, "ALIGNED": offset % 8 == 0}


implement(binary_draw, concrete, concrete_backward)

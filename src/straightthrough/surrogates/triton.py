"""Derivatives of pointwise rules: the GPU kernels of what is `fused`, and those of window.py."""

import math

import torch
import triton
import triton.language as tl

from ..core.gpu import implement
from ..core.native import elements, stored
from ..core.native.arguments import check_alike, check_bits, check_floating
from ..core.native.elementary import exp
from ..core.native.elements import bytes_of_bits, empty_bits, in_order, launch
from ..core.native.stored import number

PI = tl.constexpr(math.pi)
ROOT_PI = tl.constexpr(math.sqrt(math.pi))
ROOT_2_PI = tl.constexpr(math.sqrt(2 * math.pi))

# ---- formulas of x and up to three numbers ----


@triton.jit
def positive(x):
    """What of x is positive; NaN stays."""
    return tl.where(x < 0, 0.0, x)


@triton.jit
def falling(z):
    """`1 / (1 + |z|)^2`."""
    rise = 1 / (1 + tl.abs(z))
    return rise * rise


@triton.jit
def tanh(x, slope, b, c):
    """That of `Tanh`."""
    e = exp(-2 * slope * tl.abs(x))
    return 4 * slope * e / ((1 + e) * (1 + e))


@triton.jit
def sigmoid(x, slope, b, c):
    """That of `Sigmoid`."""
    e = exp(-slope * tl.abs(x))
    return slope * e / ((1 + e) * (1 + e))


@triton.jit
def atan(x, alpha, b, c):
    """That of `Atan`."""
    z = PI / 2 * alpha * x
    return alpha / 2 / (1 + z * z)


@triton.jit
def erf(x, alpha, b, c):
    """That of `Erf`."""
    z = alpha * x
    return alpha / ROOT_PI * exp(-z * z)


@triton.jit
def fast_sigmoid(x, slope, b, c):
    """That of `FastSigmoid`."""
    return falling(slope * x)


@triton.jit
def super_spike(x, alpha, b, c):
    """That of `SuperSpike`."""
    return alpha * falling(x)


@triton.jit
def soft_sign(x, alpha, b, c):
    """That of `SoftSign`."""
    return alpha / 2 * falling(alpha * x)


@triton.jit
def triangle(x, alpha, b, c):
    """That of `Triangle`."""
    return positive(alpha - alpha * alpha * tl.abs(x))


@triton.jit
def exponential(x, alpha, b, c):
    """That of `Exponential`."""
    return alpha / 2 * exp(-alpha * tl.abs(x))


@triton.jit
def density(x, mean, deviation):
    """The density of a normal law."""
    z = (x - mean) / deviation
    return exp(-0.5 * z * z) / (deviation * ROOT_2_PI)


@triton.jit
def multi_gaussian(x, gamma, sigma, height):
    """That of `MultiGaussian`."""
    bumps = density(x, sigma, 6 * sigma) + density(x, -sigma, 6 * sigma)
    return gamma * (1 + height) * density(x, 0.0, sigma) - gamma * height * bumps


@triton.jit
def approx_sign(x, a, b, c):
    """That of `ApproxSign`."""
    return positive(2 - 2 * tl.abs(x))


@triton.jit
def swish_sign(x, beta, b, c):
    """That of `SwishSign`."""
    z = tl.abs(beta * x)
    z = tl.where(z > 1e4, 1e4, z)  # keeps NaN
    e = exp(-z)
    return beta * (2 - z * ((1 - e) / (1 + e))) * (2 * e / ((1 + e) * (1 + e)))


@triton.jit
def error_decay(x, t, b, c):
    """That of `ErrorDecay`."""
    e = exp(-2 * t * tl.abs(x))
    return 4 * tl.maximum(t, 1.0) * e / ((1 + e) * (1 + e))


# ---- kernels ----


@triton.jit
def derivative_kernel(x, grad, to, a, b, c, count, FORMULA: tl.constexpr, SIZE: tl.constexpr):
    """The gradient times a formula of x."""
    at, inside = elements.tile(count, SIZE)
    v, g = stored.load(x, at, inside, 0.0), stored.load(grad, at, inside, 0.0)
    slope = FORMULA(v, stored.read(a, x), stored.read(b, x), stored.read(c, x))
    stored.store_gradient(to, at, g * slope, inside)


@triton.jit
def within(v, centre, bound, CLOSED: tl.constexpr):
    """Whether v is in the window."""
    distance = tl.abs(v - centre)
    return distance <= bound if CLOSED else distance < bound


@triton.jit
def store_window(bits, v, inside, centre, bound, count, CLOSED: tl.constexpr, SIZE: tl.constexpr):
    """Store the bits of a window, and behind them those of NaN."""
    elements.store_bits(bits, within(v, centre, bound, CLOSED) & inside, count, SIZE)
    elements.store_bits(bits + (count + 7) // 8, (v != v) & inside, count, SIZE)


@triton.jit
def window_kernel(x, bits, centre, bound, count, CLOSED: tl.constexpr, SIZE: tl.constexpr):
    """The bits of a window, then those of NaN."""
    at, inside = elements.tile(count, SIZE)
    v, centre, bound = (
        stored.load(x, at, inside, 0.0),
        stored.read(centre, x),
        stored.read(bound, x),
    )
    store_window(bits, v, inside, centre, bound, count, CLOSED, SIZE)


@triton.jit
def window_gradient_kernel(
    grad, bits, to, inner, outer, count, PLANES: tl.constexpr, SIZE: tl.constexpr
):
    """The gradient times one number where the bit is set, and another one elsewhere."""
    at, inside = elements.tile(count, SIZE)
    g = stored.load(grad, at, inside, 0.0)
    truth = elements.truths(bits, at, inside, count, PLANES > 0, SIZE)
    value = g * tl.where(truth, stored.read(inner, grad), stored.read(outer, grad))
    if PLANES == 2:
        none = elements.load_bits(bits + (count + 7) // 8, count, SIZE)
        value = tl.where(none, float("nan"), value)
    stored.store_gradient(to, at, value, inside)


# ---- operators ----


def by(formula, name):
    """The operator `name` of a formula and its numbers."""

    def vjp(x, grad, *numbers):
        check_floating("x", x)
        check_alike("grad", grad, x)
        x, to = in_order(x)
        a, b, c = (*(number(each, x) for each in numbers), 0.0, 0.0, 0.0)[:3]
        launch(derivative_kernel, x, x, grad.contiguous(), to, a, b, c, FORMULA=formula)
        return to

    vjp.__name__ = name
    return vjp


Tanh, Sigmoid, Atan, Erf = (
    by(tanh, "Tanh"),
    by(sigmoid, "Sigmoid"),
    by(atan, "Atan"),
    by(erf, "Erf"),
)
FastSigmoid, SuperSpike = by(fast_sigmoid, "FastSigmoid"), by(super_spike, "SuperSpike")
SoftSign, Triangle = by(soft_sign, "SoftSign"), by(triangle, "Triangle")
Exponential, MultiGaussian = by(exponential, "Exponential"), by(multi_gaussian, "MultiGaussian")
ApproxSign, SwishSign = by(approx_sign, "ApproxSign"), by(swish_sign, "SwishSign")
ErrorDecay = by(error_decay, "ErrorDecay")


def window_bits(x, centre, bound, includes_bound, fixed):
    """The bits of a window, then those of NaN, whether there is one or not."""
    check_floating("x", x)
    x, bits = x.contiguous(), empty_bits(x, 2)
    launch(window_kernel, x, x, bits, *ends(x, centre, bound), CLOSED=includes_bound)
    return seen(bits, x, fixed)


def window_gradient(grad, bits, inner, outer):
    """The gradient by the bits of a window."""
    check_floating("grad", grad)
    size = bytes_of_bits(grad)
    planes = 2 if bits.dtype == torch.uint8 and bits.numel() == 2 * size else 1
    check_bits("bits", bits, grad, planes)
    grad, to = in_order(grad)
    planes = 0 if bits.dtype == torch.bool else planes
    given = grad, bits.contiguous(), to, number(inner, grad), number(outer, grad)
    launch(window_gradient_kernel, grad, *given, PLANES=planes)
    return to


def ends(x, centre, bound):
    """The numbers of a window as kernels take them."""
    return number(centre, x), number(bound, x)


def seen(bits, x, fixed):
    """The bits without those of NaN where, by Triton's interpreter on the CPU, there are none."""
    return bits[: bytes_of_bits(x)] if x.is_cpu and not fixed and not x.isnan().any() else bits


implement(
    Tanh, Sigmoid, Atan, Erf, FastSigmoid, SuperSpike, SoftSign, Triangle, Exponential,
    MultiGaussian, ApproxSign, SwishSign, ErrorDecay, window_bits, window_gradient,
)  # fmt: skip

"""Operators and rules that are each broken in one way, for tests/testing/test_guards.py."""

from dataclasses import dataclass
from typing import ClassVar

import torch

import straightthrough as st
from straightthrough.core.noise import Seed
from straightthrough.core.rules import Derivative
from straightthrough.surrogates import Clipped, Sigmoid, Tanh

# Broken in the value.


def float_in_forward(x, *, surrogate=Clipped()):
    return st.sign(x.float(), surrogate=surrogate)


def hard_minus_soft_plus_soft(x, *, surrogate=Tanh()):
    # With a soft value between -1 and 1 of the same sign it would be right.
    return x + (torch.where(x >= 0, 1.0, -1.0).to(x.dtype) - x).detach()


def ties_to_the_last(logits, *, tau=1.0, dim=-1, mask=None):
    flipped = None if mask is None else mask.flip(dim)
    return st.argmax(logits.flip(dim), tau=tau, dim=dim, mask=flipped).flip(dim)


def single_gumbel(logits, *, estimator="reinmax", generator=None, seed=None):
    odds = logits.double().exp()
    return st.bernoulli(probs=(1 - torch.exp(-odds)).to(logits.dtype), seed=seed)


def count_above_the_hard_one(rate=None, *, log_rate=None, estimator="fini", seed=None):
    return st.poisson(rate, log_rate=log_rate, estimator=estimator, seed=seed) + 0.5


def counts_backwards(logits, *, estimator="mve_integer", generator=None, seed=None):
    return logits.shape[-1] - 1 - st.categorical_integer(logits, estimator, seed=seed)


def rows_rounded(logits, table, estimator="reinmax", *, dim=-1, mask=None, seed=None):
    return st.categorical_lookup(logits, (4 * table).round() / 4, estimator, seed=seed)


def contiguous_assumed(x, *, surrogate=Clipped()):
    return st.sign(x.as_strided(x.shape, torch.empty(x.shape).stride()), surrogate=surrogate)


def size_one_lost(x, *, surrogate=Clipped()):
    return st.sign(x.squeeze(), surrogate=surrogate)


def soft_in_forward(x, *, surrogate=Tanh()):
    return st.straight_through(st.sign(x.detach()), surrogate.primitive(x))


def soft_beside_the_hard(x, *, surrogate=Clipped()):
    if x.requires_grad:
        torch.tanh(x)
    return st.sign(x, surrogate=surrogate)


def graph_where_none_is_due(x, *, surrogate=Clipped()):
    with torch.enable_grad():
        return st.sign(x, surrogate=surrogate)


def product_under_autocast(x, *, surrogate=Clipped()):
    return st.sign(x.unsqueeze(-1) @ torch.ones(1, 1, dtype=x.dtype), surrogate=surrogate)[..., 0]


# Broken in the gradient.


def doubled_gradient(x, *, surrogate=Clipped()):
    return st.straight_through(st.sign(x.detach()), 2 * st.sign(x, surrogate=surrogate))


def table_learns_twice(logits, table, estimator="reinmax", *, dim=-1, mask=None, seed=None):
    return st.categorical_lookup(logits, 2 * table - table.detach(), estimator, seed=seed)


class WritesIntoGrad(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y):
        return y.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad.mul_(2)


def backward_writes(x, *, surrogate=Clipped()):
    return WritesIntoGrad.apply(st.sign(x, surrogate=surrogate))


class Forgetful(torch.autograd.Function):
    """Frees what it needs at the first backward, as a buffer that is reused would be."""

    @staticmethod
    def forward(ctx, y):
        ctx.scale = 1.0
        return y.clone()

    @staticmethod
    def backward(ctx, grad):
        scale, ctx.scale = ctx.scale, 0.0
        return grad * scale


def second_backward_is_empty(x, *, surrogate=Clipped()):
    return Forgetful.apply(st.sign(x, surrogate=surrogate))


@dataclass(frozen=True)
class OnceDifferentiable(Tanh):
    def derivative(self, x):
        return super().derivative(x.detach())


@dataclass(frozen=True)
class TwiceTooSteep(Sigmoid):
    """The mistake of one well-known library: a factor that another of its copies lacks."""

    def derivative(self, x):
        return 2 * super().derivative(x)


@dataclass(frozen=True)
class ByNeighbours(Tanh):
    """A derivative that is none of a function of one number."""

    def derivative(self, x):
        return x.softmax(-1)


@dataclass(frozen=True)
class NaiveSigmoid(Derivative):
    """The slope of a sigmoid as it stands in books: inf / inf where x is large and negative."""

    def derivative(self, x):
        return torch.exp(-x) / (1 + torch.exp(-x)).square()


@dataclass(frozen=True)
class NarrowVjp(Sigmoid):
    """A rule that computes in the dtype it is given."""

    def backward(self, x, grad):
        return grad * self.derivative(x)


def slope_held(x, *, surrogate=Tanh()):
    return st.straight_through(st.sign(x.detach()), x * surrogate.derivative(x).detach())


class WrongTangent(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(y):
        return y.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, grad):
        return grad

    @staticmethod
    def jvp(ctx, tangent):
        return -tangent


def wrong_tangent(x, *, surrogate=Clipped()):
    return WrongTangent.apply(st.sign(x, surrogate=surrogate))


# Broken in what is kept, or under a transform.


def saves_a_copy_more(x, *, surrogate=Clipped()):
    return st.sign(x, surrogate=surrogate) * torch.ones_like(x)


class FirstExampleOnly(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return torch.where(x >= 0, 1.0, -1.0)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, grad):
        return grad

    @staticmethod
    def vmap(info, in_dims, x):
        first = FirstExampleOnly.apply(x.movedim(in_dims[0], 0)[0])
        return first.expand(info.batch_size, *first.shape), 0


def vmap_of_the_first(x, *, surrogate=Clipped()):
    return FirstExampleOnly.apply(x)


@dataclass(frozen=True)
class Stateful(Tanh):
    """A rule that grows with every call, so that a loop is not one call."""

    calls: ClassVar[list[float]] = [0.0]

    def derivative(self, x):
        self.calls[0] += 1.0
        return self.calls[0] * super().derivative(x)


COMPILATIONS = [0.0]


def compiles_again(x, *, surrogate=Clipped()):
    COMPILATIONS[0] += 1.0
    return st.sign(x, surrogate=surrogate) + 0.0 * COMPILATIONS[0]


def written_behind_torch(x, *, surrogate=Clipped()):
    y = x * 1.0
    y.detach().numpy()[...] = x.detach().sign().numpy()
    return y


# Broken in the noise.


def draw(logits, estimator, dim, mask, generator, seed):
    return st.categorical(logits, estimator, dim=dim, mask=mask, generator=generator, seed=seed)


def seed_ignored(logits, estimator="reinmax", *, dim=-1, mask=None, generator=None, seed=None):
    return draw(logits, estimator, dim, mask, generator, None)


def offset_ignored(logits, estimator="reinmax", *, dim=-1, mask=None, generator=None, seed=None):
    value = seed.value if isinstance(seed, Seed) else seed
    return draw(logits, estimator, dim, mask, generator, value)


def one_seed_for_all(logits, estimator="reinmax", *, dim=-1, mask=None, generator=None, seed=None):
    return draw(logits, estimator, dim, mask, None, 0 if seed is None else seed)


# Broken in its contract.


def no_check_of_the_input(x, *, surrogate=Clipped()):
    return torch.where(torch.as_tensor(x) >= 0, 1.0, -1.0)


def no_check_of_the_table(logits, table, estimator="reinmax", *, dim=-1, mask=None, seed=None):
    return st.categorical_lookup(logits, torch.as_tensor(table).float(), estimator, seed=seed)


def no_check_of_the_row(logits, *, tau=1.0, dim=-1, mask=None):
    return torch.nn.functional.one_hot(logits.argmax(dim), logits.shape[dim]).movedim(-1, dim)


def nan_hidden(logits, *, tau=1.0, dim=-1, mask=None):
    return st.argmax(logits.nan_to_num(), tau=tau, dim=dim, mask=mask)


def mask_ignored(logits, *, tau=1.0, dim=-1, mask=None):
    return st.argmax(logits, tau=tau, dim=dim)


def dim_ignored(logits, *, tau=1.0, dim=-1, mask=None):
    return st.argmax(logits, tau=tau, mask=mask)


class Loose(Derivative):
    """A rule that is not a dataclass: no equality, no repr, and it can change."""

    def __init__(self, width=1.0):
        self.width = width

    def derivative(self, x):
        return (x.abs() <= self.width).to(x.dtype)

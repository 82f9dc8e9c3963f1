"""Rules of a pair: by hand, against autograd of what they stand for, and at the edges."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import straightthrough as st
from straightthrough import testing
from straightthrough.core.errors import FLOATING
from straightthrough.core.registry import shorthands
from straightthrough.estimators import Both, DiVeQ, PairEstimator, PairSTE, Rotation

RULES = [PairSTE(), Both(), Rotation(), DiVeQ()]


def float64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# z, q, gradient, and what comes to z and to q.
BY_HAND = [
    (PairSTE(), (1, 2), (3, 4), (5, 6), (5, 6), (0, 0)),
    (Both(), (1, 2), (3, 4), (5, 6), (5, 6), (5, 6)),
    # R turns (1, 0) into (0, 1), a quarter turn, and s = 2: back from (3, 4) to 2 (4, -3).
    (Rotation(), (1, 0), (0, 2), (3, 4), (8, -6), (0, 0)),
    # A z of 5, a q of 1 in its direction: R = I, s = 1 / 5.
    (Rotation(), (3, 4), (0.6, 0.8), (10, 5), (2, 1), (0, 0)),
    (Rotation(max_scale=0.1), (3, 4), (0.6, 0.8), (10, 5), (1, 0.5), (0, 0)),
    # h = (1, 0): the first entry moves the codeword, the second z.
    (DiVeQ(), (1, 2), (4, 2), (5, 7), (0, 7), (5, 0)),
    # h = (3, 4) / 5, <h, g> = 5: h <h, g> = (3, 4).
    (DiVeQ(), (0, 0), (3, 4), (3, 4), (0, 0), (3, 4)),
    # Where a rule is not given the gradient passes as it is.
    (Rotation(), (0, 0), (3, 4), (5, 6), (5, 6), (0, 0)),
    (Rotation(), (3, 4), (0, 0), (5, 6), (5, 6), (0, 0)),
    (Rotation(), (3, 4), (3, 4), (5, 6), (5, 6), (0, 0)),
    # Opposite: I - 2 u u^T reflects along u = (1, 0), s = 2.
    (Rotation(), (1, 0), (-2, 0), (5, 6), (-10, 12), (0, 0)),
    (DiVeQ(), (3, 4), (3, 4), (5, 6), (5, 6), (0, 0)),
    (Rotation(), (math.nan, 1), (3, 4), (5, 6), (5, 6), (0, 0)),
    (DiVeQ(), (3, 4), (math.inf, 4), (5, 6), (5, 6), (0, 0)),
]


@pytest.mark.parametrize(("rule", "z", "q", "grad", "to_z", "to_q"), BY_HAND, ids=str)
def test_gradients_by_hand(rule, z, q, grad, to_z, to_q):
    got = rule.vjp(float64(*z), float64(*q), float64(*grad))
    torch.testing.assert_close(got, (float64(*to_z), float64(*to_q)), rtol=1e-12, atol=1e-12)


def test_rotation_is_the_gradient_of_the_map_that_it_stands_for():
    """s and R out of R by the two vectors' plane and angle."""
    z, q, grad = (torch.randn(100, 7, dtype=torch.float64) for _ in range(3))
    got, none = Rotation().vjp(z, q, grad)
    for one, other, pulled, to_z in zip(z, q, grad, got, strict=True):
        u, v = one / one.norm(), other / other.norm()
        across = v - (u @ v) * u
        basis = torch.stack([u, across / across.norm()], 1)
        cos, sin = u @ v, across.norm()
        plane = torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)
        turn = torch.eye(7, dtype=torch.float64) + basis @ (plane - torch.eye(2)) @ basis.T
        jacobian = other.norm() / one.norm() * turn
        torch.testing.assert_close(jacobian @ one, other)
        torch.testing.assert_close(to_z, jacobian.T @ pulled)
    assert not none.any()


def test_diveq_is_autograd_of_the_distance_along_a_held_direction():
    z, q, grad = (torch.randn(100, 7, dtype=torch.float64, requires_grad=True) for _ in range(3))
    direction = ((q - z) / (q - z).norm(dim=-1, keepdim=True)).detach()
    y = z + (q - z).norm(dim=-1, keepdim=True) * direction
    due = torch.autograd.grad(y, (z, q), grad.detach())
    torch.testing.assert_close(DiVeQ().vjp(z.detach(), q.detach(), grad.detach()), due)


@pytest.mark.parametrize("dtype", FLOATING)
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_no_gradient_is_nan_where_z_and_q_are_finite(rule, dtype):
    limits = torch.finfo(dtype)
    values = torch.tensor([0.0, limits.tiny, 1.0, -1.0, 1e-4, limits.max, -limits.max], dtype=dtype)
    z = torch.cartesian_prod(values, values)
    pairs = torch.cartesian_prod(torch.arange(len(z)), torch.arange(len(z)))
    z, q = z[pairs[:, 0]], z[pairs[:, 1]]
    for gradient in rule.vjp(z, q, torch.ones_like(z)):
        assert gradient.isfinite().all()


def test_without_a_direction_the_gradient_passes_bit_for_bit_whatever_the_bound():
    z, q, grad = torch.zeros(100, 7), torch.randn(100, 7), torch.randn(100, 7)
    grad[0, 0] = math.inf
    for rule in (Rotation(), Rotation(max_scale=0.5)):
        assert torch.equal(rule.vjp(z, q, grad)[0], grad)
        assert torch.equal(rule.vjp(q, z, grad)[0], grad)
    _, tangent = torch.func.jvp(lambda z: st.through(z, q, "rotation", max_scale=0.5), (z,), (q,))
    assert torch.equal(tangent, q)


def test_a_scale_without_bounds_is_bounded():
    z, q = float64(1e-9, 0), float64(1, 0)
    assert Rotation().vjp(z, q, float64(1, 1))[0].tolist() == [1e6, 1e6]
    assert Rotation(max_scale=10).vjp(z, q, float64(1, 1))[0].tolist() == [10, 10]
    z = float64(1e-20, 0).float()  # a bound that float32 doesn't hold is none
    assert Rotation(max_scale=1e300).vjp(z, q.float(), z)[0].tolist() == [1, 0]
    with pytest.raises(st.ArgumentError, match="max_scale must be above 0, got 0"):
        Rotation(max_scale=0)


def test_shorthands():
    names = {"ste": PairSTE, "both": Both, "rotation": Rotation, "diveq": DiVeQ}
    assert {name: record.type for name, record in shorthands(PairEstimator).items()} == names
    with pytest.raises(st.ArgumentError, match="known: diveq, ste, both, rotation"):
        st.through(torch.ones(2), torch.ones(2), "pair_ste")


def test_arguments_of_vjp():
    two, three = torch.ones(2), torch.ones(3)
    with pytest.raises(st.ShapeError, match="q and grad must have one shape"):
        Both().vjp(two, three, two)
    with pytest.raises(st.DtypeError, match="z must be"):
        Both().vjp(two.long(), two, two)
    with pytest.raises(st.ShapeError, match="0-d"):
        Both().vjp(two[0], two[0], two[0])


@dataclass(frozen=True)
class Halved(PairEstimator):
    """A third party's rule: half to each, by the length of z."""

    share: float = 0.5

    def gradient(self, z, q, grad):
        scaled = grad / (1 + z.square().sum(-1, keepdim=True))
        return self.share * scaled, (1 - self.share) * scaled

    def tangent(self, z, q, to_z, to_q):
        moved = self.share * to_z + (1 - self.share) * to_q
        return moved / (1 + z.square().sum(-1, keepdim=True))


def test_a_third_partys_rule_passes_the_suite():
    testing.check_rule(Halved())

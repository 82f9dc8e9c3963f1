"""Checks of the noise: a function of seed and position, and of nothing else."""

from __future__ import annotations

import torch

from ..core.noise import Seed
from .case import DTYPES, SEED, Case, assert_bits, assert_close, check


def _samples(case: Case) -> bool:
    return case.record.samples


@check(_samples)
def check_seed(case: Case) -> None:
    """An int, a tensor and a `Seed` of one value mean the same draw; another value another."""
    for dtype in DTYPES:
        x = case.input(20, dtype=dtype)
        grad = case.of_value(case.input(20, dtype=dtype, seed=1))
        y, gradient = case.pull(x, grad, seed=SEED)
        tensor = torch.tensor(SEED, device=x.device)
        for same in (SEED, tensor, Seed(SEED), Seed(tensor, 0)):
            again_y, again_gradient = case.pull(x, grad, seed=same)
            assert_bits(again_y, y, f"{case}: value under seed={same!r}, {dtype}")
            assert_bits(again_gradient, gradient, f"{case}: gradient under seed={same!r}, {dtype}")
        assert not torch.equal(case(x, SEED + 1), y), f"{case}: another seed, the same draw"


@check(_samples)
def check_default_seed(case: Case) -> None:
    """Without a seed, `torch.manual_seed` or the generator decides; each call draws anew."""
    x = case.input(20)
    torch.manual_seed(SEED)
    first, second = case(x, seed=None), case(x, seed=None)
    torch.manual_seed(SEED)
    assert_bits(case(x, seed=None), first, f"{case}: value after the same manual_seed")
    assert not torch.equal(first, second), f"{case}: two calls, the same draw"
    generator = torch.Generator(x.device).manual_seed(SEED)
    before = torch.get_rng_state()
    drawn = case(x, seed=None, generator=generator)
    assert torch.equal(torch.get_rng_state(), before), f"{case}: touched the default generator"
    again = case(x, seed=None, generator=generator.manual_seed(SEED))
    assert_bits(again, drawn, f"{case}: value under the same generator state")


@check(_samples)
def check_shards(case: Case) -> None:
    """A shard with its offset has the value and the gradient that the whole has there."""
    for dtype in DTYPES:
        x = case.input(7, dtype=dtype)
        grad = case.of_value(case.input(7, dtype=dtype, seed=1))
        y, gradient = case.pull(x, grad)
        positions = x.shape[1] if case.record.rows else x[0].numel()
        for first, last in ((0, 2), (2, 5), (5, 7)):
            seed = Seed(SEED, first * positions)
            shard_y, shard_gradient = case.pull(x[first:last], grad[first:last], seed=seed)
            about = f"shard {first}:{last}, {dtype}"
            case.assert_same(shard_y, y[first:last], f"value of {about}")
            assert_close(shard_gradient, gradient[first:last], f"{case}: gradient of {about}")


@check(_samples)
def check_vmap_randomness(case: Case) -> None:
    """Without a seed, vmap draws for each example or once for all, as `randomness` says."""
    x = case.input().expand(6, 3, -1)

    def draw(x: torch.Tensor) -> torch.Tensor:
        return case(x, seed=None)

    different = torch.func.vmap(draw, randomness="different")(x)
    same = torch.func.vmap(draw, randomness="same")(x)
    alike = torch.allclose(different, different[:1].expand_as(different))
    assert not alike, f"{case}: randomness='different', the same draws"
    for one in same:
        case.assert_same(one, same[0], "randomness='same', a draw")

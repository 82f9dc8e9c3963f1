"""Checks of the noise: a function of seed and position, and of nothing else."""

from __future__ import annotations

from operator import itemgetter

import torch
from torch import Tensor

from ..core.noise import Seed
from ..core.precision import compute_dtype
from .case import DTYPES, SEED, Case, check
from .compare import assert_bits, assert_close


def _samples(case: Case) -> bool:
    return case.record.samples and (case.rule is None or case.rule.tau_forward > 0)


@check(_samples)
def check_seed(case: Case) -> None:
    """An int, a tensor and a `Seed` of one value mean the same draw; another value another."""
    for dtype in DTYPES:
        inputs = case.input(20, dtype=dtype)
        grad = case.incoming(inputs)
        outputs, gradients = case.backward(inputs, grad, seed=SEED)
        tensor = torch.tensor(SEED, device=case.device)
        for same in (SEED, tensor, Seed(SEED), Seed(tensor, 0)):
            again, again_gradients = case.backward(inputs, grad, seed=same)
            assert_bits(again, outputs, f"{case}: value under seed={same!r}, {dtype}")
            about = f"{case}: gradient under seed={same!r}, {dtype}"
            assert_bits(again_gradients, gradients, about)
        other = case(*inputs, seed=SEED + 1)[0]
        assert not torch.equal(other, outputs[0]), f"{case}: another seed, the same draw"


@check(_samples)
def check_default_seed(case: Case) -> None:
    """Without a seed, `torch.manual_seed` or the generator decides; each call draws anew."""
    inputs = case.input(20)
    torch.manual_seed(SEED)
    first, second = case(*inputs, seed=None), case(*inputs, seed=None)
    torch.manual_seed(SEED)
    assert_bits(case(*inputs, seed=None), first, f"{case}: value after the same manual_seed")
    assert not torch.equal(first[0], second[0]), f"{case}: two calls, the same draw"
    generator = torch.Generator(case.device).manual_seed(SEED)
    before = torch.get_rng_state()
    drawn = case(*inputs, seed=None, generator=generator)
    assert torch.equal(torch.get_rng_state(), before), f"{case}: touched the default generator"
    again = case(*inputs, seed=None, generator=generator.manual_seed(SEED))
    assert_bits(again, drawn, f"{case}: value under the same generator state")


@check(_samples)
def check_shards(case: Case) -> None:
    """A shard with its offset has the value and the gradients that the whole has there.

    The gradients to an input that all shards share add up to the whole's.
    """
    for dtype in DTYPES:
        inputs = case.input(7, dtype=dtype)
        grad = case.incoming(inputs)
        outputs, gradients = case.backward(inputs, grad)
        shards = []
        for part in (slice(0, 2), slice(2, 5), slice(5, 7)):
            seed = Seed(SEED, part.start * case.draws(inputs))
            shard = case.map(inputs, itemgetter(part))
            shard_outputs, shard_gradients = case.backward(shard, grad[part], seed=seed)
            about = f"value of shard {part.start}:{part.stop}, {dtype}"
            case.assert_same(shard_outputs, [y[part] for y in outputs], about)
            shards.append(shard_gradients)
        inputs_of = case.differentiable(case.record.inputs)
        for one, whole, *parts in zip(inputs_of, gradients, *shards, strict=True):
            about = f"{case}: gradient to {one.name} of the shards, {dtype}"
            if one.batched:
                assert_close(torch.cat(parts), whole, about)
            elif dtype == compute_dtype(dtype):  # else every shard's is rounded
                assert_close(torch.stack(parts).sum(0), whole, about)


@check(_samples)
def check_vmap_randomness(case: Case) -> None:
    """Without a seed, vmap draws for each example or once for all, as `randomness` says."""
    inputs = case.map(case.input(), lambda x: x.expand(6, *x.shape))

    def draw(*inputs: Tensor) -> Tensor:
        return case(*inputs, seed=None)[0]

    different = torch.func.vmap(draw, case.in_dims, randomness="different")(*inputs)
    same = torch.func.vmap(draw, case.in_dims, randomness="same")(*inputs)
    alike = torch.allclose(different, different[:1].expand_as(different))
    assert not alike, f"{case}: randomness='different', the same draws"
    for one in same:
        case.assert_same([one], [same[0]], "randomness='same', a draw")

"""Philox against its published vectors, the laws of the noise, and what positions mean."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import straightthrough as st
from gof import FAILURE_RATE, assert_frequencies, assert_law
from straightthrough.core import noise, uniforms

WIDE = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def seed(value: int) -> Tensor:
    return torch.tensor(value)


# Counter, key and result of philox4x32-10 in the known-answer file of Random123.
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (  # the digits of pi
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word


def philox_in_integers(counter: tuple[int, ...], key: int) -> list[int]:
    """Philox4x32-10 in Python's own integers, word by word as the paper's figure draws it."""
    left0, right0, left1, right1 = counter[0], counter[1], counter[2], counter[3]
    key0, key1 = key % 2**32, key >> 32
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * left0, 2**32)
        high1, low1 = divmod(0xCD9E8D57 * left1, 2**32)
        left0, right0, left1, right1 = high1 ^ right0 ^ key0, low1, high0 ^ right1 ^ key1, low0
        key0, key1 = (key0 + 0x9E3779B9) % 2**32, (key1 + 0xBB67AE85) % 2**32
    return [left0, right0, left1, right1]


PHILOX = pytest.mark.parametrize("philox", [uniforms.philox, uniforms.philox_in_place])


@PHILOX
@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_philox_known_answers(
    philox: Callable[..., tuple[Tensor, ...]],
    counter: tuple[int, ...],
    key: tuple[int, int],
    answer: tuple[int, ...],
) -> None:
    words = philox(tuple(map(torch.tensor, counter)), seed(signed(key[1] << 32 | key[0])))
    assert tuple(int(word) for word in words) == answer
    assert philox_in_integers(counter, key[1] << 32 | key[0]) == list(answer)


@PHILOX
def test_philox_of_whole_tensors(philox: Callable[..., tuple[Tensor, ...]]) -> None:
    generator = np.random.default_rng(0)
    counters = generator.integers(0, 2**32, size=(4, 500))
    key = 0xDEADBEEF12345678
    words = philox(tuple(torch.from_numpy(row) for row in counters), seed(signed(key)))
    wanted = [philox_in_integers(tuple(map(int, column)), key) for column in counters.T]
    assert torch.stack(words, -1).tolist() == wanted


@WIDE
@pytest.mark.parametrize("offset", [5, 2**32 - 9, 2**40])
def test_few_launches_change_no_noise(
    offset: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drawn(run: int) -> list[Tensor]:
        place, key = (offset, run, 2 * run, 3), seed(-(2**63) + 5)
        return [
            uniforms.row_uniforms(key, place, 30),
            uniforms.class_uniforms(key, place, 30, 7, dtype, 513),
            uniforms.element_uniforms(key, place, 30, dtype, 1),
        ]

    for run in (0, 11):
        wanted = drawn(run)
        with monkeypatch.context() as patched:
            patched.setattr(uniforms, "LAUNCHES", {"cpu"})
            for got, due in zip(drawn(run), wanted, strict=True):
                assert torch.equal(got, due)


def test_the_counter_is_position_class_group_and_stream() -> None:
    """The layout that every implementation shares: see the module's docstring."""
    key, row = 12345, 2**32 + 7

    def unit(high: int, low: int) -> float:
        """52 of the 64 bits, then a 1: an odd multiple of 2^-53."""
        bits = ((high << 20) ^ (low >> 12)) << 1 | 1
        return bits / 2**53

    words = philox_in_integers((7, 1, 0, 0), key)
    assert noise.Noise(seed(key), row).rows(1).item() / 2**53 == unit(words[0], words[1])
    classes = noise.Noise(seed(key), row).classes(1, 6, torch.float64, sample=3)[0]
    words = philox_in_integers((7, 1, 2, 1 + 256 * 3), key)  # classes 4 and 5, stream 1
    assert classes[4:].tolist() == [unit(words[0], words[1]), unit(words[2], words[3])]
    single = noise.Noise(seed(key), row).classes(1, 6, torch.float32)[0]
    words = philox_in_integers((7, 1, 1, 1), key)  # classes 4 to 7
    assert single[4:].tolist() == pytest.approx([(w + 0.5) / 2**32 for w in words[:2]], rel=1e-7)
    elements = noise.Noise(seed(key), 8 * row + 4).elements(2, torch.float64)
    words = philox_in_integers((4 * row % 2**32 + 2, 4 * row >> 32, 0, 0), key)
    assert elements.tolist() == [unit(words[0], words[1]), unit(words[2], words[3])]


def test_elements_in_float32_share_two_blocks() -> None:
    """Eight upper halves of words in one, the lower halves in the other; lower half first."""
    key, group = 12345, 2**32 + 7
    upper, lower = (philox_in_integers((7, 1, half, 0), key) for half in (0, 1))
    halves = [(above >> part & 0xFFFF) << 16 for above in upper for part in (0, 16)]
    halves = [word | lower[i // 2] >> 16 * (i % 2) & 0xFFFF for i, word in enumerate(halves)]
    elements = noise.Noise(seed(key), 8 * group + 3).elements(5, torch.float32)
    assert elements.tolist() == pytest.approx([(w + 0.5) / 2**32 for w in halves[3:]], rel=1e-7)


@pytest.mark.parametrize("word", [0, 2**32 - 1])
def test_uniforms_are_never_0_or_1(word: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even at the extreme words, so that no noise is ever infinite."""

    def extreme(counter: tuple[Tensor, ...], seed: Tensor) -> tuple[Tensor, ...]:
        shape = torch.broadcast_shapes(*(part.shape for part in counter))
        return (torch.full(shape, word),) * 4

    monkeypatch.setattr(uniforms, "philox", extreme)
    units = [
        noise.Noise(seed(0), 0).rows(2).double() / 2**53,
        *(noise.Noise(seed(0), 0).classes(2, 3, dtype) for dtype in (torch.float32, torch.float64)),
        *(noise.Noise(seed(0), 0).elements(2, dtype) for dtype in (torch.float32, torch.float64)),
    ]
    for unit in units:
        assert ((unit > 0) & (unit < 1)).all()
        assert torch.all(unit < 2.0**-32) if word == 0 else torch.all(unit > 1 - 2.0**-23)
        for law in (noise.exponential, noise.gumbel, noise.logistic):
            assert law(unit).isfinite().all()
        assert (noise.exponential(unit) > 0).all()


LAWS = [
    (lambda uniform: uniform, stats.uniform),
    (noise.exponential, stats.expon),
    (noise.gumbel, stats.gumbel_r),
    (noise.logistic, stats.logistic),
]


@pytest.mark.parametrize(("law", "reference"), LAWS, ids=["uniform", "expon", "gumbel", "logistic"])
@WIDE
def test_laws(law, reference, dtype: torch.dtype) -> None:  # type: ignore[no-untyped-def]  # scipy
    uniform = noise.Noise(seed(1), 0).elements(200_000, dtype)
    samples = law(uniform).double().numpy()
    assert_law(samples, reference.cdf)
    mean, variance, kurtosis = (float(m) for m in reference.stats(moments="mvk"))
    bound = stats.norm.isf(FAILURE_RATE / 2) / np.sqrt(samples.size)
    assert abs(samples.mean() - mean) < bound * np.sqrt(variance)
    assert abs(samples.var() - variance) < bound * variance * np.sqrt(kurtosis + 2)


@pytest.mark.parametrize(
    "draw",
    [
        lambda value: noise.Noise(seed(value), 0).rows(100_000).double() / 2**53,
        lambda value: noise.Noise(seed(value), 0).classes(1000, 100, torch.float32),
        lambda value: noise.Noise(seed(value), 0).classes(100_000, 1, torch.float64),
        lambda value: noise.Noise(seed(value), 0).elements(100_000, torch.float32, 1),
    ],
    ids=["row", "class", "one class", "conditional"],
)
def test_neighbours_and_neighbouring_seeds_are_independent(draw) -> None:  # type: ignore[no-untyped-def]  # lambdas
    one, other = draw(4).flatten().double().numpy(), draw(5).flatten().double().numpy()
    assert_law(one, stats.uniform.cdf)
    for left, right in ((one[:-1], one[1:]), (one, other), (one[:-4], one[4:])):
        cells = np.floor(8 * left).astype(int) * 8 + np.floor(8 * right).astype(int)
        assert_frequencies(np.bincount(cells, minlength=64), np.full(64, 1 / 64))


# Positions, streams, samples.


@WIDE
@pytest.mark.parametrize("cut", [1, 2, 3, 4, 5, 7])
def test_shards_draw_what_the_whole_draws(cut: int, dtype: torch.dtype) -> None:
    key = seed(9)
    for whole, shard in [
        (noise.Noise(key, 3).rows(10), noise.Noise(key, 3 + cut).rows(10 - cut)),
        (
            noise.Noise(key, 3).classes(10, 5, dtype),
            noise.Noise(key, 3 + cut).classes(10 - cut, 5, dtype),
        ),
        (
            noise.Noise(key, 3).elements(10, dtype),
            noise.Noise(key, 3 + cut).elements(10 - cut, dtype),
        ),
    ]:
        assert torch.equal(whole[cut:], shard)


@WIDE
def test_another_seed_stream_or_sample_is_other_noise(dtype: torch.dtype) -> None:
    first = noise.Noise(seed(9), 0).classes(50, 6, dtype)
    for other in (
        noise.Noise(seed(9), 0).classes(50, 6, dtype, sample=1),
        noise.Noise(seed(9), 50).classes(50, 6, dtype),
        noise.Noise(seed(10), 0).classes(50, 6, dtype),
        noise.Noise(seed(9 + 2**32), 0).classes(50, 6, dtype),
    ):
        assert not (first == other).any()
    drawn = noise.Noise(seed(9), 0).elements(50, dtype, noise.DRAW)
    assert not (drawn == noise.Noise(seed(9), 0).elements(50, dtype, noise.CONDITIONAL)).any()
    assert torch.equal(first, noise.Noise(seed(9), 0).classes(50, 6, dtype, sample=0))


def test_the_noise_of_backward_is_not_that_of_the_draw() -> None:
    """Were it, the draw and the Gumbels given the draw would not have their joint law."""
    drawn = noise.Noise(seed(2), 0).rows(1000).double() / 2**53
    conditional = noise.Noise(seed(2), 0).classes(1000, 2, torch.float64)
    assert not torch.isin(drawn, conditional).any()


# The same seed, wherever a public function takes one.


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(40, 7, generator=torch.Generator().manual_seed(3))


def test_half_inputs_get_float32_noise(logits: Tensor) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        narrow = logits.to(dtype)
        for draw in (st.gumbel_softmax, st.binary_concrete, st.hard_concrete):
            value, wide = draw(narrow, seed=1), draw(narrow.float(), seed=1)
            assert value.dtype == dtype
            assert torch.equal(value, wide.to(dtype))


@pytest.mark.parametrize(
    "draw", [st.categorical, st.gumbel_softmax, st.bernoulli, st.binary_concrete, st.hard_concrete]
)
def test_seeds(draw, logits: Tensor) -> None:  # type: ignore[no-untyped-def]  # five signatures
    value = draw(logits, seed=5)
    assert torch.equal(value, draw(logits, seed=torch.tensor(5)))
    assert torch.equal(value, draw(logits, seed=st.Seed(5)))
    assert torch.equal(value, draw(logits, seed=st.Seed(torch.tensor(5), offset=0)))
    assert not torch.equal(value, draw(logits, seed=6))
    assert not torch.equal(value, draw(logits, seed=-5))
    rows = draw in (st.categorical, st.gumbel_softmax)
    offset = 13 if rows else 13 * logits.shape[-1]
    shard = draw(logits[13:], seed=st.Seed(5, offset=offset))
    # The same uniforms; torch's log and sigmoid may differ by a rounding with the alignment.
    torch.testing.assert_close(value[13:], shard, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("draw", [st.categorical, st.bernoulli, st.hard_concrete])
def test_manual_seed_and_generators(draw, logits: Tensor) -> None:  # type: ignore[no-untyped-def]  # as above
    torch.manual_seed(11)
    first, second = draw(logits), draw(logits)
    torch.manual_seed(11)
    assert torch.equal(first, draw(logits))
    assert torch.equal(second, draw(logits))
    assert not torch.equal(first, second)
    one, other = (torch.Generator().manual_seed(11) for _ in range(2))
    assert torch.equal(draw(logits, generator=one), draw(logits, generator=other))
    assert not torch.equal(draw(logits, generator=one), draw(logits, seed=11))
    state = torch.get_rng_state()
    draw(logits, generator=one)
    draw(logits, seed=1)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("error", "wrong"),
    [
        (st.ArgumentError, 1.5),
        (st.ArgumentError, True),
        (st.ArgumentError, "1"),
        (st.ArgumentError, 2**63),
        (st.DtypeError, torch.tensor(1.0)),
        (st.DtypeError, torch.tensor(1, dtype=torch.int32)),
        (st.ShapeError, torch.tensor([1])),
    ],
    ids=repr,
)
def test_wrong_seeds(error: type[Exception], wrong: object, logits: Tensor) -> None:
    with pytest.raises(error, match="seed"):
        st.categorical(logits, seed=wrong)  # type: ignore[arg-type]  # that is the test


def test_wrong_offsets_and_both_sources(logits: Tensor) -> None:
    for offset in (-1, 1.0, True, 2**62, 2**64):
        with pytest.raises(st.ArgumentError, match="offset"):
            st.Seed(0, offset)  # type: ignore[arg-type]  # that is the test
    with pytest.raises(st.ArgumentError, match="exclude each other"):
        st.categorical(logits, seed=0, generator=torch.Generator())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("columns", [slice(0, 3), slice(2, 7), slice(9, 10)], ids=str)
def test_a_shard_of_columns_draws_what_the_whole_does(dtype: torch.dtype, columns: slice) -> None:
    """Of elements along the last dimension, and of rows along the one before."""
    seed = st.Seed(3, columns.start, run=columns.stop - columns.start, stride=10)
    for draw in (
        lambda x, seed: st.bernoulli(x, seed=seed),
        lambda x, seed: st.hard_concrete(x, seed=seed),
        lambda x, seed: st.poisson(log_rate=x, seed=seed),
    ):
        x = torch.randn(6, 10, dtype=dtype)
        got, wanted = draw(x[:, columns], seed), draw(x, 3)[:, columns]
        torch.testing.assert_close(got, wanted, rtol=2**-7, atol=0)
    x = torch.randn(6, 10, 4, dtype=dtype)
    for rule in ("reinmax", "gumbel"):
        whole, shard = (t.clone().requires_grad_() for t in (x, x[:, columns]))
        y, part = st.categorical(whole, rule, seed=3), st.categorical(shard, rule, seed=seed)
        assert torch.equal(part, y[:, columns])
        weight = torch.randn(4, dtype=dtype)
        (y @ weight).sum().backward()
        (part @ weight).sum().backward()
        torch.testing.assert_close(shard.grad, whole.grad[:, columns], rtol=2**-6, atol=1e-3)


def test_a_seed_is_not_written_to_before_backward(logits: Tensor) -> None:
    seed, leaf = torch.tensor(5), logits.clone().requires_grad_()
    y = st.categorical(leaf, "gumbel", seed=seed)
    seed.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        (y * logits).sum().backward()


def test_runs_that_overlap_are_refused() -> None:
    with pytest.raises(st.ArgumentError, match="runs overlap"):
        st.Seed(0, run=4, stride=3)
    with pytest.raises(st.ArgumentError, match="run must be an int"):
        st.Seed(0, run=-1)


def test_a_fresh_seed_takes_any_tensor_and_refuses_what_is_no_shape() -> None:
    fresh_seed = torch.ops.straightthrough.fresh_seed
    for like in (torch.zeros(0, dtype=torch.bool), torch.zeros(2, 3, dtype=torch.complex64)):
        torch.manual_seed(4)
        seed = torch.randint(2**63 - 1, (2, 0, 3))
        torch.manual_seed(4)
        assert torch.equal(fresh_seed(like, [2, 0, 3]), seed)
        torch.manual_seed(4)
        assert fresh_seed(like, []) == torch.randint(2**63 - 1, (), generator=manual(4))
    with pytest.raises(RuntimeError, match=r"negative .*-1"):
        fresh_seed(torch.zeros(2), [-1])
    assert fresh_seed(torch.zeros(2, device="meta"), []).is_meta


@pytest.mark.kernels
def test_the_kernel_of_a_fresh_seed_names_itself_and_the_argument() -> None:
    with pytest.raises(
        RuntimeError, match="straightthrough::fresh_seed: shape must have no negative size, got -1"
    ):
        torch.ops.straightthrough.fresh_seed(torch.zeros(2), [-1])


def manual(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)

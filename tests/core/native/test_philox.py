"""The noise of kernels for GPUs, by Triton's interpreter, against noise.py and Random123."""

import pytest
import torch

from core.test_noise import KNOWN_ANSWERS, signed
from straightthrough.core import kernels, noise
from straightthrough.core.noise import Noise

triton = pytest.importorskip("triton")
tl = triton.language
philox = pytest.importorskip("straightthrough.core.native.philox")
pytestmark = pytest.mark.interpreter

SEED = torch.tensor(0x123456789ABCDEF)
OFFSETS = [0, 5, 2**32 - 3, 2**40 + 3]
DTYPES = [torch.float32, torch.float64]


@pytest.fixture(autouse=True)
def _the_noise_of_torch():
    with kernels.disabled():
        yield


@triton.jit
def words_of(seed, position, group, tag, to):
    words = philox.blocks(tl.load(seed), tl.load(position), tl.load(group), tl.load(tag))
    for i in tl.static_range(4):
        tl.store(to + i, words[i].to(tl.int64))


@triton.jit
def rows_of(seed, offset, to, COUNT: tl.constexpr):
    row = tl.arange(0, COUNT)
    tl.store(to + row, philox.row_bits(tl.load(seed), offset + row).to(tl.int64))


@triton.jit
def classes_of(seed, offset, tag, to, ROWS: tl.constexpr, COUNT: tl.constexpr):
    row, j = tl.arange(0, ROWS), tl.arange(0, COUNT)
    double: tl.constexpr = to.dtype.element_ty == tl.float64
    unit = philox.class_uniforms(tl.load(seed), offset + row, COUNT, tag, COUNT, double)
    tl.store(to + row[:, None] * COUNT + j[None, :], unit)


@triton.jit
def elements_of(seed, first, to, GROUPS: tl.constexpr, SIZE: tl.constexpr):
    group, i = tl.arange(0, GROUPS), tl.arange(0, SIZE)
    double: tl.constexpr = to.dtype.element_ty == tl.float64
    unit = philox.element_uniforms(tl.load(seed), first + group, philox.DRAW, double)
    tl.store(to + group[:, None] * SIZE + i[None, :], unit)


@triton.jit
def laws_of(u, to, COUNT: tl.constexpr):
    i = tl.arange(0, COUNT)
    unit = tl.load(u + i)
    tl.store(to + i, philox.exponential(unit))
    tl.store(to + COUNT + i, philox.gumbel(unit))
    tl.store(to + 2 * COUNT + i, philox.logistic(unit))


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_known_answers(counter, key, answer):
    low, high, group, tag = counter
    position = torch.tensor(signed(high << 32 | low))
    rest = (
        torch.tensor(word - 2**32 * (word >= 2**31), dtype=torch.int32) for word in (group, tag)
    )
    words = torch.zeros(4, dtype=torch.int64)
    words_of[(1,)](torch.tensor(signed(key[1] << 32 | key[0])), position, *rest, words)
    assert tuple(words.tolist()) == answer


@pytest.mark.parametrize("offset", OFFSETS)
def test_rows(offset):
    bits = torch.zeros(64, dtype=torch.int64)
    rows_of[(1,)](SEED, offset, bits, 64)
    assert torch.equal(bits, Noise(SEED, offset).rows(64))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("sample", [0, 3])
def test_classes(offset, sample, dtype):
    unit = torch.zeros(4, 32, dtype=dtype)
    classes_of[(1,)](SEED, offset, noise.CONDITIONAL + 256 * sample, unit, 4, 32)
    assert torch.equal(unit, Noise(SEED, offset).classes(4, 64, dtype, sample)[:, 32:])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("offset", OFFSETS)
def test_elements(offset, dtype):
    size = 2 if dtype == torch.float64 else 8
    unit = torch.zeros(64, size, dtype=dtype)
    elements_of[(1,)](SEED, offset, unit, 64, size)
    assert torch.equal(unit.flatten(), Noise(SEED, size * offset).elements(64 * size, dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_laws(dtype):
    """To the last digits everywhere, also at the least and the largest uniform of a dtype."""
    small = torch.logspace(-9.9, -1, 512, dtype=torch.float64)
    ends = [2.0**-33, 1 - 2.0**-24] if dtype == torch.float32 else [2.0**-53, 1 - 2.0**-53]
    middle = torch.rand(510, dtype=torch.float64).clamp(*ends)
    unit = torch.cat([small, middle, torch.tensor(ends, dtype=torch.float64)]).to(dtype)
    given = torch.zeros(3, 1024, dtype=dtype)
    laws_of[(1,)](unit, given, 1024)
    exact = unit.double()
    for values, law in zip(given, (noise.exponential, noise.gumbel, noise.logistic), strict=True):
        wanted = law(exact)
        scale = wanted.abs().clamp(min=1e-10 if law is noise.exponential else 1)
        assert ((values - wanted).abs() / scale).max() < 4 * torch.finfo(dtype).eps

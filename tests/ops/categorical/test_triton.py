"""The categorical kernels for GPUs, by Triton's interpreter."""

import numpy as np
import pytest
import torch

from gof import assert_frequencies, assert_rate
from straightthrough.core.noise import Noise
from straightthrough.ops.categorical.reference import argmax_hot, draw, draw_index

pytestmark = pytest.mark.interpreter
SEED = torch.tensor(7)
rows = pytest.importorskip("straightthrough.core.native.rows")


@pytest.fixture(autouse=True)
def _large_tiles(monkeypatch):
    """The interpreter's time is by the program, and results are not by the tile."""
    monkeypatch.setattr(rows, "ELEMENTS", 2**16)
    with torch.no_grad():
        yield


@pytest.mark.parametrize("offset", [0, 2**32 - 100, 2**40 + 3])
@pytest.mark.parametrize(("count", "classes"), [(100_000, 16), (20_000, 100)])
def test_draws_are_those_of_the_reference(count, classes, offset):
    """But for a uniform next to a boundary, as exp has another last digit."""
    x = 3 * torch.randn(count, classes)
    noise = Noise(SEED, offset)
    index = draw_index(x, noise)
    assert (index != draw_index.__wrapped__(x, noise)).sum() <= 1e-5 * count + 1


def test_tiles_change_nothing(monkeypatch):
    x = 3 * torch.randn(30, 10)
    whole = draw_index(x, Noise(SEED, 5))
    monkeypatch.setattr(rows, "ELEMENTS", 16)
    assert torch.equal(draw_index(x, Noise(SEED, 5)), whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_frequencies(dtype):
    x = torch.tensor([0.5, -1.0, -torch.inf, 2.0, -7.0]).to(dtype)
    index = draw_index(x.expand(200_000, 5), Noise(SEED))
    counts = np.bincount(index.numpy(), minlength=5)
    assert_frequencies(counts, torch.softmax(x.double(), -1).numpy())


def test_rare_classes_are_drawn_where_it_is_their_turn():
    """Those of a weight of 3e-7 after one that has all, at the rows whose uniforms fall to them."""
    x = torch.tensor([0.0, *[np.log(3e-7)] * 14, -80.0])
    until = torch.softmax(x.double(), -1).cumsum(-1)
    uniform = Noise(SEED).rows(2**22).double() / 2**53
    places = (uniform > until[0] + 1e-12).nonzero().flatten()
    assert_rate(len(places), len(uniform), 14 * 3e-7)
    index = torch.cat([draw_index(x[None], Noise(SEED, int(place))) for place in places])
    assert torch.equal(index, torch.searchsorted(until, uniform[places]))
    assert len(index.unique()) > 5


@pytest.fixture
def of_blocks(monkeypatch):
    """Rows of more than 64 classes are long ones, of blocks of 128."""
    monkeypatch.setattr(rows, "LONGEST", 64)
    monkeypatch.setattr(rows, "BLOCK", 128)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
def test_long_rows(dtype, of_blocks, launches):
    x = (3 * torch.randn(40, 1000)).to(dtype)
    x[0, 3], x[1], x[2, 700], x[3, 300:] = torch.nan, -torch.inf, torch.inf, -torch.inf
    y, index = draw(x, Noise(SEED))
    assert launches == ["draw_blocks", "draw_long"]
    assert torch.equal(index, draw_index.__wrapped__(x, Noise(SEED)))
    assert index[:4].tolist()[:3] == [-1] * 3
    assert y[:3].isnan().all()
    assert torch.equal(y[3:], torch.nn.functional.one_hot(index[3:], 1000).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
def test_largest_classes_of_long_rows(dtype, of_blocks, launches):
    x = torch.randn(40, 1000).round().to(dtype)  # with many ties
    x[0, 3], x[1], x[2, 700], x[3, 300:], x[4, :990] = (
        torch.nan,
        -torch.inf,
        torch.inf,
        9,
        -torch.inf,
    )
    y, wanted = argmax_hot(x), argmax_hot.__wrapped__(x)
    assert launches == ["argmax_long"]
    assert y[:2].isnan().all()
    assert torch.equal(y.nan_to_num(7), wanted.nan_to_num(7))


def test_rare_classes_of_long_rows():
    """1e-9 each, after one that has all, where a sum in float32 stands still."""
    x = torch.full((50_000,), np.log(1e-9), dtype=torch.float32)
    x[0] = 0
    until = torch.softmax(x.double(), -1).cumsum(-1)
    uniform = Noise(SEED).rows(2**18).double() / 2**53
    places = (uniform > until[0] + 1e-12).nonzero().flatten()[:8]
    index = torch.cat([draw_index(x[None], Noise(SEED, int(place))) for place in places])
    wanted = torch.searchsorted(until, uniform[places])
    assert len(wanted.unique()) > 5
    assert ((index - wanted).abs() <= 1).all()  # 2^-22 of the whole would be 240 classes


def test_rows_beside_each_other_stay_where_they_are(launches):
    image = torch.randn(2, 6, 8, 9)
    x = image.movedim(1, -1)
    y, index = draw(x, Noise(SEED, 3))
    assert launches == ["draw_short"]
    assert y.stride() == x.stride()
    assert torch.equal(index, draw_index(x.contiguous(), Noise(SEED, 3)))
    assert torch.equal(y, torch.nn.functional.one_hot(index, 6).float())


@pytest.mark.parametrize("view", [lambda x: x[::2], lambda x: x[:, 1::2], lambda x: x.T])
def test_other_strides(view):
    x = view(torch.randn(40, 40))
    expected = draw.__wrapped__(x, Noise(SEED))
    for given, wanted in zip(draw(x, Noise(SEED)), expected, strict=True):
        assert torch.equal(given, wanted)


def test_what_is_no_argument_is_refused():
    x = torch.zeros(3, 4)
    operator = torch.ops.straightthrough.draw_index
    for wrong, said in (
        ((x.long(), SEED, 0), "logits"),
        ((x[:, :0], SEED, 0), "at least one class"),
        ((x, torch.tensor(7.0), 0), "seed"),
        ((x, SEED, -1), "offset"),
    ):
        with pytest.raises(RuntimeError, match=said):
            operator(*wrong)

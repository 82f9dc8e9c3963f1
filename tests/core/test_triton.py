"""The uniforms of kernels for GPUs, by Triton's interpreter: those of uniforms.py, to the bit."""

import pytest
import torch

from devices import Device
from straightthrough.core import gpu, uniforms
from straightthrough.core.noise import CONDITIONAL, Noise
from straightthrough.estimators import reinmax
from straightthrough.ops.categorical import reference

pytestmark = pytest.mark.interpreter

SEED = torch.tensor(0x123456789ABCDEF)
OFFSETS = [0, 5, 2**32 - 3, 2**40 + 8]
DTYPES = [torch.float32, torch.float64]
PLACES = [(offset, 0, 0, 0) for offset in OFFSETS] + [(2**32 - 9, 7, 50, 3), (3, 1, 2, 0)]
LAST = CONDITIONAL + 256 * (2**24 - 1)


def assert_equal(operator, *arguments):
    found, wanted = operator(SEED, *arguments), operator.__wrapped__(SEED, *arguments)
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("count", [0, 1, 1025])
def test_rows(place, count, launches):
    assert_equal(uniforms.row_uniforms, place, count)
    assert launches == ["rows_kernel"] * (count > 0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (700, 1), (40, 7), (33, 64), (3, 1001)])
def test_classes(place, shape, dtype, launches):
    for tag in (0, LAST):
        assert_equal(uniforms.class_uniforms, place, *shape, dtype, tag)
    assert launches == ["classes_kernel"] * (2 * (0 not in shape))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("count", [0, 1, 9, 40_001])
def test_elements(place, count, dtype, launches):
    for tag in (1, LAST):
        assert_equal(uniforms.element_uniforms, place, count, dtype, tag)
    assert launches == ["elements_kernel"] * (2 * (count > 0))


def test_what_is_no_argument_is_refused():
    operators = torch.ops.straightthrough
    place = (0, 0, 0, 0)
    for call, said in (
        (lambda: operators.row_uniforms(SEED.float(), place, 3), "seed"),
        (lambda: operators.row_uniforms(SEED, (-1, 0, 0, 0), 3), "offset"),
        (lambda: operators.element_uniforms(SEED, place, 3, torch.float32, 2**32), "samples"),
    ):
        with pytest.raises(RuntimeError, match=said):
            call()


def test_an_operator_without_a_kernel_has_its_noise_in_one_launch(launches, monkeypatch):
    """A categorical draw with ReinMax, forward and backward, as if that of noise were all."""
    serves = gpu.serves
    monkeypatch.setattr(gpu, "serves", lambda x, name: "uniforms" in name and serves(x, name))
    logits, grad = torch.randn(40, 16), torch.randn(40, 16)
    with torch.no_grad(), Device() as device:
        y, index = reference.draw(logits, Noise(SEED))
        gradient = reinmax.reinmax(logits, index, grad, 1.0)
    assert launches == ["rows_kernel"]
    assert device.launched["row_uniforms"] == 1
    assert device.launches <= 28
    monkeypatch.setattr(gpu, "serves", serves)
    with torch.no_grad():
        assert torch.equal(index, reference.draw(logits, Noise(SEED))[1])
        assert torch.equal(y.argmax(-1), index)
        torch.testing.assert_close(gradient, reinmax.reinmax(logits, index, grad, 1.0))

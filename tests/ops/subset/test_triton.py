"""The kernel of subsets for GPUs, by Triton's interpreter."""

import pytest
import torch

from straightthrough.ops.subset.reference import topk_hot

triton = pytest.importorskip("straightthrough.ops.subset.triton")
pytestmark = pytest.mark.interpreter
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def _inference():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("k", [1, 2, 5])
def test_ties_go_to_the_first_and_rows_without_k_classes_are_nan(dtype, k):
    inf, nan = torch.inf, torch.nan
    rows = [
        [0.0, -0.0, 0.0, -1.0, 1.0],
        [-0.0, 0.0, -0.0, -1.0, 1.0],
        [2.0, 2.0, 2.0, 2.0, 2.0],
        [-3.0, -2.0, -inf, -1.0, -1.0],
        [inf, inf, 0.0, 1.0, -5.0],
        [-inf, -inf, -inf, -inf, 3.0],
        [1.0, nan, 0.0, 0.0, 5.0],
    ]
    got = topk_hot(torch.tensor(rows, dtype=dtype), k)
    for row, hot in zip(rows, got.tolist(), strict=True):
        order = sorted(range(5), key=lambda i: (-row[i], i))
        wanted = [float(i in order[:k]) for i in range(5)]
        if nan in row or sum(value > -inf for value in row) < k:
            assert all(value != value for value in hot)
        else:
            assert hot == wanted


def test_a_launch_and_for_longer_rows_the_reference(launches, monkeypatch):
    x = torch.randn(7, 40).round(decimals=1)
    assert torch.equal(topk_hot(x.T, 3), topk_hot.__wrapped__(x.T, 3))
    assert launches == ["topk_short"]
    monkeypatch.setattr(triton, "LONGEST", 32)
    assert torch.equal(topk_hot(x, 3), topk_hot.__wrapped__(x, 3))
    assert launches == ["topk_short"]


def test_what_is_no_argument_is_refused():
    operator = torch.ops.straightthrough.topk_hot
    for wrong, said in (
        ((torch.zeros(3, dtype=torch.int64), 1), "the input|scores"),
        ((torch.zeros(3), 4), "k must"),
    ):
        with pytest.raises(RuntimeError, match=said):
            operator(*wrong)

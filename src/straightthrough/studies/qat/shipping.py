"""What ships: bytes when packed, and the network in onnxruntime."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import straightthrough as st

ROUNDS = 300


@dataclass(frozen=True)
class Shipped:
    """A network as it ships.

    Attributes:
        bytes: of its state dict, weights packed.
        milliseconds: of one image in onnxruntime, on one thread: the least of `ROUNDS`.
        share: the same over that of the network of floats, which took turns with it.
        same: percent of the images that get the class which the network itself gives them.
    """

    bytes: int
    milliseconds: float
    share: float
    same: float


def ship(net: nn.Sequential, floats: nn.Sequential, images: Tensor) -> Shipped:
    """Export a network and one of floats, both in `eval()`, and hold one against the other."""
    packed = net if net is floats else st.nn.convert(net, to="packed")
    own, other = _session(net, images), _session(floats, images)
    one = {"images": images[:1].numpy()}
    times: list[list[float]] = [[], []]
    for _ in range(ROUNDS):
        for session, taken in zip((own, other), times, strict=True):
            start = time.perf_counter()
            session.run(None, one)
            taken.append(time.perf_counter() - start)
    least, of_floats = map(min, times)
    scores = torch.from_numpy(own.run(None, {"images": images.numpy()})[0])
    same = (scores.argmax(-1) == net(images).argmax(-1)).double().mean()
    return Shipped(
        st.nn.size_report(packed).bytes, 1000 * least, least / of_floats, 100 * float(same)
    )


def _session(net: nn.Sequential, images: Tensor) -> Any:
    import onnxruntime

    batch = ({0: torch.export.Dim("batch")},)
    with _quiet():
        program = st.nn.to_onnx(net, (images[:2],), dynamic_shapes=batch, input_names=["images"])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(program.model_proto.SerializeToString(), options)


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what torch's exporter says of itself and of packages that it does not need."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logger.setLevel(before)

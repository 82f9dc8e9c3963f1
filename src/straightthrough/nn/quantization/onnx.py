"""Prepared models as ONNX graphs: codes for weights, pairs of QuantizeLinear for the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...core.engine import apply, intercepted
from ...core.errors import ArgumentError, check_model
from ...core.operation import Operation
from ...grids import Binary, Grid, HalfInt, Int, Stretched, Ternary
from ...ops.quantize.operation import FakeQuantize
from ..quantizer import Quantizer
from .convert import Weight, replaced
from .packed import Packed

OPSET = 21
"""The first that has integers of 4 bits, of 16 bits, and blocks."""

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
"""What its nodes make integers of, and the other way round."""

NARROW = "straightthrough.bits"
"""A node's property: how many bits its codes take."""


def to_onnx(
    model: nn.Module, args: Sequence[Any] | Tensor, **options: Any
) -> torch.onnx.ONNXProgram:
    """Return a prepared model as an ONNX program: what was trained is what ships.

    Weights on grids of equal steps are integers, INT4, INT8 or INT16, with `DequantizeLinear`
    behind them. Inputs, outputs and whatever else `st.fake_quantize` rounds to integers or three
    values go through `QuantizeLinear` and `DequantizeLinear`, as unsigned integers, which is what
    runtimes have kernels for, of fewer than 8 bits clipped before. What ONNX has no such node for
    (floating formats, blocks with scales of their own; of what is not a weight also grids without a
    0; a learned offset; float64) is exported as values, or as the arithmetic that it is.

    Args:
        model: prepared, in `eval()`; stays as it is.
        args: what its forward takes, as an example; a tensor alone is one argument.
        options: of `torch.onnx.export`, such as `dynamic_shapes`; `opset_version` is at least 21.

    Returns:
        An `ONNXProgram`, whose `save(path)` writes the file.

    Raises:
        ArgumentError: for an older opset; if a scale has not started, a layer is in training, its
            delay is not over, or the model is packed.

    Example:
        >>> net = st.nn.prepare(torch.nn.Sequential(torch.nn.Linear(8, 4)), [("0", "w4a8")]).eval()
        >>> x = torch.randn(2, 8)
        >>> y = net(x)  # which starts the scale of the input
        >>> [node.op_type for node in st.nn.to_onnx(net, (x,)).model.graph]
        ['QuantizeLinear', 'DequantizeLinear', 'DequantizeLinear', 'Gemm']
    """
    options = {"opset_version": OPSET, "verbose": False, **options}
    if options["opset_version"] < OPSET:
        raise ArgumentError(
            f"opset_version must be at least {OPSET}, the first with integers of 4 bits, got "
            f"{options['opset_version']}"
        )
    check_model(model)
    if any(isinstance(module, Packed) for module in model.modules()):
        raise ArgumentError(
            "the model is packed, by operations on bytes that ONNX has not; pass the prepared "
            "model that it was converted from, or convert(model, to='float') for values"
        )
    model = replaced(model, _as_integers)
    for name, module in model.named_modules():
        waits = isinstance(module, Quantizer) and module.active and module.scaling.kept
        if waits and not module.started:
            raise ArgumentError(f"{name!r} has no scale yet; first run the model on an input")
    with intercepted(_with_nodes):
        given = (args,) if isinstance(args, Tensor) else tuple(args)
        program = torch.onnx.export(model, given, dynamo=True, **options)
    assert program is not None
    _register(program.model.graph)
    _narrow(program.model.graph)
    return program


class Integers(nn.Module):
    """A weight in a graph: integers, and the node that makes numbers of them."""

    scale: Tensor
    zero: Tensor | None

    def __init__(
        self, scale: Tensor, zero: Tensor | None, place: dict[str, int], bits: int
    ) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("zero", zero)
        self.place, self.bits = place, bits

    def forward(self, codes: Tensor) -> Tensor:
        inputs = [codes, self.scale, *([] if self.zero is None else [self.zero])]
        properties = {NARROW: str(self.bits)}
        return _node("DequantizeLinear", inputs, self.place, self.scale.dtype, properties)


@torch.no_grad()
def _as_integers(weight: Weight) -> tuple[Tensor, nn.Module | None]:
    quantizer, latent = weight.quantizer, weight.latent
    steps = _steps(quantizer.grid) if latent.dtype in DTYPES else None
    if steps is None or quantizer.offset is not None or not quantizer.enabled:
        return nn.Parameter(quantizer(latent).clone()), None
    factor, added, parts = steps
    least, most = (factor * code + added for code in quantizer.grid.code_range)
    moved = 0 if least < 0 else (most + 1) // 2  # so that they are signed
    bits = next(b for b in (4, 8, 16) if max(moved - least - 1, most - moved) < 2 ** (b - 1))
    dtype = torch.int16 if bits == 16 else torch.int8
    scale, place = _laid(quantizer.scale_of(latent), quantizer, latent)
    zero, points = quantizer.zero_point, None
    if zero is not None:
        points = (_laid(zero, quantizer, latent)[0].round() - moved).to(dtype)
    elif moved:
        points = torch.full_like(scale, -moved, dtype=dtype)
    codes = factor * quantizer.codes(latent) + added - moved
    return codes.to(dtype), Integers((scale / parts).to(latent.dtype), points, place, bits)


def _steps(grid: Grid) -> tuple[int, int, float] | None:
    """Return a, b and d, so that code c stands for the value (a c + b) / d; None without."""
    if isinstance(grid, Int | Ternary):
        return 1, 0, 1
    if isinstance(grid, Binary):
        return 2, -1, 1
    if isinstance(grid, HalfInt) and grid.bits < 16:  # twice a code takes a bit more
        return 2, 1, 2
    if isinstance(grid, Stretched):
        return (2, 1, 4) if grid.bits == 2 else (1, 0, 1.5)
    return None


def _laid(kept: Tensor, quantizer: Quantizer, weight: Tensor) -> tuple[Tensor, dict[str, int]]:
    """Return scales as a node takes them, and its attributes: of all, a channel's or a block's."""
    kept = kept.detach()
    if quantizer.scaling.block is not None:
        attributes = {"axis": weight.ndim - 1, "block_size": quantizer.scaling.block}
        return kept.squeeze(-1).clone(), attributes
    if quantizer.scaling.token:
        attributes = {"axis": weight.ndim - 1, "block_size": weight.shape[-1]}
        return kept.clone(), attributes
    if quantizer.scaling.axis is not None:
        return kept.reshape(-1).clone(), {"axis": quantizer.scaling.axis % weight.ndim}
    return kept.reshape(()).clone(), {}


def _with_nodes(operation: Operation, inputs: Sequence[Tensor]) -> Any:
    """Return the value of an operation in a graph: of integers, by nodes."""
    if type(operation) is FakeQuantize and isinstance(operation.grid, Int | Ternary):
        place = _along(*inputs[:2]) if inputs[0].dtype in DTYPES else None
        if place is not None and operation.shift != "offset":
            return _quantized(operation.grid, *place, *inputs)
    with intercepted(None):
        return apply(operation, *inputs)


def _along(x: Tensor, scale: Tensor) -> tuple[dict[str, int], list[int]] | None:
    """Return a node's attributes for a scale that broadcasts to `x`, and the scale's shape there.

    A node has scales of all, of the entries of a dimension, or of blocks along one.
    """
    own = [1] * (x.ndim - scale.ndim) + [*scale.shape]
    many = [d for d, size in enumerate(own) if size != 1]
    if not many:
        return {}, []
    if len(many) == 1:
        return {"axis": many[0]}, [-1]
    if own[-1] == 1 and own[:-1] == [*x.shape[:-1]]:
        return {"axis": x.ndim - 1, "block_size": int(x.shape[-1])}, own
    return None


def _quantized(
    grid: Grid,
    place: dict[str, int],
    shape: list[int],
    x: Tensor,
    scale: Tensor,
    zero: Tensor | None = None,
) -> Tensor:
    least, most = grid.code_range
    bits = 8 if most - least < 2**8 else 16
    scale = scale.to(x.dtype)
    points = torch.zeros_like(scale) if zero is None else torch.round(zero).to(x.dtype)
    if most - least < 2**bits - 1:
        x = torch.minimum(torch.maximum(x, (least - points) * scale), (most - points) * scale)
    # Of unsigned integers the least code is 0.
    dtype = torch.uint8 if bits == 8 else torch.uint16
    laid = [scale.reshape(shape), (points - least).reshape(shape).to(dtype)]
    codes = _node("QuantizeLinear", [x, *laid], place, dtype)
    return _node("DequantizeLinear", [codes, *laid], place, x.dtype)


def _node(
    name: str,
    inputs: Sequence[Tensor],
    attributes: dict[str, Any],
    dtype: torch.dtype,
    properties: dict[str, str] | None = None,
) -> Tensor:
    shape = inputs[0].shape
    return torch.onnx.ops.symbolic(
        name, inputs, attributes, dtype=dtype, shape=shape, version=OPSET, metadata_props=properties
    )


def _register(graph: Any) -> None:
    """Have the graph hold every constant of its nodes.

    Torch names the bounds of a clip after its input, and keeps those of one clip an input alone.
    """
    for node in graph:
        for value in node.inputs:
            constant = value is not None and value.const_value is not None
            if constant and value.producer() is None and value.name not in graph.initializers:
                graph.register_initializer(value)


def _narrow(graph: Any) -> None:
    """Store codes of 4 bits in 4."""
    import ml_dtypes
    import onnx_ir as ir

    done: set[int] = set()
    for node in graph:
        if node.metadata_props.get(NARROW) == "4":
            for value in (node.inputs[0], *node.inputs[2:]):
                if id(value) not in done:
                    done.add(id(value))
                    array = value.const_value.numpy().astype(ml_dtypes.int4)
                    value.const_value = ir.tensor(array, name=value.name)
                    value.dtype = ir.DataType.INT4

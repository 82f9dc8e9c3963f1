"""How many bytes a model's state dict takes, layer by layer."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ...core.errors import check_model
from ...core.mesh import on_mesh
from .layers import Quantized
from .packed import Packed


@dataclass(frozen=True)
class Size:
    """What a module itself takes, without the modules in it, but with what packs its weights.

    Attributes:
        name: the module's.
        bits: of a code of its weights; None where they are not packed.
        bytes: of its parameters and buffers as they are.
        unpacked: of the same, were its weights not packed.
    """

    name: str
    bits: int | None
    bytes: int
    unpacked: int


@dataclass(frozen=True)
class SizeReport:
    """The sizes of a model's modules; its text is a table.

    Attributes:
        rows: a `Size` for each module that has parameters or buffers.
    """

    rows: tuple[Size, ...]

    @property
    def bytes(self) -> int:
        """Of the whole model."""
        return sum(row.bytes for row in self.rows)

    @property
    def unpacked(self) -> int:
        """Of the whole model, were nothing packed."""
        return sum(row.unpacked for row in self.rows)

    def __str__(self) -> str:
        lines = [("module", "bits", "bytes", "unpacked")]
        for row in self.rows:
            bits = "" if row.bits is None else str(row.bits)
            lines.append((row.name or "(itself)", bits, f"{row.bytes:,}", f"{row.unpacked:,}"))
        lines.append(("all", "", f"{self.bytes:,}", f"{self.unpacked:,}"))
        widths = [max(len(line[n]) for line in lines) for n in range(4)]
        text = ""
        for name, *numbers in lines:
            cells = (n.rjust(width) for n, width in zip(numbers, widths[1:], strict=True))
            text += "  ".join([name.ljust(widths[0]), *cells]) + "\n"
        return text[:-1]


def size_report(model: nn.Module) -> SizeReport:
    """Return how many bytes each module's part of the state dict takes; what is shared counts once.

    Example:
        >>> net = st.nn.prepare(torch.nn.Sequential(torch.nn.Linear(64, 32)), [("0", "w4")]).eval()
        >>> print(st.nn.size_report(st.nn.convert(net, to="packed")))
        module  bits  bytes  unpacked
        0          4  1,280     8,320
        all           1,280     8,320
    """
    check_model(model)
    kept = {id(tensor) for tensor in model.state_dict(keep_vars=True).values()}
    rows = []
    for name, module in model.named_modules():
        own = _tensors(module, kept)
        packs = _packs(module)
        floats = {id(data): math.prod(part.shape) * part.dtype.itemsize for part, data in packs}
        unpacked = sum(floats.get(id(tensor), tensor.nbytes) for tensor in own)
        bits = max((part.width for part, _ in packs), default=None)
        inside = [t for part, _ in packs for t in _tensors(part, kept)]
        if own or inside:
            total = sum(_bytes(tensor) for tensor in [*own, *inside])
            rows.append(Size(name, bits, total, unpacked))
    return SizeReport(tuple(rows))


def _tensors(module: nn.Module, kept: set[int]) -> list[Tensor]:
    """Return a module's own tensors of the state dict, and strike them off."""
    found = []
    for tensor in [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
        if id(tensor) in kept:
            kept.discard(id(tensor))
            found.append(tensor)
    return found


def _bytes(tensor: Tensor) -> int:
    """Return what a tensor takes; one made of others, as those of `torchao`, what these take."""
    if on_mesh(tensor) or not is_traceable_wrapper_subclass(tensor):
        return tensor.nbytes
    names, _ = tensor.__tensor_flatten__()
    return sum(_bytes(getattr(tensor, name)) for name in names)


def _packs(module: nn.Module) -> list[tuple[Packed, Tensor]]:
    """Return what packs weights of a module, each with the bytes."""
    if isinstance(module, Quantized) and isinstance(module.weight_quantizer, Packed):
        return [(module.weight_quantizer, module.weight)]
    if isinstance(module, ParametrizationList):
        return [(part, module.original) for part in module if isinstance(part, Packed)]
    return []

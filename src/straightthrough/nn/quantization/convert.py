"""From a model that trained with quantized numbers to one that ships."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils import parametrize

from ...core.errors import ArgumentError, check_model
from ..quantizer import Quantizer
from .layers import SLOTS, Quantized, called, original, own_class, parametrizations, parametrized
from .packed import Packed
from .torchao import as_torchao

Form = Literal["float", "packed", "torchao"]
FORMS = ("float", "packed", "torchao")


@dataclass
class Weight:
    """A quantized weight of a model: its path, where it is, what makes it, and of what."""

    path: str
    module: nn.Module
    name: str
    quantizer: Quantizer
    latent: Tensor

    @property
    def present(self) -> Tensor:
        """What it is of now: a state dict that is assigned puts other tensors there."""
        return _latent(self.module, self.name, self.quantizer)


def convert(model: nn.Module, to: Form = "float") -> nn.Module:
    """Return a copy of a prepared model that holds what was trained, for inference.

    In `eval()` the model and the copy compute the same, bit for bit, but where torch orders a
    product by whether its weight requires a gradient: an attention with `batch_first` agrees to
    rounding. `"float"` has the quantized values as weights: layers whose input and output are not
    quantized are of their own class again. `"packed"` holds codes of as many bits as their grid
    has, one after the other, in the state dict under the weight's name, with scales under
    `weight_quantizer`, and computes the weight from them at each call; the state dict loads into
    another model that was prepared and converted the same way. `"torchao"` has tensors of `torchao`
    with the codes and scales that were trained, where it has some: of `Linear` and `Embedding`, but
    in float64, with integers of at most 8 bits or three values, and one scale, one a row or one a
    block; what else there is, it has as `"float"` does.

    Quantizers of inputs and outputs stay; so do weights whose quantizer is not `enabled`. A packed
    model can be converted too: in the other two forms its weights are the values. Products of whole
    numbers are not computed here: that is what `torchao` and the runtimes of ONNX do.

    Args:
        model: stays as it is.
        to: `"float"`, `"packed"` or `"torchao"`.

    Raises:
        ArgumentError: for another form; if a layer is in training, or its delay is not over; where
            a hook makes a weight before each call, as `torch.nn.utils.prune` does; where codes are
            asked for and a weight holds NaN; and if `torchao` is not installed and is asked for.

    Example:
        >>> net = st.nn.prepare(torch.nn.Sequential(torch.nn.Linear(64, 64)), [("0", "w4")]).eval()
        >>> small = st.nn.convert(net, to="packed")
        >>> x = torch.randn(2, 64)
        >>> torch.equal(small(x), net(x)), small[0].weight.nbytes
        (True, 2048)
    """
    if to not in FORMS:
        raise ArgumentError(f"to must be one of {', '.join(FORMS)}, got {to!r}")
    check_model(model)
    if to != "packed" and any(isinstance(module, Packed) for module in model.modules()):
        model = replaced(model, _unpacked, Packed)
    return replaced(model, lambda weight: _made(weight, to))


def replaced(
    model: nn.Module,
    make: Callable[[Weight], tuple[Tensor, nn.Module | None]],
    kind: type[Any] = Quantizer,
) -> nn.Module:
    """Return a copy of a model with other tensors for weights.

    Args:
        model: prepared, in `eval()`.
        make: returns of a weight what stands in its place: a parameter, or a buffer and the module
            that computes the weight of it.
        kind: which weights: those that a module of that class computes.
    """
    _check_ready(model)
    model = copy.deepcopy(model)
    for module in model.modules():
        if parametrize.is_parametrized(module):
            own_class(module)
    weights = [*quantized_weights(model, kind)]
    ready = {_made_of(w): make(w) for w in weights}  # all first, as weights may be shared
    for weight in weights:
        _put(weight, *ready[_made_of(weight)])
    for module in model.modules():
        if isinstance(module, Quantized) and not any(module._modules[slot] for slot in SLOTS):
            _restore(module)
    return model


def _made_of(weight: Weight) -> tuple[int, int]:
    """Return what is one for modules that compute with the same: others may share a weight too."""
    return id(weight.latent), id(weight.quantizer)


def _check_ready(model: nn.Module) -> None:
    check_model(model)
    for name, module in model.named_modules():
        if isinstance(module, Quantized) and module.weight_quantizer is not None:
            _check_weight(name, module)
        if not isinstance(module, Quantizer):
            continue
        layer = re.sub(r"\.?(parametrizations\..*|\w+_quantizer)$", "", name)
        if module.training:
            raise ArgumentError(f"{layer!r} is in training; call eval() before you convert")
        if module.enabled and not module.active:
            raise ArgumentError(
                f"{layer!r} does not quantize yet: the delay is not over; train on, or set "
                f"enabled = False to convert it as it is"
            )


def _check_weight(name: str, layer: Quantized) -> None:
    if "weight" not in {*layer._parameters, *layer._buffers, *parametrizations(layer)}:
        raise ArgumentError(
            f"the weight of {name!r} is made before each call, by what is in its hooks, and can't "
            f"be replaced; of torch.nn.utils.prune, call prune.remove(layer, 'weight') first"
        )


def quantized_weights(model: nn.Module, kind: type[Any] = Quantizer) -> Iterator[Weight]:
    """Yield every weight of a model that a quantizer quantizes, or a module of another class."""
    check_model(model)
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        last = getattr(module, "weight_quantizer", None)
        layer = isinstance(module, Quantized) and isinstance(last, kind)
        last_of: dict[str, Any] = {"weight": last} if layer else {}
        for name, parts in parametrizations(module).items():
            if isinstance(parts[-1], kind):
                last_of.setdefault(name, parts[-1])
        for name, quantizer in last_of.items():
            latent = _latent(module, name, quantizer)
            yield Weight(f"{prefix}{name}", module, name, quantizer, latent)


def _latent(module: nn.Module, name: str, quantizer: Any) -> Tensor:
    """Return what the quantizer gets: what parametrizations make, those before it if it is one."""
    parts = parametrizations(module).get(name)
    if parts is None or parts[-1] is not quantizer:
        plain: Tensor = getattr(module, name)
        return plain
    names = ["original"] if parts.is_tensor else [f"original{n}" for n in range(parts.ntensors)]
    given: list[Tensor] = [getattr(parts, name) for name in names]
    for part in [*parts][:-1]:
        given = [_read(part, given)]
    return given[0]


def _read(part: nn.Module, given: list[Tensor]) -> Tensor:
    """Return what a module computes, as in `eval()`: in training that of spectral norm moves."""
    modes = {module: module.training for module in part.modules()}
    part.eval()
    try:
        computed: Tensor = part(*given)
    finally:
        for module, training in modes.items():
            module.training = training
    return computed


@torch.no_grad()
def _unpacked(weight: Weight) -> tuple[Tensor, None]:
    return nn.Parameter(weight.quantizer(weight.latent)), None


@torch.no_grad()
def _made(weight: Weight, to: Form) -> tuple[Tensor, nn.Module | None]:
    quantizer, latent = weight.quantizer, weight.latent
    coded = to != "float" and quantizer.enabled and not latent.is_meta
    if coded and bool(quantizer(latent).isnan().any()):
        raise ArgumentError(f"{weight.path!r} is NaN somewhere, and no code stands for that")
    if to == "packed" and quantizer.enabled:
        packed = Packed(quantizer, latent).eval()
        return packed.pack(quantizer.codes(latent)), packed
    found = None
    # That of an attention is read by what torchao has no function for.
    takes = isinstance(weight.module, nn.Linear | nn.Embedding)
    takes = takes and not isinstance(weight.module, NonDynamicallyQuantizableLinear)
    if to == "torchao" and quantizer.enabled and takes:
        found = as_torchao(quantizer, latent)
    if found is None:
        learns = latent.requires_grad or not isinstance(latent, nn.Parameter)
        found = nn.Parameter(quantizer(latent).clone(), requires_grad=learns)
    return found, None


def _put(weight: Weight, data: Tensor, decoder: nn.Module | None) -> None:
    module, name = weight.module, weight.name
    parts = parametrizations(module).get(name)
    if parts is not None:
        # What is computed of bytes can't take their place, and what several make must.
        parametrize.remove_parametrizations(module, name, leave_parametrized=not parts.is_tensor)
    if decoder is None:
        setattr(module, name, data)
    else:
        delattr(module, name)
        module.register_buffer(name, data)
    if isinstance(module, Quantized):
        module.weight_quantizer = decoder
    elif decoder is not None:
        parametrized(module, name, decoder)


def _restore(layer: Quantized) -> None:
    for slot in SLOTS:
        del layer._modules[slot]
    for key in [key for key, hook in layer._forward_pre_hooks.items() if hook is called]:
        del layer._forward_pre_hooks[key]
    if parametrize.is_parametrized(layer):
        own_class(layer, original(layer))
    else:
        layer.__class__ = original(layer)  # type: ignore[assignment]  # no longer a Quantized

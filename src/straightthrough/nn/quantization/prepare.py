"""From a model of floats to one that trains with quantized numbers."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from ...core.errors import ArgumentError, ShapeError, check_model
from ...core.mesh import on_mesh
from ..codebook import Codebook
from ..quantizer import Quantizer
from .config import Config, Scheme, config
from .layers import (
    LAYERS,
    SLOTS,
    Quantized,
    called,
    output_axis,
    parametrizations,
    parametrized,
)

Pattern = str | type[nn.Module] | tuple[type[nn.Module], ...]

TABLES = nn.Embedding | nn.EmbeddingBag
"""Their input is numbers of rows, which no quantizer takes."""


NO_PLACE = Quantizer | Codebook | ParametrizationList
"""What has no weight: a codebook is set to vectors, and one that is computed would lose them."""


@dataclass
class Place:
    """A module that can be quantized, and what is to become of it.

    Attributes:
        names: what patterns may call it by: its own, and those of the attention that computes with
            its weight.
        modules: likewise whose classes patterns may have: it, and that attention.
    """

    module: nn.Module
    names: list[str]
    modules: list[nn.Module]
    config: Config | None = None

    @property
    def name(self) -> str:
        """The first of its own."""
        return self.names[0]

    @property
    def is_layer(self) -> bool:
        """Whether the library has a class for it, so that its input can be quantized too."""
        return type(self.module) in LAYERS and not self.has_own_forward

    @property
    def has_own_forward(self) -> bool:
        """Whether the forward of its class is not what is called."""
        return "forward" in vars(self.module)

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """Its tensors that are quantized: the weight of a layer, else all parameters of rows.

        They are told apart by their ids, so those that are computed are kept.
        """
        if self.is_layer:
            return {"weight": self.module.weight}  # type: ignore[dict-item]  # all layers' is a tensor
        own: dict[str, Tensor | None] = {**self.module._parameters}
        for name, parts in parametrizations(self.module).items():
            stored = parts.is_tensor and parts.original.ndim > 1
            own[name] = parts.original if stored else getattr(self.module, name)
        return {n: p for n, p in own.items() if p is not None and (is_lazy(p) or p.ndim > 1)}


def prepare(model: nn.Module, configs: Sequence[tuple[Pattern, Config | str | None]]) -> nn.Module:
    """Have layers of a model quantize their weights, inputs and outputs, in place.

    `Linear`, `Conv1d` to `Conv3d`, `ConvTranspose1d` to `ConvTranspose3d` and `Embedding` change
    their class and get the modules `weight_quantizer`, `input_quantizer` and `output_quantizer`.
    Their parameters keep their names: a state dict of the model of floats loads, and scales that
    are kept start from the first input after it. Of any other module, also of a subclass of these,
    every parameter of two or more dimensions is quantized by `torch.nn.utils.parametrize`, with
    which `weight` becomes `parametrizations.weight.original`; so is the weight of a layer whose
    `forward` was assigned, as wrappers do. A codebook is no weight, and stays as it is. Modules
    that share a weight share its quantizer. A layer's weight that code reads itself, as in
    `F.linear(x, self.embed.weight)`, is that of floats, and after `convert` another: give such code
    a layer that shares the weight.

    A pattern is a class, or a tuple of them, of which a module is an instance; or the name of a
    module, in which `*` stands for anything, dots too; or `re:` and an expression that the whole
    name matches. The first pattern that a module fits says what becomes of it, by whichever of its
    names if it has several. What fits a `MultiheadAttention` fits its `out_proj`, too.

    Prepare before the model is compiled, replicated or sharded, and before the optimizer is made;
    but fold batch norms first, as `torch.nn.utils.fuse_conv_bn_eval` does: it changes the weights,
    and scales that are kept stay.

    Args:
        model: is changed.
        configs: pairs of a pattern and a `Config`, the name of one of `st.nn.CONFIGS`, or None for
            what stays as it is.

    Returns:
        The model.

    Raises:
        ArgumentError: for an unknown configuration; a pattern that nothing is left for; an input or
            output of a module that is not one of the layers above; modules that share a weight and
            have different configurations; a weight that is not of floats, or that a hook makes; an
            embedding with `max_norm` or sparse gradients; and for a model that is no module, lazy,
            prepared already, scripted, replicated or sharded.
        ShapeError: where a scale or a grid can't be laid over a weight.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> net = st.nn.prepare(net, [("2", None), (torch.nn.Linear, "w4a8")])
        >>> optimizer = torch.optim.AdamW(st.nn.param_groups(net, weight_decay=0.1))
        >>> sorted(net.state_dict())[:3]
        ['0.bias', '0.input_quantizer.origin', '0.input_quantizer.parameter']
    """
    _check_fresh(model)
    several = isinstance(configs, Iterable) and not isinstance(configs, str | Mapping)
    pairs = [_pair(each) for each in (configs if several else [configs])]
    places = [*_places(model)]
    _choose(places, pairs)
    _check_shared(places)
    chosen = [place for place in places if place.config is not None]
    made: dict[int, Quantizer] = {}
    quantizers = [_quantizers(place, made) for place in chosen]
    for place, own in zip(chosen, quantizers, strict=True):
        _change(place, own)
    for module in model.modules():
        _leave_fast_path(module)
    if isinstance(model, Quantized):  # of a module that is not known here
        model.register_forward_pre_hook(called)
    return model


def param_groups(model: nn.Module, **options: Any) -> list[dict[str, Any]]:
    """Return groups of parameters for an optimizer: scales get no weight decay.

    Args:
        model: with modules `Quantizer`.
        options: of both groups, such as `lr` and `weight_decay`.

    Raises:
        ArgumentError: if the model is no module.

    Example:
        >>> net = st.nn.prepare(torch.nn.Linear(8, 2), [("", "w4")])
        >>> rest, scales = st.nn.param_groups(net, weight_decay=0.1)
        >>> rest["weight_decay"], scales["weight_decay"]
        (0.1, 0.0)
    """
    check_model(model)
    quantizers = (module for module in model.modules() if isinstance(module, Quantizer))
    scales = {id(p): p for q in quantizers for p in q.parameters(recurse=False)}
    rest = [p for p in model.parameters() if id(p) not in scales]
    groups = [{"params": rest, **options}]
    if scales:
        groups.append({"params": [*scales.values()], **options, "weight_decay": 0.0})
    return groups


def _pair(given: object) -> tuple[Pattern, Config | None]:
    """Return a pair, checked."""
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise ArgumentError(
            f"configs must be a list of pairs of a pattern and a configuration, as "
            f"[(torch.nn.Linear, 'w4')], got {given!r} for a pair"
        )
    pattern, each = given
    classes = pattern if isinstance(pattern, tuple) else (pattern,)
    if not isinstance(pattern, str) and not all(isinstance(each, type) for each in classes):
        raise ArgumentError(
            f"a pattern must be a class of modules or a tuple of them, a name, or 're:' and an "
            f"expression, got {pattern!r}"
        )
    return pattern, None if each is None else config(each)


def _places(model: nn.Module) -> Iterator[Place]:
    """Yield what can be quantized; what quantizes or parametrizes itself can't."""
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    owners = {
        module._modules.get("out_proj"): module
        for module in names
        if isinstance(module, nn.MultiheadAttention)
    }
    for module in names:
        modules = [module, *([owners[module]] if module in owners else [])]
        place = Place(module, [name for each in modules for name in names[each]], modules)
        if not isinstance(module, NO_PLACE) and place.weights:
            yield place


def _choose(places: Sequence[Place], configs: Sequence[tuple[Pattern, Config | None]]) -> None:
    left = [*places]
    for pattern, each in configs:
        found = [place for place in left if _fits(pattern, place)]
        if not found:
            shown = getattr(pattern, "__name__", pattern)
            names = ", ".join(repr(place.name) for place in left) or "none"
            raise ArgumentError(
                f"nothing that can be quantized is left for the pattern {shown!r}; the first "
                f"pattern that a module fits counts, and left are: {names}"
            )
        for place in found:
            place.config = each
        left = [place for place in left if place not in found]


def _fits(pattern: Pattern, place: Place) -> bool:
    if not isinstance(pattern, str):
        return any(isinstance(module, pattern) for module in place.modules)
    if pattern.startswith("re:"):
        try:
            return any(re.fullmatch(pattern[3:], name) for name in place.names)
        except re.error as error:
            raise ArgumentError(f"{pattern!r} is no regular expression: {error}") from error
    return pattern in place.names or any(fnmatchcase(name, pattern) for name in place.names)


def _check_shared(places: Sequence[Place]) -> None:
    """Raise unless modules that share a weight quantize it the same way."""
    first: dict[int, Place] = {}
    for place in places:
        for weight in place.weights.values():
            other = first.setdefault(id(weight), place)
            configs = (other.config, place.config)
            due = [(own.weight, own.delay) if own and own.weight else None for own in configs]
            if due[0] != due[1]:
                raise ArgumentError(
                    f"{other.name!r} and {place.name!r} share a weight, but would quantize it "
                    f"differently: {_told(other)} and {_told(place)}; give both the same"
                )


def _told(place: Place) -> str:
    own = place.config
    return f"{own.weight} with a delay of {own.delay}" if own and own.weight else "None"


def _quantizers(place: Place, made: dict[int, Quantizer]) -> dict[str, Quantizer]:
    """Return the quantizers of a module, by the names of its weights or by slots."""
    own, module = place.config, place.module
    assert own is not None
    found: dict[str, Quantizer] = {}
    _check_module(place, own)
    for name, weight in place.weights.items():
        if own.weight is not None:
            if id(weight) not in made:
                made[id(weight)] = _of_weight(place, own.weight, weight, own.delay)
            found["weight_quantizer" if place.is_layer else name] = made[id(weight)]
    for slot, scheme in (("input_quantizer", own.input), ("output_quantizer", own.output)):
        if scheme is not None and not (slot[0] == "i" and isinstance(module, TABLES)):
            found[slot] = _placed(_made(place, scheme, None, own.delay), module)
    return found


def _of_weight(place: Place, scheme: Scheme, weight: Tensor, delay: int) -> Quantizer:
    axis = output_axis(place.module)
    if axis and scheme.scale.axis == 0:
        scheme = replace(scheme, scale=replace(scheme.scale, axis=axis))
    return _placed(_made(place, scheme, weight.shape, delay), place.module)


def _made(place: Place, scheme: Scheme, shape: Sequence[int] | None, delay: int) -> Quantizer:
    scale = scheme.scale
    if shape is None and scale.kept and not scale.one_for_all:
        raise ArgumentError(
            f"{place.name!r}: {type(scale).__name__} would keep a scale a channel or a block of an "
            f"input or output, whose shape is not known here; keep one of all, measure them by "
            f"AbsMax, or put a Quantizer of that shape= before or behind the layer"
        )
    try:
        if shape is not None:
            scheme.grid.check(scheme.scale.blocks(torch.empty(*shape, device="meta")))
        return scheme.quantizer(shape, delay=delay)
    except ShapeError as error:
        raise ShapeError(f"{place.name!r}: {error}") from error
    except ArgumentError as error:
        raise ArgumentError(f"{place.name!r}: {error}") from error


def _placed(quantizer: Quantizer, module: nn.Module) -> Quantizer:
    """Return a quantizer where the module lies, in its dtype, and in training if it is."""
    weight = next(module.parameters())
    return quantizer.to(weight.device, weight.dtype).train(module.training)


def _change(place: Place, quantizers: dict[str, Quantizer]) -> None:
    module = place.module
    if place.is_layer:
        module.__class__ = LAYERS[type(module)]
        for slot in SLOTS:
            module.register_module(slot, quantizers.get(slot))
        return
    for name, quantizer in quantizers.items():
        parametrized(module, name, quantizer)


def _leave_fast_path(module: nn.Module) -> None:
    """Have torch's transformers call their layers in `eval()`, and not read their weights."""
    if not any(isinstance(child, Quantizer) for child in module.modules()):
        return
    if isinstance(module, nn.TransformerEncoderLayer):
        module.activation_relu_or_gelu = 0
    elif isinstance(module, nn.TransformerEncoder):
        module.use_nested_tensor = False


def _check_fresh(model: nn.Module) -> None:
    check_model(model)
    for name, module in model.named_modules():
        if isinstance(module, _takers()):
            raise ArgumentError(f"prepare the model before {type(module).__name__} takes it")
        parts = (part for parts in parametrizations(module).values() for part in parts)
        if isinstance(module, Quantized) or any(isinstance(part, Quantizer) for part in parts):
            raise ArgumentError(f"{name!r} is prepared already; prepare a model once")
    for name, parameter in model.named_parameters():
        if on_mesh(parameter):
            raise ArgumentError(f"{name!r} is sharded; prepare the model before it is")


def _check_module(place: Place, own: Config) -> None:
    module, shown = place.module, repr(place.name)
    if any(is_lazy(weight) for weight in place.weights.values()):
        raise ArgumentError(f"{shown} is lazy and has no weight yet; first run it on an input")
    makers = WeightNorm | SpectralNorm | BasePruningMethod
    made = any(isinstance(hook, makers) for hook in module._forward_pre_hooks.values())
    if made or (place.is_layer and "weight" not in module._parameters):
        raise ArgumentError(
            f"the weight of {shown} is no parameter, but made before each call; use what makes it "
            f"from torch.nn.utils.parametrizations, or prune the layer when it is prepared"
        )
    for name, weight in place.weights.items():
        if own.weight is not None and not weight.is_floating_point():
            raise ArgumentError(
                f"the parameter {name!r} of {shown} is of {weight.dtype}, and only floats can be "
                f"quantized; leave the module alone by a pair of its name and None, in front"
            )
    asked = own.output or (own.input and not isinstance(module, TABLES))
    if not place.is_layer and asked:
        forward = " with a forward of its own" * place.has_own_forward
        raise ArgumentError(
            f"{shown} is a {type(module).__name__}{forward}, of which only weights can be "
            f"quantized; give it a Config of a weight alone, and put a Quantizer before or behind "
            f"it"
        )
    if isinstance(module, TABLES) and (module.max_norm is not None or module.sparse):
        raise ArgumentError(
            f"{shown} has max_norm or sparse gradients, which a quantizer does not pass; make it "
            f"without them"
        )


def _takers() -> tuple[type[nn.Module], ...]:
    """Return the classes that take a whole model; what is not imported has no instance."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    sharded = () if fsdp is None else (fsdp.FullyShardedDataParallel,)
    return nn.parallel.DistributedDataParallel, torch.jit.ScriptModule, *sharded

"""Layers of torch with quantizers: each is its layer's class, changed in place."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ...core.errors import ArgumentError

SLOTS = ("weight_quantizer", "input_quantizer", "output_quantizer")


class Quantized(nn.Module):
    """A layer whose weight, input or output goes through a module, where there is one.

    Its parameters keep their names, and it stays an instance of its layer's class.
    """

    weight: Tensor
    weight_quantizer: nn.Module | None
    input_quantizer: nn.Module | None
    output_quantizer: nn.Module | None

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        if "." in name:  # as torch.distributed.tensor.parallel has it, of all that lie below
            raise ArgumentError(
                f"a prepared layer, here a {type(self).__name__} with {name}, can't be cut by the "
                f"styles of torch.distributed.tensor.parallel; leave it out of the plan, or shard "
                f"the model by torch.distributed.fsdp.fully_shard"
            )
        super().register_parameter(name, param)

    def quantized_weight(self) -> Tensor:
        """Return the weight as the layer computes with it."""
        return _through(self.weight_quantizer, self.weight)

    def forward(self, input: Tensor, *args: Any, **options: Any) -> Tensor:
        x, weight = _through(self.input_quantizer, input), self.quantized_weight()
        return _through(self.output_quantizer, self.computed(x, weight, *args, **options))

    def computed(self, x: Tensor, weight: Tensor, *args: Any, **options: Any) -> Tensor:
        """Return what the layer computes of an input, a weight and what else it is called with."""
        raise NotImplementedError


class QuantizedLinear(Quantized, nn.Linear):
    """`Linear`, quantized."""

    def computed(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x, weight, self.bias)


class _Convolution(Quantized):
    bias: Tensor | None
    _conv_forward: Any

    def computed(self, x: Tensor, weight: Tensor) -> Tensor:
        y: Tensor = self._conv_forward(x, weight, self.bias)
        return y


class QuantizedConv1d(_Convolution, nn.Conv1d):
    """`Conv1d`, quantized."""


class QuantizedConv2d(_Convolution, nn.Conv2d):
    """`Conv2d`, quantized."""


class QuantizedConv3d(_Convolution, nn.Conv3d):
    """`Conv3d`, quantized."""


class _Transposed(Quantized, nn.modules.conv._ConvTransposeNd):
    def computed(self, x: Tensor, weight: Tensor, output_size: list[int] | None = None) -> Tensor:
        dims = len(self.kernel_size)
        stride, padding, dilation = self.stride, self.padding, self.dilation
        size: Any = self.kernel_size
        out = self._output_padding(x, output_size, stride, padding, size, dims, dilation)  # type: ignore[arg-type]  # tuples
        convolve: Any = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[dims - 1]
        y: Tensor = convolve(x, weight, self.bias, stride, padding, out, self.groups, dilation)
        return y


class QuantizedConvTranspose1d(_Transposed, nn.ConvTranspose1d):
    """`ConvTranspose1d`, quantized."""


class QuantizedConvTranspose2d(_Transposed, nn.ConvTranspose2d):
    """`ConvTranspose2d`, quantized."""


class QuantizedConvTranspose3d(_Transposed, nn.ConvTranspose3d):
    """`ConvTranspose3d`, quantized."""


class QuantizedEmbedding(Quantized, nn.Embedding):
    """`Embedding`, quantized."""

    def computed(self, x: Tensor, weight: Tensor) -> Tensor:
        by_frequency = self.scale_grad_by_freq
        return F.embedding(x, weight, self.padding_idx, scale_grad_by_freq=by_frequency)


LAYERS: dict[type[nn.Module], type[Quantized]] = {
    nn.Linear: QuantizedLinear,
    nn.Conv1d: QuantizedConv1d,
    nn.Conv2d: QuantizedConv2d,
    nn.Conv3d: QuantizedConv3d,
    nn.ConvTranspose1d: QuantizedConvTranspose1d,
    nn.ConvTranspose2d: QuantizedConvTranspose2d,
    nn.ConvTranspose3d: QuantizedConvTranspose3d,
    nn.Embedding: QuantizedEmbedding,
}
"""What each class becomes; subclasses, whose forward may be another, are left to `parametrize`."""


def original(layer: Quantized) -> type[nn.Module]:
    """Return the class that a quantized layer was of."""
    return next(plain for plain, quantized in LAYERS.items() if isinstance(layer, quantized))


def called(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Do nothing, as a hook: torch's transformers call what has one, and don't read its weight."""


def output_axis(module: nn.Module) -> int:
    """Return the dimension of the weight that has the output's channels."""
    return 1 if isinstance(module, nn.modules.conv._ConvTransposeNd) else 0


def parametrizations(module: nn.Module) -> dict[str, parametrize.ParametrizationList]:
    """Return what computes a module's parameters, by their names."""
    found = module._modules.get("parametrizations")
    return {} if found is None else dict(found.named_children())  # type: ignore[arg-type]  # of torch's making


def parametrized(module: nn.Module, name: str, part: nn.Module) -> None:
    """Have a parameter or a buffer of a module go through another module."""
    if parametrize.is_parametrized(module):
        own_class(module)
    # A check would run it, and start a scale before a checkpoint is loaded.
    parametrize.register_parametrization(module, name, part, unsafe=True)
    if isinstance(module, nn.RNNBase):
        # It keeps a list of its weights; computed ones, that have a graph, can't be copied.
        type(module)._flat_weights = property(_current_weights, _keep_nothing)  # type: ignore[assignment]  # a list


def own_class(module: nn.Module, *bases: type) -> None:
    """Give a parametrized module a class of its own, of other bases if they are given.

    Its parameters are properties of its class, which copies share, and lose with one of them.
    """
    shared = type(module)
    members = {k: v for k, v in vars(shared).items() if k not in ("__dict__", "__weakref__")}
    bases = bases or shared.__bases__
    module.__class__ = type(f"Parametrized{bases[0].__name__}", bases, members)


def _current_weights(module: Any) -> list[Tensor]:
    return [getattr(module, name) for name in module._flat_weights_names]


def _keep_nothing(module: Any, weights: list[Tensor]) -> None:
    """Take a list of weights that is made again whenever it is read."""


def _through(module: nn.Module | None, x: Tensor) -> Tensor:
    return x if module is None else module(x)

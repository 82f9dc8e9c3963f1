"""Rules that pass a constant gradient inside a window around 0."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..core.errors import check_at_least, check_positive
from ..core.registry import rule
from .window import Window


@rule("clipped")
@dataclass(frozen=True)
class Clipped(Window):
    """Pass the gradient where `|x| <= width`: the "hard tanh" rule of binarized nets.

    `derivative(x) = 1[|x| <= width]`, `primitive(x) = clamp(x, -width, width)`. The mask is
    taken from the input; clipping the gradient instead is a common bug.

    Args:
        width: half of the window, > 0; both of its ends are inside.

    References:
        Hubara, Courbariaux, Soudry, El-Yaniv, Bengio, "Binarized neural networks", 2016, eq. 4.

    Example:
        >>> st.surrogates.Clipped().derivative(torch.tensor([-1.0, 0.5, 1.5]))
        tensor([1., 1., 0.])
    """

    width: float = 1.0

    def __post_init__(self) -> None:
        check_positive("width", self.width)

    def window(self) -> tuple[float, float, float]:
        return self.width, 1.0, 0.0

    def primitive(self, x: Tensor) -> Tensor:
        return x.clamp(-self.width, self.width)


@rule("rectangle")
@dataclass(frozen=True)
class Rectangle(Window):
    """A box of area 1: the density of a uniform threshold.

    `derivative(x) = alpha 1[|x| < 1 / (2 alpha)]`,
    `primitive(x) = clamp(alpha x + 1/2, 0, 1)`.

    Args:
        alpha: height of the box, > 0; its width is `1 / alpha`, ends excluded.

    References:
        Wu, Deng, Li, Zhu, Shi, "Spatio-temporal backpropagation for training high-performance
        spiking neural networks", 2018, eq. 23.

    Example:
        >>> st.surrogates.Rectangle().derivative(torch.tensor([0.0, 0.4, 0.5]))
        tensor([1., 1., 0.])
    """

    includes_bound: ClassVar[bool] = False
    alpha: float = 1.0

    def __post_init__(self) -> None:
        check_positive("alpha", self.alpha)

    def window(self) -> tuple[float, float, float]:
        return 0.5 / self.alpha, self.alpha, 0.0

    def primitive(self, x: Tensor) -> Tensor:
        return (self.alpha * x + 0.5).clamp(0, 1)


@rule("leaky_rectangle")
@dataclass(frozen=True)
class LeakyRectangle(Window):
    """A box that leaks: no unit is ever dead.

    `derivative(x) = 1 / (2 width)` where `|x| <= width`, else `leak`. `primitive` is its
    integral, with the value 1/2 at 0.

    Args:
        width: half of the window, > 0; both of its ends are inside.
        leak: the derivative outside, >= 0.

    Example:
        >>> st.surrogates.LeakyRectangle().derivative(torch.tensor([0.5, 2.0]))
        tensor([0.5000, 0.0100])
    """

    width: float = 1.0
    leak: float = 0.01

    def __post_init__(self) -> None:
        check_positive("width", self.width)
        check_at_least("leak", self.leak, 0)

    def window(self) -> tuple[float, float, float]:
        return self.width, 0.5 / self.width, self.leak

    def primitive(self, x: Tensor) -> Tensor:
        inside = x.clamp(-self.width, self.width)
        return 0.5 + inside / (2 * self.width) + self.leak * (x - inside)

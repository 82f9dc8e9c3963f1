"""Operators as modules, deterministic in `eval()`, and schedules for their rules.

The numbers of a module are attributes: those of its rule (`tau`, `slope`, ...) and its own
(`threshold`, `k`, `gamma`, ...). Each is a number, a 0-d tensor (a buffer, which
`.to(dtype)` leaves in its dtype) or a schedule (a submodule). It can be assigned at any time, is
checked there, and counts from the next forward; so does the rule itself, as `estimator` or
`surrogate`, with all its numbers. Assigning to a number that another rule has and this one has not
raises, unless the class of the module has an attribute of that name; all other attributes are as in
any module.

    >>> sample = st.nn.Categorical("gumbel", tau=1.0)
    >>> sample.tau = 0.5
    >>> sample.rule
    GumbelST(tau=0.5)
    >>> sample.estimator = "reinmax"
    >>> sample.tau
    1.0

A schedule's position and a rule's number that is a 0-d tensor are arguments to a compiled or
exported graph, so a temperature may change at every step. A Python number is a constant there; one
that changes is compiled once more, and is an argument from then on. `torch.fx.symbolic_trace` and
`torch.jit.script` don't take these modules; `torch.export` and `torch.compile` do.
"""

from . import schedules
from .bernoulli import Bernoulli, BinaryConcrete, HardConcreteGate
from .categorical import (
    Argmax,
    Categorical,
    CategoricalInteger,
    CategoricalLookup,
    GumbelSoftmax,
)
from .codebook import Codebook
from .codes import FSQ, LFQ
from .control import ControlVariate
from .counts import Binomial, Geometric, NegativeBinomial, Poisson
from .pointwise import Ceil, Clamp, Floor, Heaviside, Round, Sign, Ternary, Trunc
from .presets import PRESETS, Preset, Recipe, preset
from .quantization.config import CONFIGS, Config, Scheme
from .quantization.convert import convert
from .quantization.health import CAGE, Oscillation, Oscillations, dampening
from .quantization.onnx import to_onnx
from .quantization.prepare import param_groups, prepare
from .quantization.sizes import Size, SizeReport, size_report
from .quantized import Quantized, codebook_loss, commitment
from .quantizer import Quantizer
from .quantizers import GroupedVQ, ResidualVQ, VectorQuantizer
from .router import Routing, TopKRouter
from .schedules import step_schedules
from .solver import Solve
from .subset import SampleSubset, SampleTopK, TopK

__all__ = [
    "CAGE",
    "CONFIGS",
    "FSQ",
    "LFQ",
    "PRESETS",
    "Argmax",
    "Bernoulli",
    "BinaryConcrete",
    "Binomial",
    "Categorical",
    "CategoricalInteger",
    "CategoricalLookup",
    "Ceil",
    "Clamp",
    "Codebook",
    "Config",
    "ControlVariate",
    "Floor",
    "Geometric",
    "GroupedVQ",
    "GumbelSoftmax",
    "HardConcreteGate",
    "Heaviside",
    "NegativeBinomial",
    "Oscillation",
    "Oscillations",
    "Poisson",
    "Preset",
    "Quantized",
    "Quantizer",
    "Recipe",
    "ResidualVQ",
    "Round",
    "Routing",
    "SampleSubset",
    "SampleTopK",
    "Scheme",
    "Sign",
    "Size",
    "SizeReport",
    "Solve",
    "Ternary",
    "TopK",
    "TopKRouter",
    "Trunc",
    "VectorQuantizer",
    "codebook_loss",
    "commitment",
    "convert",
    "dampening",
    "param_groups",
    "prepare",
    "preset",
    "schedules",
    "size_report",
    "step_schedules",
    "to_onnx",
]

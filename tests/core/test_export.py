"""Graphs that leave the process: torch.export in training mode, its files, ONNX."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import straightthrough as st
from calls import Calls

OPERATORS: dict[str, Callable[[], nn.Module]] = {
    "sign": st.nn.Sign,
    "sign tanh": lambda: st.nn.Sign("tanh"),
    "round": st.nn.Round,
    "argmax": lambda: st.nn.Argmax(0.7),
    "topk": lambda: st.nn.TopK(2),
    "sample_subset": lambda: st.nn.SampleSubset(2),
    "categorical": st.nn.Categorical,
    "gumbel": lambda: st.nn.GumbelSoftmax(0.5, hard=True),
    "bernoulli": st.nn.Bernoulli,
    "poisson": lambda: Counts(),
    "quantize": lambda: st.nn.Quantizer(st.grids.Int(4), st.scales.Fixed(0.25), "lsq"),
    "quantize measured": lambda: st.nn.Quantizer(st.grids.Int(4), st.scales.AbsMax(token=True)),
    "quantize observed": lambda: observed(),
    "prepared layer": lambda: prepared(),
    "wrap": lambda: Wrapped(),
    "solve": lambda: st.nn.Solve(largest, "imle", samples=2),
    "draw of a shard": lambda: Shard(),
    "chain of codes": lambda: Codes(dropout=True),
    "codes that are revived": lambda: Codes(revive=0.1, update="manual"),
    "router": lambda: Routed(),
}
FORMS = ["strict", "loose", "saved", "decomposed", "dynamic"]


class Wrapped(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return st.wrap(torch.sign, torch.tanh)(x)


class Shard(nn.Module):
    """Draws after as many rows as it has, which an export may leave open."""

    def forward(self, x: Tensor) -> Tensor:
        return st.categorical(x, "gumbel", seed=st.Seed(3, offset=x.shape[0]))


class Codes(nn.Module):
    """A chain of codebooks; with `dropout` it ends each example after a number that is drawn."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.codes = st.nn.ResidualVQ(3, 8, 5, k_means=False, learn="loss", **options)

    def forward(self, x: Tensor) -> Tensor:
        found = self.codes(x)
        value: Tensor = found.quantized + found.loss
        return value


class Routed(nn.Module):
    """Counts where tokens go."""

    def __init__(self) -> None:
        super().__init__()
        self.router = st.nn.TopKRouter(5, 2, rate=0)

    def forward(self, x: Tensor) -> Tensor:
        gates: Tensor = self.router(x).gates
        return gates


def largest(theta: Tensor) -> Tensor:
    return torch.zeros_like(theta).scatter(-1, theta.topk(2).indices, 1.0)


class Counts(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return st.poisson(log_rate=x)


def observed() -> nn.Module:
    scale = st.scales.Observed(percentile=90, momentum=1.0)
    quantize = st.nn.Quantizer(st.grids.Int(4), scale)
    quantize(torch.randn(4, 5))  # starts its scale
    return quantize


def prepared() -> nn.Module:
    layer = st.nn.prepare(nn.Linear(5, 5), [("", "w4a8")])
    layer(torch.randn(4, 5))  # starts its scales
    return layer


def network(operator: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 5), operator, nn.Linear(5, 1))


def exported(model: nn.Module, form: str, x: Tensor) -> nn.Module:
    dynamic = ({0: torch.export.Dim("batch")},) if form == "dynamic" else None
    program = torch.export.export(model, (x,), strict=form == "strict", dynamic_shapes=dynamic)
    if form == "saved":
        file = io.BytesIO()
        torch.export.save(program, file)
        program = torch.export.load(file)
    if form == "decomposed":
        program = program.run_decompositions()
    return program.module()


def value_and_gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    torch.manual_seed(3)
    y = model(x)
    parameters = [parameter for _, parameter in sorted(model.named_parameters())]
    return [y.detach(), *torch.autograd.grad(y.square().sum(), parameters)]


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", OPERATORS)
def test_an_exported_module_has_eagers_value_and_gradients(name: str, form: str) -> None:
    model, x = network(OPERATORS[name]()), torch.randn(4, 5)
    twin = exported(model, form, x)
    x = torch.randn(9, 5) if form == "dynamic" else x
    wanted = value_and_gradients(model, x)
    assert wanted[1].abs().max() > 1e-3, "no gradient goes through the operator"
    for got, one in zip(value_and_gradients(twin, x), wanted, strict=True):
        torch.testing.assert_close(got, one)


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
@pytest.mark.parametrize("form", ["strict", "loose", "saved", "decomposed"])
@pytest.mark.parametrize(
    "function", [st.sign, lambda x: st.categorical(x, "gumbel", seed=torch.tensor(1))]
)
def test_an_exported_vmap_has_eagers_value_and_gradients(
    function: Callable[[Tensor], Tensor], form: str
) -> None:
    model, x = network(Calls(torch.vmap(function))), torch.randn(4, 5)
    twin = exported(model, form, x)
    for got, one in zip(value_and_gradients(twin, x), value_and_gradients(model, x), strict=True):
        torch.testing.assert_close(got, one)


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
@pytest.mark.parametrize("form", ["strict", "loose", "decomposed"])
def test_a_vmap_is_exported_without_a_gradient(form: str) -> None:
    model, x = Calls(torch.vmap(st.round)), torch.randn(4, 5)
    assert torch.equal(exported(model, form, x)(x), model(x))


def test_an_exported_temperature_moves() -> None:
    tau = st.nn.schedules.Linear(2.0, 0.5, steps=3)
    model, x = network(st.nn.GumbelSoftmax(tau)), torch.randn(4, 5)
    twin = exported(model, "loose", x)
    for _ in range(3):
        torch.testing.assert_close(value_and_gradients(twin, x), value_and_gradients(model, x))
        st.nn.step_schedules(model)
        twin.get_buffer("1.tau.position").add_(1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: st.nn.Quantizer(st.grids.Int(4), st.scales.Learned(start="max")).eval(),
        lambda: st.nn.Quantizer(st.grids.Int(4), st.scales.Observed()),
        lambda: st.nn.VectorQuantizer(8, 5),
    ],
)
def test_what_has_not_started_is_not_exported(make: Callable[[], nn.Module]) -> None:
    """It would start at every call anew."""
    model, x = make(), torch.randn(20, 5)
    with pytest.raises(st.StraightThroughError, match=r"call the model on a batch first"):
        torch.export.export(model, (x,))
    model(x)
    program = torch.export.export(model, (x,)).module()
    for factor in (1, 5):
        wanted = copy.deepcopy(model)(factor * x)  # before the program moves the model's buffers
        torch.testing.assert_close(program(factor * x), wanted)


class Coded(nn.Module):
    """Codes, and the loss of their codebook."""

    def __init__(self) -> None:
        super().__init__()
        self.codes = st.nn.VectorQuantizer(8, 5, revive=0.5)

    def forward(self, x: Tensor) -> Tensor:
        found = self.codes(x)
        value: Tensor = found.quantized + found.loss
        return value


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
@pytest.mark.parametrize("form", ["loose", "decomposed"])
@pytest.mark.parametrize(
    "make",
    [
        Coded,
        lambda: st.nn.Quantizer(st.grids.Int(4), st.scales.Observed(momentum=0.3)),
        Routed,
    ],
)
def test_what_learns_from_its_forward_trains_for_steps(
    make: Callable[[], nn.Module], form: str
) -> None:
    model = network(make())
    model(torch.randn(40, 5))  # starts it
    twin = exported(copy.deepcopy(model), form, torch.randn(40, 5))
    for factor in (1, 3, 2):
        x = factor * torch.randn(40, 5)
        wanted = value_and_gradients(model, x)
        for got, one in zip(value_and_gradients(twin, x), wanted, strict=True):
            torch.testing.assert_close(got, one)
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(twin.get_buffer(name), buffer)


IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
@pytest.mark.parametrize(
    ("function", "x"),
    [
        (st.sign, IMAGE.to(memory_format=torch.channels_last)),
        (lambda x: st.heaviside(x, 0.5), IMAGE.transpose(0, 3)),
        (lambda x: st.ternary(x, 0.5), IMAGE[:, :2].movedim(1, -1)),
        (st.argmax, IMAGE.movedim(1, -1)),
        (lambda x: st.topk(x, 2), IMAGE.movedim(1, -1)),
        (lambda x: st.categorical(x, seed=1), IMAGE.movedim(1, -1)),
    ],
)
def test_a_value_lies_in_memory_as_its_graph_has_it(
    function: Callable[[Tensor], Tensor], x: Tensor
) -> None:
    model = Calls(lambda x: function(x).reshape(len(x), -1))
    program = torch.export.export(model, (x,)).run_decompositions()  # to a view, where that will do
    assert torch.equal(program.module()(x), model(x))


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_a_library_of_aotinductor_has_eagers_values(tmp_path: Path) -> None:
    model = network(nn.Sequential(st.nn.Sign("tanh"), st.nn.Argmax(0.7), st.nn.Categorical()))
    x = torch.randn(4, 5)
    program = torch.export.export(model, (x,))
    package = str(tmp_path / "model.pt2")
    torch._inductor.aoti_compile_and_package(program, package_path=package)
    library = torch._inductor.aoti_load_package(package)
    torch.manual_seed(3)
    got = [library(x) for _ in range(2)]
    torch.manual_seed(3)
    torch.testing.assert_close(got, [model(x) for _ in range(2)])


def test_a_graph_of_an_unknown_class_says_what_it_needs() -> None:
    with pytest.raises(LookupError, match=r"needs the class their\.Rule, .* import the module"):
        torch.ops.straightthrough.apply("their.Rule()", [], [torch.zeros(2)], [])


def test_text_from_elsewhere_makes_nothing_but_operations() -> None:
    for text in ("os.system('true')", "__import__('os')", "builtins.print(1)"):
        with pytest.raises((LookupError, ValueError)):
            torch.ops.straightthrough.apply(text, [], [torch.zeros(2)], [])


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        lambda: st.nn.VectorQuantizer(8, 5),
        lambda: st.nn.FSQ([3] * 5),
        lambda: st.nn.TopKRouter(5, 2),
    ],
)
def test_a_module_that_returns_a_named_tuple_is_saved(make, mode, tmp_path) -> None:
    model, x = make(), torch.randn(20, 5)
    model(x)  # starts a codebook
    model.train(mode)
    torch.export.save(torch.export.export(model, (x,)), tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    got, due = loaded(x), model(x)
    assert type(got) is type(due)
    torch.testing.assert_close([*got], [*due])


SEED = st.Seed(1, offset=3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: st.nn.Sign(),
        lambda: st.nn.Argmax(),
        lambda: st.nn.TopK(2),
        lambda: st.nn.Categorical().eval(),
        lambda: st.nn.Bernoulli().eval(),
        lambda: st.nn.GumbelSoftmax(st.nn.schedules.Linear(2.0, 0.5, 3)).eval(),
        lambda: Calls(lambda x: st.bernoulli(x, seed=SEED)),
        lambda: Calls(lambda x: st.categorical(x, seed=SEED)),
        lambda: Calls(lambda x: st.gumbel_softmax(x, dim=0, seed=SEED)),
    ],
)
def test_onnx(make: Callable[[], nn.Module]) -> None:
    model, x = network(make()), torch.randn(4, 5)
    program = to_onnx(model, x)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    x = torch.randn(9, 5)  # 45 elements, of which 8 share their noise
    got = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(got), model(x).detach(), rtol=1e-4, atol=1e-5)


def to_onnx(model: nn.Module, x: Tensor) -> torch.onnx.ONNXProgram:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        batch = torch.export.Dim("batch", max=64)
        program = torch.onnx.export(model, (x,), dynamo=True, dynamic_shapes=({0: batch},))
    assert program is not None
    return program


@pytest.mark.parametrize(
    ("module", "mend"),
    [
        (st.nn.Categorical(), r"pass seed=, or export the module in eval\(\)"),
        (st.nn.Bernoulli(), r"pass seed=, or export the module in eval\(\)"),
        (Calls(lambda x: st.poisson(log_rate=x, seed=1)), "export what computes its mean"),
    ],
)
def test_what_onnx_has_no_function_for_says_what_to_do(module: nn.Module, mend: str) -> None:
    with pytest.raises(torch.onnx.OnnxExporterError, match=f"ONNX has no function for .*{mend}"):
        to_onnx(network(module), torch.randn(4, 5))

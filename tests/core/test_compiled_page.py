"""The tables of docs/guides/compiled.md: every cell is tried."""

from __future__ import annotations

import multiprocessing
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor, func
from torch.utils.checkpoint import checkpoint

import straightthrough as st
from core.test_export import FORMS, exported, network, value_and_gradients
from core.test_transforms import WEIGHT, example
from core.test_transforms import transforms as transforms_of

Function = Callable[[Tensor], Tensor]
PAGE = Path(__file__).parents[2] / "docs" / "guides" / "compiled.md"


def table(header: str) -> list[list[str]]:
    text = PAGE.read_text(encoding="utf-8").partition(header)[2].partition("\n\n")[0]
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows if "---" not in row[0]]


COLUMNS = ("smooth, eager", "smooth, compiled", "draws, eager", "draws, compiled")
TRANSFORMS = table("| what | smooth, eager | smooth, compiled | draws, eager | draws, compiled |")
EXPORTS = table("| what | value | gradient |")
CELLS = [
    (row[0], column, claim)
    for row in TRANSFORMS
    for column, claim in zip(COLUMNS, row[1:], strict=True)
]


def smooth(x: Tensor) -> Tensor:
    return st.sign(x, surrogate="tanh")


def draw(x: Tensor) -> Tensor:
    return st.categorical(x, "reinmax", seed=1)


def expressions(f: Function, compile: Callable[[Function], Function]) -> dict[str, Function]:
    """Every row of the table as a function of the example, with `compile` where it belongs."""

    def pull(f: Function, x: Tensor, create_graph: bool = False) -> Tensor:
        x = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad((f(x) * WEIGHT).sum(), x, create_graph=create_graph)
        if not create_graph:
            return gradient
        return torch.autograd.grad(gradient.square().sum(), x)[0]

    def autocast(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return f(x)

    def inference(x: Tensor) -> Tensor:
        with torch.inference_mode():
            return compile(f)(x).clone()

    def hooked(x: Tensor) -> Tensor:
        with torch.autograd.graph.save_on_cpu():
            return pull(compile(f), x)

    recomputed = compile(lambda x: checkpoint(f, x, use_reentrant=False))
    batched = compile(func.vmap(func.hessian(lambda x, w: (f(x) * w).sum())))
    return {
        "backward": lambda x: pull(compile(f), x),
        "backward of backward": lambda x: pull(compile(f), x, create_graph=True),
        **{name: compile(function) for name, function in transforms_of(f).items()},
        "vmap of hessian": lambda x: batched(x, WEIGHT),
        "checkpoint": lambda x: pull(recomputed, x),
        "autocast": lambda x: pull(compile(autocast), x),
        "inference mode": inference,
        "saved-tensor hooks": hooked,
    }


def as_it_is(function: Function) -> Function:
    return function


def of_column(column: str) -> tuple[Function, Callable[[Function], Function]]:
    return (
        smooth if column.startswith("smooth") else draw,
        whole if column.endswith("compiled") else as_it_is,
    )


def whole(function: Function) -> Function:
    return torch.compile(function, fullgraph=True, backend="aot_eager")


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    """New processes, which have torch and its compiler imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "torch._dynamo.convert_frame"])
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as pool:
        yield pool


@pytest.mark.parametrize(("row", "column", "claim"), CELLS)
def test_a_cell_is_true(row: str, column: str, claim: str, processes: ProcessPoolExecutor) -> None:
    if claim == "yes":
        torch.compiler.reset()
        f, compile = of_column(column)
        wanted = expressions(f, as_it_is)[row](example())
        assert wanted.abs().max() > 0.001
        torch.testing.assert_close(expressions(f, compile)[row](example()), wanted)
        return
    # In a process of its own, as torch does not leave a level whose trace has failed.
    processes.submit(try_refused, row, column, claim).result()


def said(error: BaseException | None) -> str:
    """The text of an error, and of those that it came from."""
    return f"{error} {said(error.__cause__ or error.__context__)}" if error else ""


def try_refused(row: str, column: str, claim: str) -> None:
    """Assert that a cell is refused, by torch for its own functions too or by us with a reason."""
    f, compile = of_column(column)
    with pytest.raises(Exception) as ours:  # noqa: PT011  # torch's are of many types
        expressions(f, compile)[row](example())
    if claim == "we refuse":
        assert "has no forward-mode derivative" in said(ours.value)
        return
    assert claim == "torch refuses"
    with pytest.raises(Exception) as theirs:  # noqa: PT011  # the same
        expressions(torch.tanh, compile)[row](example())
    assert type(theirs.value) is type(ours.value)


def test_every_row_is_tried() -> None:
    assert [row[0] for row in TRANSFORMS] == [*expressions(smooth, whole)]
    assert re.sub("[^a-z ]", "", " ".join(row[0] for row in EXPORTS)) == (
        "strict not strict saved and loaded decomposed dynamic batch"
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_a_row_of_the_exports_is_true(form: str) -> None:
    row = EXPORTS[FORMS.index(form)]
    assert row[1:] == ["yes", "yes"]
    model, x = network(st.nn.Categorical()), torch.randn(4, 5)
    got, wanted = value_and_gradients(exported(model, form, x), x), value_and_gradients(model, x)
    torch.testing.assert_close(got, wanted)

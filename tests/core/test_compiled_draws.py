"""Several draws without a seed in one graph: each is one of its own, that of eager code."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import straightthrough as st

Draws = Callable[[Tensor], tuple[Tensor, ...]]

DRAWS: dict[str, Draws] = {
    "categorical": lambda x: (st.categorical(x), st.categorical(x), st.categorical(x)),
    "several": lambda x: (st.bernoulli(x), st.poisson(log_rate=x), st.gumbel_softmax(x, 0.5)),
    "modules": lambda x: tuple(st.nn.Bernoulli()(x) for _ in range(2)),
}


def assert_as_eager(draws: Draws, x: Tensor) -> None:
    torch.compiler.reset()
    compiled = torch.compile(draws, fullgraph=True, backend="aot_eager_decomp_partition")
    torch.manual_seed(0)
    wanted, after = draws(x), torch.rand(1)
    torch.manual_seed(0)
    found = compiled(x)
    assert torch.equal(torch.rand(1), after)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("name", DRAWS)
def test_draws_from_the_same_logits_are_not_the_same(name: str, grad: bool) -> None:
    assert_as_eager(DRAWS[name], torch.zeros(20, 5, requires_grad=grad))


@pytest.mark.parametrize("randomness", ["same", "different"])
@pytest.mark.parametrize("name", DRAWS)
def test_nor_are_they_inside_vmap(name: str, randomness: str) -> None:
    def mapped(x: Tensor) -> tuple[Tensor, ...]:
        return torch.func.vmap(DRAWS[name], randomness=randomness)(x)

    assert_as_eager(mapped, torch.zeros(3, 20, 5, requires_grad=True))


@pytest.mark.parametrize("randomness", ["same", "different"])
def test_logits_that_vmap_does_not_map_are_drawn_from_as_in_eager_code(randomness: str) -> None:
    logits = torch.zeros(20, requires_grad=True)

    def mapped(weight: Tensor) -> tuple[Tensor, ...]:
        def gated(w: Tensor) -> Tensor:
            return w * st.bernoulli(logits) * st.bernoulli(logits)

        return (torch.func.vmap(gated, randomness=randomness)(weight),)

    assert_as_eager(mapped, torch.ones(3, 20))


def test_vmap_asks_what_randomness_is_meant() -> None:
    torch.compiler.reset()
    logits = torch.zeros(20)
    mapped = torch.compile(
        torch.func.vmap(lambda w: w * st.bernoulli(logits)), fullgraph=True, backend="eager"
    )
    with pytest.raises(Exception, match="randomness"):
        mapped(torch.ones(3, 20))


def test_a_generator_is_asked_outside_of_graphs() -> None:
    def draw(x: Tensor, generator: torch.Generator) -> Tensor:
        return 2 * st.categorical(x, generator=generator)

    x = torch.zeros(20, 5)
    generators = [torch.Generator().manual_seed(5) for _ in range(2)]
    torch.compiler.reset()
    compiled = torch.compile(draw, backend="eager")
    for _ in range(2):
        assert torch.equal(compiled(x, generators[0]), draw(x, generators[1]))
        assert torch.equal(*(generator.get_state() for generator in generators))
    torch.compiler.reset()
    with pytest.raises(Exception, match="a graph can't draw from a generator"):
        torch.compile(draw, fullgraph=True, backend="eager")(x, generators[0])

    class Drawn(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return draw(x, generators[0])

    with pytest.raises(st.ArgumentError, match="a graph can't draw from a generator"):
        torch.export.export(Drawn(), (x,))

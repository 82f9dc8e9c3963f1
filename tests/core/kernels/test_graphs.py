"""What compiled graphs hold of a kernel: all of it, and nothing of its reference."""

import pytest
import torch
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func

import straightthrough as st
from straightthrough.core import kernels
from straightthrough.estimators import gumbel_rao


def graphs_of(function, x):
    """What the compiled forward and backward of `function` call."""
    called = []

    def keep(graph, _):
        targets = (str(node.target) for node in graph.graph.nodes)
        called.append(
            {target.removesuffix(".numbers").removesuffix(".default") for target in targets}
        )
        return make_boxed_func(graph.forward)

    torch.compiler.reset()
    backend = aot_autograd(fw_compiler=keep, bw_compiler=keep)
    y = torch.compile(function, fullgraph=True, backend=backend)(x)
    if y.requires_grad:
        y.sum().backward()
    return called


@pytest.mark.kernels
@pytest.mark.parametrize(
    ("function", "forward", "backward"),
    [
        (st.sign, "sign_and_window", "window_gradient"),
        (lambda x: st.sign(x, surrogate="tanh"), "sign", "Tanh"),
        (lambda x: st.heaviside(x, 0.5), "heaviside", "Sigmoid"),
        (st.categorical, "draw", "reinmax"),
        (lambda x: st.categorical(x, "gumbel"), "draw", "gumbel_st"),
        (lambda x: st.categorical(x, "gapped"), "draw", "gapped"),
        (lambda x: st.categorical(x, "mve"), "draw", "mve"),
        (st.categorical_integer, "draw_index", "mve_integer"),
        (st.gumbel_softmax, "gumbel_softmax", "softmax_backward_of_value"),
        (st.bernoulli, "binary_draw", "binary_reinmax"),
        (st.hard_concrete, "concrete", "concrete_backward"),
        (st.argmax, "argmax_hot", "softmax_backward_of_logits"),
        (lambda x: st.topk(x, 2), "topk_hot", "logistic_backward"),
        (lambda x: st.topk(x, 2, "softmax"), "topk_hot", "softmax_backward_of_logits"),
        (lambda x: st.assignment(x[:, :2]), "matched", "sinkhorn_gradient"),
    ],
)
def test_compiled_code_calls_kernels_whole(function, forward, backward):
    """And none of them for a gradient that is not due."""
    namespace = "straightthrough."
    with torch.enable_grad():
        graphs = graphs_of(function, torch.randn(2, 5, requires_grad=True))
        bare = graphs_of(function, torch.randn(2, 5))
    assert namespace + forward in graphs[0]
    assert namespace + backward in graphs[1]
    assert not any(target == "aten.exp" for graph in graphs for target in graph)
    assert len(bare) == 1
    assert not {f"{namespace}sign_and_window", namespace + backward} & bare[0]


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(
    "function", [st.sign, lambda x: st.heaviside(x, 0.5), lambda x: st.ternary(x, 0.5)]
)
def test_compiled_hard_values_keep_the_order_of_dimensions(function, dynamic):
    compiled = torch.compile(function, fullgraph=True, dynamic=dynamic)
    x = torch.randn(2, 3, 4, 5)
    for each in (x.to(memory_format=torch.channels_last), x.transpose(0, 2)[..., ::2]):
        for grad in (False, True):
            wanted = function(each)
            torch.compiler.reset()
            got = compiled(each.detach().requires_grad_(grad))
            assert torch.equal(got, wanted)
            assert got.stride() == wanted.stride()


@pytest.mark.parametrize("samples", [1, 3])
def test_without_kernels_a_graph_has_a_loop_of_draws_whole_and_one_draw_by_its_formula(samples):
    rule = gumbel_rao.GumbelRao(samples=samples)
    with torch.enable_grad(), kernels.disabled():
        x = torch.zeros(2, 5, requires_grad=True)
        _, backward = graphs_of(lambda x: st.categorical(x, rule, seed=1), x)
    assert ("straightthrough.gumbel_st" in backward) == (samples > 1)
    assert ("aten._softmax" in backward) == (samples == 1)

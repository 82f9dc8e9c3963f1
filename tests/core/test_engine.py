"""The engine: gradients that pass as they are."""

import pytest
import torch

import straightthrough as st
from straightthrough.core.engine import SMALL


@pytest.mark.parametrize("count", [0, 1, SMALL, SMALL + 1])
@pytest.mark.parametrize("of", [torch.Tensor.requires_grad_, torch.nn.Parameter])
def test_a_gradient_that_passes_is_the_same_with_a_node_of_torch_or_of_ours(count, of):
    x = of(torch.linspace(-2, 2, count).expand(2, -1).t())
    kept = x.detach().clone()
    y, grad = st.round(x), torch.randn(count, 2)
    assert torch.equal(y, kept.round())
    assert y.stride() == kept.round().stride()
    (gradient,) = torch.autograd.grad(y, x, grad, retain_graph=True)
    assert torch.equal(gradient, grad)
    y.mul_(3)
    assert torch.equal(x, kept)
    assert torch.equal(torch.autograd.grad(y, x, grad)[0], 3 * grad)
    seen = []
    with torch.autograd.graph.saved_tensors_hooks(seen.append, lambda _: None):
        assert type(st.round(x)) is torch.Tensor
    assert seen == []


def test_a_subclass_has_a_node_of_ours():
    class Named(torch.Tensor):
        """Stands for what another library makes of tensors."""

    x = torch.ones(2, requires_grad=True).as_subclass(Named)
    assert "Node" in st.round(x).grad_fn.name()

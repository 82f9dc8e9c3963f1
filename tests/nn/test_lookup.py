"""Lookups: the function on the module's own table, and a gather in `eval()`."""

import math

import pytest
import torch

import straightthrough as st
from nn.test_modules import X, value_and_gradient


def test_lookup_is_the_function_on_its_own_table():
    module = st.nn.CategoricalLookup(5, 3, "gumbel", tau=0.5)
    ours = value_and_gradient(module)
    table = module.table.detach().clone().requires_grad_()
    rule = st.estimators.GumbelST(0.5)
    theirs = value_and_gradient(lambda x: st.categorical_lookup(x, table, rule))
    assert all(map(torch.equal, ours, theirs))
    assert torch.equal(module.table.grad, table.grad)


def test_lookup_in_eval_gathers_bit_for_bit():
    module = st.nn.CategoricalLookup(5, 3).eval()
    with torch.no_grad():
        module.table[0, 0] = math.inf  # a product with a one-hot would make NaN of this
    x = X.clone().requires_grad_()
    y = module(x)
    y.sum().backward()
    assert torch.equal(y, module.table[[4, 3]])
    picked = torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0])
    assert torch.equal(module.table.grad, picked[:, None].expand(5, 3))
    assert x.grad is None


def test_lookup_in_eval_of_nan_dim_and_mask():
    module = st.nn.CategoricalLookup(5, 3, dim=0).eval()
    x = X.T.clone()
    x[2, 1] = math.nan
    y = module(x, mask=torch.tensor([True, True, True, True, False])[:, None])
    assert torch.equal(y[0], module.table[3])
    assert y[1].isnan().all()


@pytest.mark.parametrize("classes", [2, 4])
def test_lookup_refuses_another_number_of_classes_than_its_table_has(classes):
    module = st.nn.CategoricalLookup(3, 5)
    for mode in (True, False):
        with pytest.raises(st.ShapeError, match=rf"table must be \(C, D\) with C = {classes}"):
            module.train(mode)(torch.zeros(2, classes))


@pytest.mark.parametrize("rule", ["reinmax", "gumbel"])
def test_lookup_of_a_table_without_features_has_a_gradient_of_0(rule):
    x = X.clone().requires_grad_()
    module = st.nn.CategoricalLookup(5, 0, rule)
    module(x).sum().backward()
    assert torch.equal(x.grad, torch.zeros_like(X))
    assert module.table.grad.shape == (5, 0)

"""A forward that a checkpoint runs again in backward learns nothing twice."""

import copy
import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

import straightthrough as st

MODULES = {
    "a codebook by moving averages": st.nn.VectorQuantizer(16, 8, "rotation", update="manual"),
    "a codebook by its loss": st.nn.VectorQuantizer(16, 8, "rotation", learn="loss"),
    "residuals": st.nn.ResidualVQ(2, 16, 8, "rotation", update="manual"),
    "an observed scale": st.nn.Quantizer(st.grids.Int(4), st.scales.Observed(momentum=0.5)),
    "a router": st.nn.TopKRouter(8, 2),
    "a running confidence": st.nn.Argmax(st.nn.schedules.Confidence(decay=0.5)),
}


def summed(model: nn.Module, x: Tensor) -> Tensor:
    """Return a number that every part of what the module returns has a part in."""
    y = model(x)
    parts = y if isinstance(y, tuple) else (y,)
    return sum((part**2).sum() for part in parts if part.is_floating_point())


def trained(model: nn.Module, again: bool, reentrant: bool) -> list[Tensor]:
    """Return loss, gradients and what was learned of two steps."""
    model = copy.deepcopy(model)
    found = []
    for step in range(2):
        x = ((1 + step) * torch.linspace(-2, 2, 96).sin()).reshape(12, 8).requires_grad_()
        loss = checkpoint(summed, model, x, use_reentrant=reentrant) if again else summed(model, x)
        loss.backward()
        found += [loss.detach(), x.grad]
    found += [p.grad for p in model.parameters() if p.grad is not None]
    return [*found, *(kept for kept in model.state_dict().values() if isinstance(kept, Tensor))]


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", MODULES)
def test_a_checkpoint_changes_nothing(name, reentrant):
    whole, again = (trained(MODULES[name], again, reentrant) for again in (False, True))
    for one, other in zip(whole, again, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_codebook_that_has_moved_is_refused(reentrant):
    model = st.nn.VectorQuantizer(16, 8)
    x = torch.randn(12, 8, requires_grad=True)
    loss = checkpoint(summed, model, x, use_reentrant=reentrant)
    with pytest.raises(st.ArgumentError, match=r"runs again in backward.*update='manual'"):
        loss.backward()


@pytest.mark.parametrize("reentrant", [False, True])
def test_an_observed_scale_that_another_input_has_moved_is_refused(reentrant):
    """The gradient was that of the scale as it had become, without a word."""
    model = st.nn.Quantizer(st.grids.Int(4), st.scales.Observed(momentum=0.5))
    x = torch.linspace(-1, 1, 96).reshape(12, 8).requires_grad_()
    model(x.detach())
    loss = sum(checkpoint(summed, model, k * x, use_reentrant=reentrant) for k in (1, 5))
    with pytest.raises(st.ArgumentError, match=r"runs again in backward.*Observed scale has moved"):
        loss.backward()
    loss = sum(checkpoint(summed, model.eval(), k * x, use_reentrant=reentrant) for k in (1, 5))
    loss.backward()


def test_a_selective_checkpoint_sees_no_operator_that_the_first_forward_had_not():
    """What is asked of the scale when it runs again was looked for among those of the first."""
    model, x = st.nn.Quantizer(st.grids.Int(4), st.scales.Observed()), torch.randn(12, 8)
    model(x)
    every = functools.partial(
        create_selective_checkpoint_contexts, lambda *_, **__: CheckpointPolicy.MUST_RECOMPUTE
    )
    whole, again = x.clone().requires_grad_(), x.clone().requires_grad_()
    checkpoint(summed, model, again, use_reentrant=False, context_fn=every).backward()
    summed(model.eval(), whole).backward()
    assert torch.equal(whole.grad, again.grad)


@pytest.mark.parametrize("scale", [st.scales.Observed(), st.scales.Observed(axis=0)], ids=str)
@pytest.mark.parametrize("rule", ["ste", "lsq", "ewgs", "trust", "poly", "dge"])
def test_an_observed_scale_may_move_before_backward(rule, scale):
    """Torch refused the backward of two calls: the scale that the first had saved had changed."""
    model = st.nn.Quantizer(st.grids.Int(4), scale, rule, shape=(12, 8))
    batches = [k * torch.linspace(-2, 2, 96).sin().reshape(12, 8) for k in (1, 2, 3)]
    gradients = []
    for together in (True, False):
        net = copy.deepcopy(model)
        inputs = [batch.clone().requires_grad_() for batch in batches]
        losses = []
        for x in inputs:
            losses.append(summed(net, x))
            if not together:
                losses.pop().backward()
        if together:
            sum(losses).backward()
        gradients.append([x.grad for x in inputs])
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


def test_a_control_variate_is_not_exported_in_training():
    model = st.nn.Categorical(control=st.nn.ControlVariate(4))
    with pytest.raises(st.StraightThroughError, match=r"control variate.*in eval\(\)"):
        torch.export.export(model, (torch.zeros(3, 4),))
    y = torch.export.export(model.eval(), (torch.zeros(3, 4),)).module()(torch.ones(3, 4))
    assert torch.equal(y, torch.tensor([1.0, 0, 0, 0]).expand(3, 4))


MOVING = {**MODULES, "a codebook that moves": st.nn.VectorQuantizer(16, 8)}
PARTITIONED = "aot_eager_decomp_partition"
"""Decides as the default backend does what backward computes again, and compiles no code."""


def started(name: str) -> tuple[nn.Module, Tensor]:
    """Return a module that has seen a batch, by which some start, and another batch."""
    model, x = copy.deepcopy(MOVING[name]), torch.linspace(-2, 2, 96).sin().reshape(12, 8)
    model(x)
    return model, (2 * x).requires_grad_()


def inside(model: nn.Module, x: Tensor) -> Tensor:
    return checkpoint(summed, model, x, use_reentrant=False)


def check_compiled(name: str, function: Callable[[nn.Module, Tensor], Tensor]) -> None:
    """Compare gradient and state of the compiled function with those of `summed`."""
    (model, x), (again, y) = started(name), started(name)
    summed(model, x).backward()
    torch.compile(function, backend=PARTITIONED, fullgraph=True)(again, y).backward()
    torch.testing.assert_close(y.grad, x.grad)
    torch.testing.assert_close(again.state_dict(), model.state_dict())


@pytest.mark.parametrize("name", MOVING)
def test_backward_of_a_compiled_module_sees_buffers_as_forward_did(name):
    check_compiled(name, summed)


READ_AGAIN = ("an observed scale", "a codebook that moves")
"""Whose buffer, which their forward changes, a value is computed of."""


@pytest.mark.parametrize("name", sorted(MOVING.keys() - set(READ_AGAIN)))
def test_a_checkpoint_is_compiled_with_its_module(name):
    check_compiled(name, inside)


@pytest.mark.parametrize("name", READ_AGAIN)
def test_a_checkpoint_compiled_with_what_it_reads_again_is_refused(name):
    # Ours, or torch's own where it has noticed.
    with pytest.raises(RuntimeError, match=r"leave the module out of|modified by an inplace"):
        check_compiled(name, inside)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", MOVING)
def test_a_module_compiled_inside_a_checkpoint_is_refused(name, reentrant):
    model, x = started(name)
    compiled = torch.compile(model, backend=PARTITIONED, fullgraph=True)
    loss = checkpoint(summed, compiled, x, use_reentrant=reentrant)
    with pytest.raises(st.StraightThroughError, match="compile the function that calls checkpoint"):
        loss.backward()


def test_what_is_exported_asks_no_such_question():
    model, x = started("a router")
    code = torch.export.export(model, (x.detach(),)).module().code
    assert "load" in code
    assert "straightthrough.before" not in code

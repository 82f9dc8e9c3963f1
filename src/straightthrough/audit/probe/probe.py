"""The loss of a live model as a function of the outcomes of one of its draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import disable_saved_tensors_hooks
from torch.utils._pytree import tree_flatten, tree_unflatten

from ...core.engine import apply
from ...core.errors import ArgumentError, check_limit, check_model
from ...core.noise import Seed
from ...core.operation import Operation
from ...nn.base import RuleModule
from ..compare.exact import Loss
from .draws import DRAWS, Draw
from .tracer import BatchLoss, Tracer

ROWS = 2**10
"""Examples that the model sees at once."""


@dataclass(frozen=True)
class Site:
    """A draw that was seen: its kind, its logits as `(R, C)`, their shape, and what it returned.

    `hooked` says whether what is saved there goes through hooks, as those of a checkpoint.
    """

    draw: Draw
    logits: Tensor
    shape: torch.Size
    value: Tensor
    hooked: bool

    def at(self, one_hot: Tensor, rows: slice, inputs: Sequence[Tensor]) -> Tensor:
        """Return the value where some rows have the outcomes `one_hot`, the others as drawn."""
        own = self.draw.value(one_hot.to(self.value.dtype), inputs)
        drawn = self.value.reshape(len(self.logits), *own.shape[1:])
        whole = torch.cat([drawn[: rows.start], own, drawn[rows.stop :]])
        return whole.reshape(self.value.shape)


def probe(
    model: nn.Module,
    loss: BatchLoss,
    batch: Any,
    *,
    name: str | None = None,
    example: int = 0,
    seed: int = 0,
) -> tuple[Loss, Tensor]:
    """The loss of a live model as a function of its discrete outcomes, for `advise` and `compare`.

    Value: `(outcome_loss, logits)`. The loss is called, and the draw in it found that comes
    from `st.categorical`, `categorical_integer`, `categorical_lookup`, `gumbel_softmax(hard=True)`,
    `bernoulli`, their modules or distributions. `outcome_loss(z)` is the loss with that draw
    returning what the one-hots z say, all else as it was: the same noise in dropout and in other
    draws, whose gradients are their own estimators'. One example of the batch is varied; the
    outcomes of the others stay as they were drawn.

    Args:
        model: holds the draw, in `train()` where that is a module of `st.nn`, which in `eval()`
            draws nothing.
        loss: maps `(model, batch)` to a tensor, as the training step does; one that is not a
            number, but has one an example, is summed.
        batch: what the loss takes. Its first tensor has the examples in its first dimension; where
            there is no tensor in it, it is one example. A small one costs less.
        name: of the draw, where there are several: the path of its module or, of a function, that
            of the module that calls it, a point and the operator; an error names all.
        example: which one is varied.
        seed: of the noise.

    Returns:
        `outcome_loss`, from one-hots `(N, L, C)` to `(N,)`, and logits `(L, C)`: one variable each
        row of the example's logits. Binary draws have the two classes 0 and 1.

    Raises:
        ArgumentError: if there is no such draw in the model, or several and no `name`, or it lies
            in a checkpoint (`torch.utils.checkpoint`, which draws again in backward), or the rows
            of logits are no multiple of the batch, or don't have its examples first. Where
            shapes leave that open, as of `(T, B, C)` with a T that B divides, the loss is called
            once more, with another example in the place of this one.

    Edge cases: random state, buffers and `.grad` stay as they are. Logits of -infinity, as those
    that a mask rules out, are never drawn. A model that `torch.func.vmap` can't map (BatchNorm in
    training after the draw, a branch on values, a checkpoint) is called an outcome at a time. What
    is compiled runs eagerly; the path of a module in `torch.compile(model)` begins with
    `_orig_mod`.

    Cost: the model once an outcome; what comes before the draw, once each 2^10 examples.

    Example:
        >>> class Coder(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.encode, self.draw = torch.nn.Linear(5, 6), st.nn.Categorical()
        ...         self.decode = torch.nn.Linear(6, 5)
        ...     def forward(self, x):
        ...         return self.decode(self.draw(self.encode(x).unflatten(-1, (2, 3))).flatten(-2))
        >>> mse = lambda model, x: torch.nn.functional.mse_loss(model(x), x)
        >>> loss, logits = st.audit.probe(Coder(), mse, torch.randn(1, 5))
        >>> logits.shape, st.audit.advise(loss, logits, estimators=["reinmax"]).outcomes
        (torch.Size([2, 3]), 9)
    """
    check_model(model)
    if not callable(loss):
        raise ArgumentError(f"loss must be a function of (model, batch), got {loss!r}")
    check_limit("example", example)
    Seed(seed)  # checks it
    trace = Tracer(model, loss, batch, seed)
    name, site = _choose(*_sites(trace), name, model)
    total = _examples(batch) or 1
    rows = _rows_of(example, total, site)
    if _may_lie_otherwise(total, site):
        _check_rows(Tracer(model, loss, _exchanged(batch, example), seed), name, site, rows)
    return OutcomeLoss(trace, name, site, rows, max(1, ROWS // total)), site.logits[rows].clone()


class OutcomeLoss:
    """The loss, each example's, at outcomes of one draw: `(N, L, C)` to `(N,)`."""

    def __init__(self, trace: Tracer, name: str, site: Site, rows: slice, at_once: int) -> None:
        self._trace, self._name, self._site, self._rows = trace, name, site, rows
        self._at_once, self._mappable = at_once, True

    def __call__(self, z: Tensor) -> Tensor:
        return torch.cat([self._of(part) for part in z.split(self._at_once)])

    def _of(self, z: Tensor) -> Tensor:
        if self._mappable:
            try:
                with self._trace.undisturbed(), disable_saved_tensors_hooks("not here"):
                    return torch.func.vmap(self._one, randomness="same")(z)
            except RuntimeError:  # of vmap, of hooks that see what lies below it, or of the model
                self._mappable = False
        found = []
        for outcome in z:
            with self._trace.undisturbed():
                found.append(self._one(outcome))
        return torch.stack(found)

    def _one(self, z: Tensor) -> Tensor:
        reached = False

        def see(name: str, operation: Operation, inputs: Sequence[Tensor]) -> Tensor | None:
            nonlocal reached
            if name != self._name:
                return None
            reached = True
            return self._site.at(z, self._rows, inputs)

        value = self._trace(see)
        if not reached:
            raise ArgumentError(f"loss must come to {self._name!r} whenever it is called")
        return value


def _sites(trace: Tracer) -> tuple[dict[str, Site], list[str]]:
    """Return the draws by name, and the names of the other operators."""
    sites: dict[str, Site] = {}
    others: list[str] = []

    def see(name: str, operation: Operation, inputs: Sequence[Tensor]) -> Tensor | None:
        draw = DRAWS.get(type(operation))
        if draw is None:
            others.append(name)
            return None
        logits = draw.logits(operation, inputs).detach()
        value: Tensor = apply(operation, *inputs)
        rows = logits.reshape(-1, logits.shape[-1])
        sites[name] = Site(draw, rows, logits.shape, value.detach(), _hooked())
        return value

    with trace.undisturbed():
        trace(see)
    return sites, others


def _hooked() -> bool:
    """Whether there are hooks on what is saved for backward."""
    try:
        with disable_saved_tensors_hooks("there are"):
            return False
    except RuntimeError:
        return True


def _choose(
    sites: dict[str, Site], others: list[str], name: str | None, model: nn.Module
) -> tuple[str, Site]:
    known = ", ".join(map(repr, sites))
    if not sites:
        seen = f"; operators it calls: {', '.join(map(repr, others))}" if others else ""
        still = any(isinstance(m, RuleModule) and not m.training for m in model.modules())
        hint = "; in eval() modules of st.nn draw nothing: call model.train()" if still else ""
        raise ArgumentError(
            f"loss must come to a categorical or binary draw of this library, such as "
            f"st.categorical or st.nn.Bernoulli, got a model without one{seen}{hint}"
        )
    if name is None and len(sites) > 1:
        raise ArgumentError(f"model draws at {len(sites)} places, {known}; choose one by name=")
    if name is not None and name not in sites:
        raise ArgumentError(f"name must be one of {known}, got {name!r}")
    found = next(iter(sites)) if name is None else name
    if sites[found].hooked:
        raise ArgumentError(
            f"{found!r} must lie outside of a checkpoint, and of other hooks on what is saved for "
            f"backward, which would draw again there; probe the model without"
        )
    return found, sites[found]


def _examples(batch: Any) -> int | None:
    """Return the length of the first tensor in a batch; None if there is none."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else None
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    if isinstance(batch, Sequence) and not isinstance(batch, str):
        return next(filter(None, map(_examples, batch)), None)
    return None


def _rows_of(example: int, total: int, site: Site) -> slice:
    """Return which rows of the logits are those of an example."""
    rows = len(site.logits)
    if rows == 0 or rows % total:
        raise ArgumentError(
            f"batch must have its examples in the first dimension of its first tensor; it has "
            f"{total} there, and the draw has {rows} rows of logits, no multiple"
        )
    if next((size for size in site.shape[:-1] if size > 1), rows) % total:
        raise ArgumentError(_apart(total, site))
    if example >= total:
        raise ArgumentError(f"example must lie in [0, {total - 1}], got {example}")
    each = rows // total
    return slice(example * each, (example + 1) * each)


def _apart(total: int, site: Site) -> str:
    return (
        f"the draw must have the {total} examples of the batch in the first dimension; it has "
        f"logits of shape {tuple(site.shape)}, where the rows of one don't lie together: draw "
        f"from logits.movedim(dim, 0), or probe a batch of one example"
    )


def _may_lie_otherwise(total: int, site: Site) -> bool:
    """Whether the shape of the logits leaves open where the examples are."""
    sizes = [size for size in site.shape[:-1] if size > 1]
    return total > 1 and (sizes[0] != total or any(size % total == 0 for size in sizes[1:]))


def _exchanged(batch: Any, example: int) -> Any:
    """Return a batch whose first tensor has another example's values in the place of one."""
    leaves, structure = tree_flatten(batch)
    tensors = (i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and _examples(leaf))
    found = next(tensors, None)
    if found is not None:
        order = torch.arange(len(leaves[found]), device=leaves[found].device)
        order[example] = (example + 1) % len(order)
        leaves[found] = leaves[found][order]
    return tree_unflatten(leaves, structure)


def _check_rows(exchanged: Tracer, name: str, site: Site, rows: slice) -> None:
    """Raise where another example moves rows that are not its own, and leaves some of its own.

    Where examples mix, as in BatchNorm, it moves all.
    """
    other = _sites(exchanged)[0].get(name)
    if other is None or other.shape != site.shape:
        return
    moved = ~torch.isclose(other.logits, site.logits, equal_nan=True).all(-1)
    if not moved[rows].all() and (moved[: rows.start].any() or moved[rows.stop :].any()):
        raise ArgumentError(_apart(len(moved) // (rows.stop - rows.start), site))

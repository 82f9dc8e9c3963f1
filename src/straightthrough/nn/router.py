"""A router of a mixture of experts."""

from __future__ import annotations

import math
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.errors import (
    ArgumentError,
    DtypeError,
    ShapeError,
    check_count,
    check_flag,
    check_rows,
)
from ..core.internals import in_files
from ..core.mesh import everywhere, on_mesh, own
from ..core.once import before, runs_again
from ..core.precision import compute_dtype
from ..core.sorts import stable_sort
from ..ops.subset.api import topk
from .base import OperatorModule, detached
from .checked import Checked, Checks, check_weight, one_of
from .kept import KeptDtypes
from .statistics import Owner, together


@in_files
class Routing(NamedTuple):
    """Where tokens go.

    The gates, `(..., E)`, what each expert's output counts, 0 for those not chosen; `index`,
    `(..., k)` int64, the numbers of the chosen in rising order, of padding the first; `balance`,
    the loss of Switch, 1 where all experts are used alike; and `z`, the z-loss.
    """

    gates: Tensor
    index: Tensor  # type: ignore[assignment]  # tuples have a method of that name
    balance: Tensor
    z: Tensor


class TopKRouter(KeptDtypes, Checked, OperatorModule):
    """The k experts of every token, balanced without a loss, or with one.

    With `s = softmax(logits)`, or `sigmoid(logits)`: the k largest of `s + bias` are chosen, and
    `gates_e = s_e` for these, 0 for the others; with `normalize` over their sum. The gradient goes
    to the logits through the gates. (`Routing` holds what comes out.)

    Balance without a loss: in training each forward counts the tokens of every expert, and
    `update()`, to be called once an optimizer step, adds `rate * sign(mean load - load)` to the
    bias, by loads of all processes. The bias chooses, and is in no gate. It is a buffer: part of
    the state dict, and out of any optimizer's reach and decay.

    Balance by losses: `balance = E sum_e f_e P_e`, f_e the share of the choices that are expert e
    (without gradient), P_e the mean of `s_e / sum s`; and `z = mean(logsumexp(logits)^2)`. Multiply
    by some 1e-2 and 1e-3 and add them to the loss, or leave them.

    Padding: where `mask` is False a token has gates of 0, and is in no count and no loss.

    Args:
        experts: how many there are, E.
        k: how many are chosen, 1 <= k <= E.
        scores: `"softmax"` or `"sigmoid"`.
        normalize: whether the gates of a token sum to 1.
        rate: of the bias, at least 0; 0 leaves it where it is.

    All but the number of experts may be set later too.

    Raises:
        ArgumentError: for numbers out of these ranges, or another name of scores.

    Edge cases: ties go to the expert of the lowest number. One at -infinity is chosen, with a gate
    of 0, only where fewer than k others are. A token with NaN has gates of NaN; neither it nor one
    whose largest logit is infinite, as where no expert is allowed, is in a count or a loss. Losses
    of no token are 0. Gates are computed in float32 for half precision and returned in the dtype of
    the logits; losses are float32 (float64 for float64).

    References:
        Fedus, Zoph, Shazeer, "Switch transformers: scaling to trillion parameter models with simple
        and efficient sparsity", 2022, eq. 4. Zoph et al., "ST-MoE: designing stable and
        transferable sparse expert models", 2022, eq. 5. Wang et al., "Auxiliary-loss-free load
        balancing strategy for mixture-of-experts", 2024, algorithm 1.

    Example:
        >>> router = st.nn.TopKRouter(experts=4, k=2)
        >>> logits = torch.tensor([[2.0, 1.0, 0.0, 1.0], [0.0, 0.0, 3.0, 0.0]])
        >>> route = router(logits, mask=torch.tensor([True, False]))
        >>> route.gates
        tensor([[0.7311, 0.2689, 0.0000, 0.0000],
                [0.0000, 0.0000, 0.0000, 0.0000]])
        >>> route.index
        tensor([[0, 1],
                [0, 1]])
        >>> router.update()
        >>> router.bias
        tensor([-0.0010, -0.0010,  0.0010,  0.0010])
    """

    bias: Tensor
    load: Tensor
    dim = -1
    fixed = ("experts",)
    checks: ClassVar[Checks] = {
        "k": check_count,
        "scores": one_of("softmax", "sigmoid"),
        "normalize": check_flag,
        "rate": check_weight,
    }

    def __init__(
        self,
        experts: int,
        k: int,
        *,
        scores: str = "softmax",
        normalize: bool = True,
        rate: float = 1e-3,
    ) -> None:
        super().__init__()
        self.experts = experts = check_count("experts", experts)
        self.k, self.scores, self.normalize, self.rate = k, scores, normalize, rate
        self.register_buffer("bias", torch.zeros(experts, dtype=torch.float32))
        self.register_buffer("load", torch.zeros(experts, dtype=torch.float32))
        self.owner = Owner()

    def __setattr__(self, name: str, value: Any) -> None:
        experts = self.__dict__.get("experts", value)
        if name == "k" and check_count("k", value) > experts:
            raise ArgumentError(f"k must lie in [1, {experts}] for {experts} experts, got {value}")
        super().__setattr__(name, value)

    def forward(self, logits: Tensor, *, mask: Tensor | None = None) -> Routing:
        """Return the `Routing` of tokens with logits `(..., E)`, `mask` `(...)` True for tokens."""
        check_rows("logits", logits, -1)
        if logits.shape[-1] != self.experts:
            raise ShapeError(
                f"logits must be (..., {self.experts}) for {self.experts} experts, got "
                f"{tuple(logits.shape)}"
            )
        tokens = _tokens(logits, mask)
        wide = torch.where(tokens, logits, 0).to(compute_dtype(logits.dtype))
        score = wide.softmax(-1) if self.scores == "softmax" else wide.sigmoid()
        least = torch.finfo(score.dtype).min  # a bias may lift no expert that is ruled out
        bias = everywhere(self.bias, score) if on_mesh(score) else self.bias
        biased = (score + bias.to(score.dtype)).masked_fill(wide == -math.inf, least)
        chosen = torch.where(tokens, topk(detached(biased), self.k), 0)
        gates = self._normalized(wide, chosen) if self.normalize else score * chosen
        _, index = stable_sort(chosen.nan_to_num(0), descending=True)
        known = tokens & (detached(wide).amax(-1, keepdim=True).abs() < math.inf)
        counted = torch.where(known, chosen, 0).reshape(-1, self.experts)
        if self.training and not runs_again():
            mine = counted if on_mesh(self.load) else own(counted).reshape(-1, self.experts)
            self.load.copy_(before(self.load) + mine.sum(0))
            self.owner.take(self.load)
        losses = self._losses(wide, counted, known.reshape(-1, 1))
        return Routing(gates.to(logits.dtype), index[..., : self.k], *losses)

    def _normalized(self, logits: Tensor, chosen: Tensor) -> Tensor:
        """Return the scores of the chosen over their sum, beside the largest, as they underflow."""
        log = logits if self.scores == "softmax" else F.logsigmoid(logits)
        log = log.masked_fill(chosen == 0, -math.inf)
        least = torch.finfo(log.dtype).min  # where none of the chosen has a score
        gates = chosen * (log - detached(log).amax(-1, keepdim=True).clamp(min=least)).exp()
        return gates / gates.sum(-1, keepdim=True).clamp(min=1)

    def _losses(self, logits: Tensor, chosen: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
        logits = torch.where(counted, logits.reshape(-1, self.experts), 0)
        count = counted.sum().clamp(min=1)
        share_of_all = self._normalized(logits, torch.ones_like(logits))
        mean = torch.where(counted, share_of_all, 0).sum(0) / count
        share = chosen.sum(0) / (count * self.k)
        z = torch.where(counted.squeeze(-1), logits.logsumexp(-1).square(), 0).sum() / count
        return self.experts * (share * mean).sum(), z

    @torch.no_grad()
    def update(self) -> None:
        """Move the bias by what was counted since the last time, over all processes."""
        self.owner.give()
        load = together(self.load.clone())
        self.bias.add_(self.rate * (load.mean() - load).sign())
        self.load.zero_()

    def _load_from_state_dict(self, *args: Any) -> None:  # those of a module
        super()._load_from_state_dict(*args)
        self.owner.move(self.load)

    def extra_repr(self) -> str:
        return (
            f"experts={self.experts}, k={self.k}, scores={self.scores!r}, "
            f"normalize={self.normalize}, rate={self.rate}"
        )


def _tokens(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Return which rows are tokens, `(..., 1)`."""
    if mask is None:
        return torch.ones_like(logits[..., :1], dtype=torch.bool)
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise DtypeError(
            f"mask must be a bool tensor (True = a token), got {kind}; use "
            f"torch.as_tensor(mask).bool()"
        )
    if mask.shape != logits.shape[:-1]:
        raise ShapeError(
            f"mask must be {tuple(logits.shape[:-1])}, one a token, got {tuple(mask.shape)}"
        )
    return mask.unsqueeze(-1)

"""How the operators of a model fare while it trains."""

from __future__ import annotations

import math
from collections.abc import Sequence
from os import PathLike
from statistics import fmean
from types import TracebackType
from typing import TYPE_CHECKING

from torch import nn

from ...core.errors import ArgumentError, check_count, check_flag, check_limit, check_model
from .plot import draw
from .quantities import kind_of
from .reader import Reader
from .sinks import Observation, Sink
from .summary import summarize

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Monitor:
    """Watches the operators of a model: who saturates, who flips, who collapses.

    Every operator of `st.nn` inside the model is observed under its path, at every `every`-th call
    of `step`, and so are those that parametrize a weight. Values, gradients, random state and the
    life of the graph stay as they are. An operator that is called several times in a step (a
    spiking unit) is averaged over its calls. A unit below is an element or, for categorical and
    top-k operators, a row of classes:

    - `saturation`: of the units to whose output any gradient comes, the share from whose input
      none goes on, as the rule makes it exactly 0. Needs a backward, and for gates `train()`.
    - `gradient_snr`: `|mean| / std` over the examples of a batch, the gradient that leaves the
      operator through its input, `sqrt(sum_i mean_i^2 / sum_i var_i)`. Pure noise is at
      `1 / sqrt(batch)`. The first dimension is the batch; parameters have none, and no ratio.
    - `flip_rate`: the share of units whose hard outcome differs from that of the same unit in
      the last observed step. For gates and weights this is learning. Activations are compared
      place by place while their shape stays, so other inputs flip them too: feed the same batch
      to tell the two apart. Of quantizers it is the code that flips, whatever the scale does; of
      soft outcomes the likelier or largest class, and of gates whether they are open. Not for
      `Clamp`.
    - `sparsity`: the share of zeros, for gates, binary draws, counts and the pointwise operators
      that have a zero.
    - `entropy`: in nats, the mean of the distributions that are drawn from (at the temperature of
      the draw, for `DecoupledST`), of `sigmoid(logits)` for gates, of whole subsets for
      `SampleSubset`, as `st.subset_entropy` says. Not for counts, and not for `SampleTopK`, whose
      subsets' probabilities are sums over k! orders.
    - `code_use`, `perplexity`: the share of classes that occur in a call, and the exponential of
      the entropy of how often each does, over all rows. With fewer rows than classes, neither can
      reach its maximum. Of quantizers with several codebooks they are means over them.
    - `dead_codes`: of quantizers that learn, how many codes are dead by now, over all their
      codebooks, as `Codebook.dead_codes` says.
    - `unique_ids`, `collision_rate`: of quantizers, how many different (tuples of) numbers the
      vectors of a call have, and 1 less that over the number of vectors.

    - `oscillation`, `frozen`: of quantized weights that `st.nn.Oscillations` tracks, the mean
      frequency of their oscillations, and the share that is frozen.

    A quantity that is undefined (0 / 0) is left out.

    Args:
        model: a module with operators of `st.nn` in it; functions such as `st.sign` are no modules
            and stay unseen, so give what is to be watched a module.
        every: observe each so many steps, the first one too.
        elements: about how many elements of a tensor are looked at, always the same ones;
            of the classes in use, all.
        training: whether calls in `train()` are observed or, instead, those in `eval()`.
        start: the number of the first step, where a training goes on.
        sinks: functions that get each observed step's observations: `st.audit.JsonLines(path)`,
            `st.audit.TensorBoard(folder)`, or one of your own.

    `summary()` and `plot()` show what was seen so far.

    Attributes:
        observations: all so far, a list of `Observation`.

    Raises:
        ArgumentError: if the model is no module or holds no operator, the sinks are no list of
            functions, a number is not an int of at least 1 (`start`: 0), or `training` is not True
            or False.

    Edge cases: under `torch.no_grad` there is no backward, and everything else works. Inside
    `torch.func` transforms nothing is observed. Compiled models are observed; as with any
    hook on a module that does not trace, the graph breaks at each operator, and
    `fullgraph=True` raises. Take the monitor off before copying or pickling the model.

    Cost: with the defaults below 3% of a training step of a binarized network or a categorical VAE
    (`docs/guides/watching.md`); at the steps between, two calls of a hook an operator.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), st.nn.Sign())
        >>> with st.audit.Monitor(model, every=10) as monitor:
        ...     for _ in range(30):
        ...         model(torch.randn(8, 4)).sum().backward()
        ...         monitor.step()
        >>> {seen.quantity for seen in monitor.observations} == {
        ...     "saturation", "gradient_snr", "flip_rate"
        ... }
        True
        >>> [seen.step for seen in monitor.observations if seen.quantity == "flip_rate"]
        [10, 20]
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        every: int = 50,
        elements: int = 2**14,
        training: bool = True,
        start: int = 0,
        sinks: Sequence[Sink] = (),
    ) -> None:
        every, elements = check_count("every", every), check_count("elements", elements)
        start = check_limit("start", start)
        training = check_flag("training", training)  # which modules' own is held against
        check_model(model)
        if not isinstance(sinks, Sequence) or not all(map(callable, sinks)):
            raise ArgumentError(f"sinks must be a list of functions, got {sinks!r}")
        kinds = [(name, module, kind_of(module)) for name, module in model.named_modules()]
        self.observations: list[Observation] = []
        self._every, self._sinks, self._step = every, sinks, start
        self._readers = {
            name or type(module).__name__: Reader(module, kind, elements, training)
            for name, module, kind in kinds
            if kind is not None
        }
        if not self._readers:
            raise ArgumentError(
                f"model must hold an operator of st.nn, got a {type(model).__name__} without one; "
                f"functions such as st.sign are not seen, use the module, st.nn.Sign"
            )
        self._choose()

    def step(self) -> None:
        """End a training step: what it showed is recorded, if it was one to observe."""
        step, self._step = self._step, self._step + 1
        self._choose()  # before a sink is called, which may raise
        if step % self._every == 0:
            self._record(step)

    def _choose(self) -> None:
        """Read in the present step if it is one to observe."""
        for reader in self._readers.values():
            reader.active = self._step % self._every == 0

    def _record(self, step: int) -> None:
        observations = []
        for name, reader in self._readers.items():
            for quantity, found in reader.collect().items():
                known = [value for value in map(float, found) if math.isfinite(value)]
                if known:
                    seen = Observation(step, name, quantity, fmean(known))
                    observations.append(seen)
        self.observations += observations
        for sink in self._sinks:
            sink(observations)

    def summary(self) -> str:
        """Return a table, a row an operator and a column a quantity: the first value and the last.

        Raises:
            ArgumentError: if nothing has been observed yet.

        Example:
            >>> unit = st.nn.Round()
            >>> with st.audit.Monitor(unit, every=1) as monitor:
            ...     for value in (0.2, 1.7, 1.8):
            ...         _ = unit(torch.tensor([0.1, value]))
            ...         monitor.step()
            >>> print(monitor.summary())
            operator  flip rate  sparsity
            Round      0.5 -> 0  1 -> 0.5
            steps 0 to 2, 3 observed: first -> last
        """
        return summarize(self.observations)

    def plot(self, path: str | PathLike[str] | None = None) -> Figure:
        """Return a matplotlib figure, a row an operator and a column a quantity over the steps.

        Saved to `path` if given.

        Raises:
            StraightThroughError: if matplotlib is not installed.
            ArgumentError: if nothing has been observed yet.
        """
        return draw(self.observations, path)

    def remove(self) -> None:
        """Take the hooks off; the observations stay."""
        for reader in self._readers.values():
            reader.remove()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()

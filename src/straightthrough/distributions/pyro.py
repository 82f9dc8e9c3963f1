"""The distributions as Pyro wants them; imported where Pyro has been imported before."""

from pyro.distributions.torch_distribution import TorchDistributionMixin

from . import bernoulli, categorical


class OneHotCategorical(categorical.OneHotCategorical, TorchDistributionMixin):  # type: ignore[misc]  # Pyro's wrappers too
    """`st.distributions.OneHotCategorical` with what a Pyro site calls."""


class Bernoulli(bernoulli.Bernoulli, TorchDistributionMixin):  # type: ignore[misc]  # Pyro's wrappers too
    """`st.distributions.Bernoulli` with what a Pyro site calls."""


FORMS: dict[type, type] = {
    categorical.OneHotCategorical: OneHotCategorical,
    bernoulli.Bernoulli: Bernoulli,
}

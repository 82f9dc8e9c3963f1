"""The loss of a model with checkpoints is the model's, and its gradient too."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import straightthrough as st
from straightthrough.audit import compare, probe


class Coder(nn.Module):
    """A draw, and what lies before it, behind it or around it in a checkpoint."""

    def __init__(self, where=""):
        super().__init__()
        self.where = where
        self.encoder, self.sample = nn.Linear(5, 6), st.nn.Bernoulli("identity")
        self.decoder = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5))
        self.double()

    def part(self, where, function, x):
        if where == self.where:
            return checkpoint(function, x, use_reentrant=False)
        return function(x)

    def whole(self, x):
        z = self.sample(self.part("before", self.encoder, x))
        return self.part("behind", lambda z: self.decoder(z * z * z), z)

    def forward(self, x):
        return self.part("around", self.whole, x)


def audited(model):
    x = torch.ones(1, 5, dtype=torch.float64)
    loss, logits = probe(model, lambda model, x: F.mse_loss(model(x), x), x)
    return compare(loss, logits, ["straight_through", "reinmax"])


@pytest.mark.parametrize("where", ["before", "behind"])
def test_an_audit_of_a_model_with_a_checkpoint_is_that_of_the_model(where):
    plain, model = Coder(), Coder(where)
    model.load_state_dict(plain.state_dict())
    for row, expected in zip(audited(model).rows, audited(plain).rows, strict=True):
        assert row.bias_squared == pytest.approx(expected.bias_squared, rel=1e-9)
        assert row.variance == pytest.approx(expected.variance, rel=1e-9)


def test_a_draw_in_a_checkpoint_is_refused():
    with pytest.raises(st.ArgumentError, match="'sample' must lie outside of a checkpoint"):
        audited(Coder("around"))

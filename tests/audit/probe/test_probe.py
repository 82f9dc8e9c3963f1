"""The loss of a model as a function of its outcomes, against the model written out by hand."""

import copy
import itertools
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import straightthrough as st
from straightthrough.audit import advise, compare, exact_gradient, probe
from straightthrough.audit.compare.exact import enumerate_outcomes

L, C, PIXELS = 2, 3, 5


class Coder(nn.Module):
    """A variational autoencoder, all in float64."""

    def __init__(self, draw=None, between=None):
        super().__init__()
        self.encoder = nn.Linear(PIXELS, L * C)
        self.sample = st.nn.Categorical() if draw is None else draw
        self.between = between or nn.Identity()
        self.decoder = nn.Linear(L * C, PIXELS)
        self.double()

    def logits(self, x):
        return self.encoder(x).unflatten(-1, (L, C))

    def decode(self, z):
        return self.decoder(self.between(z.flatten(-2).tanh()))

    def forward(self, x):
        return self.decode(self.sample(self.logits(x)))


def elbo(model, x):
    log_p = model.logits(x).log_softmax(-1)
    return F.mse_loss(model(x), x) + (log_p.exp() * log_p).sum() / len(x)


def outcomes(logits):
    return torch.cat([each.one_hot for each in enumerate_outcomes(logits)])


def images(count=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, PIXELS, generator=generator, dtype=torch.float64)


def by_hand(model, x, z):
    log_p = model.logits(x).log_softmax(-1)
    divergence = (log_p.exp() * log_p).sum()
    return torch.stack([F.mse_loss(model.decode(each[None]), x) + divergence for each in z])


@pytest.mark.parametrize(
    "draw",
    [
        st.nn.Categorical("gumbel"),
        st.nn.GumbelSoftmax(0.5, hard=True),
        lambda logits: st.categorical(logits, "straight_through"),
        lambda logits: st.distributions.OneHotCategorical(logits=logits).rsample(),
    ],
)
def test_the_loss_and_the_logits_are_the_models(draw):
    model, x = Coder(draw), images()
    loss, logits = probe(model, elbo, x)
    torch.testing.assert_close(logits.softmax(-1), model.logits(x)[0].softmax(-1))
    z = outcomes(logits)
    assert len(z) == C**L
    torch.testing.assert_close(loss(z), by_hand(model, x, z))
    given, other = (z.clone().requires_grad_() for _ in range(2))
    found = torch.autograd.grad(loss(given).square().sum(), given)
    expected = torch.autograd.grad(by_hand(model, x, other).square().sum(), other)
    torch.testing.assert_close(found, expected)


def test_what_comes_out_goes_into_audits():
    model, x = Coder(), images()
    loss, logits = probe(model, elbo, x)
    advice = advise(*probe(model, elbo, x), estimators=["reinmax", "straight_through"])
    rows = {row.rule: row for row in advice.rows}
    (row,) = compare(loss, logits, ["reinmax"], rescale=True).rows
    assert rows[st.estimators.ReinMax()].bias_squared == pytest.approx(row.bias_squared)

    # The gradient of the expected loss, with autograd through a sum over outcomes by hand.
    given = logits.clone().requires_grad_()
    expected = 0
    for index in itertools.product(range(C), repeat=L):
        one_hot = F.one_hot(torch.tensor(index), C).double()
        weight = given.softmax(-1)[range(L), list(index)].prod()
        expected = expected + weight * F.mse_loss(model.decode(one_hot[None]), x).detach()
    expected.backward()
    torch.testing.assert_close(exact_gradient(loss, logits), given.grad)


def test_an_estimate_is_what_a_training_step_gets():
    """The gradient that reaches the encoder is the rule's at the outcome that was drawn."""
    rule = st.estimators.ReinMax()
    seen = []

    def draw(logits):
        logits.retain_grad()
        z = st.categorical(logits, rule)
        seen.append((logits, z))
        return z

    model, x = Coder(draw), images()
    F.mse_loss(model(x), x).backward()
    logits, z = seen[0]
    loss, found = probe(model, lambda model, x: F.mse_loss(model(x), x), x)
    given = z.detach().clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss(given).sum(), given)
    estimate = rule.vjp(found, z[0].argmax(-1).detach(), grad[0])
    torch.testing.assert_close(estimate, logits.grad[0])


@pytest.mark.parametrize("flat", [False, True])
def test_one_example_of_a_batch_is_varied(flat):
    def draw(logits):
        return st.categorical(logits.flatten(0, 1) if flat else logits).reshape(logits.shape)

    model, x = Coder(draw), images(4)
    loss, logits = probe(model, elbo, x, example=2)
    assert torch.equal(logits, model.logits(x)[2])
    z = outcomes(logits)
    alone, _ = probe(model, elbo, x[2:3])
    # The others add a constant, and the mean is over four.
    torch.testing.assert_close(4 * (loss(z) - loss(z)[0]), alone(z) - alone(z)[0])


@pytest.mark.parametrize(
    "wrapped",
    [lambda x: (x, "a"), lambda x: ["a", x], lambda x: {"a": None, "x": x}, lambda x: {"x": [x]}],
)
def test_the_batch_may_hold_its_tensors_anywhere(wrapped):
    model, x = Coder(), images(4)
    _, logits = probe(model, lambda model, _: elbo(model, x), wrapped(x), example=2)
    assert torch.equal(logits, model.logits(x)[2])


def test_a_batch_without_a_tensor_is_one_example():
    model, x = Coder(), images(4)
    assert probe(model, lambda model, _: elbo(model, x), "a")[1].shape == (4 * L, C)


def test_losses_an_example_are_summed():
    model, x = Coder(), images()
    loss, logits = probe(model, lambda model, x: (model(x) - x).square(), x)
    z = outcomes(logits)
    expected = torch.stack([(model.decode(each[None]) - x).square().sum() for each in z])
    torch.testing.assert_close(loss(z), expected)


BINARY = ("bernoulli", "probs", "surrogate")


class Numbers(nn.Module):
    """Draws of every other kind, each with its decoder from one-hots written out."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.encoder = kind, nn.Linear(PIXELS, 2 if kind in BINARY else L * C)
        self.lookup = st.nn.CategoricalLookup(C, 4)
        self.bernoulli = st.nn.Bernoulli("identity" if kind == "surrogate" else "reinmax")
        self.decoder = nn.Linear(L * (4 if kind == "lookup" else 1), 1)
        self.double()

    def forward(self, x):
        h = self.encoder(x)
        if self.kind == "probs":
            return self.decoder(self.bernoulli(probs=h.sigmoid()))
        if self.kind in BINARY:
            return self.decoder(self.bernoulli(h))
        rows = h.unflatten(-1, (L, C))
        if self.kind == "lookup":
            return self.decoder(self.lookup(rows).flatten(-2))
        return self.decoder(st.categorical_integer(rows))

    def by_hand(self, z):
        if self.kind in BINARY:
            return self.decoder(z[..., 1])
        if self.kind == "lookup":
            return self.decoder((z @ self.lookup.table).flatten(-2))
        return self.decoder(z @ torch.arange(3.0, dtype=z.dtype))


@pytest.mark.parametrize("kind", [*BINARY, "lookup", "number"])
def test_every_kind_of_draw(kind):
    model, x = Numbers(kind), images()
    loss, logits = probe(model, lambda model, x: model(x).square().sum(), x)
    z = outcomes(logits)
    torch.testing.assert_close(loss(z), model.by_hand(z).square().sum(-1))
    if kind in BINARY:
        log_odds = model.encoder(x)[0]
        torch.testing.assert_close(logits.softmax(-1)[:, 1], log_odds.sigmoid())
    else:
        torch.testing.assert_close(logits, model.encoder(x).unflatten(-1, (L, C))[0])


@pytest.mark.parametrize("length", [2, 3])
def test_logits_without_the_examples_first_are_refused(length):
    """Of `(T, B, C)` the rows of one time were taken for those of one example."""
    encoder = nn.Linear(PIXELS, length * C).double()

    def loss(model, x):
        return st.categorical(model(x).unflatten(-1, (length, C)).movedim(1, 0)).sum()

    message = rf"logits of shape \({length}, 4, 3\), .* logits.movedim"
    with pytest.raises(st.ArgumentError, match=message):
        probe(encoder, loss, images(4))
    assert probe(encoder, loss, images(1))[1].shape == (length, C)


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("wrapped", [lambda x: x, lambda x: {"names": ["a"], "x": (x, 3)}])
@pytest.mark.parametrize("length", [4, 8])
def test_logits_with_the_examples_second_are_refused_where_shapes_do_not_tell(
    length, wrapped, flat
):
    """Of `(T, B, C)` with a T that B divides rows of all examples were taken for those of one."""
    encoder = nn.Linear(PIXELS, length * C).double()

    def loss(model, batch):
        x = batch if isinstance(batch, torch.Tensor) else batch["x"][0]
        logits = model(x).unflatten(-1, (length, C)).movedim(1, 0)
        return st.categorical(logits.flatten(0, -2) if flat else logits).sum()

    shape = (4 * length, C) if flat else (length, 4, C)
    with pytest.raises(st.ArgumentError, match=rf"the 4 examples .* shape {re.escape(str(shape))}"):
        probe(encoder, loss, wrapped(images(4)), example=1)


@pytest.mark.parametrize("between", [nn.Identity(), nn.BatchNorm1d(PIXELS), nn.Dropout(0.5)])
@pytest.mark.parametrize("example", [0, 3])
def test_as_many_variables_as_examples_lie_behind_these(between, example):
    model = nn.Sequential(between, nn.Linear(PIXELS, 4 * C)).double()
    x, seen = images(4), []

    def loss(model, x):
        seen.append(model(x).unflatten(-1, (4, C)))
        return st.categorical(seen[-1]).sum()

    _, logits = probe(model, loss, x, example=example)
    torch.testing.assert_close(logits, seen[0][example])


@pytest.mark.parametrize("shape", [(12, C), (1, 4, 3, C), (4, 3, 1, C)])
def test_rows_of_logits_may_be_laid_out_otherwise_behind_the_examples(shape):
    encoder = nn.Linear(PIXELS, 3 * C).double()
    x = images(4)
    _, logits = probe(
        encoder, lambda model, x: st.categorical(model(x).reshape(shape)).sum(), x, example=2
    )
    torch.testing.assert_close(logits, encoder(x)[2].unflatten(-1, (3, C)))


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = st.nn.Categorical(), st.nn.Categorical()
        self.link = nn.Linear(C, C)

    def forward(self, x):
        one = self.first(x[:, :C])
        two = self.second(self.link(one))
        return one, two, st.categorical(x[:, 1 : 1 + C]), self.first(x[:, 2:])


def test_one_of_several_draws_is_chosen_by_name():
    model, x = Two().double(), images()
    weight = torch.randn(4, C, dtype=torch.float64)

    def loss(model, x):
        return sum((z * w).sum() for z, w in zip(model(x), weight, strict=True))

    names = "'first', 'second', 'categorical', 'first#2'"
    with pytest.raises(st.ArgumentError, match=f"draws at 4 places, {names}; choose one by name="):
        probe(model, loss, x)
    with pytest.raises(st.ArgumentError, match=f"name must be one of {names}, got 'third'"):
        probe(model, loss, x, name="third")
    expected = {
        "first": (x[:, :C], weight[0]),
        "categorical": (x[:, 1 : 1 + C], weight[2]),
        "first#2": (x[:, 2:], weight[3]),
    }
    for name, (rows, own) in expected.items():
        found, logits = probe(model, loss, x, name=name)
        assert torch.equal(logits, rows)
        values = found(outcomes(logits))
        if name != "first":  # on which the second one's logits depend
            torch.testing.assert_close(values - values[0], own - own[0])
    found, logits = probe(model, loss, x, name="second")
    assert torch.unique(model.link.weight.T + model.link.bias, dim=0).shape == (C, C)
    assert any(torch.allclose(logits[0], row) for row in model.link.weight.T + model.link.bias)


@pytest.mark.parametrize(
    "between", [nn.Dropout(0.5), nn.BatchNorm1d(L * C), nn.BatchNorm1d(L * C).eval()]
)
def test_the_model_is_left_as_it_is_and_its_noise_is_held(between):
    model, x = Coder(between=between), images(6)
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    loss, logits = probe(model, elbo, x, example=1)
    z = outcomes(logits)
    values = loss(z)
    given = z.clone().requires_grad_()
    loss(given).sum().backward()
    assert torch.equal(loss(z), values)
    torch.testing.assert_close(torch.cat([loss(each[None]) for each in z]), values)
    assert given.grad.abs().sum() > 0
    assert torch.equal(torch.get_rng_state(), random)
    assert all(map(torch.equal, state.values(), model.state_dict().values()))
    torch.rand(3)
    assert torch.equal(loss(z), values)
    hooks = ("_forward_hooks", "_forward_pre_hooks")
    assert not any(getattr(module, name) for module in model.modules() for name in hooks)


class Branch(nn.Module):
    def forward(self, x):
        return -x if x.sum() > 1 else x


def test_a_model_that_vmap_cannot_map_is_called_an_outcome_at_a_time():
    model, x = Coder(between=Branch()), images()
    loss, logits = probe(model, elbo, x)
    z = outcomes(logits)
    torch.testing.assert_close(loss(z), by_hand(model, x, z))


@pytest.mark.parametrize("fullgraph", [False, True])
def test_a_compiled_model_is_the_model(fullgraph):
    model, x = Coder(), images()
    loss, logits = probe(torch.compile(model, backend="eager", fullgraph=fullgraph), elbo, x)
    z = outcomes(logits)
    torch.testing.assert_close(loss(z), by_hand(model, x, z))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x: probe(len, elbo, x), "model must be a torch.nn.Module, got builtin_function"),
        (lambda m, x: probe(m, 3, x), r"loss must be a function of \(model, batch\), got 3"),
        (lambda m, x: probe(m, lambda *_: 3, x), "loss must return a tensor, got int"),
        (lambda m, x: probe(m, elbo, x, example=2), r"example must lie in \[0, 0\], got 2"),
        (
            lambda m, x: probe(m, elbo, x, example=-1),
            "example must be an int of at least 0, got -1",
        ),
        (
            lambda m, x: probe(m, elbo, x, example=0.0),
            "example must be an int of at least 0, got 0.0",
        ),
        (lambda m, x: probe(m.eval(), elbo, x), r"draw nothing: call model.train\(\)"),
        (
            lambda m, x: probe(m.encoder, lambda m, x: m(x), x),
            "a model without one$",
        ),
        (
            lambda m, x: probe(st.nn.Sign(), lambda m, x: m(x), x),
            "without one; operators it calls: 'pointwise'",
        ),
        (
            lambda m, x: probe(m, lambda m, b: elbo(m, b[1]), (torch.zeros(3), x)),
            "it has 3 there, and the draw has 2 rows of logits, no multiple",
        ),
    ],
)
def test_wrong_use_raises(call, message):
    with pytest.raises(st.ArgumentError, match=message):
        call(Coder(), images())


def test_errors_of_the_model_are_its_own():
    def broken(model, x):
        raise RuntimeError("of the model")

    with pytest.raises(RuntimeError, match="of the model"):
        probe(Coder(), broken, images())
    model = Coder()
    assert st.categorical(torch.zeros(2)).sum() == 1  # nothing is intercepted any more
    calls = iter(range(100))

    def changing(model, x):
        return model(x).sum() if next(calls) == 0 else model.logits(x).sum()

    loss, logits = probe(model, changing, images())
    with pytest.raises(st.ArgumentError, match="must come to 'sample' whenever it is called"):
        loss(outcomes(logits))

"""Bad input, over everything that takes any: an error that names argument, value and range."""

import dataclasses
import math

import numpy as np
import pytest
import torch

import straightthrough as st
from straightthrough.audit import advise, compare, disarm, exact_gradient, reinforce
from straightthrough.core.registry import OPERATORS, RULES
from straightthrough.estimators import CategoricalEstimator, Fini

ALL = [record.example for record in RULES.values()]
ESTIMATORS = [rule for rule in ALL if isinstance(rule, CategoricalEstimator)]
NAN, INF = math.nan, math.inf
L, INDEX, G = torch.zeros(2, 3), torch.tensor([0, 2]), torch.ones(2, 3)
Z = torch.zeros(3)

NUMBER = "must be a finite number, got {}"
OUT_OF_RANGE = {  # of the fields of this name, wherever they are
    "tau": (0, -1.0, "must be above 0, got {}"),
    "tau_forward": (0, -1.0, "must be above 0, got {}"),
    "tau_backward": (0, -1.0, "must be above 0, got {}"),
    "gap": (-0.5, "must be at least 0, got {}"),
    "samples": (0, -1, 1.5, True, "must be an int of at least 1, got {}"),
    "terms": (0, 1.5, True, "must be an int of at least 1, got {}"),
    "order": (0, 4, 2.0, True, "must be 1, 2 or 3, got {}"),
    "inside": ("both", "", 1, None, "must be 'code' or 'value', got {!r}"),
    "batch_dims": (-1, 1.5, True, "must be an int of at least 0, got {}"),
    "delta": (-0.5, "must be at least 0, got {}"),
    "bound": (0, -1.0, "must be above 0, got {}"),
    "cap": (0, -1.0, "must be above 0, got {}"),
    "k": (1, -1.0, "must be above 1, got {}"),
    "steps": (-1, 1.5, True, "must be an int of at least 0, got {}"),
    "projection": ("code", 1, None, "must be one of mean, std, none, got {!r}"),
    "amplitude": (-0.1, 0.225, "must lie in [0, 0.225), got {}"),
}


def fields():
    """Yield a rule, a field, a value and what is said of it, over all rules that are registered."""
    for rule in ALL:
        for field in dataclasses.fields(rule):
            *values, message = OUT_OF_RANGE.get(field.name, (NUMBER,))
            yield from ((rule, field.name, value, message) for value in values)
            if isinstance(getattr(rule, field.name), float):
                yield from ((rule, field.name, value, NUMBER) for value in (NAN, INF, True))
                yield rule, field.name, np.complex64(1), NUMBER.replace("{}", "{!r}")


@pytest.mark.parametrize(
    ("rule", "name", "value", "message"),
    list(fields()),
    ids=lambda given: type(given).__name__ if dataclasses.is_dataclass(given) else repr(given),
)
def test_fields_of_rules(rule, name, value, message):
    with pytest.raises(st.ArgumentError) as caught:
        dataclasses.replace(rule, **{name: value})
    assert str(caught.value) == f"{name} {message.format(value)}"


MODELS = {
    "step_schedules": st.nn.step_schedules,
    "prepare": lambda model: st.nn.prepare(model, [(torch.nn.Linear, "w4")]),
    "param_groups": st.nn.param_groups,
    "convert": st.nn.convert,
    "to_onnx": lambda model: st.nn.to_onnx(model, (L,)),
    "size_report": st.nn.size_report,
    "dampening": st.nn.dampening,
    "Oscillations": st.nn.Oscillations,
    "CAGE": lambda model: st.nn.CAGE(torch.optim.SGD([L], 0.1), model, steps=1),
    "Monitor": st.audit.Monitor,
    "probe": lambda model: st.audit.probe(model, square, L),
}


@pytest.mark.parametrize("name", MODELS)
def test_models(name):
    for wrong, kind in (([torch.nn.Linear(2, 2)], "list"), (None, "NoneType")):
        with pytest.raises(st.ArgumentError) as caught:
            MODELS[name](wrong)
        assert str(caught.value) == f"model must be a torch.nn.Module, got {kind}"


FLAGS = {
    "hard": (
        lambda flag: st.gumbel_softmax(L, hard=flag),
        lambda flag: st.binary_concrete(L, hard=flag),
        lambda flag: st.hard_concrete(L, hard=flag),
        lambda flag: st.nn.GumbelSoftmax(hard=flag),
        lambda flag: st.nn.BinaryConcrete(hard=flag),
        lambda flag: st.nn.HardConcreteGate(3, hard=flag),
        lambda flag: setattr(st.nn.HardConcreteGate(3), "hard", flag),
    ),
    "symmetric": (
        lambda flag: st.fsq(L, 3, symmetric=flag),
        lambda flag: st.fsq_decode(INDEX, [3], symmetric=flag),
        lambda flag: st.nn.FSQ([3], symmetric=flag),
    ),
    "dropout": (lambda flag: st.nn.ResidualVQ(2, 3, 4, dropout=flag),),
    "normalize": (lambda flag: st.nn.TopKRouter(3, 2, normalize=flag),),
    "relative": (lambda flag: st.estimators.IMLE(relative=flag),),
    "baseline": (lambda flag: st.estimators.Perturbed(baseline=flag),),
    "power_of_two": (lambda flag: st.scales.Learned(form="log2", power_of_two=flag),),
    "offset": (lambda flag: st.scales.Learned(offset=flag),),
    "zero_point": (
        lambda flag: st.scales.Learned(zero_point=flag),
        lambda flag: st.scales.Observed(zero_point=flag),
    ),
    "rescale": (
        lambda flag: compare(square, Z, ["gumbel"], rescale=flag),
        lambda flag: advise(square, Z, estimators=["gumbel"], rescale=flag),
    ),
    "training": (lambda flag: st.audit.Monitor(st.nn.Sign(), training=flag),),
}


@pytest.mark.parametrize(
    ("name", "call"), [(n, call) for n, calls in FLAGS.items() for call in calls]
)
def test_flags(name, call):
    for wrong in ("yes", 1, None, torch.tensor(True)):
        with pytest.raises(st.ArgumentError) as caught:
            call(wrong)
        assert str(caught.value) == f"{name} must be True or False, got {wrong!r}"
    for right in (True, np.bool_(False)):
        call(right)


def test_a_whole_number_beyond_all_floats():
    with pytest.raises(st.ArgumentError, match="tau must be a finite number, got 1000"):
        st.categorical(L, "gumbel", tau=10**400)


VJP = {
    "above": ((L, torch.tensor([0, 3]), G), st.ArgumentError, "index must lie in [0, 2], got 3"),
    "below": ((L, torch.tensor([-1, 0]), G), st.ArgumentError, "index must lie in [0, 2], got -1"),
    "index of rank 2": ((L, INDEX[:, None], G), st.ShapeError, "index (...), got logits (2, 3), i"),
    "logits of rank 1": ((Z, INDEX, Z), st.ShapeError, "must be (..., C) and index (...), got log"),
    "logits of rank 0": ((Z[0], INDEX[0], Z[0]), st.ShapeError, "got logits (), index (), grad ()"),
    "gradient of 4": ((L, INDEX, torch.ones(2, 4)), st.ShapeError, "index (2,), grad (2, 4)"),
    "no class": ((L[:, :0], INDEX, G[:, :0]), st.ShapeError, "(2, 0) has no class along dim -1"),
    "float index": ((L, INDEX.float(), G), st.DtypeError, "an int64 tensor, got torch.float32"),
    "index in a list": (
        (L, [0, 2], G),
        st.DtypeError,
        "got list; use torch.as_tensor(index).long()",
    ),
    "int logits": (
        (L.long(), INDEX, G),
        st.DtypeError,
        "logits must be float16, bfloat16, float32",
    ),
    "int gradient": (
        (L, INDEX, G.long()),
        st.DtypeError,
        "grad must be float16, bfloat16, float32",
    ),
}


@pytest.mark.parametrize("rule", ESTIMATORS, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("case", VJP)
def test_vjp(rule, case):
    arguments, kind, message = VJP[case]
    with pytest.raises(kind) as caught:
        rule.vjp(*arguments)
    assert message in str(caught.value)


ONE = torch.ones(2)
FINI = [
    ((-ONE, ONE, ONE), st.ArgumentError, "mean must be at least 0, got -1.0"),
    ((ONE, -ONE, ONE), st.ArgumentError, "count must be a whole number of at least 0, got -1.0"),
    ((ONE, ONE / 2, ONE), st.ArgumentError, "count must be a whole number of at least 0, got 0.5"),
    ((ONE, [1, 1], ONE), st.DtypeError, "count must be a tensor, got list"),
    ((ONE, ONE * 1j, ONE), st.DtypeError, "count must be whole numbers, got torch.complex64"),
    ((ONE, Z, ONE), st.ShapeError, "must have one shape, got (2,), (3,) and (2,)"),
]


@pytest.mark.parametrize(("arguments", "kind", "message"), FINI)
def test_vjp_of_counts(arguments, kind, message):
    with pytest.raises(kind) as caught:
        Fini().vjp(*arguments)
    assert message in str(caught.value)


def test_vjp_of_counts_that_are_bools():
    trials = {"size": -1}
    found = Fini().vjp(ONE / 4, ONE.bool(), ONE, **trials)
    assert torch.equal(found, Fini().vjp(ONE / 4, ONE, ONE, **trials))


def square(z):
    return z.flatten(1).sum(-1) ** 2


AUDITS = {
    "exact_gradient": lambda loss=square, logits=Z, **o: exact_gradient(loss, logits, **o),
    "compare": lambda loss=square, logits=Z, **o: compare(loss, logits, ["gumbel"], **o),
    "advise": lambda loss=square, logits=Z, **o: advise(
        loss, logits, **{"estimators": ["gumbel"], "budget": 0.01, **o}
    ),
    "reinforce": lambda loss=square, logits=Z, **o: reinforce(loss, logits, **o),
}
COUNT = "must be an int of at least 1, got {}"
OPTIONS = {
    "samples": (("compare", "reinforce"), (0, -1, 1.5, None), COUNT),
    "batch": (("advise",), (0, -1, 1.5, None), COUNT),
    "limit": (
        ("exact_gradient", "compare", "advise"),
        (-1, 1.5, None),
        "an int of at least 0, got",
    ),
    "seed": (("compare", "advise", "reinforce"), ("x", 1.5, None), "seed must be an int, an int64"),
    "budget": (("advise",), (0, -1.0), "budget must be above 0, got {}"),
}


@pytest.mark.parametrize(
    ("audit", "name", "value", "message"),
    [
        (audit, name, value, message)
        for name, (audits, values, message) in OPTIONS.items()
        for audit in audits
        for value in values
    ],
)
def test_options_of_audits(audit, name, value, message):
    with pytest.raises(st.ArgumentError) as caught:
        AUDITS[audit](**{name: value})
    assert message.format(value) in str(caught.value)
    assert name in str(caught.value)
    assert repr(value) in str(caught.value)


LOGITS = {
    "rank 3": (torch.zeros(2, 3, 4), st.ShapeError, "must be (C,) or (L, C) with L, C >= 1, got"),
    "rank 0": (Z[0], st.ShapeError, "with L, C >= 1, got shape ()"),
    "no class": (L[:, :0], st.ShapeError, "with L, C >= 1, got shape (2, 0)"),
    "int": (Z.long(), st.DtypeError, "got torch.int64"),
    "list": ([0.0, 1.0], st.DtypeError, "logits must be a tensor, got list"),
    "nan": (torch.tensor([NAN, 0.0]), st.ArgumentError, "in each row, got a row with nan"),
    "inf": (torch.tensor([[0.0, 0.0], [INF, 0.0]]), st.ArgumentError, "got a row with inf"),
    "none": (torch.tensor([-INF, -INF]), st.ArgumentError, "got a row with -inf"),
}


@pytest.mark.parametrize("audit", AUDITS)
@pytest.mark.parametrize("case", LOGITS)
def test_logits_of_audits(audit, case):
    logits, kind, message = LOGITS[case]
    with pytest.raises(kind) as caught:
        AUDITS[audit](logits=logits)
    assert "logits must be" in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize("audit", AUDITS)
def test_losses_of_audits(audit):
    with pytest.raises(st.ArgumentError, match="loss must be a function of one-hots, got 3"):
        AUDITS[audit](loss=3)
    with pytest.raises(st.ShapeError, match=r"to \('N',\), here N = \d+; it returned \(\)"):
        AUDITS[audit](loss=torch.sum)


DISARM = [
    ({"logits": L}, st.ShapeError, "logits must be (L,) with L >= 1, got shape (2, 3)"),
    ({"logits": Z.long()}, st.DtypeError, "got torch.int64"),
    ({"logits": Z * NAN}, st.ArgumentError, "logits must be numbers or infinite, got NaN"),
    ({"logits": Z, "samples": 0}, st.ArgumentError, "samples must be an int of at least 1, got 0"),
    ({"logits": Z, "seed": 1.5}, st.ArgumentError, "seed must be an int"),
    ({"loss": 3, "logits": Z}, st.ArgumentError, "loss must be a function of one-hots, got 3"),
]


@pytest.mark.parametrize(("arguments", "kind", "message"), DISARM)
def test_disarm(arguments, kind, message):
    with pytest.raises(kind) as caught:
        disarm(**{"loss": square, **arguments})
    assert message in str(caught.value)


@pytest.mark.parametrize("record", OPERATORS.values(), ids=lambda record: record.name)
def test_operators(record):
    others = [torch.ones(3, 2) if one.dims else torch.ones(()) for one in record.inputs[1:]]

    def call(x, **options):
        return record.call(x, *others, **{**record.arguments, **options})

    with pytest.raises(st.DtypeError, match=r"must be float16, .* got torch\.int64"):
        call(L.long())
    if record.takes("dim"):
        for dim in (2, -3):
            with pytest.raises(st.ShapeError, match=rf"dim must lie in \[-2, 1\].*got {dim}"):
                call(L, dim=dim)
        with pytest.raises(st.ArgumentError, match=r"dim must be an int, got 1\.5"):
            call(L, dim=1.5)
        with pytest.raises(st.ShapeError, match="must have a dimension of classes, got a 0-d"):
            call(Z[0])
        with pytest.raises(st.ShapeError, match="has no class along dim"):
            call(L[:, :0])
    if record.samples:
        with pytest.raises(st.ArgumentError, match=r"seed must be an int.*got 1\.5"):
            call(L, seed=1.5)
    if record.rule:
        with pytest.raises(st.ArgumentError, match=f"{record.rule}='no' is unknown here; .*known"):
            call(L, **{record.rule: "no"})


CALLS = [
    (lambda: st.binomial(L, total_count=0), "total_count must be an int in [1, 32768], got 0"),
    (lambda: st.binomial(L, total_count=2.0), "total_count must be an int in [1, 32768], got 2.0"),
    (lambda: st.negative_binomial(L, total_count=0), "total_count must be above 0, got 0"),
    (lambda: st.poisson(L, log_rate=L), "exactly one of log_rate and rate must be given, got both"),
    (lambda: st.geometric(), "exactly one of logits and probs must be given, got neither"),
    (lambda: st.topk(L, 4), "got 4"),
    (lambda: st.topk(L, 1, tau=0), "tau must be above 0, got 0"),
    (lambda: st.argmax(L, tau=-1.0), "tau must be above 0, got -1.0"),
    (lambda: st.gumbel_softmax(L, tau=0), "tau must be above 0, got 0"),
    (lambda: st.binary_concrete(L, tau=0), "tau must be above 0, got 0"),
    (lambda: st.hard_concrete(L, tau=0), "tau must be above 0, got 0"),
    (lambda: st.l0_norm(L, tau=0), "tau must be above 0, got 0"),
    (lambda: st.distributions.OneHotCategorical(logits=Z, estimator="no"), "estimator='no' is"),
    (lambda: st.distributions.Bernoulli(logits=Z, estimator="no"), "estimator='no' is unknown"),
    (lambda: compare(square, Z, "reinmax"), "estimators must be a list of rules or shorthands"),
    (lambda: compare(square, Z, 3), "estimators must be a list of rules or shorthands"),
    (lambda: advise(square, Z, estimators=3), "estimators must be a list of rules or shorthands"),
    (lambda: st.nn.Categorical(control=8), "control must be a ControlVariate or None, got 8"),
    (lambda: compare(square, Z, ["no"]), "estimators='no' is unknown here"),
    (lambda: st.nn.Categorical(tau=0), "tau must be above 0, got 0"),
    (lambda: st.nn.GumbelSoftmax(tau=-1), "tau must be above 0, got -1"),
]


@pytest.mark.parametrize(("call", "message"), CALLS)
def test_other_calls(call, message):
    with pytest.raises(st.ArgumentError) as caught:
        call()
    assert message in str(caught.value)


def test_distributions_take_floating_parameters():
    for given in (Z.long(), [0.0, 1.0]):
        with pytest.raises(st.DtypeError, match="logits must be"):
            st.distributions.OneHotCategorical(logits=given)
        with pytest.raises(st.DtypeError, match="probs must be"):
            st.distributions.OneHotCategorical(probs=given)

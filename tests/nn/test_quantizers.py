"""Quantizers that learn: moving averages, losses, revival, masks, chains, processes."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from scipy.cluster.vq import kmeans2
from torch import nn

import straightthrough as st

NAN = math.nan


def quantizer(
    codes: int = 8, width: int = 3, rule: str = "ste", **options
) -> st.nn.VectorQuantizer:
    return st.nn.VectorQuantizer(codes, width, rule, **{"k_means": False, **options})


def test_a_step_of_moving_averages_by_hand():
    model = quantizer(2, 1, decay=0.75)
    codebook = torch.tensor([[0.0], [10.0]])
    model.book.codebook.copy_(codebook)
    model.book.statistics.set(codebook)
    q, index, loss = model(torch.tensor([[1.0], [3.0], [8.0]]))
    assert q.tolist() == [[0], [0], [10]]
    assert index.tolist() == [0, 0, 1]
    assert loss.item() == pytest.approx(0.25 * (1 + 9 + 4) / 3)
    # N = 3/4 + 2/4 and 3/4 + 1/4; M = 0 + 4/4 and 7.5 + 8/4.
    assert model.book.statistics.count.tolist() == [1.25, 1.0]
    torch.testing.assert_close(model.book.codebook, torch.tensor([[1 / 1.25], [9.5]]))


@pytest.mark.parametrize("rule", ["ste", "both", "rotation", "diveq"])
@pytest.mark.parametrize("learn", ["ema", "loss", "gradient"])
def test_an_update_between_forward_and_backward_breaks_nothing(learn, rule):
    model = quantizer(rule=rule, learn=learn, revive=0.9, decay=0.0, update="manual")
    z = torch.randn(50, 3, requires_grad=True)
    q, _, loss = model(z)
    before = model.book.codebook.clone()
    model.update_codebook(torch.optim.Adam([*model.parameters(), z]))
    assert not torch.equal(model.book.codebook, before)
    (q.square().sum() + loss).backward()
    assert z.grad.isfinite().all()
    if learn == "loss" or (learn == "gradient" and rule in ("both", "diveq")):
        assert model.book.codebook.grad.abs().max() > 0


def test_losses_pull_either_side_alone_and_mean_over_what_counts():
    z, q = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    mask = torch.tensor([True, False, True, False])
    for loss, moving, held in ((st.nn.commitment, z, q), (st.nn.codebook_loss, q, z)):
        value = loss(z, q, mask)
        torch.testing.assert_close(value, (z - q)[mask].square().mean())
        gradient, none = torch.autograd.grad(value, (moving, held), allow_unused=True)
        torch.testing.assert_close(gradient, (moving - held) * mask.unsqueeze(-1) * 2 / 6)
        assert none is None


def test_padded_and_nan_rows_never_reach_the_statistics():
    plain, padded = quantizer(), quantizer()
    padded.load_state_dict(plain.state_dict())
    z = torch.randn(20, 3)
    spoiled = torch.cat([z, torch.full((1, 3), NAN), torch.full((5, 3), 99.0)])
    mask = torch.arange(26) < 21
    due, got = plain(z), padded(spoiled, mask=mask)
    torch.testing.assert_close(got.loss, due.loss)
    assert torch.equal(got.quantized[:20], due.quantized)
    assert got.index[20:].tolist() == [-1] * 6
    assert not got.quantized[21:].any()
    torch.testing.assert_close(padded.book.codebook, plain.book.codebook)
    assert torch.equal(padded.book.statistics.count, plain.book.statistics.count)


def test_padding_gets_no_gradient():
    z = torch.randn(6, 3, requires_grad=True)
    mask = torch.arange(6) < 4
    codes = (st.nn.LFQ(3), st.nn.FSQ([8, 5, 5]))
    for model in (quantizer(), st.nn.ResidualVQ(3, 8, 3), st.nn.GroupedVQ(3, 8, 3), *codes):
        q, _, loss = model(z, mask=mask)
        gradient = torch.autograd.grad(q.sum() + loss, z)[0]
        assert not gradient[4:].any()
        assert gradient[:4].any()
        with pytest.raises(st.ShapeError, match=r"mask must have the shape \(6,\)"):
            model(z, mask=mask[:3])


def test_dead_codes_are_given_distinct_rows():
    model = quantizer(8, 2, revive=0.9, decay=0.0)
    model.book.codebook.copy_(1000 + torch.arange(16.0).reshape(8, 2))
    z = torch.randn(5, 2)  # fewer than there are codes
    model(z)
    found = torch.isclose(z.unsqueeze(1), model.book.codebook, rtol=1e-4).all(-1)
    assert found.sum(0).max() == 1
    assert found.sum(1).tolist() == [1] * 5
    assert model.book.codebook.unique(dim=0).shape == (8, 2)


def test_a_code_that_nothing_chooses_stays_where_it_is():
    """Counts that are smoothed pull it to 0, of data anywhere else away from them."""
    model = quantizer(2, 1, decay=0.5)
    codebook = torch.tensor([[100.0], [900.0]])
    model.book.codebook.copy_(codebook)
    model.book.statistics.set(codebook)
    for _ in range(300):
        model(torch.full((5, 1), 200.0))
    torch.testing.assert_close(model.book.codebook, torch.tensor([[200.0], [900.0]]))


def test_the_optimizer_forgets_what_it_knew_of_revived_codes():
    model = quantizer(8, 2, learn="loss", revive=0.5, decay=0.5, update="manual")
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(200):
        optimizer.zero_grad()
        model(torch.randn(4, 2)).loss.backward()
        optimizer.step()
        before = model.book.codebook.detach().clone()
        model.update_codebook(optimizer)
        given = (model.book.codebook != before).any(-1)
        moments = optimizer.state[model.book.codebook]["exp_avg"]
        if given.any():
            assert not moments[given].any()
            assert moments.any()
            return
    raise AssertionError("no code died")


def test_two_halves_are_the_whole_where_the_update_is_manual():
    whole, halves = quantizer(), quantizer(update="manual")
    halves.load_state_dict(whole.state_dict())
    z = torch.randn(40, 3)
    whole(z)
    before = halves.book.codebook.clone()
    halves(z[:10])
    halves(z[10:])
    assert torch.equal(halves.book.codebook, before)
    halves.update_codebook()
    torch.testing.assert_close(halves.book.codebook, whole.book.codebook)


def test_numbers_of_masked_rows_without_a_codebook():
    z, mask = torch.randn(6, 3), torch.arange(6) < 4
    z[5] = NAN
    for model in (st.nn.LFQ(3), st.nn.FSQ([8, 5, 5])):
        code, index, loss = model(z, mask=mask)
        due = model(z[:4])
        assert torch.equal(code, torch.cat([due.quantized, torch.zeros(2, 3)]))
        assert index.tolist() == [*due.index.tolist(), -1, -1]
        torch.testing.assert_close(loss, due.loss)


@pytest.mark.parametrize("learn", ["ema", "loss", "gradient"])
def test_in_eval_and_frozen_nothing_is_learned(learn):
    model = quantizer(rule="both", learn=learn)
    before = {
        name: value.clone() for name, value in model.state_dict().items() if "extra" not in name
    }
    z = torch.randn(9, 3, requires_grad=True)
    model.eval()(z)
    model.train().book.frozen = True
    q, _, loss = model(z)
    (q.sum() + loss).backward()
    assert model.book.codebook.grad is None
    torch.testing.assert_close(loss, 0.25 * (z - q).square().mean())
    after = model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    model.book.frozen = False
    model(z)
    assert model.book.statistics.step == 1


def test_dead_codes_are_counted_by_their_rate():
    model = quantizer(4, 2)
    model.book.statistics.count.copy_(torch.tensor([1.0, 0.06, 0.004, 1.0]))  # their mean: .516
    assert model.book.dead_codes.item() == 1
    model.book.revive = 0.2
    assert model.book.dead_codes.item() == 2


def test_k_means_are_those_of_scipy():
    z = torch.randn(300, 3) + torch.randint(0, 4, (300, 1)) * 10
    model = quantizer(6, k_means=True)
    statistics = copy.deepcopy(model.book.statistics)
    everything = torch.ones(300, dtype=torch.bool)
    start, _ = statistics.sample(z, everything)
    assert all((row == z).all(-1).any() for row in start)
    due, _ = kmeans2(z.double().numpy(), start.double().numpy(), iter=10, minit="matrix")
    means = statistics.k_means(model.book.codebook, z, everything)
    torch.testing.assert_close(means.double(), torch.from_numpy(due), rtol=1e-4, atol=1e-4)


def test_statistics_are_in_float32_whatever_the_dtype():
    model = quantizer(1, 2, decay=0.0).bfloat16()
    model(torch.ones(4097, 2, dtype=torch.bfloat16))
    assert model.book.statistics.count.dtype == torch.float32
    assert model.book.statistics.count.item() == 4097
    assert model.book.codebook.dtype == torch.bfloat16


@pytest.mark.parametrize("stages", [1, 9])
def test_the_gradient_of_a_chain_is_the_identity_at_any_depth(stages):
    """The public package's is that times the depth."""
    model = st.nn.ResidualVQ(stages, 16, 4)
    z = torch.randn(30, 4, requires_grad=True)
    q, index, loss = model(z)
    grad = torch.randn_like(q)
    assert torch.equal(torch.autograd.grad(q, z, grad, retain_graph=True)[0], grad)
    assert index.shape == (30, stages)
    model.eval()
    q, index, loss = model(z)
    assert torch.equal(model.decode(index), q), "in the same order, by which sums round"
    whole, due = torch.zeros_like(z), 0.0
    for book, number in zip(model.books, index.unbind(-1), strict=True):
        assert torch.equal(number, st.nearest(z - whole, book.codebook))
        whole = whole + book.codebook[number]
        due = due + 0.25 * (z - whole).square().mean()
    torch.testing.assert_close(loss, due)


def test_a_stage_learns_from_its_own_losses_alone():
    chain = st.nn.ResidualVQ(3, 8, 3, learn="loss", k_means=False)
    first = quantizer(learn="loss")
    first.book.load_state_dict(chain.books[0].state_dict())
    z = torch.randn(30, 3)
    got = torch.autograd.grad(chain(z).loss, chain.books[0].codebook)[0]
    due = torch.autograd.grad(first(z).loss, first.book.codebook)[0]
    torch.testing.assert_close(got, due)


def test_dropout_ends_each_example_somewhere():
    model = st.nn.ResidualVQ(3, 16, 4, dropout=True)
    index = model(torch.randn(200, 7, 4)).index
    depth = (index >= 0).sum(-1)
    assert (depth == depth[:, :1]).all()
    assert set(depth.flatten().tolist()) == {1, 2, 3}
    assert ((index >= 0).int().diff(dim=-1) <= 0).all()
    assert (model.eval()(torch.randn(20, 7, 4)).index >= 0).all()


def test_dropout_is_the_same_in_compiled_code():
    model, z = st.nn.ResidualVQ(3, 16, 4, dropout=True, update="manual"), torch.randn(40, 4)
    found = []
    with torch.no_grad():
        for call in (model, torch.compile(model, fullgraph=True)):
            torch.manual_seed(3)
            found.append(call(z).index)
    assert torch.equal(*found)


def test_groups_are_quantizers_side_by_side():
    model = st.nn.GroupedVQ(2, 8, 6).eval()
    z = torch.randn(10, 6)
    q, index, _ = model(z)
    for i, book in enumerate(model.books):
        part, number = st.vector_quantize(z[:, 3 * i : 3 * i + 3], book.codebook)
        assert torch.equal(q[:, 3 * i : 3 * i + 3], part)
        assert torch.equal(index[:, i], number)
    assert torch.equal(model.decode(index), q)


def test_cosine_codes_are_unit_vectors():
    model = quantizer(8, 3, metric="cosine")
    z = 5 * torch.randn(50, 3)
    q, index, _ = model.eval()(z)
    assert torch.equal(index, st.nearest(z, model.book.codebook, metric="cosine"))
    torch.testing.assert_close(q.norm(dim=-1), torch.ones(50))


def test_a_transform_learns_in_the_codebooks_place():
    linear = nn.Linear(3, 3, bias=False)
    model = st.nn.VectorQuantizer(8, 3, learn="loss", transform=linear)
    q, index, loss = model(torch.randn(20, 3))
    assert torch.equal(q, linear(model.book.codebook)[index])
    loss.backward()
    assert linear.weight.grad.abs().max() > 0
    with pytest.raises(st.ArgumentError, match="transform learns by itself"):
        st.nn.VectorQuantizer(8, 3, transform=linear)


def test_stages_and_groups_do_not_share_a_transform():
    linear = nn.Linear(4, 4, bias=False)
    for kind, width in ((st.nn.ResidualVQ, 4), (st.nn.GroupedVQ, 8)):
        model = kind(2, 8, width, learn="loss", transform=linear)
        weights = [book.transform.weight for book in model.books]
        assert len({id(weight) for weight in (*weights, linear.weight)}) == 3
        assert all(torch.equal(weight, linear.weight) for weight in weights)


@pytest.mark.parametrize("learn", ["ema", "loss"])
def test_compiled_whole_it_trains_as_eager(learn):
    eager = quantizer(learn=learn, revive=0.5 if learn == "ema" else 0.0)
    twin = copy.deepcopy(eager)
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager_decomp_partition")
    for _ in range(3):
        z = torch.randn(30, 3, requires_grad=True)
        due, got = eager(z), compiled(z)
        assert torch.equal(got.index, due.index)
        torch.testing.assert_close(got.loss, due.loss)
        torch.testing.assert_close(*(torch.autograd.grad(x.loss, z)[0] for x in (got, due)))
        torch.testing.assert_close(twin.book.codebook, eager.book.codebook)


def test_a_run_that_is_resumed_is_the_same_to_the_bit(tmp_path):
    batches = torch.randn(6, 20, 3)
    straight, stopped = (st.nn.VectorQuantizer(8, 3, revive=0.5) for _ in range(2))
    stopped.load_state_dict(straight.state_dict())
    for batch in batches:
        straight(batch)
    for batch in batches[:3]:
        stopped(batch)
    torch.save(stopped.state_dict(), tmp_path / "state.pt")
    resumed = st.nn.VectorQuantizer(8, 3, revive=0.5)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt"))
    for batch in batches[3:]:
        resumed(batch)
    assert torch.equal(resumed.book.codebook, straight.book.codebook)


def test_what_learns_nothing_returns_what_the_function_does():
    z = torch.randn(20, 3)
    code, index, loss = st.nn.FSQ([8, 5, 5])(z)
    assert torch.equal(code, st.fsq(z, [8, 5, 5])[0])
    assert torch.equal(index, st.fsq(z, [8, 5, 5])[1])
    assert loss == 0
    model = st.nn.LFQ(3, entropy=0.5, diversity=2.0, commitment=0.1)
    code, index, loss = model(z)
    each, together = st.lfq_entropy(z)
    torch.testing.assert_close(
        loss, 0.5 * (each - 2 * together) + 0.1 * (z - z.sign()).square().mean()
    )


REFUSED = {
    "learn must be one of ema, loss, gradient, got 'sgd'": {"learn": "sgd"},
    "update must be one of forward, manual": {"update": "never"},
    "metric must be one of": {"metric": "dot"},
    "decay must lie in": {"decay": 1.0},
    "revive must be at least 0": {"revive": -1},
    "needs update='manual', and after optimizer.step": {"revive": 0.1, "learn": "loss"},
}


@pytest.mark.parametrize("says", REFUSED)
def test_what_is_refused(says):
    with pytest.raises(st.ArgumentError, match=says):
        st.nn.VectorQuantizer(8, 3, **REFUSED[says])


def test_a_parameter_is_revived_by_its_optimizer_alone():
    model = quantizer(revive=0.1, learn="loss", update="manual")
    model(torch.randn(9, 3))
    with pytest.raises(st.ArgumentError, match="is revived by its optimizer: pass it"):
        model.update_codebook()


@pytest.mark.parametrize(
    "model",
    [
        st.nn.VectorQuantizer(16, 8),
        st.nn.ResidualVQ(2, 16, 8),
        st.nn.GroupedVQ(2, 16, 8),
        st.nn.GroupedVQ(4, 16, 8),
    ],
    ids=str,
)
def test_vectors_of_another_width_are_refused_in_the_words_of_the_caller(model):
    with pytest.raises(
        st.ShapeError, match=r"z must be \(..., 8\).*\(2, 8, 5, 3\).*movedim\(1, -1\)"
    ):
        model(torch.randn(2, 8, 5, 3))

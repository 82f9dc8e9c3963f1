"""Other libraries: the gradients in which they are right, and what 1.32 of one has wrong."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import straightthrough as st

theirs = pytest.importorskip("vector_quantize_pytorch")
diveq = pytest.importorskip("diveq")


def codes(codebook: Tensor, **options) -> torch.nn.Module:
    """Return their quantizer, in training, with that codebook."""
    model = theirs.VectorQuantize(codebook.shape[-1], len(codebook), **options)
    model._codebook.embed.data.copy_(codebook)
    return model


def batch(*shape: int) -> Tensor:
    return torch.randn(1, *shape, requires_grad=True)


def gradient(y: Tensor, *leaves: Tensor, grad: Tensor | None = None) -> tuple[Tensor, ...]:
    return torch.autograd.grad(y, leaves, torch.ones_like(y) if grad is None else grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_diveq_has_the_gradients_of_its_authors(dtype):
    """To rounding: they add 1e-12 to the length."""
    peer = diveq.DIVEQDetach(64, 8, codebook_reset=False, allow_warning=False).to(dtype)
    codebook = peer.codebook
    codebook.data.normal_()
    z = torch.randn(500, 8, dtype=dtype, requires_grad=True)
    grad = torch.randn_like(z)
    y, number, _ = peer(z)
    q, index = st.vector_quantize(z, codebook, "diveq")
    assert torch.equal(index, number)
    assert torch.equal(q, codebook[index])
    assert not torch.equal(y, q)
    due, got = (gradient(value, z, codebook, grad=grad) for value in (y, q))
    rounding = 2e-6 if dtype == torch.float32 else 2e-11
    torch.testing.assert_close(got, due, rtol=rounding, atol=rounding)


def test_rotation_has_the_gradient_of_theirs():
    codebook, z = torch.randn(64, 8), batch(500, 8)
    grad = torch.randn(1, 500, 8)
    q, index, _ = codes(codebook, rotation_trick=True, ema_update=False)(z)
    due = gradient(q, z, grad=grad)
    got = gradient(st.through(z, codebook[index], "rotation"), z, grad=grad)
    torch.testing.assert_close(got, due, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("levels", [[8, 5, 5, 5], [7, 6, 3]], ids=str)
def test_finite_scalars_are_theirs(levels, symmetric):
    z = batch(500, len(levels))
    code, number = theirs.FSQ(levels, preserve_symmetry=symmetric)(z)
    got, index = st.fsq(z, levels, symmetric=symmetric)
    assert torch.equal(index, number)
    torch.testing.assert_close(got, code, rtol=1e-5, atol=1e-5)
    grad = torch.randn_like(code)
    due = gradient(code, z, grad=grad)
    torch.testing.assert_close(gradient(got, z, grad=grad), due, rtol=1e-5, atol=1e-5)


def test_the_entropy_of_signs_is_theirs():
    z = torch.randn(1, 200, 8)
    peer = theirs.LFQ(dim=8, codebook_size=2**8)
    due = peer(z, inv_temperature=0.5, return_loss_breakdown=True)[1]
    each, together = st.lfq_entropy(z, inverse_temperature=0.5)
    torch.testing.assert_close(each, due.per_sample_entropy, rtol=1e-4, atol=1e-4)
    assert together >= due.batch_entropy


def test_the_losses_of_signs_are_theirs():
    """As the guide has it, but for the entropy of the mean, which is made of its factors."""
    z = torch.randn(1, 200, 8) / 10
    peer = theirs.LFQ(dim=8, codebook_size=2**8, entropy_loss_weight=0.1, diversity_gamma=0.0)
    _, number, loss = peer(z)
    got = st.nn.LFQ(8, entropy=0.1, diversity=0.0, inverse_temperature=100.0)(z)
    torch.testing.assert_close(got.loss, loss, rtol=1e-4, atol=1e-5)
    assert torch.equal(st.nn.LFQ(8).decode(number).flip(-1), got.quantized)


def test_a_learnable_codebook_is_moved_by_four_times_theirs():
    """Whose loss weighs a commitment of 1/4 for both, where the paper has 1 for the codewords."""
    codebook, z = torch.randn(16, 8), batch(200, 8)
    options = {"ema_update": False, "learnable_codebook": True, "rotation_trick": False}
    peer = codes(codebook, commitment_weight=0.25, **options)
    ours = st.nn.VectorQuantizer(16, 8, learn="loss", k_means=False)
    ours.book.codebook.data.copy_(codebook)
    due = gradient(peer(z)[2], z, peer._codebook.embed)
    got = gradient(ours(z).loss, z, ours.book.codebook)
    torch.testing.assert_close(got[0], due[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(got[1], 4 * due[1][0], rtol=1e-4, atol=1e-6)


# What theirs has wrong, and ours has not.


@pytest.mark.parametrize("rotation", [False, True])
def test_a_value_is_the_codeword(rotation):
    codebook, z = torch.randn(64, 8), batch(500, 8)
    q, index, _ = codes(codebook, rotation_trick=rotation, ema_update=False)(z)
    assert (q == codebook[index]).float().mean() < 0.85
    q, index = st.vector_quantize(z, codebook, "rotation" if rotation else "ste")
    assert torch.equal(q, codebook[index])


def test_zero_has_a_codeword_and_a_gradient():
    codebook, z = torch.randn(64, 8), torch.zeros(1, 1, 8, requires_grad=True)
    q, _, _ = codes(codebook, rotation_trick=True, ema_update=False)(z)
    assert not q.any()
    assert gradient(q, z)[0].abs().max() > 1e5
    q, index = st.vector_quantize(z, codebook, "rotation")
    assert torch.equal(q, codebook[index])
    torch.testing.assert_close(gradient(q, z)[0], torch.ones(1, 1, 8))


@pytest.mark.parametrize(("offset", "wrong"), [(100.0, 0.003), (1000.0, 0.2)])
def test_the_nearest_far_from_zero(offset, wrong):
    codebook, z = torch.randn(256, 8) + offset, torch.randn(1, 1000, 8) + offset
    due = (z.double()[0].unsqueeze(1) - codebook.double()).square().sum(-1).argmin(-1)
    found = codes(codebook).eval()(z)[1][0]
    assert (found != due).float().mean() > wrong
    assert torch.equal(st.nearest(z, codebook)[0], due)


def test_a_row_of_nan_leaves_the_codebook_alone():
    z = torch.randn(1, 100, 8)
    z[0, 3] = math.nan
    peer, ours = theirs.VectorQuantize(8, 16), st.nn.VectorQuantizer(16, 8)
    peer(z), ours(z)
    assert peer.codebook.isnan().all()
    assert ours.book.codebook.isfinite().all()


@pytest.mark.parametrize("stages", [2, 4, 8])
def test_a_chain_passes_the_gradient_once(stages):
    z = batch(100, 8)
    chain = {"num_quantizers": stages, "codebook_size": 16, "rotation_trick": False}
    torch.testing.assert_close(
        gradient(theirs.ResidualVQ(dim=8, **chain)(z)[0], z)[0], torch.full_like(z, stages)
    )
    got = gradient(st.nn.ResidualVQ(stages, 16, 8)(z).quantized, z)[0]
    assert torch.equal(got, torch.ones_like(z))


def test_a_chain_of_rotations_keeps_the_gradients_length():
    """Theirs is turned stage by stage, by smaller and smaller codewords."""
    z, grad = batch(100, 48), torch.randn(1, 100, 48)
    chain = {"num_quantizers": 4, "codebook_size": 64, "rotation_trick": True}
    q = theirs.ResidualVQ(dim=48, **chain)(z)[0]
    shrunk = gradient(q, z, grad=grad)[0].norm() / (q.norm() / z.norm() * grad.norm())
    y = st.nn.ResidualVQ(4, 64, 48, "rotation")(z).quantized
    kept = gradient(y, z, grad=grad)[0].norm() / (y.norm() / z.norm() * grad.norm())
    assert abs(kept - 1) < 0.05 < abs(shrunk - 1)


@pytest.mark.parametrize("levels", [[8, 5, 5, 5], [7, 5, 5, 5, 5]], ids=str)
def test_numbers_of_codes_in_bfloat16(levels):
    peer, number = theirs.FSQ(levels), torch.arange(math.prod(levels))
    code = peer.indices_to_codes(number).bfloat16()
    assert (peer.codes_to_indices(code) != number).float().mean() > 0.4
    z = torch.randn(2000, len(levels)).bfloat16()
    code, index = st.fsq(z, levels)
    assert torch.equal(st.fsq_decode(index, levels, dtype=torch.bfloat16), code)


@pytest.mark.parametrize("levels", [[8] * 9, [4] * 16], ids=["8^9", "4^16"])
def test_numbers_of_many_codes(levels):
    """Of these theirs makes a table too, of 4.8 GB and 275 GB, unless it returns no numbers."""
    peer = theirs.FSQ(levels, return_indices=False)
    number = torch.randint(0, math.prod(levels), (2000,))
    code = peer._indices_to_codes(number)
    assert (peer.codes_to_indices(code) != number).float().mean() > 0.5
    z = 3 * torch.randn(2000, len(levels))
    code, index = st.fsq(z, levels)
    assert torch.equal(st.fsq_decode(index, levels), code)
    assert index.max() > 2**24


def test_many_signs_need_no_table():
    with torch.profiler.profile(profile_memory=True) as profile:
        theirs.LFQ(dim=16, codebook_size=2**16)(torch.randn(1, 64, 16))
    assert _largest(profile) >= 4 * 64 * 2**16
    with torch.profiler.profile(profile_memory=True) as profile:
        st.nn.LFQ(16)(torch.randn(1, 64, 16))
    assert _largest(profile) <= 8 * 64 * 16


def _largest(profile: torch.profiler.profile) -> int:
    return max(event.self_cpu_memory_usage for event in profile.events())


def test_padding_beside_a_projection():
    z, mask = torch.randn(1, 20, 8), torch.arange(20).unsqueeze(0) < 15
    raised = pytest.raises(RuntimeError, match="must match")
    with raised, pytest.warns(UserWarning, match="different to the input size"):
        theirs.VectorQuantize(8, 16, codebook_dim=4)(z, mask=mask)
    project = torch.nn.Linear(8, 4)
    assert st.nn.VectorQuantizer(16, 4, k_means=False)(project(z), mask=mask).loss > 0


def test_means_of_fewer_rows_than_codes_are_distinct():
    z = torch.randn(1, 10, 8)
    peer, ours = theirs.VectorQuantize(8, 64, kmeans_init=True), st.nn.VectorQuantizer(64, 8)
    peer(z), ours(z)
    assert len(peer.codebook.unique(dim=0)) < 20
    assert len(ours.book.codebook.unique(dim=0)) == 64


def test_counts_in_bfloat16():
    z = torch.ones(1, 4097, 2, dtype=torch.bfloat16)
    peer = theirs.VectorQuantize(2, 1, decay=0.0).bfloat16()
    ours = st.nn.VectorQuantizer(1, 2, decay=0.0).bfloat16()
    peer(z), ours(z)
    assert peer._codebook.cluster_size.item() == 4096
    assert ours.book.statistics.count.item() == 4097


def test_training_is_compiled_whole():
    torch.compiler.reset()
    z = torch.randn(1, 100, 8)
    compiler = {"fullgraph": True, "backend": "eager"}
    with pytest.raises(RuntimeError, match=r"[Dd]ata-dependent"):
        torch.compile(theirs.VectorQuantize(8, 16), **compiler)(z)
    assert torch.compile(st.nn.VectorQuantizer(16, 8), **compiler)(z).loss > 0

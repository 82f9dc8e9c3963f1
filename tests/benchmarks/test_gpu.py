"""Kernels for GPUs compiled without one: what they cost is counted."""

import json
import re

import pytest
import torch

pytest.importorskip("triton")
import triton
import triton.language as tl

from benchmarks.gpu import __main__ as entry
from benchmarks.gpu import compiling, roofline
from benchmarks.gpu.compiling import Launch, launches, pipe_of
from straightthrough.cli.console import run
from straightthrough.core.native import stored


@pytest.fixture
def command(in_process):
    return in_process(lambda: run(entry.app, "python -m benchmarks.gpu"))


def test_kernels_compile_without_spills_and_read_nothing_twice(command, tmp_path):
    page = tmp_path / "made" / "gpu.md"
    code, out, _ = command("--shapes 4096x64 --cards H100,MI300X --json --output", page)
    assert code == 0
    found = json.loads(out)
    assert {each["call"] for each in found} == set(roofline.CALLS)
    for each in found:
        assert 0 < sum(launch["bytes"] for launch in each["launches"]) <= 1.1 * each["least_bytes"]
        for launch in each["launches"]:
            assert launch["spills"] == 0
            assert 8 < launch["registers"] <= 128
            in_double = launch["kernel"] == "geometric_kernel"
            assert (launch["instructions"]["fp64"] > 0) == in_double
    assert "Predicted, not measured" in page.read_text()
    assert "draw_short | 4096x64 | H100" in page.read_text()


@pytest.mark.parametrize(
    "gradient",
    ["straight_through", "darn", "reinmax", "softmax_backward_of_logits", "gapped", "mve_integer"],
)
def test_rows_of_16384_are_read_once_without_spills(gradient):
    given = roofline.arguments(gradient, (256, 16_384), torch.float32)
    (launch,), results = launches(gradient, given, roofline.CARDS["H100"].target)
    assert launch.kernel.endswith("_short")
    assert launch.spills == 0
    assert launch.bytes <= 1.1 * roofline.size_of((*given, *results))


@pytest.mark.parametrize("levels", [[8, 5, 5, 5], [4] * 16, [5] * 8 + [7] * 8], ids=len)
@pytest.mark.parametrize("card", roofline.CARDS)
def test_codes_compile_without_spills(card, levels):
    z = torch.empty(65_536, len(levels), device="meta")
    target, bounds = roofline.CARDS[card].target, (levels, 1.0, False)
    for name, *given in (
        ("finite_scalars", z, *bounds),
        ("finite_scalars_gradient", z, z, *bounds),
        ("signs", z, 1.0),
        ("sphere_gradient", z, z),
        ("two_largest", z),
    ):
        (launch,), results = launches(name, given, target)
        assert launch.spills == 0
        assert launch.instructions["fp64"] == 0
        assert launch.bytes <= roofline.size_of((*given, *results))


@pytest.mark.parametrize("classes", [16_384, 16_383, 16_382])
def test_one_hots_of_long_rows_compile_without_spills(classes):
    x, seed = torch.empty(256, classes, device="meta"), torch.empty((), dtype=torch.int64)
    for name, *given in (("draw", x, seed.to("meta"), 0), ("argmax_hot", x)):
        (launch,), _ = launches(name, given, roofline.CARDS["H100"].target)
        assert launch.kernel.endswith("_short")
        assert launch.spills == 0


@pytest.mark.parametrize("classes", [5, 64, 4096, 8191])
@pytest.mark.parametrize("card", roofline.CARDS)
def test_topk_compiles_without_spills(card, classes):
    """Its loops are searches, so that no time is predicted."""
    x, target = torch.empty(4096, classes, device="meta"), roofline.CARDS[card].target
    calls = [("topk_hot", x, 2), ("logistic_backward", x, x, 2, 1.0)]
    for name, *given in calls[: 2 if classes <= 4096 else 1]:
        (launch,), _ = launches(name, given, target)
        assert launch.spills == 0
        assert launch.instructions["fp64"] == 0


@pytest.mark.parametrize("draw", ["poisson", "binomial", "negative_binomial"])
def test_counts_compile_without_spills(draw):
    """Their loops are as long as the data says, so that no time is predicted."""
    given = roofline.arguments(draw, (4096, 64), torch.float32)
    (launch,), _ = launches(draw, given, roofline.CARDS["A100"].target)
    assert launch.spills == 0
    assert launch.instructions["fp64"] > 0


@pytest.mark.parametrize("card", ["A100", "H100", "MI300X"])
@pytest.mark.parametrize("classes", [10, 512])
@pytest.mark.parametrize("deterministic", [True, False])
def test_a_lookup_compiles_without_spills(card, classes, deterministic):
    torch.use_deterministic_algorithms(deterministic)

    def made(*shape, dtype=torch.float32):
        return torch.empty(shape, dtype=dtype, device="meta")

    index = made(4096, dtype=torch.int64)
    given = made(4096, classes), made(classes, 64), index, made(4096, 64), 1.3
    for name in ("straight_through_lookup", "reinmax_lookup"):
        (launch,), _ = launches(name, given, roofline.CARDS[card].target)
        assert launch.spills == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_integers_of_rows_compile_without_spills_and_read_nothing_twice(dtype):
    x, laid = torch.empty(4096, 64, device="meta", dtype=dtype), torch.empty(4096, device="meta")
    for name, given in (
        ("shifted_and_inside", (x, laid, laid.clone(), True, -8.0, 7.0, True)),
        ("shifted_backward", (x, x.clone(), laid, laid.clone(), False, -8.0, 7.0, False, 0.5)),
        ("passed_bits", (x, torch.empty(x.numel() // 8, device="meta", dtype=torch.uint8))),
    ):
        (launch,), results = launches(name, given, roofline.CARDS["H100"].target)
        assert launch.spills == launch.instructions["fp64"] == 0
        assert launch.bytes <= 1.01 * roofline.size_of((*given, *results))


@pytest.mark.parametrize("card", ["H100", "MI300X"])
@pytest.mark.parametrize("form", [("e4m3", 0, ""), ("e2m1", 32, "floor"), ("e2m1", 16, "nvfp4")])
def test_floating_formats_compile_without_spills_and_read_nothing_twice(card, form):
    x, scales = torch.empty(4096, 64, device="meta"), torch.empty(4096, device="meta")
    noise = torch.empty((), device="meta", dtype=torch.int64), 0
    for name, given in (
        ("floats", (x, scales, *form)),
        ("floats_drawn_and_inside", (x, scales, *form, False, *noise)),
        ("floats_backward", (x, x.clone(), scales, *form, True, 0.5)),
        ("floats_drawn_backward", (x, x.clone(), scales, *form, True, 0.5, *noise)),
    ):
        (launch,), results = launches(name, given, roofline.CARDS[card].target)
        assert launch.spills == launch.instructions["fp64"] == 0
        assert launch.bytes <= 1.01 * roofline.size_of((*given, *results))


@triton.jit
def copy(x, y, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    stored.store(y, at, stored.load(x, at, at < SIZE, 0.0), at < SIZE)


@pytest.mark.parametrize(
    ("card", "code", "nearest"),
    [
        *((card, "ptx", "cvt.rn.bf16") for card in ("A100", "H100", "RTX 4090")),
        # By whole numbers: bit 16, and that plus 0x7fff, are added.
        ("MI300X", "amdgcn", r"(?s)0x7fff\b.*v_bfe_u32 \w+, \w+, 16, 1\b.*v_add3_u32"),
    ],
)
def test_bfloat16_is_rounded_to_nearest(card, code, nearest):
    """As the interpreter is made to do in the tests."""
    source = triton.compiler.ASTSource(copy, {"x": "*fp32", "y": "*bf16"}, {"SIZE": 256})
    target = roofline.CARDS[card].target
    made = triton.compile(source, target=target, options=stored.options(4)).asm[code]
    assert re.search(nearest, made)
    assert "cvt.rz" not in made


@pytest.mark.parametrize(
    ("card", "code", "exact"),
    [
        ("A100", "ptx", ("div.rn.f32", "mul.rn.f32", "add.rn.f32")),
        ("MI300X", "amdgcn", ("v_div_fixup_f32",)),
    ],
)
def test_numbers_on_a_grid_are_rounded_as_torch_does(card, code, exact, monkeypatch):
    """Quotients, and the products with the scale before an offset is added to them."""
    made = []
    monkeypatch.setattr(compiling, "_launch", lambda name, kernel, *_: made.append(kernel.asm))
    x, one = torch.empty(64, 64, device="meta"), torch.empty((), device="meta")
    launches("shifted", (x, one, one, True, -8.0, 7.0), roofline.CARDS[card].target)
    (asm,) = made
    assert all(operation in asm[code] for operation in exact)
    assert "fma.rn.f32" not in asm[code]


def test_torch_is_counted_by_launches_and_bytes():
    """F.gumbel_softmax, hard, forward and backward: 13, by torch's profiler on a GPU too."""
    assert len(roofline.snippet(roofline.PLAIN["categorical"], torch.float32, (64, 8))) == 13
    assert roofline.snippet(lambda x: x * 2, torch.float32, (64, 8)) == [4096, 4096]


def test_the_longest_pipe_counts():
    """By hand: an RTX 4090 has 128 units at 2.52 GHz, 2 double results a clock, 1.008 TB/s."""
    card = roofline.CARDS["RTX 4090"]

    def microseconds(size: int, **instructions: int) -> float:
        return 1e6 * card.seconds(Launch("none", 0, 0, 0, 10**6, instructions, size))

    assert microseconds(0) == pytest.approx(5)
    assert microseconds(1_008_000 * 85) == pytest.approx(5 + 100)
    assert microseconds(1_008_000 * 85, float=100, fp64=1) == pytest.approx(5 + 100)
    doubles = 100 * 1e6 / (128 * 2 * 2520 * 0.7)
    assert microseconds(1_008_000 * 85, float=100, fp64=100) == pytest.approx(5 + doubles)


@pytest.mark.parametrize(
    ("reads", "writes", "published"),
    [(1, 1, 2.903e12), (1, 1, 3.01e12), (2, 1, 1.89e12)],
    ids=["copy", "softmax of one read", "softmax of two reads"],
)
def test_predictions_are_near_what_others_measured(reads, writes, published):
    """On an H100: bytes of the input and the result a second, of float32 as docs/guides/gpu.md."""
    card, size = roofline.CARDS["H100"], 4 * 16_384 * 131_072
    predicted = 2 * size / card.memory((reads + writes) * size)
    assert predicted == pytest.approx(published, rel=0.06)


@pytest.mark.parametrize(
    ("opcode", "pipe"),
    [
        ("FFMA.FTZ", "float"),
        ("IMAD.WIDE.U32", "float"),
        ("MUFU.EX2", "special"),
        ("F2I.S64.TRUNC", "special"),
        ("DADD", "fp64"),
        ("I2F.F64.U64", "fp64"),
        ("LDG.E.128", "memory"),
        ("SHFL.BFLY", "memory"),
        ("LOP3.LUT", "integer"),
        ("v_add_f64", "fp64"),
        ("v_exp_f32_e32", "special"),
        ("v_mul_f32_e32", "float"),
        ("v_mad_u64_u32", "integer"),
        ("global_load_dwordx4", "memory"),
        ("NOP", None),
        ("UIADD3", None),
        ("s_waitcnt", None),
    ],
)
def test_pipes(opcode, pipe):
    assert pipe_of(opcode) == pipe


def test_wrong_options(command):
    for wrong in (
        "--cards none",
        "--calls none",
        "--shapes 3",
        "--shapes 4x9000",
        "--dtype float8",
    ):
        assert command(wrong)[0] == 2

"""What is measured on a GPU: here the work that is timed, and what is shown of it."""

import json

import pytest
import torch

pytest.importorskip("triton")

from benchmarks.cases import BOTH, Way
from benchmarks.gpu import __main__ as entry
from benchmarks.gpu import measuring, roofline
from straightthrough.cli.console import run


@pytest.fixture
def command(in_process):
    return in_process(lambda: run(entry.app, "python -m benchmarks.gpu"))


@pytest.mark.parametrize("call", roofline.CALLS)
def test_ours_and_plain_torch_work_on_any_device(call):
    """Nothing of a call is made on the CPU, which torch would refuse beside what is not."""
    inputs = measuring.inputs_on("meta", call, (64, 131_072), "bfloat16")
    for way in (measuring.OURS, measuring.PLAIN_TORCH):
        gradients = Way(measuring.ways(call)[way]).call(BOTH, inputs)()
        assert all(x.is_meta and x.dtype == torch.bfloat16 for x in gradients if x is not None)


def test_the_fewest_bytes_of_a_call():
    """Logits read twice, value, gradient and its result; an index a row twice, and a seed."""
    due = 5 * 4 * 4096 * 1000 + 2 * 8 * 4096 + 8
    assert measuring.least_bytes("categorical, reinmax", (4096, 1000), "float32") == due


def test_a_measurement(monkeypatch):
    """Every way does the work; one that fails is said, and the others stay."""
    said, seconds = [], iter((2e-6, 16e-6, 1e-6))

    def timed(work):
        work()
        return next(seconds)

    monkeypatch.setattr(measuring, "_seconds", timed)
    monkeypatch.setattr(measuring, "_copy", lambda device: 1e-3)
    monkeypatch.setattr(measuring, "card_of", lambda device: "H100")
    found = measuring.measure("sign", (32, 10), "float32", "cpu", said.append)
    assert (found.ratio, found.compiled, found.target) == (8.0, 2.0, 1.0)
    assert found.seconds[measuring.PLAIN_COMPILED] is None
    (sentence,) = said
    assert "sign at 32x10, torch, compiled, is left out, as it fails" in sentence
    copied = 2 * 4 * measuring.COPIED / 1e-3
    assert found.share == measuring.least_bytes("sign", (32, 10), "float32") / 2e-6 / copied


def test_a_machine_without_a_gpu_measures_nothing(command, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, out, err = command("--measured --output", tmp_path / "gpu.md")
    assert (code, out) == (0, "")
    assert "no GPU is found" in err
    assert not [*tmp_path.iterdir()]


def test_what_is_measured_stands_beside_what_is_predicted(command, tmp_path, monkeypatch):
    def measure(call, shape, dtype, device, say):
        times = dict.fromkeys(measuring.WAYS, 1e-4) | {measuring.PLAIN_TORCH: 9e-4}
        return measuring.Measurement(call, shape, dtype, "H100", times, 0.5)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(measuring, "measure", measure)
    page = tmp_path / "gpu.md"
    code, out, _ = command("--measured --calls reinmax --shapes 65536x64,256x9000 --output", page)
    assert code == 0
    shown = page.read_text().partition("predicted: ours")[2]
    rows = [line.split(" | ") for line in shown.splitlines() if "reinmax |" in line]
    (row,) = (row for row in rows if row[1] == "65536x64" and "categorical" in row[0])
    assert row[2:10] == ["100", "900", "100", "100", "9.0x", "8x", "1.00x", "50 %"]
    assert all(int(cell.strip(" |")) > 20 for cell in row[10:])
    assert "A100" not in page.read_text()
    assert sum(row[1] == "256x9000" and row[10] == "–" for row in rows) == 2, "none is predicted"
    code, out, _ = command("--measured --calls reinmax --json --cards A100")
    assert len(json.loads(out)) == 2 * len(measuring.SHAPES)

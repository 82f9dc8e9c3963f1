"""What the studies that train have in common: Ctrl-C, what it leaves, and going on from there."""

import functools
import json
import shutil

import pytest
import torch

import straightthrough as st
from straightthrough.studies.data import Data, load
from straightthrough.studies.journal import Journal
from straightthrough.studies.mask import study as mask
from straightthrough.studies.polynomial import study as polynomial
from straightthrough.studies.qat import study as qat
from straightthrough.studies.record import to_json
from straightthrough.studies.select import study as select
from straightthrough.studies.vae import study as vae
from straightthrough.studies.vqvae import study as vqvae

CODEBOOKS = ["ste, moving averages, revival", "both, its loss, revival"]
EPOCHS = 12  # with checkpoints at the even ones
SETTINGS = {
    vae: vae.Settings(
        estimators=["gumbel"], control=["reinmax"], without_bias=["gumbel"], epochs=EPOCHS
    ),
    mask: mask.Settings(epochs=EPOCHS),
    polynomial: polynomial.Settings(estimators=["exact"], control=["gumbel"], epochs=EPOCHS),
    select: select.Settings(methods=["topk", "simple"], epochs=EPOCHS),
    vqvae: vqvae.Settings(quantizers=CODEBOOKS, epochs=EPOCHS),
    qat: qat.Settings(precisions=["W2A2"], rules=["lsq"], rounding=False, epochs=EPOCHS),
}
SECOND = {
    vae: "reinmax+control, seed 0",
    mask: "dense, seed 0",
    polynomial: "gumbel+control, seed 1",
    select: "simple, seed 0",
    vqvae: f"{CODEBOOKS[1]}, seed 0",
    qat: "W2A2 lsq, seed 0",
}
STUDIES = pytest.mark.parametrize("study", SETTINGS, ids=lambda study: study.__name__.split(".")[2])


def few_images(name, folder):
    digits = load(name, folder)
    train, test = slice(150), slice(5)
    return Data(
        name,
        digits.train[train],
        digits.train_labels[train],
        digits.test[test],
        digits.test_labels[test],
    )


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Leave out the timing of masks and exports, which have tests, and train in few steps."""
    monkeypatch.setattr(mask, "measure", lambda notify: [mask.Cost("none", 1.0, 0.0)])
    monkeypatch.setattr(qat, "ship", lambda *_: qat.Shipped(1, 1.0, 1.0, 100.0))
    monkeypatch.setattr(polynomial, "STEPS", 3)
    for study in (vae, mask, vqvae, select, qat):
        monkeypatch.setattr(study, "load", few_images)
    monkeypatch.setattr(vae, "AUDITED", 1)


@functools.cache
def whole(study):
    """The result of a run that nothing interrupts."""
    return study.run(SETTINGS[study])


def measured(result):
    """What a result says, but for times."""
    runs = to_json(result)["runs"]
    for run in runs:
        for point in run["points"]:
            del point["seconds"]
    return runs


def stop_at(epoch, study):
    def notify(progress):
        if progress.run == SECOND[study] and progress.done == epoch:
            raise KeyboardInterrupt

    return notify


def epochs_of(result):
    return [[point.epoch for point in run.points] for run in result.runs]


EVEN = list(range(0, EPOCHS + 1, 2))


@STUDIES
@pytest.mark.parametrize("epoch", [0, 3, 4, EPOCHS])
def test_an_interrupted_study_loses_nothing_and_ends_as_if_it_were_not(study, epoch, tmp_path):
    assert whole(study).header.complete
    stopped = study.run(SETTINGS[study], stop_at(epoch, study), Journal(tmp_path))
    assert not stopped.header.complete
    models = len(stopped.runs) // 2
    assert epochs_of(stopped)[:models] == [EVEN] * models
    assert epochs_of(stopped)[models:] == [[*range(0, epoch, 2), epoch]] * models
    on_disk = json.loads((tmp_path / "result.json").read_text())
    assert on_disk == to_json(stopped)

    seen = []
    resumed = study.run(SETTINGS[study], seen.append, Journal(tmp_path, resume=True))
    assert measured(resumed) == measured(whole(study))
    assert resumed.header.complete
    assert resumed.header.seconds > stopped.header.seconds
    assert resumed.header.command.count("\n") == 1
    assert min((p.done for p in seen if p.run == SECOND[study]), default=epoch) == epoch
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


@STUDIES
def test_ctrl_c_takes_back_the_epoch_that_is_under_way(study, tmp_path, monkeypatch):
    train = study._Trainer.epoch

    def epoch(self):
        losses = train(self)
        if self.done == 3:
            raise KeyboardInterrupt
        return losses

    with monkeypatch.context() as patched:
        patched.setattr(study._Trainer, "epoch", epoch)
        stopped = study.run(SETTINGS[study], journal=Journal(tmp_path))
    assert epochs_of(stopped)[0] == [0, 2, 3]
    resumed = study.run(SETTINGS[study], journal=Journal(tmp_path, resume=True))
    assert measured(resumed) == measured(whole(study))


@STUDIES
def test_a_study_that_was_killed_goes_on_from_its_last_checkpoint(study, tmp_path):
    kept, killed = tmp_path / "kept", tmp_path / "killed"
    kept.mkdir()

    def notify(progress):
        if progress.run == SECOND[study] and progress.done == 5:
            shutil.copytree(kept, killed)

    study.run(SETTINGS[study], notify, Journal(kept))
    partial = json.loads((killed / "result.json").read_text())
    assert not partial["header"]["complete"]
    assert partial["header"]["seconds"] > 0
    assert partial["runs"][-1]["points"][-1]["epoch"] == 4
    seen = []
    resumed = study.run(SETTINGS[study], seen.append, Journal(killed, resume=True))
    assert measured(resumed) == measured(whole(study))
    assert next(p.done for p in seen if p.run == SECOND[study]) == 4


@STUDIES
def test_a_study_without_its_state_begins_the_unfinished_run_again(study, tmp_path):
    study.run(SETTINGS[study], stop_at(3, study), Journal(tmp_path))
    (tmp_path / "state.pt").unlink()
    resumed = study.run(SETTINGS[study], journal=Journal(tmp_path, resume=True))
    assert measured(resumed) == measured(whole(study))


def test_a_complete_study_is_taken_up_as_it_is(tmp_path):
    settings = mask.Settings(epochs=1)
    first = mask.run(settings, journal=Journal(tmp_path))
    again = mask.run(settings, lambda _: pytest.fail("it trains"), Journal(tmp_path, resume=True))
    assert to_json(again)["runs"] == to_json(first)["runs"]
    assert "\n" not in again.header.command


def test_without_resume_a_study_begins_anew(tmp_path):
    mask.run(mask.Settings(epochs=4), stop_at(1, mask), Journal(tmp_path))
    seen = []
    mask.run(mask.Settings(epochs=1), seen.append, Journal(tmp_path))
    assert [progress.done for progress in seen] == [0, 1, 0, 1]
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


def test_networks_that_are_trained_side_by_side_go_on_together(tmp_path):
    settings = qat.Settings(precisions=[], rounding=True, epochs=4)
    expected = measured(qat.run(settings))

    def notify(progress):
        if progress.run == "Adam, seed 0" and progress.done == 3:
            raise KeyboardInterrupt

    stopped = qat.run(settings, notify, Journal(tmp_path))
    assert {run.points[-1].epoch for run in stopped.runs} == {3, 4}
    assert measured(qat.run(settings, journal=Journal(tmp_path, resume=True))) == expected


def other_settings(folder):
    return mask.Settings(epochs=5)


def other_machine(folder):
    result = json.loads((folder / "result.json").read_text())
    result["header"]["environment"]["torch"] = "0.1"
    (folder / "result.json").write_text(json.dumps(result))


def nothing_there(folder):
    (folder / "result.json").unlink()


def another_study(folder):
    (folder / "result.json").write_text('{"header": {}, "runs": []}')


def no_json(folder):
    (folder / "result.json").write_text("half of a fi")


def broken_state(folder):
    (folder / "state.pt").write_bytes(b"PK")


def state_of_nothing(folder):
    torch.save({"weights": []}, folder / "state.pt")


BROKEN = {
    other_settings: r"got settings\.epochs 4 and 5; leave it out, or choose another --output",
    other_machine: r"got environment\.torch '0\.1' and",
    nothing_there: r"result\.json cannot be read: No such file.*leave out --resume",
    another_study: r"result\.json is not a result of this study as this version writes it",
    no_json: r"result\.json is not a result of this study",
    broken_state: r"state\.pt cannot be read \(\w+\); delete it, and --resume begins the run",
    state_of_nothing: r"state\.pt cannot be read \(KeyError\); delete it",
}


@pytest.mark.parametrize("breakage", BROKEN, ids=lambda breakage: breakage.__name__)
def test_what_cannot_be_resumed_is_said_and_left_alone(breakage, tmp_path):
    settings = mask.Settings(epochs=4)
    mask.run(settings, stop_at(1, mask), Journal(tmp_path))
    settings = breakage(tmp_path) or settings
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(st.ArgumentError, match=BROKEN[breakage]):
        mask.run(settings, journal=Journal(tmp_path, resume=True))
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_state_of_another_version_is_named(tmp_path):
    """It was a KeyError with its traceback, which told nobody what to delete."""
    settings = mask.Settings(epochs=4)
    mask.run(settings, stop_at(1, mask), Journal(tmp_path))
    state = torch.load(tmp_path / "state.pt")
    torch.save({**state, "weights": state["weights"][:1]}, tmp_path / "state.pt")
    with pytest.raises(st.ArgumentError, match=r"state\.pt cannot be read .* delete it"):
        mask.run(settings, journal=Journal(tmp_path, resume=True))


@pytest.mark.parametrize("study", [vae, mask, qat])
def test_epochs_must_be_positive(study):
    with pytest.raises(st.ArgumentError, match="epochs must be at least 1, got 0"):
        study.run(study.Settings(epochs=0))

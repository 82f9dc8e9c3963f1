"""What the studies that train have in common."""

import pytest

import straightthrough as st
from straightthrough.studies.mask import study as mask
from straightthrough.studies.vae import study as vae


@pytest.fixture
def no_timing(monkeypatch):
    """Leave out the timing of masks, which takes seconds and has a test of its own."""
    monkeypatch.setattr(mask, "measure", lambda notify: [])


@pytest.mark.usefixtures("no_timing")
@pytest.mark.parametrize("study", [vae, mask])
def test_interrupted_studies_keep_what_they_have(study):
    def notify(progress):
        if progress.run in ("gumbel, seed 0", "dense, seed 0") and progress.done == 1:
            raise KeyboardInterrupt

    result = study.run(study.Settings(epochs=2), notify)
    assert not result.header.complete
    assert result.header.seconds > 0
    assert [len(run.points) for run in result.runs] == [3, 2]


@pytest.mark.parametrize("study", [vae, mask])
def test_epochs_must_be_positive(study):
    with pytest.raises(st.ArgumentError, match="epochs must be at least 1, got 0"):
        study.run(study.Settings(epochs=0))

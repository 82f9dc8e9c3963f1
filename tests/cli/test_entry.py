"""The command itself: its version, what it lacks, and Ctrl-C before it has begun."""

import gzip
import os
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import typer

import straightthrough as st
from straightthrough.cli import console, entry


def test_version_and_help_of_the_command_itself(cli):
    assert cli("--version") == (0, f"straightthrough {st.__version__}\n", "")
    assert cli("--version list") == (0, f"straightthrough {st.__version__}\n", "")
    assert cli("") == cli("--help")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a disk that is full")
def test_a_full_disk_is_one_line():
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "straightthrough", "list"]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (ended.returncode, ended.stderr) == (1, "error: No space left on device\n")


def test_an_error_of_input_or_output_in_words_of_its_own_is_one_line(capsys):
    app = typer.Typer()

    @app.command()
    def fail() -> None:
        raise gzip.BadGzipFile("Not a gzipped file")

    with pytest.raises(SystemExit) as ended, mock.patch.object(sys, "argv", ["it"]):
        console.run(app, "it")
    assert (ended.value.code, capsys.readouterr().err) == (1, "error: Not a gzipped file\n")


def test_nothing_is_said_where_there_is_no_stdout(cli, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert cli("list") == (0, "", "")


def test_a_missing_extra_is_one_line(cli, monkeypatch):
    monkeypatch.setattr(entry, "find_spec", lambda name: None if name == "typer" else name)
    code, out, err = cli("list")
    assert (code, out) == (2, "")
    assert err == "error: typer not installed; pip install 'straightthrough[studies]'\n"


def test_ctrl_c_while_torch_is_imported_is_one_line_and_exit_1(tmp_path):
    (tmp_path / "torch.py").write_text(
        "import time\nprint('importing', flush=True)\n"
        "try:\n    time.sleep(60)\nexcept BaseException:\n    pass\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", "import straightthrough_command as c; c.main()"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(st.__file__).parent.parent}"},
    )
    with process:
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert (process.returncode, out, err) == (1, "", "error: interrupted\n")


def test_ctrl_c_after_the_imports_is_the_commands(ctrl_c, tmp_path):
    line = f"study vae --epochs 100000 --estimators reinmax --output {tmp_path}"
    main = ("-c", "import straightthrough_command as c; c.main()")
    _, err = ctrl_c(line, "test -ELBO", main)
    assert "error: interrupted: the report is partial" in err

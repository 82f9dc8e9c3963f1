"""The scripts that the docs' numbers come of: they run, and print what the pages show."""

import re
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_routers_measurement(monkeypatch, capsys):
    script = ROOT / "tools" / "measure_router.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--seeds", "2", "--steps", "3"])
    runpy.run_path(str(script), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    page = (ROOT / "docs" / "guides" / "routers.md").read_text(encoding="utf-8").splitlines()
    for line in lines:
        words = re.sub(r"\d\.\d{3}", "0", line)
        assert words in [re.sub(r"\d\.\d{3}", "0", shown) for shown in page]
    assert len(lines) == 6

"""A page as Markdown."""

import re

import pytest
from matplotlib.image import imread

from page_results import vae_result
from straightthrough.report import markdown
from straightthrough.studies.vae import page


@pytest.fixture
def vae():
    return vae_result()


def test_markdown_says_what_the_page_says(vae, tmp_path):
    vae["runs"][2]["rule"] = "B | C"
    vae["header"]["complete"] = False
    markdown.write(page.layout(vae), tmp_path / "vae.md")
    text = (tmp_path / "vae.md").read_text()
    bar = r"\|"
    for table in page.tables(vae):
        for row in (table.columns, *table.rows):
            cells = [cell.replace("|", bar).replace(" ± ", "\u00a0±\u00a0") for cell in row]
            assert f"| {' | '.join(cells)} |" in text
        assert table.note in text
    assert "## Training" in text
    assert "**Partial report.**" in text
    assert "```text\nstraightthrough study vae --seeds 0,1\n```" in text
    assert "| Torch | 9.8.7 |" in text
    drawn = re.findall(r"^!\[(.+)\]\((.+)\)$", text, re.MULTILINE)
    assert [name for _, name in drawn] == [f"vae-{n}.png" for n in range(1, len(drawn) + 1)]
    assert len(drawn) == 2 + 2 + 2
    for _, name in drawn:
        assert imread(tmp_path / name).size

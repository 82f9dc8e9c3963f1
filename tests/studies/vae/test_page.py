"""The page of the categorical VAE."""

import pytest

from page_results import Reader, vae_result
from straightthrough.cli import pages
from straightthrough.studies.vae import page


@pytest.fixture
def vae():
    return vae_result()


def test_the_table_holds_means_and_deviations_over_seeds(vae):
    (table,) = page.tables(vae)
    assert table.rows == [
        [
            "A(tau=1.0)",
            "2",
            "2",
            "25.00 ± 1.41",
            "26.00 ± 1.41",
            "0.500 ± 0.000",
            "0.7500 ± 0.0000",
            "4.0 ± 0.0",
        ],
        ["B()", "1", "2", "23.50", "24.50", "–", "0.7500", "4.0"],
    ]
    cells = Reader(pages.render(vae)).cells
    assert cells == [cell for row in (table.columns, *table.rows) for cell in row]


def test_the_lead_names_the_best_of_the_first_seed(vae):
    assert "Best on the test images of the first seed: B(), 24.50 nats" in pages.render(vae)


def test_published_numbers_stand_beside_ours(vae):
    vae["source"] = "A. Author (2020)"
    for run in vae["runs"][:2]:
        run["published"] = 29.5
    table, _ = page.tables(vae)
    assert table.columns[3:] == ("Last epoch", "Published", "Difference")
    assert table.rows == [
        ["A(tau=1.0)", "2", "2", "28.00 ± 1.41", "29.50", "-1.50"],
        ["B()", "1", "2", "26.50", "–", "–"],
    ]
    assert "Published: A. Author (2020)." in table.note
    assert "-1.50" in Reader(pages.render(vae)).cells
    vae["runs"][0]["points"][-1]["sampled"] = vae["runs"][1]["points"][-1]["sampled"] = None
    assert page.tables(vae)[0].rows[0][3:] == ["–", "29.50", "–"]


def test_a_page_without_enumeration_or_pictures_leaves_them_out(vae):
    vae["exact"], vae["originals"] = False, None
    (table,) = page.tables(vae)
    assert table.columns == (
        "Estimator",
        "Seeds",
        "Epochs",
        "Train -ELBO",
        "Test -ELBO",
        "Seconds",
    )
    assert table.rows[1] == ["B()", "1", "2", "23.50", "24.50", "4.0"]
    reader = Reader(pages.render(vae))
    assert "exact" not in reader.text
    assert "osine" not in reader.text
    assert "Reconstructions" not in reader.text
    assert len(reader.loads) == 2  # one chart in two dresses

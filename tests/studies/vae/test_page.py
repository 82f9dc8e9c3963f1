"""The page of the categorical VAE."""

import pytest

from page_results import Reader, vae_result
from straightthrough.cli import pages
from straightthrough.studies.vae import page


@pytest.fixture
def vae():
    return vae_result()


def test_the_table_holds_means_and_deviations_over_seeds(vae):
    first, *others = page.tables(vae)
    assert first.rows == [
        [
            "A(tau=1.0)",
            "2",
            "2",
            "25.00 ± 1.41",
            "26.00 ± 1.41",
            "6.50 ± 0.00",
            "4.0 ± 0.0",
        ],
        ["B()", "1", "2", "23.50", "24.50", "6.50", "4.0"],
    ]
    assert "8 training images and over 2 test images, exact, a sum over all 4,096" in first.note
    assert "Temperatures are made up." in first.note
    cells = Reader(pages.render(vae)).cells
    shown = [first, *others]
    assert cells == [
        cell for table in shown for row in (table.columns, *table.rows) for cell in row
    ]


def test_the_note_says_what_is_evaluated_and_what_deviates_where_there_is_something_to_say(vae):
    vae["images"]["train"], vae["evaluated"] = 60_000, 10_000
    note = page.tables(vae)[0].note
    assert "the first 10,000 of the 60,000 training images" in note
    assert "± is the standard deviation" in note
    del vae["runs"][1]
    assert "±" not in str(page.tables(vae))


def test_the_lead_names_the_lowest_and_says_what_the_data_are(vae):
    lead = page.layout(vae).lead
    assert lead.startswith("Digits: 10 images, 8 to train on.")
    assert lead.endswith("Lowest on the test images: B(), with a -ELBO of 24.50.")


def test_published_numbers_stand_beside_ours(vae):
    vae["source"] = "A. Author (2020)"
    for run in vae["runs"][:2]:
        run["published"] = 29.5
    table = page.tables(vae)[0]
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
    vae["runs"].pop()
    for run in vae["runs"]:
        for one in run["points"]:
            one.update(errors={}, entropy=None)
    (table,) = page.tables(vae)
    assert table.columns == (
        "Estimator",
        "Runs",
        "Epochs",
        "Train -ELBO",
        "Test -ELBO",
        "Seconds",
    )
    assert table.rows[1] == ["B()", "1", "2", "23.50", "24.50", "4.0"]
    assert "one draw an image" in table.note
    assert "entropy" not in table.note
    reader = Reader(pages.render(vae))
    assert "least bias" not in reader.text
    assert "does the bias cost" not in reader.text
    assert "Reconstructions" not in reader.text
    assert len(reader.loads) == 2  # one chart in two dresses

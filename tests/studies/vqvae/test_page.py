"""The page of the vector-quantized autoencoder."""

from page_results import IMAGES, Reader, grey, header
from straightthrough.cli import pages
from straightthrough.studies.vqvae import page


def vqvae_result():
    """Return two runs of one quantizer, and one of another."""

    def run(name, seed, error, used):
        last = {"train_error": error / 2, "test_error": error, "perplexity": 3.0, "used": used}
        points = [{"epoch": e, "seconds": 1.5, **last} for e in (0, 1)]
        pictures = {"reconstructions": grey((2, 4, 4), 9), "codes": grey((4, 4, 4), 99)}
        shares = [0.5, 0.25, 0.25, 0.0]
        return {"quantizer": name, "seed": seed, "points": points, "shares": shares, **pictures}

    two = [run("no revival", 0, 0.04, 2), run("no revival", 1, 0.06, 4)]
    return {
        "header": header("vqvae"),
        "settings": {"data": "digits", "seeds": [0, 1], "epochs": 1},
        "images": IMAGES,
        "tokens": 2,
        "codes": 4,
        "originals": grey((2, 4, 4), 255),
        "runs": [*two, run("b, revival", 0, 0.03, 4)],
    }


def test_the_page_shows_the_best_first_with_its_spread():
    result = vqvae_result()
    (table,) = page.tables(result)
    best = ["b, revival", "1", "1", "0.0300", "0.0150", "3.0", "4", "1.5"]
    other = ["no revival", "2", "1", "0.0500 ± 0.0141", "0.0250 ± 0.0071", "3.0 ± 0.0", "3 ± 1"]
    assert table.rows == [best, [*other, "1.5 ± 0.0"]]
    shown = Reader(pages.render(result))
    assert shown.cells == [cell for row in (table.columns, *table.rows) for cell in row]
    assert "4 codes" in shown.text
    pictures = shown.text[shown.text.index("Reconstructions") :]
    assert pictures.index("b, revival") < pictures.index("no revival")


def test_a_page_of_nothing_measured():
    result = {**vqvae_result(), "runs": []}
    assert Reader(pages.render(result)).cells == [*page.tables(result)[0].columns]

"""The page of the masked network."""

import pytest

from page_results import Reader, mask_result
from straightthrough.cli import pages
from straightthrough.studies.mask import page


@pytest.fixture
def mask():
    return mask_result()


def test_the_mask_page_shows_networks_and_costs(mask):
    networks, costs = page.tables(mask)
    assert networks.rows == [["masked", "1", "1", "9.00", "11.50", "33.3", "1.0"]]
    assert costs.rows == [["no mask", "1.50", "0"], ["hard", "6.00", "75"]]
    cells = Reader(pages.render(mask)).cells
    assert cells == [
        cell for table in (networks, costs) for row in (table.columns, *table.rows) for cell in row
    ]

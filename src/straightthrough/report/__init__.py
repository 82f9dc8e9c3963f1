"""What pages are made of: tables, charts, runs gathered over seeds; as HTML and as Markdown."""

from .merge import merge
from .page import Page, Table

__all__ = ["Page", "Table", "merge"]

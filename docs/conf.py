"""How the docs are built: `make docs` for the pages, `make doctests` to run every example."""

import doctest
import re
import sys
from pathlib import Path

from docutils import nodes

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import generate  # noqa: E402  # beside this file, which is no package; it reads benchmarks/

import straightthrough  # noqa: E402  # after the path is set

project = "straightthrough"
author = "the straightthrough authors"
copyright = author
release = version = straightthrough.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.doctest",
    "links",
]
exclude_patterns = ["_build", "_generated/studies"]  # the pages in studies/ include the latter
default_role = "code"  # single backticks in docstrings

html_theme = "furo"
html_title = f"straightthrough {release}"
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {
    "light_css_variables": {
        "color-brand-primary": "#1d4ed8",
        "color-brand-content": "#1d4ed8",
        "font-stack": "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif",
        "font-stack--monospace": "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace",
    },
    "dark_css_variables": {
        "color-brand-primary": "#93c5fd",
        "color-brand-content": "#93c5fd",
    },
}

myst_heading_anchors = 3

autodoc_typehints = "none"  # the signature's own line and "Args" say it
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

# An exception's text is part of an example, so no flag that ignores it.
doctest_default_flags = doctest.ELLIPSIS
doctest_global_setup = """
import torch
import straightthrough as st
torch.manual_seed(0)
torch.set_printoptions(precision=4, sci_mode=False, linewidth=100)
"""

LEAD_IN = re.compile(r"(^|(?<=\. ))(Forward|Backward|Value|Edge cases|Higher order|Cost): ")


def set_docstring(app, what, name, obj, options, lines):
    """Set "Edge cases:" and its like in bold, and leave out what is inherited and not of the thing.

    That is what a module has from torch, and the example of `vjp`, which is the base's.
    """
    if name.startswith("straightthrough.nn.") and obj.__doc__ is None:
        lines.clear()
    if what == "method" and obj.__qualname__ != ".".join(name.split(".")[-2:]):
        del lines[next((i for i, line in enumerate(lines) if "rubric:: Example" in line), None) :]
    lines[:] = [LEAD_IN.sub(r"**\2:** ", line) for line in lines]


def mark_examples(app, doctree):
    """Let the doctest builder run the Markdown fences that hold a session."""
    for block in doctree.findall(nodes.literal_block):
        if block.get("language") == "pycon":
            block["testnodetype"] = "doctest"


def setup(app):
    app.connect("builder-inited", lambda app: generate.write_pages(HERE / "_generated"))
    app.connect("autodoc-process-docstring", set_docstring)
    app.connect("doctree-read", mark_examples)

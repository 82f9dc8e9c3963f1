"""Links that the docs make by themselves: from names to pages, from titles to papers."""

import ast
import inspect
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from docutils import nodes

import straightthrough as st
from straightthrough.core import outcomes

RULES = (st.surrogates, st.relaxations, st.estimators)
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def links():
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        import links
    finally:
        sys.path.pop(0)
    return links


def test_every_form_of_a_rule_and_every_outcome_has_one_place():
    reference = (ROOT / "docs/reference/core.md").read_text(encoding="utf-8")
    table = (ROOT / "docs/guides/design.md").read_text(encoding="utf-8")
    rules = [getattr(module, name) for module in RULES for name in module.__all__]
    forms = [rule.__name__ for rule in rules if inspect.isabstract(rule)]
    assert {"CountEstimator", "SolverEstimator", "SubsetEstimator"} <= {*forms}
    assert [form for form in forms if table.count(f"| `{form}` |") != 1] == []
    assert [form for form in forms if reference.count(f".{form}\n") != 1] == []
    kinds = [kind for kind in vars(outcomes).values() if inspect.isclass(kind)]
    named = [kind.__name__ for kind in kinds if issubclass(kind, outcomes.Outcome)]
    assert [name for name in named if not re.search(rf"[. ]{name}\b", reference)] == []


def references():
    """Yield what every docstring names under References."""
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                text = ast.get_docstring(node) or ""
                found = re.search(r"References?:\n(.*?)(?:\n\n|\Z)", text, re.DOTALL)
                if found:
                    yield path.name, found[1]


def test_every_paper_that_is_referred_to_has_a_link(links):
    named = list(references())
    assert len(named) > 30
    missing = {
        title
        for _, text in named
        for title in re.findall(r'"([^"]+)"', " ".join(text.split()))
        if title not in links.PAPERS
    }
    assert missing == set()
    assert [(name, text) for name, text in named if len(links.linked(text)) < 2] == []


def test_a_title_is_linked_across_lines_and_the_longest_wins(links):
    title = "Bridging discrete and\n    backpropagation: straight-through and\nbeyond"
    text = f'Liu et al., "{title}", 2023.'
    before, title, after = links.linked(text)
    assert (before.astext(), after.astext()) == ('Liu et al., "', '", 2023.')
    assert title["refuri"] == "https://arxiv.org/abs/2304.08612"
    assert title.astext().endswith("beyond")
    assert [node.astext() for node in links.linked("nothing")] == ["nothing"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("st.sign", "straightthrough.sign"),
        ("st.sign(x)", "straightthrough.sign"),
        ("ReinMax", "straightthrough.estimators.ReinMax"),
        ("ReinMax(tau=1.1)", "straightthrough.estimators.ReinMax"),
        ('"reinmax"', "straightthrough.estimators.ReinMax"),
        ("st.surrogates.Tanh", "straightthrough.surrogates.Tanh"),
        ("Atan(2.0)", "straightthrough.surrogates.Atan"),
        ("st.nn.Sign", "straightthrough.nn.Sign"),
        ("reinmax", "reinmax"),
        ("round", "round"),
        ("x > 0", "x > 0"),
    ],
)
def test_names_of_objects(links, text, name):
    assert links.full_name(text) == name


def test_names_are_linked_but_not_on_their_own_page_nor_in_links_and_titles(links):
    entry = SimpleNamespace(docname="operators/sign", node_id="straightthrough.sign")
    domains = {"py": {"objects": {"straightthrough.sign": entry}}}
    builder = SimpleNamespace(get_relative_uri=lambda origin, target: f"../{target}.html")
    app = SimpleNamespace(env=SimpleNamespace(domaindata=domains), builder=builder)

    def links_of(docname):
        name = nodes.literal("", "st.sign")
        tree = nodes.section("", nodes.title("", "", nodes.literal("", "st.sign")))
        tree += nodes.paragraph("", "", name)
        tree += nodes.paragraph("", "", nodes.reference("", "", nodes.literal("", "st.sign")))
        links.link_names(app, tree, docname)
        return [link["refuri"] for link in tree.findall(nodes.reference) if "refuri" in link]

    assert links_of("guides/noise") == ["../operators/sign.html#straightthrough.sign"]
    assert links_of("operators/sign") == []

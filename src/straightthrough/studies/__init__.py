"""Experiments on real data or published problems, a folder each, over the public API only.

In a folder `study.py` has a function `run(settings, notify)` that returns its result as
dataclasses: it prints nothing and draws nothing, and the command line shows its progress. `page.py`
makes the page of a result, out of its JSON alone.
"""

"""Experiments on real data or published problems, one file each, over the public API only.

A study is a function `run(settings, notify)` that returns its result as dataclasses. It prints
nothing and draws nothing: the command line shows its progress, `straightthrough.report` makes its
page.
"""

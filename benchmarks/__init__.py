"""Benchmarks: every operator against plain torch, timed in one run and checked first.

`cases.py` says what is timed, `gate.py` checks it, `timing.py` and `memory.py` measure,
`suite.py` goes through it all, `results.py` keeps it, `compare.py` and `targets.py` judge,
and `__main__.py` is the command.
"""

"""The operators: a room a family, every room with the same files.

`api.py` has the public functions with their checks and records, `reference.py` what they run in
plain torch, `cpu.cpp` the same as kernels, and `specification.py` what the suite holds them
against, written another way.
"""

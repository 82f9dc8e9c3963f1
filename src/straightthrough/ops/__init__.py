"""The operators: a package a family, every package with the same files.

`api.py` has the public functions with their checks and records, `operation.py` every forward with
its backward, and `specification.py` what the suite holds them against, written another way. Where
there are kernels, `cpu.cpp` has them, and `reference.py` what they must equal, in plain torch.
"""

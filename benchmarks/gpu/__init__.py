"""The kernels for GPUs without one: compiled for named targets, and their time predicted.

`compiling.py` runs an operator on tensors without data and keeps what it would have launched;
`roofline.py` says what a card needs for that; `__main__.py` is the command.
"""

"""The shapes that cases are timed at."""

from __future__ import annotations

Shape = tuple[int, ...]

SHAPES: tuple[Shape, ...] = ((32, 10), (65536, 16), (4096, 1000), (256, 131072), (1048576, 8))
MAIN: Shape = (4096, 1000)
"""The shape that torch.compile is timed at, as every shape costs it seconds to compile."""

GRAPH: Shape = (4096, 64)
"""The shape that what a graph costs ours is timed at."""

COUNTS: tuple[Shape, ...] = SHAPES[:2]
"""Of counts, whose draws take up to a microsecond an element."""

LOOKUP: Shape = (8192, 8192)
"""Logits of the lookup."""

LAYER: Shape = (1024, 1024)
"""Weights of the masked layer."""

ROWS: Shape = (8192, 64)
"""Of the codebook that learns."""

CODES: tuple[Shape, ...] = ((65536, 16), (1048576, 8))
"""Of codes without a table, whose numbers are those of an int64."""

ORDERS: tuple[Shape, ...] = ((64, 256),)
"""Of orders, whose plain snippets have a matrix of a row."""

RANKS: Shape = (64, 1024)
"""Of ranks, beside a library that has no matrix either."""

SMALL: Shape = (4096, 16)
"""Logits of rules that cost many passes over them, and of a snippet with a step a class."""

OWN = {
    "categorical_lookup": (LOOKUP,),
    **dict.fromkeys(("fsq", "lfq", "bsq"), CODES),
    "rank": (*ORDERS, RANKS),
    **dict.fromkeys(("permutation", "reorder"), ORDERS),
    "assignment": ((64, 32),),
    "sample_subset": (SHAPES[0], SMALL),
}
"""Of operators that are timed at shapes of their own."""

DEAR = {
    "gumbel_rao": (SMALL, MAIN),
    "mve": (SMALL,),
    "reinmax_rao": (SMALL,),
    "reinmax_cv": (SMALL,),
}
"""Where those rules are timed."""

WIDTH = 64
"""Of every dimension that the first input does not have, such as the columns of a table."""


def written(shape: Shape) -> str:
    """Return `4096x1000`, which `--shapes` takes too."""
    return "x".join(map(str, shape))

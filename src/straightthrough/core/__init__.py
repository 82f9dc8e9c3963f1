"""The engine: it knows no operator and no rule."""

from . import batched

__all__ = ["batched"]  # what `vmap` does of every operator is registered by its import

"""Modules whose buffers keep their dtype."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Self

from torch import Tensor, nn


class KeptDtypes(nn.Module):
    """A module whose buffers keep their dtype: half precision is too coarse for running means.

    They do so whatever `.to(dtype)` says, and where `load_state_dict(..., assign=True)` puts those
    of a file in their place.
    """

    def _kept(self) -> Iterable[str]:
        """Return the names of the buffers that do."""
        return self._buffers

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = self._present()
        super()._apply(fn, recurse)
        if any(buffer.is_meta for buffer in before.values()):
            self._begin()  # by `to_empty`, whose storage holds anything
        for name, buffer in before.items():
            moved = getattr(self, name)
            if moved.dtype != buffer.dtype:
                self._buffers[name] = buffer.to(moved.device)
        return self

    def _load_from_state_dict(self, *args: Any) -> None:
        before = self._present()
        super()._load_from_state_dict(*args)
        for name, buffer in before.items():
            loaded = getattr(self, name)
            if loaded.dtype != buffer.dtype:
                self._buffers[name] = loaded.to(buffer.dtype)

    def _begin(self) -> None:
        """Put them at what they begin with."""
        for buffer in self._present().values():
            buffer.zero_()

    def _present(self) -> dict[str, Tensor]:
        named = ((name, self._buffers.get(name)) for name in self._kept())
        return {name: buffer for name, buffer in named if buffer is not None}

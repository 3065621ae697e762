"""Vectors that are read where they are needed: an array, or the rows of an index. Letters: N rows, D width."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ctxembed.types import Vectors


class VectorRows(Protocol):
    """N vectors of which some are read at a time; an array float32 (N, D) is one."""

    def __len__(self) -> int:
        """Return N."""
        ...

    def __getitem__(self, places: slice | NDArray[np.int64], /) -> Vectors:
        """Return the vectors at some places, float32 (n, D)."""
        ...


class VectorSource(Protocol):
    """What keeps vectors under numbers; ``search.SemanticSearch`` is one."""

    def vectors(self, numbers: NDArray[np.int64]) -> Vectors:
        """Return some of them."""
        ...


class IndexVectors:
    """The vectors of an index, on its disk until they are asked for."""

    def __init__(self, source: VectorSource, numbers: NDArray[np.int64]) -> None:
        self._source, self._numbers = source, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, places: slice | NDArray[np.int64], /) -> Vectors:
        return self._source.vectors(self._numbers[places])

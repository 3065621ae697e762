"""Vectors that another tool wrote: a ``.npy`` array, with ids and texts from plain files beside it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxembed.errors import InvalidInputError
from ctxembed.runtime import existing
from ctxembed.types import Vectors
from ctxembed.vectors import CHECKED_ROWS, Row, checked_vectors


class ForeignVectors:
    """Somebody else's ``.npy`` array with ids and texts from plain files: iterate it for rows with their vectors."""

    def __init__(self, npy: Path, array: NDArray[Any], *, ids: Path | None, texts: Path | None) -> None:
        self._npy, self._array, self._ids, self._texts = npy, array, ids, texts

    def __len__(self) -> int:
        return len(self._array)

    @property
    def dimension(self) -> int:
        """The width D of every vector."""
        return int(self._array.shape[1])

    def __iter__(self) -> Iterator[tuple[list[Row], Vectors]]:
        """Yield rows with float32 (N, D) vectors, 16,384 at a time; InvalidInputError on NaN or infinity."""
        ids = _lines(self._ids) if self._ids else map(str, itertools.count())
        texts = _lines(self._texts) if self._texts else itertools.repeat("")
        for start in range(0, len(self), CHECKED_ROWS):
            block = self._array[start : start + CHECKED_ROWS]
            vectors = checked_vectors(block, dimension=self.dimension, first_row=start, name=str(self._npy))
            yield [Row(next(ids), next(texts)) for _ in range(len(block))], vectors


def read_foreign(npy: str | Path, *, ids: str | Path | None = None, texts: str | Path | None = None) -> ForeignVectors:
    """Open an array that another tool wrote, memory-mapped, and never run code from it.

    Args:
        npy: A ``.npy`` file of floats, shape (N, D).
        ids: One id a line, UTF-8 with or without a byte-order mark; without it the ids are the row numbers from 0.
        texts: One text a line, likewise; without it the texts are empty.

    Raises:
        MissingInputError: If a file is not there.
        InvalidInputError: If the array is not 2-D or not of floats, or a file has another number of lines.
    """
    npy = existing(npy)
    try:
        array: NDArray[Any] = np.load(npy, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InvalidInputError(f"{npy} is no plain .npy array ({error}): write it with numpy.save") from error
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.shape[1] < 1:
        raise InvalidInputError(f"{npy} has shape {getattr(array, 'shape', None)}, need (N, D): one vector a row")
    checked_vectors(array[:0], dimension=array.shape[1], name=str(npy))
    files = [None if file is None else existing(file) for file in (ids, texts)]
    for file in files:
        if file is not None and (count := sum(1 for _ in _lines(file))) != len(array):
            raise InvalidInputError(f"{file} has {count} lines, {npy} has {len(array)} rows: need a line for each row")
    return ForeignVectors(npy, array, ids=files[0], texts=files[1])


def _lines(file: Path) -> Iterator[str]:
    try:
        with file.open(encoding="utf-8-sig") as stream:
            for line in stream:
                yield line.removesuffix("\n")
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{file} is not UTF-8 ({error}): convert it first") from error

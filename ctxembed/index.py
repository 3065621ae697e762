"""Nearest neighbours by inner product: FAISS behind one class that turns its traps into clear errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ctxembed.errors import ArtifactError, InvalidInputError
from ctxembed.runtime import atomic_path, existing
from ctxembed.types import Vectors
from ctxembed.vectors import checked_vectors

Ids = NDArray[np.int64]


class Neighbours(NamedTuple):
    """What a search found, best first; both arrays have shape (N, k') with k' = min(k, rows in the index)."""

    scores: Vectors
    ids: Ids


class VectorIndex:
    """Exact inner-product search; on vectors of unit length the scores are cosine similarities."""

    def __init__(self, dimension: int, *, capacity: int = 0) -> None:
        """Make an empty index.

        Args:
            dimension: The width D of every vector.
            capacity: Rows to reserve memory for. FAISS grows by doubling, which at its peak holds the vectors
                twice; within the capacity nothing is moved. More rows than this may still be added.

        Raises:
            InvalidInputError: If the dimension is below 1 or the capacity below 0.
        """
        import faiss

        if dimension < 1 or capacity < 0:
            raise InvalidInputError(f"dimension is {dimension}, need 1 or more; capacity is {capacity}, need 0 or more")
        flat = faiss.IndexFlatIP(dimension)
        self._index: Any = faiss.IndexIDMap2(flat)
        self._largest = -1  # no id in the index is larger, so ids that only ever rise need no look-up
        for vector, size in ((flat.codes, capacity * flat.code_size), (self._index.id_map, capacity)):
            vector.resize(size)  # a std::vector keeps the memory of its largest size when it shrinks
            vector.resize(0)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def dimension(self) -> int:
        """The width D of every vector."""
        return int(self._index.d)

    def add(self, ids: Ids, vectors: NDArray[Any]) -> None:
        """Add vectors under ids that are not in the index yet; on an error nothing is added.

        Args:
            ids: int64 (N,), 0 or more, each once.
            vectors: Floats (N, D), finite; kept as float32.

        Raises:
            InvalidInputError: On any other type, shape or value, or an id that is taken.
        """
        array = checked_vectors(vectors, dimension=self.dimension)
        _check_ids(ids)
        if len(ids) != len(array):
            raise InvalidInputError(f"{len(ids)} ids came with {len(array)} vectors: give one id for each vector")
        if not len(ids):
            return
        unique, counts = np.unique(ids, return_counts=True)
        if unique[0] < 0:
            raise InvalidInputError(f"id {unique[0]} is negative: FAISS keeps -1 for `nothing found`, number from 0")
        taken = unique[(counts > 1) | self._contains(unique)]
        if len(taken):
            raise InvalidInputError(f"id {taken[0]} occurs twice: remove the old row first, or give another id")
        self._index.add_with_ids(array, ids)
        self._largest = max(self._largest, int(unique[-1]))

    def search(self, queries: NDArray[Any], *, k: int) -> Neighbours:
        """Find the k rows with the largest inner products for every query.

        Equal scores come in the order of their ids. Which of several rows that tie for the last place are
        returned is up to FAISS.

        Args:
            queries: Floats (N, D), finite; N may be 0.
            k: Neighbours wanted, at least 1.

        Returns:
            Scores and ids of shape (N, min(k, len(self))), never padded; an empty index gives (N, 0).

        Raises:
            InvalidInputError: On a wrong shape, width or k, or when a product is beyond float32.
        """
        array = checked_vectors(queries, dimension=self.dimension, name="the queries")
        if k < 1:
            raise InvalidInputError(f"k is {k}, need at least 1: ask for one neighbour or more")
        k = min(k, len(self))
        if not len(array) or not k:
            return Neighbours(np.zeros((len(array), k), np.float32), np.zeros((len(array), k), np.int64))
        scores, ids = self._index.search(array, k)
        if (ids < 0).any() or not np.isfinite(scores).all():
            raise InvalidInputError("an inner product is beyond float32: normalise the vectors to unit length first")
        order = np.lexsort((ids, -scores))  # by score, then by id, within each row
        return Neighbours(np.take_along_axis(scores, order, axis=1), np.take_along_axis(ids, order, axis=1))

    def remove(self, ids: Ids) -> int:
        """Remove rows and return how many there were; an id that is not in the index counts for nothing."""
        _check_ids(ids)
        return int(self._index.remove_ids(ids)) if len(ids) else 0

    def reconstruct(self, ids: Ids) -> Vectors:
        """Return the vectors kept under ids, float32 (N, D), in the order given.

        Raises:
            InvalidInputError: If an id is not in the index.
        """
        _check_ids(ids)
        unknown = ids[~np.isin(ids, self.ids())]
        if len(unknown):
            raise InvalidInputError(f"id {unknown[0]} is not in the index of {len(self)} rows: ask for one that is")
        vectors = np.zeros((len(ids), self.dimension), dtype=np.float32)
        if len(ids):
            self._index.reconstruct_batch(ids, vectors)
        return vectors

    def save(self, path: str | Path) -> None:
        """Write the index to one file, atomically.

        Raises:
            MissingInputError: If the folder does not exist.
            ArtifactError: If the file cannot be written.
        """
        import faiss

        path = Path(path)
        existing(path.parent)
        with atomic_path(path) as temporary:
            try:
                faiss.write_index(self._index, str(temporary))
            except RuntimeError as error:
                raise ArtifactError(f"{path} cannot be written ({_first_line(error)}): is the disk full?") from error

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read an index that ``save`` wrote.

        Raises:
            MissingInputError: If there is no such file.
            ArtifactError: If it is damaged or holds another kind of index.
        """
        import faiss

        path = existing(path)
        try:
            index = faiss.read_index(str(path))
        except (RuntimeError, MemoryError) as error:
            raise ArtifactError(f"{path} is damaged ({_first_line(error)}): build the index again") from error
        flat = faiss.downcast_index(index.index) if isinstance(index, faiss.IndexIDMap2) else None
        if not isinstance(flat, faiss.IndexFlatIP):
            raise ArtifactError(f"{path} holds a {type(index).__name__}, need an exact index: build the index again")
        if index.d < 1:
            raise ArtifactError(f"{path} is damaged (dimension {index.d}): build the index again")
        loaded = cls(index.d)
        loaded._index = index
        ids = loaded.ids()
        if not len(ids) == flat.ntotal == flat.codes.size() // flat.code_size:
            raise ArtifactError(f"{path} is damaged ({len(ids)} ids, {flat.ntotal} vectors): build the index again")
        loaded._largest = int(ids.max(initial=-1))
        return loaded

    def ids(self) -> Ids:
        """Return every id, int64 (N,), in the order of addition."""
        import faiss

        ids: Ids = faiss.vector_to_array(self._index.id_map)
        return ids

    def _contains(self, ascending: Ids) -> NDArray[np.bool_]:
        if ascending[0] > self._largest:
            return np.zeros(len(ascending), dtype=np.bool_)
        return np.isin(ascending, self.ids())


def _check_ids(ids: NDArray[Any]) -> None:
    if ids.ndim != 1 or ids.dtype != np.int64:
        raise InvalidInputError(f"ids are {ids.dtype} of shape {ids.shape}, need int64 (N,): use .astype('int64')")


def _first_line(error: BaseException) -> str:
    """FAISS puts its C++ location first and a reason of several lines behind it."""
    return str(error).rpartition("Error: ")[2].splitlines()[0] if str(error) else type(error).__name__

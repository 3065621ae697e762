"""The files of a vector index, and FAISS: written in a stream, opened memory-mapped, searched with a selection.

Exact vectors are a file of FAISS's own flat format: the header of an empty index with its counts filled in, then the
rows one after the other. So rows can be written as they come, and read without loading them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxembed.errors import ArtifactError, InvalidInputError
from ctxembed.index.kinds import HNSW_LINKS, ITERATIONS, Plan, Storage
from ctxembed.runtime import release_memory, writing
from ctxembed.types import Vectors
from ctxembed.vectors import checked_vectors

Places = NDArray[np.int64]
"""Numbers of rows inside one index, from 0."""

BLOCK_ROWS = 16_384
ADDED_ROWS = 65_536


def flat_index(dimension: int, storage: Storage) -> Any:
    """Return an empty FAISS index that keeps vectors as they are, or rounded to half precision."""
    import faiss

    if storage == "float32":
        return faiss.IndexFlatIP(dimension)
    return faiss.IndexScalarQuantizer(dimension, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)


def _header(dimension: int, storage: Storage, rows: int) -> bytes:
    """Return what stands before the vectors: FAISS's header with the row count (bytes 8 to 16) and the size (last 8).

    FAISS counts the size in values for single precision and in bytes for half.
    """
    import faiss

    index = flat_index(dimension, storage)
    header: bytes = faiss.serialize_index(index).tobytes()
    size = rows * (dimension if storage == "float32" else index.code_size)
    return header[:8] + rows.to_bytes(8, "little") + header[16:-8] + size.to_bytes(8, "little")


def write_vectors(path: Path, blocks: Iterable[NDArray[Any]], *, dimension: int, storage: Storage) -> int:
    """Write vectors block by block; ``records.IndexFile.flushed`` brings them to the disk for good.

    Args:
        path: A new file.
        blocks: Floats (n, D) each, finite.
        dimension: The width D.
        storage: How they are kept.

    Returns:
        The number of rows N.

    Raises:
        InvalidInputError: On another shape or value, or one beyond half precision.
        DiskFullError: If there is no room.
    """
    rows = 0
    with writing(path), path.open("xb") as stream:
        stream.write(_header(dimension, storage, 0))
        for block in blocks:
            array = checked_vectors(block, dimension=dimension, first_row=rows)
            with np.errstate(over="ignore"):
                stored = array.astype(f"<f{4 if storage == 'float32' else 2}", copy=False)
            if storage == "float16" and not np.isfinite(stored).all():
                raise InvalidInputError("a vector holds a value beyond 65504, the limit of float16: store float32")
            stream.write(stored.data)
            rows += len(stored)
        stream.seek(0)
        stream.write(_header(dimension, storage, rows))
    return rows


class ExactVectors:
    """The exact vectors of an index, on disk: only what is read is loaded."""

    def __init__(self, path: Path, *, rows: int, dimension: int, storage: Storage) -> None:
        """Open a file that ``write_vectors`` made.

        Raises:
            ArtifactError: If it is damaged, or of another size.
        """
        import faiss

        header = _header(dimension, storage, rows)
        self._path, self._rows, self._dimension = path, rows, dimension
        self._dtype = np.dtype("<f4" if storage == "float32" else "<f2")
        self._offset = len(header)
        size = rows * dimension * self._dtype.itemsize
        with path.open("rb") as stream:  # FAISS maps a file without looking how long it is
            if stream.read(self._offset) != header or path.stat().st_size != self._offset + size:
                raise ArtifactError(
                    f"{path} is damaged (no {rows} vectors of width {dimension}): build the index again"
                )
        self.index: Any = open_faiss(path, faiss.IO_FLAG_MMAP_IFC)
        mapped = np.memmap(path, mode="r", dtype=np.uint8)
        self._array = mapped[self._offset :].view(self._dtype).reshape(rows, dimension)

    def __len__(self) -> int:
        return self._rows

    def take(self, places: Places) -> Vectors:
        """Return the vectors of some rows, float32 (N, D)."""
        return self._array[places].astype(np.float32)

    def blocks(self, size: int = BLOCK_ROWS) -> Iterator[Vectors]:
        """Yield all vectors in order, float32 (n, D) each; read, not mapped, so that memory stays flat."""
        with self._path.open("rb") as stream:
            stream.seek(self._offset)
            for start in range(0, self._rows, size):
                count = min(size, self._rows - start)
                block = np.fromfile(stream, self._dtype, count * self._dimension)
                yield block.reshape(count, self._dimension).astype(np.float32, copy=False)

    def nearest(self, queries: Vectors, k: int, places: Places) -> tuple[Vectors, Places]:
        """Return the k best of some rows by comparing all of them: scores and places, (N, k), in no order.

        Args:
            queries: float32 (N, D).
            k: At most the number of places.
            places: The rows to compare, ascending.
        """
        best = np.empty((len(queries), 0), dtype=np.float32)
        found = np.empty((len(queries), 0), dtype=np.int64)
        for start in range(0, len(places), BLOCK_ROWS):
            chosen = places[start : start + BLOCK_ROWS]
            scores = np.concatenate([best, queries @ self.take(chosen).T], axis=1)
            everything = np.concatenate([found, np.broadcast_to(chosen, (len(queries), len(chosen)))], axis=1)
            kept = np.argpartition(-scores, min(k, scores.shape[1]) - 1, axis=1)[:, :k]
            best, found = np.take_along_axis(scores, kept, axis=1), np.take_along_axis(everything, kept, axis=1)
        return best, found


def train_and_add(plan: Plan, vectors: ExactVectors, *, storage: Storage, sample: Places, seed: int) -> Any:
    """Return a FAISS index of all vectors, trained on a sample of them.

    Args:
        plan: Any kind but flat.
        vectors: All rows.
        storage: How the vectors are kept; a graph walks over them as they are.
        sample: The rows to learn from; none is needed for a graph.
        seed: Of k-means.

    Raises:
        InvalidInputError: If FAISS does not know the factory string, or cannot build it for these vectors.
    """
    import faiss

    try:
        if plan.kind == "hnsw":
            index = _graph(plan.dimension, storage)
        else:
            index = faiss.index_factory(plan.dimension, plan.factory, faiss.METRIC_INNER_PRODUCT)
            prepare_training(index, seed=seed)
            if not index.is_trained:
                index.train(vectors.take(sample))
                release_memory()
        for block in vectors.blocks(ADDED_ROWS):
            index.add(block)
    except (RuntimeError, AssertionError) as error:
        raise InvalidInputError(
            f"FAISS cannot build {plan.factory!r} for {plan.rows} rows of width {plan.dimension} "
            f"({first_line(error)}): choose another --kind"
        ) from error
    release_memory()
    return index


def _graph(dimension: int, storage: Storage) -> Any:
    import faiss

    if storage == "float32":
        return faiss.IndexHNSWFlat(dimension, HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
    half = faiss.ScalarQuantizer.QT_fp16
    return faiss.IndexHNSWSQ(dimension, half, HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)


def prepare_training(index: Any, *, seed: int) -> None:
    """Set the seed and the length of k-means; FAISS would print a line for every clustering with few rows."""
    import faiss

    lists = faiss.try_extract_index_ivf(index)
    for holder in (lists, getattr(lists, "pq", None), getattr(index, "pq", None)):
        if holder is not None and hasattr(holder, "cp"):
            holder.cp.seed, holder.cp.min_points_per_centroid, holder.cp.niter = seed, 1, ITERATIONS


def save_faiss(index: Any, path: Path, *, kind: str) -> None:
    """Write a FAISS index to a new file; a graph without the vectors, which have a file of their own.

    Raises:
        ArtifactError: If the file cannot be written.
        DiskFullError: If there is no room.
    """
    import faiss

    with writing(path):
        try:
            faiss.write_index(index, str(path), faiss.IO_FLAG_SKIP_STORAGE if kind == "hnsw" else 0)
        except RuntimeError as error:
            raise ArtifactError(f"{path} cannot be written ({first_line(error)}): is the disk full?") from error


def open_faiss(path: Path, flags: int) -> Any:
    """Read a FAISS file.

    Raises:
        ArtifactError: If it is missing or damaged.
    """
    import faiss

    try:
        return faiss.read_index(str(path), flags)
    except (RuntimeError, MemoryError) as error:
        raise ArtifactError(f"{path} is missing or damaged ({first_line(error)}): build the index again") from error


def first_line(error: BaseException) -> str:
    """FAISS puts its C++ location first and a reason of several lines behind it."""
    return str(error).rpartition("Error: ")[2].splitlines()[0] if str(error) else type(error).__name__

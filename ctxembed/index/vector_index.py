"""Nearest neighbours by inner product: FAISS behind one class that turns its traps into clear behaviour."""

from __future__ import annotations

import itertools
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ctxembed.errors import ArtifactError, InvalidInputError
from ctxembed.index.files import BLOCK_ROWS, ExactVectors, Places, save_faiss, train_and_add, write_vectors
from ctxembed.index.kinds import IndexOptions, Plan, plan_index
from ctxembed.index.records import IndexFile, IndexRecord
from ctxembed.index.searcher import Mask, Searcher
from ctxembed.index.tuning import held_out, measure, training_sample, true_neighbours, tune
from ctxembed.runtime import existing, write_json
from ctxembed.types import Vectors
from ctxembed.vectors import MANIFEST, checked_vectors, read_manifest

FORMAT = "ctxembed-vector-index"
VERSION = 1

Ids = NDArray[np.int64]


class Neighbours(NamedTuple):
    """What a search found, best first; both arrays have shape (N, k') with k' = min(k, rows that may be found)."""

    scores: Vectors
    ids: Ids


class VectorIndex:
    """Vectors that do not change, searched by inner product; of unit length, the scores are cosine similarities.

    Memory-mapped: opening takes no time that grows with the rows, and several processes share one copy. Scores are
    those of the exact vectors in every kind.
    """

    def __init__(self, record: IndexRecord, searcher: Searcher, ids: Ids | None) -> None:
        self.record = record
        """Kind, settings, measured recall and latency, files."""
        self._searcher = searcher
        self._ids = ids
        self._by_id: tuple[Ids, Ids] | None = None

    @classmethod
    def build(
        cls,
        vectors: NDArray[Any] | Iterable[NDArray[Any]],
        ids: Ids | None = None,
        *,
        kind: str = "auto",
        path: str | Path | None = None,
        dimension: int | None = None,
        **options: Any,
    ) -> Self:
        """Index vectors.

        Args:
            vectors: Floats (N, D), finite, or an iterable of such blocks; read once, never all in memory.
            ids: int64 (N,), 0 or more, each once; the row numbers by default.
            kind: ``auto``, ``flat``, ``hnsw``, ``ivf-sq8``, ``ivf-pq``, or a FAISS factory string.
            path: A folder that is new or empty; without one, the index lives as long as this object.
            dimension: The width D, needed where an iterable may be empty.
            options: More fields of ``kinds.IndexOptions``: min_recall, max_memory, storage, seed.

        Raises:
            InvalidInputError: On any other type, shape or value, an id that is taken twice, a kind that FAISS does
                not know or that does not fit into the memory, or a folder that holds something.
        """
        chosen = IndexOptions(kind=kind, **options)
        width, blocks = _blocks(vectors, dimension)
        temporary = tempfile.mkdtemp(prefix="ctxembed-index-") if path is None else None
        folder = Path(path or temporary or "")
        folder.mkdir(parents=True, exist_ok=True)
        if held := sorted(entry.name for entry in folder.iterdir()):
            raise InvalidInputError(f"{folder} holds {held[0]!r}: choose an empty folder")
        try:
            record = write_index(blocks, folder, stem="", dimension=width, options=chosen, ids=ids)
        except BaseException:
            for name in ("vectors.faiss", "index.faiss", "ids.npy"):
                (folder / name).unlink(missing_ok=True)
            if temporary is not None:
                folder.rmdir()
            raise
        write_json(folder / MANIFEST, {"format": FORMAT, "version": VERSION, **record.to_json()})
        built = cls.open(folder)
        if temporary is not None:
            weakref.finalize(built, shutil.rmtree, temporary, ignore_errors=True)
        return built

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = False) -> Self:
        """Open an index that ``build`` wrote.

        Args:
            path: Its folder.
            verify: Compare every file's sha256 too, not only its size; that reads all of them.

        Raises:
            MissingInputError: If there is none.
            ArtifactError: If it is damaged.
        """
        folder = existing(path)
        values = read_manifest(folder / MANIFEST, expected=FORMAT, version=VERSION)
        try:
            record = IndexRecord.from_json({k: v for k, v in values.items() if k not in ("format", "version")})
        except (KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(f"{folder / MANIFEST} is damaged ({error!r}): build the index again") from error
        try:
            return cls.attach(folder, record, verify=verify)
        except FileNotFoundError as error:
            raise ArtifactError(f"{error.filename} is missing: build the index again") from error

    @classmethod
    def attach(cls, folder: Path, record: IndexRecord, *, verify: bool = False) -> Self:
        """Open the files of a record; FileNotFoundError if one is missing, ArtifactError if one is damaged."""
        for file in record.files.values():
            file.check(folder, hashes=verify)
        exact = ExactVectors(
            folder / record.files["vectors"].name, rows=record.rows, dimension=record.dimension, storage=record.storage
        )
        if "index" not in record.files:
            searcher = Searcher(exact, None, kind=record.kind)
        else:
            path = folder / record.files["index"].name
            searcher = Searcher.open(exact, path, kind=record.kind, parameters=record.parameters)
            if searcher.size != (record.rows, record.dimension):
                raise ArtifactError(f"{path} holds {searcher.size[0]} rows, need {record.rows}: build the index again")
        ids = None
        if "ids" in record.files:
            ids = np.load(folder / record.files["ids"].name, mmap_mode="r", allow_pickle=False)
        return cls(record, searcher, ids)

    def __len__(self) -> int:
        return self.record.rows

    @property
    def dimension(self) -> int:
        """The width D of every vector."""
        return self.record.dimension

    def search(self, queries: NDArray[Any], k: int, *, selected: Mask | None = None) -> Neighbours:
        """Find the k rows with the largest inner products for every query.

        Equal scores come in the order of the rows. Which of several rows that tie for the last place are
        returned is up to FAISS.

        Args:
            queries: Floats (N, D), finite; N may be 0.
            k: Neighbours wanted, at least 1.
            selected: The rows that may be found, bool (rows,); all by default. Few ones are compared one by one, so
                that the result is exact, and an approximate index looks the harder, the fewer they are.

        Returns:
            Scores and ids of shape (N, k') with k' = min(k, rows that may be found), never padded.

        Raises:
            InvalidInputError: On a wrong shape, width or k, or when a product is beyond float32.
        """
        array = checked_queries(queries, self.dimension)
        if k < 1:
            raise InvalidInputError(f"k is {k}, need at least 1: ask for one neighbour or more")
        if selected is not None and (selected.shape != (len(self),) or selected.dtype != np.bool_):
            raise InvalidInputError(f"selected is {selected.dtype} {selected.shape}, need bool ({len(self)},)")
        k = min(k, len(self) if selected is None else int(np.count_nonzero(selected)))
        if not len(array) or not k:
            return Neighbours(np.zeros((len(array), k), np.float32), np.zeros((len(array), k), np.int64))
        scores, places = self._searcher.search(array, k, selected)
        if self._ids is not None:
            return Neighbours(scores, self._ids[places])
        return Neighbours(scores, places + self.record.first if self.record.first else places)

    def take(self, places: Ids) -> Vectors:
        """Return the exact vectors of rows by their place, from 0, float32 (N, D)."""
        return self._searcher.exact.take(places)

    def reconstruct(self, ids: Ids) -> Vectors:
        """Return the vectors kept under ids, float32 (N, D), in the order given.

        Raises:
            InvalidInputError: If an id is not in the index.
        """
        checked_ids(ids)
        if self._ids is None:
            places, known = ids - self.record.first, (ids >= self.record.first)
            known &= places < len(self)
        else:
            if self._by_id is None:
                order = np.argsort(self._ids, kind="stable")
                self._by_id = np.asarray(self._ids)[order], order
            ascending, order = self._by_id
            found = np.minimum(np.searchsorted(ascending, ids), max(len(self) - 1, 0))
            known = ascending[found] == ids if len(self) else np.zeros(len(ids), dtype=np.bool_)
            places = order[found] if len(self) else found
        if not known.all():
            unknown = ids[~known][0]
            raise InvalidInputError(f"id {unknown} is not in the index of {len(self)} rows: ask for one that is")
        return self.take(places)

    def blocks(self) -> Iterator[Vectors]:
        """Yield all vectors in order, float32 (n, D) each, with memory that stays flat."""
        return self._searcher.exact.blocks()


def checked_queries(queries: NDArray[Any], dimension: int) -> Vectors:
    """Return queries as contiguous float32, or say what is wrong with them; quick where there is nothing to do."""
    plain = queries.dtype == np.float32 and queries.ndim == 2 and queries.shape[1] == dimension
    if plain and queries.flags.c_contiguous and np.isfinite(np.vdot(queries, queries)):
        return queries
    return checked_vectors(queries, dimension=dimension, name="the queries")


def write_index(
    blocks: Iterable[NDArray[Any]],
    folder: Path,
    *,
    stem: str,
    dimension: int,
    options: IndexOptions,
    first: int = 0,
    ids: Ids | None = None,
) -> IndexRecord:
    """Write the files of a vector index, tune and measure it.

    Args:
        blocks: Floats (n, D) each, read once.
        folder: Where the files go; they are flushed, but no manifest names them yet.
        stem: What stands in their names: ``vectors{stem}.faiss``.
        dimension: The width D.
        options: What is asked for.
        first: The number of the first row.
        ids: The ids, where they are not numbers from ``first`` on.
    """
    paths = {role: folder / f"{role}{stem}.faiss" for role in ("vectors", "index")}
    rows = write_vectors(paths["vectors"], blocks, dimension=dimension, storage=options.storage)
    if ids is not None:
        paths["ids"] = folder / f"ids{stem}.npy"
        _write_ids(paths["ids"], ids, rows)
    plan = plan_index(rows, dimension, options)
    exact = ExactVectors(paths["vectors"], rows=rows, dimension=dimension, storage=options.storage)
    parameters, measured = {}, None
    with ThreadPoolExecutor(1) as pool:  # flushing and hashing the vectors need not wait for the training
        described = {role: pool.submit(IndexFile.flushed, path) for role, path in paths.items() if role != "index"}
        if plan.kind != "flat":
            searcher, queries = _trained(plan, exact, paths["index"], options)
            described["index"] = pool.submit(IndexFile.flushed, paths["index"])
            truth = true_neighbours(searcher, queries)
            tune(searcher, truth.half(0), options.min_recall)
            parameters, measured = searcher.parameters, measure(searcher, truth.half(1))
        files = {role: task.result() for role, task in described.items()}
    in_memory = sum(files[role].bytes for role in _in_memory(plan.kind))
    return IndexRecord(
        first=first, rows=rows, dimension=dimension, kind=plan.kind, factory=plan.factory, storage=options.storage,
        parameters=parameters, bytes_per_row=round(in_memory / max(rows, 1), 1), files=files, measured=measured,
    )  # fmt: skip


def _trained(plan: Plan, exact: ExactVectors, path: Path, options: IndexOptions) -> tuple[Searcher, Places]:
    """Write an approximate index; return it opened, and the rows that it did not learn from."""
    queries = held_out(plan.rows, seed=options.seed)
    sample = training_sample(plan.rows, plan.training_rows, queries, seed=options.seed)
    index = train_and_add(plan, exact, storage=options.storage, sample=sample, seed=options.seed)
    save_faiss(index, path, kind=plan.kind)
    return Searcher.open(exact, path, kind=plan.kind, parameters={}), queries


def _in_memory(kind: str) -> tuple[str, ...]:
    return {"flat": ("vectors",), "hnsw": ("vectors", "index")}.get(kind, ("index",))


def _blocks(vectors: Any, dimension: int | None) -> tuple[int, Iterable[NDArray[Any]]]:
    """Return the width and the blocks of what ``build`` was given."""
    if isinstance(vectors, np.ndarray):
        if vectors.ndim != 2:
            raise InvalidInputError(f"the vectors have shape {vectors.shape}, need (N, D): one vector a row")
        if not np.issubdtype(vectors.dtype, np.floating):
            raise InvalidInputError(f"the vectors are {vectors.dtype}, need floats: convert them first")
        starts = range(0, len(vectors), BLOCK_ROWS)
        return vectors.shape[1], (vectors[start : start + BLOCK_ROWS] for start in starts)
    stream = iter(vectors)
    head = next(stream, None)
    if head is None and dimension is None:
        raise InvalidInputError("there are no vectors and no dimension: give one of them")
    if head is None:
        return dimension or 0, ()
    return dimension or head.shape[-1], itertools.chain((head,), stream)


def checked_ids(ids: NDArray[Any]) -> Ids:
    """Return ids as they are; InvalidInputError if they are not int64 (N,)."""
    if ids.ndim != 1 or ids.dtype != np.int64:
        raise InvalidInputError(f"ids are {ids.dtype} of shape {ids.shape}, need int64 (N,): use .astype('int64')")
    return ids


def _write_ids(path: Path, ids: Ids, rows: int) -> None:
    checked_ids(ids)
    if len(ids) != rows:
        raise InvalidInputError(f"{len(ids)} ids came with {rows} vectors: give one id for each vector")
    unique, counts = np.unique(ids, return_counts=True)
    if len(ids) and unique[0] < 0:
        raise InvalidInputError(f"id {unique[0]} is negative: FAISS keeps -1 for `nothing found`, number from 0")
    if (counts > 1).any():
        raise InvalidInputError(f"id {unique[counts > 1][0]} occurs twice: give each row an id of its own")
    np.save(path, ids, allow_pickle=False)

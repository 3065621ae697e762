"""Reading an index folder: one generation of rows and vectors, which stays as it is while others write the next."""

from __future__ import annotations

import difflib
from collections import OrderedDict
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ctxembed.errors import ArtifactError, InvalidInputError
from ctxembed.filters import OWN, OWN_OF_TEXTS, Filter, parse
from ctxembed.index.manifest import IndexManifest
from ctxembed.index.searcher import Mask
from ctxembed.index.vector_index import Ids, Neighbours, VectorIndex, checked_queries
from ctxembed.runtime import existing
from ctxembed.store import DocumentStore, Numbers
from ctxembed.types import TextEncoder, UsageEncoder, Vectors

HASHED_BYTES = 64 * 2**20
"""Files of no more bytes are compared with their sha256 whenever the index is opened; larger ones by `verify`."""
_TRIES = 20
_KEPT_CONDITIONS = 32
FEW_ROWS = 10_000
"""Rows that satisfy a condition at most, to be listed before anything else is looked at: some milliseconds."""


class IndexFolder:
    """An opened index: rows by number, and the vectors under the same numbers."""

    def __init__(self, path: Path, manifest: IndexManifest, store: DocumentStore, indexes: list[VectorIndex]) -> None:
        self.path = path
        self.manifest = manifest
        self.store = store
        self._indexes = indexes
        deleted = store.deleted() if manifest.deleted else np.empty(0, dtype=np.int64)
        self._alive = None if not len(deleted) else _mask(manifest.numbers, deleted, value=False)
        self._own_names = OWN if store.has_words() else OWN_OF_TEXTS
        self._listed: OrderedDict[str, Numbers] = OrderedDict()
        self.few_matching = lru_cache(_KEPT_CONDITIONS)(self._few_matching)

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = False) -> Self:
        """Open the newest generation.

        Args:
            path: The folder.
            verify: Compare the sha256 of every file; without it, only of small ones, and the sizes of all.

        Raises:
            MissingInputError: If there is no index.
            ArtifactError: If it is damaged or of another format; the message names the file.
        """
        path = existing(path)
        for _ in range(_TRIES):
            manifest = IndexManifest.read(path)
            try:
                return cls._open(path, manifest, verify=verify)
            except (FileNotFoundError, ArtifactError) as error:
                if IndexManifest.read(path).generation != manifest.generation:
                    continue  # a writer has replaced this generation and removed its files
                if isinstance(error, FileNotFoundError):
                    name = Path(error.filename or "a file").name
                    raise ArtifactError(f"{path / name} is missing: build the index again") from error
                raise
        raise ArtifactError(f"{path} changed {_TRIES} times while it was being opened: try again")

    @classmethod
    def _open(cls, path: Path, manifest: IndexManifest, *, verify: bool) -> Self:
        hashes = verify or sum(file.bytes for file in manifest.files()) <= HASHED_BYTES
        manifest.rows_file.check(path, hashes=hashes)
        indexes = [VectorIndex.attach(path, record, verify=hashes) for record in manifest.indexes]
        log = manifest.rows_log
        if log is not None:
            log.check(path, hashes=True)
        store = DocumentStore.open(path / manifest.rows_file.name, log=log is not None)
        try:
            if log is not None:  # had it been removed meanwhile, the file would have been opened alone
                log.check(path, hashes=False)
            return cls(path, manifest, store, indexes)
        except BaseException:
            store.close()
            raise

    def __len__(self) -> int:
        return self.manifest.rows

    @property
    def dimension(self) -> int:
        """The width D of every vector."""
        return self.manifest.dimension

    def search(self, queries: NDArray[Any], k: int, *, numbers: Numbers | None = None) -> Neighbours:
        """Find the k nearest rows for every query.

        Args:
            queries: Floats (N, D), finite, of unit length.
            k: Rows wanted, at least 1.
            numbers: The rows that may be found, such as ``matching`` returns; all by default.

        Returns:
            Cosine similarities and row numbers, (N, k') with k' = min(k, rows that may be found), best first, equal
            scores in the order of the rows.

        Raises:
            InvalidInputError: On a wrong shape, width, value or k.
        """
        queries = checked_queries(queries, self.dimension)
        if k < 1:
            raise InvalidInputError(f"k is {k}, need at least 1: ask for one neighbour or more")
        allowed = self._alive if numbers is None else _mask(self.manifest.numbers, numbers, value=True)
        if allowed is not None and self._alive is not None:
            allowed = allowed & self._alive
        parts = []
        for index in self._indexes:
            first = index.record.first
            parts.append(index.search(queries, k, selected=_part(allowed, first, len(index))))
        if not parts:
            return Neighbours(np.zeros((len(queries), 0), np.float32), np.zeros((len(queries), 0), np.int64))
        scores = np.concatenate([part.scores for part in parts], axis=1)
        ids = np.concatenate([part.ids for part in parts], axis=1)
        order = np.lexsort((ids, -scores))[:, :k]
        return Neighbours(np.take_along_axis(scores, order, axis=1), np.take_along_axis(ids, order, axis=1))

    def condition(self, text: str) -> Filter:
        """Read a condition on these rows; InvalidInputError if it is none.

        In an index of whole texts ``word``, ``start`` and ``end`` are metadata columns: its rows have no own ones.
        """
        return parse(text, own=self._own_names)

    def matching(self, condition: str) -> Numbers:
        """Return the numbers of the rows that a condition holds for, ascending; kept for the next time.

        Raises:
            InvalidInputError: If it cannot be read, or names a column that no row has.
        """
        if condition not in self._listed:
            parsed = self.condition(condition)
            found = self.store.select(parsed)
            if not len(found):
                self.check_columns(parsed)
            self._listed[condition] = found
            if len(self._listed) > _KEPT_CONDITIONS:
                self._listed.popitem(last=False)
        return self._listed[condition]

    def passing(self, numbers: Numbers, where: Filter) -> NDArray[np.bool_]:
        """Return which rows satisfy a condition, in the shape of their numbers.

        Those rows alone are looked at, unless ``matching`` has listed all that do.
        """
        listed = self._listed.get(where.text)
        if listed is None:
            return np.isin(numbers, self.store.select(where, among=np.unique(numbers)))
        return np.asarray(np.searchsorted(listed, numbers, side="right") > np.searchsorted(listed, numbers))

    def _few_matching(self, condition: str) -> Numbers | None:
        """Return what ``matching`` does if that is no more than ``FEW_ROWS`` numbers, None if it is more."""
        parsed = self.condition(condition)
        found = self.store.select(parsed, limit=FEW_ROWS + 1)
        if not len(found):
            self.check_columns(parsed)
        return found if len(found) <= FEW_ROWS else None

    def check_columns(self, condition: Filter) -> None:
        """Refuse a condition that names a column which no row has; an index without rows has every column."""
        columns = self.store.columns() if len(self) else list(condition.fields)
        for name in condition.fields:
            if name not in columns:
                close = difflib.get_close_matches(name, columns, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(columns) or 'none'}"
                raise InvalidInputError(f"no row of {self.path} has a column {name!r}: {hint}")

    def numbers(self) -> Numbers:
        """Return the numbers of all rows that are there, ascending."""
        everything = np.arange(self.manifest.numbers)
        return everything if self._alive is None else everything[self._alive]

    def take(self, numbers: Numbers) -> Vectors:
        """Return the vectors of rows by number, (N,), as float32 (N, D); only these are read from the disk."""
        result = np.empty((len(numbers), self.dimension), dtype=np.float32)
        for index in self._indexes:
            there = (numbers >= index.record.first) & (numbers < index.record.first + len(index))
            if there.any():
                result[there] = index.take(numbers[there] - index.record.first)
        return result

    def blocks(self, *, first: int = 0) -> Iterator[Vectors]:
        """Yield the vectors of the rows that are there, in order, from the index that begins with a number on."""
        for index in self._indexes:
            start = index.record.first
            if start < first:
                continue
            for block in index.blocks():
                alive = _part(self._alive, start, len(block))
                yield block if alive is None else block[alive]
                start += len(block)

    def raw_blocks(self, *, first: int) -> Iterator[Vectors]:
        """Yield vectors like ``blocks``, those of deleted rows among them."""
        for index in self._indexes:
            if index.record.first >= first:
                yield from index.blocks()

    def verify(self) -> None:
        """Read everything: rows and vectors must be whole and belong together.

        Raises:
            ArtifactError: Naming the file that is not as it should be.
        """
        self.store.check()
        rows, deleted = len(self.store), len(self.store.deleted())
        wanted = self.manifest.rows, self.manifest.deleted
        name = self.path / self.manifest.rows_file.name
        if (rows, deleted) != wanted or self.store.next_number() != self.manifest.numbers:
            raise ArtifactError(
                f"{name} has {rows} rows and {deleted} deleted ones, the manifest says {wanted[0]} and {wanted[1]}: "
                "build the index again"
            )
        num_zero = sum(len(block) - int(block.any(axis=1).sum()) for block in self.blocks())
        if num_zero != self.manifest.num_zero:
            raise ArtifactError(
                f"{self.path} has {num_zero} zero vectors, the manifest says {self.manifest.num_zero}: build it again"
            )

    def close(self) -> None:
        """Release the files."""
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def check_folder(path: Path) -> IndexManifest:
    """Check everything about an index that can be checked, and return its manifest.

    Raises:
        MissingInputError: If there is no index.
        ArtifactError: Naming the file that is damaged, missing or does not belong.
    """
    with IndexFolder.open(path, verify=True) as folder:
        folder.verify()
        return folder.manifest


def check_encoder(folder: IndexFolder, encoder: TextEncoder | UsageEncoder) -> None:
    """Refuse a model that did not make an index; ArtifactError with both names."""
    path, manifest, model = folder.path, folder.manifest, folder.manifest.model
    if model is not None and encoder.fingerprint != model.fingerprint:
        raise ArtifactError(
            f"{path} was made with {model.name} ({model.fingerprint[:12]}), not with {encoder.name} "
            f"({encoder.fingerprint[:12]}): open it with the former, or build it again with the latter"
        )
    if encoder.dimension != manifest.dimension:
        raise ArtifactError(
            f"{path} holds vectors of width {manifest.dimension}, {encoder.name} gives {encoder.dimension}: "
            "open it with the model that made it"
        )


def _mask(size: int, numbers: Ids, *, value: bool) -> Mask:
    mask = np.full(size, not value)
    mask[numbers] = value
    return mask


def _part(mask: Mask | None, first: int, rows: int) -> Mask | None:
    """Return what a mask says of one index; None if all of it is allowed."""
    if mask is None:
        return None
    part = mask[first : first + rows]
    return None if part.all() else part

"""Changing an index folder: whatever happens at whatever moment, it holds the old generation or the new one.

One process changes a folder at a time (it holds a lock on the folder itself, which ends with the process); any number
read it. A change writes files under names of the next generation, flushes them, and publishes a manifest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import itertools
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxembed.calibration import Calibration, random_similarities
from ctxembed.errors import InvalidInputError
from ctxembed.index.folder import IndexFolder
from ctxembed.index.generations import newest_generation, undone_on_error
from ctxembed.index.kinds import FLAT_VALUES, KINDS, IndexOptions, fits, plan_index
from ctxembed.index.manifest import ADDING, BUILDING, IndexManifest, ModelRecord, old_version
from ctxembed.index.records import IndexFile, IndexRecord
from ctxembed.index.rows import finished, names_of, open_next, rows_path
from ctxembed.index.v1 import read_v1
from ctxembed.index.vector_index import VectorIndex, write_index
from ctxembed.runtime import existing, release_memory, writing
from ctxembed.store import DocumentStore, Numbers, OnDuplicate
from ctxembed.types import Vectors
from ctxembed.vectors import Row, checked_vectors

SAMPLED_ROWS = 20_000
"""Rows from which the distribution of similarities is drawn."""
SMALL_VALUES = 1_000_000
"""Rows times width of a flat vector index that is written again by every addition: some 4 MB."""
ABSORBED = 8
"""A larger one is written again with additions of more than one such part of its rows."""

Parts = Iterable[tuple[Sequence[Row], NDArray[Any]]]


def normalised(vectors: Vectors) -> Vectors:
    """Return vectors of unit length, (N, D); a zero vector stays zero.

    Dividing by the largest component first keeps the squares of huge and tiny vectors within float32.
    """
    largest = np.maximum(vectors.max(axis=1, initial=0), -vectors.min(axis=1, initial=0))[:, None]
    scaled: Vectors = np.divide(vectors, np.where(largest > 0, largest, 1), dtype=np.float32)
    length = np.sqrt(np.einsum("nd,nd->n", scaled, scaled))[:, None]
    scaled /= np.where(length > 0, length, 1)
    return scaled


@contextlib.contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[None]:
    """Be the only one who changes a folder.

    Raises:
        InvalidInputError: If another process is changing it, and ``wait`` is off.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise InvalidInputError(
                f"{path} is being changed by another process: try again when it is done, or --wait for it"
            ) from error
        yield
    finally:
        os.close(descriptor)


@dataclass
class Written:
    """What went into a generation so far."""

    rows: int = 0
    num_zero: int = 0


def build_folder(
    parts: Parts,
    path: Path,
    settings: Mapping[str, Any],
    *,
    dimension: int,
    options: IndexOptions,
    on_duplicate: OnDuplicate = "error",
    wait: bool = False,
) -> IndexManifest:
    """Write an index of rows with vectors, in place of the one that is there.

    Args:
        parts: Rows with their vectors, floats (N, D) of any length: they are normalised, a zero vector stays zero.
        path: A folder that ``claim`` found free; made if needed.
        settings: Those of a VectorFolder (``model``, ``fingerprint``, ``unit`` are read), or empty: origin unknown.
        dimension: The width D of every vector.
        options: Which kind of index, and how good.
        on_duplicate: Refuse an id that occurs twice, or keep its first row and count the others.
        wait: Wait for another process that is changing the index.
    """
    path.mkdir(parents=True, exist_ok=True)
    with locked(path, wait=wait):
        generation = newest_generation(path) + 1
        with undone_on_error(path, generation), writing(path):
            for name in names_of(generation):
                (path / name).unlink(missing_ok=True)
            written, rows = Written(), rows_path(path, generation)
            with DocumentStore.create(rows) as store:
                blocks = stored_blocks(parts, store, written, dimension=dimension, on_duplicate=on_duplicate)
                indexes = _written_index(blocks, path, generation, dimension=dimension, options=options)
                num_skipped = store.num_skipped
                store.index_columns()
                store.optimize()
                store.seal()
            manifest = IndexManifest(
                generation=generation,
                rows=written.rows,
                deleted=0,
                dimension=dimension,
                model=model_record(settings),
                unit=settings.get("unit", "sentence"),
                settings=dict(settings),
                options=options,
                num_zero=written.num_zero,
                num_skipped=num_skipped,
                similarities=similarities(path, indexes),
                rows_file=IndexFile.flushed(rows),
                indexes=indexes,
            )
            manifest.publish(path)
        for waiting in (BUILDING, ADDING):
            shutil.rmtree(path / waiting, ignore_errors=True)
    return manifest


def model_record(settings: Mapping[str, Any]) -> ModelRecord | None:
    """Return who made vectors, as far as their settings say."""
    known = "model" in settings and "fingerprint" in settings
    return ModelRecord(name=settings["model"], fingerprint=settings["fingerprint"]) if known else None


def stored_blocks(
    parts: Parts, store: DocumentStore, written: Written, *, dimension: int, on_duplicate: OnDuplicate
) -> Iterator[Vectors]:
    """Put rows into a store, and yield the vectors of those that were kept, in the order of their numbers."""
    first = 0
    for rows, vectors in parts:
        if len(rows) != len(vectors):
            raise InvalidInputError(f"{len(rows)} rows came with {len(vectors)} vectors: give one vector for each row")
        array = normalised(checked_vectors(vectors, dimension=dimension, first_row=first))
        kept = array[store.add(rows, on_duplicate=on_duplicate)]
        written.rows += len(kept)
        written.num_zero += len(kept) - int(kept.any(axis=1).sum())
        first += len(rows)
        yield kept
        release_memory()


@dataclass
class Change:
    """A change to an index that is there: its rows to be edited, its vectors to be added to."""

    folder: IndexFolder
    """The generation that the change begins with."""
    store: DocumentStore
    """The rows of the next generation."""
    path: Path
    generation: int
    touched: int
    """Rows that change, roughly."""

    def delete(self, numbers: Numbers) -> None:
        """Delete rows, and count the zero vectors among them."""
        gone = self.store.delete(numbers)
        manifest = self.folder.manifest
        zero = sum(
            int((~self.folder.take(numbers[start : start + 4096]).any(axis=1)).sum())
            for start in range(0, len(numbers), 4096)
        )
        self.folder.manifest = dataclasses.replace(
            manifest, rows=manifest.rows - gone, deleted=manifest.deleted + gone, num_zero=manifest.num_zero - zero
        )

    def add(self, parts: Parts, *, on_duplicate: OnDuplicate) -> IndexRecord | None:
        """Add rows with vectors, and return the vector index that they are in, None if there was no row.

        It lies beside the others, and takes in the last ones if they are flat and small beside what is added. Where the
        limit of memory has no room beside the others, all rows are written again as one.

        Raises:
            InvalidInputError: If the limit of memory has no room for all rows, or a row cannot be added.
        """
        manifest, written = self.folder.manifest, Written()
        kept = self._kept_indexes()
        options = self._options_beside(kept)
        if options is None:
            kept, options = [], manifest.options
            if not fits(manifest.numbers + self.touched, manifest.dimension, options):
                raise InvalidInputError(
                    f"{self.path} has no room for the new rows in its limit of {options.max_memory:,} bytes of memory: "
                    "build it again with a larger --max-memory, or a smaller --kind"
                )
        first = sum(index.rows for index in kept)
        blocks = stored_blocks(parts, self.store, written, dimension=manifest.dimension, on_duplicate=on_duplicate)
        joined = itertools.chain(self.folder.raw_blocks(first=first), blocks)
        added = _written_index(
            joined, self.path, self.generation, dimension=manifest.dimension, options=options, first=first
        )
        self.folder.manifest = dataclasses.replace(
            manifest,
            rows=manifest.rows + written.rows,
            num_zero=manifest.num_zero + written.num_zero,
            num_skipped=manifest.num_skipped + self.store.num_skipped,
            similarities=manifest.similarities or similarities(self.path, (*kept, *added)),
            indexes=(*kept, *added),
        )
        return added[0] if added else None

    def _kept_indexes(self) -> list[IndexRecord]:
        """Return the vector indexes that stay as they are."""
        manifest = self.folder.manifest
        kept, absorbed = list(manifest.indexes), 0
        while kept and kept[-1].kind == "flat":
            values, together = kept[-1].rows * manifest.dimension, (absorbed + kept[-1].rows) * manifest.dimension
            beside = (absorbed + self.touched) * manifest.dimension
            if together > FLAT_VALUES or values > max(SMALL_VALUES, ABSORBED * beside):
                break
            absorbed += kept.pop().rows
        return kept

    def _options_beside(self, kept: Sequence[IndexRecord]) -> IndexOptions | None:
        """Return what is asked of a vector index beside those that stay, None if the memory has no room for it.

        It compares every vector as long as that is fast, and is of the kind of the whole beyond that.
        """
        manifest, asked = self.folder.manifest, self.folder.manifest.options
        rows = manifest.numbers - sum(index.rows for index in kept) + self.touched
        is_small = rows * manifest.dimension <= FLAT_VALUES or asked.kind not in KINDS
        options = dataclasses.replace(asked, kind="auto" if is_small else asked.kind)
        if asked.max_memory is None:
            return options
        left = asked.max_memory - sum(round(index.bytes_per_row * index.rows) for index in kept)
        if left < 1:
            return None
        options = dataclasses.replace(options, max_memory=left)
        return options if fits(rows, manifest.dimension, options) else None

    def publish(self) -> None:
        """Make the change real."""
        self.store.index_columns()
        self.store.seal()
        self.store.close()
        rows_file, rows_log = finished(self.path, self.folder.manifest)
        dataclasses.replace(
            self.folder.manifest, generation=self.generation, rows_file=rows_file, rows_log=rows_log
        ).publish(self.path)


def delete_rows(path: str | Path, *, where: str | None = None, ids: Sequence[str] = (), wait: bool = False) -> int:
    """Delete rows by a condition or by their ids; their texts are gone at once, their vectors with the next compaction.

    Args:
        path: The index.
        where: See ``filters``.
        ids: Of rows; in an index of words, that of a text means all of its words.
        wait: Wait for another process that is changing the index.

    Returns:
        How many rows there were.

    Raises:
        InvalidInputError: If an id is not there, the condition cannot be read or names a column that no row has;
            nothing is deleted then.
    """
    path = existing(path)
    with locked(path, wait=wait), IndexFolder.open(path) as folder:
        found = [folder.matching(where)] if where is not None else []
        for name in ids:
            found.append(numbers := folder.store.numbers_of(name))
            if not len(numbers):
                raise InvalidInputError(f"no row has the id {name!r}: ids are matched exactly, check the spelling")
        numbers = np.unique(np.concatenate([np.empty(0, dtype=np.int64), *found]))
        if len(numbers):
            with change(folder, touched=len(numbers)) as changed:
                changed.delete(numbers)
        return len(numbers)


@contextlib.contextmanager
def change(folder: IndexFolder, *, touched: int) -> Iterator[Change]:
    """Prepare the next rows, let them be changed, and publish; on an error nothing has happened. Hold the lock.

    Args:
        folder: The present generation.
        touched: Rows that will change, roughly: it decides how the change is written.
    """
    path, generation = folder.path, folder.manifest.generation + 1
    with undone_on_error(path, generation), writing(path):
        folder.manifest.clean(path)
        with open_next(path, folder.manifest, touched=touched) as store:
            changed = Change(folder, store, path, generation, touched)
            yield changed
            changed.publish()


def compact_folder(path: str | Path, *, wait: bool = False) -> bool:
    """Drop deleted rows, join all vectors in one index, and plan its kind anew; an older format becomes this one.

    Returns:
        Whether there was anything to do.
    """
    path = existing(path)
    with locked(path, wait=wait):
        if old_version(path):
            settings, dimension, parts = read_v1(path)
        else:
            with IndexFolder.open(path) as folder:
                return _compact(folder)
    build_folder(parts, path, settings, dimension=dimension, options=IndexOptions(), wait=wait)
    return True


def _compact(folder: IndexFolder) -> bool:
    manifest, path = folder.manifest, folder.path
    kinds = [index.kind for index in manifest.indexes]
    plan = plan_index(manifest.rows, manifest.dimension, manifest.options)
    if not manifest.deleted and manifest.rows_log is None and kinds in ([], [plan.kind]):
        return False
    generation = manifest.generation + 1
    with undone_on_error(path, generation), writing(path):
        manifest.clean(path)
        folder.store.compact_into(rows_path(path, generation))
        indexes = _written_index(
            folder.blocks(), path, generation, dimension=manifest.dimension, options=manifest.options
        )
        dataclasses.replace(
            manifest,
            generation=generation,
            deleted=0,
            similarities=similarities(path, indexes),
            rows_file=IndexFile.flushed(rows_path(path, generation)),
            rows_log=None,
            indexes=indexes,
        ).publish(path)
    return True


def _written_index(
    blocks: Iterable[Vectors], path: Path, generation: int, *, dimension: int, options: IndexOptions, first: int = 0
) -> tuple[IndexRecord, ...]:
    """Write a vector index of the next generation; of no rows there is none."""
    stem = f".{generation}"
    for role in ("vectors", "index"):
        (path / f"{role}{stem}.faiss").unlink(missing_ok=True)
    record = write_index(blocks, path, stem=stem, dimension=dimension, options=options, first=first)
    return (record,) if record.rows else ()


def similarities(path: Path, indexes: Sequence[IndexRecord]) -> Calibration | None:
    """Return how alike random pairs of rows are, from a seeded sample."""
    size = sum(index.rows for index in indexes)
    numbers = np.arange(size)
    if size > SAMPLED_ROWS:
        numbers = np.sort(np.random.default_rng(1).choice(size, SAMPLED_ROWS, replace=False))
    vectors = [
        VectorIndex.attach(path, index).take(chosen - index.first)
        for index in indexes
        if len(chosen := numbers[(numbers >= index.first) & (numbers < index.first + index.rows)])
    ]
    drawn = random_similarities(np.concatenate(vectors)) if vectors else ()
    return Calibration.of_background(drawn) if len(drawn) else None

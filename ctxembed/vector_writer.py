"""Writing a folder of vectors part by part: a run that was killed continues behind its last finished part.

A part exists from the moment the manifest names it. What the manifest keeps of the documents consumed so far tells
whether the input of a continued run is still the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ctxembed.errors import ArtifactError, CtxEmbedError, DiskFullError, InvalidInputError
from ctxembed.runtime import atomic_path, sha256_file, sha256_text, write_json
from ctxembed.types import Document, Vectors
from ctxembed.vectors import (
    MANIFEST,
    Manifest,
    Part,
    Row,
    StoredType,
    check_part,
    checked_vectors,
    from_stored,
    stored_dtype,
)

_PART_FILE = re.compile(r"part-\d{5,}\.(?:npy|parquet)")
_TEMPORARY = re.compile(r"\.(?:part-\d{5,}\.(?:npy|parquet)|manifest\.json)\.\d+\.tmp")


@dataclasses.dataclass
class StorageLoss:
    """What vectors lost by the number format that they are stored in: cosines between stored and exact vectors."""

    rows: int = 0
    """Rows compared: all but zero vectors and those that were rounded before, of a folder that is reused."""
    mean: float = 1.0
    worst: float = 1.0

    def add(self, exact: Vectors, stored: Vectors) -> None:
        """Take more rows into account, (N, D) both."""
        lengths = np.linalg.norm(exact, axis=1) * np.linalg.norm(stored, axis=1)
        there = (lengths > 0) & (exact != stored).any(axis=1)
        if there.any():
            products = np.einsum("nd,nd->n", exact[there], stored[there], dtype=np.float64, casting="same_kind")
            cosines = np.minimum(products / lengths[there], 1.0)
            self.mean = (self.mean * self.rows + float(cosines.sum())) / (self.rows + len(cosines))
            self.worst, self.rows = min(self.worst, float(cosines.min())), self.rows + len(cosines)


class VectorWriter:
    """Writes a vector folder part by part; what is finished survives a kill and is not computed twice."""

    def __init__(
        self,
        path: str | Path,
        *,
        settings: Mapping[str, Any],
        dimension: int,
        part_rows: int = 65536,
        resume: bool = False,
        dtype: StoredType = "float32",
        way_out: str = "choose another -o",
    ) -> None:
        """Begin a folder, or continue one that is there.

        Args:
            path: The folder; made if needed.
            settings: What the vectors depend on (model, fingerprint, unit, layer ...), as JSON values.
            dimension: The width D of every vector.
            part_rows: A part is written once it has this many rows; an append is never split.
            resume: Continue an unfinished folder; a finished one is left as it is.
            dtype: How vectors are stored; see ``to_stored`` for what int8 costs.
            way_out: What is advised where a folder cannot be continued.

        Raises:
            InvalidInputError: If the folder holds something and ``resume`` is off, or holds something else.
            ArtifactError: If it was begun with other settings, or a finished part is damaged.
        """
        if part_rows < 1 or dimension < 1:
            raise InvalidInputError(f"part_rows is {part_rows} and dimension {dimension}: both must be at least 1")
        self._path, self._way_out = Path(path), way_out
        self._part_rows = part_rows
        plain = json.loads(json.dumps(dict(settings)))  # as it will compare after a trip through the file
        wanted = Manifest(complete=False, dimension=dimension, dtype=dtype, settings=plain)
        self._manifest = _begin(self._path, wanted, resume=resume, way_out=way_out)
        self.loss = StorageLoss()
        """What the rows appended so far lose by ``dtype``; float32 loses nothing."""
        self._stream = hashlib.sha256()
        self._streamed = 0
        self._blocks: list[NDArray[Any]] = []
        self._tables: list[Any] = []

    @property
    def finished(self) -> bool:
        """Whether the folder is complete: nothing more can be appended."""
        return self._manifest.complete

    @property
    def documents(self) -> int:
        """Documents in finished parts."""
        return self._manifest.documents

    @property
    def rows(self) -> int:
        """Rows in finished parts."""
        return self._manifest.rows

    def skip_done(self, documents: Iterable[Document]) -> Iterator[Document]:
        """Yield the documents that no finished part covers yet.

        Args:
            documents: The whole input, from its beginning.

        Raises:
            ArtifactError: If the documents passed over are not those that the parts were computed from.
        """
        self._stream, self._streamed = hashlib.sha256(), 0
        remaining = iter(documents)
        for part in self._manifest.parts:
            for document in itertools.islice(remaining, part.documents):
                self._consume(document)
            if self._stream.hexdigest() != part.stream_sha256:
                raise ArtifactError(self._changed(f"the first {self._streamed} documents differ"))
        if self.finished:
            if next(remaining, None) is not None:
                raise ArtifactError(self._changed(f"it has more than the {self._streamed} documents of then"))
            return
        yield from remaining

    def append(self, rows: Sequence[Row], vectors: NDArray[Any], *, documents: Sequence[Document]) -> None:
        """Add rows with their vectors.

        Args:
            rows: N rows; none is allowed.
            vectors: Floats (N, D), finite.
            documents: The whole documents that the rows come from, in input order; one may have given no row.

        Raises:
            InvalidInputError: On counts, shapes or values that do not fit, or a folder that is finished.
        """
        if self.finished:
            raise InvalidInputError(f"{self._path} is finished with {self.rows} rows: write to another folder")
        if self._streamed < self.documents:
            raise InvalidInputError(
                f"{self._path} already covers {self.documents} documents: pass the input through skip_done first"
            )
        if len(rows) != len(vectors):
            raise InvalidInputError(f"{len(rows)} rows came with {len(vectors)} vectors: give one vector for each row")
        block = self._stored(checked_vectors(vectors, dimension=self._manifest.dimension))
        table = to_table(rows)
        for document in documents:
            self._consume(document)
        self._blocks.append(block)
        self._tables.append(table)
        if sum(map(len, self._blocks)) >= self._part_rows:
            self._write_part()

    def finish(self) -> None:
        """Write what is left and mark the folder complete."""
        if self.finished:
            return
        if self._streamed > self.documents or any(map(len, self._blocks)):
            self._write_part()
        self._replace_manifest(complete=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, *rest: object) -> None:
        if kind is None:
            self.finish()
        elif isinstance(error, CtxEmbedError) and not isinstance(error, DiskFullError) and not self.documents:
            # A mistake before anything was kept must not be in the way of its correction.
            (self._path / MANIFEST).unlink()
            with contextlib.suppress(OSError):  # the folder may hold more than ours
                self._path.rmdir()

    def _changed(self, what: str) -> str:
        return f"the input has changed since {self._path} was begun ({what}): give the same input, or {self._way_out}"

    def _consume(self, document: Document) -> None:
        metadata = json.dumps(dict(document.metadata), sort_keys=True, default=str)
        self._stream.update(sha256_text(document.id, document.text, metadata).encode("ascii"))
        self._streamed += 1

    def _stored(self, vectors: Vectors) -> NDArray[Any]:
        """Return a copy in the type of the folder: the caller may use its array again."""
        block = to_stored(vectors, self._manifest.dtype)
        if self._manifest.dtype == "float16" and not np.isfinite(block).all():
            raise InvalidInputError("a vector holds a value beyond 65504, the limit of float16: store float32")
        if self._manifest.dtype != "float32":
            self.loss.add(vectors, from_stored(block))
        return block

    def _write_part(self) -> None:
        import pyarrow
        import pyarrow.parquet

        name = f"part-{len(self._manifest.parts):05d}"
        with atomic_path(self._path / f"{name}.npy") as temporary:
            _write_npy(temporary, self._blocks)
            vectors_sha256 = sha256_file(temporary)
        with atomic_path(self._path / f"{name}.parquet") as temporary:
            pyarrow.parquet.write_table(pyarrow.concat_tables(self._tables), temporary, compression="zstd")
            rows_sha256 = sha256_file(temporary)
        part = Part(
            name=name,
            rows=sum(map(len, self._blocks)),
            documents=self._streamed - self.documents,
            vectors_sha256=vectors_sha256,
            rows_sha256=rows_sha256,
            stream_sha256=self._stream.hexdigest(),
        )
        self._replace_manifest(parts=(*self._manifest.parts, part))
        self._blocks, self._tables = [], []

    def _replace_manifest(self, **changes: Any) -> None:
        self._manifest = dataclasses.replace(self._manifest, **changes)
        write_json(self._path / MANIFEST, self._manifest.to_json())


def to_stored(vectors: Vectors, dtype: StoredType) -> NDArray[Any]:
    """Return a copy of vectors as a part holds them; ``vectors.from_stored`` turns it back.

    Args:
        vectors: float32 (N, D), finite.
        dtype: ``int8`` divides each row by its scale, the largest absolute value / 127, and rounds: a value is off by
            half a scale at most, and a zero row stays one, as does a row of values below 1e-36. The scale has 17 binary
            digits, so that its products are exact and rows read from a part come out as they went in.

    Returns:
        Floats (N, D), or for int8 records (N,) of ``scale`` and D ``values``.
    """
    if dtype != "int8":
        with np.errstate(over="ignore"):
            return np.array(vectors, dtype=dtype)
    records = np.zeros(len(vectors), dtype=stored_dtype(dtype, vectors.shape[1]))
    scales = np.asarray(np.abs(vectors).max(axis=1, initial=0.0) / 127, dtype=np.float32)
    records["scale"] = ((scales.view(np.uint32) + 0x40) & ~np.uint32(0x7F)).view(np.float32)
    scale = np.maximum(records["scale"], np.finfo(np.float32).tiny)[:, None]
    records["values"] = np.clip(np.rint(vectors / scale), -127, 127)
    return records


def _begin(path: Path, wanted: Manifest, *, resume: bool, way_out: str) -> Manifest:
    """Return the manifest to continue from; an unfinished folder loses what a killed run left half-written."""
    if path.exists() and not path.is_dir():
        raise InvalidInputError(f"{path} is a file, need a folder: choose another -o")
    if not (path / MANIFEST).exists():
        found = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []
        others = [name for name in found if not _TEMPORARY.fullmatch(name)]
        if others:
            raise InvalidInputError(f"{path} holds {others[0]!r} and is no vector folder: choose another -o")
        path.mkdir(parents=True, exist_ok=True)
        write_json(path / MANIFEST, wanted.to_json())
    elif not resume:
        if Manifest.read(path).complete:
            raise InvalidInputError(f"{path} exists and is complete: delete it, or choose another -o")
        raise InvalidInputError(f"{path} is unfinished: continue it with --resume, or choose another -o")
    manifest = Manifest.read(path)
    _check_same(path, _facts(manifest), _facts(wanted), way_out)
    _remove_leftovers(path, manifest)
    for part in manifest.parts:
        check_part(path, part)
    return manifest


def _facts(manifest: Manifest) -> dict[str, Any]:
    return {**manifest.settings, "dimension": manifest.dimension, "dtype": manifest.dtype}


def _check_same(path: Path, there: Mapping[str, Any], wanted: Mapping[str, Any], way_out: str) -> None:
    for key in sorted({*there, *wanted}):
        if there.get(key) != wanted.get(key):
            raise ArtifactError(
                f"{path} was begun with {key} = {there.get(key)!r:.200}, now it is {wanted.get(key)!r:.200}: "
                f"use the settings of then, or {way_out}"
            )


def _remove_leftovers(path: Path, manifest: Manifest) -> None:
    listed = {f"{part.name}.{ending}" for part in manifest.parts for ending in ("npy", "parquet")}
    for entry in path.iterdir():
        if _TEMPORARY.fullmatch(entry.name) or (_PART_FILE.fullmatch(entry.name) and entry.name not in listed):
            entry.unlink()


def _write_npy(path: Path, blocks: Sequence[NDArray[Any]]) -> None:
    """Write blocks of one width and type as one array, without joining them in memory first."""
    stored = blocks[0].dtype.newbyteorder("<")
    header = {
        "descr": np.lib.format.dtype_to_descr(stored),
        "fortran_order": False,
        "shape": (sum(map(len, blocks)), *blocks[0].shape[1:]),
    }
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        for block in blocks:
            stream.write(block.astype(stored, copy=False).view(np.uint8).data)


def to_table(rows: Sequence[Row]) -> Any:
    """Return what rows stand for as a table; ``vector_table`` writes the same columns."""
    import pyarrow as pa

    try:
        columns = {
            "id": pa.array([row.id for row in rows], pa.string()),
            "text": pa.array([row.text for row in rows], pa.string()),
            "start": pa.array([row.start for row in rows], pa.int64()),
            "end": pa.array([row.end for row in rows], pa.int64()),
            "metadata": pa.array([json.dumps(dict(row.metadata), ensure_ascii=False) for row in rows], pa.string()),
            "content_hash": pa.array([row.content_hash for row in rows], pa.string()),
        }
    except (UnicodeEncodeError, TypeError, pa.ArrowException) as error:
        raise InvalidInputError(
            f"a row between {rows[0].id!r} and {rows[-1].id!r} cannot be stored ({error}): "
            "texts must be valid Unicode, metadata plain values"
        ) from error
    return pa.table(columns)

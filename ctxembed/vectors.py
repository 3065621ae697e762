"""A folder of vectors: ``.npy`` parts that memory-map, the rows beside them, and a manifest.

A part is two files, ``part-00000.npy`` and ``part-00000.parquet``; it exists from the moment the manifest names it.
The manifest also keeps a running sha256 over the documents consumed so far, so that a run which was killed can
continue behind its last part and can tell when its input is no longer the same.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from ctxembed.errors import ArtifactError, InvalidInputError
from ctxembed.runtime import existing, sha256_file, sha256_text
from ctxembed.types import Layer, Scalar, TextEncoder, UsageEncoder, Vectors

FORMAT = "ctxembed-vectors"
VERSION = 1
MANIFEST = "manifest.json"

StoredType: TypeAlias = Literal["float32", "float16", "int8"]
"""How a folder keeps vectors; int8 is a byte for each dimension and a float32 scale for each row."""

CHECKED_ROWS = 16_384
"""Rows looked at together: their mask is itself large."""
_OPEN_PARTS = 256
_PART_NAME = re.compile(r"part-\d{5,}")
_COLUMNS = ("id", "text", "start", "end", "metadata")


@dataclass(frozen=True, slots=True)
class Row:
    """What one vector stands for: a whole text, or the word or token at ``text[start:end]``."""

    id: str
    text: str
    start: int | None = None
    end: int | None = None
    metadata: Mapping[str, Scalar] = field(default_factory=dict)

    @property
    def content_hash(self) -> str:
        """Sixteen hex digits that change when the text or the span does."""
        return sha256_text(self.text, str(self.start), str(self.end))[:16]


@dataclass(frozen=True, slots=True)
class Spans:
    """What the N vectors of a part stand for, in arrays: a text that many words stand in is there once."""

    texts: list[str]
    """The part's texts, each once."""
    owners: NDArray[np.int64]
    """(N,), the number of each row's text, and its characters from ``starts`` (-1 for a whole text) to ``ends``."""
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Part:
    """One finished pair of files; ``stream_sha256`` runs over all documents up to the end of this part."""

    name: str
    rows: int
    documents: int
    vectors_sha256: str
    rows_sha256: str
    stream_sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a vector folder holds and how it was computed."""

    complete: bool
    dimension: int
    dtype: StoredType
    settings: Mapping[str, Any]
    parts: tuple[Part, ...] = ()

    @property
    def rows(self) -> int:
        """Vectors in all parts."""
        return sum(part.rows for part in self.parts)

    @property
    def documents(self) -> int:
        """Documents that the parts were computed from."""
        return sum(part.documents for part in self.parts)

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as it stands on disk."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "complete": self.complete,
            "dimension": self.dimension,
            "dtype": self.dtype,
            "rows": self.rows,
            "documents": self.documents,
            "settings": dict(self.settings),
            "parts": [dataclasses.asdict(part) for part in self.parts],
        }

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read a folder's manifest.

        Raises:
            ArtifactError: If it is damaged, of another format, or of a version unknown here.
        """
        path = folder / MANIFEST
        record = read_manifest(path, expected=FORMAT, version=VERSION)
        try:
            parts = tuple(Part(**part) for part in record["parts"])
            manifest = cls(parts=parts, **{key: record[key] for key in ("complete", "dimension", "dtype", "settings")})
            sound = manifest.to_json() == record and manifest.dtype in get_args(StoredType)
            sound = sound and all(_PART_NAME.fullmatch(part.name) for part in parts)
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"{path} is damaged ({error!r}): write the folder again") from error
        if not sound:
            raise ArtifactError(f"{path} is damaged (its entries contradict each other): write the folder again")
        return manifest


def read_manifest(path: Path, *, expected: str, version: int) -> dict[str, Any]:
    """Read a JSON manifest and check its ``format`` and ``version``.

    Raises:
        MissingInputError: If there is none.
        ArtifactError: If it is no JSON object, of another format, or of another version.
    """
    try:
        record = json.loads(existing(path).read_text(encoding="utf-8"))
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError alike
        raise ArtifactError(f"{path} is damaged ({error}): write the folder again") from error
    if not isinstance(record, dict) or record.get("format") != expected:
        found = record.get("format") if isinstance(record, dict) else record
        raise ArtifactError(f"{path} has format {found!r}, need {expected!r}: it belongs to something else")
    if record.get("version") != version:
        raise ArtifactError(
            f"{path} has version {record.get('version')!r}, this ctxembed reads {version}: "
            "use the ctxembed that wrote it, or write the folder again"
        )
    return record


def encoder_settings(encoder: TextEncoder | UsageEncoder, *, unit: str, layer: Layer | None = None) -> dict[str, Any]:
    """Return the settings under which an encoder's vectors are kept, so that no two models mix.

    Args:
        encoder: Whose vectors they are.
        unit: What one row is: see ``units.Unit``.
        layer: The layer or layers the vectors come from; None is the encoder's own output.

    Returns:
        JSON values; of an encoder that has ``conditions`` (number format, long texts), these too.
    """
    kept = layer if layer is None or isinstance(layer, int) else list(layer)
    conditions: Mapping[str, Scalar] = getattr(encoder, "conditions", {})
    return {"model": encoder.name, "fingerprint": encoder.fingerprint, "unit": unit, "layer": kept, **conditions}


def checked_vectors(vectors: NDArray[Any], *, dimension: int, first_row: int = 0, name: str = "the vectors") -> Vectors:
    """Return vectors as contiguous float32, or say what is wrong with them.

    Args:
        vectors: Floats of any width, shape (N, D); N may be 0.
        dimension: The D that is needed.
        first_row: The number that the first row has in messages.
        name: What messages call the array.

    Returns:
        float32 (N, D), C order, finite; the array itself where it already is all that.

    Raises:
        InvalidInputError: On another shape or width, on integers, on NaN or infinity.
    """
    if vectors.ndim != 2:
        raise InvalidInputError(
            f"{name} have shape {vectors.shape}, need (N, {dimension}): pass a single vector as vector[None, :]"
        )
    if vectors.shape[1] != dimension:
        raise InvalidInputError(
            f"{name} are {vectors.shape[1]} wide, need {dimension}: use the model that made the others"
        )
    if not np.issubdtype(vectors.dtype, np.floating):
        raise InvalidInputError(f"{name} are {vectors.dtype}, need floats: convert them with .astype('float32')")
    with np.errstate(over="ignore"):  # too large for float32 becomes infinity, which is refused below
        array = np.ascontiguousarray(vectors, dtype=np.float32)
    for start in range(0, len(array), CHECKED_ROWS):  # in pieces: the mask of a large array is itself large
        finite = np.isfinite(array[start : start + CHECKED_ROWS]).all(axis=1)
        if not finite.all():
            row = first_row + start + int(np.argmin(finite))
            raise InvalidInputError(f"row {row} of {name} holds NaN, infinity or more than float32: repair or drop it")
    return array


def from_stored(block: NDArray[Any]) -> Vectors:
    """Return rows of a part as float32 (N, D)."""
    if block.dtype.names is None:
        return np.asarray(block, dtype=np.float32)
    return np.asarray(block["values"] * block["scale"][:, None], dtype=np.float32)


def stored_dtype(name: StoredType, dimension: int) -> np.dtype[Any]:
    """Return the type of a part's array: floats (N, D), or for int8 records (N,) of a scale and D values."""
    if name == "int8":
        return np.dtype([("scale", "<f4"), ("values", "i1", (dimension,))])
    return np.dtype(name)


def check_part(folder: Path, part: Part) -> None:
    """Compare both files of a part with the hashes that its manifest has of them.

    Raises:
        ArtifactError: If one is missing or damaged.
    """
    for file, sha256 in ((f"{part.name}.npy", part.vectors_sha256), (f"{part.name}.parquet", part.rows_sha256)):
        if not (folder / file).exists():
            raise ArtifactError(f"{folder / file} is missing: write the folder again")
        if sha256_file(folder / file) != sha256:
            raise ArtifactError(f"{folder / file} is damaged (its sha256 differs): write the folder again")


class VectorFolder:
    """A finished vector folder; a part is memory-mapped while it is read, so that memory stays flat."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self._path = path
        self.manifest = manifest
        self._ends = np.cumsum([part.rows for part in manifest.parts], dtype=np.int64)
        self._opened = lru_cache(_OPEN_PARTS)(self._map)

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = True) -> VectorFolder:
        """Open a folder.

        Args:
            path: A folder that VectorWriter finished.
            verify: Compare every file's sha256 too, not only its shape.

        Raises:
            MissingInputError: If there is no such folder or no manifest in it.
            ArtifactError: If it is unfinished, damaged or of another format.
        """
        path = existing(path)
        manifest = Manifest.read(path)
        if not manifest.complete:
            raise ArtifactError(f"{path} is unfinished ({manifest.rows} rows so far): finish it with --resume")
        folder = cls(path, manifest)
        for part in manifest.parts:
            if verify:
                check_part(path, part)
            folder._map(part)
        return folder

    def __len__(self) -> int:
        return self.manifest.rows

    @property
    def dimension(self) -> int:
        """The width D of every vector."""
        return self.manifest.dimension

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the vectors depend on, as given to the writer."""
        return self.manifest.settings

    def iter_parts(self) -> Iterator[tuple[list[Row], Vectors]]:
        """Yield each part's rows with their vectors, float32 (N, D); an empty folder yields nothing."""
        for part in self.manifest.parts:
            yield self._read_rows(part), from_stored(self._map(part))

    def vectors(self) -> Vectors:
        """Return all vectors, float32 (N, D); a single float32 part stays memory-mapped."""
        if len(self.manifest.parts) == 1 and self.manifest.dtype == "float32":
            return self._map(self.manifest.parts[0])
        return self.take(np.arange(len(self)))

    def take(self, numbers: NDArray[np.int64]) -> Vectors:
        """Return the vectors of some rows, (N,) from 0 on, as float32 (N, D); only these are read from disk."""
        result = np.empty((len(numbers), self.dimension), dtype=np.float32)
        owners = np.searchsorted(self._ends, numbers, side="right")
        for owner in np.unique(owners):
            part, chosen = self.manifest.parts[owner], np.flatnonzero(owners == owner)
            first = self._ends[owner] - part.rows
            result[chosen] = from_stored(self._opened(part)[numbers[chosen] - first])
        return result

    def spans(self) -> Iterator[Spans]:
        """Yield what the rows of each part stand for, in the order of the vectors."""
        for part in self.manifest.parts:
            table = self._read_table(part, "text", "start", "end")
            texts = table["text"].combine_chunks().dictionary_encode()
            starts, ends = (table[name].fill_null(-1).to_numpy() for name in ("start", "end"))
            yield Spans(texts.dictionary.to_pylist(), texts.indices.to_numpy().astype(np.int64), starts, ends)

    def content_hashes(self) -> NDArray[np.uint64]:
        """Return the content hash of every row, (N,), as a number."""
        tables = (self._read_table(part, "content_hash")["content_hash"] for part in self.manifest.parts)
        hashes = (np.array([int(text, 16) for text in table.to_pylist()], dtype=np.uint64) for table in tables)
        return np.concatenate([np.empty(0, dtype=np.uint64), *hashes])

    def rows(self) -> Iterator[Row]:
        """Yield every row, in the order of the vectors."""
        for part in self.manifest.parts:
            yield from self._read_rows(part)

    def _read_rows(self, part: Part) -> list[Row]:
        table = self._read_table(part, *_COLUMNS)
        columns = zip(*(table[name].to_pylist() for name in _COLUMNS), strict=True)
        try:
            return [Row(name, text, start, end, json.loads(metadata)) for name, text, start, end, metadata in columns]
        except ValueError as error:
            raise ArtifactError(f"{part.name}.parquet is damaged ({error}): write the folder again") from error

    def _read_table(self, part: Part, *columns: str) -> Any:
        import pyarrow as pa
        import pyarrow.parquet

        file = self._path / f"{part.name}.parquet"
        try:
            table = pyarrow.parquet.read_table(file).select(columns)
        except (pa.ArrowException, OSError, KeyError) as error:
            raise ArtifactError(f"{file} is damaged ({error}): write the folder again") from error
        if len(table) != part.rows:
            raise ArtifactError(f"{file} has {len(table)} rows, need {part.rows}: write the folder again")
        return table

    def _map(self, part: Part) -> NDArray[Any]:
        file = self._path / f"{part.name}.npy"
        try:
            array: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ArtifactError(f"{file} is missing or damaged ({error}): write the folder again") from error
        shape = (part.rows,) if self.manifest.dtype == "int8" else (part.rows, self.dimension)
        found, wanted = (array.dtype, array.shape), (stored_dtype(self.manifest.dtype, self.dimension), shape)
        if found != wanted:
            raise ArtifactError(f"{file} holds {found[0]} {found[1]}, need {wanted[0]} {wanted[1]}: write it again")
        return array

"""Restartable streams of Documents from txt, jsonl, csv, tsv and parquet files, directories and stdin.

Every format is read as numbered rows of named fields, and one function turns a row into a Document,
so ids, metadata and the treatment of empty or wrong values are the same everywhere. Nothing holds a
whole file in memory, and nothing is left out without being counted in ``Corpus.counts``.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import os
import random
import re
import shutil
import sys
import tempfile
import weakref
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias, get_args

from ctxembed.errors import InvalidInputError
from ctxembed.runtime import existing
from ctxembed.text import sentence_spans
from ctxembed.types import Document, Scalar

DocumentUnit: TypeAlias = Literal["line", "paragraph"]
EncodingErrors: TypeAlias = Literal["strict", "replace"]
StdinFormat: TypeAlias = Literal["txt", "jsonl"]
Row: TypeAlias = tuple[int, dict[str, Any]]

SUPPORTED = ".txt .jsonl .csv .tsv (each also .gz and .zst) and .parquet"
_COMPRESSIONS = (".gz", ".zst")
_SURROGATE = re.compile("[\ud800-\udfff]")
_ZSTD_READ_SIZE = 4096  # a zstd block may grow 30,000-fold: small reads bound what one of them can unpack to
_ZSTD_MAX_WINDOW = 2**31  # files packed with `zstd --long=31`, as large public corpora are
_PARQUET_BATCH_ROWS = 1024
_MAX_CSV_FIELD = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How inputs become Documents."""

    text_column: str = "text"
    """The column or JSON key that holds the text."""
    id_column: str | None = None
    """The column of the ids; without it the column "id" where there is one, else FILE:LINE."""
    metadata_columns: tuple[str, ...] | None = None
    """The columns to keep as metadata; without it every other column (of parquet: every other scalar one)."""
    document: DocumentUnit = "line"
    """What one document of a txt file is: a line, or the lines up to an empty one."""
    encoding_errors: EncodingErrors = "strict"
    """Whether bytes that are not UTF-8 are an error, or become U+FFFD and are counted."""
    split_sentences: bool = False
    """Whether each sentence becomes a Document of its own, with ids ID.0, ID.1 and so on."""
    stdin_format: StdinFormat = "txt"
    """The format of the input ``-``."""

    def __post_init__(self) -> None:
        for name, allowed in (
            ("document", DocumentUnit),
            ("encoding_errors", EncodingErrors),
            ("stdin_format", StdinFormat),
        ):
            if getattr(self, name) not in get_args(allowed):
                raise InvalidInputError(f"{name}={getattr(self, name)!r}: use one of {', '.join(get_args(allowed))}")
        if isinstance(self.metadata_columns, str):
            raise InvalidInputError(f"metadata_columns={self.metadata_columns!r}: pass a tuple of column names")


@dataclass
class ReadCounts:
    """What one pass over a Corpus met so far; ``summary`` says it in words."""

    documents: int = 0
    skipped_empty: int = 0
    undecodable_lines: int = 0
    rows_without_metadata: int = 0
    unsupported_files: int = 0
    unread_columns: set[str] = field(default_factory=set)

    def summary(self) -> str:
        """Return one line with every count that is not zero, for the user to read."""
        parts = [
            (self.skipped_empty, "empty texts skipped"),
            (self.undecodable_lines, "lines with undecodable bytes replaced"),
            (self.rows_without_metadata, "rows without a requested metadata column"),
            (self.unsupported_files, "files of other kinds ignored"),
        ]
        said = [f"{self.documents:,} documents", *(f"{count:,} {what}" for count, what in parts if count)]
        if self.unread_columns:
            said.append(f"columns not read because they hold no scalars: {', '.join(sorted(self.unread_columns))}")
        return "; ".join(said)


@dataclass(frozen=True)
class _Source:
    """One file to read: the name for messages, the label for ids, and what its suffixes say."""

    path: Path
    name: str
    label: str
    format: str
    compression: str = ""


@dataclass(frozen=True)
class _Pass:
    """One file in one pass: what every reader needs."""

    source: _Source
    options: ReadOptions
    counts: ReadCounts

    def place(self, number: int) -> str:
        return f"{self.source.name}:{number}"


class Corpus:
    """A restartable stream of Documents: every iteration starts again and gives the same Documents.

    Attributes:
        options: How inputs become Documents.
        counts: What the last pass, full or partial, has met.
    """

    def __init__(self, paths: str | Path | Sequence[str | Path], *, options: ReadOptions | None = None) -> None:
        """Find the files; stdin (``-``) is read here, once, into a temporary file.

        Args:
            paths: Files, directories (searched recursively, hidden files left out) and ``-``, read in this order.
            options: How to read them.

        Raises:
            MissingInputError: If a path does not exist.
            InvalidInputError: If a file is of no supported kind, given twice, or a directory holds none.
        """
        self.options = options or ReadOptions()
        given = [paths] if isinstance(paths, str | Path) else list(paths)
        if not given:
            raise InvalidInputError("0 inputs are given, need at least one: a file, a directory, or - for stdin")
        files, self._num_unsupported = _find_files([str(path) for path in given])
        self._sources = [self._source(path, label) for path, label in zip(files, _labels(files), strict=True)]
        self.counts = ReadCounts(unsupported_files=self._num_unsupported)

    @property
    def names(self) -> list[str]:
        """The files found, in reading order."""
        return [source.name for source in self._sources]

    def __iter__(self) -> Iterator[Document]:
        self.counts = ReadCounts(unsupported_files=self._num_unsupported)
        return self._documents(self.counts)

    def _documents(self, counts: ReadCounts) -> Iterator[Document]:
        for source in self._sources:
            reading = _Pass(source, self.options, counts)
            for number, fields in _READERS[source.format](reading):
                document = _document(reading, number, fields)
                if document is None:
                    counts.skipped_empty += 1
                    continue
                for part in _sentences(document) if self.options.split_sentences else (document,):
                    counts.documents += 1
                    yield part

    def _source(self, path: str, label: str) -> _Source:
        if path != "-":
            return _Source(Path(path), path, label, *_kind(Path(path)))
        descriptor, spooled = tempfile.mkstemp(prefix="ctxembed-stdin-")
        weakref.finalize(self, Path(spooled).unlink, missing_ok=True)
        with os.fdopen(descriptor, "wb") as stream:
            shutil.copyfileobj(sys.stdin.buffer, stream)
        return _Source(Path(spooled), "stdin", label, self.options.stdin_format)


def texts(corpus: Iterable[Document]) -> Iterator[str]:
    """Yield the text of each Document."""
    return (document.text for document in corpus)


def sample_documents(corpus: Iterable[Document], *, size: int, seed: int) -> list[Document]:
    """Draw Documents uniformly without replacement in one pass (reservoir sampling, Vitter 1985, algorithm R).

    Args:
        corpus: Any number of Documents; empty gives an empty list.
        size: How many to draw; a stream that has no more than these is returned whole.
        seed: Equal seeds draw equal samples.

    Returns:
        The sample, in the order of the stream.

    Raises:
        InvalidInputError: If the size is below 1.
    """
    if size < 1:
        raise InvalidInputError(f"a sample of size {size}, need at least 1")
    generator = random.Random(seed)
    reservoir: list[tuple[int, Document]] = []
    for position, document in enumerate(corpus):
        if position < size:
            reservoir.append((position, document))
        elif (slot := generator.randrange(position + 1)) < size:
            reservoir[slot] = (position, document)
    return [document for _, document in sorted(reservoir, key=lambda entry: entry[0])]


def require_restartable(documents: Iterable[Document]) -> Iterable[Document]:
    """Return the documents if they can be read several times.

    Raises:
        InvalidInputError: If they are an iterator, which a second pass would find empty.
    """
    if isinstance(documents, Iterator):
        raise InvalidInputError(
            f"{type(documents).__name__} is a one-shot iterator, and several passes are needed; pass a list or a Corpus"
        )
    return documents


# Finding files


def _kind(path: Path) -> tuple[str, str]:
    """Return format and compression by the suffixes, both empty where they are not supported."""
    compression = path.suffix.lower() if path.suffix.lower() in _COMPRESSIONS else ""
    inner = Path(path.stem) if compression else path
    name = inner.suffix.lower().removeprefix(".")
    return (name, compression) if name in _READERS and not (name == "parquet" and compression) else ("", "")


def _find_files(given: Iterable[str]) -> tuple[list[str], int]:
    """Return the files behind the given paths, and how many others the directories among them hold."""
    found: list[str] = []
    num_unsupported = 0
    for path in given:
        if path != "-" and existing(path).is_dir():
            files = _visible_files(Path(path))
            supported = [str(file) for file in files if _kind(file)[0]]
            if not supported:
                raise InvalidInputError(
                    f"{path} holds no supported file ({len(files)} of other kinds): use {SUPPORTED}"
                )
            num_unsupported += len(files) - len(supported)
            found += supported
        elif path == "-" or _kind(Path(path))[0]:
            found.append(path)
        else:
            raise InvalidInputError(f"{path} is of no supported kind: use {SUPPORTED}, or a directory of them")
    for file, count in Counter(_absolute(file) for file in found).items():
        if count > 1:
            raise InvalidInputError(f"{file} is given {count} times, need each input once: leave out the repetition")
    return found, num_unsupported


def _visible_files(directory: Path) -> list[Path]:
    return sorted(
        path
        for path in directory.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(directory).parts)
    )


def _absolute(path: str) -> Path:
    # Not resolve(): two links to one file are two inputs with two names.
    return Path("stdin") if path == "-" else Path(os.path.abspath(path))  # noqa: PTH100


def _labels(files: Sequence[str]) -> list[str]:
    """Return what stands before the line number in ids: the stem, or a relative path where stems are the same."""
    stems = ["stdin" if file == "-" else _stem(Path(file)) for file in files]
    counts = Counter(stems)
    if len(counts) == len(stems):
        return stems
    shared = [_absolute(file) for file, stem in zip(files, stems, strict=True) if file != "-" and counts[stem] > 1]
    root = Path(os.path.commonpath([path.parent for path in shared]))
    labels = [
        stem if file == "-" or counts[stem] == 1 else _absolute(file).relative_to(root).as_posix()
        for file, stem in zip(files, stems, strict=True)
    ]
    return labels if len(set(labels)) == len(labels) else [_absolute(file).as_posix() for file in files]


def _stem(path: Path) -> str:
    return Path(path.stem).stem if path.suffix.lower() in _COMPRESSIONS else path.stem


# From bytes to lines


class _BlockStream(io.RawIOBase):
    """A readable stream over an iterator of byte blocks."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            block = next(self._blocks, None)
            if block is None:
                return 0
            self._rest = memoryview(block)
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


def _zstd_blocks(path: Path) -> Iterator[bytes]:
    """Unpack frame after frame; the library's own reader ends quietly where a file is cut short."""
    import zstandard

    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_MAX_WINDOW)
    with path.open("rb") as stream:
        frame = None
        while data := stream.read(_ZSTD_READ_SIZE):
            while data:
                frame = frame or decompressor.decompressobj()
                try:
                    yield frame.decompress(data)
                except zstandard.ZstdError as error:
                    raise OSError(str(error)) from error
                data, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
    if frame is not None:
        raise EOFError("the last zstd frame is incomplete")


def _open(source: _Source) -> BinaryIO:
    if source.compression == ".gz":
        return gzip.open(source.path, "rb")  # type: ignore[return-value]
    if source.compression == ".zst":
        return io.BufferedReader(_BlockStream(_zstd_blocks(source.path)))
    return source.path.open("rb")


def _lines(reading: _Pass) -> Iterator[str]:
    """Yield each line with its ending (LF, CR LF or CR), without a byte order mark."""
    source = reading.source
    try:
        with io.TextIOWrapper(_open(source), encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
            for number, line in enumerate(stream, 1):
                yield line if line.isascii() else _encodable(line, reading, number)
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(source, error) from error


def _encodable(text: str, reading: _Pass, number: int) -> str:
    """Return the text without surrogates, which stand for undecodable bytes, as the options say."""
    match = _SURROGATE.search(text)
    if match is None:
        return text
    if reading.options.encoding_errors == "strict":
        raise InvalidInputError(
            f"{reading.place(number)}: not UTF-8 (character {match.start() + 1} of the line): "
            "convert the file, or use --encoding-errors replace"
        )
    reading.counts.undecodable_lines += 1
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _unreadable(source: _Source, error: Exception) -> InvalidInputError:
    return InvalidInputError(f"{source.name} cannot be read to its end ({error}): check that it is whole and readable")


# From lines to rows: the number of the first line, and the fields by name


def _txt_rows(reading: _Pass) -> Iterator[Row]:
    column = reading.options.text_column
    lines = (line.rstrip("\r\n") for line in _lines(reading))
    if reading.options.document == "line":
        for number, line in enumerate(lines, 1):
            yield number, {column: line}
        return
    block: list[str] = []
    number = 0
    for number, line in enumerate(lines, 1):
        if line and not line.isspace():
            block.append(line)
        elif block:
            yield number - len(block), {column: "\n".join(block)}
            block = []
    if block:
        yield number - len(block) + 1, {column: "\n".join(block)}


def _jsonl_rows(reading: _Pass) -> Iterator[Row]:
    for number, line in enumerate(_lines(reading), 1):
        if line.isspace():
            yield number, {}
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _not_an_object(reading, number, str(error)) from error
        if "\\u" in line:
            value = _without_surrogates(value, reading, number)
        if isinstance(value, str):
            value = {reading.options.text_column: value}
        if not isinstance(value, dict):
            raise _not_an_object(reading, number, f"a {type(value).__name__}")
        if not value:
            raise _not_an_object(reading, number, "an object without keys")
        yield number, value


def _without_surrogates(value: Any, reading: _Pass, number: int) -> Any:
    """Treat the escape of a lone surrogate, which no UTF-8 file can hold, like a byte that is not UTF-8."""
    plain = json.dumps(value, ensure_ascii=False)
    if _SURROGATE.search(plain) is None:
        return value
    return json.loads(_encodable(_SURROGATE.sub("\udcff", plain), reading, number))


def _not_an_object(reading: _Pass, number: int, reason: str) -> InvalidInputError:
    return InvalidInputError(
        f"{reading.place(number)}: not a JSON object ({reason}): each line must be an object with keys, or a string"
    )


def _csv_rows(reading: _Pass) -> Iterator[Row]:
    csv.field_size_limit(_MAX_CSV_FIELD)
    records = _csv_records(reading)
    number, header = next(records, (0, []))
    if number == 0:
        return
    _check_columns(reading, header)
    for number, values in records:
        if values and len(values) != len(header):
            raise InvalidInputError(
                f"{reading.place(number)}: {len(values)} fields where the header has {len(header)}: "
                "put quotes around a field that holds the separator, a quote or a line break"
            )
        yield number, dict(zip(header, values, strict=False))


def _csv_records(reading: _Pass) -> Iterator[tuple[int, list[str]]]:
    delimiter = "\t" if reading.source.format == "tsv" else ","
    # strict: without it a quote that is never closed silently swallows the rest of the file.
    reader = csv.reader(_lines(reading), delimiter=delimiter, strict=True)
    while True:
        number = reader.line_num + 1
        try:
            values = next(reader, None)
        except csv.Error as error:
            raise InvalidInputError(
                f"{reading.place(number)}: not valid {reading.source.format.upper()} ({error}): "
                'a quote inside a quoted field is written twice ("")'
            ) from error
        if values is None:
            return
        yield number, values


def _parquet_rows(reading: _Pass) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(reading.source.path) as file:
            columns = _parquet_columns(reading, file.schema_arrow)
            number = 0
            for batch in file.iter_batches(batch_size=_PARQUET_BATCH_ROWS, columns=columns):
                for fields in batch.to_pylist():
                    number += 1
                    yield number, fields
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(reading.source, error) from error


def _parquet_columns(reading: _Pass, schema: Any) -> list[str]:
    """Return the columns to read: nested and binary ones only where they are asked for by name."""
    import pyarrow.types as kinds

    _check_columns(reading, schema.names)
    options = reading.options
    wanted = {options.text_column, options.id_column or "id", *(options.metadata_columns or ())}
    if options.metadata_columns is None:
        unread = {column.name for column in schema if kinds.is_nested(column.type) or _is_binary(column.type)} - wanted
        reading.counts.unread_columns |= unread
        wanted = set(schema.names) - unread
    return [name for name in schema.names if name in wanted]


def _is_binary(kind: Any) -> bool:
    import pyarrow.types as kinds

    return any(test(kind) for test in (kinds.is_binary, kinds.is_large_binary, kinds.is_fixed_size_binary))


def _check_columns(reading: _Pass, columns: Sequence[str]) -> None:
    """Refuse a table in which a requested column is missing or a name stands twice."""
    options = reading.options
    for name in (options.text_column, options.id_column, *(options.metadata_columns or ())):
        if name is not None and name not in columns:
            raise _missing_column(reading.source.name, name, columns)
    if repeated := [name for name, count in Counter(columns).items() if count > 1]:
        raise InvalidInputError(f"{reading.source.name}: the column {repeated[0]!r} stands twice: rename one of them")


def _missing_column(place: str, name: str, columns: Iterable[str]) -> InvalidInputError:
    existing_columns = ", ".join(repr(column) for column in columns)
    return InvalidInputError(f"{place}: no column {name!r}: the columns are {existing_columns}; name the one to use")


# From rows to Documents


def _document(reading: _Pass, number: int, fields: dict[str, Any]) -> Document | None:
    """Return the Document of one row, or None where its text is empty; no fields at all is an empty line."""
    options = reading.options
    if not fields:
        return None
    if options.text_column not in fields:
        raise _missing_column(reading.place(number), options.text_column, fields)
    text = fields[options.text_column]
    if isinstance(text, bytes):
        text = _encodable(text.decode("utf-8", "surrogateescape"), reading, number)
    if text is None or (isinstance(text, str) and (not text or text.isspace())):
        return None
    if not isinstance(text, str):
        raise InvalidInputError(
            f"{reading.place(number)}: {options.text_column!r} is {_shown(text)}, need a string: "
            "convert the column, or name another"
        )
    return Document(_document_id(reading, number, fields), text, _metadata(reading, fields))


def _document_id(reading: _Pass, number: int, fields: dict[str, Any]) -> str:
    column = reading.options.id_column
    if column is not None and column not in fields:
        raise _missing_column(reading.place(number), column, fields)
    value = _scalar(fields.get(column or "id"))
    if value not in (None, ""):
        return str(value)
    if column is not None:
        raise InvalidInputError(f"{reading.place(number)}: the id column {column!r} is empty: fill it, or leave it out")
    return f"{reading.source.label}:{number}"


def _metadata(reading: _Pass, fields: dict[str, Any]) -> dict[str, Scalar]:
    options = reading.options
    if options.metadata_columns is None:
        taken = (options.text_column, options.id_column or "id")
        return {name: _scalar(value) for name, value in fields.items() if name not in taken}
    metadata = {name: _scalar(fields[name]) for name in options.metadata_columns if name in fields}
    reading.counts.rows_without_metadata += len(metadata) < len(options.metadata_columns)
    return metadata


def _scalar(value: Any) -> Scalar:
    """Return what metadata can hold: lists and objects as JSON, times in ISO format, bytes in hex, NaN as None."""
    if isinstance(value, float):
        # NaN is no JSON, and as it differs from itself two passes would not be equal.
        return None if math.isnan(value) else value
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, default=_scalar)
    if isinstance(value, bytes):
        return value.hex()
    return str(value.isoformat()) if hasattr(value, "isoformat") else str(value)


def _shown(value: Any) -> str:
    shown = repr(value)
    return f"{shown if len(shown) <= 40 else shown[:40] + '...'} ({type(value).__name__})"


def _sentences(document: Document) -> Iterator[Document]:
    for position, span in enumerate(sentence_spans(document.text)):
        yield Document(f"{document.id}.{position}", span.text, document.metadata)


_READERS: dict[str, Callable[[_Pass], Iterator[Row]]] = {
    "txt": _txt_rows,
    "jsonl": _jsonl_rows,
    "csv": _csv_rows,
    "tsv": _csv_rows,
    "parquet": _parquet_rows,
}

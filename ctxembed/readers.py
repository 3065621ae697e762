"""Readers of each format and compression: every file becomes numbered rows of named fields.

Nothing holds a whole file in memory, and what cannot be read as it stands is either an error that
names the line, or counted in ``ReadCounts``.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias, get_args

from ctxembed.errors import InvalidInputError

DocumentUnit: TypeAlias = Literal["line", "paragraph"]
EncodingErrors: TypeAlias = Literal["strict", "replace"]
StdinFormat: TypeAlias = Literal["txt", "jsonl"]
Row: TypeAlias = tuple[int, dict[str, Any]]

SUPPORTED = ".txt .jsonl .csv .tsv (each also .gz and .zst) and .parquet"
COMPRESSIONS = (".gz", ".zst")
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
class Source:
    """One file to read: the name for messages, the label for ids, and what its suffixes say."""

    path: Path
    name: str
    label: str
    format: str
    compression: str = ""


@dataclass(frozen=True)
class Reading:
    """One file in one pass: what every reader needs."""

    source: Source
    options: ReadOptions
    counts: ReadCounts

    def place(self, number: int) -> str:
        """Name a line for a message: FILE:LINE."""
        return f"{self.source.name}:{number}"


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


def _open(source: Source) -> BinaryIO:
    if source.compression == ".gz":
        return gzip.open(source.path, "rb")  # type: ignore[return-value]
    if source.compression == ".zst":
        return io.BufferedReader(_BlockStream(_zstd_blocks(source.path)))
    return source.path.open("rb")


def _lines(reading: Reading) -> Iterator[str]:
    """Yield each line with its ending (LF, CR LF or CR), without a byte order mark."""
    source = reading.source
    try:
        with io.TextIOWrapper(_open(source), encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
            for number, line in enumerate(stream, 1):
                yield line if line.isascii() else encodable(line, reading, number)
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(source, error) from error


def encodable(text: str, reading: Reading, number: int) -> str:
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


def _unreadable(source: Source, error: Exception) -> InvalidInputError:
    return InvalidInputError(f"{source.name} cannot be read to its end ({error}): check that it is whole and readable")


# From lines to rows: the number of the first line, and the fields by name


def _txt_rows(reading: Reading) -> Iterator[Row]:
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


def _jsonl_rows(reading: Reading) -> Iterator[Row]:
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


def _without_surrogates(value: Any, reading: Reading, number: int) -> Any:
    """Treat the escape of a lone surrogate, which no UTF-8 file can hold, like a byte that is not UTF-8."""
    plain = json.dumps(value, ensure_ascii=False)
    if _SURROGATE.search(plain) is None:
        return value
    return json.loads(encodable(_SURROGATE.sub("\udcff", plain), reading, number))


def _not_an_object(reading: Reading, number: int, reason: str) -> InvalidInputError:
    return InvalidInputError(
        f"{reading.place(number)}: not a JSON object ({reason}): each line must be an object with keys, or a string"
    )


def _csv_rows(reading: Reading) -> Iterator[Row]:
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


def _csv_records(reading: Reading) -> Iterator[tuple[int, list[str]]]:
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


def _parquet_rows(reading: Reading) -> Iterator[Row]:
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


def _parquet_columns(reading: Reading, schema: Any) -> list[str]:
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


def _check_columns(reading: Reading, columns: Sequence[str]) -> None:
    """Refuse a table in which a requested column is missing or a name stands twice."""
    options = reading.options
    for name in (options.text_column, options.id_column, *(options.metadata_columns or ())):
        if name is not None and name not in columns:
            raise missing_column(reading.source.name, name, columns)
    if repeated := [name for name, count in Counter(columns).items() if count > 1]:
        raise InvalidInputError(f"{reading.source.name}: the column {repeated[0]!r} stands twice: rename one of them")


def missing_column(place: str, name: str, columns: Iterable[str]) -> InvalidInputError:
    """Return the error for a requested column that is not there."""
    existing_columns = ", ".join(repr(column) for column in columns)
    return InvalidInputError(f"{place}: no column {name!r}: the columns are {existing_columns}; name the one to use")


_READERS: dict[str, Callable[[Reading], Iterator[Row]]] = {
    "txt": _txt_rows,
    "jsonl": _jsonl_rows,
    "csv": _csv_rows,
    "tsv": _csv_rows,
    "parquet": _parquet_rows,
}


def read_rows(reading: Reading) -> Iterator[Row]:
    """Yield the rows of one file: the number of its first line (in parquet, of the row) and its fields by name.

    An empty line is a row without fields.

    Raises:
        InvalidInputError: If the file is damaged, is not what its suffix says, or lacks a requested column.
    """
    return _READERS[reading.source.format](reading)


def file_kind(path: Path) -> tuple[str, str]:
    """Return format and compression by the suffixes, both empty where they are not supported."""
    compression = path.suffix.lower() if path.suffix.lower() in COMPRESSIONS else ""
    inner = Path(path.stem) if compression else path
    name = inner.suffix.lower().removeprefix(".")
    return (name, compression) if name in _READERS and not (name == "parquet" and compression) else ("", "")

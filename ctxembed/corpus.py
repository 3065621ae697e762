"""Restartable streams of Documents from txt, jsonl, csv, tsv and parquet files, directories and stdin.

Every format is read as numbered rows of named fields, and one function turns a row into a Document,
so ids, metadata and the treatment of empty or wrong values are the same everywhere. Nothing holds a
whole file in memory, and nothing is left out without being counted in ``Corpus.counts``.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import sys
import tempfile
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctxembed.errors import InvalidInputError
from ctxembed.readers import (
    COMPRESSIONS,
    SUPPORTED,
    ReadCounts,
    Reading,
    ReadOptions,
    Source,
    encodable,
    file_kind,
    missing_column,
    read_rows,
)
from ctxembed.runtime import existing
from ctxembed.text import sentence_spans
from ctxembed.types import Document, Scalar

__all__ = ["Corpus", "ReadCounts", "ReadOptions", "require_restartable", "sample_documents", "texts"]


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
            reading = Reading(source, self.options, counts)
            for number, fields in read_rows(reading):
                document = _document(reading, number, fields)
                if document is None:
                    counts.skipped_empty += 1
                    continue
                for part in _sentences(document) if self.options.split_sentences else (document,):
                    counts.documents += 1
                    yield part

    def _source(self, path: str, label: str) -> Source:
        if path != "-":
            return Source(Path(path), path, label, *file_kind(Path(path)))
        descriptor, spooled = tempfile.mkstemp(prefix="ctxembed-stdin-")
        weakref.finalize(self, Path(spooled).unlink, missing_ok=True)
        with os.fdopen(descriptor, "wb") as stream:
            shutil.copyfileobj(sys.stdin.buffer, stream)
        return Source(Path(spooled), "stdin", label, self.options.stdin_format)


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


def prepare_documents(documents: Iterable[Document], *, most: int | None, seed: int) -> Iterable[Document]:
    """Return the documents, or a seeded sample of ``most`` of them, which is drawn anew at each pass: none is kept."""
    require_restartable(documents)
    return documents if most is None else _Sample(documents, most, seed)


@dataclass(frozen=True, slots=True)
class _Sample:
    documents: Iterable[Document]
    size: int
    seed: int

    def __iter__(self) -> Iterator[Document]:
        return iter(sample_documents(self.documents, size=self.size, seed=self.seed))


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


def _find_files(given: Iterable[str]) -> tuple[list[str], int]:
    """Return the files behind the given paths, and how many others the directories among them hold."""
    found: list[str] = []
    num_unsupported = 0
    for path in given:
        if not path:
            raise InvalidInputError("an input path is empty: name a file, a directory, or - for stdin")
        if path != "-" and existing(path).is_dir():
            files = _visible_files(Path(path))
            supported = [str(file) for file in files if file_kind(file)[0]]
            if not supported:
                raise InvalidInputError(
                    f"{path} holds no supported file ({len(files)} of other kinds): use {SUPPORTED}"
                )
            num_unsupported += len(files) - len(supported)
            found += supported
        elif path == "-" or file_kind(Path(path))[0]:
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
    return Path(path.stem).stem if path.suffix.lower() in COMPRESSIONS else path.stem


# From rows to Documents


def _document(reading: Reading, number: int, fields: dict[str, Any]) -> Document | None:
    """Return the Document of one row, or None where its text is empty; no fields at all is an empty line."""
    options = reading.options
    if not fields:
        return None
    if options.text_column not in fields:
        raise missing_column(reading.place(number), options.text_column, fields)
    text = fields[options.text_column]
    if isinstance(text, bytes):
        text = encodable(text.decode("utf-8", "surrogateescape"), reading, number)
    if text is None or (isinstance(text, str) and (not text or text.isspace())):
        return None
    if not isinstance(text, str):
        raise InvalidInputError(
            f"{reading.place(number)}: {options.text_column!r} is {_shown(text)}, need a string: "
            "convert the column, or name another"
        )
    return Document(_document_id(reading, number, fields), text, _metadata(reading, fields))


def _document_id(reading: Reading, number: int, fields: dict[str, Any]) -> str:
    column = reading.options.id_column
    if column is not None and column not in fields:
        raise missing_column(reading.place(number), column, fields)
    value = _scalar(fields.get(column or "id"))
    if value not in (None, ""):
        return str(value)
    if column is not None:
        raise InvalidInputError(f"{reading.place(number)}: the id column {column!r} is empty: fill it, or leave it out")
    return f"{reading.source.label}:{number}"


def _metadata(reading: Reading, fields: dict[str, Any]) -> dict[str, Scalar]:
    options = reading.options
    if options.metadata_columns is None:
        taken = (options.text_column, options.id_column or "id")
        return {name: _scalar(value) for name, value in fields.items() if name not in taken}
    metadata = {name: _scalar(fields[name]) for name in options.metadata_columns if name in fields}
    reading.counts.rows_without_metadata += len(metadata) < len(options.metadata_columns)
    return metadata


def _scalar(value: Any) -> Scalar:
    """Return what metadata can hold: lists and objects as JSON, times as ISO, bytes as hex, NaN or infinity as None."""
    if isinstance(value, float):
        # NaN and infinity are no JSON, and as NaN differs from itself two passes would not be equal.
        return value if math.isfinite(value) else None
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

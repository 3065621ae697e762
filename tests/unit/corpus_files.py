"""Rows written in every format and compression, and how they are read back."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from ctxembed.corpus import Corpus, ReadOptions
from ctxembed.errors import InvalidInputError
from ctxembed.types import Document

Rows = list[dict[str, str]]
ROWS: Rows = [
    {"text": "the bank of the river", "id": "r1", "lang": "en"},
    {"text": "čaj, “kávé” 茶", "id": "r2", "lang": "hu"},
]
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".zst": lambda data: zstandard.ZstdCompressor().compress(data),
}


def table_bytes(rows: Rows, *, delimiter: str) -> bytes:
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, fieldnames=list(ROWS[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().encode()


def parquet_bytes(rows: Rows) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema([(name, pa.string()) for name in ROWS[0]])), stream)
    return stream.getvalue()


FORMATS: dict[str, Callable[[Rows], bytes]] = {
    "jsonl": lambda rows: "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode(),
    "csv": lambda rows: table_bytes(rows, delimiter=","),
    "tsv": lambda rows: table_bytes(rows, delimiter="\t"),
    "parquet": parquet_bytes,
}


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(path: Path, **options: object) -> list[Document]:
    return list(Corpus([path], options=ReadOptions(**options)))  # type: ignore[arg-type]


def write_parquet(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def expect_error(path: Path, message: str, **options: object) -> None:
    with pytest.raises(InvalidInputError, match=message):
        read(path, **options)

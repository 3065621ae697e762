"""A strict reader of JSON Lines: every value that cannot be used is an error with its file and line."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ctxembed.errors import InvalidInputError
from ctxembed.runtime import existing

T = TypeVar("T")

SUFFIXES = (".jsonl", ".jsonl.gz")


@dataclass(frozen=True, slots=True)
class Row:
    """One JSON object and where it stands; the methods return a value of the type they are named after."""

    path: Path
    line: int
    values: Mapping[str, Any]

    def error(self, problem: str) -> InvalidInputError:
        """Return the error to raise for something wrong in this row."""
        return InvalidInputError(f"{self.path}:{self.line}: {problem}")

    def text(self, key: str) -> str:
        """Return a string, which may be empty."""
        value = self.values.get(key)
        if not isinstance(value, str):
            raise self._wrong(key, "a string")
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise self._wrong(key, "text without lone surrogates")
        return value

    def integer(self, key: str) -> int:
        """Return a whole number; true and false are none."""
        value = self.values.get(key)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._wrong(key, "a whole number")
        return value

    def number(self, key: str) -> float:
        """Return a finite number; true and false are none."""
        value = self.values.get(key)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
            raise self._wrong(key, "a finite number")
        return float(value)

    def truth(self, key: str) -> bool:
        """Return true for 1 or true, false for 0 or false."""
        value = self.values.get(key)
        if value not in (0, 1):
            raise self._wrong(key, "1 or 0")
        return bool(value)

    def identifier(self, key: str) -> str:
        """Return a string; a whole number is written as one."""
        return str(self.integer(key)) if isinstance(self.values.get(key), int) else self.text(key)

    def _wrong(self, key: str, need: str) -> InvalidInputError:
        return self.error(f"{key!r} is {self.values[key]!r}, need {need}" if key in self.values else f"no {key!r}")


def read_rows(path: Path) -> Iterator[Row]:
    """Read a .jsonl or .jsonl.gz file in UTF-8, with or without a byte order mark, one object a line.

    Args:
        path: An existing file; an empty one gives no rows.

    Yields:
        The rows in order, lines counted from 1.

    Raises:
        InvalidInputError: If a line is anything else, an empty line too, or the compression is damaged.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            for line, data in enumerate(stream, start=1):
                yield _parse_row(data, path=path, line=line)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InvalidInputError(f"{path} is damaged or cut short ({error}): fetch or write it again") from error


def load_rows(path: Path, parse: Callable[[Row], T]) -> list[T]:
    """Read a whole file, each row by the given function.

    Raises:
        MissingInputError: If the file does not exist.
        InvalidInputError: If it holds no row, or a row cannot be used.
    """
    records = [parse(row) for row in read_rows(existing(path))]
    if not records:
        raise InvalidInputError(f"{path} has no rows: a benchmark needs at least one")
    return records


def _parse_row(data: bytes, *, path: Path, line: int) -> Row:
    try:
        value = json.loads(data.decode("utf-8-sig" if line == 1 else "utf-8"))
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{path}:{line}: not JSON in UTF-8 ({error}), need one object a line") from error
    if not isinstance(value, dict):
        raise InvalidInputError(f"{path}:{line}: a JSON {type(value).__name__}, need one object a line")
    return Row(path, line, value)

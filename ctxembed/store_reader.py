"""Reading the rows behind an index: by number, by id, by a condition on metadata, by words."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ctxembed import fulltext
from ctxembed.errors import ArtifactError, InvalidInputError
from ctxembed.filters import Filter
from ctxembed.types import Scalar
from ctxembed.vectors import Row

Numbers: TypeAlias = NDArray[np.int64]

SCHEMA_VERSION = 3
PLAIN_VERSION = 2
"""Of stores without indexed metadata columns: they are read as they are, and brought to this one when they change."""
_SELECT = 'SELECT number, id, text, "start", "end", metadata FROM rows'
_MAX_VALUES = 500


@dataclass(frozen=True, slots=True)
class StoredRow:
    """A row and the number under which the index knows its vector."""

    number: int
    row: Row


class StoredText(NamedTuple):
    """What is known of a text without reading it."""

    content_hash: int
    metadata: str


class StoreReader:
    """The reading half of a ``store.DocumentStore``."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection
        self.num_skipped = 0
        """Rows that ``add`` left out because their id was taken."""
        self.num_skipped_texts = 0
        """The texts that these rows belong to."""
        self.indexed: dict[str, int] = {}
        """Metadata columns that conditions find by an index, with their numbers; see ``filters.generated_columns``."""

    def __len__(self) -> int:
        return int(self._query("SELECT COUNT(*) FROM items")[0][0])

    def get(self, numbers: Iterable[int]) -> list[StoredRow]:
        """Return rows by number, in the order given.

        Raises:
            ArtifactError: If a number is not in the store: the index it comes from belongs to another.
        """
        wanted = [int(number) for number in numbers]
        records = self._query(f"{_SELECT} WHERE number IN (SELECT value FROM json_each(?))", json.dumps(wanted))
        found = {record[0]: _stored(record) for record in records}
        missing = [number for number in wanted if number not in found]
        if missing:
            raise ArtifactError(f"{self._path} has no row {missing[0]}: it belongs to another index, build it again")
        return [found[number] for number in wanted]

    def by_id(self, id: str) -> StoredRow:  # noqa: A002
        """Return the row with an id.

        Raises:
            InvalidInputError: If there is none.
        """
        numbers = self.numbers_of(id)
        for stored in self.get(numbers[:1]):
            if stored.row.id == id:
                return stored
        raise InvalidInputError(f"no row has the id {id!r}: ids are matched exactly, check the spelling")

    def numbers_of(self, id: str) -> Numbers:  # noqa: A002
        """Return the numbers of the row with an id, or of all rows of the text with it; none if there is none."""
        found = self._numbers("SELECT items.number FROM items JOIN texts ON texts.number = source WHERE id = ?", id)
        name, _, span = id.rpartition("#")
        start, _, end = span.partition("-")
        if len(found) or not (start.isdecimal() and end.isdecimal()):
            return found
        return self._numbers(  # compared as they are written: a number may be beyond those of SQLite
            "SELECT items.number FROM items JOIN texts ON texts.number = source "
            'WHERE id = ? AND derived AND CAST("start" AS TEXT) = ? AND CAST("end" AS TEXT) = ?',
            name, start, end,
        )  # fmt: skip

    def select(
        self, where: Filter, *, among: Iterable[int] | None = None, limit: int | None = None
    ) -> NDArray[np.int64]:
        """Return the numbers of rows that satisfy a condition, ascending.

        Args:
            where: The condition.
            among: Only these rows.
            limit: So many at most, any of them.
        """
        condition, values = where.sql(self.indexed)
        source = "rows"
        if among is not None:  # CROSS JOIN: these rows are looked at, not all that an index of a column has
            source = "(SELECT value AS wanted FROM json_each(?)) CROSS JOIN rows ON number = wanted"
            values = [json.dumps(sorted({int(number) for number in among})), *values]
        sql = f"SELECT number FROM {source} WHERE ({condition})"
        if limit is not None:
            sql += f" LIMIT {int(limit)}"
        return np.sort(self._numbers(sql, *values))

    def has_words(self) -> bool:
        """Tell whether any row is a word, or another part of a text."""
        return bool(self._query("SELECT EXISTS (SELECT 1 FROM items WHERE word IS NOT NULL)")[0][0])

    def columns(self) -> list[str]:
        """Return the names of all metadata columns; that reads every row."""
        return [name for (name,) in self._query("SELECT DISTINCT key FROM texts, json_each(metadata) ORDER BY key")]

    def deleted(self) -> Numbers:
        """Return the numbers that were given once and have no row any more, ascending."""
        return self._numbers("SELECT number FROM deleted ORDER BY number")

    def known_texts(self, ids: Sequence[str]) -> dict[str, StoredText]:
        """Return what is known of those texts among ``ids`` that are here."""
        found = {}
        for start in range(0, len(ids), _MAX_VALUES):
            chosen = ids[start : start + _MAX_VALUES]
            marks = ", ".join("?" * len(chosen))
            records = self._query(f"SELECT id, content_hash, metadata FROM texts WHERE id IN ({marks})", *chosen)
            found.update({name: StoredText(*rest) for name, *rest in records})
        return found

    def check(self) -> None:
        """Read the whole file.

        Raises:
            ArtifactError: If SQLite finds damage, or a row lacks its text.
        """
        [(answer,), *_] = self._query("PRAGMA integrity_check(1)")
        if answer != "ok":
            raise ArtifactError(f"{self._path} is damaged ({answer}): build the index again")
        lost = self._query("SELECT COUNT(*) FROM items WHERE source NOT IN (SELECT number FROM texts)")[0][0]
        if lost:
            raise ArtifactError(f"{self._path} has {lost} rows without a text: build the index again")

    def search_text(self, query: str, *, k: int, among: Numbers | None = None) -> list[tuple[int, float]]:
        """Find the k rows that answer a query's words best, by BM25 (Robertson et al. 1994; k1 1.2, b 0.75, as FTS5).

        Words that do grammar's work are left out where others are given, and words that occur in very many rows
        where rarer ones are given: see ``fulltext.MAX_POSTINGS``.

        Args:
            query: Any text; nothing in it is syntax.
            k: Rows wanted, at least 1.
            among: The rows that may be found; the frequency of a word is that among all rows.

        Returns:
            Numbers with their BM25, above 0, best first, equal ones by number; rows without any of the words are none.
        """
        count = "SELECT COUNT(*) FROM (SELECT 1 FROM words WHERE words MATCH ? LIMIT ?)"
        limit = fulltext.MAX_POSTINGS + 1
        words = fulltext.query_words(query)
        counts = {word: self._query(count, fulltext.phrase(word), limit)[0][0] for word in words}
        chosen = fulltext.affordable(counts)
        if not chosen:
            return []
        sql = "SELECT rowid, -rank AS score FROM words WHERE words MATCH ?"
        values: list[Scalar] = [fulltext.any_of(chosen)]
        if among is not None:  # the plus keeps SQLite from a search of its own for each of these rows
            sql += " AND +rowid IN (SELECT value FROM json_each(?))"
            values.append(json.dumps(among.tolist()))
        found = self._query(f"{sql} ORDER BY score DESC, rowid LIMIT ?", *values, k)
        return [(number, float(score)) for number, score in found]

    def close(self) -> None:
        """Release the file."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _check_schema(self) -> None:
        version = self._query("PRAGMA user_version")[0][0]
        if version not in (PLAIN_VERSION, SCHEMA_VERSION):
            raise ArtifactError(
                f"{self._path} has schema version {version}, this ctxembed reads {SCHEMA_VERSION}: "
                "use the ctxembed that wrote it, or build the index again"
            )
        self._query(f"{_SELECT} LIMIT 1")
        if version == SCHEMA_VERSION:
            self.indexed = dict(self._query("SELECT name, number FROM columns"))

    def _query(self, sql: str, *values: Scalar) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise ArtifactError(f"{self._path} is damaged or no store ({error}): build the index again") from error

    def _numbers(self, sql: str, *values: Scalar) -> Numbers:
        try:
            return np.fromiter((number for (number,) in self._connection.execute(sql, values)), dtype=np.int64)
        except sqlite3.Error as error:
            raise ArtifactError(f"{self._path} is damaged or no store ({error}): build the index again") from error


def _stored(record: tuple[Any, ...]) -> StoredRow:
    number, name, text, start, end, metadata = record
    return StoredRow(number, Row(name, text, start, end, json.loads(metadata)))

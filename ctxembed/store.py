"""The rows behind an index, by number: ids, texts, spans and metadata in one SQLite file."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ctxembed import fulltext
from ctxembed.errors import ArtifactError, InvalidInputError
from ctxembed.filters import Filter
from ctxembed.runtime import existing
from ctxembed.types import Scalar
from ctxembed.vectors import Row

OnDuplicate: TypeAlias = Literal["error", "skip"]

SCHEMA_VERSION = 2
_SCHEMA = """
CREATE TABLE rows (
    number INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, text TEXT NOT NULL, "start" INTEGER, "end" INTEGER,
    metadata TEXT NOT NULL, content_hash TEXT NOT NULL
)"""
_INSERT = "INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING"
_SELECT = 'SELECT number, id, text, "start", "end", metadata FROM rows'


@dataclass(frozen=True, slots=True)
class StoredRow:
    """A row and the number under which the index knows its vector."""

    number: int
    row: Row


class DocumentStore:
    """Rows with unique ids in a file that is built once and read often; memory stays bounded."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection
        self.num_skipped = 0
        """Rows that ``add`` left out because their id was taken."""

    @classmethod
    def create(cls, path: str | Path) -> Self:
        """Make an empty store.

        The file is not safe against a power cut while it is being built: sync it before relying on it.

        Raises:
            InvalidInputError: If something is there already.
            MissingInputError: If the folder does not exist.
        """
        path = Path(path)
        existing(path.parent)
        if path.exists():
            raise InvalidInputError(f"{path} exists: delete it, or choose another path")
        connection = sqlite3.connect(path, isolation_level=None)
        # Only a finished file is ever read, so nothing is lost by not syncing each step; undoing needs a journal still.
        for pragma in ("journal_mode = MEMORY", "synchronous = OFF", "cache_size = -65536"):
            connection.execute(f"PRAGMA {pragma}")
        for statement in (_SCHEMA, *fulltext.SCHEMA):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        return cls(path, connection)

    @classmethod
    def open(cls, path: str | Path, *, readonly: bool = True) -> Self:
        """Open a store.

        Args:
            path: A file that ``create`` made.
            readonly: Neither write nor lock, so that a read-only medium will do.

        Raises:
            MissingInputError: If there is no such file.
            ArtifactError: If it is no store, damaged, or of another schema version.
        """
        path = existing(path)
        mode = "mode=ro&immutable=1" if readonly else "mode=rw"
        try:
            connection = sqlite3.connect(f"{path.resolve().as_uri()}?{mode}", uri=True, isolation_level=None)
        except sqlite3.Error as error:
            raise ArtifactError(f"{path} cannot be opened ({error}): build the index again") from error
        store = cls(path, connection)
        try:
            store._check_schema()
        except ArtifactError:
            store.close()
            raise
        return store

    def __len__(self) -> int:
        return int(self._query("SELECT COUNT(*) FROM rows")[0][0])

    def add(self, rows: Sequence[Row], *, first_number: int, on_duplicate: OnDuplicate = "error") -> NDArray[np.int64]:
        """Add rows in one transaction: row i gets the number ``first_number + i``.

        Args:
            rows: N rows; none is allowed.
            first_number: 0 or more, and above every number in the store.
            on_duplicate: What to do with an id that is taken: refuse all N rows, or skip and count that one.

        Returns:
            int64 numbers of the rows that were added, ascending; less ``first_number`` they are places in ``rows``.

        Raises:
            InvalidInputError: If an id occurs twice, or a row cannot be stored.
        """
        last = self._query("SELECT MAX(number) FROM rows")[0][0]
        lowest = 0 if last is None else last + 1
        if first_number < lowest:
            raise InvalidInputError(f"first_number is {first_number}, need {lowest} or more: smaller ones are taken")
        with self._transaction():
            self._insert(rows, first_number)
            found = self._query("SELECT number FROM rows WHERE number >= ? ORDER BY number", first_number)
            added = np.fromiter((number for (number,) in found), dtype=np.int64, count=len(found))
            if len(added) < len(rows) and on_duplicate == "error":
                missing = np.setdiff1d(np.arange(len(rows)), added - first_number)
                raise InvalidInputError(f"id {rows[missing[0]].id!r} occurs twice: --on-duplicate skip keeps the first")
        self.num_skipped += len(rows) - len(added)
        return added

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
        records = self._query(f"{_SELECT} WHERE id = ?", id)
        if not records:
            raise InvalidInputError(f"no row has the id {id!r}: ids are matched exactly, check the spelling")
        return _stored(records[0])

    def select(self, where: Filter, *, among: Iterable[int] | None = None) -> NDArray[np.int64]:
        """Return the numbers of the rows that satisfy a condition, ascending; of some rows only, if they are named."""
        condition, values = where.sql()
        sql = f"SELECT number FROM rows WHERE ({condition})"
        if among is not None:
            sql += " AND number IN (SELECT value FROM json_each(?))"
            values = [*values, json.dumps([int(number) for number in among])]
        found = self._query(f"{sql} ORDER BY number", *values)
        return np.fromiter((number for (number,) in found), dtype=np.int64, count=len(found))

    def optimize(self) -> None:
        """Merge the parts of the full text, so that a search reads one."""
        self._connection.execute(fulltext.OPTIMIZE)

    def search_text(self, query: str, *, k: int, where: Filter | None = None) -> list[tuple[int, float]]:
        """Find the k rows that answer a query's words best, by BM25 (Robertson et al. 1994; k1 1.2, b 0.75, as FTS5).

        Words that do grammar's work are left out where others are given, and words that occur in very many rows
        where rarer ones are given: see ``fulltext.MAX_POSTINGS``.

        Args:
            query: Any text; nothing in it is syntax.
            k: Rows wanted, at least 1.
            where: A condition on the rows; the frequency of a word is that among all rows.

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
        condition, values = where.sql() if where else ("TRUE", ())
        found = self._query(
            "SELECT rowid, -rank FROM words WHERE words MATCH ? AND EXISTS "
            f"(SELECT 1 FROM rows WHERE rows.number = words.rowid AND ({condition})) ORDER BY rank, rowid LIMIT ?",
            fulltext.any_of(chosen),
            *values,
            k,
        )
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
        if version != SCHEMA_VERSION:
            raise ArtifactError(
                f"{self._path} has schema version {version}, this ctxembed reads {SCHEMA_VERSION}: "
                "use the ctxembed that wrote it, or build the index again"
            )
        self._query(f"{_SELECT} LIMIT 1")

    def _query(self, sql: str, *values: Scalar) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise ArtifactError(f"{self._path} is damaged or no store ({error}): build the index again") from error

    def _insert(self, rows: Sequence[Row], first_number: int) -> None:
        records = (_record(number, row) for number, row in enumerate(rows, start=first_number))
        try:
            self._connection.executemany(_INSERT, records)
        except (sqlite3.Error, UnicodeEncodeError, TypeError) as error:
            raise InvalidInputError(
                f"a row between {rows[0].id!r} and {rows[-1].id!r} cannot be stored ({error}): "
                "texts must be valid Unicode, metadata plain values, and the file writable"
            ) from error

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")


def _record(number: int, row: Row) -> tuple[int, str, str, int | None, int | None, str, str]:
    metadata = json.dumps(dict(row.metadata), ensure_ascii=False)
    return number, row.id, row.text, row.start, row.end, metadata, row.content_hash


def _stored(record: tuple[Any, ...]) -> StoredRow:
    number, name, text, start, end, metadata = record
    return StoredRow(number, Row(name, text, start, end, json.loads(metadata)))

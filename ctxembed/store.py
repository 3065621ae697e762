"""The rows behind an index, by number: ids, texts, spans and metadata in one SQLite file.

A text stands there once, however many of its words are rows: the table ``texts`` holds what was read, ``items`` what
has a vector, and the view ``rows`` puts them together. The row of a word in the text ``t1`` has the id ``t1#4-8``,
which is not stored either. Numbers that were deleted stay in ``deleted`` until the index is compacted: they are the
vectors that may no longer be found.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias

import numpy as np

from ctxembed import fulltext
from ctxembed.errors import ArtifactError, InvalidInputError
from ctxembed.filters import can_be_named, generated_columns
from ctxembed.runtime import existing
from ctxembed.store_files import Appending, connect, log_of, open_to_read, reading_uri
from ctxembed.store_reader import PLAIN_VERSION, SCHEMA_VERSION, Numbers, StoredRow, StoredText, StoreReader
from ctxembed.text import word_form
from ctxembed.types import Scalar
from ctxembed.vectors import Row

OnDuplicate: TypeAlias = Literal["error", "skip"]

__all__ = [
    "DocumentStore",
    "Numbers",
    "OnDuplicate",
    "StoredRow",
    "StoredText",
    "by_text",
    "content_hash",
    "metadata_json",
    "text_id",
]

_SCHEMA = """
CREATE TABLE texts (
    number INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, text TEXT NOT NULL, metadata TEXT NOT NULL,
    content_hash INTEGER NOT NULL
);
CREATE TABLE items (
    number INTEGER PRIMARY KEY, source INTEGER NOT NULL, "start" INTEGER, "end" INTEGER, derived INTEGER NOT NULL,
    word TEXT
);
CREATE TABLE columns (number INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL);
CREATE INDEX items_by_source ON items (source);
CREATE INDEX items_by_word ON items (word) WHERE word IS NOT NULL;
CREATE TABLE deleted (number INTEGER PRIMARY KEY);
"""
_VIEW = """
CREATE VIEW rows AS
    SELECT items.number AS number,
        CASE WHEN derived THEN texts.id || '#' || "start" || '-' || "end" ELSE texts.id END AS id,
        text, word, "start", "end", metadata{columns}
    FROM items JOIN texts ON texts.number = items.source;
"""
_TEXT = "number, id, text, metadata, content_hash"
MAX_COLUMNS = 64
"""Metadata columns that are indexed at most: those that come first; conditions on others read every row."""


def content_hash(text: str) -> int:
    """Return 64 bits, signed as SQLite has them, that change when a text does."""
    return int.from_bytes(bytes.fromhex(Row("", text).content_hash), "big", signed=True)


def metadata_json(metadata: Mapping[str, Scalar]) -> str:
    """Return metadata as it is stored."""
    return json.dumps(dict(metadata), ensure_ascii=False)


class DocumentStore(StoreReader):
    """Rows with unique ids in one file; memory stays bounded."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        super().__init__(path, connection)
        self._met: set[str] = set()  # metadata columns of the rows that were added
        self._appending: Appending | None = None

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
        store = cls(path, connect(path.resolve().as_uri()))
        store._prepare_writing()
        for statement in (_SCHEMA, _VIEW.format(columns=""), *fulltext.SCHEMA):
            store._connection.executescript(statement)
        store._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        return store

    @classmethod
    def open(cls, path: str | Path, *, readonly: bool = True, log: bool = False) -> Self:
        """Open a store.

        Args:
            path: A file that ``create`` made.
            readonly: Neither write nor lock, so that a read-only medium will do.
            log: There is a log beside the file, or, to write, there is to be one: the file itself stays as it is.
                A log that is there becomes part of the file when this is off and the store is written.

        Raises:
            MissingInputError: If there is no such file.
            ArtifactError: If it is no store, damaged, or of another schema version.
        """
        path = existing(path)
        appending = None
        try:
            if not readonly and log:
                appending = Appending.open(path)
                connection = appending.connection
            else:
                uri = f"{path.resolve().as_uri()}?mode=rw"
                connection = open_to_read(path, log=log) if readonly else connect(uri)
        except sqlite3.Error as error:
            raise ArtifactError(f"{path} cannot be opened ({error}): build the index again") from error
        store = cls(path, connection)
        store._appending = appending
        try:
            store._check_schema()
            if not readonly:
                store._prepare_writing()
                store._bring_up_to_date()
        except ArtifactError:
            store.close()
            raise
        return store

    def close(self) -> None:
        """Release the file."""
        if self._appending is not None:
            self._appending.close()
        super().close()

    def seal(self) -> None:
        """Finish a file that was written, so that later changes may go to a log beside it."""
        if self._appending is None:
            self._query("PRAGMA journal_mode = WAL")

    def add(self, rows: Sequence[Row], *, on_duplicate: OnDuplicate = "error") -> Numbers:
        """Add rows in one transaction; they get the next numbers, without gaps.

        The rows of words come text by text, in reading order, and all rows of a text at once.

        Args:
            rows: N rows; none is allowed.
            on_duplicate: What to do with an id that is taken: refuse all N rows, or skip and count that one.

        Returns:
            int64 places in ``rows`` of those that were added, ascending.

        Raises:
            InvalidInputError: If an id occurs twice, or a row cannot be stored.
        """
        groups = list(by_text(rows))
        with self._transaction():
            first = self._next("texts")
            self._write(
                f"INSERT INTO texts ({_TEXT}) VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
                (_text_record(first + n, group, rows) for n, group in enumerate(groups)),
                rows,
            )
            there = {number - first for (number,) in self._query("SELECT number FROM texts WHERE number >= ?", first)}
            if len(there) < len(groups) and on_duplicate == "error":
                taken = next(group for n, group in enumerate(groups) if n not in there)
                raise InvalidInputError(
                    f"id {rows[taken.start].id!r} occurs twice: leave one out, or let `index build` or `index add` "
                    "keep the first with --on-duplicate skip"
                )
            kept = [(first + n, place) for n, group in enumerate(groups) if n in there for place in group]
            number = self.next_number()
            self._write(
                "INSERT INTO items VALUES (?, ?, ?, ?, ?, ?)",
                (_item_record(number + n, source, rows[place]) for n, (source, place) in enumerate(kept)),
                rows,
            )
        self._met.update(*(row.metadata for row in rows))
        self.num_skipped += len(rows) - len(kept)
        self.num_skipped_texts += len(groups) - len(there)
        return np.array([place for _, place in kept], dtype=np.int64)

    def next_number(self) -> int:
        """Return the number that the next row gets: as many as were ever given since the last compaction."""
        return max(self._next("items"), self._next("deleted"))

    def delete(self, numbers: Numbers) -> int:
        """Delete rows, and texts that have no row left; return how many rows there were."""
        with self._transaction():
            self._connection.execute("CREATE TEMP TABLE doomed (number INTEGER PRIMARY KEY, source INTEGER)")
            self._connection.executemany(
                "INSERT OR IGNORE INTO doomed SELECT number, source FROM items WHERE number = ?",
                ((int(number),) for number in numbers),
            )
            count = int(self._query("SELECT COUNT(*) FROM doomed")[0][0])
            for statement in (
                "INSERT INTO deleted SELECT number FROM doomed",
                "DELETE FROM items WHERE number IN (SELECT number FROM doomed)",
                "DELETE FROM texts WHERE number IN (SELECT source FROM doomed)"
                " AND number NOT IN (SELECT source FROM items WHERE source IN (SELECT source FROM doomed))",
                "DROP TABLE doomed",
            ):
                self._connection.execute(statement)
        return count

    def set_metadata(self, changes: Iterable[tuple[str, str]]) -> None:
        """Replace the metadata of texts: (JSON, id) each."""
        with self._transaction():
            for metadata, name in changes:
                self._connection.execute("UPDATE texts SET metadata = ? WHERE id = ?", (metadata, name))
                self._met.update(json.loads(metadata))

    def compact_into(self, path: Path) -> None:
        """Write the rows to a new store, numbered from 0 in the same order, without what was deleted."""
        log = log_of(self._path).exists()
        with self.create(path) as compacted:  # the new one is what is written to: its journal is in memory
            try:
                compacted._connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # of what is attached, too
                compacted._connection.execute("ATTACH ? AS old", (reading_uri(self._path, log=log),))
                with compacted._transaction():
                    compacted._connection.execute(
                        f"INSERT INTO texts ({_TEXT}) SELECT {_TEXT} FROM old.texts ORDER BY number"
                    )
                    compacted._connection.execute(
                        "INSERT INTO main.items SELECT ROW_NUMBER() OVER (ORDER BY number) - 1, source, "
                        '"start", "end", derived, word FROM old.items ORDER BY number'
                    )
                compacted._connection.execute("DETACH old")
            except sqlite3.Error as error:
                raise ArtifactError(f"{self._path} cannot be compacted ({error})") from error
            compacted._met.update(compacted.columns())
            compacted.index_columns()
            compacted.optimize()
            compacted.seal()

    def optimize(self) -> None:
        """Merge the parts of the full text, so that a search reads one."""
        self._connection.execute(fulltext.OPTIMIZE)

    def index_columns(self) -> None:
        """Index the metadata columns of the rows that were added; from then on SQLite keeps their indexes itself."""
        new = sorted(name for name in self._met - self.indexed.keys() if can_be_named(name))
        numbers = range(len(self.indexed), MAX_COLUMNS)
        with self._transaction():
            for name, number in zip(new, numbers, strict=False):
                self._connection.execute("INSERT INTO columns VALUES (?, ?)", (number, name))
                for column, expression in generated_columns(name, number).items():
                    self._connection.execute(f"ALTER TABLE texts ADD COLUMN {column} AS ({expression})")
                    self._connection.execute(
                        f"CREATE INDEX texts_by_{column} ON texts ({column}) WHERE {column} IS NOT NULL"
                    )
                self.indexed[name] = number
            if new:
                columns = [f", {each}" for name, n in self.indexed.items() for each in generated_columns(name, n)]
                self._connection.execute("DROP VIEW rows")
                self._connection.execute(_VIEW.format(columns="".join(columns)))

    def _bring_up_to_date(self) -> None:
        """Give a store of the version before its indexed columns."""
        if self._query("PRAGMA user_version")[0][0] == PLAIN_VERSION:
            self._connection.execute("CREATE TABLE columns (number INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL)")
            self._met.update(self.columns())
            self.index_columns()
            self._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _prepare_writing(self) -> None:
        # Only a finished file is ever read, so nothing is lost by not syncing each step; undoing needs a journal still.
        journal = () if self._appending else ("journal_mode = MEMORY",)
        for pragma in (*journal, "synchronous = OFF", "cache_size = -65536", "secure_delete = ON"):
            self._connection.execute(f"PRAGMA {pragma}")

    def _next(self, table: str) -> int:
        last = self._query(f"SELECT MAX(number) FROM {table}")[0][0]
        return 0 if last is None else int(last) + 1

    def _write(self, sql: str, records: Iterator[tuple[Any, ...]], rows: Sequence[Row]) -> None:
        try:
            self._connection.executemany(sql, records)
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
            self._connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # a full disk has rolled it back already
                self._connection.execute("ROLLBACK")
            raise


def text_id(row: Row) -> str:
    """Return the id of the text that a row stands in."""
    return row.id.removesuffix(f"#{row.start}-{row.end}") if row.start is not None else row.id


def by_text(rows: Sequence[Row]) -> Iterator[range]:
    """Yield the places of rows that share a text: neighbours with the same one, each further on in it."""
    start = 0
    for place, (row, following) in enumerate(itertools.pairwise([*rows, None])):
        if row is None:  # never: only the last of the list is None
            continue
        if following is not None and row.start is not None and following.start is not None:
            spans = (row.start, row.end or 0) < (following.start, following.end or 0)
            derived = text_id(row) != row.id and text_id(following) != following.id
            if spans and derived and text_id(row) == text_id(following) and row.text == following.text:
                continue
        yield range(start, place + 1)
        start = place + 1


def _text_record(number: int, places: range, rows: Sequence[Row]) -> tuple[int, str, str, str, int]:
    row = rows[places.start]
    return number, text_id(row), row.text, metadata_json(row.metadata), content_hash(row.text)


def _item_record(number: int, source: int, row: Row) -> tuple[int, int, int | None, int | None, bool, str | None]:
    word = None if row.start is None else word_form(row.text[row.start : row.end])
    return number, source, row.start, row.end, text_id(row) != row.id, word

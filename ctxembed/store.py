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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ctxembed import fulltext
from ctxembed.errors import ArtifactError, InvalidInputError
from ctxembed.filters import Filter
from ctxembed.runtime import existing
from ctxembed.text import word_form
from ctxembed.types import Scalar
from ctxembed.vectors import Row

OnDuplicate: TypeAlias = Literal["error", "skip"]
Numbers: TypeAlias = NDArray[np.int64]

SCHEMA_VERSION = 2
_SCHEMA = """
CREATE TABLE texts (
    number INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, text TEXT NOT NULL, metadata TEXT NOT NULL,
    content_hash INTEGER NOT NULL
);
CREATE TABLE items (
    number INTEGER PRIMARY KEY, source INTEGER NOT NULL, "start" INTEGER, "end" INTEGER, derived INTEGER NOT NULL,
    word TEXT
);
CREATE INDEX items_by_source ON items (source);
CREATE INDEX items_by_word ON items (word) WHERE word IS NOT NULL;
CREATE TABLE deleted (number INTEGER PRIMARY KEY);
CREATE VIEW rows AS
    SELECT items.number AS number,
        CASE WHEN derived THEN texts.id || '#' || "start" || '-' || "end" ELSE texts.id END AS id,
        text, word, "start", "end", metadata
    FROM items JOIN texts ON texts.number = items.source;
"""
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


def content_hash(text: str) -> int:
    """Return 64 bits, signed as SQLite has them, that change when a text does."""
    return int.from_bytes(bytes.fromhex(Row("", text).content_hash), "big", signed=True)


def metadata_json(metadata: Mapping[str, Scalar]) -> str:
    """Return metadata as it is stored."""
    return json.dumps(dict(metadata), ensure_ascii=False)


class DocumentStore:
    """Rows with unique ids in one file; memory stays bounded."""

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
        store = cls(path, sqlite3.connect(path, isolation_level=None))
        store._prepare_writing()
        store._connection.executescript(_SCHEMA + fulltext.SCHEMA)
        store._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        return store

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
            if not readonly:
                store._prepare_writing()
        except ArtifactError:
            store.close()
            raise
        return store

    def __len__(self) -> int:
        return int(self._query("SELECT COUNT(*) FROM items")[0][0])

    # Reading

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
        return self._numbers(
            "SELECT items.number FROM items JOIN texts ON texts.number = source "
            'WHERE id = ? AND derived AND "start" = ? AND "end" = ?',
            name, int(start), int(end),
        )  # fmt: skip

    def matching(self, condition: Filter, *, among: Iterable[int] | None = None) -> Numbers:
        """Return the numbers of the rows that a condition holds for, ascending; of some only, if they are named."""
        sql, values = condition.sql()
        if among is None:
            return self._numbers(f"SELECT number FROM rows WHERE {sql} ORDER BY number", *values)
        return self._numbers(
            f"SELECT number FROM rows WHERE number IN (SELECT value FROM json_each(?)) AND ({sql}) ORDER BY number",
            json.dumps([int(number) for number in among]),
            *values,
        )

    def search_text(self, query: str, *, k: int, where: Filter | None = None) -> list[tuple[int, float]]:
        """Find the k rows that answer a query's words best, by BM25 (Robertson et al. 1994; k1 1.2, b 0.75, as FTS5).

        Words that do grammar's work are left out where others are given, and words that occur in very many texts
        where rarer ones are given: see ``fulltext.MAX_POSTINGS``.

        Args:
            query: Any text; nothing in it is syntax.
            k: Rows wanted, at least 1.
            where: A condition on the rows; the frequency of a word is that among all texts.

        Returns:
            Numbers with their BM25, above 0, best first, equal ones by number; rows without any of the words are none.
        """
        return fulltext.ranked(self._query, query, k=k, where=where)

    def optimize(self) -> None:
        """Merge the parts of the full text, so that a search reads one."""
        self._connection.execute(fulltext.OPTIMIZE)

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

    # Writing

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
        groups = list(_by_text(rows))
        with self._transaction():
            first = self._next("texts")
            self._write(
                "INSERT INTO texts VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
                (_text_record(first + n, group, rows) for n, group in enumerate(groups)),
                rows,
            )
            there = {number - first for (number,) in self._query("SELECT number FROM texts WHERE number >= ?", first)}
            if len(there) < len(groups) and on_duplicate == "error":
                taken = next(group for n, group in enumerate(groups) if n not in there)
                raise InvalidInputError(
                    f"id {rows[taken.start].id!r} occurs twice: --on-duplicate skip keeps the first"
                )
            kept = [(first + n, place) for n, group in enumerate(groups) if n in there for place in group]
            number = self.next_number()
            self._write(
                "INSERT INTO items VALUES (?, ?, ?, ?, ?, ?)",
                (_item_record(number + n, source, rows[place]) for n, (source, place) in enumerate(kept)),
                rows,
            )
        self.num_skipped += len(rows) - len(kept)
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
                fulltext.OPTIMIZE,  # the words of deleted texts would stay in its older parts
            ):
                self._connection.execute(statement)
        return count

    def set_metadata(self, changes: Iterable[tuple[str, str]]) -> None:
        """Replace the metadata of texts: (JSON, id) each."""
        with self._transaction():
            self._connection.executemany("UPDATE texts SET metadata = ? WHERE id = ?", changes)

    def compact_into(self, path: Path) -> None:
        """Write the rows to a new store, numbered from 0 in the same order, without what was deleted."""
        self.create(path).close()
        try:
            self._connection.execute("ATTACH ? AS compacted", (str(path),))
            with self._transaction():
                self._connection.execute("INSERT INTO compacted.texts SELECT * FROM main.texts ORDER BY number")
                self._connection.execute(
                    "INSERT INTO compacted.items SELECT ROW_NUMBER() OVER (ORDER BY number) - 1, source, "
                    '"start", "end", derived, word FROM main.items ORDER BY number'
                )
            self._connection.execute("DETACH compacted")
        except sqlite3.Error as error:
            raise ArtifactError(f"{self._path} cannot be compacted ({error})") from error

    def close(self) -> None:
        """Release the file."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _prepare_writing(self) -> None:
        # Only a finished file is ever read, so nothing is lost by not syncing each step; undoing needs a journal still.
        for pragma in ("journal_mode = MEMORY", "synchronous = OFF", "cache_size = -65536", "secure_delete = ON"):
            self._connection.execute(f"PRAGMA {pragma}")

    def _check_schema(self) -> None:
        version = self._query("PRAGMA user_version")[0][0]
        if version != SCHEMA_VERSION:
            raise ArtifactError(
                f"{self._path} has schema version {version}, this ctxembed reads {SCHEMA_VERSION}: "
                "use the ctxembed that wrote it, or build the index again"
            )
        self._query(f"{_SELECT} LIMIT 1")

    def _query(self, sql: str, *values: str | int | float) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise ArtifactError(f"{self._path} is damaged or no store ({error}): build the index again") from error

    def _numbers(self, sql: str, *values: str | int | float) -> Numbers:
        try:
            return np.fromiter((number for (number,) in self._connection.execute(sql, values)), dtype=np.int64)
        except sqlite3.Error as error:
            raise ArtifactError(f"{self._path} is damaged or no store ({error}): build the index again") from error

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


def _text_id(row: Row) -> str:
    """Return the id of the text that a row stands in."""
    return row.id.removesuffix(f"#{row.start}-{row.end}") if row.start is not None else row.id


def _by_text(rows: Sequence[Row]) -> Iterator[range]:
    """Yield the places of rows that share a text: neighbours with the same one, each further on in it."""
    start = 0
    for place, (row, following) in enumerate(itertools.pairwise([*rows, None])):
        if row is None:  # never: only the last of the list is None
            continue
        if following is not None and row.start is not None and following.start is not None:
            spans = (row.start, row.end or 0) < (following.start, following.end or 0)
            derived = _text_id(row) != row.id and _text_id(following) != following.id
            if spans and derived and _text_id(row) == _text_id(following) and row.text == following.text:
                continue
        yield range(start, place + 1)
        start = place + 1


def _text_record(number: int, places: range, rows: Sequence[Row]) -> tuple[int, str, str, str, int]:
    row = rows[places.start]
    return number, _text_id(row), row.text, metadata_json(row.metadata), content_hash(row.text)


def _item_record(number: int, source: int, row: Row) -> tuple[int, int, int | None, int | None, bool, str | None]:
    word = None if row.start is None else word_form(row.text[row.start : row.end])
    return number, source, row.start, row.end, _text_id(row) != row.id, word


def _stored(record: tuple[Any, ...]) -> StoredRow:
    number, name, text, start, end, metadata = record
    return StoredRow(number, Row(name, text, start, end, json.loads(metadata)))

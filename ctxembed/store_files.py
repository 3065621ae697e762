"""Opening a rows file: as it is, with a log of later changes beside it, or to be written.

A file that the rows files of several generations share (hard links) is never written again. What changes goes to a file
``...-wal`` beside each name, which is SQLite's write-ahead log: pages in the place of those of the file. SQLite would
carry a log over into its file when the last connection closes; here none that could write is ever the last.
"""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import dataclass
from pathlib import Path

LOG, SHARED_MEMORY = "-wal", "-shm"


def log_of(path: Path) -> Path:
    """Return where the log of a rows file stands."""
    return path.with_name(path.name + LOG)


def can_have_log(path: Path) -> bool:
    """Tell whether a rows file was finished by ``DocumentStore.seal``: bytes 18 and 19 say that a log is looked for."""
    with path.open("rb") as stream:
        return stream.read(20)[18:] == b"\x02\x02"


def reading_uri(path: Path, *, log: bool) -> str:
    """Return the address under which a file is only read: nothing is written beside it, and nothing locked."""
    how = "vfs=unix-none" if log else "immutable=1"  # an immutable file has no log for SQLite
    return f"{path.resolve().as_uri()}?mode=ro&{how}"


def connect(uri: str) -> sqlite3.Connection:
    """Connect without transactions of Python's own."""
    return sqlite3.connect(uri, uri=True, isolation_level=None)


def open_to_read(path: Path, *, log: bool) -> sqlite3.Connection:
    """Open a file, with its log or without."""
    connection = connect(reading_uri(path, log=log))
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # keeps the table of the log's pages in this process
    return connection


@dataclass(frozen=True)
class Appending:
    """A connection that changes the log of a file, and one beside it that keeps SQLite from touching the file."""

    path: Path
    connection: sqlite3.Connection
    guard: sqlite3.Connection

    @classmethod
    def open(cls, path: Path) -> Appending:
        """Open a file of which ``can_have_log`` holds; sqlite3.Error if that fails."""
        address = path.resolve().as_uri()
        guard = connect(f"{address}?mode=ro")
        guard.execute("SELECT COUNT(*) FROM sqlite_schema").fetchall()  # from now on it holds a lock
        connection = connect(f"{address}?mode=rw")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        return cls(path, connection, guard)

    def close(self) -> None:
        """Close both, the reading one last: it cannot carry the log over."""
        self.connection.close()
        with contextlib.suppress(sqlite3.Error):
            self.guard.close()
        self.path.with_name(self.path.name + SHARED_MEMORY).unlink(missing_ok=True)

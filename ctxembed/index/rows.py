"""The rows file of the next generation: a copy of the present one, or the same file with a log of what changes.

Copying costs time in proportion to all rows, a log in proportion to the change. A log is copied and made longer by each
change, and becomes part of a copied file when it has grown.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path
from typing import NamedTuple

from ctxembed.index.manifest import IndexManifest
from ctxembed.index.records import IndexFile
from ctxembed.store import DocumentStore
from ctxembed.store_files import LOG, SHARED_MEMORY, can_have_log, log_of

COPIED_BYTES = 16 * 2**20
"""A rows file of no more bytes is copied by every change."""
LOG_BYTES = 16 * 2**20
"""A log that has grown beyond so many bytes is made part of the file by the next change."""
LOGGED_SHARE = 0.02
"""Of all rows: a change of more of them is written to a copy."""


class RowsFiles(NamedTuple):
    """The rows of one generation, as its manifest knows them."""

    rows_file: IndexFile
    rows_log: IndexFile | None


def rows_path(path: Path, generation: int) -> Path:
    """Return where the rows of a generation stand."""
    return path / f"rows.{generation}.sqlite"


def open_next(path: Path, manifest: IndexManifest, *, touched: int) -> DocumentStore:
    """Prepare the rows of the next generation and open them to be changed.

    Args:
        path: The index.
        manifest: That of the present generation; nothing of the next one is there.
        touched: Rows that will change, roughly.
    """
    old, new = path / manifest.rows_file.name, rows_path(path, manifest.generation + 1)
    log = manifest.rows_log
    small = manifest.rows_file.bytes <= COPIED_BYTES or touched > LOGGED_SHARE * manifest.rows
    shared = not small and (log is None or log.bytes <= LOG_BYTES) and can_have_log(old) and _linked(old, new)
    if not shared:
        shutil.copyfile(old, new)
    if log is not None:
        shutil.copyfile(log_of(old), log_of(new))
    return DocumentStore.open(new, readonly=False, log=shared)


def finished(path: Path, manifest: IndexManifest) -> RowsFiles:
    """Flush the rows of the next generation, which were closed, to the disk and describe them."""
    new = rows_path(path, manifest.generation + 1)
    if not log_of(new).exists():
        return RowsFiles(IndexFile.flushed(new), None)
    return RowsFiles(dataclasses.replace(manifest.rows_file, name=new.name), IndexFile.flushed(log_of(new)))


def names_of(generation: int) -> tuple[str, ...]:
    """Return the names of all files that the rows of a generation may have."""
    name = rows_path(Path(), generation).name
    return name, name + LOG, name + SHARED_MEMORY


def _linked(old: Path, new: Path) -> bool:
    try:
        os.link(old, new)
    except OSError:  # a file system without hard links
        return False
    return True

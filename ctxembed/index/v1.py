"""Reading an index of format 1 (one exact FAISS index, a text a row), so that it can be brought to the present one."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ctxembed.errors import ArtifactError
from ctxembed.index.files import BLOCK_ROWS, open_faiss
from ctxembed.index.records import IndexFile
from ctxembed.types import Vectors
from ctxembed.vectors import MANIFEST, Row

_SELECT = 'SELECT number, id, text, "start", "end", metadata FROM rows WHERE number > ? ORDER BY number LIMIT ?'


def read_v1(path: Path) -> tuple[dict[str, Any], int, Iterator[tuple[list[Row], Vectors]]]:
    """Open an index of format 1.

    Returns:
        Settings (model, fingerprint and unit), the width D, and its rows with their vectors.

    Raises:
        ArtifactError: If a file is damaged or missing.
    """
    record = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    try:
        files = {role: IndexFile(**record["files"][role]) for role in ("index", "rows")}
        for file in files.values():
            file.check(path, hashes=True)
        settings = {"unit": record["unit"]}
        if record["model"]:
            settings |= {"model": record["model"]["name"], "fingerprint": record["model"]["fingerprint"]}
        return settings, record["dimension"], _parts(path / files["index"].name, path / files["rows"].name)
    except (KeyError, TypeError, FileNotFoundError) as error:
        raise ArtifactError(f"{path} is damaged ({error!r}): build the index again") from error


def generation_v1(path: Path) -> int:
    """Return the generation of an index of format 1; ArtifactError if its manifest has none."""
    try:
        return int(json.loads((path / MANIFEST).read_text(encoding="utf-8"))["generation"])
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path / MANIFEST} is damaged ({error!r}): build the index again") from error


def _parts(index_path: Path, rows_path: Path) -> Iterator[tuple[list[Row], Vectors]]:
    import faiss

    index = open_faiss(index_path, 0)
    ids = faiss.vector_to_array(index.id_map)
    flat = faiss.downcast_index(index.index)
    places = {int(number): place for place, number in enumerate(ids)}
    connection = sqlite3.connect(f"{rows_path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
    try:
        last = -1
        while records := connection.execute(_SELECT, (last, BLOCK_ROWS)).fetchall():
            last = records[-1][0]
            rows = [Row(name, text, start, end, json.loads(more)) for _, name, text, start, end, more in records]
            chosen = np.array([places[record[0]] for record in records], dtype=np.int64)
            yield rows, flat.reconstruct_batch(chosen)
    finally:
        connection.close()

"""Rows with their vectors in one Parquet file, for other tools; it is there when it is whole, and only then."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ctxembed.errors import InvalidInputError
from ctxembed.runtime import atomic_path
from ctxembed.types import Vectors
from ctxembed.vector_writer import to_table
from ctxembed.vectors import Row, checked_vectors

GROUP_ROWS = 16_384
"""Most rows of a row group: what a reader holds in memory at a time."""
_COLUMNS = ("id", "text", "start", "end", "metadata")


@contextlib.contextmanager
def writing_table(
    path: str | Path, *, settings: Mapping[str, Any], dimension: int
) -> Iterator[Callable[[Sequence[Row], Vectors], None]]:
    """Write one file, a row group after the other; it is there when the block succeeds, and only then.

    Args:
        path: The file; its folder is made if needed.
        settings: What the vectors depend on; kept in the file's own metadata under ``ctxembed``, as JSON.
        dimension: The width D of every vector.

    Yields:
        A function to call with N rows and their vectors, float32 (N, D).

    Raises:
        InvalidInputError: If something is there already, or a row or vector cannot be stored.
        DiskFullError: If there is no room.
    """
    import pyarrow as pa
    import pyarrow.parquet

    path = Path(path)
    if path.exists():
        raise InvalidInputError(f"{path} exists: delete it, or choose another -o")
    vector = pa.list_(pa.field("element", pa.float32(), nullable=False), dimension)
    schema = to_table([]).select(_COLUMNS).schema.append(pa.field("vector", vector, nullable=False))
    schema = schema.with_metadata({"ctxembed": json.dumps(dict(settings))})
    with atomic_path(path) as temporary, pyarrow.parquet.ParquetWriter(temporary, schema, compression="zstd") as file:

        def append(rows: Sequence[Row], vectors: Vectors) -> None:
            values = pa.array(checked_vectors(vectors, dimension=dimension).reshape(-1))
            columns = [*to_table(rows).select(_COLUMNS).columns, pa.FixedSizeListArray.from_arrays(values, type=vector)]
            file.write_table(pa.table(columns, schema=schema), row_group_size=GROUP_ROWS)

        yield append

"""What happens when there is no room, made real by a limit on the size of files (EFBIG, as ENOSPC but for anybody)."""

from __future__ import annotations

import errno
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from ctxembed.errors import DiskFullError, InvalidInputError
from ctxembed.runtime import atomic_directory, atomic_path, disk_full, is_disk_full

LIMIT = 100_000

WRITERS = {
    "npy": "w = VectorWriter(path, settings={}, dimension=100, part_rows=1)\nw.append(rows, vectors, documents=[])",
    "parquet": "with writing_table(path, settings={}, dimension=100) as append:\n    append(rows, vectors)",
    "faiss": "VectorIndex.build(vectors, path=path)",
    "json": "write_json(path, ['x' * 100] * 2000)",
    "safetensors": (
        "with atomic_directory(path) as folder:\n    save_file({'x': vectors}, folder / 'model.safetensors')"
    ),
}
PROGRAM = """
import resource, sys
from pathlib import Path
import numpy as np
from safetensors.numpy import save_file
from ctxembed.errors import DiskFullError
from ctxembed.index import VectorIndex
from ctxembed.runtime import atomic_directory, write_json
from ctxembed.vector_table import writing_table
from ctxembed.vector_writer import VectorWriter
from ctxembed.vectors import Row

path = Path("out")
vectors = np.random.default_rng(1).standard_normal((1000, 100), dtype=np.float32)
rows = [Row(str(i), "") for i in range(1000)]
resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))
try:
    exec(sys.argv[1])
except DiskFullError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no limit on the size of files here")
@pytest.mark.parametrize("kind", WRITERS)
def test_every_writer_says_that_the_disk_is_full_and_leaves_nothing_half_written(tmp_path: Path, kind: str) -> None:
    program = PROGRAM.replace("LIMIT, LIMIT", f"{LIMIT}, {LIMIT}")
    done = subprocess.run(
        [sys.executable, "-c", program, WRITERS[kind]], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("the disk is full: out"), done.stderr
    assert "free some space and run the command again" in done.stdout
    left = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert left == (["manifest.json"] if kind == "npy" else [])  # of a folder that can be resumed


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "anything"),
        OSError(errno.EDQUOT, "anything"),
        OSError(errno.EFBIG, "anything"),
        sqlite3.OperationalError("database or disk is full"),
        RuntimeError("Error in write_index: write error in x: 0 != 4 (No space left on device)"),
        InvalidInputError("a row cannot be stored (database or disk is full)"),
    ],
)
def test_a_full_disk_is_known_by_its_number_or_its_words(tmp_path: Path, error: Exception) -> None:
    assert is_disk_full(error)
    for context in (atomic_path, atomic_directory):
        with (
            pytest.raises(DiskFullError, match=r"the disk is full: .*new could not be written"),
            context(tmp_path / "new"),
        ):
            raise error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "denied"), ValueError("wrong"), InvalidInputError("wrong")])
def test_other_errors_pass_unchanged(tmp_path: Path, error: Exception) -> None:
    assert not is_disk_full(error)
    with pytest.raises(type(error)) as raised, atomic_path(tmp_path / "new"):
        raise error
    assert raised.value is error


def test_the_reason_is_that_of_the_system() -> None:
    assert "(Disk quota exceeded)" in str(disk_full("x", OSError(errno.EDQUOT, "anything")))
    assert (disk_full("x", ValueError()).exit_code, isinstance(disk_full("x", ValueError()), OSError)) == (1, True)

"""What a manifest keeps of files and vector indexes: names, sizes, hashes, settings, measurements."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ctxembed.errors import ArtifactError
from ctxembed.index.kinds import Storage
from ctxembed.index.tuning import Measured
from ctxembed.runtime import sha256_file, synced


@dataclass(frozen=True, kw_only=True)
class IndexFile:
    """A file of an index, as the manifest knows it."""

    name: str
    bytes: int
    sha256: str

    @classmethod
    def describe(cls, path: Path) -> IndexFile:
        """Measure a file that is finished."""
        return cls(name=path.name, bytes=path.stat().st_size, sha256=sha256_file(path))

    @classmethod
    def flushed(cls, path: Path) -> IndexFile:
        """Flush a finished file to the disk and measure it."""
        synced(path)
        return cls.describe(path)

    def check(self, folder: Path, *, hashes: bool) -> None:
        """Compare a file with its record.

        Raises:
            FileNotFoundError: If it is not there.
            ArtifactError: If it has another size, or with ``hashes`` another sha256.
        """
        path = folder / self.name
        if (size := path.stat().st_size) != self.bytes:
            raise ArtifactError(f"{path} is damaged ({size} bytes, need {self.bytes}): build the index again")
        if hashes and sha256_file(path) != self.sha256:
            raise ArtifactError(f"{path} is damaged (its sha256 differs): build the index again")


@dataclass(frozen=True, kw_only=True)
class IndexRecord:
    """One vector index: what it is, how it is searched, what it reaches, and its files."""

    first: int
    """The number of its first row; rows are numbered without gaps."""
    rows: int
    dimension: int
    kind: str
    factory: str
    storage: Storage
    parameters: Mapping[str, int]
    """``nprobe``, ``efSearch`` and ``k_factor``, as far as the kind has them."""
    bytes_per_row: float
    """What searching keeps in memory; files that are only looked into do not count."""
    files: Mapping[str, IndexFile]
    """``vectors`` (exact), ``index`` (unless flat), ``ids`` (unless they are the row numbers)."""
    measured: Measured | None = field(default=None)
    """None for a flat index, which finds everything."""

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> IndexRecord:
        """Read a record; KeyError or TypeError if it is none."""
        values = dict(record)
        values["files"] = {role: IndexFile(**file) for role, file in values["files"].items()}
        values["measured"] = None if values["measured"] is None else Measured(**values["measured"])
        values["parameters"] = dict(values["parameters"])
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """Return the record as it stands on disk."""
        return dataclasses.asdict(self)

"""The manifest of an index folder: the one file whose replacement makes a change real.

Every other file carries its generation in its name and never changes afterwards. Rows are one SQLite file; a change
copies and then changes it, or, where that would take long, links it and writes a log beside it (``rows``). Vectors are
a list of vector indexes, of which a change adds one or replaces the last ones. So a reader that opened a generation
keeps it, whatever happens beside it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctxembed.calibration import Calibration
from ctxembed.errors import ArtifactError
from ctxembed.index.kinds import IndexOptions
from ctxembed.index.records import IndexFile, IndexRecord
from ctxembed.runtime import existing, synced, write_json
from ctxembed.vectors import MANIFEST, read_manifest

FORMAT = "ctxembed-index"
VERSION = 2
METRIC = "cosine"
BUILDING, ADDING = ".building", ".adding"
"""Where the vectors of a build or an addition wait until it is done."""

OWN_FILE = re.compile(r"(?:(?:index|vectors)\.\d+\.faiss|rows\.\d+\.sqlite(?:-journal|-wal|-shm)?)")
TEMPORARY = re.compile(r"\.(?:(?:index|vectors)\.\d+\.faiss|rows\.\d+\.sqlite|manifest\.json)\.\d+\.tmp")


@dataclass(frozen=True, kw_only=True)
class ModelRecord:
    """The model that made the vectors of an index."""

    name: str
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class IndexManifest:
    """What an index folder holds; ``model`` is None for vectors of unknown origin."""

    generation: int
    rows: int
    """Rows that can be found."""
    deleted: int
    """Vectors of rows that were deleted or replaced: never found, and gone with the next compaction."""
    dimension: int
    model: ModelRecord | None
    unit: str
    settings: Mapping[str, Any]
    """Those under which the vectors were made; see ``vectors.encoder_settings``."""
    options: IndexOptions
    """What was asked for; a compaction plans anew with it."""
    num_zero: int
    """Rows whose vector is zero (an empty text, or no known word): they are found with score 0 only."""
    num_skipped: int
    """Rows left out because their id was taken."""
    similarities: Calibration | None
    """How alike random pairs of rows are; None where fewer than two rows have a vector."""
    rows_file: IndexFile
    rows_log: IndexFile | None = None
    """What has changed in the rows since the file was written; SQLite reads both as one."""
    indexes: tuple[IndexRecord, ...]
    added: str | None = None
    """The sha256 of the manifest of the vectors that were added last: what waits under it is in the index already."""

    @property
    def numbers(self) -> int:
        """Vectors in all indexes: the number that the next row gets."""
        return sum(index.rows for index in self.indexes)

    def files(self) -> Iterator[IndexFile]:
        """Yield every file that the manifest names."""
        yield self.rows_file
        if self.rows_log is not None:
            yield self.rows_log
        for index in self.indexes:
            yield from index.files.values()

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as it stands on disk; its last entry is the sha256 of the others."""
        values = {
            "format": FORMAT,
            "version": VERSION,
            "generation": self.generation,
            "rows": self.rows,
            "deleted": self.deleted,
            "dimension": self.dimension,
            "metric": METRIC,
            "model": dataclasses.asdict(self.model) if self.model else None,
            "unit": self.unit,
            "settings": dict(self.settings),
            "options": dataclasses.asdict(self.options),
            "num_zero": self.num_zero,
            "num_skipped": self.num_skipped,
            "similarities": self.similarities.record() if self.similarities else None,
            "rows_file": dataclasses.asdict(self.rows_file),
            "rows_log": dataclasses.asdict(self.rows_log) if self.rows_log else None,
            "indexes": [index.to_json() for index in self.indexes],
            "added": self.added,
        }
        return values | {"sha256": _digest(values)}

    @classmethod
    def read(cls, folder: Path) -> IndexManifest:
        """Read a folder's manifest.

        Raises:
            MissingInputError: If there is none.
            ArtifactError: If it is damaged, belongs to something else, or is of an older format.
        """
        path = folder / MANIFEST
        if old_version(folder):
            raise ArtifactError(
                f"{folder} is an index of an older format: `ctxembed index compact {folder}` brings it to this one"
            )
        record = read_manifest(path, expected=FORMAT, version=VERSION)
        if record.get("sha256") != _digest({key: value for key, value in record.items() if key != "sha256"}):
            raise ArtifactError(f"{path} is damaged (its own sha256 differs): build the index again")
        try:
            manifest = cls(
                model=ModelRecord(**record["model"]) if record["model"] else None,
                similarities=Calibration.from_record(record["similarities"]) if record["similarities"] else None,
                options=IndexOptions(**record["options"]),
                rows_file=IndexFile(**record["rows_file"]),
                rows_log=IndexFile(**record["rows_log"]) if record.get("rows_log") else None,
                indexes=tuple(IndexRecord.from_json(index) for index in record["indexes"]),
                added=record.get("added"),
                **{key: record[key] for key in _PLAIN},
            )
            sound = all(OWN_FILE.fullmatch(file.name) for file in manifest.files())
            sound = sound and manifest.rows + manifest.deleted == manifest.numbers
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"{path} is damaged ({error!r}): build the index again") from error
        if not sound:
            raise ArtifactError(f"{path} is damaged (its entries contradict each other): build the index again")
        return manifest

    def publish(self, folder: Path) -> None:
        """Make this the generation that counts, then remove the files of all others.

        Everything it names is on the disk already; a reader of an older generation keeps its open files.
        """
        synced(folder)
        write_json(folder / MANIFEST, self.to_json())
        synced(folder)
        self.clean(folder)

    def clean(self, folder: Path) -> None:
        """Remove files of other generations: replaced ones, and what a killed change left."""
        named = {file.name for file in self.files()}
        for entry in list(folder.iterdir()):
            if TEMPORARY.fullmatch(entry.name) or (OWN_FILE.fullmatch(entry.name) and entry.name not in named):
                entry.unlink(missing_ok=True)


_PLAIN = ("generation", "rows", "deleted", "dimension", "unit", "settings", "num_zero", "num_skipped")


def old_version(folder: Path) -> bool:
    """Tell whether a folder holds an index of format 1."""
    with contextlib.suppress(ValueError):
        record = json.loads(existing(folder / MANIFEST).read_text(encoding="utf-8"))
        return isinstance(record, dict) and (record.get("format"), record.get("version")) == (FORMAT, 1)
    return False


def holds_index(folder: Path, names: Sequence[str]) -> bool:
    """Tell whether a folder with a manifest and these names in it is an index, be it damaged or of a later format."""
    with contextlib.suppress(ValueError):
        record = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            return False
    return any(map(OWN_FILE.fullmatch, names)) and all(map(may_hold, names))


def may_hold(name: str) -> bool:
    """Tell whether a file or folder has a name that only an index gives."""
    return name in (MANIFEST, BUILDING, ADDING) or bool(OWN_FILE.fullmatch(name) or TEMPORARY.fullmatch(name))


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, ensure_ascii=False).encode("utf-8")).hexdigest()

"""Which generation of an index folder counts, and when another may take its place."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from ctxembed.errors import ArtifactError, InvalidInputError, MissingInputError
from ctxembed.index.manifest import BUILDING, OWN_FILE, IndexManifest, holds_index, may_hold, old_version
from ctxembed.index.rows import names_of
from ctxembed.index.v1 import generation_v1
from ctxembed.vectors import MANIFEST


def claim(path: str | Path, *, overwrite: bool, resume: bool) -> Path:
    """Make sure that an index may be written to a folder; with ``overwrite`` an unfinished build is discarded.

    Raises:
        InvalidInputError: If the folder holds something else, or an index or unfinished build that is not to be lost.
        ArtifactError: If it holds another artefact.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise InvalidInputError(f"{path} is a file, need a folder: choose another -o")
    names = sorted(entry.name for entry in path.iterdir()) if path.exists() else []
    unfinished = BUILDING in names
    if MANIFEST in names:
        found = _described(path, names)
        if not overwrite and not unfinished:  # a build can be begun beside an index only by an overwrite
            raise InvalidInputError(f"{path} holds an index {found}: --overwrite it, or choose another -o")
    elif others := [name for name in names if not may_hold(name)]:
        raise InvalidInputError(f"{path} holds {others[0]!r} and is no index: choose another -o")
    if unfinished and not resume:
        if not overwrite:
            raise InvalidInputError(
                f"{path} holds an unfinished build: continue it with --resume, "
                "start again with --overwrite, or choose another -o"
            )
        shutil.rmtree(path / BUILDING)
    return path


def _described(path: Path, names: Sequence[str]) -> str:
    """Say what index a folder holds; ArtifactError if it is none."""
    if old_version(path):
        return "of an older format"
    try:
        return f"of {IndexManifest.read(path).rows} rows"
    except ArtifactError:
        if not holds_index(path, names):
            raise
        return "that cannot be read"


def newest_generation(path: Path) -> int:
    """Return the number of the generation that is there, 0 for none; the highest of its files if it cannot be read."""
    if not (path / MANIFEST).exists():
        return 0
    try:
        return generation_v1(path) if old_version(path) else IndexManifest.read(path).generation
    except ArtifactError:
        names = [entry.name for entry in path.iterdir() if OWN_FILE.fullmatch(entry.name)]
        return max((int(name.split(".")[1]) for name in names), default=0)


def _is_published(path: Path, generation: int) -> bool:
    """Tell whether a generation is the one that counts."""
    with contextlib.suppress(MissingInputError, ArtifactError):
        return IndexManifest.read(path).generation == generation
    return False


@contextlib.contextmanager
def undone_on_error(path: Path, generation: int) -> Iterator[None]:
    """Remove what an unpublished generation has written when something goes wrong."""
    try:
        yield
    except BaseException:
        if not _is_published(path, generation):
            for name in (f"vectors.{generation}.faiss", f"index.{generation}.faiss", *names_of(generation)):
                (path / name).unlink(missing_ok=True)
        raise

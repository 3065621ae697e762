"""Vectors that an earlier run computed already: rows whose text and span have not changed are not embedded again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ctxembed.errors import ArtifactError
from ctxembed.types import Vectors
from ctxembed.vectors import Row, StoredType, VectorFolder


class KnownVectors:
    """The vectors of a finished folder, found by the content hash of their rows."""

    def __init__(self, folder: VectorFolder) -> None:
        self._folder = folder
        hashes = folder.content_hashes()
        self._numbers = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._numbers]

    @classmethod
    def open(cls, path: str | Path, *, settings: Mapping[str, Any], dtype: StoredType = "float32") -> Self:
        """Open a finished folder whose vectors are those that a run with these settings would compute.

        Args:
            path: A vector folder.
            settings: Those of the new run; see ``vectors.encoder_settings``.
            dtype: How the new run stores vectors: the folder keeps them the same way, or in float32, so that what is
                taken from it is what would be written without it.

        Raises:
            MissingInputError: If there is no such folder.
            ArtifactError: If it is unfinished or damaged, was made with another model, unit or layer, or keeps vectors
                that are rounded in another way.
        """
        folder = VectorFolder.open(path)
        old, new = folder.settings, settings
        for key in ("fingerprint", *sorted({*old, *new} - {"model", "fingerprint"})):
            if old.get(key) != new.get(key):
                raise ArtifactError(
                    f"{path} was made by {old.get('model')} with {key} = {old.get(key)!r}, this run is by "
                    f"{new.get('model')} with {key} = {new.get(key)!r}: reuse vectors of the same model and settings"
                )
        kept = folder.manifest.dtype
        if kept not in ("float32", dtype):
            raise ArtifactError(
                f"{path} keeps {kept}, rounded vectors, and this run writes {dtype}: ask for {kept} too, or reuse a "
                "folder that keeps float32"
            )
        return cls(folder)

    def find(self, rows: Sequence[Row]) -> NDArray[np.int64]:
        """Return for each row the number of a row with the same content, (N,), or -1."""
        wanted = np.array([int(row.content_hash, 16) for row in rows], dtype=np.uint64)
        if not len(self._hashes):
            return np.full(len(rows), -1, dtype=np.int64)
        places = np.minimum(np.searchsorted(self._hashes, wanted), len(self._hashes) - 1)
        return np.where(self._hashes[places] == wanted, self._numbers[places], -1).astype(np.int64)

    def take(self, numbers: NDArray[np.int64]) -> Vectors:
        """Return the vectors of rows by their numbers, float32 (N, D)."""
        return self._folder.take(numbers)

"""The folder of static vectors: plain parts beside a manifest with their hashes, checked before use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ctxembed.config import check
from ctxembed.errors import ArtifactError, InvalidInputError
from ctxembed.runtime import atomic_directory, sha256_file, write_json
from ctxembed.subwords import Subwords
from ctxembed.vectors import MANIFEST, read_manifest
from ctxembed.word_files import WordTable

FORMAT = "ctxembed-static"
VERSION = 1

StoredType: TypeAlias = Literal["float16", "float32"]

_VECTORS, _WORDS, _COUNTS = _PARTS = ("vectors.npy", "words.txt", "counts.npy")
_SUBWORDS = "subwords.npy"
_AGAIN = "copy the folder again, or train anew"


def write_word_folder(path: Path, table: WordTable, *, dtype: StoredType) -> None:
    """Write a folder, in place of an older one of its kind.

    Args:
        path: Where to.
        table: What to write; its notes are the record of the training.
        dtype: Of all vectors.

    Raises:
        InvalidInputError: If something else stands there, or a value does not fit the format.
    """
    _check_replaceable(path)
    grams = table.subwords
    for vectors in [table.vectors, *([] if grams is None else [grams.vectors])]:
        largest, limit = max(abs(float(vectors.min())), abs(float(vectors.max()))), float(np.finfo(dtype).max)
        check(largest <= limit, f"a vector holds the value {largest:g}, {dtype} ends at {limit:g}: save as float32")
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "name": path.resolve().name,
        "dimension": table.vectors.shape[1],
        "words": len(table.words),
        "dtype": dtype,
        "training": dict(table.notes),
    }
    with atomic_directory(path) as folder:
        np.save(folder / _VECTORS, table.vectors.astype(dtype))
        np.save(folder / _COUNTS, table.counts.astype(np.int64))
        (folder / _WORDS).write_bytes("".join(f"{word}\n" for word in table.words).encode("utf-8"))
        if grams is not None:
            np.save(folder / _SUBWORDS, grams.vectors.astype(dtype))
            manifest["subwords"] = {"buckets": len(grams.vectors), "min_n": grams.min_n, "max_n": grams.max_n}
        manifest["sha256"] = {part: sha256_file(folder / part) for part in _parts(manifest)}
        write_json(folder / MANIFEST, manifest)


def read_word_folder(folder: Path) -> WordTable:
    """Open a folder; its vectors stay on disk and are read as they are used.

    Raises:
        MissingInputError: If there is no manifest in it.
        ArtifactError: If a part is missing, damaged or of another format.
    """
    record = read_manifest(folder / MANIFEST, expected=FORMAT, version=VERSION)
    try:
        _check_parts(folder, record)
        width, dtype = record["dimension"], record["dtype"]
        vectors = _read_array(folder / _VECTORS, (record["words"], width), dtype)
        counts = _read_array(folder / _COUNTS, (record["words"],), "int64")
        words = (folder / _WORDS).read_bytes().decode("utf-8").removesuffix("\n").split("\n")
        grams = record.get("subwords")
        subwords = None
        if grams is not None:
            stored = _read_array(folder / _SUBWORDS, (grams["buckets"], width), dtype)
            subwords = Subwords(stored, grams["min_n"], grams["max_n"])
        return WordTable(words, vectors, counts, dict(record["training"]), subwords)
    except (KeyError, TypeError, UnicodeDecodeError, InvalidInputError) as error:
        raise ArtifactError(f"{folder} does not fit its {MANIFEST} ({error!r}): {_AGAIN}") from error


def _parts(record: Mapping[str, Any]) -> list[str]:
    return [*_PARTS, _SUBWORDS] if "subwords" in record else list(_PARTS)


def _check_parts(folder: Path, record: Mapping[str, Any]) -> None:
    """Compare every part with the hash that the manifest has of it."""
    for part in _parts(record):
        if not (folder / part).is_file():
            raise ArtifactError(f"{folder / part} is missing: {_AGAIN}")
        if sha256_file(folder / part) != record["sha256"][part]:
            raise ArtifactError(f"{folder / part} is damaged (its sha256 differs): {_AGAIN}")


def _read_array(file: Path, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ArtifactError(f"{file} is damaged ({error}): {_AGAIN}") from error
    if array.shape != shape or array.dtype.name != dtype:
        raise ArtifactError(f"{file} is {array.dtype} {array.shape}, the manifest says {dtype} {shape}: {_AGAIN}")
    return array


def _check_replaceable(path: Path) -> None:
    """Refuse to put the folder where anything else stands: what stands there would be deleted."""
    check(path.is_dir() or not path.exists(), f"{path} is a file, need a folder: choose another place")
    ours = {*_PARTS, _SUBWORDS, MANIFEST}
    others = sorted(entry.name for entry in path.iterdir() if entry.name not in ours) if path.is_dir() else []
    check(not others, f"{path} holds {', '.join(others[:3])} and is no folder of static vectors: choose another place")

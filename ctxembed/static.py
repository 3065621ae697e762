"""One vector for each word form, whatever its context: the baseline that context must beat.

Kept as a folder of plain parts, and offered under the same Protocols as an encoder in context. Words are those of
``text.py``; vectors are kept as ``word2vec.py`` trained them and normalised only when they are used.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from ctxembed.config import check
from ctxembed.errors import ArtifactError, InvalidInputError
from ctxembed.runtime import atomic_directory, existing, sha256_file, sha256_text, write_json
from ctxembed.text import word_form, word_forms
from ctxembed.types import Usage, Vectors
from ctxembed.vectors import MANIFEST, read_manifest

FORMAT = "ctxembed-static"
VERSION = 1
POOLING = "mean of the known word forms, L2-normalised"

StoredType: TypeAlias = Literal["float16", "float32"]

_VECTORS, _WORDS, _COUNTS = _PARTS = ("vectors.npy", "words.txt", "counts.npy")
_AGAIN = "copy the folder again, or train anew"
_BLOCK_ROWS = 16_384
_SPELLINGS_COMPARED = 20_000


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many of some word forms have a vector, every occurrence counted."""

    known: int
    unknown: int


class StaticVectors:
    """One vector for each word form; a TextEncoder and a UsageEncoder.

    Attributes:
        words: The V word forms, most frequent first.
        vectors: float16 or float32 (V, D) as trained, not normalised; read-only.
        counts: int64 (V,), occurrences of each form in the training corpus.
        training: Settings, corpus counts and library versions of the training run; empty where unknown.
    """

    def __init__(
        self,
        words: Sequence[str],
        vectors: NDArray[Any],
        counts: NDArray[Any],
        *,
        name: str = "static",
        training: Mapping[str, Any] | None = None,
    ) -> None:
        """Join words and vectors.

        Args:
            words: V distinct lookup forms (``text.word_form``), most frequent first; at least one.
            vectors: float16 or float32 (V, D), finite.
            counts: Integers (V,), none above the one before.
            name: For tables and messages.
            training: What is known of the training run.

        Raises:
            InvalidInputError: If they do not fit together.
        """
        self.words = tuple(words)
        self._rows = {word: row for row, word in enumerate(self.words)}
        self.vectors = np.asarray(vectors).view()
        self.vectors.flags.writeable = False  # a change would leave the fingerprint behind
        self.counts = np.asarray(counts)
        self.training = dict(training or {})
        self._name = name
        self._check()

    def _check(self) -> None:
        shape, num_words = self.vectors.shape, len(self.words)
        check(
            len(shape) == 2 and 0 not in shape and (shape[0],) == (num_words,) == self.counts.shape,
            f"{num_words} words, vectors of shape {shape} and counts of shape {self.counts.shape}: "
            "need one vector (V, D) and one count (V,) for each word, and at least one word",
        )
        kind = self.vectors.dtype
        check(kind in (np.float16, np.float32), f"the vectors are {kind}, need float32 or float16: use .astype")
        # The extremes show any NaN or infinity, and need no mask as large as the vectors.
        finite = math.isfinite(self.vectors.min()) and math.isfinite(self.vectors.max())
        check(finite, "the vectors hold NaN or infinity: train again, or leave those words out")
        unfit = [word for word in self.words if not word or "\n" in word]
        check(not unfit, f"{len(unfit)} words are empty or hold a line break, as {unfit[:1]}: leave them out")
        word, times = Counter(self.words).most_common(1)[0]
        check(times == 1, f"the word {word!r} stands {times} times, need each once: leave out the repetition")
        falling = np.issubdtype(self.counts.dtype, np.integer) and bool((np.diff(self.counts) <= 0).all())
        check(falling, "the counts are no integers that fall or stay: sort the words, most frequent first")

    @property
    def name(self) -> str:
        """The name given, or that of the folder it was loaded from."""
        return self._name

    @property
    def dimension(self) -> int:
        """The width D of every vector."""
        return int(self.vectors.shape[1])

    @functools.cached_property
    def fingerprint(self) -> str:
        """A sha256 over the words, the vectors as they are stored, and the pooling rule."""
        digest = hashlib.sha256()
        for start in range(0, len(self), _BLOCK_ROWS):
            digest.update(np.ascontiguousarray(self.vectors[start : start + _BLOCK_ROWS]).data)
        stored = f"{self.vectors.dtype} {self.vectors.shape} {digest.hexdigest()}"
        return sha256_text(FORMAT, POOLING, stored, "\n".join(self.words))

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return isinstance(word, str) and word_form(word) in self._rows

    def encode(self, texts: Sequence[str], *, prompt: str | None = None) -> Vectors:
        """Average the vectors of the known words of each text.

        Args:
            texts: N texts; none gives shape (0, D).
            prompt: Its known words count as if they stood before every text.

        Returns:
            float32 (N, D), L2-normalised; a text without a known word is a zero row, whatever the prompt.

        Raises:
            InvalidInputError: If one string is given in place of a list.
        """
        if isinstance(texts, str):
            raise InvalidInputError(f"texts is the string {texts[:40]!r}, need several: pass a list of texts")
        before = self._known(word_forms(prompt or ""))
        result = np.zeros((len(texts), self.dimension), np.float32)
        for row, text in enumerate(texts):
            if known := self._known(word_forms(text)):
                result[row] = self._mean(before + known)
        return result

    def encode_usages(self, usages: Sequence[Usage], *, layer: int | None = None) -> Vectors:
        """Look up the word of each usage; its context changes nothing.

        Args:
            usages: N words in context; none gives shape (0, D). Several words ("ice cream") are averaged.
            layer: None or 0.

        Returns:
            float32 (N, D), L2-normalised; an unknown word is a zero row.

        Raises:
            InvalidInputError: For another layer, or a span that marks nothing in its text.
        """
        check(layer in (None, 0), f"layer = {layer}: static vectors have no layers, leave it out")
        result = np.zeros((len(usages), self.dimension), np.float32)
        for row, usage in enumerate(usages):
            if not 0 <= usage.start < usage.end <= len(usage.text):
                raise InvalidInputError(
                    f"usage {row} marks characters {usage.start} to {usage.end} of a text of {len(usage.text)}: "
                    "mark a word inside the text"
                )
            if known := self._known([word_form(usage.word)]) or self._known(word_forms(usage.word)):
                result[row] = self._mean(known)
        return result

    def vector(self, word: str) -> Vectors:
        """Return the vector of one word as it was trained, not normalised: float32 (D,).

        Raises:
            InvalidInputError: If the word is unknown, with the nearest spellings.
        """
        vector: Vectors = self.vectors[self._row(word)].astype(np.float32)
        return vector

    def nearest(self, word: str, *, k: int = 10) -> list[tuple[str, float]]:
        """Return the k words nearest to a word, each with its cosine in [-1, 1]; all others where V <= k.

        Raises:
            InvalidInputError: If the word is unknown, or k is below 1.
        """
        check(k >= 1, f"k = {k}: must be at least 1")
        row = self._row(word)
        query = _unit(self.vectors[row])
        starts = range(0, len(self), _BLOCK_ROWS)
        cosines = np.concatenate([_unit(self.vectors[start : start + _BLOCK_ROWS]) @ query for start in starts])
        order = np.argsort(-cosines, kind="stable")  # among equals the more frequent word comes first
        return [(self.words[i], float(np.clip(cosines[i], -1.0, 1.0))) for i in order[order != row][:k]]

    def coverage(self, words: Iterable[str]) -> Coverage:
        """Count the words that have a vector and those that have none, so that callers can report it."""
        found = Counter(word in self for word in words)
        return Coverage(known=found[True], unknown=found[False])

    def save(self, path: str | Path, *, dtype: StoredType = "float16") -> None:
        """Write the folder, in place of an older one of its kind.

        Args:
            path: Where to.
            dtype: float16 takes half the space of float32 and rounds each value to 11 bits, so the fingerprint changes.

        Raises:
            InvalidInputError: If something else stands there, or a word or value does not fit the format.
        """
        path = Path(path)
        _check_replaceable(path)
        check(dtype in get_args(StoredType), f"dtype = {dtype!r}: must be one of {', '.join(get_args(StoredType))}")
        largest, limit = max(abs(float(self.vectors.min())), abs(float(self.vectors.max()))), float(np.finfo(dtype).max)
        check(largest <= limit, f"a vector holds the value {largest:g}, {dtype} ends at {limit:g}: save as float32")
        with atomic_directory(path) as folder:
            np.save(folder / _VECTORS, self.vectors.astype(dtype))
            np.save(folder / _COUNTS, self.counts.astype(np.int64))
            (folder / _WORDS).write_bytes("".join(f"{word}\n" for word in self.words).encode("utf-8"))
            manifest = {
                "format": FORMAT,
                "version": VERSION,
                "name": path.resolve().name,
                "dimension": self.dimension,
                "words": len(self),
                "dtype": dtype,
                "sha256": {part: sha256_file(folder / part) for part in _PARTS},
                "training": self.training,
            }
            write_json(folder / MANIFEST, manifest)

    @classmethod
    def load(cls, path: str | Path, *, name: str | None = None) -> StaticVectors:
        """Open a folder; the vectors stay on disk and are read as they are used.

        Args:
            path: What ``save`` wrote.
            name: For tables and messages; the folder's name where it is not given.

        Raises:
            MissingInputError: If there is no such folder, or no manifest in it.
            ArtifactError: If a part is missing, damaged or of another format.
        """
        folder = existing(path)
        record = read_manifest(folder / MANIFEST, expected=FORMAT, version=VERSION)
        try:
            _check_parts(folder, record)
            vectors = _read_array(folder / _VECTORS, (record["words"], record["dimension"]), record["dtype"])
            counts = _read_array(folder / _COUNTS, (record["words"],), "int64")
            words = (folder / _WORDS).read_bytes().decode("utf-8").removesuffix("\n").split("\n")
            return cls(words, vectors, counts, name=name or folder.resolve().name, training=record["training"])
        except (KeyError, TypeError, UnicodeDecodeError, InvalidInputError) as error:
            raise ArtifactError(f"{folder} does not fit its {MANIFEST} ({error!r}): {_AGAIN}") from error

    def _known(self, forms: Iterable[str]) -> list[int]:
        return [self._rows[form] for form in forms if form in self._rows]

    def _mean(self, rows: list[int]) -> NDArray[np.float64]:
        """Return the direction of the mean (D,), which is that of the sum; it does not depend on the order."""
        distinct, times = np.unique(rows, return_counts=True)
        return _unit(times @ self.vectors[distinct].astype(np.float64))

    def _row(self, word: str) -> int:
        form = word_form(word)
        if form in self._rows:
            return self._rows[form]
        frequent = [known for known in self.words[:_SPELLINGS_COMPARED] if abs(len(known) - len(form)) <= 2]
        near = difflib.get_close_matches(form, frequent)
        advice = f"did you mean {' or '.join(map(repr, near))}?" if near else "train on more text, or lower min_count"
        raise InvalidInputError(f"the word {word!r} is none of the {len(self)} that have a vector: {advice}")


def _unit(vectors: NDArray[Any]) -> NDArray[np.float64]:
    """Scale vectors (..., D) to length 1; a zero vector stays zero."""
    wide = vectors.astype(np.float64)
    norms = np.linalg.norm(wide, axis=-1, keepdims=True)
    unit: NDArray[np.float64] = np.divide(wide, norms, out=np.zeros_like(wide), where=norms > 0)
    return unit


def _check_parts(folder: Path, record: Mapping[str, Any]) -> None:
    """Compare every part with the hash that the manifest has of it."""
    for part in _PARTS:
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
    ours = {*_PARTS, MANIFEST}
    others = sorted(entry.name for entry in path.iterdir() if entry.name not in ours) if path.is_dir() else []
    check(not others, f"{path} holds {', '.join(others[:3])} and is no folder of static vectors: choose another place")

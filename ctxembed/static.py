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
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from ctxembed.config import check
from ctxembed.errors import ArtifactError, InvalidInputError
from ctxembed.runtime import existing, sha256_text
from ctxembed.sentence_weights import common_component, inverse_frequency
from ctxembed.subwords import Subwords
from ctxembed.text import word_form, word_forms
from ctxembed.types import Usage, Vectors
from ctxembed.vectors import MANIFEST
from ctxembed.word_files import WordTable, read_word_file, write_word_file
from ctxembed.word_folder import FORMAT, StoredType, read_word_folder, write_word_folder

POOLING = "mean of the known word forms, L2-normalised"

_BLOCK_ROWS = 16_384
_SPELLINGS_COMPARED = 20_000


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many of some word forms have a vector, every occurrence counted."""

    known: int
    unknown: int


@dataclass(frozen=True, slots=True)
class LookupOptions:
    """What a lookup does beside looking up; each choice shows in the name and the fingerprint."""

    sif: bool = False
    """Words of a sentence count by their smooth inverse frequency, not equally."""
    common: bool = False
    """The component that sentences have in common is taken out of them."""
    subwords: bool = False
    """An unknown word gets the mean vector of its n-grams."""

    @property
    def suffix(self) -> str:
        """The choices as they show in a name, such as "+sif+common"."""
        return "".join(f"+{field.name}" for field in fields(self) if getattr(self, field.name))


_PLAIN = LookupOptions()


class StaticVectors:
    """One vector for each word form; a TextEncoder and a UsageEncoder.

    Attributes:
        words: The V word forms, most frequent first.
        vectors: float16 or float32 (V, D) as trained, not normalised; read-only.
        counts: int64 (V,), occurrences of each form in the training corpus.
        training: Settings, corpus counts and library versions of the training run; empty where unknown.
        subwords: The n-grams from which unknown words can get a vector; None where there are none.
    """

    def __init__(
        self,
        words: Sequence[str],
        vectors: NDArray[Any],
        counts: NDArray[Any],
        *,
        name: str = "static",
        training: Mapping[str, Any] | None = None,
        subwords: Subwords | None = None,
        options: LookupOptions = _PLAIN,
    ) -> None:
        """Join words and vectors.

        Args:
            words: V distinct lookup forms (``text.word_form``), most frequent first; at least one.
            vectors: float16 or float32 (V, D), finite.
            counts: Integers (V,), none above the one before.
            name: For tables and messages.
            training: What is known of the training run.
            subwords: N-gram vectors of the same width.
            options: Beyond plain lookup and mean.

        Raises:
            InvalidInputError: If they do not fit together.
        """
        self.words = tuple(words)
        self._rows = {word: row for row, word in enumerate(self.words)}
        self.vectors = np.asarray(vectors).view()
        self.vectors.flags.writeable = False  # a change would leave the fingerprint behind
        self.counts = np.asarray(counts)
        self.training = dict(training or {})
        self.subwords = subwords
        self._options = options
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
        grams = self.subwords
        if grams is not None:
            width = grams.vectors.shape[1]
            check(width == shape[1], f"n-grams of width {width} and words of width {shape[1]}: need one width")
        check(
            grams is not None or not self._options.subwords,
            f"{self._name} has no subword vectors: train with --subwords, load a fastText .bin, or leave them out",
        )

    @property
    def name(self) -> str:
        """The name given, or that of the folder it was loaded from, and the options."""
        return self._name + self._options.suffix

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
        more = [self._options.suffix] if self._options.suffix else []
        if self._options.sif or self._options.common:
            more.append(hashlib.sha256(self.counts.astype("<i8").tobytes()).hexdigest())
        if self._options.subwords and self.subwords is not None:
            grams = self.subwords
            more.append(f"{grams.min_n} {grams.max_n} {hashlib.sha256(grams.vectors.tobytes()).hexdigest()}")
        return sha256_text(FORMAT, POOLING, stored, "\n".join(self.words), *more)

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
        before = word_forms(prompt or "")
        result = np.zeros((len(texts), self.dimension), np.float32)
        for row, text in enumerate(texts):
            forms = word_forms(text)
            total = self._sum(forms, weights=self._weights)
            if total is not None:
                if before:
                    total = self._sum(before + forms, weights=self._weights)
                result[row] = _unit(self._without_common(total))
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
            whole = self._rows.get(word_form(usage.word))
            total = self._sum(word_forms(usage.word)) if whole is None else self.vectors[whole]
            if total is not None:
                result[row] = _unit(total)
        return result

    def with_options(self, options: LookupOptions) -> StaticVectors:
        """Return the same vectors, used in another way.

        Raises:
            InvalidInputError: If subwords are asked for and there are none.
        """
        return StaticVectors(
            self.words,
            self.vectors,
            self.counts,
            name=self._name,
            training=self.training,
            subwords=self.subwords,
            options=options,
        )

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
        """Write the folder, in place of an older one of its kind; options of use are not written.

        Args:
            path: Where to.
            dtype: float16 takes half the space of float32 and rounds each value to 11 bits, so the fingerprint changes.

        Raises:
            InvalidInputError: If something else stands there, or a word or value does not fit the format.
        """
        check(dtype in get_args(StoredType), f"dtype = {dtype!r}: must be one of {', '.join(get_args(StoredType))}")
        table = WordTable(self.words, self.vectors, self.counts, self.training, self.subwords)
        write_word_folder(Path(path), table, dtype=dtype)

    def export(self, path: str | Path) -> None:
        """Write the words and vectors as a word2vec file: binary for a name that ends in .bin, else text.

        Raises:
            InvalidInputError: If a word holds white space, at which such files are cut.
        """
        write_word_file(Path(path), self.words, self.vectors)

    @classmethod
    def load(cls, path: str | Path, *, name: str | None = None, most: int | None = None) -> StaticVectors:
        """Open a folder, whose vectors stay on disk and are read as they are used, or a file of another program.

        Args:
            path: What ``save`` wrote, or a file that ``word_files`` reads: word2vec, GloVe or fastText.
            name: For tables and messages; the folder's or file's name where it is not given.
            most: Keep only so many words, the first, which are the most frequent.

        Raises:
            MissingInputError: If there is no such folder or file, or no manifest in it.
            InvalidInputError: If a file is of no known format, or a pickle.
            ArtifactError: If a part is missing, damaged or of another format.
        """
        path = existing(path)
        if path.is_file():
            return cls._of(read_word_file(path), name=name or path.name.split(".")[0] or path.name, most=most)
        try:
            return cls._of(read_word_folder(path), name=name or path.resolve().name, most=most)
        except InvalidInputError as error:
            raise ArtifactError(
                f"{path} does not fit its {MANIFEST} ({error}): copy the folder again, or train anew"
            ) from error

    @classmethod
    def _of(cls, table: WordTable, *, name: str, most: int | None) -> StaticVectors:
        words, vectors, counts = table.words[:most], table.vectors[:most], table.counts[:most]
        return cls(words, vectors, counts, name=name, training=table.notes, subwords=table.subwords)

    @functools.cached_property
    def _weights(self) -> NDArray[np.float64] | None:
        return inverse_frequency(self.counts) if self._options.sif else None

    @functools.cached_property
    def _common(self) -> NDArray[np.float64]:
        weights = np.ones(len(self)) if self._weights is None else self._weights
        return common_component(self.vectors, self.counts, weights)

    def _sum(self, forms: Sequence[str], *, weights: NDArray[np.float64] | None = None) -> NDArray[np.float64] | None:
        """Add up the vectors of words, (D,), which has the direction of their mean; None where none has a vector.

        The sum does not depend on the order of the words.
        """
        rows = [self._rows[form] for form in forms if form in self._rows]
        parts = []
        if rows:
            distinct, times = np.unique(rows, return_counts=True)
            factors = times if weights is None else times * weights[distinct]
            parts.append(factors @ self.vectors[distinct].astype(np.float64))
        if self._options.subwords and self.subwords is not None:
            unknown = (self.subwords.vector(form) for form in sorted(forms) if form not in self._rows)
            parts += [vector for vector in unknown if vector is not None]
        return np.asarray(np.sum(parts, axis=0)) if parts else None

    def _without_common(self, total: NDArray[np.float64] | None) -> NDArray[np.float64]:
        if total is None:
            return np.zeros(self.dimension)
        return total - (total @ self._common) * self._common if self._options.common else total

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

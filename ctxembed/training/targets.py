"""A teacher's vectors for each text, aligned with the student's tokens by character offsets.

Vectors stay on disk and are read for the rows of a batch; in memory there are the student's tokens, and 28 bytes for
each word.

Letters: N rows (texts), W words, P teacher width, F word forms.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ctxembed.errors import InvalidInputError
from ctxembed.runtime import release_memory, sha256_text
from ctxembed.text import is_content_word, word_form, word_spans
from ctxembed.tokenizer import Offsets, SubwordTokenizer, token_ranges
from ctxembed.training.batches import TokenRows, with_specials
from ctxembed.training.objectives.distill import TeacherBatch
from ctxembed.types import Vectors
from ctxembed.vectors import Spans, VectorFolder

COMMON_FORM = 8
"""A word form must occur so often for its mean vector to say what the word is without its context."""
CHUNK = 16_384
"""Vectors in memory at once while all are gone through."""
_RECENT_TEXTS = 200_000
_WORD = np.dtype([("form", "i8"), ("number", "i8"), ("row", "i4"), ("start", "i4"), ("end", "i4")])

Integers = NDArray[np.int64]


class VectorTargets:
    """Satisfies ``TeacherTargets``: a teacher's vectors from vector folders, in any of their number formats."""

    def __init__(
        self,
        tokenizer: SubwordTokenizer,
        *,
        sentences: Sequence[VectorFolder] = (),
        words: Sequence[VectorFolder] = (),
        max_length: int,
    ) -> None:
        """Read what the folders' rows stand for, and go through their vectors once for the means.

        Args:
            tokenizer: The student's.
            sentences: Folders of whole texts.
            words: Folders of words in their texts.
            max_length: Texts of more tokens, or of none, are left out and counted in ``skipped_long``. Zero vectors, a
                teacher's way of saying nothing, and words without a token are counted in ``skipped_vectors``.

        Raises:
            InvalidInputError: If no text is left, a folder is of the other kind, or two of one kind differ in teacher,
                layer or width.
        """
        self._sentences, self._words = _Folders(sentences, marked=False), _Folders(words, marked=True)
        self.sentence_dimension, self.word_dimension = self._sentences.dimension, self._words.dimension
        self.teachers = {"sentences": self._sentences.teacher, "words": self._words.teacher}
        """Fingerprint and layer of the one teacher of each kind; empty for a kind without folders."""
        texts = TextRows(tokenizer, max_length=max_length)
        self.skipped_vectors = 0
        known = self._read_sentences(texts, tokenizer)
        self._index, self._means = self._read_words(texts, tokenizer)
        release_memory()
        self.skipped_long = texts.skipped
        self.store = texts.store("the teacher's folders hold")
        self._sentence_of = np.full(len(self.store), -1, dtype=np.int64)
        self._sentence_of[known[:, 0]] = known[:, 1]
        self._bounds = np.searchsorted(self._index["row"], np.arange(len(self.store) + 1))

    @property
    def settings(self) -> dict[str, Any]:
        """The teachers, and hashes of the texts and of the vectors."""
        vectors = sha256_text(*self._sentences.hashes, *self._words.hashes)
        return {"teachers": self.teachers, "rows_sha256": self.store.sha256, "vectors_sha256": vectors}

    def lookup(self, rows: Integers) -> TeacherBatch:
        """Return the targets of some rows of the store."""
        known = np.flatnonzero(self._sentence_of[rows] >= 0)
        first, sizes = self._bounds[rows], self._bounds[rows + 1] - self._bounds[rows]
        chosen = np.repeat(first - np.cumsum(sizes) + sizes, sizes) + np.arange(sizes.sum())
        words = self._index[chosen]
        return teacher_batch(
            sentence_rows=known,
            sentences=self._sentences.take(self._sentence_of[rows[known]]),
            places=np.stack((np.repeat(np.arange(len(rows)), sizes), words["start"], words["end"], words["form"])),
            words=self._words.take(words["number"]),
            means=self._means,
        )

    def _read_sentences(self, texts: TextRows, tokenizer: SubwordTokenizer) -> Integers:
        """Return the row and the number of each sentence vector that says something, (S, 2)."""
        found = [np.zeros((0, 2), dtype=np.int64)]
        for first, spans in self._sentences.spans():
            rows = texts.add(spans.texts, tokenizer.encode_ids(spans.texts))[spans.owners]
            found.append(np.stack((rows, first + np.arange(len(rows))), axis=1)[rows >= 0])
        pairs = np.concatenate(found)
        says = np.zeros(len(pairs), dtype=np.bool_)
        for start in range(0, len(pairs), CHUNK):
            says[start : start + CHUNK] = self._sentences.take(pairs[start : start + CHUNK, 1]).any(axis=1)
        self.skipped_vectors += int((~says).sum())
        return np.ascontiguousarray(pairs[says])

    def _read_words(self, texts: TextRows, tokenizer: SubwordTokenizer) -> tuple[NDArray[np.void], FormMeans]:
        """Return the place of each word, records (W,) of ``_WORD`` sorted by row, and the means."""
        found = [np.zeros(0, dtype=_WORD)]
        for first, spans in self._words.spans():
            encoded = tokenizer.encode_batch(spans.texts)
            words = np.zeros(len(spans.owners), dtype=_WORD)
            words["number"] = first + np.arange(len(words))
            words["row"] = texts.add(spans.texts, encoded.ids)[spans.owners]
            words["start"], words["end"] = token_places(spans, encoded.offsets)
            words["form"] = form_keys(spans)
            words = words[words["row"] >= 0]
            covered = words["start"] < words["end"]
            self.skipped_vectors += int((~covered).sum())
            found.append(words[covered])
        words = np.concatenate(found)
        del found
        blocks = (self._words.take(words["number"][start : start + CHUNK]) for start in range(0, len(words), CHUNK))
        means, says = form_means(words["form"], blocks, dimension=self.word_dimension)
        self.skipped_vectors += int((~says).sum())
        words = words[says]
        return words[np.argsort(words["row"], kind="stable")], means


class TextRows:
    """Gives every text its row of tokens; of the text itself only eight bytes are remembered."""

    def __init__(self, tokenizer: SubwordTokenizer, *, max_length: int) -> None:
        self.skipped = 0
        """Texts of more than ``max_length`` tokens, or of none."""
        self._tokenizer, self._max_length = tokenizer, max_length
        self._num_rows = 0
        self._tokens: list[NDArray[np.int32]] = []
        self._lengths: list[int] = []
        # A dictionary entry takes a hundred bytes and more: all but the latest texts are in two sorted arrays.
        self._keys, self._rows = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        self._recent: dict[int, int] = {}

    def __len__(self) -> int:
        return self._num_rows

    def add(self, texts: Sequence[str], ids: Sequence[NDArray[np.int32]]) -> Integers:
        """Return the row of each text, a new one for a text that is new, -1 for one that is left out.

        Args:
            texts: Any number; two texts are the same if 64 bits of their hash are.
            ids: The tokens of each, without special ones.
        """
        keys = text_keys(texts)
        rows = self._find(keys)
        new: list[NDArray[np.int32]] = []
        for place in np.flatnonzero(rows == -2).tolist():
            key = int(keys[place])
            if key not in self._recent:
                fits = 0 < len(ids[place]) <= self._max_length - 2
                self._recent[key] = self._num_rows + len(new) if fits else -1
                self.skipped += not fits
                if fits:
                    new.append(with_specials(ids[place], self._tokenizer))
            rows[place] = self._recent[key]
        self._num_rows += len(new)
        self._lengths += map(len, new)
        if new:
            self._tokens.append(np.concatenate(new))
        if len(self._recent) >= _RECENT_TEXTS:
            self._settle()
        return rows

    def store(self, what: str) -> TokenRows:
        """Return the rows.

        Raises:
            InvalidInputError: If there is none; ``what`` begins the message.
        """
        if not self._num_rows:
            raise InvalidInputError(f"{what} no text of at most {self._max_length} tokens: nothing to learn from")
        starts = np.zeros(self._num_rows + 1, dtype=np.int64)
        np.cumsum(self._lengths, out=starts[1:])
        return TokenRows(np.concatenate(self._tokens), starts)

    def _find(self, keys: Integers) -> Integers:
        """Return the row of each key among the settled ones, -2 for one that is not there."""
        places = np.searchsorted(self._keys, keys)
        places[places == len(self._keys)] = 0
        if not len(self._keys):
            return np.full(len(keys), -2, dtype=np.int64)
        return np.where(self._keys[places] == keys, self._rows[places], -2)

    def _settle(self) -> None:
        keys = np.concatenate((self._keys, np.fromiter(self._recent.keys(), dtype=np.int64)))
        rows = np.concatenate((self._rows, np.fromiter(self._recent.values(), dtype=np.int64)))
        order = np.argsort(keys, kind="stable")
        self._keys, self._rows, self._recent = keys[order], rows[order], {}


@dataclass(frozen=True, slots=True)
class FormMeans:
    """The mean vector of all words, and of each word form that is common enough to have one."""

    mean: Vectors
    """(P,)."""
    forms: Integers
    """(F,), keys of the common forms, ascending."""
    means: Vectors
    """(F, P)."""

    def residuals(self, forms: Integers, vectors: Vectors) -> Vectors:
        """Return what the context adds, (W, P): vectors minus the mean of their form; zero rows for rare forms."""
        result = np.zeros_like(vectors)
        places, common = _find_forms(self.forms, forms)
        result[common] = vectors[common] - self.means[places[common]]
        return result


def form_means(forms: Integers, blocks: Iterable[Vectors], *, dimension: int) -> tuple[FormMeans, NDArray[np.bool_]]:
    """Average vectors over all words and over each form that occurs ``COMMON_FORM`` times or more.

    Args:
        forms: The key of each word's form, (W,).
        blocks: Their vectors in the same order, in blocks (n, P), gone through once.
        dimension: P.

    Returns:
        The means, and which words have a vector, (W,): a zero row is no vector and takes no part.
    """
    keys, uses = np.unique(forms, return_counts=True)
    keys = keys[uses >= COMMON_FORM]
    totals, counts = torch.zeros(len(keys), dimension), np.zeros(len(keys), dtype=np.int64)
    total, says, start = np.zeros(dimension), np.zeros(len(forms), dtype=np.bool_), 0
    for block in blocks:
        part = slice(start, start + len(block))
        says[part] = block.any(axis=1)
        total += block.sum(axis=0, dtype=np.float64)
        places, common = _find_forms(keys, forms[part])
        common &= says[part]
        counts += np.bincount(places[common], minlength=len(keys))
        totals.index_add_(0, torch.from_numpy(places[common]), torch.from_numpy(block[common]))
        start += len(block)
    kept = counts >= COMMON_FORM
    mean = (total / max(1, says.sum())).astype(np.float32)
    means = (totals.numpy()[kept] / counts[kept, None]).astype(np.float32)
    return FormMeans(mean, keys[kept], means), says


def teacher_batch(
    *, sentence_rows: Integers, sentences: Vectors, places: Integers, words: Vectors, means: FormMeans
) -> TeacherBatch:
    """Put targets together.

    Args:
        sentence_rows: (S,), the rows of the batch that have a sentence vector.
        sentences: (S, P).
        places: (4, W): row of the batch, first token, one past the last, form of each word.
        words: (W, P), as the teacher gives them.
        means: What is subtracted from them.
    """
    word_rows, starts, ends, forms = (torch.from_numpy(np.ascontiguousarray(each)) for each in places)
    return TeacherBatch(
        sentence_rows=torch.from_numpy(sentence_rows),
        sentences=torch.from_numpy(sentences),
        word_rows=word_rows,
        word_starts=starts,
        word_ends=ends,
        word_forms=forms,
        words=torch.from_numpy(words - means.mean),
        residuals=torch.from_numpy(means.residuals(places[3], words)),
    )


def token_places(spans: Spans, offsets: Sequence[Offsets]) -> tuple[Integers, Integers]:
    """Find the tokens of words.

    Args:
        spans: The words, and the texts they stand in.
        offsets: Of the tokens of each text, without special ones.

    Returns:
        First token and one past the last in the row of the text, its first special token counted, (W,) each; equal
        where no token overlaps the word.
    """
    if not len(spans.texts):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    # All texts laid end to end, a character apart: one search finds the words of all.
    sizes = np.array([len(text) for text in spans.texts])
    counts = np.array([len(pairs) for pairs in offsets])
    bases, tokens = np.cumsum(sizes + 1) - sizes - 1, np.cumsum(counts) - counts
    together = (np.concatenate(offsets) + np.repeat(bases, counts)[:, None]).astype(np.int32)
    base, most = bases[spans.owners], sizes[spans.owners]
    first, last = token_ranges(together, base + spans.starts, base + np.minimum(spans.ends, most))
    return first - tokens[spans.owners] + 1, last - tokens[spans.owners] + 1


def content_words(texts: Sequence[str]) -> Spans:
    """Find the content words of texts, as a vector folder of them would list them."""
    found = [
        (owner, span.start, span.end)
        for owner, text in enumerate(texts)
        for span in word_spans(text)
        if is_content_word(word_form(span.text))
    ]
    owners, starts, ends = np.array(found, dtype=np.int64).reshape(-1, 3).T
    return Spans(list(texts), owners, starts, ends)


def form_keys(spans: Spans) -> Integers:
    """Return a key for the form of each word, (W,): equal forms have equal keys, in every process."""
    numbers: dict[str, int] = {}
    words = zip(spans.owners.tolist(), spans.starts.tolist(), spans.ends.tolist(), strict=True)
    members = [numbers.setdefault(spans.texts[owner][start:end], len(numbers)) for owner, start, end in words]
    return text_keys([word_form(word) for word in numbers])[np.array(members, dtype=np.int64)]


def text_keys(texts: Sequence[str]) -> Integers:
    """Return 64 bits of each text's hash, (N,)."""
    digests = (hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest() for text in texts)
    return np.frombuffer(b"".join(digests), dtype="<i8").astype(np.int64)


def _find_forms(keys: Integers, forms: Integers) -> tuple[Integers, NDArray[np.bool_]]:
    """Return the place of each form among ascending keys, and whether it is there."""
    places = np.searchsorted(keys, forms)
    found = places < len(keys)
    found[found] = keys[places[found]] == forms[found]
    return places, found


class _Folders:
    """Vector folders of one kind and one teacher, their vectors numbered through."""

    def __init__(self, folders: Sequence[VectorFolder], *, marked: bool) -> None:
        self._folders, self._marked = tuple(folders), marked
        self._ends = np.cumsum([len(folder) for folder in folders], dtype=np.int64)
        widths = {folder.dimension for folder in folders}
        if len(widths) > 1:
            raise InvalidInputError(
                f"the teacher's folders are {sorted(widths)} wide: vectors of one kind must come from one teacher"
            )
        self.dimension = widths.pop() if widths else 0
        found = [{name: folder.settings.get(name) for name in ("fingerprint", "layer")} for folder in folders]
        for other in found[1:]:
            if other != found[0]:
                names = (f"fingerprint {each['fingerprint']}, layer {each['layer']}" for each in (found[0], other))
                raise InvalidInputError(
                    f"one folder is of {', another of '.join(names)}: vectors of one kind must come from one teacher"
                )
        self.teacher: dict[str, Any] = found[0] if found else {}

    @property
    def hashes(self) -> list[str]:
        """Of all files, in order."""
        parts = [part for folder in self._folders for part in folder.manifest.parts]
        return [sha256 for part in parts for sha256 in (part.vectors_sha256, part.rows_sha256)]

    def spans(self) -> Iterator[tuple[int, Spans]]:
        """Yield the number of each part's first vector, and what its vectors stand for.

        Raises:
            InvalidInputError: If one stands for a word where whole texts are wanted, or the other way round.
        """
        first = 0
        for folder in self._folders:
            for spans in folder.spans():
                if ((spans.starts >= 0) != self._marked).any():
                    wrong = next(row for row in folder.rows() if (row.start is not None) != self._marked)
                    is_, wanted = ("a whole text", "words") if self._marked else ("a word", "whole texts")
                    raise InvalidInputError(f"row {wrong.id} stands for {is_}: name a folder of {wanted} here")
                yield first, spans
                first += len(spans.owners)

    def take(self, numbers: Integers) -> Vectors:
        """Return some vectors, (n, P), read from disk."""
        result = np.zeros((len(numbers), self.dimension), dtype=np.float32)
        owners = np.searchsorted(self._ends, numbers, side="right")
        for owner in np.unique(owners):
            chosen, folder = np.flatnonzero(owners == owner), self._folders[owner]
            result[chosen] = folder.take(numbers[chosen] - (self._ends[owner] - len(folder)))
        return result

"""A teacher's vectors, read from vector folders and aligned with the student's tokens by character offsets.

Letters: N rows (texts), W words, P teacher width, F word forms.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ctxembed.errors import InvalidInputError
from ctxembed.text import word_form
from ctxembed.tokenizer import SubwordTokenizer, token_ranges
from ctxembed.training.batches import TokenRowBatch, TokenRows, with_specials
from ctxembed.training.objectives import TeacherBatch
from ctxembed.types import Vectors
from ctxembed.vectors import Row, VectorFolder

COMMON_FORM = 8
"""A word form must occur so often for its mean vector to say what the word is without its context."""


@dataclass(frozen=True, slots=True)
class WordTargets:
    """Words of all rows, sorted by row."""

    rows: NDArray[np.int64]
    """(W,), the row of each word."""
    starts: NDArray[np.int64]
    """(W,), its first token, special token counted."""
    ends: NDArray[np.int64]
    """(W,), one past its last."""
    forms: NDArray[np.int64]
    """(W,), its word form."""
    vectors: NDArray[np.float16]
    """(W, P)."""
    mean: Vectors
    """(P,), over all words."""
    form_means: Vectors
    """(F, P)."""
    form_counts: NDArray[np.int64]
    """(F,)."""


class VectorTargets:
    """Satisfies ``TeacherTargets``: what the teacher says about each row of a token store."""

    def __init__(
        self,
        tokenizer: SubwordTokenizer,
        *,
        sentences: Sequence[VectorFolder] = (),
        words: Sequence[VectorFolder] = (),
        max_length: int,
    ) -> None:
        """Read the folders and tokenise their texts.

        Args:
            tokenizer: The student's.
            sentences: Folders of whole texts.
            words: Folders of words in their texts.
            max_length: Texts of more tokens are left out, and counted in ``skipped_long``. Zero vectors, a
                teacher's way of saying nothing, and words without a token are counted in ``skipped_vectors``.

        Raises:
            InvalidInputError: If no text is left, a folder is of the other kind, or two of one kind differ in teacher,
                layer or width.
        """
        self.teachers = {kind: _teacher(folders) for kind, folders in (("sentences", sentences), ("words", words))}
        """Fingerprint and layer of the one teacher of each kind; empty for a kind without folders."""
        self.sentence_dimension = _width(sentences)
        self.word_dimension = _width(words)
        texts = dict.fromkeys(row.text for folder in (*sentences, *words) for row in folder.rows())
        rows, offsets, self._row_of = _tokenise(list(texts), tokenizer, max_length=max_length)
        self.skipped_long = len(texts) - len(rows)
        if not rows:
            raise InvalidInputError(
                f"the teacher's folders hold no text of at most {max_length} tokens: nothing to learn from"
            )
        self.store = TokenRows.from_lists(rows)
        self.skipped_vectors = 0
        self._sentence_of, self._sentences = self._read_sentences(sentences)
        self._words = self._read_words(words, offsets)
        self._word_bounds = np.searchsorted(self._words.rows, np.arange(len(rows) + 1))

    def lookup(self, batch: TokenRowBatch) -> TeacherBatch:
        """Return the targets of a batch."""
        known = np.flatnonzero(self._sentence_of[batch.rows] >= 0)
        sentences = self._sentences[self._sentence_of[batch.rows[known]]].astype(np.float32)
        bounds = [(self._word_bounds[row], self._word_bounds[row + 1]) for row in batch.rows]
        chosen = np.concatenate([np.arange(first, last) for first, last in bounds])
        owner = np.repeat(np.arange(len(bounds)), [last - first for first, last in bounds])
        words = self._words
        vectors = words.vectors[chosen].astype(np.float32)
        forms = words.forms[chosen]
        residuals = np.where((words.form_counts[forms] >= COMMON_FORM)[:, None], vectors - words.form_means[forms], 0.0)
        device = batch.ids.device

        def tensor(array: NDArray[np.generic]) -> torch.Tensor:
            return torch.from_numpy(array).to(device)

        return TeacherBatch(
            sentence_rows=tensor(known),
            sentences=tensor(sentences),
            word_rows=tensor(owner),
            word_starts=tensor(words.starts[chosen]),
            word_ends=tensor(words.ends[chosen]),
            words=tensor(vectors - words.mean),
            residuals=tensor(residuals.astype(np.float32)),
        )

    def _read_sentences(self, folders: Sequence[VectorFolder]) -> tuple[NDArray[np.int64], NDArray[np.float16]]:
        """Return which sentence vector each row has (-1 for none), and the vectors (S, P)."""
        sentence_of = np.full(len(self.store), -1, dtype=np.int64)
        vectors = np.zeros((sum(map(len, folders)), self.sentence_dimension), dtype=np.float16)
        number = 0
        for row, vector in _pairs(folders, marked=False):
            if (position := self._row_of.get(row.text)) is None:
                continue
            if not vector.any():
                self.skipped_vectors += 1
                continue
            sentence_of[position] = number
            vectors[number] = vector
            number += 1
        return sentence_of, vectors[:number]

    def _read_words(self, folders: Sequence[VectorFolder], offsets: Sequence[NDArray[np.int32]]) -> WordTargets:
        total = sum(map(len, folders))
        vectors = np.zeros((total, self.word_dimension), dtype=np.float16)
        places = np.zeros((total, 4), dtype=np.int64)  # row, first token, one past the last, form
        forms: dict[str, int] = {}
        number = 0
        for text, group in groupby(_pairs(folders, marked=True), key=lambda pair: pair[0].text):
            members = list(group)
            if (position := self._row_of.get(text)) is None:
                continue
            first, last = token_ranges(
                offsets[position], [row.start or 0 for row, _ in members], [row.end or 0 for row, _ in members]
            )
            for (row, vector), start, end in zip(members, first, last, strict=True):
                if start == end or not vector.any():
                    self.skipped_vectors += 1
                else:
                    form = forms.setdefault(word_form(text[row.start : row.end]), len(forms))
                    places[number] = position, start + 1, end + 1, form
                    vectors[number] = vector
                    number += 1
        order = np.argsort(places[:number, 0], kind="stable")
        rows, starts, ends, form_of = places[:number][order].T
        return _with_means(rows, starts, ends, form_of, vectors[:number][order], num_forms=len(forms))


def _with_means(
    rows: NDArray[np.int64],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    forms: NDArray[np.int64],
    vectors: NDArray[np.float16],
    *,
    num_forms: int,
) -> WordTargets:
    """Add the mean vector over all words and over each form."""
    totals = np.zeros((num_forms, vectors.shape[1]), dtype=np.float32)
    for start in range(0, len(vectors), 65_536):
        np.add.at(totals, forms[start : start + 65_536], vectors[start : start + 65_536].astype(np.float32))
    counts = np.bincount(forms, minlength=num_forms)
    mean = totals.sum(axis=0) / max(1, len(vectors))
    means = totals / np.maximum(counts, 1)[:, None]
    return WordTargets(
        rows=np.ascontiguousarray(rows),
        starts=np.ascontiguousarray(starts),
        ends=np.ascontiguousarray(ends),
        forms=np.ascontiguousarray(forms),
        vectors=vectors,
        mean=mean.astype(np.float32),
        form_means=means.astype(np.float32),
        form_counts=counts,
    )


def _tokenise(
    texts: Sequence[str], tokenizer: SubwordTokenizer, *, max_length: int
) -> tuple[list[NDArray[np.int32]], list[NDArray[np.int32]], dict[str, int]]:
    """Return token rows, their offsets, and the row number of each text that is kept."""
    rows: list[NDArray[np.int32]] = []
    offsets: list[NDArray[np.int32]] = []
    row_of: dict[str, int] = {}
    for start in range(0, len(texts), 4096):
        part = texts[start : start + 4096]
        encoded = tokenizer.encode_batch(part)
        for text, ids, pairs in zip(part, encoded.ids, encoded.offsets, strict=True):
            if 0 < len(ids) <= max_length - 2:
                row_of[text] = len(rows)
                rows.append(with_specials(ids, tokenizer))
                offsets.append(pairs)
    return rows, offsets, row_of


def _pairs(folders: Sequence[VectorFolder], *, marked: bool) -> Iterator[tuple[Row, Vectors]]:
    """Yield rows with their vectors; rows of words (``marked``) and of whole texts must not be taken for each other."""
    for folder in folders:
        for rows, vectors in folder.iter_parts():
            for row, vector in zip(rows, vectors, strict=True):
                if (row.start is not None) != marked:
                    found, wanted = ("a word", "whole texts") if row.start is not None else ("a whole text", "words")
                    raise InvalidInputError(f"row {row.id} stands for {found}: name a folder of {wanted} here")
                yield row, vector


def _teacher(folders: Sequence[VectorFolder]) -> dict[str, Any]:
    """Return whose vectors the folders hold, and of which layer.

    Raises:
        InvalidInputError: If they do not all say the same.
    """
    found = [{name: folder.settings.get(name) for name in ("fingerprint", "layer")} for folder in folders]
    for other in found[1:]:
        if other != found[0]:
            first, second = (f"fingerprint {each['fingerprint']}, layer {each['layer']}" for each in (found[0], other))
            raise InvalidInputError(
                f"one folder is of {first}, another of {second}: vectors of one kind must come from one teacher"
            )
    return found[0] if found else {}


def _width(folders: Sequence[VectorFolder]) -> int:
    widths = {folder.dimension for folder in folders}
    if len(widths) > 1:
        raise InvalidInputError(
            f"the teacher's folders are {sorted(widths)} wide: vectors of one kind must come from one teacher"
        )
    return widths.pop() if widths else 0

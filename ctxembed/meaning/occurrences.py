"""Uses of words found in a stream of documents, in bounded memory: at most so many a word and group, drawn by seed.

A word is its lookup form; each use stands in its sentence. Uses may also be given: rows that say where their word is.
"""

from __future__ import annotations

import functools
import heapq
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ctxembed.config import check
from ctxembed.errors import InvalidInputError
from ctxembed.text import is_content_word, sentence_spans, word_form, word_spans
from ctxembed.types import Document, Scalar, Usage, Vectors

Grouping: TypeAlias = Callable[[Document], str | None]
"""Names the group of a document: a period, a newspaper; None leaves the document out."""
MAX_COUNTED_FORMS = 2_000_000
_WHOLE = re.compile(r"\s*-?[0-9]{1,18}\s*")
_form = functools.lru_cache(maxsize=2**16)(word_form)


@dataclass(frozen=True, slots=True)
class Occurrence:
    """One use of a word in a corpus."""

    id: str
    """DOCUMENT#START-END, the place in the document's own text."""
    usage: Usage
    """The word in its sentence."""
    word: str
    """The lookup form under which it was counted."""
    group: str = ""
    metadata: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass
class Found:
    """The uses of one word in one group."""

    occurrences: list[Occurrence] = field(default_factory=list)
    """In the order of the stream; a sample if there were more than wanted."""
    count: int = 0
    """All uses that were met."""


FoundUses: TypeAlias = dict[str, dict[str, Found]]
"""By word, then by group, both in the order asked for or met."""


class UseCollector:
    """Keeps at most so many uses of each word and group: a uniform sample, the same for the same seed.

    The sample of a word does not depend on which other words are looked for (reservoir sampling, Vitter 1985, R).
    """

    def __init__(self, *, most: int, seed: int = 1) -> None:
        """Begin with nothing.

        Args:
            most: Uses kept of each word in each group, at least 1.
            seed: Decides which.

        Raises:
            InvalidInputError: If ``most`` is below 1.
        """
        check(most >= 1, f"most = {most} uses: must be at least 1")
        self._most, self._seed = most, seed
        self._kept: dict[tuple[str, str], list[tuple[int, Occurrence]]] = defaultdict(list)
        self._counts: Counter[tuple[str, str]] = Counter()
        self._chance: dict[tuple[str, str], random.Random] = {}

    def offer(self, word: str, group: str) -> int | None:
        """Count a use; return the slot it is to be put in with ``put``, or None if it is not drawn."""
        key = (word, group)
        position = self._counts[key]
        self._counts[key] += 1
        if position < self._most:
            return position
        if key not in self._chance:
            self._chance[key] = random.Random(f"{self._seed} {word} {group}")
        slot = self._chance[key].randrange(position + 1)
        return slot if slot < self._most else None

    def put(self, slot: int, occurrence: Occurrence) -> None:
        """Keep the use that was offered last."""
        key = (occurrence.word, occurrence.group)
        entry = (self._counts[key], occurrence)
        kept = self._kept[key]
        if slot == len(kept):
            kept.append(entry)
        else:
            kept[slot] = entry

    def found(self) -> FoundUses:
        """Return what was kept, by word and group in the order first met."""
        result: FoundUses = defaultdict(dict)
        for (word, group), count in self._counts.items():
            kept = sorted(self._kept[word, group], key=lambda entry: entry[0])
            result[word][group] = Found([occurrence for _, occurrence in kept], count)
        return dict(result)


def find_uses(
    documents: Iterable[Document],
    words: Mapping[str, str] | Collection[str],
    *,
    group: Grouping,
    most: int = 5000,
    seed: int = 1,
    on_progress: Callable[[int], None] | None = None,
) -> FoundUses:
    """Find uses of words in a stream of documents, each in its sentence.

    Args:
        documents: Read once.
        words: Lookup forms, or a table from forms to the word they count for (``inflections.forms_of``).
        group: Names the group of each document.
        most: Uses kept of each word in each group, at least 1; more are sampled by ``seed``.
        seed: Decides the sample.
        on_progress: Called with the number of documents done since its last call.

    Returns:
        The uses by word and group; a word that does not occur is not in it.
    """
    table = words if isinstance(words, Mapping) else {word: word for word in words}
    collector = UseCollector(most=most, seed=seed)
    for document in documents:
        name = group(document)
        if name is not None:
            _find_in(document, table, name, collector)
        if on_progress:
            on_progress(1)
    return collector.found()


def _find_in(document: Document, table: Mapping[str, str], group: str, collector: UseCollector) -> None:
    spans = [(span, table[form]) for span in word_spans(document.text) if (form := _form(span.text)) in table]
    if not spans:
        return
    sentences = iter(sentence_spans(document.text))
    sentence = next(sentences)
    for span, word in spans:
        while span.start >= sentence.end:
            sentence = next(sentences)
        slot = collector.offer(word, group)
        if slot is not None:
            usage = Usage(sentence.text, span.start - sentence.start, span.end - sentence.start)
            id_ = f"{document.id}#{span.start}-{span.end}"
            collector.put(slot, Occurrence(id_, usage, word, group, document.metadata))


def holds_given_uses(documents: Iterable[Document]) -> bool:
    """Tell whether rows say themselves where their word is: the first has whole numbers ``start`` and ``end``."""
    first = next(iter(documents), None)
    return first is not None and all(_place(first.metadata.get(key)) is not None for key in ("start", "end"))


def given_uses(
    documents: Iterable[Document],
    words: Mapping[str, str] | Collection[str] | None = None,
    *,
    group: Grouping,
    most: int = 5000,
    seed: int = 1,
) -> FoundUses:
    """Take uses from rows with ``start``, ``end`` and, if it is not the written form, ``word``.

    Args:
        documents: Read once.
        words: Only these, as in ``find_uses``; all by default.
        group: Names the group of each row.
        most: Uses kept of each word in each group; more are sampled by ``seed``.
        seed: Decides the sample.

    Raises:
        InvalidInputError: If a row does not say where its word is, or says a place outside its text.
    """
    table = None if words is None else words if isinstance(words, Mapping) else {word: word for word in words}
    collector = UseCollector(most=most, seed=seed)
    for document in documents:
        usage, form = given_usage(document)
        word = form if table is None else table.get(form)
        name = group(document)
        if word is None or name is None:
            continue
        slot = collector.offer(word, name)
        if slot is not None:
            collector.put(slot, Occurrence(document.id, usage, word, name, document.metadata))
    return collector.found()


def given_usage(document: Document) -> tuple[Usage, str]:
    """Return the use that a row names, and the lookup form of its word.

    Raises:
        InvalidInputError: If it names none, or one outside its text.
    """
    given = document.metadata
    start, end, word = _place(given.get("start")), _place(given.get("end")), given.get("word")
    if start is None or end is None:
        raise InvalidInputError(
            f"row {document.id} has start {given.get('start')!r} and end {given.get('end')!r}, "
            "need the place of its word as whole numbers"
        )
    if not 0 <= start < end <= len(document.text):
        raise InvalidInputError(
            f"row {document.id} has its word at {start} to {end} of a text of {len(document.text)} characters: "
            "count characters from 0, the end exclusive"
        )
    usage = Usage(document.text, start, end)
    return usage, word_form(str(word) if word not in (None, "") else usage.word)


def known_uses(occurrences: Sequence[Occurrence], vectors: Vectors) -> tuple[list[Occurrence], Vectors]:
    """Return the uses that the encoder sees something in, with their vectors: those of the others are zero.

    Args:
        occurrences: N uses.
        vectors: Their vectors (N, D).
    """
    known: NDArray[np.bool_] = np.asarray(vectors.any(axis=1))
    return [each for each, keep in zip(occurrences, known.tolist(), strict=True) if keep], vectors[known]


def count_words(
    documents: Iterable[Document], *, group: Grouping, on_progress: Callable[[int], None] | None = None
) -> dict[str, Counter[str]]:
    """Count the content words of a corpus by group.

    Memory is bounded: beyond two million forms in a group the rarest are forgotten and count from 1 if they come back.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for document in documents:
        name = group(document)
        if name is not None:
            counts[name].update(_content_forms(document.text))
            below = 1
            while len(counts[name]) > MAX_COUNTED_FORMS:
                below += 1
                counts[name] = Counter({form: n for form, n in counts[name].items() if n >= below})
        if on_progress:
            on_progress(1)
    return dict(counts)


def _content_forms(text: str) -> Iterator[str]:
    return (form for span in word_spans(text) if is_content_word(form := _form(span.text)))


def matched_words(
    counts: Mapping[str, Counter[str]],
    word_counts: Mapping[str, int],
    *,
    number: int,
    without: Collection[str],
    within: float = float("inf"),
) -> list[str]:
    """Return the words whose frequencies in every group are nearest to those of a word, on a logarithmic scale.

    Args:
        counts: Of all words, by group (``count_words``).
        word_counts: Of the word in question, by group.
        number: Words wanted; fewer come back where fewer occur in every group.
        without: Words that are not taken.
        within: In each group a word is at most so many times as frequent or as rare; any will do by default.

    Returns:
        The nearest first, equal ones in code point order.
    """
    from math import log

    shared = set.intersection(*(set(counts[name]) for name in word_counts)) if word_counts else set()
    candidates = []
    for word in shared.difference(without):
        away = [abs(log(counts[name][word] / max(1, wanted))) for name, wanted in word_counts.items()]
        if max(away) <= log(within):
            candidates.append((sum(away), word))
    return [word for _, word in heapq.nsmallest(number, candidates)]


def _place(value: Scalar) -> int | None:
    """Return a whole number, which the rows of CSV files have as text; None for anything else."""
    if isinstance(value, str):
        return int(value) if _WHOLE.fullmatch(value) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None

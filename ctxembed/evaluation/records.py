"""What a benchmark is made of: pairs of usages, of words and of texts, uses with their senses, retrieval sets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from ctxembed.text import word_forms
from ctxembed.types import Document, Usage

Kind: TypeAlias = Literal["words", "sentences", "retrieval", "similarity", "senses"]
Judgements: TypeAlias = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class UsagePair:
    """One word in two contexts; the label is true when it means the same in both."""

    id: str
    word: str
    first: Usage
    second: Usage
    label: bool


@dataclass(frozen=True, slots=True)
class GradedPair:
    """Two usages and how alike people found them; the unit of the score is the data set's own."""

    id: str
    word: str
    """What the pair is of: the word, or both words."""
    first: Usage
    second: Usage
    score: float
    pair: str | None = None
    """Rows of one name are the same two words in other contexts."""


@dataclass(frozen=True, slots=True)
class TextPair:
    """Two texts and how alike people found them; the unit of the score is the data set's own."""

    id: str
    first: str
    second: str
    score: float


@dataclass(frozen=True, slots=True)
class SenseUse:
    """One use of a word with the sense it has, or the senses of which each is right."""

    id: str
    lemma: str
    usage: Usage
    senses: frozenset[str]
    document: str | None = None
    """Uses of one document stand on one side when uses are dealt into halves."""


@dataclass(frozen=True, slots=True)
class UsageSet:
    """Pairs to score, and the pairs on which the threshold is tuned; both are never empty."""

    name: str
    split: str
    pairs: Sequence[UsagePair]
    threshold_pairs: Sequence[UsagePair]
    threshold_from: str
    files: tuple[Path, ...] = ()

    def words(self) -> Iterable[str]:
        """Yield every word that has to have a vector."""
        return _words(usage.word for pair in self.pairs for usage in (pair.first, pair.second))


@dataclass(frozen=True, slots=True)
class GradedSet:
    """Scored pairs of usages, or of words alone."""

    name: str
    split: str
    pairs: Sequence[GradedPair]
    files: tuple[Path, ...] = ()

    def words(self) -> Iterable[str]:
        """Yield every word that has to have a vector."""
        return _words(usage.word for pair in self.pairs for usage in (pair.first, pair.second))


@dataclass(frozen=True, slots=True)
class TextSet:
    """Scored pairs of texts; where ``is_binary`` the score is 1 for a pair that belongs together and else 0."""

    name: str
    split: str
    pairs: Sequence[TextPair]
    files: tuple[Path, ...] = ()
    is_binary: bool = False

    def words(self) -> Iterable[str]:
        """Yield every word that has to have a vector."""
        return _words(text for pair in self.pairs for text in (pair.first, pair.second))


@dataclass(frozen=True, slots=True)
class SenseSet:
    """Uses to tell the sense of, and the uses whose sense is known."""

    name: str
    split: str
    uses: Sequence[SenseUse]
    known: Sequence[SenseUse]
    known_from: str
    files: tuple[Path, ...] = ()

    def words(self) -> Iterable[str]:
        """Yield every word that has to have a vector."""
        return _words(use.usage.word for use in (*self.uses, *self.known))


@dataclass(frozen=True, slots=True)
class RetrievalSet:
    """Documents, queries, and for a query id the judgement (1 or more: relevant) of document ids."""

    name: str
    corpus: Sequence[Document]
    queries: Sequence[Document]
    judgements: Judgements
    files: tuple[Path, ...] = ()

    @property
    def judged_queries(self) -> list[Document]:
        """The queries with at least one relevant document: the others cannot be scored."""
        return [query for query in self.queries if any(self.judgements.get(query.id, {}).values())]

    def words(self) -> Iterable[str]:
        """Yield every word that has to have a vector."""
        return _words(document.text for document in (*self.judged_queries, *self.corpus))


BenchmarkSet: TypeAlias = UsageSet | GradedSet | TextSet | SenseSet | RetrievalSet


@dataclass(frozen=True, slots=True)
class Suite:
    """The data sets of one kind that a folder holds, and why each other file or folder in it was passed over."""

    kind: Kind
    root: Path
    sets: Sequence[BenchmarkSet]
    skipped: Mapping[str, str] = field(default_factory=dict)


def _words(texts: Iterable[str]) -> Iterable[str]:
    return (word for text in texts for word in word_forms(text))

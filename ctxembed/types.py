"""The records that travel between the layers, and the two Protocols that every encoder offers.

Letter legend used in all docstrings: B batch, T tokens, D hidden width, H heads, K head width,
V vocabulary, N items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Vectors: TypeAlias = NDArray[np.float32]
Scalar: TypeAlias = str | int | float | bool | None
Layer: TypeAlias = int | Sequence[int]
"""One layer, or several whose vectors are averaged: 0 is the embedding layer, -1 the last."""


@dataclass(frozen=True, slots=True)
class Document:
    """One text with its id and metadata: a line, a row of a table, a paragraph or a sentence."""

    id: str
    text: str
    metadata: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Span:
    """Characters ``start`` to ``end`` (exclusive) of a text, with what stands there."""

    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class Usage:
    """One word in one context: the word is ``text[start:end]``."""

    text: str
    start: int
    end: int

    @property
    def word(self) -> str:
        """The word as it is written in the text."""
        return self.text[self.start : self.end]


@dataclass(frozen=True, slots=True)
class Answer:
    """A word of a query, and the word of a hit that is nearest to it in meaning."""

    query: Span
    hit: Span
    cosine: float


@dataclass(frozen=True, slots=True)
class Hit:
    """One search result, higher ``score`` first.

    The score is what the search was told to rank by: the cosine similarity in [-1, 1], BM25, the sum of reciprocal
    ranks, or late interaction. ``start`` and ``end`` are the place of a word or token
    in ``text``, None for a whole text.
    """

    id: str
    score: float
    text: str
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    start: int | None = None
    end: int | None = None
    cosine: float | None = None
    """With the query; None where words alone were compared."""
    bm25: float | None = None
    """None where no words were compared, or none of the query's is in the row."""
    late: float | None = None
    """Mean cosine of late interaction, in [-1, 1]; None where the hit was not ranked anew."""
    percentile: float | None = None
    """Share of random pairs of rows that are less alike than query and hit, in [0, 100]; None if unknown."""
    duplicates: tuple[str, ...] = ()
    """Ids of the rows that were folded into this one."""
    answers: tuple[Answer, ...] = ()
    """Which words of the hit answered which of the query, if that was asked for."""


@dataclass
class LongTexts:
    """What an embedder met that did not fit one window, since it was loaded."""

    texts: int = 0
    """Texts of more tokens than one window holds."""
    lost_tokens: int = 0
    """Tokens that were cut off; always 0 unless on_long is truncate."""


@runtime_checkable
class TextEncoder(Protocol):
    """Anything that turns texts into vectors."""

    @property
    def name(self) -> str:
        """A short name for tables and messages."""
        ...

    @property
    def dimension(self) -> int:
        """The width D of every vector."""
        ...

    @property
    def fingerprint(self) -> str:
        """A sha256 over everything that changes a vector."""
        ...

    def encode(self, texts: Sequence[str], *, prompt: str | None = None) -> Vectors:
        """Return float32 (N, D), L2-normalised, in the order given; an empty text is a zero row."""
        ...


@runtime_checkable
class UsageEncoder(Protocol):
    """Anything that turns words in their contexts into vectors."""

    @property
    def name(self) -> str:
        """A short name for tables and messages."""
        ...

    @property
    def dimension(self) -> int:
        """The width D of every vector."""
        ...

    @property
    def fingerprint(self) -> str:
        """A sha256 over everything that changes a vector."""
        ...

    def encode_usages(self, usages: Sequence[Usage], *, layer: int | None = None) -> Vectors:
        """Return float32 (N, D), L2-normalised; a word that has no vector is a zero row."""
        ...


@runtime_checkable
class Encoder(TextEncoder, UsageEncoder, Protocol):
    """Anything that does both; so do all encoders of this package."""

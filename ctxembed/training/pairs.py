"""Pairs of texts that belong together, with texts that only look as if they did: read from files, tokenised once.

Letters: N pairs, M hard negatives of all pairs together.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ctxembed.config import check
from ctxembed.corpus import Corpus
from ctxembed.errors import InvalidInputError
from ctxembed.readers import ReadCounts, Reading, ReadOptions, Source, file_kind, missing_column, read_rows
from ctxembed.runtime import batched, sha256_text
from ctxembed.tokenizer import SubwordTokenizer, TokenIds
from ctxembed.training.batches import TokenRows, with_specials

NEGATIVE_COLUMNS = ("negatives", "negative")
"""Where hard negatives are looked for when no column is named."""
_FORMATS = ("jsonl", "csv", "tsv")
_PIECE = 1024  # pairs whose texts are in memory at once

Texts: TypeAlias = tuple[str, str, list[str]]


@dataclass(frozen=True, kw_only=True)
class PairOptions:
    """Where the texts of a pair stand in a row; a column may hold one string or a list of them."""

    anchor_column: str = "anchor"
    """One side of the pair (a question, a title, a word)."""
    positive_column: str = "positive"
    """The other side (its answer, its abstract, its gloss); of lists, every anchor goes with every positive."""
    negative_column: str | None = None
    """Texts that do not belong to the anchor but are easily taken for it; without it "negatives" and "negative" are
    read in the rows that have them."""

    def __post_init__(self) -> None:
        columns = [self.anchor_column, self.positive_column, *filter(None, [self.negative_column])]
        check(
            len(set(columns)) == len(columns), f"the columns {', '.join(columns)}: name a different one for each side"
        )


@dataclass
class PairCounts:
    """What became of the rows of pair files; ``summary`` says it in words."""

    pairs: int = 0
    skipped_empty: int = 0
    skipped_negatives: int = 0
    cut_texts: int = 0
    lost_tokens: int = 0

    def summary(self) -> str:
        """Return one line with every count that is not zero, for the user to read."""
        parts = [f"{self.pairs:,} pairs"]
        if self.skipped_empty:
            parts.append(f"{self.skipped_empty:,} with an empty side skipped")
        if self.skipped_negatives:
            parts.append(f"{self.skipped_negatives:,} empty negatives skipped")
        if self.cut_texts:
            parts.append(f"{self.cut_texts:,} texts cut to max_length ({self.lost_tokens:,} tokens lost)")
        return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class PairRows:
    """N pairs as token rows, and the hard negatives that some of them have."""

    anchors: TokenRows
    """N rows."""
    positives: TokenRows
    """N rows: row n belongs to anchor n."""
    negatives: TokenRows
    """M rows."""
    negative_starts: NDArray[np.int64]
    """(N + 1,): the hard negatives of pair n are the rows ``negative_starts[n]`` to ``negative_starts[n + 1]``."""
    counts: PairCounts
    """What was met in reading them."""

    def __len__(self) -> int:
        return len(self.anchors)

    @property
    def sha256(self) -> str:
        """The hash of all pairs, in their order."""
        bounds = hashlib.sha256(self.negative_starts.tobytes()).hexdigest()
        return sha256_text(self.anchors.sha256, self.positives.sha256, self.negatives.sha256, bounds)


def read_pairs(
    paths: str | Path | Sequence[str | Path],
    tokenizer: SubwordTokenizer,
    *,
    max_length: int,
    options: PairOptions | None = None,
) -> PairRows:
    """Read and tokenise the pairs of .jsonl, .csv and .tsv files (each also .gz and .zst).

    Only the tokens are kept in memory. A pair with a side that has no token is left out; a text of more than
    ``max_length`` tokens is cut, as a long abstract still belongs to its title. ``PairRows.counts`` says how many.

    Args:
        paths: Files, or directories of them, read in this order.
        tokenizer: The model's.
        max_length: Most tokens of a row, the two special ones included.
        options: The columns.

    Raises:
        MissingInputError: If a path does not exist.
        InvalidInputError: If a row cannot be used (with its file and line), or no pair is left.
    """
    check(max_length >= 3, f"max_length = {max_length}: must be at least 3 (two tokens are special)")
    options = options or PairOptions()
    sources = _sources(paths)
    pairs = (texts for source in sources for texts in _file_pairs(source, options))
    collector = _Collector(tokenizer, max_length=max_length)
    for piece in batched(pairs, _PIECE):
        collector.add(piece)
    if not collector.counts.pairs:
        raise InvalidInputError(
            f"{', '.join(source.name for source in sources)}: no pair to learn from "
            f"({collector.counts.skipped_empty:,} with an empty side): check the input and its columns"
        )
    return collector.rows()


# From tokens to rows


class _Rows:
    """Token rows that grow in place: no list of arrays beside the tokens themselves."""

    def __init__(self) -> None:
        self.ids = array("i")
        self.starts = array("q", [0])

    def append(self, ids: TokenIds) -> None:
        self.ids.frombytes(ids.tobytes())
        self.starts.append(len(self.ids))

    def finish(self) -> TokenRows:
        return TokenRows(np.frombuffer(self.ids, dtype=np.int32), np.frombuffer(self.starts, dtype=np.int64))


class _Collector:
    """Tokenises pairs piece by piece and lays their rows end to end."""

    def __init__(self, tokenizer: SubwordTokenizer, *, max_length: int) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.counts = PairCounts()
        self.anchors, self.positives, self.negatives = _Rows(), _Rows(), _Rows()
        self.negative_starts = array("q", [0])

    def add(self, piece: Sequence[Texts]) -> None:
        """Tokenise some pairs; what has no token is empty."""
        texts = [text for anchor, positive, negatives in piece for text in (anchor, positive, *negatives)]
        encoded = iter(self.tokenizer.encode_ids(texts))
        for _, _, negatives in piece:
            anchor, positive, *others = islice(encoded, 2 + len(negatives))
            if not len(anchor) or not len(positive):
                self.counts.skipped_empty += 1
                continue
            self.counts.pairs += 1
            self._append(self.anchors, anchor)
            self._append(self.positives, positive)
            for other in filter(len, others):
                self._append(self.negatives, other)
            self.counts.skipped_negatives += sum(not len(other) for other in others)
            self.negative_starts.append(len(self.negatives.starts) - 1)

    def rows(self) -> PairRows:
        """Return all that was added."""
        return PairRows(
            anchors=self.anchors.finish(),
            positives=self.positives.finish(),
            negatives=self.negatives.finish(),
            negative_starts=np.frombuffer(self.negative_starts, dtype=np.int64),
            counts=self.counts,
        )

    def _append(self, rows: _Rows, ids: TokenIds) -> None:
        room = self.max_length - 2
        if len(ids) > room:
            self.counts.cut_texts += 1
            self.counts.lost_tokens += len(ids) - room
        rows.append(with_specials(ids[:room], self.tokenizer))


# From files to texts


def _sources(paths: str | Path | Sequence[str | Path]) -> list[Source]:
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    if "-" in map(str, given):
        raise InvalidInputError("pairs are not read from stdin (-): name a file, so that a run can be resumed")
    sources = [Source(Path(name), name, name, *file_kind(Path(name))) for name in Corpus(given).names]
    for source in sources:
        if source.format not in _FORMATS:
            raise InvalidInputError(
                f"{source.name}: pairs are read from {', '.join(f'.{name}' for name in _FORMATS)} "
                "(each also .gz and .zst): convert it"
            )
    return sources


def _file_pairs(source: Source, options: PairOptions) -> Iterator[Texts]:
    """Yield the pairs of a file; a row without one of its texts gives pairs with an empty side, to be counted."""
    named = [options.positive_column, *filter(None, [options.negative_column])]
    reading = Reading(
        source, ReadOptions(text_column=options.anchor_column, metadata_columns=tuple(named)), ReadCounts()
    )
    for number, fields in read_rows(reading):
        if not fields:  # an empty line
            yield "", "", []
            continue
        anchors = _texts(reading, number, fields, options.anchor_column)
        positives = _texts(reading, number, fields, options.positive_column)
        columns = [name for name in NEGATIVE_COLUMNS if name in fields and name not in (options.anchor_column, *named)]
        if options.negative_column is not None:
            columns = [options.negative_column]
        negatives = [text for column in columns for text in _texts(reading, number, fields, column)]
        for anchor in anchors or [""]:
            for positive in positives or [""]:
                yield anchor, positive, negatives


def _texts(reading: Reading, number: int, fields: dict[str, Any], column: str) -> list[str]:
    """Return the texts in a column of a row: one, those of a list, or none where it is null."""
    if column not in fields:
        raise missing_column(reading.place(number), column, fields)
    value = fields[column]
    texts = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        shown = repr(value) if len(repr(value)) <= 40 else repr(value)[:40] + "..."
        raise InvalidInputError(
            f"{reading.place(number)}: {column!r} is {shown} ({type(value).__name__}), "
            "need a string or a list of strings: convert it, or name another column"
        )
    return texts

"""Which uses of words become rows of an index, counted before any is encoded, and what the index will come to."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from ctxembed.config import check
from ctxembed.errors import InvalidInputError
from ctxembed.index.kinds import IndexOptions, plan_index
from ctxembed.text import is_content_word, word_form, word_spans
from ctxembed.types import Document, Span, Usage, UsageEncoder

COMPRESSED_ROWS = 20_000
"""Rows from which an index of words is compressed unless another kind is asked for."""
_TIMED_TEXTS = 256
_ROW_BYTES = 40
"""Of a word in the table of rows, beside its sentence."""


@dataclass(frozen=True, kw_only=True)
class WordChoice:
    """Which words of a corpus are indexed."""

    words: frozenset[str] | None = None
    """Only these lookup forms; None is every content word."""
    all_words: bool = False
    """Function words and numbers too."""
    min_count: int = 1
    """Forms that occur less often are left out."""
    max_count: int | None = None
    """Forms that occur more often are left out."""
    max_per_word: int | None = 10_000
    """Of a form with more uses a sample of about this size is taken; None takes all."""
    seed: int = 1
    """Decides the samples."""

    def __post_init__(self) -> None:
        check(self.min_count >= 1, f"min_count = {self.min_count}: must be at least 1")
        check(
            self.max_count is None or self.max_count >= self.min_count,
            f"max_count = {self.max_count} is below min_count = {self.min_count}: no word can be both",
        )
        check(
            self.max_per_word is None or self.max_per_word >= 1, f"max_per_word = {self.max_per_word}: need 1 or more"
        )

    def is_wanted(self, form: str) -> bool:
        """Tell whether a form is chosen, whatever its frequency."""
        if self.words is not None:
            return form in self.words
        return self.all_words or is_content_word(form)


@dataclass(frozen=True)
class CountedWords:
    """A choice applied to a corpus: what will be rows, the same at every pass (a ``units.Selection``)."""

    choice: WordChoice
    counts: Mapping[str, int]
    """Uses of each chosen form."""
    num_texts: int = 0
    """Sentences with a chosen word."""
    text_bytes: int = 0
    sample: tuple[Document, ...] = field(default=(), repr=False)
    """Some of these sentences, for timing."""

    @property
    def record(self) -> Mapping[str, Any]:
        """What decides the choice, as JSON values."""
        choice = self.choice
        digest = hashlib.sha256(repr(sorted(self.counts.items())).encode()).hexdigest()
        listed = "list" if choice.words is not None else "all" if choice.all_words else "content"
        return {
            "chosen": listed,
            "words": None if choice.words is None else sorted(choice.words),
            "min_count": choice.min_count,
            "max_count": choice.max_count,
            "max_per_word": choice.max_per_word,
            "seed": choice.seed,
            "sampled": dict(sorted(self.sampled.items())),
            "counts_sha256": digest,
        }

    @property
    def sampled(self) -> dict[str, int]:
        """The forms of which a sample stands for all, with their uses."""
        most = self.choice.max_per_word
        return {} if most is None else {form: n for form, n in self.counts.items() if n > most}

    @property
    def rows(self) -> int:
        """Rows to expect; exact where nothing is sampled."""
        most = self.choice.max_per_word
        return sum(self.counts.values()) if most is None else sum(min(n, most) for n in self.counts.values())

    def spans(self, document: Document) -> list[Span]:
        """Return the words of a document that become rows."""
        return [span for span in word_spans(document.text) if self._is_row(document, span)]

    def _is_row(self, document: Document, span: Span) -> bool:
        form = word_form(span.text)
        return form in self.counts and _is_drawn(self.choice, form, document, span, count=self.counts[form])


@dataclass(frozen=True)
class AddedWords:
    """The choice of an index applied to texts that are added to it (a ``units.Selection``).

    Words are chosen as the build chose them. Of a word that it sampled the same share of uses is taken, of every other
    word all: so each use of a word is as likely to be a row as any other.
    """

    record: Mapping[str, Any]
    """What the index keeps of its choice, see ``CountedWords``."""
    choice: WordChoice

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Self:
        """Take the choice of an index.

        Raises:
            InvalidInputError: If what the index keeps of it does not say which words of other texts it would choose.
        """
        if "sampled" not in record:
            raise InvalidInputError(
                "the index does not know which words were chosen (an older ctxembed built it): build it again"
            )
        names = ("min_count", "max_count", "max_per_word", "seed")
        words = None if record["words"] is None else frozenset(record["words"])
        choice = WordChoice(words=words, all_words=record["chosen"] == "all", **{name: record[name] for name in names})
        if choice.min_count > 1 or choice.max_count is not None:
            raise InvalidInputError(
                f"the words of the index were chosen by frequency (min_count {choice.min_count}, max_count "
                f"{choice.max_count}), which only a build counts: build it again from all texts"
            )
        return cls(record, choice)

    def spans(self, document: Document) -> list[Span]:
        """Return the words of a document that become rows."""
        return [span for span in word_spans(document.text) if self._is_row(document, span)]

    def _is_row(self, document: Document, span: Span) -> bool:
        form = word_form(span.text)
        count = self.record["sampled"].get(form, 0)
        return self.choice.is_wanted(form) and _is_drawn(self.choice, form, document, span, count=count)


def _is_drawn(choice: WordChoice, form: str, document: Document, span: Span, *, count: int) -> bool:
    """Tell whether a use is in the sample of a form with so many uses; all are where no more are wanted."""
    most = choice.max_per_word
    if most is None or count <= most:
        return True
    key = f"{choice.seed} {form} {document.id} {span.start}".encode("utf-8", "surrogatepass")
    drawn = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") / 2**64
    return drawn < most / count


def count_chosen(
    documents: Iterable[Document], choice: WordChoice, *, on_progress: Callable[[int], None] | None = None
) -> CountedWords:
    """Count the chosen words of a corpus.

    Raises:
        InvalidInputError: If none occurs.
    """
    counts: Counter[str] = Counter()
    num_texts, text_bytes = 0, 0
    sample: list[Document] = []
    for document in documents:
        forms = [form for span in word_spans(document.text) if choice.is_wanted(form := word_form(span.text))]
        counts.update(forms)
        if forms:
            num_texts, text_bytes = num_texts + 1, text_bytes + len(document.text.encode("utf-8", "surrogatepass"))
            if len(sample) < _TIMED_TEXTS:
                sample.append(document)
        if on_progress:
            on_progress(1)
    highest = choice.max_count or max(counts.values(), default=0)
    kept = {form: count for form, count in counts.items() if choice.min_count <= count <= highest}
    if not kept:
        raise InvalidInputError(
            f"no chosen word occurs often enough ({len(counts):,} forms were met): choose other words or frequencies"
        )
    return CountedWords(choice, kept, num_texts, text_bytes, tuple(sample))


@dataclass(frozen=True)
class Forecast:
    """What a build will come to."""

    rows: int
    words: int
    kind: str
    bytes: int
    """Of the finished index."""
    minutes: float
    """Of encoding, as fast as a sample went; making the index comes on top."""


def forecast(counted: CountedWords, encoder: UsageEncoder, *, options: IndexOptions) -> Forecast:
    """Foretell rows, bytes and minutes; only a small sample is encoded."""
    usages = [Usage(d.text, s.start, s.end) for d in counted.sample for s in counted.spans(d)]
    encoder.encode_usages(usages[:8])  # what is slow at the first call only
    started = time.perf_counter()
    encoder.encode_usages(usages)
    rate = max(len(counted.sample), 1) / max(time.perf_counter() - started, 1e-9)
    plan = plan_index(counted.rows, encoder.dimension, word_options(options, rows=counted.rows))
    size = (plan.disk or counted.rows * encoder.dimension * 3) + counted.text_bytes + counted.rows * _ROW_BYTES
    return Forecast(counted.rows, len(counted.counts), plan.kind, size, counted.num_texts / rate / 60)


def word_options(options: IndexOptions, *, rows: int) -> IndexOptions:
    """Return what kind an index of words is: compressed from some size on, unless a kind or memory is asked for."""
    if options.kind != "auto":
        return options
    kind = "ivf-sq8" if rows >= COMPRESSED_ROWS and options.max_memory is None else "auto"
    return replace(options, kind=kind, storage="float16")

"""Which words of a context make a word mean what it means: take each away, and see how far the vector moves.

This is causal: something is changed and the effect is measured (occlusion, after Zeiler and Fergus 2014; for words Li,
Monroe and Jurafsky 2016). Attention weights, by contrast, say where a network read, not what came of it.
Letters: N uses, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np

from ctxembed.config import check
from ctxembed.errors import InvalidInputError
from ctxembed.text import word_form, word_spans
from ctxembed.types import Span, Usage, UsageEncoder, Vectors

Occlusion: TypeAlias = Literal["delete", "mask"]
BLANK = "_"
"""What stands for a masked word, as in a gap to fill: the other words keep their places."""
MOST_WORDS = 256
"""Context words that are tried for each use; every one is a text to encode, so long texts are cut to a passage."""


@dataclass(frozen=True, slots=True)
class Influence:
    """What one context word does to the vector of the word in question."""

    word: str
    start: int
    end: int
    move: float
    """How far the vector moves without it: 1 - cosine, in [0, 2]."""
    towards: tuple[float | None, ...] = ()
    """For each use that was given, how much more alike the two are with this word than without it: above 0 where it
    pulls the use towards that one, below 0 where it pulls it away; None for the use itself and one of the same text."""


@dataclass(frozen=True, slots=True)
class Swap:
    """What becomes of a use when one of its context words is replaced."""

    use: int
    """Number of the use."""
    old: str
    new: str
    usage: Usage
    """The use with the new word."""
    drift: float
    """1 - cosine of the vectors before and after, in [0, 2]."""
    before: tuple[float, ...]
    """Similarity to each of the N uses with the old word."""
    after: tuple[float, ...]
    """The same with the new word: how far it has gone over to another use."""


def explain_usages(
    usages: Sequence[Usage], *, encoder: UsageEncoder, how: Occlusion = "delete", layer: int | None = None
) -> list[list[Influence]]:
    """Rank the context words of each use by how far its vector moves without them.

    All variants of all uses are encoded in one call.

    Args:
        usages: N uses.
        encoder: What makes the vectors.
        how: Delete a word with the space before it, or put a blank in its place.
        layer: Where the vectors are read; the encoder's choice by default.

    Returns:
        For each use its context words, the most influential first, equals in reading order; none for a word that stands
        alone. A context of more than ``MOST_WORDS`` words is cut to the passage of the nearest ones.
    """
    check(how in get_args(Occlusion), f"how = {how!r}: must be one of {', '.join(get_args(Occlusion))}")
    cut = [passage(usage) for usage in usages]
    usages, offsets = [usage for usage, _ in cut], [offset for _, offset in cut]
    words = [context_words(usage) for usage in usages]
    variants = [without(usage, span, how=how) for usage, spans in zip(usages, words, strict=True) for span in spans]
    vectors = encoder.encode_usages([*usages, *variants], layer=layer)
    originals, changed = vectors[: len(usages)], vectors[len(usages) :]
    explained, first = [], 0
    for number, spans in enumerate(words):
        rows = changed[first : first + len(spans)]
        first += len(spans)
        moves = moved(originals[number], rows)
        pulls = originals @ originals[number] - rows @ originals.T  # (words, N)
        apart = [other.text != usages[number].text for other in usages]
        influences = [
            Influence(
                span.text,
                span.start + offsets[number],
                span.end + offsets[number],
                float(move),
                tuple(float(each) if is_apart else None for each, is_apart in zip(pull, apart, strict=True)),
            )
            for span, move, pull in zip(spans, moves, pulls, strict=True)
        ]
        explained.append(sorted(influences, key=lambda each: -each.move))
    return explained


def swap_words(
    usages: Sequence[Usage], swaps: Sequence[tuple[str, str]], *, encoder: UsageEncoder, layer: int | None = None
) -> list[Swap]:
    """Replace context words and measure how far the vector drifts; all variants are encoded in one call.

    Args:
        usages: N uses.
        swaps: Old and new words; each is tried alone, in every use whose context has the old one.
        encoder: What makes the vectors.
        layer: Where the vectors are read; the encoder's choice by default.

    Returns:
        One for each pair and each use that has its old word.

    Raises:
        InvalidInputError: If an old word stands in no context, or a new one is empty.
    """
    found: list[tuple[int, str, str, Usage]] = []
    for old, new in swaps:
        check(bool(new.strip()), f"{old!r} is to be replaced by nothing: use --why to see uses without a word")
        places = [(number, replaced(usage, old, new)) for number, usage in enumerate(usages)]
        here = [(number, old, new, variant) for number, variant in places if variant is not None]
        if not here:
            raise InvalidInputError(f"the word {old!r} stands in no context: name a word beside the one in question")
        found += here
    vectors = encoder.encode_usages([*usages, *(variant for *_, variant in found)], layer=layer)
    originals, changed = vectors[: len(usages)], vectors[len(usages) :]
    results = []
    for (number, old, new, variant), row in zip(found, changed, strict=True):
        before, after = originals @ originals[number], originals @ row
        drift = float(moved(originals[number], row[None])[0])
        results.append(Swap(number, old, new, variant, drift, tuple(before.tolist()), tuple(after.tolist())))
    return results


def passage(usage: Usage) -> tuple[Usage, int]:
    """Cut a long text to the context words that are tried; return that use, and what was cut off before it."""
    near = context_words(usage)
    if len(near) < MOST_WORDS:
        return usage, 0
    start, end = min(near[0].start, usage.start), max(near[-1].end, usage.end)
    return Usage(usage.text[start:end], usage.start - start, usage.end - start), start


def context_words(usage: Usage, *, most: int = MOST_WORDS) -> list[Span]:
    """Return the words beside the one in question, in reading order; of many the nearest."""
    spans = [span for span in word_spans(usage.text) if span.end <= usage.start or span.start >= usage.end]
    near = sorted(spans, key=lambda span: max(usage.start - span.end, span.start - usage.end))[:most]
    return sorted(near, key=lambda span: span.start)


def without(usage: Usage, span: Span, *, how: Occlusion = "delete") -> Usage:
    """Return a use without one of its context words; the word in question keeps its letters and moves with the text.

    >>> without(Usage("the bank of the river", 4, 8), Span(9, 11, "of"))
    Usage(text='the bank the river', start=4, end=8)
    >>> without(Usage("the bank of the river", 4, 8), Span(0, 3, "the"), how="mask")
    Usage(text='_ bank of the river', start=2, end=6)
    """
    start, end = span.start, span.end
    if how == "delete":  # one space goes too, if it is not inside the word in question
        if usage.text[start - 1 : start].isspace() and start != usage.end:
            start -= 1
        elif usage.text[end : end + 1].isspace() and end != usage.start:
            end += 1
    return _put(usage, start, end, BLANK if how == "mask" else "")


def replaced(usage: Usage, old: str, new: str) -> Usage | None:
    """Return a use with a word of its context replaced wherever it stands there; None if it does not.

    >>> replaced(Usage("the river bank by the River", 10, 14), "river", "loan")
    Usage(text='the loan bank by the loan', start=9, end=13)
    """
    form = word_form(old)
    spans = [span for span in context_words(usage, most=len(usage.text)) if word_form(span.text) == form]
    for span in reversed(spans):  # from the end, so that the places before stay true
        usage = _put(usage, span.start, span.end, new)
    return usage if spans else None


def moved(original: Vectors, changed: Vectors) -> Vectors:
    """Return 1 - cosine of a unit vector (D,) and each of several (M, D), (M,)."""
    distances: Vectors = np.clip(1 - changed @ original, 0.0, 2.0).astype(np.float32)
    return distances


def _put(usage: Usage, start: int, end: int, text: str) -> Usage:
    """Replace characters outside the word in question."""
    shift = len(text) - (end - start) if end <= usage.start else 0
    return Usage(usage.text[:start] + text + usage.text[end:], usage.start + shift, usage.end + shift)

"""How the use of words differs between corpora, periods or communities: measures, tests, and the uses that show it.

Of each word the uses of all groups are put into senses together, without regard to the groups; then any two sides are
measured against each other (``distances``). Letters: N uses, D width, K senses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ctxembed.config import check
from ctxembed.meaning.clusters import Clusters, cluster_uses, nearest_centres, without_forms
from ctxembed.meaning.collocates import distinctive_words
from ctxembed.meaning.distances import ShiftTest, adjusted_p_values, shift_test
from ctxembed.meaning.occurrences import FoundUses, Occurrence, known_uses
from ctxembed.meaning.periods import Comparison
from ctxembed.text import word_form
from ctxembed.types import UsageEncoder, Vectors

BATCH_USES = 50_000
"""Uses encoded together: bounds the memory whatever the number of words."""


@dataclass(frozen=True, kw_only=True)
class ShiftOptions:
    """How shifts are measured."""

    permutations: int = 1000
    """Of the tests; as many resamplings for the interval."""
    min_uses: int = 5
    """A word with fewer uses on a side is not tested."""
    num_examples: int = 3
    """Uses shown from before and after, and for each sense."""
    seed: int = 1
    """Decides every random choice."""
    layer: int | None = None
    """Where word vectors are read; the encoder's choice by default."""

    def __post_init__(self) -> None:
        check(self.permutations >= 1, f"permutations = {self.permutations}: must be at least 1")
        check(self.min_uses >= 2, f"min_uses = {self.min_uses}: must be at least 2, one use has no spread")


@dataclass(frozen=True)
class WordUses:
    """All N uses of a word that have a vector, in their groups and senses."""

    word: str
    occurrences: list[Occurrence]
    vectors: Vectors
    """float32 (N, D), L2-normalised."""
    counts: Mapping[str, int]
    """Uses met in each group, of which those here may be a sample."""
    clusters: Clusters
    names: tuple[str, ...]
    """Of the K senses."""
    is_clear: bool = True
    """Whether the uses fall apart by themselves; if not, two halves stand for senses so that shares can be compared."""

    def members(self, groups: Sequence[str]) -> NDArray[np.intp]:
        """Return the numbers of the uses in some groups."""
        wanted = set(groups)
        return np.array([n for n, each in enumerate(self.occurrences) if each.group in wanted], dtype=np.intp)

    def sense_words(self, *, number: int = 5) -> list[list[str]]:
        """Return the words that distinguish each sense, K lists."""
        own = {self.word, *(word_form(each.usage.word) for each in self.occurrences)}
        texts = [each.usage.text for each in self.occurrences]
        return distinctive_words(texts, self.clusters.labels, k=len(self.clusters), without=own, number=number)


@dataclass(frozen=True)
class SenseShift:
    """A sense on both sides."""

    id: str
    words: tuple[str, ...]
    """Words that distinguish it from the other senses."""
    uses_old: int
    uses_new: int
    share_old: float
    share_new: float


@dataclass(frozen=True)
class Control:
    """A word of about the same frequency on both sides, and how far it shifted."""

    word: str
    excess: float


@dataclass(frozen=True)
class WordShift:
    """One word between two sides."""

    word: str
    old: str
    new: str
    uses_old: int
    """Uses that were measured."""
    uses_new: int
    found_old: int
    """Uses that were met; more than were measured if they were sampled."""
    found_new: int
    test: ShiftTest | None
    """None where a side has too few uses."""
    senses: tuple[SenseShift, ...] = ()
    is_clear: bool = False
    """Whether the uses fall apart into senses by themselves."""
    before: tuple[Occurrence, ...] = ()
    """Old uses farthest from the new ones, the farthest first."""
    after: tuple[Occurrence, ...] = ()
    """New uses farthest from the old ones."""
    q: float = float("nan")
    """Benjamini-Hochberg q of p over all words and comparisons of the run; likewise the next two."""
    q_prt: float = float("nan")
    q_jsd: float = float("nan")
    controls: tuple[Control, ...] = ()

    @property
    def control(self) -> float | None:
        """The share of control words that shifted less; None without any."""
        if not self.controls or self.test is None:
            return None
        return sum(each.excess < self.test.excess for each in self.controls) / len(self.controls)


StoredSenses: TypeAlias = Callable[[str], tuple[tuple[str, ...], Vectors] | None]
"""Gives the names and centres (K, D) of a word's stored senses, None for a word without."""


def encode_found(
    found: FoundUses,
    *,
    encoder: UsageEncoder,
    options: ShiftOptions,
    stored: StoredSenses | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Iterator[WordUses]:
    """Encode the uses of words, some words at a time, and put each word's uses into senses.

    Args:
        found: The uses by word and group; a use without a vector is left out.
        encoder: What makes the vectors.
        options: Layer and seed.
        stored: Senses that are known already; uses go to the nearest of these.
        on_progress: Called with the number of uses done since its last call.

    Yields:
        The words in the order of ``found``; one without any vector has no uses.
    """
    for words in _batches(found):
        uses = {word: [each for side in found[word].values() for each in side.occurrences] for word in words}
        flat = [each.usage for word in words for each in uses[word]]
        vectors = encoder.encode_usages(flat, layer=options.layer)
        first = 0
        for word in words:
            own = vectors[first : first + len(uses[word])]
            first += len(uses[word])
            counts = {name: side.count for name, side in found[word].items()}
            yield _with_senses(word, *known_uses(uses[word], own), counts, seed=options.seed, stored=stored)
        if on_progress:
            on_progress(len(flat))


def measure_shift(uses: WordUses, comparison: Comparison, *, options: ShiftOptions, evidence: bool = True) -> WordShift:
    """Measure one word between two sides.

    Args:
        uses: The word's uses in all groups.
        comparison: The sides.
        options: How.
        evidence: Whether senses and uses that show the shift are wanted too.

    Returns:
        The shift, without q: that is known once all words are measured (``with_q``).
    """
    old, new = uses.members(comparison.old_groups), uses.members(comparison.new_groups)
    shift = WordShift(
        word=uses.word,
        old=comparison.old,
        new=comparison.new,
        uses_old=len(old),
        uses_new=len(new),
        found_old=sum(uses.counts.get(name, 0) for name in comparison.old_groups),
        found_new=sum(uses.counts.get(name, 0) for name in comparison.new_groups),
        test=None,
    )
    if min(len(old), len(new)) < options.min_uses:
        return shift
    labels = uses.clusters.labels
    test = shift_test(
        uses.vectors[old],
        uses.vectors[new],
        old_senses=labels[old],
        new_senses=labels[new],
        permutations=options.permutations,
        seed=options.seed,
    )
    if not evidence:
        return replace(shift, test=test)
    before, after = moved_uses(uses, old, new, number=options.num_examples)
    senses = _sense_shifts(uses, old, new)
    return replace(shift, test=test, senses=senses, is_clear=uses.is_clear, before=before, after=after)


def moved_uses(
    uses: WordUses, old: NDArray[np.intp], new: NDArray[np.intp], *, number: int
) -> tuple[tuple[Occurrence, ...], tuple[Occurrence, ...]]:
    """Return the old and the new uses that lie farthest along the way from the old mean to the new one."""
    way = uses.vectors[new].mean(axis=0) - uses.vectors[old].mean(axis=0)
    ends = []
    for side, sign in ((old, 1.0), (new, -1.0)):
        order = np.argsort(sign * (uses.vectors[side] @ way), kind="stable")
        texts: dict[str, Occurrence] = {}
        for n in order:
            each = uses.occurrences[side[n]]
            texts.setdefault(each.usage.text, each)
            if len(texts) == number:
                break
        ends.append(tuple(texts.values())[:number])
    return ends[0], ends[1]


def with_q(shifts: Sequence[WordShift]) -> list[WordShift]:
    """Add the Benjamini-Hochberg q values over all words and comparisons of a run."""
    tests = [shift.test for shift in shifts]
    columns = [
        adjusted_p_values([getattr(test, name) if test else float("nan") for test in tests])
        for name in ("p", "p_prt", "p_jsd")
    ]
    return [
        replace(shift, q=float(q), q_prt=float(q_prt), q_jsd=float(q_jsd))
        for shift, q, q_prt, q_jsd in zip(shifts, *columns, strict=True)
    ]


def most_shifted(shifts: Sequence[WordShift], *, number: int, level: float = 0.05) -> list[WordShift]:
    """Return the words that shifted most: those with q up to ``level`` first, then by excess; equal ones by word."""

    def rank(shift: WordShift) -> tuple[bool, float, str]:
        return not shift.q <= level, -(shift.test.excess if shift.test else -np.inf), shift.word

    return sorted((shift for shift in shifts if shift.test), key=rank)[:number]


def _batches(found: FoundUses) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for word, sides in found.items():
        number = sum(len(side.occurrences) for side in sides.values())
        if batch and size + number > BATCH_USES:
            yield batch
            batch, size = [], 0
        batch.append(word)
        size += number
    if batch:
        yield batch


def _with_senses(
    word: str,
    occurrences: list[Occurrence],
    vectors: Vectors,
    counts: Mapping[str, int],
    *,
    seed: int,
    stored: StoredSenses | None,
) -> WordUses:
    known = stored(word) if stored is not None else None
    of_one_form = without_forms(vectors, [word_form(each.usage.word) for each in occurrences])
    if known is not None:
        labels, unclear = nearest_centres(of_one_form, known[1])
        return WordUses(word, occurrences, vectors, counts, Clusters(labels, known[1], unclear), known[0])
    if not len(vectors):
        nothing = np.zeros(0, dtype=np.int64)
        return WordUses(word, [], vectors, counts, Clusters(nothing, vectors, nothing.astype(bool)), (), False)
    clusters, is_clear = cluster_uses(of_one_form, seed=seed), True
    if len(clusters) == 1 and len(vectors) >= 4:
        clusters, is_clear = cluster_uses(of_one_form, k=2, seed=seed), False
    names = tuple(f"{word}#{n + 1}" for n in range(len(clusters)))
    return WordUses(word, occurrences, vectors, counts, clusters, names, is_clear)


def _sense_shifts(uses: WordUses, old: NDArray[np.intp], new: NDArray[np.intp]) -> tuple[SenseShift, ...]:
    k = len(uses.clusters)
    counts = [np.bincount(uses.clusters.labels[side], minlength=k) for side in (old, new)]
    words = uses.sense_words()
    found = [
        SenseShift(
            uses.names[n], tuple(words[n]), int(a), int(b), float(a / counts[0].sum()), float(b / counts[1].sum())
        )
        for n, (a, b) in enumerate(zip(*counts, strict=True))
    ]
    return tuple(sorted(found, key=lambda sense: -abs(sense.share_new - sense.share_old)))

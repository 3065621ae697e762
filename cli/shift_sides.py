"""What `ctxembed shift` compares: two corpora, or one that a metadata column cuts into groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from ctxembed.errors import InvalidInputError
from ctxembed.text import is_content_word

from .progress import document_bar

if TYPE_CHECKING:
    from ctxembed.corpus import Corpus, ReadOptions
    from ctxembed.meaning.occurrences import FoundUses, Grouping
    from ctxembed.meaning.periods import Periods
    from ctxembed.types import Document


@dataclass(frozen=True)
class DistinctTexts:
    """The documents of a corpus whose text has not come before; restartable."""

    documents: Iterable[Document]

    def __iter__(self) -> Iterator[Document]:
        met: set[int] = set()
        for document in self.documents:
            key = hash(document.text)
            if key not in met:
                met.add(key)
                yield document


@dataclass(frozen=True)
class Sides:
    """The streams of a run, how each is cut into groups, and what is compared."""

    streams: tuple[tuple[Corpus, Grouping], ...]
    is_given: bool
    """Whether rows say themselves where their word is."""
    periods: Periods | None

    def find(self, words: dict[str, str] | None, *, most: int, seed: int, in_text: bool = False) -> FoundUses:
        """Find the uses of words in all streams: those that rows give, unless their texts are to be searched."""
        from ctxembed.meaning.occurrences import find_uses, given_uses

        found: FoundUses = {}
        with document_bar("reading") as advance:
            for corpus, group in self.streams:
                if words is None or (self.is_given and not in_text):
                    part = given_uses(corpus, words, group=group, most=most, seed=seed)
                else:
                    part = find_uses(self._texts(corpus), words, group=group, most=most, seed=seed, on_progress=advance)
                for word, sides in part.items():
                    found.setdefault(word, {}).update(sides)
        return found

    def count(self) -> dict[str, Counter[str]]:
        """Count the content words of all texts by group."""
        from ctxembed.meaning.occurrences import count_words

        counts: dict[str, Counter[str]] = {}
        with document_bar("counting") as advance:
            for corpus, group in self.streams:
                for name, part in count_words(self._texts(corpus), group=group, on_progress=advance).items():
                    counts.setdefault(name, Counter()).update(part)
        return counts

    def _texts(self, corpus: Corpus) -> Iterable[Document]:
        """Return the documents; of rows that give uses each text once, however many uses it has."""
        return DistinctTexts(corpus) if self.is_given else corpus

    def groups(self, names: Iterable[str]) -> list[str]:
        """Return groups in the order in which they are compared."""
        met = set(names)
        if self.periods is not None:
            return self.periods.ordered(met)
        return [name for name in ("old", "new") if name in met]


def open_sides(
    inputs: Sequence[str], reading: ReadOptions, *, by: str | None, every: float | None, cut: str | None
) -> Sides:
    """Open two corpora, or one that a column cuts into groups.

    Raises:
        InvalidInputError: Without --by, if there are not two inputs; or if --cut is no list of numbers.
    """
    from ctxembed.corpus import Corpus
    from ctxembed.meaning.occurrences import holds_given_uses
    from ctxembed.meaning.periods import Periods

    if by is None:
        if every is not None or cut is not None:
            raise click.UsageError("--every and --cut belong to --by: name the column")
        if len(inputs) != 2:
            raise InvalidInputError(
                f"{len(inputs)} inputs, need two to compare: give OLD and NEW, or one corpus and --by COLUMN"
            )
        corpora = [Corpus([path], options=reading) for path in inputs]
        given = [holds_given_uses(corpus) for corpus in corpora]
        if given[0] != given[1]:
            raise InvalidInputError(
                f"{inputs[given.index(True)]} has rows with start and end and {inputs[given.index(False)]} has not: "
                "give uses on both sides, or text on both"
            )
        return Sides(((corpora[0], lambda _: "old"), (corpora[1], lambda _: "new")), given[0], None)
    corpus = Corpus(list(inputs), options=reading)
    try:
        cuts = [float(part) for part in cut.split(",")] if cut else []
    except ValueError as error:
        raise InvalidInputError(f"--cut {cut!r} is no list of numbers: write 1860,1914,1945") from error
    periods = Periods(by, every=every, cuts=cuts)
    return Sides(((corpus, periods),), holds_given_uses(corpus), periods)


def frequent_words(counts: dict[str, Counter[str]], *, least: int, inflections: bool) -> dict[str, str]:
    """Return a table of forms of the content words that are frequent enough in every group."""
    from ctxembed.meaning.inflections import joined_counts

    total: Counter[str] = Counter()
    for each in counts.values():
        total.update(each)
    table = joined_counts(total)[1] if inflections else {form: form for form in total}
    by_group = []
    for each in counts.values():
        joined: Counter[str] = Counter()
        for form, count in each.items():
            joined[table[form]] += count
        by_group.append(joined)
    kept = {word for word in set(table.values()) if all(group[word] >= least for group in by_group)}
    if not kept:
        raise InvalidInputError(f"no word occurs {least} times in every group: lower --min-count, or use wider periods")
    return {form: word for form, word in sorted(table.items()) if word in kept}


def uses_at_most(forms: Sequence[str], counts: dict[str, Counter[str]], *, most: int) -> int:
    """Return how many uses of a word are kept at most: ``most`` of each group, or as many as it has there.

    Args:
        forms: Those that count for the word.
        counts: Of the content words by group; other words are taken to be everywhere.
        most: Uses kept in each group.
    """
    if not all(map(is_content_word, forms)):
        return most * len(counts)
    return sum(min(most, sum(group[form] for form in forms)) for group in counts.values())


def groups_with(forms: Iterable[str], counts: dict[str, Counter[str]]) -> set[str]:
    """Return the groups in which one of some forms occurs; all if one is no content word, which are not counted."""
    listed = list(forms)
    everywhere = not all(map(is_content_word, listed))
    return {name for name, group in counts.items() if everywhere or any(form in group for form in listed)}


def together(counts: dict[str, Counter[str]], groups: Sequence[str]) -> Counter[str]:
    """Return the counts of words in some groups as if they were one."""
    if len(groups) == 1:
        return counts.get(groups[0], Counter())
    total: Counter[str] = Counter()
    for name in groups:
        total.update(counts.get(name, Counter()))
    return total

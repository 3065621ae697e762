"""`ctxembed shift`: which words are used differently in two corpora, periods or communities, and how."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ctxembed.errors import InvalidInputError
from ctxembed.text import word_form

from .options import load_any, model_option, reading_options, refuse_idle, report_encoder, runtime_options, seed_option
from .output import emit, format_option, say
from .progress import document_bar
from .shift_output import evidence, rounded, shift_row, short_row
from .shift_sides import Sides, frequent_words, groups_with, open_sides, together, uses_at_most
from .words import html_option, inflections_option, plot_option, read_words, say_written, word_table

if TYPE_CHECKING:
    from ctxembed.corpus import ReadOptions
    from ctxembed.meaning.distances import ShiftTest
    from ctxembed.meaning.occurrences import FoundUses
    from ctxembed.meaning.periods import Against, Comparison
    from ctxembed.meaning.shift import ShiftOptions, StoredSenses, WordShift, WordUses
    from ctxembed.types import UsageEncoder

USES_OF_ALL = 100
"""Uses of each word and side with --top, where thousands of words are measured."""
USES_OF_NAMED = 5000
USES_OF_CONTROLS = 200
GIVEN_WITHIN = 4.0
"""Of given uses, how many times as frequent or as rare a control word may be: most of their texts are rarer."""
BLOCK_USES = 200_000
"""Uses held in memory at a time, unless those of one word are more."""


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="OLD NEW | INPUT...")
@click.option("--words", metavar="A,B,...", help="The words, with commas between them, or a file with one a line.")
@click.option(
    "--top", type=click.IntRange(min=1), metavar="N", help="The N words that shifted most, of all frequent enough."
)
@click.option("--min-count", type=click.IntRange(min=2), default=20, show_default=True,
              help="With --top: occurrences that a word needs in every group.")  # fmt: skip
@click.option("--by", metavar="COLUMN", help="Compare groups of one corpus by a metadata column, such as year.")
@click.option(
    "--every", type=click.FloatRange(min=0, min_open=True), metavar="N", help="With --by: periods of N (50 years)."
)
@click.option("--cut", metavar="A,B,...", help="With --by: where a new period begins, instead of --every.")
@click.option("--against", type=click.Choice(["next", "first", "rest", "all"]), default="next", show_default=True,
              help="With --by: compare each group with the next, the first, all others, or all pairs.")  # fmt: skip
@click.option(
    "--max-uses",
    type=click.IntRange(min=2),
    metavar="N",
    help="Uses of each word and side (group of --by), a sample by --seed of more; 5000, and 100 with --top.",
)
@click.option("--min-uses", type=click.IntRange(min=2), default=5, show_default=True,
              help="A word with fewer uses on a side is not tested.")  # fmt: skip
@click.option("--permutations", type=click.IntRange(min=1), default=1000, show_default=True,
              help="Of the tests; as many resamplings for the interval.")  # fmt: skip
@click.option("--controls", type=click.IntRange(min=0), default=5, show_default=True,
              help="Words of the same frequency to set beside each of --words; 0 leaves them out.")  # fmt: skip
@click.option("--senses", "sense_folder", type=click.Path(path_type=Path), metavar="FOLDER",
              help="Stored senses (`senses -o`): their shares are compared, under their names.")  # fmt: skip
@click.option(
    "--static", "with_static", is_flag=True, help="Add the distance by Word2Vec trained on each side and aligned."
)
@html_option
@plot_option
@click.option("--layer", type=int, help="Layer to read; the model's choice by default.")
@inflections_option
@seed_option
@model_option
@format_option
@reading_options
@runtime_options
def shift(
    inputs: tuple[str, ...],
    words: str | None,
    top: int | None,
    min_count: int,
    by: str | None,
    every: float | None,
    cut: str | None,
    against: Against,
    max_uses: int | None,
    min_uses: int,
    permutations: int,
    controls: int,
    sense_folder: Path | None,
    with_static: bool,
    html: Path | None,
    plot: Path | None,
    layer: int | None,
    inflections: bool,
    seed: int,
    model: str | None,
    output_format: str,
    reading: ReadOptions,
    device: str,
) -> None:
    """Measure how the use of words differs between two corpora, or between groups of one.

    Each row has the average pairwise distance (apd) with its bootstrap interval (low, high), what of it goes beyond
    the distances inside a side (excess), prototype distance (prt), divergence of sense shares (jsd), permutation
    p-values and Benjamini-Hochberg q over all rows. p and q without a name belong to excess. JSON has the evidence too:
    senses with their shares, the uses that moved most, and control words. Rows with text, word, start and end are uses
    as given; other text is searched for the words. Control words of given uses are other words of their texts.

    \b
    Example:
      ctxembed shift old.txt new.txt --words attack,plane --format json
      ctxembed shift speeches.jsonl --by year --every 50 --words union --html union.html
      ctxembed shift old.txt new.txt --top 50
    """
    if words is not None and top is not None:
        raise click.UsageError("--words and --top contradict each other: leave one out")
    if top is None:
        refuse_idle(("min_count",), "without --top")
    else:
        refuse_idle(("controls",), "with --top: they stand beside words that are named")
    if by is None:
        refuse_idle(("against",), "without --by")
    from ctxembed.meaning.shift import ShiftOptions, most_shifted, with_q

    sides = open_sides(inputs, reading, by=by, every=every, cut=cut)
    if words is None and top is None and not sides.is_given:
        raise click.UsageError("name the --words to measure, or ask for the --top ones")
    if words is None and sides.is_given:
        refuse_idle(("min_count", "inflections"), "for uses that are given, which are all measured")
    options = ShiftOptions(permutations=permutations, min_uses=min_uses, seed=seed, layer=layer)
    encoder = load_any(model, device=device)
    stored = stored_senses(sense_folder, encoder, layer=layer)
    most = max_uses or (USES_OF_NAMED if top is None else USES_OF_ALL)
    wanted = read_words(words) if words else None
    counts: dict[str, Counter[str]] = {}
    if (controls and top is None) or (not sides.is_given and (top is not None or may_exceed(wanted, sides, most=most))):
        counts = sides.count()
    run = Run(sides, encoder, options, against, stored, most, counts, keep_uses=html is not None or plot is not None)
    if top is None:
        shifts = run.in_order(run.measure(word_table(wanted, inflections) if wanted else None), wanted)
        if controls:
            shifts = run.with_controls(shifts, number=controls)
        shifts = with_q(shifts)
    else:
        table = None if sides.is_given else frequent_words(counts, least=min_count, inflections=inflections)
        if table is not None:
            say(f"{len(set(table.values())):,} words are frequent enough to be measured")
        shifts = most_shifted(with_q(run.measure(table)), number=top)
        run.keep_only({each.word for each in shifts})
    rows = [shift_row(each, is_timeline=by is not None) for each in shifts]
    if with_static:
        add_static(rows, shifts, sides, against=against, seed=seed)
    run.report(shifts)
    if output_format in ("json", "jsonl"):
        rows = [row | evidence(each) for row, each in zip(rows, shifts, strict=True)]
    emit(
        rows if output_format != "table" else [short_row(r, s) for r, s in zip(rows, shifts, strict=True)],
        output_format,
    )
    report_encoder(encoder)
    write_pictures(shifts, run, html=html, plot=plot)


def may_exceed(words: Sequence[str] | None, sides: Sides, *, most: int) -> bool:
    """Tell whether the uses of several words could be more than are held at a time: of groups nobody knows how many."""
    several = words is not None and len(words) > 1
    return several and (sides.periods is not None or 2 * most * len(words or ()) > BLOCK_USES)


@dataclass
class Run:
    """Measures words between the sides, block by block."""

    sides: Sides
    encoder: UsageEncoder
    options: ShiftOptions
    against: Against
    stored: StoredSenses | None
    most: int
    counts: dict[str, Counter[str]]
    """Of the content words of the texts, by group; empty if nothing needed them."""
    keep_uses: bool

    def __post_init__(self) -> None:
        self.uses: dict[str, WordUses] = {}
        """Kept for pictures only."""
        self.comparisons: list[Comparison] = []
        self.sampled: set[str] = set()
        """Words of which not all uses were measured."""

    def measure(self, table: dict[str, str] | None) -> list[WordShift]:
        """Measure the words of a table of forms, some at a time; all given ones without a table."""
        blocks = [table] if table is None or self.sides.is_given else self._blocks(table, most=self.most)
        if len(blocks) > 1 and table is not None:
            say(f"{len(blocks)} passes, for at most {BLOCK_USES:,} uses or one word at a time")
            self._compare(groups_with(table, self.counts))
        shifts: list[WordShift] = []
        for block in blocks:
            found = self.sides.find(block, most=self.most, seed=self.options.seed)
            if len(blocks) == 1:
                self._compare({name for sides in found.values() for name in sides})
            if self.comparisons:  # none for words that occur in one period at most
                self.sampled |= {
                    word for word, sides in found.items() if any(s.count > len(s.occurrences) for s in sides.values())
                }
                shifts += self._measured(found)
        return shifts

    def _blocks(self, table: dict[str, str], *, most: int) -> list[dict[str, str] | None]:
        """Cut a table of forms into parts whose words have few enough uses to be held at a time, one word at least."""
        if not self.counts:
            return [table]
        forms: dict[str, list[str]] = {}
        for form, word in table.items():
            forms.setdefault(word, []).append(form)
        blocks: list[dict[str, str] | None] = []
        block: dict[str, str] = {}
        held = 0
        for word, own in forms.items():
            number = uses_at_most(own, self.counts, most=most)
            if block and held + number > BLOCK_USES:
                blocks.append(block)
                block, held = {}, 0
            block |= dict.fromkeys(own, word)
            held += number
        return [*blocks, block]

    def _compare(self, names: Iterable[str]) -> None:
        """Decide what is compared, from the groups in which words occur."""
        from ctxembed.meaning.periods import comparisons

        groups = ["old", "new"] if self.sides.periods is None else self.sides.groups(names)
        if len(groups) >= 2:
            self.comparisons = comparisons(groups, against=self.against if self.sides.periods else "next")

    def _measured(self, found: FoundUses, *, are_controls: bool = False) -> list[WordShift]:
        """Measure words; of control words neither evidence is wanted nor a picture."""
        from ctxembed.meaning.shift import encode_found, measure_shift

        shifts = []
        total = sum(len(side.occurrences) for sides in found.values() for side in sides.values())
        with document_bar("uses", total=total, unit="use") as advance:
            for uses in encode_found(
                found, encoder=self.encoder, options=self.options, stored=self.stored, on_progress=advance
            ):
                shifts += [
                    measure_shift(uses, each, options=self.options, evidence=not are_controls)
                    for each in self.comparisons
                ]
                if self.keep_uses and not are_controls:
                    self.uses[uses.word] = uses
        return shifts

    def in_order(self, shifts: list[WordShift], wanted: Sequence[str] | None) -> list[WordShift]:
        """Put shifts in the order of the words asked for, with an empty row for one that does not occur."""
        from ctxembed.meaning.shift import WordShift

        if wanted is None:
            return sorted(shifts, key=lambda each: each.word)
        found: dict[str, list[WordShift]] = {}
        for each in shifts:
            found.setdefault(each.word, []).append(each)
        pairs = [(c.old, c.new) for c in self.comparisons] or [("old", "new")]
        empty = {word: [WordShift(word, old, new, 0, 0, 0, 0, None) for old, new in pairs] for word in wanted}
        return [each for word in wanted for each in found.get(word, empty[word])]

    def with_controls(self, shifts: list[WordShift], *, number: int) -> list[WordShift]:
        """Measure words of about the same frequency in both sides of each comparison, and set them beside."""
        from dataclasses import replace

        from ctxembed.meaning.shift import Control

        matched = self._matched(shifts, number=number)
        without = dict.fromkeys(shifts[n].word for n in sorted(matched) if not matched[n])
        if without:
            given = f"of the given texts occurs {1 / GIVEN_WITHIN:g} to {GIVEN_WITHIN:g} times as often"
            where = given if self.sides.is_given else "is on both sides"
            say(f"no control words for {', '.join(without)}: no other word {where}")
        needed = sorted(set(itertools.chain.from_iterable(matched.values())))
        if not needed:
            return shifts
        most = min(self.most, USES_OF_CONTROLS)
        measured: dict[tuple[str, str, str], ShiftTest | None] = {}
        for block in self._blocks({word: word for word in needed}, most=most):
            found = self.sides.find(block, most=most, seed=self.options.seed, in_text=True)
            measured |= {(c.word, c.old, c.new): c.test for c in self._measured(found, are_controls=True)}
        result = list(shifts)
        for n, names in matched.items():
            tests = [(name, measured.get((name, shifts[n].old, shifts[n].new))) for name in names]
            result[n] = replace(shifts[n], controls=tuple(Control(name, t.excess) for name, t in tests if t))
        return result

    def _matched(self, shifts: Sequence[WordShift], *, number: int) -> dict[int, list[str]]:
        """Return the control words of each shift that was tested, by its number."""
        from ctxembed.meaning.occurrences import matched_words

        taken = {each.word for each in shifts}
        within = GIVEN_WITHIN if self.sides.is_given else math.inf
        matched: dict[int, list[str]] = {}
        for each in self.comparisons:
            own = {n: s for n, s in enumerate(shifts) if s.test is not None and (s.old, s.new) == (each.old, each.new)}
            if not own:
                continue
            sides = {"old": together(self.counts, each.old_groups), "new": together(self.counts, each.new_groups)}
            for n, shift in own.items():
                found = {"old": shift.found_old, "new": shift.found_new}
                matched[n] = matched_words(sides, found, number=number, without=taken, within=within)
        return matched

    def keep_only(self, words: set[str]) -> None:
        """Forget the uses of other words."""
        self.uses = {word: uses for word, uses in self.uses.items() if word in words}

    def report(self, shifts: Sequence[WordShift]) -> None:
        """Say once what was sampled, what could not be tested, and what was left out."""
        sampled = [s.word for s in shifts if s.word in self.sampled]
        if sampled:
            names = ", ".join(dict.fromkeys(sampled))
            side = "group" if self.sides.periods is not None else "side"
            say(f"a sample of {self.most:,} uses of a {side} (seed {self.options.seed}) stands for all of: {names}")
        untested = [s.word for s in shifts if s.test is None]
        if untested:
            names = ", ".join(dict.fromkeys(untested))
            say(f"not tested, fewer than {self.options.min_uses} uses on a side: {names}")
        if self.sides.periods is not None and self.sides.periods.num_without:
            say(f"some documents have no {self.sides.periods.column} and were left out")


def stored_senses(folder: Path | None, encoder: UsageEncoder, *, layer: int | None) -> StoredSenses | None:
    """Open a folder of stored senses, if one is named."""
    if folder is None:
        return None
    from ctxembed.meaning.sense_folder import SenseFolder

    return SenseFolder.open(folder, layer=layer, encoder=encoder).centres_of


def add_static(
    rows: list[dict[str, Any]], shifts: Sequence[WordShift], sides: Sides, *, against: Against, seed: int
) -> None:
    """Add the distance of aligned Word2Vec vectors to each row; None for a word that one side does not know."""
    from ctxembed.meaning.alignment import GroupStream, aligned_distances
    from ctxembed.word2vec import StaticConfig, train_static

    if sides.is_given:
        raise InvalidInputError("--static needs running text on both sides: leave it out for given uses")
    if against == "rest" and sides.periods is not None:
        raise InvalidInputError("--static compares single groups: leave out --against rest")
    trained: dict[str, Any] = {}
    for name in dict.fromkeys(itertools.chain.from_iterable((s.old, s.new) for s in shifts)):
        streams = [GroupStream(corpus, group, frozenset([name])) for corpus, group in sides.streams]
        config = StaticConfig(dimension=100, min_count=5, epochs=10, seed=seed)
        trained[name] = train_static(_Chained(tuple(streams)), config=config)
    distances: dict[tuple[str, str], dict[str, float]] = {}
    for row, each in zip(rows, shifts, strict=True):
        pair = each.old, each.new
        if pair not in distances:
            distances[pair] = aligned_distances(trained[each.old], trained[each.new])
        row["static"] = rounded(distances[pair].get(word_form(each.word)))


@dataclass(frozen=True)
class _Chained:
    """Several restartable streams, one after the other."""

    streams: tuple[Iterable[Any], ...]

    def __iter__(self) -> Any:
        return itertools.chain.from_iterable(self.streams)


def write_pictures(shifts: Sequence[WordShift], run: Run, *, html: Path | None, plot: Path | None) -> None:
    """Write the page and the figure that are asked for."""
    if html is None and plot is None:
        return
    words = list(dict.fromkeys(each.word for each in shifts if each.test is not None))
    uses = [run.uses[word] for word in words]
    groups = run.sides.groups({name for each in uses for name in each.counts})
    if html is not None:
        from ctxembed.report.meaning import shift_page
        from ctxembed.report.page import write_page

        write_page(html, shift_page(shifts, uses, groups, seed=run.options.seed))
    if plot is not None and not uses:
        say(f"{plot} is not written: no word had enough uses to be measured, so there is nothing to draw")
        plot = None
    if plot is not None:
        from ctxembed.report.meaning_figures import shift_figure

        shift_figure(uses, groups, plot, seed=run.options.seed)
    say_written(html, plot)

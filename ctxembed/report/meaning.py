"""Pages on words: a map of their uses, shares of senses, concordances and trees. Letters: N uses, D width."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from ctxembed.meaning.clusters import Method, without_forms
from ctxembed.meaning.occurrences import Occurrence
from ctxembed.meaning.senses import WordSenses
from ctxembed.meaning.shift import WordShift, WordUses
from ctxembed.overview.projection import project
from ctxembed.report import charts, page
from ctxembed.text import word_form
from ctxembed.types import Vectors

MAP_USES = 400
TREE_USES = 30
LINES = 12
_STYLE = """
.kwic { font-variant-numeric: normal; }
.kwic td { border: 0; padding: .1rem .3rem; white-space: nowrap; }
.kwic td.left { text-align: right; }
"""


def senses_page(
    results: Sequence[WordSenses], *, k: int | None = None, method: Method = "k-means", seed: int = 1
) -> str:
    """Return a page on the senses of words: a table, then map, concordance and tree of each word.

    Args:
        results: The words.
        k: How many senses were asked for, None where that was found.
        method: How the uses were grouped.
        seed: Decides which uses are drawn.
    """
    rows = [
        {
            "sense": sense.id,
            "share": f"{sense.share:.0%}",
            "uses": sense.uses,
            "beside it": ", ".join(sense.words),
            "in its place": ", ".join(sense.substitutes),
            "gloss": sense.gloss or "",
        }
        for result in results
        for sense in result.senses
    ]
    note = (
        f"{_how_found(k, method)} "
        "Beside it: words that distinguish the sense. In its place: what a masked-word model would write."
    )
    parts = [page.section("Senses", page.table(rows), note=note)]
    for result in results:
        vectors = without_forms(result.vectors, [word_form(each.usage.word) for each in result.occurrences])
        names = result.ids()
        measures = [f"{len(names):,} uses", f"{result.unclear:.0%} unclear"]
        measures += [] if result.silhouette is None else [f"silhouette {result.silhouette:.2f}"]
        measures += [] if result.stability is None else [f"stability under resampling {result.stability:.2f}"]
        body = [
            charts.bars({s.id: s.share for s in result.senses}, caption=f"Share of each sense of {result.word}."),
            *_maps(result.occurrences, vectors, {"sense": names}, seed=seed),
            *_concordances(result.occurrences, names, order=[s.id for s in result.senses]),
            _tree(result.occurrences, vectors, names, seed=seed),
        ]
        parts.append(page.section(result.word, *body, note=", ".join(measures)))
    return page.render_page(f"Senses of {', '.join(r.word for r in results)}", parts, style=_STYLE)


def shift_page(shifts: Sequence[WordShift], uses: Sequence[WordUses], groups: Sequence[str], *, seed: int = 1) -> str:
    """Return a page on shifts: the numbers, then maps by sense and by period, shares, concordance and tree."""
    note = (
        "apd: mean distance of an old and a new use, with its 95 % bootstrap interval; excess: what of it goes beyond "
        "two uses of one side; prt: distance of the mean vectors; jsd: divergence of the sense shares, in bits; p: by "
        "permutation, of excess; q: Benjamini-Hochberg over all rows; control: share of words of the same frequency "
        "that shifted less."
    )
    parts = [page.section("Measures", page.table([_numbers(each) for each in shifts]), note=note)]
    if len(shifts) > 1 and any(each.test for each in shifts):
        tested = {f"{s.word} {s.old} to {s.new}" if len(groups) > 2 else s.word: s for s in shifts if s.test}
        values = {name: s.test.excess for name, s in tested.items() if s.test}
        parts.append(charts.bars(values, caption="Shift beyond the distances inside a side (excess of apd)."))
    by_word: dict[str, list[WordShift]] = {}
    for each in shifts:
        by_word.setdefault(each.word, []).append(each)
    parts += [page.section(each.word, *_word_parts(each, by_word[each.word], groups, seed=seed)) for each in uses]
    return page.render_page(f"Shift of {', '.join(w.word for w in uses[:8])}", parts, style=_STYLE)


def sense_shares(uses: WordUses, groups: Sequence[str]) -> NDArray[np.float64]:
    """Return the share of each sense in each group, (senses, groups); NaN for a group without uses."""
    shares = np.full((len(uses.names), len(groups)), np.nan)
    for column, name in enumerate(groups):
        labels = uses.clusters.labels[uses.members([name])]
        if len(labels):
            shares[:, column] = np.bincount(labels, minlength=len(uses.names)) / len(labels)
    return shares


def some_of(number: int, most: int, *, seed: int) -> NDArray[np.intp]:
    """Return at most so many of N numbers, a seeded sample in order."""
    return np.sort(np.random.default_rng(seed).permutation(number)[:most]).astype(np.intp)


def _how_found(k: int | None, method: Method) -> str:
    """Say how the number of senses and the uses of each were found."""
    if method == "hdbscan":
        return "HDBSCAN decided how many senses there are and which uses are of which."
    grouping = "agglomerative clustering" if method == "agglomerative" else method
    members = f"Which uses are of which was decided by {grouping}."
    if k is not None:
        return f"The number of senses ({k}) was given. {members}"
    return (
        "A group of uses is split as long as its halves stand clearly apart on uses that it was not learnt from. Where "
        "no gap parts the uses of a word, and they are less alike than those of one sense mostly are, there are as "
        f"many senses as two halves of the uses agree on best. {members}"
    )


def _numbers(each: WordShift) -> dict[str, object]:
    test = each.test
    row: dict[str, object] = {"word": each.word, "old": each.old, "new": each.new}
    row |= {"uses": f"{each.uses_old} / {each.uses_new}"}
    if test is None:
        return row | dict.fromkeys(("apd", "excess", "prt", "jsd", "p", "q", "control"), "")
    interval = f"{test.apd:.3f} ({test.low:.3f} to {test.high:.3f})"
    row |= {
        "apd": interval,
        "excess": test.excess,
        "prt": test.prt,
        "jsd": test.jsd,
        "p": f"{test.p:.3g}",
        "q": f"{each.q:.3g}",
    }
    return row | {"control": "" if each.control is None else f"{each.control:.0%}"}


def _word_parts(uses: WordUses, shifts: Sequence[WordShift], groups: Sequence[str], *, seed: int) -> list[Markup]:
    names = [uses.names[label] for label in uses.clusters.labels.tolist()]
    vectors = without_forms(uses.vectors, [word_form(each.usage.word) for each in uses.occurrences])
    present = [name for name in groups if uses.counts.get(name)]
    words = dict(zip(uses.names, uses.sense_words(), strict=True))
    rows = [
        {"sense": name, **{g: "" if np.isnan(s) else f"{s:.0%}" for g, s in zip(present, row, strict=True)},
         "beside it": ", ".join(words[name])}
        for name, row in zip(uses.names, sense_shares(uses, present), strict=True)
    ]  # fmt: skip
    parts = []
    if not uses.is_clear:
        parts.append(page.paragraph("The uses do not fall apart by themselves: two halves of them stand for senses."))
    parts += [page.table(rows, caption="Share of each sense."), *_share_lines(uses, present)]
    periods = [each.group for each in uses.occurrences]
    parts += _maps(uses.occurrences, vectors, {"sense": names, "period": periods}, seed=seed)
    for shift in shifts:
        if shift.before or shift.after:
            moved = [_concordance(shift.before), _concordance(shift.after)]
            heading = f"Uses that moved most, {shift.old} to {shift.new}"
            parts.append(page.details(heading, page.paragraph(f"Most unlike {shift.new}:", small=True), moved[0],
                                      page.paragraph(f"Most unlike {shift.old}:", small=True), moved[1]))  # fmt: skip
    parts += _concordances(uses.occurrences, names, order=list(uses.names))
    parts.append(_tree(uses.occurrences, vectors, names, seed=seed))
    return parts


def _share_lines(uses: WordUses, groups: Sequence[str]) -> list[Markup]:
    """Return the shares over time as lines, from three groups on; periods are numbered in their order."""
    if len(groups) < 3:
        return []
    shares = sense_shares(uses, groups)
    series = {
        name: [(float(n + 1), float(share)) for n, share in enumerate(row)]
        for name, row in zip(uses.names, shares, strict=True)
    }
    periods = ", ".join(f"{n + 1}: {name}" for n, name in enumerate(groups))
    return [
        charts.lines(
            series, x_label="period", y_label="share of uses", caption=f"Senses over time. Periods: {periods}."
        )
    ]


def _maps(
    occurrences: Sequence[Occurrence], vectors: Vectors, groupings: dict[str, list[str]], *, seed: int
) -> list[Markup]:
    some = some_of(len(occurrences), MAP_USES, seed=seed)
    places = project(vectors).points[some]
    texts = [f"{_snippet(occurrences[n])} ({occurrences[n].id})" for n in some]
    said = f" {len(some)} of {len(occurrences)} uses are shown." if len(some) < len(occurrences) else ""
    return [
        charts.scatter(
            places,
            texts=texts,
            groups=[names[n] for n in some],
            caption=f"Map of the uses by {kind}: near is used alike (the two directions of most variance).{said}",
        )
        for kind, names in groupings.items()
    ]


def _concordances(occurrences: Sequence[Occurrence], names: Sequence[str], *, order: Sequence[str]) -> list[Markup]:
    return [
        page.details(
            f"Concordance of {name}", _concordance([o for o, n in zip(occurrences, names, strict=True) if n == name])
        )
        for name in order
    ]


def _concordance(occurrences: Sequence[Occurrence]) -> Markup:
    """Return keyword-in-context lines, aligned at the word."""
    row = Markup('<tr><td class="left">{}</td><td><mark>{}</mark></td><td>{}</td><td class="note">{}</td></tr>')
    lines = [
        row.format(
            each.usage.text[max(0, each.usage.start - 48) : each.usage.start],
            each.usage.word,
            each.usage.text[each.usage.end : each.usage.end + 48],
            f"{each.group} {each.id}".strip(),
        )
        for each in occurrences[:LINES]
    ]
    return Markup('<table class="kwic"><tbody>{}</tbody></table>').format(Markup("\n").join(lines))


def _tree(occurrences: Sequence[Occurrence], vectors: Vectors, names: Sequence[str], *, seed: int) -> Markup:
    """Return a tree of some uses, joined by average linkage."""
    from scipy.cluster.hierarchy import linkage

    some = some_of(len(occurrences), TREE_USES, seed=seed)
    if len(some) < 2:
        return Markup("")
    return page.details(
        "Tree of some uses",
        charts.tree(
            linkage(vectors[some], method="average"),
            names=[_snippet(occurrences[n], around=22) for n in some],
            groups=[names[n] for n in some],
            caption=f"{len(some)} uses joined by average linkage: what meets far right is used differently.",
        ),
    )


def _snippet(each: Occurrence, *, around: int = 60) -> str:
    usage = each.usage
    left, right = usage.text[max(0, usage.start - around) : usage.start], usage.text[usage.end : usage.end + around]
    return f"{left}[{usage.word}]{right}"

"""`ctxembed index dedupe`, `cluster` and `map`: what an index holds as a whole. No model is needed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from ctxembed.errors import InvalidInputError

from .options import seed_option
from .output import emit, format_option, say
from .progress import document_bar

if TYPE_CHECKING:
    from ctxembed.overview.topics import Topics
    from ctxembed.search import SemanticSearch
    from ctxembed.types import Scalar
    from ctxembed.vectors import Row

WORDS_SHOWN = 8
ROWS_READ = 4096
SHORT = 160
"""Characters of a text shown over a point of the map."""

index_argument = click.argument("index", type=click.Path(path_type=Path))
topics_option = click.option(
    "--topics", type=click.IntRange(min=1), help="Topics wanted; by default half the square root of the rows, 2 to 50."
)


@click.command()
@index_argument
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.95,
    show_default=True,
    help="The cosine from which on two rows are near-duplicates.",
)
@format_option
def dedupe(index: Path, threshold: float, output_format: str) -> None:
    """List groups of near-duplicate rows, the largest first; nothing is changed.

    Rows are in one group if a chain of near-duplicates links them. The first row of a group stands for it: `of` is its
    id, `cosine` how near a row is to it. Every pair is compared, so time grows with the square of the rows.

    \b
    Example:
      ctxembed index dedupe idx/ --threshold 0.98 --format jsonl
    """
    from ctxembed.overview.blocks import IndexVectors
    from ctxembed.overview.duplicates import near_duplicate_groups

    with open_rows(index) as opened:
        numbers = opened.numbers()
        vectors = IndexVectors(opened, numbers)
        with document_bar("comparing") as advance:
            groups = near_duplicate_groups(vectors, threshold=threshold, on_progress=advance)
        rows = []
        for place, group in enumerate(groups, start=1):
            found = opened.rows(numbers[group])
            cosines = (vectors[group] @ vectors[group[:1]][0]).clip(-1.0, 1.0).tolist()
            rows += [
                {"group": place, "id": row.id, "of": found[0].id, "cosine": round(cosine, 6), "text": shown_text(row)}
                for row, cosine in zip(found, cosines, strict=True)
            ]
    emit(rows, output_format)
    say(f"{len(groups):,} groups of {len(rows):,} rows; {len(rows) - len(groups):,} rows could go")


@click.command()
@index_argument
@topics_option
@click.option("--typical", type=click.IntRange(min=1), default=3, show_default=True, help="Typical rows of each topic.")
@click.option("--rows", "each_row", is_flag=True, help="Print every row with its topic instead.")
@seed_option
@format_option
def cluster(index: Path, topics: int | None, typical: int, each_row: bool, seed: int, output_format: str) -> None:
    """Find topics: how many rows each has, the words that set it apart, and its most typical rows.

    \b
    Example:
      ctxembed index cluster idx/ --topics 12
      ctxembed index cluster idx/ --rows --format csv
    """
    with open_rows(index) as opened:
        numbers = opened.numbers()
        found = topics_of(opened, numbers, topics, seed)
        if each_row:
            labels, cosines = found.labels.tolist(), found.cosines.tolist()
            rows: list[dict[str, Any]] = [
                {"id": row.id, "topic": label + 1 or None, "cosine": round(cosine, 6), "text": shown_text(row)}
                for row, label, cosine in zip(stream_rows(opened, numbers), labels, cosines, strict=True)
            ]
        else:
            words = topic_words(opened, numbers, found)
            rows = [
                {
                    "topic": topic + 1,
                    "rows": int(size),
                    "words": words[topic],
                    "typical": [shown_text(row) for row in opened.rows(numbers[found.typical(topic, count=typical)])],
                }
                for topic, size in enumerate(found.sizes)
            ]
    if output_format == "table" and not each_row:
        rows = [row | {"typical": "\n".join(row["typical"])} for row in rows]
    emit(rows, output_format)
    without = int((found.labels < 0).sum())
    if without:
        say(f"{without:,} rows have no vector and no topic")


@click.command("map")
@index_argument
@click.option(
    "--html",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Where the page goes: one file that needs no network.",
)
@click.option(
    "--colour", "--color", "column", metavar="COLUMN", help="Metadata column to colour by; by default topics."
)
@click.option(
    "--rows",
    "most",
    type=click.IntRange(min=1),
    default=2000,
    show_default=True,
    help="Rows shown; a sample where the index has more.",
)
@topics_option
@seed_option
def map_(index: Path, html: Path, column: str | None, most: int, topics: int | None, seed: int) -> None:
    """Draw a map of the index: rows near each other in meaning lie near each other, as far as a plane can show it.

    The two directions of the largest variance are drawn (principal components); the page says how much of the
    differences they show. Hovering over a point shows its text.

    \b
    Example:
      ctxembed index map idx/ --html map.html
      ctxembed index map idx/ --html map.html --colour year
    """
    from ctxembed.overview.projection import name_groups, project
    from ctxembed.report.corpus_map import map_page
    from ctxembed.report.page import write_page

    with open_rows(index) as opened:
        numbers = opened.numbers()
        if not len(numbers):
            raise InvalidInputError(f"{index} holds no rows: there is nothing to draw")
        drawn = np.random.default_rng(seed).permutation(len(numbers))[:most]
        drawn.sort()
        rows = opened.rows(numbers[drawn])
        if column is None:
            found = topics_of(opened, numbers, topics, seed)
            words = topic_words(opened, numbers, found)
            values: list[Scalar] = [
                ", ".join(words[label][:3]) if label >= 0 else None for label in found.labels[drawn].tolist()
            ]
        else:
            values = [row.metadata.get(column) for row in rows]
            if not any(column in row.metadata for row in rows):
                names = sorted({name for row in rows for name in row.metadata})
                raise InvalidInputError(f"no row has a column {column!r}: the index has {', '.join(names) or 'none'}")
        projection = project(opened.vectors(numbers[drawn]))
    page = map_page(
        projection.points,
        texts=[f"{row.id}: {shown_text(row)[:SHORT]}" for row in rows],
        groups=name_groups(values),
        colour=column or "topic",
        share=projection.share,
        total=len(numbers),
    )
    write_page(html, page)
    say(f"{html}: {len(rows):,} of {len(numbers):,} rows, {100 * projection.share:.0f} % of the variance shown")


def open_rows(index: Path) -> SemanticSearch:
    """Open an index without a model."""
    from ctxembed.search import SemanticSearch

    return SemanticSearch.open(index)


def topics_of(opened: SemanticSearch, numbers: Any, count: int | None, seed: int) -> Topics:
    """Group all rows of an index."""
    from ctxembed.overview.blocks import IndexVectors
    from ctxembed.overview.topics import default_number, find_topics

    return find_topics(IndexVectors(opened, numbers), count=count or default_number(len(numbers)), seed=seed)


def topic_words(opened: SemanticSearch, numbers: Any, found: Topics) -> list[list[str]]:
    """Return the distinctive words of each topic."""
    from ctxembed.overview.topics import distinctive_words

    texts = (shown_text(row) for row in stream_rows(opened, numbers))
    return distinctive_words(texts, found.labels.tolist(), count=WORDS_SHOWN, num_topics=len(found.centroids))


def stream_rows(opened: SemanticSearch, numbers: Any) -> Iterator[Row]:
    """Yield rows in order, some thousand in memory at a time."""
    for start in range(0, len(numbers), ROWS_READ):
        yield from opened.rows(numbers[start : start + ROWS_READ])


def shown_text(row: Row) -> str:
    """Return a row's text, or the word or token that it is."""
    return row.text if row.start is None else row.text[row.start : row.end]

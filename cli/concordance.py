"""Searching an index of words: hits as rows, or as keyword-in-context lines on a terminal."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ctxembed.errors import InvalidInputError
from ctxembed.text import parse_usage, word_form

from .options import load_any, report_encoder, stacked
from .output import emit

if TYPE_CHECKING:
    from ctxembed.meaning.word_index import WordIndex
    from ctxembed.types import Hit, Vectors

WIDTH = 110
_SENSE = re.compile(r"\S+#\d+")

concordance_options = stacked(
    click.option("--same-word", is_flag=True, help="Index of words: only uses of the marked word."),
    click.option("--other-words", is_flag=True, help="Index of words: only uses of other words."),
    click.option(
        "--skip",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="Index of words: leave out so many of the best hits, the pages before.",
    ),
    click.option(
        "--senses",
        "sense_folder",
        type=click.Path(path_type=Path),
        metavar="FOLDER",
        help="Index of words: stored senses (`senses -o`), for a QUERY such as bank#2.",
    ),
)
CONCORDANCE_OPTIONS = ("same_word", "other_words", "skip", "sense_folder")


def holds_words(index: Path) -> bool:
    """Tell whether a folder is an index of words; whatever else is wrong with it is found when it is opened."""
    from ctxembed.vectors import MANIFEST

    try:
        record = json.loads((index / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and record.get("unit") in ("word", "content-word")


def search_words(
    index: Path,
    query: str,
    *,
    k: int,
    where: str | None,
    same_word: bool,
    other_words: bool,
    skip: int,
    sense_folder: Path | None,
    model: str | None,
    device: str,
    output_format: str,
) -> None:
    """Print the uses nearest to a marked use or a stored sense."""
    from ctxembed.meaning.word_index import WordIndex

    if same_word and other_words:
        raise click.UsageError("--same-word and --other-words contradict each other: leave one out")
    encoder = load_any(model, device=device)
    with WordIndex.open(index, encoder=encoder) as opened:
        vector, forms = query_vector(opened, query, sense_folder=sense_folder, encoder=encoder)
        hits = opened.search(
            vector, k=k, only=forms if same_word else (), without=forms if other_words else (), where=where, skip=skip
        )
    print_uses(hits, output_format)
    report_encoder(encoder)


def query_vector(
    opened: WordIndex, query: str, *, sense_folder: Path | None, encoder: Any
) -> tuple[Vectors, list[str]]:
    """Return the vector of a marked use, or of a stored sense, and the form of its word."""
    if sense_folder is not None:
        from ctxembed.meaning.sense_folder import SenseFolder

        if not _SENSE.fullmatch(query):
            raise InvalidInputError(f"{query!r} is no sense: with --senses, name one such as bank#2")
        kept = SenseFolder.open(sense_folder, layer=opened.layer, encoder=encoder)
        return kept.centre(query), [query.rpartition("#")[0]]
    if _SENSE.fullmatch(query):
        raise InvalidInputError(f"{query} is a sense: name the folder that keeps it with --senses")
    usage = parse_usage(query)
    return opened.encode(usage), [word_form(usage.word)]


def print_uses(hits: Sequence[Hit], output_format: str) -> None:
    """Print hits; a table is a concordance, aligned at the word."""
    if output_format == "table":
        print_concordance(hits)
    else:
        emit([use_row(hit) for hit in hits], output_format)


def use_row(hit: Hit) -> dict[str, Any]:
    """Return a hit with its word and place."""
    return {
        "id": hit.id,
        "score": round(hit.score, 6),
        "text": hit.text,
        "word": hit.text[hit.start : hit.end],
        "start": hit.start,
        "end": hit.end,
        "metadata": dict(hit.metadata),
    }


def print_concordance(hits: Sequence[Hit]) -> None:
    """Print keyword-in-context lines: score, context, the word, context, then id and metadata."""
    if not hits:
        click.echo("no results", err=True)
        return
    width = shutil.get_terminal_size((WIDTH + 40, 24)).columns if sys.stdout.isatty() else WIDTH + 40
    words = [hit.text[hit.start : hit.end] for hit in hits]
    widest = min(max(map(len, words)), 24)
    side = max(16, (width - widest - 48) // 2)
    for hit, word in zip(hits, words, strict=True):
        left = flat(hit.text[: hit.start])[-side:].rjust(side)
        right = flat(hit.text[hit.end :])[:side].ljust(side)
        shown = click.style(word, bold=True, reverse=True) if sys.stdout.isatty() else f"[{word}]"
        padding = " " * (widest - len(word))
        values = "  ".join(f"{key}={value}" for key, value in hit.metadata.items() if value not in (None, ""))
        click.echo(f"{hit.score:.3f}  {left}{shown}{right}{padding}  {hit.id}  {values}".rstrip())


def flat(text: str) -> str:
    """Return a text on one line, every white space one space."""
    return "".join(" " if character.isspace() else character for character in text)

"""`ctxembed neighbours`: which words are used like this word here."""

from __future__ import annotations

from pathlib import Path

import click

from .concordance import query_vector, use_row
from .options import load_any, model_option, report_encoder, runtime_options
from .output import emit, format_option


@click.command()
@click.argument("index", type=click.Path(path_type=Path))
@click.argument("query")
@click.option("-k", type=click.IntRange(min=1), default=10, show_default=True, help="Words wanted.")
@click.option("--where", metavar="CONDITION", help="Only uses whose metadata satisfies it, such as: year >= 1990.")
@click.option("--senses", "sense_folder", type=click.Path(path_type=Path), metavar="FOLDER",
              help="Stored senses (`senses -o`), for a QUERY such as bank#2.")  # fmt: skip
@model_option
@format_option
@runtime_options
def neighbours(
    index: Path,
    query: str,
    k: int,
    where: str | None,
    sense_folder: Path | None,
    model: str | None,
    output_format: str,
    device: str,
) -> None:
    """Find the words that are used like a marked word, each once, at its nearest use.

    INDEX is one of words (`index build --unit word`).

    \b
    Example:
      ctxembed neighbours widx/ "the [bank] of the river" -k 5
    """
    from ctxembed.meaning.word_index import WordIndex
    from ctxembed.text import word_form

    encoder = load_any(model, device=device)
    with WordIndex.open(index, encoder=encoder) as opened:
        vector, forms = query_vector(opened, query, sense_folder=sense_folder, encoder=encoder)
        hits = opened.neighbours(vector, k=k, without=forms, where=where)
    rows = [use_row(hit) for hit in hits]
    emit([{"word": word_form(row.pop("word")), **row} for row in rows], output_format)
    report_encoder(encoder)

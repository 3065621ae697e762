"""`ctxembed compare`: one word in several contexts, beside its static lookup."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from ctxembed.text import find_usage, parse_usage, word_form, word_forms

from .options import (
    READING,
    load_any,
    load_static,
    model_option,
    reading_options,
    refuse_idle,
    report_encoder,
    runtime_options,
)
from .output import format_option, print_table, say
from .progress import document_bar

if TYPE_CHECKING:
    from ctxembed.corpus import ReadOptions
    from ctxembed.meaning.compare import Comparison
    from ctxembed.meaning.usages import Background
    from ctxembed.types import Usage, UsageEncoder, Vectors

SAMPLE_CORPUS = "the sample corpus"


@dataclass(frozen=True, kw_only=True)
class Names:
    """What a comparison was made with: the encoder, the static vectors, and where nearest words come from."""

    model: str
    static: str | None
    background: str | None


@click.command()
@click.argument("uses", nargs=-1, required=True, metavar="USE...")
@click.option("--word", help="The word to compare, where it is not marked with [brackets].")
@click.option("--static", metavar="FOLDER", help="Static vectors to set beside; those that ship by default.")
@click.option("--no-static", is_flag=True, help="Leave the static vectors out.")
@click.option(
    "--corpus",
    multiple=True,
    metavar="INPUT",
    help="Where the nearest words come from; the sample corpus that ships by default.",
)
@click.option(
    "--nearest",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    help="Nearest words for each use; 0 leaves them out.",
)
@click.option("--layer", type=int, help="Layer to read; the model's choice by default.")
@model_option
@format_option
@reading_options
@runtime_options
def compare(
    uses: tuple[str, ...],
    word: str | None,
    static: str | None,
    no_static: bool,
    corpus: tuple[str, ...],
    nearest: int,
    layer: int | None,
    model: str | None,
    output_format: str,
    reading: ReadOptions,
    device: str,
) -> None:
    """Compare uses of a word: how alike they are in context, beside the static lookup that cannot tell.

    Mark the word in each USE with square brackets, or name it with --word. - reads uses from stdin, one a line.

    \b
    Example:
      ctxembed compare "the [bank] of the river" "the [bank] lent money" "we fished from the muddy [bank]"
      ctxembed compare --word cell "he was locked in a cell" "the cell divides" --format json
    """
    if static is not None and no_static:
        raise click.UsageError("--static and --no-static contradict each other: leave one out")
    if not corpus:
        refuse_idle(READING, "without --corpus")
    from ctxembed.meaning.compare import compare_usages

    usages = [read_usage(use, word) for use in expand_stdin(uses)]
    encoder = load_any(model, device=device)
    lookup = None if no_static else load_static(static)
    background = load_background(encoder, corpus, reading=reading, layer=layer) if nearest else None
    result = compare_usages(
        usages, encoder=encoder, static=lookup, background=background, k=max(1, nearest), layer=layer
    )
    names = Names(
        model=encoder.name,
        static=lookup.name if lookup else None,
        background=(", ".join(corpus) or SAMPLE_CORPUS) if nearest else None,
    )
    if output_format == "table":
        print_comparison(result, names)
    elif output_format == "json":
        click.echo(json.dumps(comparison_record(result, names), ensure_ascii=False, indent=2))
    else:
        from .output import emit

        emit(pair_rows(result), output_format)
    report_encoder(encoder)


def read_usage(use: str, word: str | None) -> Usage:
    """Read a marked use, or find the word in one that does not mark it; other brackets are only text then."""
    if word is None:
        return parse_usage(use)
    is_marked = f"[{word.casefold()}]" in use.casefold()
    is_elsewhere = word_form(word) in word_forms(use)
    return parse_usage(use) if "[" in use and (is_marked or not is_elsewhere) else find_usage(use, word)


def expand_stdin(uses: tuple[str, ...]) -> list[str]:
    """Replace - by the lines of stdin."""
    from ctxembed.corpus import Corpus

    expanded: list[str] = []
    for use in uses:
        expanded += [document.text.strip() for document in Corpus("-")] if use == "-" else [use]
    return expanded


def load_background(
    encoder: UsageEncoder, corpus: tuple[str, ...], *, reading: ReadOptions | None = None, layer: int | None = None
) -> Background:
    """Load the word occurrences that nearest words come from; computed once for a model and a corpus."""
    from ctxembed.corpus import Corpus
    from ctxembed.meaning.usages import Background
    from ctxembed.runtime import data_directory

    documents = Corpus(list(corpus), options=reading) if corpus else Corpus(data_directory() / "corpora/sample.jsonl")
    with document_bar("background") as advance:
        return Background.load(documents, encoder=encoder, layer=layer, on_progress=advance)


def letter(number: int) -> str:
    """Name uses A, B, ... Z, A1, B1, ..."""
    return chr(ord("A") + number % 26) + (str(number // 26) if number >= 26 else "")


def print_comparison(result: Comparison, names: Names) -> None:
    """Print the uses, both matrices and the nearest words as tables."""
    print_table([{"use": letter(n), "text": marked(usage)} for n, usage in enumerate(result.usages)])
    print_matrix(f"in context: {names.model}", result.contextual)
    if result.static is not None:
        print_matrix(f"static lookup: {names.static}", result.static)
        with_itself = result.static.diagonal()
        unknown = [usage.word for usage, value in zip(result.usages, with_itself, strict=True) if value != value]
        if unknown:
            say(f"no static vector for: {', '.join(dict.fromkeys(unknown))}")
    if any(result.nearest):
        rows = [
            {
                "use": letter(n),
                "words": ", ".join(f"{near.word} {near.similarity:.2f}" for near in words),
            }
            for n, words in enumerate(result.nearest)
        ]
        click.echo(f"\nused most like it in {names.background}")
        print_table(rows)


def print_matrix(title: str, matrix: Vectors) -> None:
    """Print a similarity matrix with letters for rows and columns; a word without vector shows as a dash."""
    click.echo(f"\n{title}")
    rows: list[dict[str, Any]] = []
    for number, values in enumerate(matrix):
        cells = {letter(column): f"{value:.2f}" if value == value else "-" for column, value in enumerate(values)}
        rows.append({" ": letter(number), **cells})
    print_table(rows)


def marked(usage: Usage) -> str:
    """Write a use with its word in brackets."""
    return f"{usage.text[: usage.start]}[{usage.word}]{usage.text[usage.end :]}"


def comparison_record(result: Comparison, names: Names) -> dict[str, Any]:
    """Return a comparison as JSON can hold it; null where there is no static vector."""
    uses: list[dict[str, Any]] = []
    for number, usage in enumerate(result.usages):
        near = result.nearest[number] if result.nearest else ()
        words = [
            {"word": n.word, "similarity": round(n.similarity, 6), "text": n.text, "start": n.start, "end": n.end}
            for n in near
        ]
        uses.append({"word": usage.word, "text": usage.text, "start": usage.start, "end": usage.end, "nearest": words})
    return {
        "model": names.model,
        "static_model": names.static,
        "background": names.background,
        "uses": uses,
        "contextual": matrix_lists(result.contextual),
        "static": None if result.static is None else matrix_lists(result.static),
    }


def matrix_lists(matrix: Vectors) -> list[list[float | None]]:
    """Return a matrix as lists, NaN as None."""
    return [[round(float(value), 6) if value == value else None for value in row] for row in matrix]


def pair_rows(result: Comparison) -> list[dict[str, Any]]:
    """Return a row for each pair of uses."""
    contextual, static = (
        matrix_lists(result.contextual),
        matrix_lists(result.static) if result.static is not None else None,
    )
    return [
        {
            "first": marked(result.usages[i]),
            "second": marked(result.usages[j]),
            "contextual": contextual[i][j],
            "static": static[i][j] if static else None,
        }
        for i in range(len(result.usages))
        for j in range(i + 1, len(result.usages))
    ]

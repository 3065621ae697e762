"""`ctxembed compare`: one word in several contexts, beside its static lookup."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ctxembed.errors import InvalidInputError

from .compare_measure import print_cues, print_reliability
from .compare_output import (
    findings_record,
    influence_rows,
    layer_rows,
    pair_rows,
    print_findings,
    sense_rows,
    swap_rows,
)
from .compare_uses import corpus_usages, expand_stdin, file_usages, read_usage
from .options import (
    READING,
    given_options,
    load_any,
    load_static,
    model_option,
    open_corpus,
    reading_options,
    refuse_idle,
    report_encoder,
    runtime_options,
    seed_option,
)
from .output import emit, format_option, say
from .progress import document_bar

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ctxembed.calibration import Calibration
    from ctxembed.corpus import Corpus, ReadOptions
    from ctxembed.meaning.compare import Findings, LayerSimilarities
    from ctxembed.meaning.occlusion import Occlusion
    from ctxembed.meaning.usages import Background
    from ctxembed.types import Document, Usage, UsageEncoder

SAMPLE_CORPUS = "the sample corpus"
OF_USES = ("word", "max_uses", "why", "occlude", "swaps", "nearest", "views", "sense_folder", "raw", "html")
"""The names of the options that say what is found out about uses."""
MOST_BACKGROUND = 5000
"""Documents of a corpus that nearest words and percentiles come from; of a larger one a sample is drawn."""


def parse_swaps(_: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Read OLD=NEW pairs."""
    swaps = []
    for value in values:
        old, equals, new = value.partition("=")
        if not (equals and old.strip() and new.strip()):
            raise click.BadParameter(f"{value!r}: write it as OLD=NEW, such as river=loan", param=parameter)
        swaps.append((old.strip(), new.strip()))
    return tuple(swaps)


def parse_views(_: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Read "all" (an empty tuple), or layers by number with commas between them."""
    if value is None or value == "all":
        return None if value is None else ()
    try:
        return tuple(int(part) for part in value.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{value!r}: write all, or numbers such as 0,3,6", param=parameter) from error


@click.command()
@click.argument("uses", nargs=-1, metavar="[USE...]")
@click.option("--word", help="The word to compare, where it is not marked with [brackets].")
@click.option(
    "--file",
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Uses in a file, a row each: text with columns word, or start and end, or a word marked in the text.",
)
@click.option("--static", metavar="FOLDER", help="Static vectors to set beside; those that ship by default.")
@click.option("--no-static", is_flag=True, help="Leave the static vectors out.")
@click.option(
    "--corpus",
    multiple=True,
    metavar="INPUT",
    help="Where nearest words and percentiles come from (a sample of more than 5,000 documents), and with --word and "
    "no USE the uses themselves; the sample corpus that ships by default.",
)
@click.option(
    "--max-uses",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Most uses to take from --corpus; of more a sample is drawn.",
)
@click.option("--why", is_flag=True, help="Leave out each context word in turn: how far does the word's vector move?")
@click.option(
    "--occlude",
    type=click.Choice(["delete", "mask"]),
    default="delete",
    show_default=True,
    help="How --why leaves a word out: delete it, or put a blank in its place.",
)
@click.option(
    "--swap",
    "swaps",
    multiple=True,
    metavar="OLD=NEW",
    callback=parse_swaps,
    help="Replace a context word: how far does the word's vector drift? Repeatable.",
)
@click.option(
    "--nearest",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    help="Nearest words for each use; 0 leaves them out.",
)
@click.option("--layer", type=int, help="Layer to read; the model's choice by default.")
@click.option(
    "--layers",
    "views",
    metavar="all|N,N...",
    callback=parse_views,
    help="Compare layer by layer too: where do the senses part?",
)
@click.option(
    "--senses",
    "sense_folder",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Stored senses (`senses -o`): which of its word's is each use nearest to?",
)
@click.option("--raw", is_flag=True, help="Similarities alone: no probabilities and percentiles.")
@click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Also write one offline page with pictures: matrices, a map, layers, the words that matter.",
)
@click.option(
    "--measure",
    type=click.Choice(["reliability", "why"]),
    help="Instead measure, on sets that ship, how true the probabilities are, or how often --why finds what decides.",
)
@model_option
@format_option
@reading_options
@seed_option
@runtime_options
def compare(
    uses: tuple[str, ...],
    word: str | None,
    file: Path | None,
    static: str | None,
    no_static: bool,
    corpus: tuple[str, ...],
    max_uses: int,
    model: str | None,
    layer: int | None,
    output_format: str,
    reading: ReadOptions,
    seed: int,
    device: str,
    html: Path | None,
    measure: str | None,
    **wanted: Any,
) -> None:
    """Compare uses of a word: how alike they are in context, beside the static lookup that cannot tell.

    Mark the word in each USE with square brackets, or name it with --word. - reads uses from stdin, one a line.
    jsonl and csv print a row for each pair of uses; with --why, --swap, --layers or --senses, rows of that kind.

    \b
    Example:
      ctxembed compare "the [bank] of the river" "the [bank] lent money" "we fished from the muddy [bank]"
      ctxembed compare "the [bank] of the river" "the [bank] lent money" --why --swap river=loan
      ctxembed compare --word cell "he was locked in a cell" "the cell divides" --format json
      ctxembed compare --corpus notes.jsonl --word bank --max-uses 12
    """
    if static is not None and no_static:
        raise click.UsageError("--static and --no-static contradict each other: leave one out")
    if not corpus and file is None:
        refuse_idle(READING, "without --corpus or --file")
    if measure and (uses or file or corpus):
        raise click.UsageError("--measure uses the sets that ship: leave uses, --file and --corpus out")
    if [*uses, str(file), *corpus].count("-") > 1:
        raise click.UsageError("- is given more than once, and stdin can be read once: name a file for the other")
    opened = open_corpus(corpus, reading) if corpus else None
    if measure:
        refuse_idle(OF_USES, "with --measure")
    if measure == "why":
        refuse_idle(("static", "no_static"), "with --measure why")
    if output_format in ("jsonl", "csv"):
        refuse_mixture()
    usages = []
    if not measure:
        usages = gather(uses, word=word, file=file, corpus=opened, most=max_uses, reading=reading, seed=seed)
    encoder = load_any(model, device=device)
    if measure == "why":
        print_cues(encoder, model=model, layer=layer, output_format=output_format)
        return
    lookup = None if no_static else load_static(static)
    if measure == "reliability":
        print_reliability([encoder] if lookup is None else [encoder, lookup], layer=layer, output_format=output_format)
        return
    needed = wanted["nearest"] or not wanted["raw"]
    documents = background_documents(opened, seed=seed) if opened is not None and needed else None
    found = find_out(
        usages,
        encoder=encoder,
        static=lookup,
        layer=layer,
        documents=documents,
        background_name=", ".join(corpus) or SAMPLE_CORPUS,
        **wanted,
    )
    show(found, output_format)
    report_encoder(encoder)
    if html is not None:
        from ctxembed.report.comparison import comparison_page
        from ctxembed.report.page import write_page

        write_page(html, comparison_page(found))
        say(f"wrote {html}")


def refuse_mixture() -> None:
    """Refuse options whose rows differ where all rows have to be of one kind."""
    asked = given_options(("why", "swaps", "views", "sense_folder"))
    if len(asked) > 1:
        raise click.UsageError(f"{' and '.join(asked)} have rows of different kinds: use --format json, or one of them")


def gather(
    uses: tuple[str, ...],
    *,
    word: str | None,
    file: Path | None,
    corpus: Corpus | None,
    most: int,
    reading: ReadOptions,
    seed: int,
) -> list[Usage]:
    """Return the uses given as arguments and in a file; where there are none, those of the word in the corpus."""
    if uses or file is not None:
        refuse_idle(("max_uses",), "with uses that are given: they are all compared")
        given = [read_usage(use, word) for use in expand_stdin(uses)]
        return given + ([] if file is None else file_usages(file, word, reading))
    if corpus is None or word is None:
        raise click.UsageError(
            'nothing to compare: give uses such as "the [bank] of the river", or --file, or --corpus and --word'
        )
    usages, count = corpus_usages(corpus, word, most=most, seed=seed)
    if count > len(usages):
        say(f"{len(usages)} of the {count:,} documents with {word!r}, drawn with seed {seed}")
    return usages


def background_documents(corpus: Corpus, *, seed: int) -> Sequence[Document]:
    """Return the documents of the corpus given, or a sample of a large one."""
    from ctxembed.corpus import sample_documents

    documents = sample_documents(corpus, size=MOST_BACKGROUND, seed=seed)
    if len(documents) < corpus.counts.documents:
        say(f"the background is a sample of {len(documents):,} of {corpus.counts.documents:,} documents")
    return documents


def find_out(
    usages: Sequence[Usage],
    *,
    encoder: UsageEncoder,
    static: UsageEncoder | None,
    documents: Iterable[Document] | None,
    background_name: str,
    layer: int | None,
    nearest: int,
    why: bool,
    occlude: Occlusion,
    swaps: Sequence[tuple[str, str]],
    views: tuple[int, ...] | None,
    sense_folder: Path | None,
    raw: bool,
) -> Findings:
    """Compute everything that was asked for."""
    from ctxembed.meaning.compare import Findings, compare_usages
    from ctxembed.meaning.occlusion import explain_usages, swap_words
    from ctxembed.meaning.sense_folder import SenseFolder

    if not why:
        refuse_idle(("occlude",), "without --why")
    kept = None if sense_folder is None else SenseFolder.open(sense_folder, layer=layer, encoder=encoder)
    background = load_background(encoder, documents, layer=layer) if nearest or not raw else None
    words = background if nearest else None
    result = compare_usages(usages, encoder=encoder, static=static, background=words, k=max(1, nearest), layer=layer)
    explained = explain_usages(usages, encoder=encoder, how=occlude, layer=layer) if why else []
    return Findings(
        comparison=result,
        model=encoder.name,
        static_model=static.name if static else None,
        background=background_name if background is not None else None,
        calibration=None if raw else scale_of(encoder, layer=layer, background=background),
        static_calibration=None if raw or static is None else scale_of(static),
        why=tuple(map(tuple, explained)),
        swaps=tuple(swap_words(usages, swaps, encoder=encoder, layer=layer)) if swaps else (),
        senses=() if kept is None else tuple(kept.nearest(usages, result.vectors)),
        layers=() if views is None else layer_views(usages, encoder=encoder, layers=views, raw=raw),
    )


def scale_of(
    encoder: UsageEncoder, *, layer: int | None = None, background: Background | None = None
) -> Calibration | None:
    """Return the scale of an encoder's similarities, or say why there is none: it knows no English, say."""
    from ctxembed.evaluation.calibrating import calibrate

    try:
        return calibrate(encoder, layer=layer, background=None if background is None else background.vectors)
    except InvalidInputError as error:
        say(f"no calibrated scale: {error}")
        return None


def layer_views(
    usages: Sequence[Usage], *, encoder: UsageEncoder, layers: tuple[int, ...], raw: bool
) -> tuple[LayerSimilarities, ...]:
    """Compare the uses in each layer, on a scale of its own.

    Raises:
        InvalidInputError: If the encoder has no layers, or not these.
    """
    from dataclasses import replace

    from ctxembed.meaning.compare import layer_similarities

    count = getattr(encoder, "num_layers", None)
    if count is None:
        raise InvalidInputError(f"{encoder.name} has no layers to compare: leave --layers out, or choose an encoder")
    numbers = layers or tuple(range(count + 1))
    views = layer_similarities(usages, encoder=encoder, layers=numbers)
    if raw:
        return tuple(views)
    return tuple(replace(view, calibration=scale_of(encoder, layer=view.layer)) for view in views)


def load_background(
    encoder: UsageEncoder, documents: Iterable[Document] | None = None, *, layer: int | None = None
) -> Background:
    """Load the word occurrences that nearest words come from, by default those of the sample corpus.

    They are computed once for a model and a corpus.
    """
    from ctxembed.corpus import Corpus
    from ctxembed.meaning.usages import Background
    from ctxembed.runtime import data_directory

    if documents is None:
        documents = Corpus(data_directory() / "corpora/sample.jsonl")
    with document_bar("background") as advance:
        return Background.load(documents, encoder=encoder, layer=layer, on_progress=advance)


def show(found: Findings, output_format: str) -> None:
    """Print the findings; rows are of one kind, so jsonl and csv take one of --why, --swap, --layers and --senses."""
    if output_format == "table":
        print_findings(found)
    elif output_format == "json":
        click.echo(json.dumps(findings_record(found), ensure_ascii=False, indent=2))
    else:
        kinds = (found.why, influence_rows), (found.swaps, swap_rows), (found.layers, layer_rows)
        asked = [rows for given, rows in (*kinds, (found.senses, sense_rows)) if given]
        emit(next(iter(asked), pair_rows)(found), output_format)

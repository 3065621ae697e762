"""`ctxembed embed`: text to vectors, into a folder or onto stdout."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import (
    inputs_argument,
    load_any,
    long_option,
    model_option,
    open_corpus,
    reading_options,
    refuse_idle,
    report_long,
    resume_option,
    runtime_options,
    seed_option,
)
from .output import say
from .progress import document_bar

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ctxembed.corpus import ReadOptions
    from ctxembed.types import Document, Encoder
    from ctxembed.units import Unit

STREAM_BATCH = 256
"""Documents encoded at once when vectors go to stdout."""


@click.command()
@inputs_argument
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Folder of .npy parts with their rows and a manifest.",
)
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["jsonl"]),
    help="Print a JSON object a row instead: id, text, span, vector.",
)
@click.option(
    "--unit",
    type=click.Choice(["sentence", "word", "content-word", "token"]),
    default="sentence",
    show_default=True,
    help="A vector for each document, each word in it (function words left out or not), or each token.",
)
@click.option(
    "--layer",
    type=int,
    help="Layer for words and tokens: 0 is the embedding, -1 the last; the model's choice by default.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="Number format on disk.",
)
@click.option("--sample", type=click.IntRange(min=1), help="Embed a seeded sample of so many documents only.")
@seed_option
@long_option
@model_option
@reading_options
@resume_option
@runtime_options
def embed(
    inputs: tuple[str, ...],
    output: Path | None,
    output_format: str | None,
    unit: Unit,
    layer: int | None,
    dtype: str,
    sample: int | None,
    seed: int,
    on_long: str,
    model: str | None,
    reading: ReadOptions,
    resume: bool,
    device: str,
) -> None:
    """Turn text into vectors, in context.

    INPUT is any number of .txt, .jsonl, .csv, .tsv or .parquet files (also .gz, .zst), directories, or - for
    stdin. The input is streamed: memory does not grow with it. A killed run goes on with --resume.

    \b
    Example:
      ctxembed embed rows.txt -o vecs/ --unit sentence
      echo "a single line" | ctxembed embed - --format jsonl
    """
    if (output is None) == (output_format is None):
        raise click.UsageError("say where the vectors go: either -o FOLDER or --format jsonl")
    if output is None:
        refuse_idle(("resume", "dtype"), "when vectors are printed")
    from ctxembed.corpus import sample_documents

    encoder = load_any(model, device=device, on_long=on_long)
    corpus = open_corpus(inputs, reading)
    documents = corpus if sample is None else sample_documents(corpus, size=sample, seed=seed)
    if output is None:
        print_vectors(documents, encoder, unit=unit, layer=layer)
    else:
        from ctxembed.units import embed_corpus

        started = time.perf_counter()
        with document_bar("embedding") as advance:
            folder = embed_corpus(
                documents,
                encoder=encoder,
                path=output,
                unit=unit,
                layer=layer,
                dtype=dtype,
                resume=resume,
                on_progress=advance,
            )
        seconds = time.perf_counter() - started
        say(f"{output}: {len(folder):,} vectors of width {folder.dimension} by {encoder.name}, in {seconds:.1f} s")
    say(corpus.counts.summary())
    report_long(encoder)


def print_vectors(documents: Iterable[Document], encoder: Encoder, *, unit: Unit, layer: int | None) -> None:
    """Print one JSON object for each row, a batch at a time."""
    from ctxembed.units import embed_documents

    stream = iter(documents)
    while batch := list(itertools.islice(stream, STREAM_BATCH)):
        rows, vectors = embed_documents(batch, encoder, unit=unit, layer=layer)
        for row, vector in zip(rows, vectors, strict=True):
            record: dict[str, object] = {"id": row.id, "text": row.text}
            if row.start is not None and row.end is not None:
                record |= {"start": row.start, "end": row.end, "word": row.text[row.start : row.end]}
            click.echo(json.dumps({**record, "vector": [float(f"{x:.7g}") for x in vector]}, ensure_ascii=False))

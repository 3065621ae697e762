"""`ctxembed embed`: text to vectors, into a folder or onto stdout."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ctxembed.runtime import batched

from .options import (
    inputs_argument,
    layer_option,
    load_any,
    long_option,
    model_option,
    open_corpus,
    reading_options,
    refuse_idle,
    report_encoder,
    resume_option,
    runtime_options,
    seed_option,
)
from .output import say
from .progress import document_bar

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ctxembed.corpus import ReadOptions
    from ctxembed.types import Document, Encoder, Layer
    from ctxembed.units import EmbedCounts, Unit

STREAM_BATCH = 256
"""Documents encoded at once when vectors go to stdout."""


@click.command()
@inputs_argument
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FOLDER|FILE.parquet",
    help="Folder of .npy parts with their rows and a manifest, or one Parquet file for other tools.",
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
@layer_option
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "int8"]),
    default="float32",
    show_default=True,
    help="Number format in the folder; what it loses is said at the end. (--precision is that of the computation.)",
)
@click.option(
    "--reuse",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Finished vectors of an earlier run, in float32 or the same --dtype: rows whose text is the same are taken "
    "from there.",
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
    layer: Layer | None,
    dtype: str,
    reuse: Path | None,
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
      ctxembed embed rows.txt -o new/ --reuse vecs/
      ctxembed embed rows.txt -o vecs.parquet
      echo "a single line" | ctxembed embed - --format jsonl
    """
    if (output is None) == (output_format is None):
        raise click.UsageError("say where the vectors go: either -o FOLDER, -o FILE.parquet or --format jsonl")
    if output is None:
        refuse_idle(("resume", "dtype", "reuse"), "when vectors are printed")
    elif output.suffix == ".parquet":
        refuse_idle(("resume", "dtype"), "for a Parquet file, which is written in float32 and as a whole")
    from ctxembed.corpus import sample_documents
    from ctxembed.units import EmbedCounts

    encoder = load_any(model, device=device, on_long=on_long)
    corpus = open_corpus(inputs, reading)
    documents = corpus if sample is None else sample_documents(corpus, size=sample, seed=seed)
    how: dict[str, Any] = {"encoder": encoder, "unit": unit, "layer": layer, "counts": EmbedCounts()}
    if output is None:
        print_vectors(documents, **how)
    else:
        folder_only = {} if output.suffix == ".parquet" else {"dtype": dtype, "resume": resume}
        write_vectors(documents, output, reuse=reuse, **how, **folder_only)
    say(corpus.counts.summary())
    for line in how["counts"].summary():
        say(line)
    report_encoder(encoder)


def write_vectors(documents: Iterable[Document], output: Path, **how: Any) -> None:
    """Write a folder, or a Parquet file if the name says so, and say how much was written how fast."""
    from ctxembed.units import embed_corpus, embed_table

    encoder, counts, started = how["encoder"], how["counts"], time.perf_counter()
    with document_bar("embedding") as advance:
        if output.suffix == ".parquet":
            embed_table(documents, path=output, on_progress=advance, **how)
            total = counts.rows
        else:
            total = len(embed_corpus(documents, path=output, on_progress=advance, **how))
    seconds = time.perf_counter() - started
    say(f"{output}: {total:,} vectors of width {encoder.dimension} by {encoder.name}, in {seconds:.1f} s")


def print_vectors(
    documents: Iterable[Document], *, encoder: Encoder, unit: Unit, layer: Layer | None, counts: EmbedCounts
) -> None:
    """Print one JSON object for each row, a batch at a time."""
    from ctxembed.units import embed_documents

    for batch in batched(documents, STREAM_BATCH):
        rows, vectors = embed_documents(batch, encoder, unit=unit, layer=layer, counts=counts)
        for row, vector in zip(rows, vectors, strict=True):
            record: dict[str, object] = {"id": row.id, "text": row.text}
            if row.start is not None and row.end is not None:
                record |= {"start": row.start, "end": row.end, "word": row.text[row.start : row.end]}
            click.echo(json.dumps({**record, "vector": [float(f"{x:.7g}") for x in vector]}, ensure_ascii=False))

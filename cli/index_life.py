"""`ctxembed index add`, `update`, `delete`, `compact`, `verify` and `info`: an index that changes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ctxembed.errors import InvalidInputError

from .options import (
    READING,
    load_any,
    long_option,
    model_option,
    open_corpus,
    reading_options,
    refuse_idle,
    report_encoder,
    resume_option,
    runtime_options,
    stacked,
    vector_input,
)
from .output import emit, format_option, say
from .progress import document_bar

if TYPE_CHECKING:
    from ctxembed.corpus import ReadOptions
    from ctxembed.index.records import IndexRecord
    from ctxembed.index.updates import Additions, OnExisting

index_argument = click.argument("index", type=click.Path(path_type=Path))
wait_option = click.option("--wait", is_flag=True, help="Wait for another process that is changing the index.")
adding_options = stacked(
    index_argument,
    click.argument("inputs", nargs=-1, required=True, metavar="INPUT..."),
    resume_option,
    click.option("--restart", is_flag=True, help="Discard an interrupted addition."),
    wait_option,
    long_option,
    model_option,
    reading_options,
    runtime_options,
)


@click.command()
@adding_options
@click.option(
    "--on-duplicate",
    type=click.Choice(["error", "skip"]),
    default="error",
    show_default=True,
    help="What to do with an id that is there with another text; skip keeps the old one.",
)
def add(on_duplicate: OnExisting, **given: Any) -> None:
    """Add the texts of INPUT to INDEX; those that it has already are not embedded again.

    INPUT may also be a folder of vectors that the same model made. Either all of it becomes part of the index, or
    nothing; searches go on meanwhile. In an index of words, those that its build would have chosen are added.

    \b
    Example:
      ctxembed index add idx/ more.jsonl
      ctxembed index add idx/ vecs/
    """
    put(on_duplicate, **given)


@click.command()
@adding_options
def update(**given: Any) -> None:
    """Add the texts of INPUT to INDEX, each in the place of the one that has its id; only changed texts are embedded.

    INPUT may also be a folder of vectors that the same model made.

    \b
    Example:
      ctxembed index update idx/ rows.jsonl
    """
    put("update", **given)


def put(
    on_existing: OnExisting,
    *,
    index: Path,
    inputs: tuple[str, ...],
    resume: bool,
    restart: bool,
    wait: bool,
    on_long: str,
    model: str | None,
    reading: ReadOptions,
    device: str,
) -> None:
    """Put documents or vectors into an index, and say what became of them."""
    from ctxembed.index.manifest import IndexManifest
    from ctxembed.index.updates import add_documents, add_vectors
    from ctxembed.runtime import existing
    from ctxembed.vectors import VectorFolder

    started = time.perf_counter()
    if vectors := vector_input(inputs):
        if vectors.suffix == ".npy":
            raise InvalidInputError(f"{vectors} does not say which model made it: give text, or a folder of vectors")
        refuse_idle(("model", "resume", "restart", "on_long", *READING), "for an input of vectors")
        met = add_vectors(index, VectorFolder.open(vectors), on_existing=on_existing, wait=wait)
        report_additions(index, met, seconds=time.perf_counter() - started)
        return
    words = IndexManifest.read(existing(index)).settings.get("words")
    put_in: Callable[..., Additions] = add_documents
    if words is not None:  # an index of words: as its build did it
        from ctxembed.meaning.word_index import add_sentences

        put_in, reading = add_sentences, replace(reading, split_sentences=True)
    encoder = load_any(model, device=device, on_long=on_long)
    corpus = open_corpus(inputs, reading)
    with document_bar("adding", unit="row" if words is None else "sentence") as advance:
        met = put_in(
            index, corpus, encoder=encoder, on_existing=on_existing, resume=resume, restart=restart, wait=wait,
            on_progress=advance,
        )  # fmt: skip
    say(corpus.counts.summary())
    if words is not None and words["sampled"]:
        say(f"of {len(words['sampled']):,} words that the build sampled the same share of uses is taken")
    report_additions(index, met, seconds=time.perf_counter() - started)
    report_encoder(encoder)


def report_additions(index: Path, met: Additions, *, seconds: float) -> None:
    """Say what became of documents or vectors, and of the vector index they are in unless it compares every vector."""
    say(f"{index}: {met.summary()}; {met.rows:,} rows now, in {seconds:.1f} s")
    written = met.index
    if written is not None and written.measured is not None:
        say(
            f"{written.rows:,} rows are in a new vector index: {written.kind}, recall {written.measured.recall:.3f} "
            f"of the exact ten, {written.bytes_per_row:,.0f} bytes a row in memory"
        )


@click.command()
@index_argument
@click.option("--where", metavar="CONDITION", help="Which rows, such as \"year < 1990 and source = 'x'\".")
@click.option("--id", "ids", multiple=True, metavar="ID", help="A row; may be given several times.")
@wait_option
def delete(index: Path, where: str | None, ids: tuple[str, ...], wait: bool) -> None:
    """Delete rows of INDEX: they are not found any more, and `compact` drops their vectors too.

    In an index of words, the id of a text means all of its words.

    \b
    Example:
      ctxembed index delete idx/ --where "source = 'x'"
      ctxembed index delete idx/ --id row-17 --id row-18
    """
    from ctxembed.index.changes import delete_rows

    if (where is None) == (not ids):
        raise click.UsageError("say which rows: either --where CONDITION, or --id ID")
    count = delete_rows(index, where=where, ids=ids, wait=wait)
    say(f"{index}: {count:,} rows deleted")


@click.command()
@index_argument
@wait_option
def compact(index: Path, wait: bool) -> None:
    """Drop what was deleted from INDEX, and join what was added: its kind is chosen, tuned and measured anew.

    An index of an older format becomes one of the present format.

    \b
    Example:
      ctxembed index compact idx/
    """
    from ctxembed.index.changes import compact_folder

    started = time.perf_counter()
    done = compact_folder(index, wait=wait)
    say(f"{index}: {f'compacted in {time.perf_counter() - started:.1f} s' if done else 'there was nothing to do'}")


@click.command()
@index_argument
def verify(index: Path) -> None:
    """Read all of INDEX and say whether it is sound; exit code 3 if not, with the file that is damaged.

    \b
    Example:
      ctxembed index verify idx/
    """
    from ctxembed.index.folder import check_folder

    manifest = check_folder(index)
    files = list(manifest.files())
    size = sum(file.bytes for file in files)
    say(f"{index} is sound: {manifest.rows:,} rows, {len(files)} files, {size / 2**20:,.1f} MiB")


@click.command("info")
@index_argument
@format_option
def info_(index: Path, output_format: str) -> None:
    """Say what INDEX holds, and what each of its vector indexes was measured to reach.

    \b
    Example:
      ctxembed index info idx/ --format json
    """
    from ctxembed.index.manifest import IndexManifest
    from ctxembed.runtime import existing

    manifest = IndexManifest.read(existing(index))
    maker = manifest.model.name if manifest.model else "of unknown origin"
    say(
        f"{index}: {manifest.rows:,} rows of width {manifest.dimension}, unit {manifest.unit}, model {maker}; "
        f"{manifest.deleted:,} deleted, generation {manifest.generation}"
    )
    emit([describe_record(record) for record in manifest.indexes], output_format)


def describe_record(record: IndexRecord) -> dict[str, Any]:
    """Return a vector index as it is printed."""
    measured = record.measured
    return {
        "kind": record.kind,
        "factory": record.factory,
        "rows": record.rows,
        "recall@10": measured.recall if measured else 1.0,
        "latency_ms": measured.latency_ms if measured else None,
        "bytes_per_row": record.bytes_per_row,
        "disk_bytes": sum(file.bytes for file in record.files.values()),
        "storage": record.storage,
        "parameters": dict(record.parameters),
    }

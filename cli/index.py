"""`ctxembed index`: make an index of text, of a vector folder, or of somebody else's array."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ctxembed.errors import InvalidInputError

from .corpus_tools import cluster, dedupe, map_
from .index_life import add, compact, delete, info_, update, verify
from .options import (
    READING,
    inputs_argument,
    kind_options,
    load_any,
    long_option,
    model_option,
    open_corpus,
    reading_options,
    refuse_idle,
    report_encoder,
    resume_option,
    runtime_options,
    vector_input,
)
from .output import peak_memory, print_table, say
from .progress import document_bar
from .word_index import WORD_OPTIONS, WordRequest, build_words, word_options

if TYPE_CHECKING:
    from ctxembed.corpus import ReadOptions
    from ctxembed.index.kinds import IndexOptions
    from ctxembed.search import SemanticSearch


@click.group()
def index() -> None:
    """Build an index to search by meaning, change it, and see what it holds."""


for tool in (add, update, delete, compact, verify, info_, dedupe, cluster, map_):
    index.add_command(tool)


@index.command()
@inputs_argument
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), metavar="FOLDER", help="Where the index goes."
)
@click.option(
    "--ids", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="For a .npy input: the ids, one a line."
)
@click.option(
    "--texts",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="For a .npy input: the texts, one a line.",
)
@click.option(
    "--on-duplicate",
    type=click.Choice(["error", "skip"]),
    default="error",
    show_default=True,
    help="What to do with an id that occurs twice; skip keeps the first.",
)
@click.option("--overwrite", is_flag=True, help="Replace the index that is there.")
@kind_options
@click.option("--dry-run", is_flag=True, help="Say which kind would be built, and how large; build nothing.")
@word_options
@long_option
@model_option
@reading_options
@resume_option
@runtime_options
def build(
    inputs: tuple[str, ...],
    output: Path,
    ids: Path | None,
    texts: Path | None,
    on_duplicate: str,
    overwrite: bool,
    options: IndexOptions,
    dry_run: bool,
    unit: str,
    layer: int | None,
    words: WordRequest,
    on_long: str,
    model: str | None,
    reading: ReadOptions,
    resume: bool,
    device: str,
) -> None:
    """Make an index of text (embedded on the way), of a folder of vectors, or of a .npy array.

    Metadata columns are kept and come back with every hit. Small indexes compare every vector; for large ones a kind
    is chosen, tuned until it finds --min-recall of the nearest rows, and measured. With --unit word each use of
    each content word is a row, in its sentence, for concordances by meaning.

    \b
    Example:
      ctxembed index build rows.jsonl --text-column text -o idx/
      ctxembed index build corpus.txt --unit word -o widx/
      ctxembed index build vecs/ -o idx/ --kind auto --min-recall 0.95
      ctxembed index build theirs.npy --ids ids.txt --texts texts.txt -o idx/
    """
    from ctxembed.search import SemanticSearch

    started = time.perf_counter()
    how: dict[str, Any] = {
        "path": output, "on_duplicate": on_duplicate, "overwrite": overwrite, "options": options
    }  # fmt: skip
    if unit == "word":
        if vector_input(inputs) or ids or texts:
            raise InvalidInputError("--unit word indexes the words of text: give text, not vectors")
        encoder = load_any(model, device=device, on_long=on_long)
        build_words(inputs, reading, encoder, words, resume=resume, layer=layer, dry_run=dry_run, **how)
        return
    refuse_idle(WORD_OPTIONS, "without --unit word")
    if vectors := vector_input(inputs):
        refuse_idle(("model", "resume", "on_long", *READING), "for an input of vectors")
        if vectors.suffix != ".npy":
            refuse_idle(("ids", "texts"), "for a folder of vectors, which has its own")
        if dry_run:
            report_plan(*size_of(vectors), options)
            return
        built = build_from_vectors(vectors, ids=ids, texts=texts, **how)
    else:
        if ids or texts:
            raise InvalidInputError(
                "--ids and --texts belong to a .npy input: for text, use --id-column and --text-column"
            )
        encoder = load_any(model, device=device, on_long=on_long)
        corpus = open_corpus(inputs, reading)
        if dry_run:
            report_plan(sum(1 for _ in corpus), encoder.dimension, options)
            return
        with document_bar("indexing") as advance:
            built = SemanticSearch.build(corpus, encoder=encoder, resume=resume, on_progress=advance, **how)
        say(corpus.counts.summary())
        report_encoder(encoder)
    with built:
        report_index(built, output, seconds=time.perf_counter() - started)


def size_of(vectors: Path) -> tuple[int, int]:
    """Return rows and width of a vector folder or an array."""
    from ctxembed.foreign import read_foreign
    from ctxembed.vectors import VectorFolder

    source = read_foreign(vectors) if vectors.suffix == ".npy" else VectorFolder.open(vectors, verify=False)
    return len(source), source.dimension


def report_plan(rows: int, dimension: int, options: IndexOptions) -> None:
    """Print what would be built."""
    from ctxembed.index.kinds import plan_index

    plan = plan_index(rows, dimension, options)
    size = {name: "unknown" if value is None else f"{value / 2**20:,.1f} MiB"
            for name, value in (("memory", plan.memory), ("disk", plan.disk))}  # fmt: skip
    facts = {
        "kind": plan.kind, "factory": plan.factory, "reason": plan.reason, "rows": f"{rows:,}", "width": dimension,
        "training rows": f"{plan.training_rows:,}", **size,
    }  # fmt: skip
    print_table([{"what": name, "value": str(value)} for name, value in facts.items()])


def build_from_vectors(vectors: Path, *, ids: Path | None, texts: Path | None, **how: Any) -> SemanticSearch:
    """Make an index of a vector folder, or of an array with ids and texts beside it."""
    from ctxembed.foreign import read_foreign
    from ctxembed.search import SemanticSearch
    from ctxembed.vectors import VectorFolder

    if vectors.suffix == ".npy":
        foreign = read_foreign(vectors, ids=ids, texts=texts)
        return SemanticSearch.build_from_vectors(foreign, settings={}, dimension=foreign.dimension, **how)
    folder = VectorFolder.open(vectors)
    return SemanticSearch.build_from_vectors(
        folder.iter_parts(), settings=folder.settings, dimension=folder.dimension, **how
    )


def report_index(built: SemanticSearch, output: Path, *, seconds: float) -> None:
    """Say on stderr what was built and what to do with it."""
    manifest = built.manifest
    size = sum(file.bytes for index in manifest.indexes for file in index.files.values())
    maker = f"by {manifest.model.name}" if manifest.model else "of unknown origin"
    say(
        f"{output}: {len(built):,} rows of width {manifest.dimension} {maker}, in {seconds:.1f} s "
        f"({len(built) / seconds:,.0f} rows/s), vectors {size / 2**20:,.1f} MiB, "
        f"peak memory {peak_memory() / 2**20:,.0f} MiB"
    )
    for record in manifest.indexes:
        if record.measured:
            say(
                f"{record.kind} ({record.factory}) finds {record.measured.recall:.1%} of the ten nearest, "
                f"{record.measured.latency_ms:.2f} ms a query, {record.bytes_per_row:,.0f} bytes of memory a row"
            )
            if record.measured.recall < manifest.options.min_recall:
                say(f"that is less than --min-recall {manifest.options.min_recall}: choose another --kind")
    if manifest.num_skipped:
        say(f"{manifest.num_skipped:,} rows skipped: their id was taken")
    if manifest.num_zero:
        say(
            f"{manifest.num_zero:,} rows have no vector (no word that the model knows) and will not be found by meaning"
        )
    if manifest.model and manifest.unit == "sentence":
        say(f'search it:  ctxembed search {output} "your question"')

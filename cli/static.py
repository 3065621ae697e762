"""`ctxembed train static`, which makes static vectors in every way, and `ctxembed export`, which writes them out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import (
    READING,
    load_any,
    load_static,
    open_corpus,
    reading_options,
    refuse_idle,
    report_encoder,
    require_free,
    runtime_options,
    seed_option,
)
from .output import say
from .training import output_option

if TYPE_CHECKING:
    from ctxembed.corpus import ReadOptions
    from ctxembed.static import StaticVectors
    from ctxembed.types import Document
    from ctxembed.word2vec import StaticProgress, Tally

LEARNING = ("dimension", "window", "epochs", "algorithm", "subwords", "buckets", "workers")
COUNTING = ("min_count", "max_documents")

documents_option = click.option(
    "--max-documents", type=click.IntRange(min=1), help="Learn from a seeded sample of so many documents."
)


@click.command()
@click.argument("inputs", nargs=-1, metavar="[INPUT...]")
@output_option
@click.option("--dimension", type=int, help="Width of the vectors.  [default: 100, or that of --from]")
@click.option("--window", type=int, default=5, show_default=True, help="Most words between a word and its neighbour.")
@click.option("--min-count", type=int, default=5, show_default=True, help="A word must occur so often.")
@click.option("--epochs", type=int, default=5, show_default=True, help="Passes over the corpus.")
@click.option(
    "--algorithm",
    type=click.Choice(["skip-gram", "cbow"]),
    default="skip-gram",
    show_default=True,
    help="Word2Vec's two forms.",
)
@click.option("--subwords", is_flag=True, help="FastText: learn character n-grams, for words that never occurred.")
@click.option("--buckets", type=int, default=100_000, show_default=True, help="Vectors that n-grams are hashed into.")
@click.option("--max-vocabulary", type=int, help="Keep only so many words, the most frequent.")
@click.option(
    "--from",
    "origin",
    metavar="PATH",
    help="Begin with these static vectors: a folder, or a word2vec, GloVe or fastText file. Without INPUT they are "
    "taken over as they are.",
)
@click.option("--twin-of", metavar="MODEL", help="No training: each word's mean vector over its uses in INPUT.")
@click.option("--contexts", type=int, default=50, show_default=True, help="Uses a word of a twin; 0 is the word alone.")
@click.option("--layer", type=int, help="Layer of the twin's vectors; the model's choice by default.")
@documents_option
@click.option(
    "--workers", type=int, default=1, show_default=True, help="Training threads; only with 1 are two runs equal."
)
@reading_options
@seed_option
@runtime_options
def static(
    inputs: tuple[str, ...],
    output: Path,
    origin: str | None,
    twin_of: str | None,
    contexts: int,
    layer: int | None,
    max_documents: int | None,
    reading: ReadOptions,
    seed: int,
    device: str,
    **settings: Any,
) -> None:
    """Train Word2Vec on the same text and the same words: the static vectors to compare with.

    Or take over those of another program (--from FILE), or make them of an encoder (--twin-of MODEL).

    \b
    Example:
      ctxembed train static corpus.txt -o static/
      ctxembed train static --from GoogleNews-vectors.bin --max-vocabulary 200000 -o news/
      ctxembed train static corpus.txt --twin-of default -o twin/
    """
    require_free(output)
    if twin_of is None:
        refuse_idle(("device", "threads", "precision"), "without --twin-of: training has --workers")
    vectors: StaticVectors
    if not inputs:
        if origin is None:
            raise click.UsageError("there is nothing to learn from: name an INPUT, or vectors to take over with --from")
        refuse_idle((*READING, *LEARNING, *COUNTING, "twin_of", "contexts", "layer", "seed"), "without INPUT")
        vectors = _taken_over(origin, most=settings["max_vocabulary"])
    else:
        corpus, documents = _documents(inputs, reading, max_documents=max_documents, seed=seed)
        if twin_of is not None:
            refuse_idle((*LEARNING, "origin"), "with --twin-of, which trains nothing")
            vectors = _twin(twin_of, documents, contexts=contexts, layer=layer, device=device, settings=settings)
        else:
            refuse_idle(("contexts", "layer"), "without --twin-of")
            vectors = _trained(documents, origin, seed=seed, settings=settings)
        say(corpus.counts.summary())
    vectors.save(output)
    say(f"{output}: {len(vectors):,} words of width {vectors.dimension}")


@click.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A name in .bin is written as word2vec binary, any other as word2vec text.",
)
def export(folder: Path | None, output: Path) -> None:
    """Write static vectors as a word2vec file, for gensim and others; without FOLDER those that ship.

    \b
    Example:
      ctxembed export static/ -o vectors.txt
    """
    vectors = load_static(None if folder is None else str(folder))
    vectors.export(output)
    say(f"{output}: {len(vectors):,} words of width {vectors.dimension}, as float32; their counts stay behind")


def _documents(
    inputs: tuple[str, ...], reading: ReadOptions, *, max_documents: int | None, seed: int
) -> tuple[Any, Iterable[Document]]:
    from ctxembed.corpus import sample_documents

    corpus = open_corpus(inputs, reading)
    # Several passes are made over it, so a sample is kept.
    return corpus, corpus if max_documents is None else sample_documents(corpus, size=max_documents, seed=seed)


def _taken_over(origin: str, *, most: int | None) -> StaticVectors:
    from ctxembed.static import StaticVectors

    vectors = StaticVectors.load(origin, most=most)
    notes = vectors.training
    if "entries" in notes:
        say(
            f"{origin} ({notes['format']}): {notes['entries']:,} entries, {len(vectors):,} of them kept as words of "
            "their own; counts are estimated from their order"
        )
    return vectors


def _trained(
    documents: Iterable[Document], origin: str | None, *, seed: int, settings: dict[str, Any]
) -> StaticVectors:
    from ctxembed.word2vec import StaticConfig, train_static

    start = None if origin is None else load_static(origin)
    width = settings.pop("dimension") or (100 if start is None else start.dimension)
    config = StaticConfig(seed=seed, dimension=width, **settings)
    if not config.subwords:
        refuse_idle(("buckets",), "without --subwords")
    return train_static(documents, config=config, start=start, on_progress=_told())


def _twin(
    model: str,
    documents: Iterable[Document],
    *,
    contexts: int,
    layer: int | None,
    device: str,
    settings: dict[str, Any],
) -> StaticVectors:
    from ctxembed.lookups import static_twin

    encoder = load_any(model, device=device)
    vectors = static_twin(
        encoder,
        documents,
        min_count=settings["min_count"],
        max_vocabulary=settings["max_vocabulary"],
        contexts=contexts,
        layer=layer,
        on_progress=lambda tally: _say_reading(tally),
    )
    report_encoder(encoder)
    return vectors


def _say_reading(tally: Tally) -> None:
    if tally.documents % 10_000 == 0:
        say(f"reading: {tally.documents:,} documents, {tally.tokens:,} words")


def _told() -> Callable[[StaticProgress], None]:
    """Return a function that says each epoch once."""
    shown = -1

    def tell(progress: StaticProgress) -> None:
        nonlocal shown
        if progress.epoch != shown:
            shown = progress.epoch
            done = f"epoch {progress.epoch}/{progress.num_epochs}" if progress.epoch else "reading"
            say(f"{done}: {progress.documents:,} documents, {progress.tokens:,} words")

    return tell

"""`ctxembed index build --unit word`: each use of each chosen word is a row."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .options import open_corpus, report_encoder, seed_option, stacked
from .output import peak_memory, say
from .progress import document_bar
from .words import read_words

if TYPE_CHECKING:
    from ctxembed.corpus import ReadOptions
    from ctxembed.index.kinds import IndexOptions
    from ctxembed.meaning.word_choice import WordChoice
    from ctxembed.types import Encoder

F = TypeVar("F", bound=Callable[..., Any])

WORD_OPTIONS = ("words", "all_words", "min_count", "max_count", "max_per_word", "layer", "seed")
"""Options that belong to words only, as click knows them."""


@dataclass(frozen=True)
class WordRequest:
    """What the command line says about which words are indexed."""

    words: str | None
    all_words: bool
    min_count: int
    max_count: int | None
    max_per_word: int
    seed: int

    def choice(self) -> WordChoice:
        """Return the choice of words; --max-per-word 0 takes all uses."""
        from ctxembed.meaning.word_choice import WordChoice

        return WordChoice(
            words=None if self.words is None else frozenset(read_words(self.words)),
            all_words=self.all_words,
            min_count=self.min_count,
            max_count=self.max_count,
            max_per_word=self.max_per_word or None,
            seed=self.seed,
        )


def word_options(command: F) -> F:
    """Add --unit and what goes with words; the command receives ``unit``, ``layer`` and ``words: WordRequest``."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        names = ("all_words", "min_count", "max_count", "max_per_word", "seed")
        request = WordRequest(words=kwargs.pop("words"), **{name: kwargs.pop(name) for name in names})
        return command(*args, words=request, **kwargs)

    return stacked(
        click.option(
            "--unit",
            type=click.Choice(["sentence", "word"]),
            default="sentence",
            show_default=True,
            help="What a row is: a whole document, or a word in its sentence.",
        ),
        click.option("--words", metavar="A,B,...", help="Words: only these, or those of a file; all content words."),
        click.option("--all-words", is_flag=True, help="Words: function words and numbers too."),
        click.option(
            "--min-count", type=click.IntRange(min=1), default=1, show_default=True, help="Words: not the rarer ones."
        ),
        click.option("--max-count", type=click.IntRange(min=1), help="Words: not the more frequent ones."),
        click.option(
            "--max-per-word",
            type=click.IntRange(min=0),
            default=10_000,
            show_default=True,
            help="Words: of one with more uses a sample of about this size, by --seed; 0 takes all.",
        ),
        click.option("--layer", type=int, help="Words: layer to read; the model's choice by default."),
        seed_option,
    )(run)  # type: ignore[return-value]


def build_words(
    inputs: Sequence[str],
    reading: ReadOptions,
    encoder: Encoder,
    request: WordRequest,
    *,
    path: Path,
    on_duplicate: Any,
    overwrite: bool,
    resume: bool,
    layer: int | None,
    options: IndexOptions,
    dry_run: bool,
) -> None:
    """Count, size and build an index of words, and say what was done."""
    from ctxembed.meaning.word_choice import count_chosen, forecast
    from ctxembed.meaning.word_index import build_word_index
    from ctxembed.units import EmbedCounts

    started = time.perf_counter()
    corpus = open_corpus(inputs, replace(reading, split_sentences=True))
    with document_bar("counting", unit="sentence") as advance:
        counted = count_chosen(corpus, request.choice(), on_progress=advance)
    say(corpus.counts.summary())
    expected = forecast(counted, encoder, options=options)
    say(
        f"{expected.words:,} words, about {expected.rows:,} rows in {counted.num_texts:,} sentences: {expected.kind}, "
        f"{expected.bytes / 2**20:,.1f} MiB, {expected.minutes:.1f} minutes of encoding"
    )
    if sampled := counted.sampled:
        most = max(sampled, key=lambda form: sampled[form])
        say(
            f"{len(sampled):,} words have more than {request.max_per_word:,} uses, sampled by seed {request.seed}: "
            f"{most} ({sampled[most]:,}); --max-per-word 0 takes all"
        )
    if dry_run:
        return
    counts = EmbedCounts()
    with document_bar("indexing", total=corpus.counts.documents, unit="sentence") as advance:
        manifest = build_word_index(
            corpus,
            counted,
            encoder=encoder,
            path=path,
            layer=layer,
            options=options,
            on_duplicate=on_duplicate,
            overwrite=overwrite,
            resume=resume,
            counts=counts,
            on_progress=advance,
        )
    seconds = time.perf_counter() - started
    for line in counts.summary():
        say(line)
    for index in manifest.indexes:
        found = "exact" if index.measured is None else f"recall {index.measured.recall:.3f} of the exact ten"
        say(f"{index.kind}: {found}, {index.bytes_per_row:,.0f} bytes a row in memory")
    size = sum(file.bytes for file in manifest.files())
    say(
        f"{path}: {manifest.rows:,} rows of width {manifest.dimension} in {seconds:.1f} s "
        f"({manifest.rows / seconds:,.0f} rows/s), {size / 2**20:,.1f} MiB ({size / max(manifest.rows, 1):,.0f} bytes "
        f"a row with its text), peak memory {peak_memory() / 2**20:,.0f} MiB"
    )
    report_encoder(encoder)
    say(f'search it:  ctxembed search {path} "the [bank] of the river" --same-word')

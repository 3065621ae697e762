"""`ctxembed tokenizer`: train one, and see how one serves a corpus."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import inputs_argument, open_corpus, reading_options, require_free, seed_option, tokenizer_options
from .output import emit, format_option, say

if TYPE_CHECKING:
    from ctxembed.corpus import ReadOptions


@click.group()
def tokenizer() -> None:
    """Train a subword tokenizer, or measure one on a corpus."""


@tokenizer.command()
@inputs_argument
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Where tokenizer.json goes.",
)
@click.option(
    "--kind",
    type=click.Choice(["wordpiece", "bpe", "unigram"]),
    default="wordpiece",
    show_default=True,
    help="WordPiece is trained by BPE merges, as the library does it.",
)
@click.option(
    "--vocab-size", type=int, default=16_000, show_default=True, help="Pieces to learn, special tokens included."
)
@click.option("--lowercase/--keep-case", default=True, show_default=True, help='Read "Bank" as "bank".')
@click.option("--strip-accents/--keep-accents", default=False, show_default=True, help='Read "café" as "cafe".')
@click.option(
    "--unicode",
    "unicode_form",
    type=click.Choice(["nfc", "nfkc", "none"]),
    default="nfc",
    show_default=True,
    help="Unicode normalisation.",
)
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    default=200_000,
    show_default=True,
    help="Most documents to learn from, drawn by the seed: bounds the memory.",
)
@reading_options
@seed_option
@tokenizer_options
def train(
    inputs: tuple[str, ...],
    output: Path,
    kind: str,
    vocab_size: int,
    lowercase: bool,
    strip_accents: bool,
    unicode_form: str,
    sample: int,
    reading: ReadOptions,
    seed: int,
) -> None:
    """Learn a vocabulary from text.

    \b
    Example:
      ctxembed tokenizer train corpus.txt -o tok/ --kind bpe --vocab-size 8000
    """
    from ctxembed.config import from_mapping
    from ctxembed.corpus import sample_documents
    from ctxembed.tokenizer import FILE_NAME, SubwordTokenizer, TokenizerConfig

    settings = {"kind": kind, "vocab_size": vocab_size, "lowercase": lowercase, "strip_accents": strip_accents}
    config = from_mapping(TokenizerConfig, {**settings, "unicode_form": unicode_form})
    require_free(output / FILE_NAME)
    corpus = open_corpus(inputs, reading)
    documents = sample_documents(corpus, size=sample, seed=seed)
    say(f"{corpus.counts.summary()}; learning from {len(documents):,} of them")
    trained = SubwordTokenizer.train((document.text for document in documents), config=config)
    trained.save(output)
    if len(trained) < vocab_size:
        say(f"the sample has no more than {len(trained):,} pieces (of {vocab_size:,} asked for)")
    say(f"{output / FILE_NAME}: {len(trained):,} tokens")


@tokenizer.command()
@click.argument("folder", type=click.Path(path_type=Path))
@inputs_argument
@reading_options
@format_option
@tokenizer_options
def report(folder: Path, inputs: tuple[str, ...], reading: ReadOptions, output_format: str) -> None:
    """Measure a tokenizer on text: tokens a word, words kept whole, unknowns, longest pieces.

    FOLDER holds a tokenizer.json (a model folder does).

    \b
    Example:
      ctxembed tokenizer report tok/ corpus.txt
    """
    from ctxembed.corpus import texts
    from ctxembed.tokenizer import SubwordTokenizer

    corpus = open_corpus(inputs, reading)
    figures = dataclasses.asdict(SubwordTokenizer.load(folder).report(texts(corpus)))
    say(corpus.counts.summary())
    if output_format in ("table", "csv"):
        figures["longest_pieces"] = " ".join(figures["longest_pieces"])
        emit([{"measure": name, "value": value} for name, value in figures.items()], output_format)
    else:
        emit([figures], output_format)

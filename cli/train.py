"""`ctxembed train`: objectives that make a model, one command each, and recipes that mix them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import (
    READING,
    hardware_options,
    reading_options,
    refuse_idle,
    resume_option,
)
from .output import say
from .static import documents_option, static
from .training import budget_option, model_options, objective_options, output_option, run, surroundings, train_one

if TYPE_CHECKING:
    from ctxembed.corpus import ReadOptions


@click.group()
def train() -> None:
    """Train an encoder or static vectors on your own text.

    Every command that makes an encoder writes metrics.jsonl while it runs and goes on after a kill with the
    same command and --resume. With --from it goes on from a model instead of beginning anew.
    """


train.add_command(static)


@train.command()
@objective_options
@documents_option
@reading_options
@click.option("--mask-fraction", type=float, help="Share of the tokens to hide.  [default: 0.2]")
@click.option("--whole-words", is_flag=True, default=None, help="Hide all pieces of a word or none.")
@click.option(
    "--drop-fraction",
    type=float,
    help="Share of the tokens that pass by the middle layers, for speed.  [default: 0.5; 0 with --from]",
)
def mlm(
    inputs: tuple[str, ...],
    output: Path,
    max_documents: int | None,
    reading: ReadOptions,
    mask_fraction: float | None,
    whole_words: bool | None,
    drop_fraction: float | None,
    **options: Any,
) -> None:
    """Predict masked words: how an encoder learns a language from nothing but text.

    \b
    Example:
      ctxembed train mlm corpus.txt -o model/ --preset tiny --max-steps 80 --seed 7
      ctxembed train mlm books/*.txt.zst -o model/ --document paragraph --budget 2h
      ctxembed train mlm my-field.txt -o adapted/ --from default --learning-rate 2e-4
    """
    settings = {"mask_fraction": mask_fraction, "whole_words": whole_words, "drop_fraction": drop_fraction}
    _train_on_text("mlm", inputs, output, settings, options, reading=reading, max_documents=max_documents)


@train.command()
@objective_options
@click.option("--anchor-column", default="anchor", show_default=True, help="Key of one side of a pair.")
@click.option("--positive-column", default="positive", show_default=True, help="Key of the other side.")
@click.option("--temperature", type=float, help="Similarities are divided by it.  [default: 0.05]")
@click.option("--matryoshka", metavar="N,N", help="Widths at which vectors cut short must serve too.")
@click.option("--piece-tokens", type=int, help="Tokens held at once: a batch larger than memory.")
def contrastive(
    inputs: tuple[str, ...],
    output: Path,
    anchor_column: str,
    positive_column: str,
    temperature: float | None,
    matryoshka: str | None,
    piece_tokens: int | None,
    **options: Any,
) -> None:
    """Bring pairs of texts together (jsonl rows with anchor, positive and, if you have them, negatives).

    \b
    Example:
      ctxembed train contrastive questions.jsonl -o model/ --from default --learning-rate 1e-4
      ctxembed train contrastive titles.jsonl -o model/ --from mlm/ --anchor-column title --positive-column abstract
    """
    settings = {"temperature": temperature, "matryoshka": _numbers(matryoshka), "piece_tokens": piece_tokens}
    reading = {"anchor_column": anchor_column, "positive_column": positive_column}
    train_one("contrastive", inputs, output=output, settings=settings, options=options, reading=reading)


@train.command()
@objective_options
@documents_option
@reading_options
@click.option("--temperature", type=float, help="Similarities are divided by it.  [default: 0.05]")
@click.option("--dropout", type=float, help="What makes the two views of a text differ.  [default: 0.1]")
def simcse(
    inputs: tuple[str, ...],
    output: Path,
    max_documents: int | None,
    reading: ReadOptions,
    temperature: float | None,
    dropout: float | None,
    **options: Any,
) -> None:
    """Tell texts apart under dropout: sentence vectors from plain text, without pairs.

    \b
    Example:
      ctxembed train simcse sentences.txt -o model/ --from mlm/ --learning-rate 1e-4
    """
    train_one(
        "simcse",
        inputs,
        output=output,
        settings={"temperature": temperature, "dropout": dropout},
        options=options,
        reading=vars_of(reading),
        defaults={"dropout": 0.1},  # a model whose own is 0 can be trained all the same
        max_documents=max_documents,
    )


@train.command()
@objective_options
@documents_option
@reading_options
@click.option("--delete-fraction", type=float, help="Chance of each word to be deleted.  [default: 0.6]")
def denoise(
    inputs: tuple[str, ...],
    output: Path,
    max_documents: int | None,
    reading: ReadOptions,
    delete_fraction: float | None,
    **options: Any,
) -> None:
    """Rebuild sentences from one vector with a Transformer decoder, most of their words deleted before (TSDAE).

    \b
    Example:
      ctxembed train denoise sentences.txt -o model/ --from mlm/
      ctxembed reconstruct "The cat sat on the mat." -m model/
    """
    settings = {"delete_fraction": delete_fraction}
    _train_on_text("denoise", inputs, output, settings, options, reading=reading, max_documents=max_documents)


@train.command()
@objective_options
@click.option("--temperature", type=float, help="Similarities are divided by it.  [default: 0.1]")
@click.option("--gloss-weight", type=float, help="Of telling a use's gloss from others; 0 leaves it out.  [default: 1]")
def senses(
    inputs: tuple[str, ...], output: Path, temperature: float | None, gloss_weight: float | None, **options: Any
) -> None:
    """Part the senses of words, from uses labelled by sense (SemCor, WordNet or plain usage rows as jsonl).

    \b
    Example:
      ctxembed train senses uses.jsonl -o model/ --from default --learning-rate 1e-4
    """
    settings = {"temperature": temperature, "gloss_weight": gloss_weight}
    train_one("senses", inputs, output=output, settings=settings, options=options)


@train.command()
@click.argument("inputs", nargs=-1, metavar="[INPUT]...")
@model_options
@documents_option
@reading_options
@click.option("--sentences", multiple=True, type=click.Path(), help="Folder of a teacher's sentence vectors.")
@click.option("--words", multiple=True, type=click.Path(), help="Folder of a teacher's word vectors.")
@click.option("--sentence-model", metavar="MODEL", help="A teacher to ask for sentence vectors of INPUT.")
@click.option("--word-model", metavar="MODEL", help="A teacher to ask for word vectors of INPUT.")
@click.option("--layer", type=int, help="The layer of the word teacher.")
@click.option("--cache", type=click.Path(), help="Keep what the models say in this folder, a byte a number.")
@click.option("--cache-limit", type=int, metavar="BYTES", help="Most bytes of it; texts that do not fit are left out.")
def distill(
    inputs: tuple[str, ...],
    output: Path,
    max_documents: int | None,
    reading: ReadOptions,
    sentences: tuple[str, ...],
    words: tuple[str, ...],
    sentence_model: str | None,
    word_model: str | None,
    layer: int | None,
    cache: str | None,
    cache_limit: int | None,
    **options: Any,
) -> None:
    """Follow a teacher's sentence vectors and word-in-context vectors.

    The teacher is a model that is asked about INPUT (its answers kept with --cache), or folders of vectors that
    `ctxembed embed` made before, without INPUT.

    \b
    Example:
      ctxembed train distill text.txt --from mlm/ --word-model hf:mpnet/ --layer 5 --cache teacher/ -o model/
      ctxembed train distill --from mlm/ --sentences sentences/ --words words/ -o model/
    """
    if not inputs:
        refuse_idle((*READING, "max_documents", "layer", "cache", "cache_limit"), "without INPUT to ask a model about")
    if not word_model:
        refuse_idle(("layer",), "without --word-model")
    if not cache:
        refuse_idle(("cache_limit",), "without --cache")
    train_one(
        "distill",
        inputs,
        output=output,
        settings={},
        options=options,
        reading=vars_of(reading) if inputs else None,
        max_documents=max_documents,
        teacher={
            "sentences": list(sentences),
            "words": list(words),
            "sentence_model": sentence_model,
            "word_model": word_model,
            "layer": layer,
            "cache": cache,
            "max_bytes": cache_limit,
        },
    )


@train.command()
@click.argument("recipe", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@output_option
@click.option("--max-steps", type=click.IntRange(min=1), help="Wins over the recipe's.")
@budget_option
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="Wins over the recipe's.")
@click.option("--dry-run", is_flag=True, help="Check the recipe, compute nothing.")
@resume_option
@hardware_options
def recipe(
    recipe: Path,
    output: Path,
    max_steps: int | None,
    budget: float | None,
    seed: int | None,
    dry_run: bool,
    resume: bool,
    device: str,
) -> None:
    """Train on a weighted mixture of objectives, written down as TOML (docs/training.md has examples).

    \b
    Example:
      ctxembed train recipe recipe.toml -o model/ --budget 10m
    """
    from ctxembed.training.recipes import read_recipe

    started = time.perf_counter()
    values = {"max_steps": max_steps, "budget": budget, "seed": seed}
    overrides: dict[str, Any] = {name: value for name, value in values.items() if value is not None}
    if budget is not None:
        refuse_idle(("max_steps",), "beside --budget, which takes the place of steps")
    elif max_steps is not None:
        overrides["budget"] = None  # one in the recipe would leave the steps without effect
    checked = read_recipe(recipe, overrides=overrides, around=surroundings(recipe.parent))
    if dry_run:
        say(f"{recipe} is in order: {len(checked.plans)} objectives on {', '.join(checked.inputs) or 'vector folders'}")
        return
    run(checked, output=output, resume=resume, device=device, started=started)


def _train_on_text(
    kind: str,
    inputs: tuple[str, ...],
    output: Path,
    settings: dict[str, Any],
    options: dict[str, Any],
    *,
    reading: ReadOptions,
    max_documents: int | None,
) -> None:
    train_one(
        kind,
        inputs,
        output=output,
        settings=settings,
        options=options,
        reading=vars_of(reading),
        max_documents=max_documents,
    )


def vars_of(reading: ReadOptions) -> dict[str, Any]:
    """Return reading options as a recipe writes them."""
    from ctxembed.config import to_mapping

    return to_mapping(reading)


def _numbers(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{text!r}: write widths with commas between, 64,128") from error

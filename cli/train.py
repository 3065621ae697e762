"""`ctxembed train`: objectives that make a model, one command each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ctxembed.config import PRESETS

from .options import (
    inputs_argument,
    open_corpus,
    reading_options,
    refuse_idle,
    require_free,
    resume_option,
    runtime_options,
    seed_option,
    stacked,
)
from .output import say
from .progress import training_line

if TYPE_CHECKING:
    from ctxembed.corpus import ReadOptions
    from ctxembed.training.targets import VectorTargets
    from ctxembed.vectors import VectorFolder

output_option = click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), metavar="FOLDER", help="Where the model goes."
)

loop_options = stacked(
    click.option("--max-steps", type=click.IntRange(min=1), default=2000, show_default=True, help="Optimiser steps."),
    click.option("--batch-tokens", type=int, default=8192, show_default=True, help="Tokens of one step."),
    click.option("--accumulation", type=int, default=1, show_default=True, help="Micro-batches of one step."),
    click.option("--learning-rate", type=float, default=1e-3, show_default=True, help="Peak, after warm-up."),
    click.option("--max-length", type=int, default=128, show_default=True, help="Most tokens of a row in training."),
    click.option("--save-every", type=int, default=200, show_default=True, help="Steps between checkpoints."),
    click.option(
        "--eval-every", type=int, default=500, show_default=True, help="Steps between evaluations on held-out rows."
    ),
)


@click.group()
def train() -> None:
    """Train an encoder or static vectors on your own text."""


@train.command()
@inputs_argument
@output_option
@click.option(
    "--preset", type=click.Choice(list(PRESETS)), default="small", show_default=True, help="Size of the encoder."
)
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="TOML with [encoder], [tokenizer], [masking] settings; wins over --preset.",
)
@click.option(
    "--tokenizer", type=click.Path(path_type=Path), help="A trained tokenizer; by default one is trained on the corpus."
)
@click.option("--vocab-size", type=int, default=16_000, show_default=True, help="Of the tokenizer trained here.")
@click.option("--max-documents", type=click.IntRange(min=1), help="Train on a seeded sample of so many documents.")
@loop_options
@reading_options
@seed_option
@resume_option
@runtime_options
def mlm(
    inputs: tuple[str, ...],
    output: Path,
    preset: str,
    config: Path | None,
    tokenizer: Path | None,
    vocab_size: int,
    max_documents: int | None,
    reading: ReadOptions,
    seed: int,
    resume: bool,
    device: str,
    **loop: Any,
) -> None:
    """Train an encoder from nothing by predicting masked words.

    A killed run goes on with the same command and --resume.

    \b
    Example:
      ctxembed train mlm corpus.txt -o model/ --preset tiny --max-steps 80 --seed 7
      ctxembed train mlm books/*.txt.zst -o model/ --document paragraph --max-documents 500000
    """
    from ctxembed.config import TrainingConfig, from_mapping
    from ctxembed.tokenizer import SubwordTokenizer, TokenizerConfig
    from ctxembed.training.objectives import MaskingConfig
    from ctxembed.training.recipes import Run, prepare_documents, train_mlm

    settings = read_sections(config, "encoder", "tokenizer", "masking")
    if tokenizer:
        refuse_idle(("vocab_size",), "with a trained tokenizer")
    if "vocab_size" in settings["tokenizer"]:
        refuse_idle(("vocab_size",), f"beside the [tokenizer] vocab_size in {config}")
    given = SubwordTokenizer.load(tokenizer) if tokenizer else None
    training = TrainingConfig(seed=seed, **loop)
    corpus = open_corpus(inputs, reading)
    documents = prepare_documents(corpus, most=max_documents, seed=seed)
    with training_line(training.max_steps) as report:
        train_mlm(
            documents,
            run=Run(
                folder=output,
                training=training,
                resume=resume,
                device=chosen_device(device),
                report=report,
                tell=say,
                notes={"inputs": input_names(inputs)},
            ),
            shape={"max_length": max(training.max_length, 128), **PRESETS[preset], **settings["encoder"]},
            tokenizer=given or from_mapping(TokenizerConfig, {"vocab_size": vocab_size, **settings["tokenizer"]}),
            masking=from_mapping(MaskingConfig, settings["masking"]),
        )
    say(corpus.counts.summary())
    say(
        f'the model is in {output}: try  ctxembed compare -m {output} "the [bank] of the river" "the [bank] lent money"'
    )


@train.command()
@click.option(
    "--sentences",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Folder of a teacher's sentence vectors (ctxembed embed); may be repeated.",
)
@click.option(
    "--words",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Folder of a teacher's word vectors (ctxembed embed --unit word); may be repeated.",
)
@click.option("--init", required=True, type=click.Path(path_type=Path), help="The model to start from (train mlm).")
@output_option
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="TOML with [distillation], [masking] and [pooling] settings.",
)
@loop_options
@seed_option
@resume_option
@runtime_options
def distill(
    sentences: tuple[Path, ...],
    words: tuple[Path, ...],
    init: Path,
    output: Path,
    config: Path | None,
    seed: int,
    resume: bool,
    device: str,
    **loop: Any,
) -> None:
    """Train a model further to follow a teacher's sentence and word vectors.

    \b
    Example:
      ctxembed embed corpus.txt -m hf:teacher/ -o sentences/
      ctxembed embed corpus.txt -m hf:teacher/ -o words/ --unit word --layer 5
      ctxembed train distill --init mlm/ --sentences sentences/ --words words/ -o model/
    """
    from ctxembed.config import PoolingConfig, TrainingConfig, from_mapping
    from ctxembed.errors import InvalidInputError
    from ctxembed.model.checkpoint import load_checkpoint
    from ctxembed.training.objectives import DistillationConfig, MaskingConfig
    from ctxembed.training.recipes import Run
    from ctxembed.training.recipes import distill as run_distillation
    from ctxembed.training.targets import VectorTargets

    if not sentences and not words:
        raise InvalidInputError("no teacher is named: give --sentences FOLDER, --words FOLDER, or both")
    settings = read_sections(config, "distillation", "masking", "pooling")
    training = TrainingConfig(seed=seed, **loop)
    initial = load_checkpoint(init)
    of_sentences = teacher_folders(sentences, units=("sentence",))
    of_words = teacher_folders(words, units=("word", "content-word"))
    targets = VectorTargets(initial.tokenizer, sentences=of_sentences, words=of_words, max_length=training.max_length)
    say(f"{len(targets.store):,} texts; {targets.skipped_long:,} longer than {training.max_length} tokens left out")
    if targets.skipped_vectors:
        say(f"{targets.skipped_vectors:,} vectors left out: they are zero, or their word has no token")
    with training_line(training.max_steps) as report:
        run_distillation(
            targets,
            run=Run(
                folder=output,
                training=training,
                resume=resume,
                device=chosen_device(device),
                report=report,
                notes=teacher_notes([*of_sentences, *of_words], targets),
            ),
            initial=initial,
            config=from_mapping(DistillationConfig, settings["distillation"]),
            masking=from_mapping(MaskingConfig, settings["masking"]),
            pooling=from_mapping(PoolingConfig, settings["pooling"]) if settings["pooling"] else None,
        )
    say(f"the model is in {output}")


@train.command()
@inputs_argument
@output_option
@click.option("--dimension", type=int, default=100, show_default=True, help="Width of the vectors.")
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
@click.option("--max-vocabulary", type=int, help="Keep only so many words, the most frequent.")
@click.option("--max-documents", type=click.IntRange(min=1), help="Train on a seeded sample of so many documents.")
@click.option(
    "--workers", type=int, default=1, show_default=True, help="Training threads; only with 1 are two runs equal."
)
@reading_options
@seed_option
def static(
    inputs: tuple[str, ...], output: Path, max_documents: int | None, reading: ReadOptions, seed: int, **settings: Any
) -> None:
    """Train Word2Vec on the same text and the same words: the static vectors to compare with.

    \b
    Example:
      ctxembed train static corpus.txt -o static/
    """
    from ctxembed.training.recipes import prepare_documents
    from ctxembed.word2vec import StaticConfig, StaticProgress, train_static

    config = StaticConfig(seed=seed, **settings)
    require_free(output)
    corpus = open_corpus(inputs, reading)
    documents = prepare_documents(corpus, most=max_documents, seed=seed)
    shown = -1

    def tell(progress: StaticProgress) -> None:
        nonlocal shown
        if progress.epoch != shown:
            shown = progress.epoch
            done = f"epoch {progress.epoch}/{progress.num_epochs}" if progress.epoch else "reading"
            say(f"{done}: {progress.documents:,} documents, {progress.tokens:,} words")

    vectors = train_static(documents, config=config, on_progress=tell)
    say(corpus.counts.summary())
    vectors.save(output)
    say(f"{output}: {len(vectors):,} words of width {vectors.dimension}")


def read_sections(config: Path | None, *names: str) -> dict[str, dict[str, Any]]:
    """Read the named sections of a TOML file; one that is not there is empty.

    Raises:
        InvalidInputError: If the file holds anything else.
    """
    from ctxembed.config import check, read_toml

    settings = read_toml(config) if config else {}
    known = ", ".join(f"[{name}]" for name in names)
    for name, value in settings.items():
        check(
            name in names and isinstance(value, dict), f"{config}: {name!r} is no section of this command: use {known}"
        )
    return {name: settings.get(name, {}) for name in names}


def teacher_folders(paths: tuple[Path, ...], *, units: tuple[str, ...]) -> list[VectorFolder]:
    """Open a teacher's vector folders.

    Raises:
        InvalidInputError: If one holds vectors of another unit.
    """
    from ctxembed.config import check
    from ctxembed.vectors import VectorFolder

    folders = [VectorFolder.open(path) for path in paths]
    for path, folder in zip(paths, folders, strict=True):
        found = folder.settings.get("unit")
        wanted = " or ".join(units)
        check(found in units, f"{path} holds {found} vectors, need {wanted}: ctxembed embed --unit makes them")
    return folders


def teacher_notes(folders: list[VectorFolder], targets: VectorTargets) -> dict[str, Any]:
    """Return what training.json keeps of a teacher's vector folders, no paths, and of what was used of them."""
    return {
        "teacher_folders": [
            {**{name: folder.settings.get(name) for name in ("model", "unit", "layer")}, "vectors": len(folder)}
            for folder in folders
        ],
        "texts": len(targets.store),
        "skipped_long": targets.skipped_long,
        "skipped_vectors": targets.skipped_vectors,
    }


def chosen_device(name: str) -> Any:
    """Return the device to train on, None for the CPU."""
    from ctxembed.model.device import choose_device

    device = choose_device(name)
    return None if device.type == "cpu" else device


def input_names(inputs: tuple[str, ...]) -> list[str]:
    """Return the inputs as training.json keeps them: file names, no paths."""
    return [Path(name).name for name in inputs]

"""What the commands of ``ctxembed train`` share: options, and the way from them to a recipe that runs."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from ctxembed.config import PRESETS, check

from .options import (
    hardware_options,
    inputs_argument,
    load_any,
    load_static,
    refuse_idle,
    report_long,
    resume_option,
    seed_option,
    stacked,
)
from .output import say
from .progress import document_bar, training_line

if TYPE_CHECKING:
    from ctxembed.config import TrainingConfig
    from ctxembed.corpus import ReadOptions
    from ctxembed.training.objectives.distill import TeacherTargets
    from ctxembed.training.plans import Preparation
    from ctxembed.training.recipes import Recipe, Surroundings
    from ctxembed.training.start import WordTable
    from ctxembed.training.targets import VectorTargets
    from ctxembed.training.teachers import LiveTargets
    from ctxembed.vectors import VectorFolder

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
SECTIONS = ("model", "tokenizer", "pooling", "decoder", "config")
"""What the --config of a command for one objective may hold; ``config`` are the objective's own settings."""
CUT_UP = ("mlm", "denoise")
"""Objectives whose batches may be computed in pieces."""


def duration(_: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """Read a time such as 90s, 10m, 2h or 1.5d as seconds; a bare number is seconds."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", value)
    if found is None or not float(found[1]):
        raise click.BadParameter(f"{value!r} is no time: write 90s, 10m, 2h or 1d", param=parameter)
    return float(found[1]) * UNITS[found[2] or "s"]


budget_option = click.option(
    "--budget",
    callback=duration,
    metavar="TIME",
    help="Time in place of steps, 10m or 2h: says first what that allows.",
)
output_option = click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), metavar="FOLDER", help="Where the model goes."
)
limit_options = stacked(
    click.option("--max-steps", type=click.IntRange(min=1), default=2000, show_default=True, help="Optimiser steps."),
    budget_option,
)
loop_options = stacked(
    limit_options,
    click.option("--batch-tokens", type=int, default=8192, show_default=True, help="Tokens of one step."),
    click.option("--accumulation", type=int, default=1, show_default=True, help="Micro-batches of one step."),
    click.option("--learning-rate", type=float, default=1e-3, show_default=True, help="Peak, after warm-up."),
    click.option("--max-length", type=int, default=128, show_default=True, help="Most tokens of a row in training."),
    click.option(
        "--checkpoint-every",
        "save_every",
        type=int,
        default=200,
        show_default=True,
        help="Steps between the checkpoints that --resume goes on from.",
    ),
    click.option(
        "--eval-every", type=int, default=500, show_default=True, help="Steps between evaluations on held-out items."
    ),
)
start_options = stacked(
    click.option(
        "--from",
        "source",
        metavar="MODEL",
        help='Go on from this model, its tokenizer kept; "default" is the one that ships.',
    ),
    click.option(
        "--preset", type=click.Choice(list(PRESETS)), default="small", show_default=True, help="Size of a new encoder."
    ),
    click.option(
        "--config",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="TOML with [model], [tokenizer], [pooling], [decoder] as in a recipe, and [config] of the objective.",
    ),
    click.option("--tokenizer", type=click.Path(), help="A trained tokenizer; else one is trained on the text."),
    click.option("--vocab-size", type=int, default=16_000, show_default=True, help="Of a tokenizer trained here."),
    click.option("--init-embeddings", metavar="STATIC", help="Begin the embedding layer with these Word2Vec vectors."),
)
model_options = stacked(output_option, start_options, loop_options, seed_option, resume_option, hardware_options)
objective_options = stacked(inputs_argument, model_options)
"""For a command that trains one objective on inputs; gather them in ``**options`` and hand them to ``train_one``."""


def train_one(
    kind: str,
    inputs: Sequence[str],
    *,
    output: Path,
    settings: Mapping[str, Any],
    options: dict[str, Any],
    reading: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
    max_documents: int | None = None,
    teacher: Mapping[str, Any] | None = None,
) -> None:
    """Train one objective: put what the command line says into the form of a recipe, and run it.

    Args:
        kind: Of the objective.
        inputs: Files to learn from.
        output: The folder of the model.
        settings: Of the objective, as far as they were given; they win over the [config] of --config.
        options: The values of ``model_options``.
        reading: How inputs are read.
        defaults: Settings of the objective that the command line sees differently; [config] wins over them.
        max_documents: Learn from a sample of so many.
        teacher: Of a distillation.
    """
    from ctxembed.training.recipes import recipe_from_mapping

    if options["budget"] is not None:
        refuse_idle(("max_steps",), "beside --budget, which takes the place of steps")
    if kind not in CUT_UP:
        refuse_idle(("accumulation",), f"for {kind}, which compares the rows of a batch")
    sections = _sections(options.pop("config"))
    resume, device = options.pop("resume"), options.pop("device")
    mapping = {
        **_start(sections, options),
        "training": options,
        "objective": [
            {
                "kind": kind,
                "inputs": list(inputs),
                "reading": dict(reading or {}),
                "config": {**(defaults or {}), **sections["config"], **_given(settings)},
                "max_documents": max_documents,
                "teacher": _given(teacher or {}),
            }
        ],
    }
    started = time.perf_counter()
    recipe = recipe_from_mapping(mapping, around=surroundings(Path()))
    run(recipe, output=output, resume=resume, device=device, started=started)


def run(recipe: Recipe, *, output: Path, resume: bool, device: str, started: float) -> None:
    """Run a checked recipe, show its course, and draw its loss curve."""
    from ctxembed.report.curves import draw_curves
    from ctxembed.training.run import Run, train

    first = first_process()
    notes = {"inputs": recipe.inputs, "teachers": recipe.teachers}
    with training_line(recipe.training) if first else contextlib.nullcontext() as report:
        train(
            recipe.start,
            recipe.plans,
            run=Run(
                folder=output,
                training=recipe.training,
                resume=resume,
                device=chosen_device(device),
                report=report,
                tell=say if first else None,
                notes={name: list(names) for name, names in notes.items() if names},
                started=started,
            ),
        )
    if first:
        draw_curves(output)
        say(f"the model is in {output}, its loss curve in {output / 'loss.png'}")


def first_process() -> bool:
    """Tell whether this is the process that writes, of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def surroundings(base: Path) -> Surroundings:
    """Return the loaders that recipes need: teachers and static vectors live above the training layer."""
    from ctxembed.training.recipes import Surroundings

    return Surroundings(base, teacher_plan=teacher_plan, word_table=word_table)


def word_table(name: str) -> WordTable:
    """Load static vectors to begin an embedding layer with."""
    from ctxembed.training.start import WordTable

    static = load_static(name)
    return WordTable(words=static.words, vectors=static.vectors, name=static.name)


def teacher_plan(
    table: Mapping[str, Any], inputs: Sequence[str], reading: ReadOptions, training: TrainingConfig, most: int | None
) -> Any:
    """Return what makes the targets of a distillation, everything it names checked.

    Args:
        table: ``sentences`` and ``words``, folders of vectors; or ``sentence_model`` and ``word_model`` to be asked
            about the inputs, with ``cache`` and the fields of TeacherConfig.
        inputs: Texts for models to be asked about.
        reading: How they are read.
        training: Gives the seed.
        most: Learn from a sample of so many texts.
    """
    from ctxembed.corpus import Corpus, prepare_documents
    from ctxembed.training.targets import VectorTargets
    from ctxembed.training.teachers import teach
    from ctxembed.training.word_cache import TeacherConfig

    known = {
        "sentences",
        "words",
        "sentence_model",
        "word_model",
        "cache",
        *(each.name for each in fields(TeacherConfig)),
    }
    for name in table:
        check(name in known, f"unknown setting {name!r} of the teacher: known are {', '.join(sorted(known))}")
    of_sentences = teacher_folders(table.get("sentences", ()), units=("sentence",))
    of_words = teacher_folders(table.get("words", ()), units=("word", "content-word"))
    models = [_teacher(table.get(name)) for name in ("sentence_model", "word_model")]
    check(
        bool(of_sentences or of_words) != any(models),
        "distill needs a teacher: folders of its vectors (--sentences, --words), or models (--sentence-model, "
        "--word-model), not both",
    )
    check(bool(inputs) == any(models), "a teacher's models are asked about inputs, its folders hold their own texts")
    if not any(models):

        def from_folders(given: Preparation) -> TeacherTargets:
            targets = VectorTargets(
                given.model.tokenizer, sentences=of_sentences, words=of_words, max_length=given.max_length
            )
            report_targets(targets, given)
            return targets

        return from_folders
    corpus = Corpus(list(inputs), options=reading)
    documents = prepare_documents(corpus, most=most, seed=training.seed)
    config = TeacherConfig(**{each.name: table[each.name] for each in fields(TeacherConfig) if each.name in table})
    cache = Path(table["cache"]) if table.get("cache") else None

    def from_models(given: Preparation) -> TeacherTargets:
        with document_bar("asking the teacher") as advance:
            targets = teach(
                documents,
                tokenizer=given.model.tokenizer,
                max_length=given.max_length,
                sentence_teacher=models[0],
                word_teacher=models[1],
                cache=cache,
                config=config,
                tell=given.say,
                on_progress=advance,
            )
        given.say(corpus.counts.summary())
        report_targets(cast("VectorTargets | LiveTargets", targets), given)
        for model in filter(None, models):
            report_long(model)
        return targets

    return from_models


def report_targets(targets: VectorTargets | LiveTargets, given: Preparation) -> None:
    """Tell how many texts there are to learn from, and what was left out."""
    longer = f"{targets.skipped_long:,} longer than {given.max_length} tokens left out"
    given.say(f"{len(targets.store):,} texts; {longer}; {targets.skipped_vectors:,} vectors without use")


def _teacher(name: str | None) -> Any:
    return None if name is None else load_any(name)


def teacher_folders(paths: Sequence[str | Path], *, units: tuple[str, ...]) -> list[VectorFolder]:
    """Open a teacher's vector folders.

    Raises:
        InvalidInputError: If one holds vectors of another unit.
    """
    from ctxembed.vectors import VectorFolder

    folders = [VectorFolder.open(path) for path in paths]
    for path, folder in zip(paths, folders, strict=True):
        found = folder.settings.get("unit")
        wanted = " or ".join(units)
        check(found in units, f"{path} holds {found} vectors, need {wanted}: ctxembed embed --unit makes them")
    return folders


def chosen_device(name: str) -> Any:
    """Return the device to train on, None for the CPU."""
    import torch

    from ctxembed.model.device import choose_device

    device = choose_device(name)
    if device == torch.device("cuda") and "LOCAL_RANK" in os.environ:  # torchrun: a GPU for each process
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    return None if device.type == "cpu" else device


def _sections(config: Path | None) -> dict[str, dict[str, Any]]:
    """Read the sections of a --config file; one that is not there is empty."""
    from ctxembed.config import read_toml

    settings = read_toml(config) if config else {}
    known = ", ".join(f"[{name}]" for name in SECTIONS)
    for name, value in settings.items():
        check(
            name in SECTIONS and isinstance(value, dict),
            f"{config}: {name!r} is no section of this command: use {known}",
        )
    return {name: settings.get(name, {}) for name in SECTIONS}


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that are there."""
    return {name: value for name, value in values.items() if value not in (None, [])}


def _start(sections: Mapping[str, dict[str, Any]], options: dict[str, Any]) -> dict[str, Any]:
    """Take the options about the model to begin with out of ``options``; return them as sections of a recipe."""
    source, preset, tokenizer = options.pop("source"), options.pop("preset"), options.pop("tokenizer")
    vocab_size, words = options.pop("vocab_size"), options.pop("init_embeddings")
    model, own = dict(sections["model"]), dict(sections["tokenizer"])
    if words:
        model["init_embeddings"] = words
    if source:
        model["from"] = source
    if "from" in model:
        refuse_idle(("preset", "tokenizer", "vocab_size"), "with a model to go on from")
    else:
        if "preset" in model:
            refuse_idle(("preset",), "beside the [model] preset of the settings file")
        model = {"preset": preset, "max_length": max(-(-options["max_length"] // 8) * 8, 128), **model}
        if tokenizer:
            refuse_idle(("vocab_size",), "with a trained tokenizer")
            check(not own, "[tokenizer] in the settings file does nothing beside --tokenizer: leave one out")
            own = {"path": tokenizer}
        elif "path" not in own:
            if "vocab_size" in own:
                refuse_idle(("vocab_size",), "beside the [tokenizer] vocab_size of the settings file")
            own = {"vocab_size": vocab_size, **own}
    return {"model": model, "tokenizer": own, "pooling": sections["pooling"], "decoder": sections["decoder"]}

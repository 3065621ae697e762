"""Recipes: a run written down as TOML (or a mapping of the same shape), checked whole before anything is computed.

[model]                       # what is trained
preset = "small"              # or: from = "folder"; fields of EncoderConfig win over the preset
[tokenizer]                   # path = "folder", or fields of TokenizerConfig; not with `from`
[training]                    # fields of TrainingConfig
[[objective]]                 # one or more, mixed by share (of the tokens) and weight (of the loss)
kind = "mlm"
inputs = ["corpus.txt.zst"]
config = { whole_words = true }
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ctxembed.config import (
    NEW_ENCODER,
    NEW_MASKING,
    PRESETS,
    DecoderConfig,
    EncoderConfig,
    PoolingConfig,
    TrainingConfig,
    check,
    from_mapping,
    read_toml,
)
from ctxembed.corpus import Corpus, prepare_documents
from ctxembed.errors import CtxEmbedError, InvalidInputError
from ctxembed.model.checkpoint import load_checkpoint
from ctxembed.readers import ReadOptions
from ctxembed.runtime import DEFAULT_MODEL, existing, model_folder
from ctxembed.tokenizer import SubwordTokenizer, TokenizerConfig
from ctxembed.training import plans
from ctxembed.training.objectives.base import Objective
from ctxembed.training.objectives.contrastive import ContrastiveConfig, SimCSEConfig
from ctxembed.training.objectives.denoise import DenoiseConfig
from ctxembed.training.objectives.distill import DistillationConfig
from ctxembed.training.objectives.mlm import MaskingConfig
from ctxembed.training.objectives.senses import SenseConfig
from ctxembed.training.pairs import PairOptions
from ctxembed.training.plans import Plan, Preparation
from ctxembed.training.start import ExistingModel, NewModel, Start, WordTable
from ctxembed.types import Document
from ctxembed.vectors import VectorFolder

CONFIGS: Mapping[str, type[Any]] = {
    "mlm": MaskingConfig,
    "contrastive": ContrastiveConfig,
    "simcse": SimCSEConfig,
    "distill": DistillationConfig,
    "denoise": DenoiseConfig,
    "senses": SenseConfig,
}
"""Every kind of objective, and what its ``config`` may hold."""
SECTIONS = ("model", "tokenizer", "pooling", "decoder", "training", "objective")


@dataclass(frozen=True, kw_only=True)
class ObjectiveTable:
    """One [[objective]] of a recipe."""

    kind: str
    """Which objective."""
    inputs: list[str] = field(default_factory=list)
    """Files and folders of text, pairs or labelled uses, relative to the recipe; $VARIABLES are filled in."""
    share: float = 1.0
    """Of the tokens of each step."""
    weight: float = 1.0
    """Of its loss in the sum."""
    max_documents: int | None = None
    """Learn from a seeded sample of so many documents."""
    reading: dict[str, Any] = field(default_factory=dict)
    """How inputs are read: fields of ReadOptions, or of PairOptions for pairs."""
    config: dict[str, Any] = field(default_factory=dict)
    """Settings of the objective."""
    teacher: dict[str, Any] = field(default_factory=dict)
    """Of distill: ``sentences`` and ``words``, lists of folders that `ctxembed embed` made; or ``sentence_model`` and
    ``word_model``, to be asked about the inputs, with ``cache``, a folder for their answers, and the fields of
    TeacherConfig."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a recipe needs from above this layer."""

    base: Path
    """What relative paths start from."""
    teacher_plan: Callable[[Mapping[str, Any], Sequence[str], ReadOptions, TrainingConfig, int | None], Any] | None = (
        None
    )
    """Makes the targets of a distillation."""
    word_table: Callable[[str], WordTable] | None = None
    """Loads static vectors by the name of their folder."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """A checked recipe: ready to run."""

    start: Start
    plans: tuple[Plan, ...]
    training: TrainingConfig
    inputs: tuple[str, ...]
    """The names of all inputs."""
    teachers: tuple[str, ...]
    """What is known of the teachers that are followed."""


def read_recipe(path: Path, *, overrides: Mapping[str, Any], around: Surroundings) -> Recipe:
    """Read and check a recipe file.

    Args:
        path: The TOML file.
        overrides: Fields of [training] that win over the file's.
        around: Loaders for what lives above training.

    Raises:
        InvalidInputError: For anything that is misspelt, missing or impossible, with where it stands.
    """
    mapping = read_toml(existing(path))
    try:
        _check_sections(mapping)
        return recipe_from_mapping({**mapping, "training": {**mapping.get("training", {}), **overrides}}, around=around)
    except CtxEmbedError as error:
        raise type(error)(f"{path}: {error}") from error


def recipe_from_mapping(mapping: Mapping[str, Any], *, around: Surroundings) -> Recipe:
    """Check a recipe given as a mapping of the TOML's shape."""
    _check_sections(mapping)
    training = from_mapping(TrainingConfig, mapping.get("training", {}))
    entries = mapping.get("objective", [])
    check(
        bool(entries) and all(isinstance(entry, Mapping) for entry in entries),
        "a recipe needs at least one [[objective]]",
    )
    tables = [from_mapping(ObjectiveTable, entry) for entry in entries]
    tables = [replace(table, teacher=_teacher(table.teacher, around.base)) for table in tables]
    if not mapping.get("model", {}).get("from"):
        tables = [
            replace(each, config={**NEW_MASKING, **each.config}) if each.kind == "mlm" else each for each in tables
        ]
    made = [_plan(table, training=training, around=around) for table in tables]
    documents = next((documents for _, documents in made if documents is not None), None)
    start = _start(mapping, documents, needs_decoder=any(table.kind == "denoise" for table in tables), around=around)
    names = dict.fromkeys(Path(name).name for table in tables for name in table.inputs)
    teachers = tuple(line for table in tables for line in _teacher_lines(table.teacher))
    return Recipe(start, tuple(plan for plan, _ in made), training, tuple(names), teachers)


def _check_sections(mapping: Mapping[str, Any]) -> None:
    for name, value in mapping.items():
        check(name in SECTIONS, f"unknown section {name!r}: known are {', '.join(SECTIONS)}")
        kind, shown = (list, "[[objective]]") if name == "objective" else (dict, f"[{name}]")
        check(isinstance(value, kind), f"{name} = {value!r} is no section: write {shown}")


def _plan(
    table: ObjectiveTable, *, training: TrainingConfig, around: Surroundings
) -> tuple[Plan, Iterable[Document] | None]:
    """Return the plan of an objective, and its documents if it learns from text."""
    kind = table.kind
    check(kind in CONFIGS, f"kind = {kind!r}: must be one of {', '.join(CONFIGS)}")
    check(table.share > 0 and table.weight > 0, f"share and weight of {kind} must be above 0")
    config = from_mapping(CONFIGS[kind], _tuples(table.config))
    paths = [_path(name, around.base) for name in table.inputs]
    check(bool(paths) or kind == "distill", f"{kind} needs inputs: name files to learn from")
    check(kind == "distill" or not table.teacher, f"teacher does nothing for {kind}: leave it out")
    most = table.max_documents
    check(most is None or most >= 1, f"max_documents = {most}: must be at least 1, or left out")
    documents: Any = None
    source: dict[str, Any] = {}
    if kind in ("contrastive", "senses"):
        check(table.max_documents is None, f"max_documents does nothing for {kind}: give it a smaller file")
    if kind == "contrastive":
        build = plans.contrastive(paths, options=from_mapping(PairOptions, _tuples(table.reading)), config=config)
    elif kind == "senses":
        check(not table.reading, "reading does nothing for senses: its rows say what they are")
        build = plans.senses(paths, config=config)
    elif kind == "distill":
        if around.teacher_plan is None:
            raise InvalidInputError("distill needs somebody to load the teacher: use the command line")
        reading = from_mapping(ReadOptions, _tuples(table.reading))
        targets = around.teacher_plan(table.teacher, paths, reading, training, table.max_documents)
        build = plans.distill(targets, config=config)
    else:
        corpus = Corpus(paths, options=from_mapping(ReadOptions, _tuples(table.reading)))
        documents = prepare_documents(corpus, most=table.max_documents, seed=training.seed)
        planners: dict[str, Any] = {"mlm": plans.mlm, "simcse": plans.simcse, "denoise": plans.denoise}
        build = _reported(planners[kind](documents, config), corpus)
        names = [Path(name).name for name in table.inputs]
        source = {"inputs": names, "max_documents": table.max_documents, "reading": table.reading}
    return Plan(build, share=table.share, weight=table.weight, source=source), documents


def _reported(
    build: Callable[[Preparation], Objective[Any]], corpus: Corpus
) -> Callable[[Preparation], Objective[Any]]:
    """Tell what was met in reading a corpus once its objective is made; a resumed run does not read it again."""

    def built(given: Preparation) -> Objective[Any]:
        objective = build(given)
        if corpus.counts.documents:
            given.say(corpus.counts.summary())
        return objective

    return built


def _teacher_lines(table: Mapping[str, Any]) -> Iterator[str]:
    """Say of each teacher whose vectors of what it gives."""
    for name in ("sentence_model", "word_model"):
        if name in table:
            is_default, base = table[name] == DEFAULT_MODEL, Path(table[name].removeprefix("hf:")).name
            yield f"{'the model that ships' if is_default else base}, {name.removesuffix('_model')} vectors"
    for name in ("sentences", "words"):
        for path in table.get(name, ()):
            folder = VectorFolder.open(path, verify=False)
            yield f"{folder.settings.get('model')}, {len(folder):,} {folder.settings.get('unit')} vectors"


def _start(
    mapping: Mapping[str, Any], documents: Iterable[Document] | None, *, needs_decoder: bool, around: Surroundings
) -> Start:
    model, tokenizer = dict(mapping.get("model", {})), dict(mapping.get("tokenizer", {}))
    pooling = from_mapping(PoolingConfig, mapping["pooling"]) if mapping.get("pooling") else None
    decoder = from_mapping(DecoderConfig, mapping.get("decoder", {})) if needs_decoder else None
    check(needs_decoder or not mapping.get("decoder"), "[decoder] does nothing without a denoise objective")
    table = None
    if (words := model.pop("init_embeddings", None)) is not None:
        if around.word_table is None:
            raise InvalidInputError("init_embeddings needs somebody to load the vectors: use the command line")
        table = around.word_table(_path(words, around.base))
    if (source := model.pop("from", None)) is not None:
        check(not tokenizer, "[tokenizer] does nothing with a model to go on from: its own is kept")
        check(not model, f"{', '.join(model)} cannot be changed in a model to go on from: leave it out")
        initial = load_checkpoint(model_folder(source if source == DEFAULT_MODEL else _path(source, around.base)))
        check(
            initial.decoder is None or not mapping.get("decoder"),
            f"[decoder] does nothing with {initial.name}: it has a decoder, which is kept",
        )
        return ExistingModel(checkpoint=initial, pooling=pooling, decoder=decoder, embeddings=table)
    preset = model.pop("preset", "small")
    check(preset in list(PRESETS), f"preset = {preset!r}: must be one of {', '.join(PRESETS)}")
    shape = {"max_length": 128, **NEW_ENCODER, **PRESETS[preset], **model}
    known = {each.name for each in fields(EncoderConfig)}
    for name in shape:
        if name not in known:
            from_mapping(EncoderConfig, {name: shape[name]})  # raises, with the nearest name
    return NewModel(
        shape=shape,
        tokenizer=_tokenizer(tokenizer, documents, around.base),
        documents=documents or (),
        pooling=pooling or PoolingConfig(),
        decoder=decoder,
        embeddings=table,
    )


def _tokenizer(
    settings: dict[str, Any], documents: Iterable[Document] | None, base: Path
) -> SubwordTokenizer | TokenizerConfig:
    if "path" in settings:
        check(len(settings) == 1, "[tokenizer] with a path takes nothing else: it is trained already")
        return SubwordTokenizer.load(_path(settings["path"], base))
    check(
        documents is not None,
        "a new model needs text for its tokenizer: go on from a model (from), or name a trained tokenizer",
    )
    return from_mapping(TokenizerConfig, settings)


def _teacher(table: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """Return a teacher's settings with their paths filled in."""
    filled = dict(table)
    for name in ("sentences", "words"):
        if name in table:
            check(isinstance(table[name], list), f"{name} = {table[name]!r} of the teacher: write a list of folders")
            filled[name] = [_path(folder, base) for folder in table[name]]
    for name in ("sentence_model", "word_model"):
        if name in table and table[name] != DEFAULT_MODEL:
            prefix = "hf:" if table[name].startswith("hf:") else ""
            filled[name] = prefix + _path(table[name].removeprefix(prefix), base)
    if "cache" in table:
        filled["cache"] = str(base / os.path.expandvars(table["cache"]))
    return filled


def _path(name: str, base: Path) -> str:
    """Return a path that exists, relative ones from ``base``; ``-`` is standard input."""
    check(isinstance(name, str), f"{name!r} is no path: write it as a string")
    if name == "-":
        return name
    return str(existing(base / os.path.expandvars(name)))


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}

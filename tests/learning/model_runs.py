"""Tiny runs from documents to a model folder, and what is compared of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ctxembed.config import TrainingConfig
from ctxembed.model.checkpoint import Checkpoint
from ctxembed.tokenizer import SubwordTokenizer, TokenizerConfig
from ctxembed.training import plans
from ctxembed.training.objectives.mlm import MaskingConfig
from ctxembed.training.plans import Plan
from ctxembed.training.run import Run, train
from ctxembed.training.start import ExistingModel, NewModel
from ctxembed.training.targets import VectorTargets
from ctxembed.types import Document
from ctxembed.vector_writer import VectorWriter
from ctxembed.vectors import Row, VectorFolder

SHAPE = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "intermediate_size": 24, "max_length": 24}
TRAINING = TrainingConfig(max_steps=6, batch_tokens=48, max_length=24, seed=3, eval_every=3, save_every=2)
SMALL = TokenizerConfig(vocab_size=90, min_frequency=1)
DOCUMENTS = [
    Document(str(number), f"{person} of {thing} near {place}.")
    for number, (person, thing, place) in enumerate(
        (person, thing, place)
        for person in ("the farmer", "she read")
        for thing in ("the bass", "a spring", "the old crane")
        for place in ("the bank", "the river")
    )
]
FILES = ("README.md", "config.json", "model.safetensors", "tokenizer.json", "training.json")


class Killed(Exception):
    """Stands for what ends a process."""


def killed_after(step: int) -> Callable[[Mapping[str, float]], None]:
    def report(metrics: Mapping[str, float]) -> None:
        if metrics["step"] > step:
            raise Killed

    return report


def mlm(documents: list[Document] = DOCUMENTS, **config: Any) -> Plan:
    return Plan(plans.mlm(documents, MaskingConfig(**config)))


def train_new(
    folder: Path,
    tokenizer: SubwordTokenizer | TokenizerConfig,
    *,
    shape: Mapping[str, Any] = SHAPE,
    documents: list[Document] = DOCUMENTS,
    mixture: list[Plan] | None = None,
    training: TrainingConfig = TRAINING,
    **changes: Any,
) -> Checkpoint:
    start = NewModel(shape=shape, tokenizer=tokenizer, documents=documents)
    run = Run(folder=folder, training=training, **changes)
    return train(start, [mlm(documents)] if mixture is None else mixture, run=run)


def train_further(folder: Path, initial: Checkpoint, *mixture: Plan, **changes: Any) -> Checkpoint:
    pooling = changes.pop("pooling", None)
    run = Run(folder=folder, training=changes.pop("training", TRAINING), **changes)
    return train(ExistingModel(checkpoint=initial, pooling=pooling), mixture or [mlm()], run=run)


def notes_of(folder: Path) -> dict[str, Any]:
    notes: dict[str, Any] = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    return notes


def metrics_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def assert_same_files(one: Path, other: Path) -> None:
    assert all((one / file).read_bytes() == (other / file).read_bytes() for file in FILES)
    timeless = [[{**line, "seconds": 0} for line in metrics_of(folder)] for folder in (one, other)]
    assert timeless[0] == timeless[1]


def several(tokenizer: SubwordTokenizer) -> list[Plan]:
    """A mixture with two objectives of one kind, and one that compares rows."""
    return [mlm(), replace(mlm(DOCUMENTS[:7], whole_words=True), share=0.5), Plan(plans.simcse(DOCUMENTS), weight=0.3)]


def teacher(folder: Path, **settings: Any) -> VectorFolder:
    rows = [Row(document.id, document.text) for document in DOCUMENTS]
    vectors = np.random.default_rng(1).standard_normal((len(rows), 8)).astype(np.float32)
    with VectorWriter(folder, settings={"fingerprint": "random", **settings}, dimension=8) as writer:
        writer.append(rows, vectors, documents=DOCUMENTS)
    return VectorFolder.open(folder)


def distill(folder: VectorFolder) -> Plan:
    return Plan(
        plans.distill(
            lambda given: VectorTargets(given.model.tokenizer, sentences=[folder], max_length=given.max_length)
        )
    )

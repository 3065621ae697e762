"""Tiny runs of the training loop, and what is compared of them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor, nn

import ctxembed.training.trainer
from ctxembed.config import NEW_MASKING, EncoderConfig, PoolingConfig, TrainingConfig
from ctxembed.model.checkpoint import Checkpoint
from ctxembed.model.encoder import MaskedWordHead, TransformerEncoder
from ctxembed.training.batches import chunk_texts
from ctxembed.training.objectives.base import Loss, Objective
from ctxembed.training.objectives.mlm import MaskedBatch, MaskedLanguageModelling, MaskingConfig
from ctxembed.training.trainer import Part, Trainer

if TYPE_CHECKING:
    from ctxembed.tokenizer import SubwordTokenizer

PLACES, THINGS = ("bank", "river", "plant", "train"), ("the bass", "a spring", "the old crane", "the cars", "a band")
TEXTS = [f"she read of {thing} near the {place}" for place, thing in itertools.product(PLACES, THINGS)]
CONFIG = {
    "max_steps": 10,
    "batch_tokens": 64,
    "max_length": 16,
    "learning_rate": 5e-3,
    "seed": 3,
    "eval_every": 4,
    "save_every": 3,
}


class Killed(Exception):
    """Stands for what ends a process."""


def set_precision(monkeypatch: pytest.MonkeyPatch, *, low: bool) -> None:
    monkeypatch.setattr(ctxembed.training.trainer, "is_bfloat16_fast", lambda _: low)


@pytest.fixture(autouse=True)
def float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests mean float32 unless they say otherwise, whatever the machine is good at."""
    set_precision(monkeypatch, low=False)


def tiny(tokenizer: SubwordTokenizer, *, dropout: float = 0.1, **shape: Any) -> Checkpoint:
    sizes = {"hidden_size": 16, "num_layers": 3, "num_heads": 2, "intermediate_size": 32, "max_length": 16}
    config = EncoderConfig(**{**sizes, "vocab_size": len(tokenizer), "dropout": dropout, **shape})
    torch.manual_seed(5)
    encoder, head = TransformerEncoder(config), MaskedWordHead(config)
    return Checkpoint(name="tiny", encoder=encoder, head=head, tokenizer=tokenizer, pooling=PoolingConfig())


def masked(
    tokenizer: SubwordTokenizer, texts: Sequence[str] = TEXTS, kind: type[MaskedLanguageModelling] | None = None
) -> MaskedLanguageModelling:
    store = chunk_texts(texts, tokenizer, max_length=16)
    return (kind or MaskedLanguageModelling)(store, tokenizer, config=MaskingConfig(**NEW_MASKING))


def trainer_of(
    folder: Path, model: Checkpoint, *parts: Part | Objective[Any], started: float | None = None, **changes: Any
) -> Trainer:
    listed = [part if isinstance(part, Part) else Part(part) for part in parts]
    return Trainer(model, listed, config=TrainingConfig(**{**CONFIG, **changes}), folder=folder, started=started)


def masked_trainer(
    folder: Path, tokenizer: SubwordTokenizer, *, texts: Sequence[str] = TEXTS, dropout: float = 0.1, **changes: Any
) -> Trainer:
    return trainer_of(folder, tiny(tokenizer, dropout=dropout), masked(tokenizer, texts), **changes)


def run(trainer: Trainer, *, kill_at: int | None = None) -> list[Mapping[str, float]]:
    """Train, or be killed when step ``kill_at`` is done but not saved; return what was reported."""
    reported: list[Mapping[str, float]] = []

    def report(metrics: Mapping[str, float]) -> None:
        reported.append(metrics)
        if metrics["step"] == kill_at:
            raise Killed

    if kill_at is None:
        trainer.fit(report=report)
    else:
        with pytest.raises(Killed):
            trainer.fit(report=report)
    return reported


def metrics(trainer: Trainer) -> list[dict[str, float]]:
    """What metrics.jsonl holds, apart from the time."""
    text = trainer.metrics_file.read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def state_of(trainer: Trainer) -> dict[str, Tensor]:
    with safe_open(str(trainer.folder / "state.safetensors"), framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two sets of tensors, of one at least, are the same bit for bit."""
    return bool(one) and one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def timeless(trainer: Trainer) -> dict[str, Any]:
    return {name: value for name, value in vars(trainer.progress).items() if name not in ("seconds", "prepared")}


def assert_same_end(one: Trainer, other: Trainer) -> None:
    """Weights, moments, progress and metrics are the same, bit for bit."""
    assert same(state_of(one), state_of(other))
    assert same(*(dict(each.model.encoder.named_parameters()) for each in (one, other)))
    assert timeless(one) == timeless(other)
    assert metrics(one) == metrics(other)


class Recorded(MaskedLanguageModelling):
    """Remembers what it was asked for in training, and in evaluation."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.asked: list[tuple[NDArray[np.int64], tuple[int, ...]]] = []
        self.measured: list[NDArray[np.int64]] = []

    def prepare(self, items: NDArray[np.int64], *, seed: Sequence[int]) -> MaskedBatch:
        if torch.is_grad_enabled():
            self.asked.append((items, tuple(seed)))
        else:
            self.measured.append(items)
        return super().prepare(items, seed=seed)


class Odd(MaskedLanguageModelling):
    """Has a parameter of its own that every other batch says nothing about."""

    kind = "odd"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        torch.manual_seed(8)
        self.map = nn.Linear(16, 1)
        self.calls = 0

    def forward(self, model: Checkpoint, batch: MaskedBatch) -> Loss:
        loss = super().forward(model, batch)
        if int(batch.ids.sum()) % 2:
            return loss
        sentence = model.encoder(batch.ids, batch.lengths).last.mean(dim=1).float()
        return replace(loss, value=loss.value + self.map(sentence).square().mean())

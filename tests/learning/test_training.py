"""The training loop on tiny shapes: it learns, and what it learns follows from the seed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ctxembed.config import TrainingConfig
from ctxembed.model.checkpoint import Checkpoint, checkpoint_modules
from ctxembed.training.objectives.base import Loss, Objective
from ctxembed.training.objectives.mlm import MaskedBatch, MaskedLanguageModelling
from ctxembed.training.progress import learning_rate_at

from .training_runs import (
    TEXTS,
    Recorded,
    assert_same_end,
    float32,  # noqa: F401
    masked,
    masked_trainer,
    metrics,
    run,
    same,
    set_precision,
    state_of,
    tiny,
    trainer_of,
)

if TYPE_CHECKING:
    from ctxembed.tokenizer import SubwordTokenizer

# Learning


@pytest.mark.parametrize("low", [False, True])
def test_masked_modelling_overfits_one_small_batch(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, low: bool
) -> None:
    set_precision(monkeypatch, low=low)
    model = tiny(tiny_tokenizer, dropout=0.0, hidden_size=32)
    trainer = trainer_of(
        tmp_path, model, masked(tiny_tokenizer, TEXTS[:9]), max_steps=160, batch_tokens=512, learning_rate=2e-2
    )
    reported = run(trainer)
    assert reported[0]["loss"] > 4  # the logarithm of the vocabulary is 4.7
    assert np.mean([line["loss"] for line in reported[-20:]]) < 0.6
    assert np.mean([line["mlm_accuracy"] for line in reported[-20:]]) > 0.8


def test_what_was_learned_counts_in_evaluation_mode(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    trainer = masked_trainer(tmp_path, tiny_tokenizer, texts=TEXTS[:1], max_steps=160, learning_rate=2e-2)
    before = trainer.evaluate()["eval_loss"]
    run(trainer)
    assert before > 4
    assert trainer.evaluate()["eval_loss"] < 1


# Chance


def test_two_runs_with_one_seed_are_equal_and_another_seed_is_not(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path
) -> None:
    one, again, other = (
        masked_trainer(tmp_path / name, tiny_tokenizer, seed=seed) for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    losses = [[line["loss"] for line in run(trainer)] for trainer in (one, again, other)]
    assert losses[0] == losses[1] != losses[2]
    assert_same_end(one, again)
    assert not same(state_of(one), state_of(other))


class Dropping(MaskedLanguageModelling):
    """Always sees the same rows, unmasked: its loss differs by what is dropped alone."""

    def prepare(self, items: NDArray[np.int64], *, seed: Sequence[int]) -> MaskedBatch:
        batch = super().prepare(np.array([0, 1]), seed=(1,))
        return replace(batch, ids=torch.full_like(batch.ids, 7))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_what_is_dropped_differs_from_step_to_step(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path, dropout: float
) -> None:
    task = masked(tiny_tokenizer, kind=Dropping)
    trainer = trainer_of(tmp_path, tiny(tiny_tokenizer, dropout=dropout), task, learning_rate=1e-30)
    losses = {round(line["loss"], 5) for line in run(trainer)}
    assert len(losses) == (10 if dropout else 1)


# The loop


def test_held_out_rows_are_never_trained_on(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    task = masked(tiny_tokenizer, kind=Recorded)
    assert isinstance(task, Recorded)
    trainer = trainer_of(tmp_path, tiny(tiny_tokenizer), task)
    run(trainer)
    trained = set(np.concatenate([items for items, _ in task.asked]).tolist())
    held_out = set(np.concatenate(task.measured).tolist())
    assert len(held_out) == 1
    assert trained == set(range(len(TEXTS))) - held_out


def test_evaluation_changes_nothing_and_repeats_itself(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    trainer = masked_trainer(tmp_path, tiny_tokenizer)
    before = {name: value.clone() for name, value in trainer.model.encoder.state_dict().items()}
    assert trainer.evaluate() == trainer.evaluate()
    assert same(trainer.model.encoder.state_dict(), before)


def test_a_held_out_figure_counts_every_term_once(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    class Counted(Recorded):
        """Its loss is the number of rows, of which there are as many terms."""

        def forward(self, model: Checkpoint, batch: MaskedBatch) -> Loss:
            count = len(batch.ids)
            return Loss(torch.tensor(float(count)), {}, count)

    task = masked(tiny_tokenizer, TEXTS * 25, kind=Counted)
    figures = trainer_of(tmp_path, tiny(tiny_tokenizer), task, batch_tokens=32).evaluate()
    assert isinstance(task, Counted)
    sizes = np.array([len(items) for items in task.measured])
    assert len({*sizes}) > 1
    assert figures["eval_loss"] == pytest.approx(np.average(sizes, weights=sizes))


def test_every_step_is_reported_as_it_is_logged(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    trainer = masked_trainer(tmp_path, tiny_tokenizer)
    reported = run(trainer)
    logged = [line for line in metrics(trainer) if "loss" in line]
    assert [line["step"] for line in reported] == list(range(1, 11))
    assert [line["done"] for line in reported] == pytest.approx(np.arange(1, 11) / 10)
    for shown, written in zip(reported, logged, strict=True):
        assert next(iter(written)) == "step"
        assert {"loss", "mlm", "mlm_accuracy", "tokens", "learning_rate", "gradient_norm"} <= written.keys()
        shared = shown.keys() & written.keys()
        assert {name: written[name] for name in shared} == pytest.approx(
            {name: shown[name] for name in shared}, rel=1e-5
        )


def test_the_time_and_tokens_of_metrics_only_grow(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    trainer = masked_trainer(tmp_path, tiny_tokenizer)
    run(trainer)
    lines = [json.loads(line) for line in trainer.metrics_file.read_text(encoding="utf-8").splitlines()]
    for name in ("seconds", "tokens"):
        values = [line[name] for line in lines]
        assert values == sorted(values)
        assert 0 < values[0] < values[-1]


def test_the_learning_rate_of_a_step_is_that_of_its_middle(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    trainer = masked_trainer(tmp_path, tiny_tokenizer, warmup_fraction=0.2)
    rates = [line["learning_rate"] for line in run(trainer)]
    expected = [learning_rate_at((step + 0.5) / 10, trainer.config) for step in range(10)]
    assert rates == pytest.approx(expected, rel=1e-9)
    assert rates[0] == pytest.approx(0.25 * trainer.config.learning_rate)
    assert rates[-1] < 0.02 * trainer.config.learning_rate


@dataclass
class Nothing:
    """A batch of no content."""

    num_tokens: int = 1

    def to(self, device: torch.device) -> Nothing:
        return self


class Still(Objective[Nothing]):
    """Asks for nothing: its gradient is zero."""

    kind = "still"

    def __init__(self) -> None:
        super().__init__()
        self.costs, self.settings = np.full(10, 4), {}

    def prepare(self, items: NDArray[np.int64], *, seed: Sequence[int]) -> Nothing:
        return Nothing()

    def forward(self, model: Checkpoint, batch: Nothing) -> Loss:
        return Loss(model.encoder.embedding.tokens.weight.sum() * 0.0, {}, 1)


def test_weight_decay_is_on_matrices_only(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    model = tiny(tiny_tokenizer)
    before = {name: value.detach().clone() for name, value in checkpoint_modules(model).named_parameters()}
    settings = {"learning_rate": 0.1, "warmup_fraction": 0.0, "weight_decay": 0.5, "max_steps": 1}
    trainer = trainer_of(tmp_path, model, Still(), **settings)
    (line,) = run(trainer)
    after = state_of(trainer)
    kinds = {True: 0, False: 0}
    for name, value in before.items():
        shrunk = 1 - 0.5 * line["learning_rate"] if value.ndim >= 2 else 1.0
        torch.testing.assert_close(after[f"weight.model.{name}"], shrunk * value)
        kinds[value.ndim >= 2] += bool(value.any())
    assert min(kinds.values()) > 3


def test_gradients_are_clipped_to_their_norm(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    trainer = masked_trainer(tmp_path, tiny_tokenizer, max_steps=1, clip_norm=0.01)
    (line,) = run(trainer)
    moments = [10 * value for name, value in state_of(trainer).items() if name.startswith("first.")]
    assert line["gradient_norm"] > 0.1  # what is told is the norm before
    assert torch.cat([value.flatten() for value in moments]).norm().item() == pytest.approx(0.01, rel=1e-3)


def test_progress_counts_real_tokens(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    task = masked(tiny_tokenizer, kind=Recorded)
    assert isinstance(task, Recorded)
    trainer = trainer_of(tmp_path, tiny(tiny_tokenizer), task, max_steps=1, batch_tokens=1000)
    run(trainer)
    ((items, _),) = task.asked
    assert len(items) == len(TEXTS) - 1
    assert trainer.progress.tokens == task.costs[items].sum()


def test_a_store_of_one_row_is_trained_on_and_evaluated(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    trainer = masked_trainer(tmp_path, tiny_tokenizer, texts=TEXTS[:1], max_steps=2)
    assert len(run(trainer)) == 2
    assert 0 < trainer.evaluate()["eval_loss"] < 10


# The schedule


def test_learning_rate_rises_to_its_peak_and_falls_to_zero() -> None:
    config = TrainingConfig(learning_rate=0.3, warmup_fraction=0.1)
    rates = [learning_rate_at(step / 200, config) for step in range(201)]
    np.testing.assert_allclose(rates[:20], 0.3 * np.arange(20) / 20)
    np.testing.assert_allclose(rates[20:], 0.15 * (1 + np.cos(np.pi * np.arange(181) / 180)), atol=1e-15)
    assert max(rates) == 0.3


def test_without_warm_up_the_first_step_has_the_peak_rate() -> None:
    assert learning_rate_at(0.0, TrainingConfig(learning_rate=0.3, warmup_fraction=0.0)) == 0.3


def test_a_run_that_takes_longer_than_it_should_does_not_learn_backwards() -> None:
    assert learning_rate_at(1.2, TrainingConfig(learning_rate=0.3)) == 0.0

"""A run that goes wrong, and a run by the clock."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import ctxembed.training.trainer
from ctxembed.errors import InvalidInputError
from ctxembed.model.checkpoint import Checkpoint
from ctxembed.training.objectives.base import Loss
from ctxembed.training.objectives.mlm import MaskedBatch, MaskedLanguageModelling
from ctxembed.training.progress import DivergedError
from ctxembed.training.trainer import Trainer

from .training_runs import (
    Recorded,
    float32,  # noqa: F401
    masked,
    masked_trainer,
    metrics,
    run,
    same,
    state_of,
    tiny,
    trainer_of,
)

if TYPE_CHECKING:
    from ctxembed.tokenizer import SubwordTokenizer

# Going wrong


class Falsified(MaskedLanguageModelling):
    """Its loss is changed from some training step on."""

    change: Callable[[Tensor], Tensor]
    at: int | range = 0

    def forward(self, model: Checkpoint, batch: MaskedBatch) -> Loss:
        loss = super().forward(model, batch)
        self.calls = getattr(self, "calls", 0) + torch.is_grad_enabled()
        steps = self.at if isinstance(self.at, range) else range(self.at, 10_000)
        return replace(loss, value=self.change(loss.value)) if self.calls in steps else loss


def falsified_trainer(
    folder: Path,
    tokenizer: SubwordTokenizer,
    change: Callable[[Tensor], Tensor],
    *,
    at: int | range,
    **changes: Any,
) -> Trainer:
    task = masked(tokenizer, kind=Falsified)
    assert isinstance(task, Falsified)
    task.change, task.at = change, at
    return trainer_of(folder, tiny(tokenizer), task, **changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value * math.nan, "the loss became nan"),
        (lambda value: value * math.inf, "the loss became inf"),
        (lambda value: value + (value * 0).sqrt(), "the gradient's norm became nan"),
    ],
)
def test_a_loss_or_gradient_that_is_not_finite_stops_the_run_before_it_does_harm(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path, change: Callable[[Tensor], Tensor], message: str
) -> None:
    trainer = falsified_trainer(tmp_path, tiny_tokenizer, change, at=6)
    with pytest.raises(DivergedError, match=rf"^{message} at step 6: lower learning_rate \(0\.005\)$"):
        trainer.fit()
    assert [line["step"] for line in metrics(trainer) if "loss" in line] == [1, 2, 3, 4, 5]
    undisturbed = masked_trainer(tmp_path / "other", tiny_tokenizer)
    run(undisturbed, kill_at=5)
    assert same(state_of(trainer), state_of(undisturbed))  # what was saved at step 3
    trainer.finish()
    assert all(value.isfinite().all() for value in trainer.model.encoder.parameters())


def test_a_learning_rate_far_too_high_is_noticed(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    trainer = masked_trainer(tmp_path, tiny_tokenizer, learning_rate=1e30)
    with pytest.raises(InvalidInputError, match=r"became (nan|inf) at step \d+: lower learning_rate \(1e\+30\)"):
        trainer.fit()


def test_a_loss_that_rises_far_above_its_lowest_stops_the_run(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    trainer = falsified_trainer(tmp_path, tiny_tokenizer, lambda value: 10 * value, at=4, max_steps=60)
    message = r"^the loss rose from 4\.\d+ to \d+\.\d+ \(running means\) at step (\d+): lower learning_rate \(0\.005\)$"
    with pytest.raises(DivergedError, match=message) as raised:
        trainer.fit()
    assert "at step 8" in str(raised.value)  # after five steps the running mean is two and a half times its lowest


def test_a_single_bad_step_does_not_stop_the_run(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    trainer = falsified_trainer(tmp_path, tiny_tokenizer, lambda value: 20 * value, at=range(4, 5))
    losses = [line["loss"] for line in run(trainer)]
    assert losses[3] > 10 * losses[2]
    assert len(losses) == 10


# Budgets, by a clock that counts batches


class Clock:
    """Stands for the module time: a second goes by with every batch of ``Ticking``."""

    now = 1000.0

    def perf_counter(self) -> float:
        return self.now


class Ticking(Recorded):
    """Takes a second to prepare a batch."""

    clock: Clock

    def prepare(self, items: NDArray[np.int64], *, seed: Sequence[int]) -> MaskedBatch:
        self.clock.now += torch.is_grad_enabled()
        return super().prepare(items, seed=seed)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr(ctxembed.training.trainer, "time", clock)
    monkeypatch.setattr(Ticking, "clock", clock, raising=False)
    return clock


def ticking_trainer(folder: Path, tokenizer: SubwordTokenizer, *, started: float, **changes: Any) -> Trainer:
    task = masked(tokenizer, kind=Ticking)
    limits = {"budget": 100.0, "eval_every": 1000, "save_every": 10, "warmup_fraction": 0.1}
    return trainer_of(folder, tiny(tokenizer), task, started=started, **{**limits, **changes})


def test_a_budget_counts_preparation_and_tells_what_it_allows_and_what_became_of_it(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path, clock: Clock
) -> None:
    trainer, told, tokens = ticking_trainer(tmp_path, tiny_tokenizer, started=clock.now - 20), [], []
    trainer.fit(tell=told.append, report=lambda _: tokens.append(trainer.progress.tokens))
    assert (trainer.progress.step, trainer.progress.seconds) == (80, 100.0)
    forecast, truth = told
    assert forecast.startswith("forecast: 80 steps and ")
    assert forecast.endswith(" tokens in 100 s")
    assert truth.startswith("forecast 80 steps, ")
    assert truth.endswith(f"; done 80 steps, {tokens[-1]:,} tokens in 100 s")
    foreseen = int(forecast.split()[4].replace(",", ""))
    assert foreseen == pytest.approx(tokens[-1], rel=0.1)
    assert f"{foreseen:,} tokens; done" in truth


def test_the_learning_rate_of_a_budget_rises_from_the_first_step_on_and_falls_to_nothing(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path, clock: Clock
) -> None:
    # Preparation took three times as long as the warm-up.
    trainer = ticking_trainer(tmp_path, tiny_tokenizer, started=clock.now - 30)
    reported = run(trainer)
    rates = np.array([line["learning_rate"] for line in reported]) / trainer.config.learning_rate
    assert len(rates) == 70
    assert rates[0] < 0.05
    assert rates[3] == pytest.approx(0.5, abs=0.05)
    assert rates.argmax() == 7
    assert rates.max() > 0.99
    assert rates[-1] < 0.001
    assert [line["done"] for line in reported] == pytest.approx(np.arange(1, 71) / 70)


def test_a_resumed_run_has_the_rest_of_its_budget(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path, clock: Clock
) -> None:
    run(ticking_trainer(tmp_path, tiny_tokenizer, started=clock.now - 20), kill_at=55)
    resumed = ticking_trainer(tmp_path, tiny_tokenizer, started=clock.now - 5)  # its own preparation counts too
    assert resumed.resume()
    assert resumed.progress.step == 50
    reported = run(resumed)
    assert len(reported) == 25
    assert resumed.progress.seconds == 100.0
    assert reported[-1]["learning_rate"] < 0.01 * resumed.config.learning_rate


def test_a_budget_that_preparation_used_up_is_refused(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path, clock: Clock
) -> None:
    trainer = ticking_trainer(tmp_path, tiny_tokenizer, started=clock.now - 120)
    with pytest.raises(InvalidInputError, match=r"budget = 100\.0: preparing took 120\.0 seconds, raise it"):
        trainer.fit()
    assert not (tmp_path / "state.safetensors").exists()

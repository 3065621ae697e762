"""What is computed in bfloat16 and what is kept in float32."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from ctxembed.model.checkpoint import checkpoint_modules
from ctxembed.model.embeddings import sinusoidal_positions

from .training_runs import (
    Odd,
    float32,  # noqa: F401
    masked,
    masked_trainer,
    run,
    same,
    set_precision,
    state_of,
    tiny,
    trainer_of,
)

if TYPE_CHECKING:
    from ctxembed.tokenizer import SubwordTokenizer


def test_steps_too_small_for_bfloat16_are_not_lost(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_precision(monkeypatch, low=True)
    model = tiny(tiny_tokenizer, dropout=0.0)
    before = {name: value.detach().clone() for name, value in checkpoint_modules(model).named_parameters()}
    settings = {"learning_rate": 1e-5, "warmup_fraction": 0.0, "weight_decay": 0.0, "max_steps": 3}
    trainer = trainer_of(tmp_path, model, masked(tiny_tokenizer), **settings)
    formats: set[torch.dtype] = set()
    trainer.fit(report=lambda _: formats.update(value.dtype for value in model.encoder.parameters()))
    assert formats == {torch.bfloat16}
    state = state_of(trainer)
    trainer.finish()
    moved = kept = 0
    for name, value in checkpoint_modules(model).named_parameters():
        assert value.dtype == state[f"weight.model.{name}"].dtype == torch.float32
        assert torch.equal(value, state[f"weight.model.{name}"])
        large = before[name].abs() > 0.01
        moved += int((value != before[name])[large].sum())
        kept += int((value.bfloat16() == before[name].bfloat16())[large].sum())
        assert (value - before[name]).abs().max() < 4e-5
    assert moved > 2000
    assert kept > 0.7 * moved  # in bfloat16 alone most would not have moved


def test_what_is_fixed_and_what_objectives_add_stays_float32(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_precision(monkeypatch, low=True)
    model, task = tiny(tiny_tokenizer, positions="sinusoidal"), masked(tiny_tokenizer, kind=Odd)
    trainer = trainer_of(tmp_path, model, task, max_steps=2)
    run(trainer)
    assert {value.dtype for value in task.parameters()} == {torch.float32}
    trainer.finish()
    assert model.encoder.embedding.sinusoids is not None
    assert torch.equal(model.encoder.embedding.sinusoids, sinusoidal_positions(16, 16))


def test_a_finished_model_is_in_float32_and_evaluation_mode(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    trainer = masked_trainer(tmp_path, tiny_tokenizer)
    run(trainer)
    trainer.finish()
    assert not trainer.model.encoder.training
    weights = {f"weight.model.encoder.{name}": value for name, value in trainer.model.encoder.named_parameters()}
    state = state_of(trainer)
    assert same(weights, {name: state[name] for name in weights})

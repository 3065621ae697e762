"""The training loop on tiny shapes: it learns, and a run that was killed ends where an undisturbed one does."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from ctxembed.config import EncoderConfig, TrainingConfig
from ctxembed.errors import ArtifactError, InvalidInputError
from ctxembed.model.encoder import MaskedWordHead, TransformerEncoder
from ctxembed.text import word_spans
from ctxembed.training.batches import TokenRows, chunk_texts, collate
from ctxembed.training.objectives import Distillation, DistillationConfig, MaskedLanguageModelling, MaskingConfig
from ctxembed.training.targets import VectorTargets
from ctxembed.training.trainer import Trainer, learning_rate_at
from ctxembed.types import Document
from ctxembed.vector_writer import VectorWriter
from ctxembed.vectors import Row, VectorFolder

if TYPE_CHECKING:
    from ctxembed.tokenizer import SubwordTokenizer

PLACES, THINGS = ("bank", "river", "plant", "train"), ("the bass", "a spring", "the old crane", "the cars", "a band")
TEXTS = [f"she read of {thing} near the {place}" for place, thing in itertools.product(PLACES, THINGS)]
CONFIG = {
    "max_steps": 12,
    "batch_tokens": 64,
    "max_length": 16,
    "learning_rate": 5e-3,
    "seed": 3,
    "log_every": 2,
    "eval_every": 4,
    "save_every": 4,
}
TEACHER = 8


class Killed(Exception):
    """Stands for what ends a process."""


def masked_modelling(tokenizer: SubwordTokenizer, *, dropout: float = 0.1) -> MaskedLanguageModelling:
    shape = EncoderConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_layers=2,
        num_heads=2,
        intermediate_size=64,
        max_length=16,
        dropout=dropout,
    )
    torch.manual_seed(5)
    return MaskedLanguageModelling(TransformerEncoder(shape), MaskedWordHead(shape), tokenizer, config=MaskingConfig())


def masked_trainer(
    folder: Path, tokenizer: SubwordTokenizer, *, texts: list[str] = TEXTS, dropout: float = 0.1, **changes: Any
) -> Trainer:
    config = TrainingConfig(**{**CONFIG, **changes})
    store = chunk_texts(texts, tokenizer, max_length=config.max_length)
    objective = masked_modelling(tokenizer, dropout=dropout)
    return Trainer(objective, store, config=config, folder=folder, pad_id=tokenizer.pad_id)


def write_teacher(folder: Path, rows: list[Row]) -> VectorFolder:
    """A teacher at random: a word's vector is one for its form plus one for its text."""
    parts: dict[str, np.ndarray] = {}
    generator = np.random.default_rng(11)

    def part(key: str) -> np.ndarray:
        return parts.setdefault(key, generator.standard_normal(TEACHER).astype(np.float32))

    vectors = [part(row.text) + (0 if row.start is None else part(row.text[row.start : row.end])) for row in rows]
    with VectorWriter(folder, settings={"fingerprint": folder.name}, dimension=TEACHER) as writer:
        writer.append(rows, np.array(vectors, dtype=np.float32), documents=[Document(row.id, row.text) for row in rows])
    return VectorFolder.open(folder)


def teacher_targets(
    folder: Path, tokenizer: SubwordTokenizer, *, sentences: list[str] = TEXTS, words: list[str] = TEXTS
) -> VectorTargets:
    marked = [
        Row(f"{n}:{span.start}", text, span.start, span.end)
        for n, text in enumerate(words)
        for span in word_spans(text)
    ]
    return VectorTargets(
        tokenizer,
        sentences=[write_teacher(folder / "sentences", [Row(str(n), text) for n, text in enumerate(sentences)])],
        words=[write_teacher(folder / "words", marked)],
        max_length=16,
    )


def distilling_trainer(
    folder: Path, tokenizer: SubwordTokenizer, targets: VectorTargets, *, dropout: float = 0.1, **changes: Any
) -> Trainer:
    masked = masked_modelling(tokenizer, dropout=dropout)
    objective = Distillation(masked, targets, config=DistillationConfig())
    config = TrainingConfig(**{**CONFIG, **changes})
    return Trainer(objective, targets.store, config=config, folder=folder, pad_id=tokenizer.pad_id)


def run(trainer: Trainer, *, kill_at: int | None = None) -> list[Mapping[str, float]]:
    """Train, or be killed when step ``kill_at`` is done but neither logged nor saved; return what was reported."""
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
    """What metrics.jsonl holds, apart from the speed."""
    text = (trainer.folder / "metrics.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    return [{name: value for name, value in line.items() if name != "tokens_per_second"} for line in lines]


def assert_same_end(one: Trainer, other: Trainer) -> None:
    """Weights, moments, progress and metrics are the same, bit for bit."""
    states = one.objective.state_dict(), other.objective.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    for ours, theirs in zip(one.parameters, other.parameters, strict=True):
        moments = one.optimiser.state[ours], other.optimiser.state[theirs]
        assert set(moments[0]) == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(moments[0][name], moments[1][name]) for name in moments[0])
    assert one.progress == other.progress
    assert metrics(one) == metrics(other)


# Learning


def test_masked_modelling_overfits_one_small_batch(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    trainer = masked_trainer(
        tmp_path, tiny_tokenizer, texts=TEXTS[:9], dropout=0.0, max_steps=160, batch_tokens=512, learning_rate=1e-2
    )
    reported = run(trainer)
    assert reported[0]["loss"] > 4  # the logarithm of the vocabulary is 4.7
    assert np.mean([line["loss"] for line in reported[-20:]]) < 0.5
    assert np.mean([line["mlm_accuracy"] for line in reported[-20:]]) > 0.85


def test_distillation_learns_a_random_teacher(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    targets = teacher_targets(tmp_path, tiny_tokenizer)
    trainer = distilling_trainer(
        tmp_path / "run", tiny_tokenizer, targets, dropout=0.0, max_steps=200, batch_tokens=512, learning_rate=1e-2
    )
    reported = run(trainer)
    for part, least in (("sentence", 0.95), ("word", 0.95), ("residual", 0.9)):
        assert 1 - reported[0][part] < 0.5
        assert 1 - np.mean([line[part] for line in reported[-5:]]) > least
    assert reported[-1]["similarity"] < 0.1 * reported[0]["similarity"]


def test_what_was_learned_counts_in_evaluation_mode(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    trainer = masked_trainer(tmp_path, tiny_tokenizer, texts=TEXTS[:1], max_steps=120, learning_rate=1e-2)
    before = trainer.evaluate()["eval_loss"]
    run(trainer)
    assert before > 4
    assert trainer.evaluate()["eval_loss"] < 1


# Resuming


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("kill_at", [[3], [5], [8], [11], [6, 6, 10]])
def test_a_killed_run_ends_as_an_uninterrupted_one(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path, kill_at: list[int], accumulation: int
) -> None:
    undisturbed = masked_trainer(tmp_path / "a", tiny_tokenizer, accumulation=accumulation)
    run(undisturbed)
    for number, step in enumerate(kill_at):
        killed = masked_trainer(tmp_path / "b", tiny_tokenizer, accumulation=accumulation)
        assert killed.resume() == (number > 0)
        run(killed, kill_at=step)
    resumed = masked_trainer(tmp_path / "b", tiny_tokenizer, accumulation=accumulation)
    assert resumed.resume() == (kill_at[-1] > CONFIG["save_every"])
    assert resumed.progress.step == (kill_at[-1] - 1) // CONFIG["save_every"] * CONFIG["save_every"]
    run(resumed)
    assert_same_end(resumed, undisturbed)


def test_a_killed_distillation_ends_as_an_uninterrupted_one(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    # Batches of one row: many have no sentence, or no word, so that some projections have no gradient.
    targets = teacher_targets(tmp_path, tiny_tokenizer, sentences=TEXTS[:10], words=TEXTS[10:])
    undisturbed, killed, resumed = (
        distilling_trainer(tmp_path / name, tiny_tokenizer, targets, batch_tokens=16) for name in "abb"
    )
    reported = run(undisturbed)
    assert {"sentence" in line for line in reported} == {"word" in line for line in reported} == {True, False}
    run(killed, kill_at=7)
    assert resumed.resume()
    run(resumed)
    assert_same_end(resumed, undisturbed)


def test_metrics_of_a_killed_run_hold_no_step_twice(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    run(masked_trainer(tmp_path, tiny_tokenizer, log_every=1), kill_at=7)
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as stream:
        stream.write('{"step": 7, "lo')  # the line that was being written
    resumed = masked_trainer(tmp_path, tiny_tokenizer, log_every=1)
    resumed.resume()
    assert [line["step"] for line in metrics(resumed)] == [1, 2, 3, 4, 4]  # the last is the evaluation
    run(resumed)
    trained = [line["step"] for line in metrics(resumed) if "loss" in line]
    evaluated = [line["step"] for line in metrics(resumed) if "eval_loss" in line]
    assert trained == list(range(1, 13))
    assert evaluated == [4, 8, 12]


def test_a_finished_run_that_is_resumed_stays_as_it_is(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    finished, again = (masked_trainer(tmp_path, tiny_tokenizer) for _ in range(2))
    run(finished)
    assert again.resume()
    assert run(again) == []
    assert_same_end(again, finished)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 4}, "started with seed = 3, now it is 4: resume with the same settings"),
        ({"max_steps": 20}, "started with max_steps = 12, now it is 20"),
        ({"batch_tokens": 128}, "started with batch_tokens = 64, now it is 128"),
    ],
)
def test_other_settings_are_refused(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    run(masked_trainer(tmp_path, tiny_tokenizer), kill_at=5)
    with pytest.raises(InvalidInputError, match=message):
        masked_trainer(tmp_path, tiny_tokenizer, **changes).resume()


def test_a_damaged_state_is_refused(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    run(masked_trainer(tmp_path, tiny_tokenizer), kill_at=5)
    state = tmp_path / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match=r"state.safetensors cannot be read \(.*: delete .* and start anew"):
        masked_trainer(tmp_path, tiny_tokenizer).resume()


# The loop


def test_two_runs_with_one_seed_are_equal_and_another_seed_is_not(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path
) -> None:
    one, same, other = (
        masked_trainer(tmp_path / name, tiny_tokenizer, seed=seed) for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    losses = [[line["loss"] for line in run(trainer)] for trainer in (one, same, other)]
    assert losses[0] == losses[1] != losses[2]
    assert_same_end(one, same)


def test_accumulated_micro_batches_have_the_gradient_of_their_mean(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path
) -> None:
    whole, parts = (
        masked_trainer(
            tmp_path / str(number), tiny_tokenizer, accumulation=number, batch_tokens=64 * number, dropout=0.0
        )
        for number in (1, 2)
    )
    losses = [line["loss"] for line in run(whole)[:2]]
    first = run(parts)[0]["loss"]
    # Before the first step both have the same weights and see the same first batch; the second comes with other masks.
    assert first == pytest.approx(np.mean(losses), rel=0.1)
    assert parts.progress.tokens > 1.5 * whole.progress.tokens


def test_held_out_rows_are_never_trained_on(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    trainer = masked_trainer(tmp_path, tiny_tokenizer)
    seen: set[int] = set()
    trainer.objective.register_forward_pre_hook(
        lambda _, inputs: seen.update(inputs[0].rows) if torch.is_grad_enabled() else None
    )
    run(trainer)
    assert seen == set(trainer.rows)
    assert len(trainer.held_out) == 1
    assert not seen & set(trainer.held_out)


def test_evaluation_changes_nothing_and_repeats_itself(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    trainer = masked_trainer(tmp_path, tiny_tokenizer)
    before = {name: value.clone() for name, value in trainer.objective.state_dict().items()}
    assert trainer.evaluate() == trainer.evaluate()
    assert all(torch.equal(value, before[name]) for name, value in trainer.objective.state_dict().items())


def test_figures_measured_beside_join_the_metrics_in_evaluation_mode(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path
) -> None:
    trainer = masked_trainer(tmp_path, tiny_tokenizer)
    modes: list[bool] = []

    def measure() -> dict[str, float]:
        modes.append(trainer.objective.training)
        return {"quality": 0.25}

    trainer.fit(evaluate=measure)
    assert [line["step"] for line in metrics(trainer) if line.get("quality") == 0.25] == [4, 8, 12]
    assert modes == [False] * 3


def test_weight_decay_is_on_matrices_only(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    matrices, others = masked_trainer(tmp_path, tiny_tokenizer, weight_decay=0.5).optimiser.param_groups
    assert (matrices["weight_decay"], others["weight_decay"]) == (0.5, 0.0)
    assert all(parameter.ndim >= 2 for parameter in matrices["params"])
    assert all(parameter.ndim < 2 for parameter in others["params"])


def test_progress_counts_real_tokens(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    trainer = masked_trainer(tmp_path, tiny_tokenizer, max_steps=1, batch_tokens=1000)
    run(trainer)
    assert trainer.progress.step == 1
    assert trainer.progress.tokens == collate(trainer.store, trainer.rows, pad_id=0).num_tokens


def test_a_loss_that_is_not_finite_stops_the_run(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    trainer = masked_trainer(tmp_path, tiny_tokenizer, learning_rate=1e30)
    with pytest.raises(
        InvalidInputError, match=r"the loss became (nan|inf) at step \d+: lower learning_rate \(1e\+30\)"
    ):
        trainer.fit()
    assert not (tmp_path / "state.safetensors").exists()


def test_learning_rate_rises_to_its_peak_and_falls_to_zero() -> None:
    config = TrainingConfig(max_steps=200, learning_rate=0.3, warmup_fraction=0.1)
    rates = [learning_rate_at(step, config) for step in range(200)]
    np.testing.assert_allclose(rates[:20], 0.3 * np.arange(1, 21) / 20)
    np.testing.assert_allclose(rates[20:], 0.15 * (1 + np.cos(np.pi * np.arange(180) / 180)))
    assert max(rates) == 0.3


def test_without_warm_up_the_first_step_has_the_peak_rate() -> None:
    config = TrainingConfig(max_steps=10, learning_rate=0.3, warmup_fraction=0.0)
    assert learning_rate_at(0, config) == 0.3


def test_a_store_of_one_row_is_trained_on_and_evaluated(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    row = np.array([tiny_tokenizer.cls_id, 9, 10, 11, tiny_tokenizer.sep_id], dtype=np.int32)
    trainer = Trainer(
        masked_modelling(tiny_tokenizer),
        TokenRows.from_lists([row]),
        config=TrainingConfig(**CONFIG),
        folder=tmp_path,
        pad_id=tiny_tokenizer.pad_id,
    )
    run(trainer)
    assert np.isfinite(trainer.evaluate()["eval_loss"])

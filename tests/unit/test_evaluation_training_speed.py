"""`bench training`: rows and masks that are the same for all, the time that counts, and one number format."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from ctxembed.errors import InvalidInputError
from ctxembed.evaluation.training_speed import (
    HELD_OUT_ROWS,
    MASK_FRACTION,
    PROFILED_FROM,
    Rows,
    TrainingTrial,
    _Clock,
    _held_out_loss,
    _mask,
    compare_training,
    full_rows,
)
from ctxembed.runtime import data_directory
from ctxembed.training.batches import TokenRows, chunk_texts
from ctxembed.training.objectives.mlm import MaskedLanguageModelling

if TYPE_CHECKING:
    from ctxembed.tokenizer import SubwordTokenizer

WIDTH = 8
TRIAL = TrainingTrial(preset="tiny", steps=10, batch_tokens=20 * WIDTH, repeats=1)


@pytest.fixture(scope="module")
def store(tiny_tokenizer: SubwordTokenizer) -> TokenRows:
    """Part of the sample corpus, in tokens."""
    texts = (data_directory() / "corpora" / "sample.txt").read_text(encoding="utf-8").splitlines()[:250]
    return chunk_texts(texts, tiny_tokenizer, max_length=32)


@pytest.fixture(scope="module")
def rows(store: TokenRows, tiny_tokenizer: SubwordTokenizer) -> Rows:
    return full_rows(store, tiny_tokenizer, width=WIDTH)


def test_rows_are_the_text_end_to_end(store: TokenRows, rows: Rows, tiny_tokenizer: SubwordTokenizer) -> None:
    special = (tiny_tokenizer.cls_id, tiny_tokenizer.sep_id)
    stream = [token for token in store.ids.tolist() if token not in special]
    assert rows.shape == (len(stream) // (WIDTH - 2), WIDTH)
    assert {(first, last) for first, last in rows[:, [0, -1]].tolist()} == {special}
    assert rows[:, 1:-1].ravel().tolist() == stream[: rows[:, 1:-1].size]


def test_text_too_short_for_a_trial_is_refused(tiny_tokenizer: SubwordTokenizer) -> None:
    short = chunk_texts(["the bank lent money"] * 9, tiny_tokenizer, max_length=32)
    with pytest.raises(InvalidInputError, match=f"rows of 8 tokens, a trial needs {2 * HELD_OUT_ROWS}: give more text"):
        full_rows(short, tiny_tokenizer, width=WIDTH)


def test_masks_have_the_shares_of_bert_and_leave_special_tokens_alone(tiny_tokenizer: SubwordTokenizer) -> None:
    ids = np.full((4000, 32), 50, dtype=np.int64)
    masked, hidden = _mask(ids, tiny_tokenizer, np.random.default_rng(1))
    assert not hidden[:, [0, -1]].any()
    assert hidden[:, 1:-1].mean() == pytest.approx(MASK_FRACTION, abs=0.005)
    np.testing.assert_array_equal(masked[~hidden], 50)
    given = masked[hidden]
    assert (given == tiny_tokenizer.mask_id).mean() == pytest.approx(0.8, abs=0.02)
    assert (given == 50).mean() == pytest.approx(0.1, abs=0.02)
    others = given[(given != 50) & (given != tiny_tokenizer.mask_id)]
    assert set(others.tolist()) == set(range(len(tiny_tokenizer))) - {50, tiny_tokenizer.mask_id}


def test_clock_leaves_the_first_tenth_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    clock = _Clock(TrainingTrial(steps=20, batch_tokens=70))
    for step in range(1, 21):
        now += 100.0 if step <= 2 else 0.5
        clock.tick(step)
    figures = clock.figures(32, 1.5, 9)
    assert figures.speed == pytest.approx(2 * 32 / 0.5)  # two rows of 32 fit into a step of 70 tokens
    assert (figures.loss, figures.parameters, figures.profile) == (1.5, 9, ())


def test_clock_profiles_the_last_steps_where_asked() -> None:
    clock = _Clock(TrainingTrial(steps=PROFILED_FROM + 2, profile=True))
    for step in range(1, PROFILED_FROM + 3):
        torch.ones(8, 8) @ torch.ones(8, 8)
        clock.tick(step)
    profile = dict(clock.figures(8, 0.0, 0).profile)
    assert "aten::mm" in profile
    assert list(profile.values()) == sorted(profile.values(), reverse=True)
    assert 0 < sum(profile.values()) <= 1.001


def test_held_out_loss_of_equal_scores_is_the_logarithm_of_the_vocabulary(
    rows: Rows, tiny_tokenizer: SubwordTokenizer
) -> None:
    seen: list[list[int]] = []

    def equal(ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        seen.append(ids[positions].tolist())
        return torch.zeros(int(positions.sum()), len(tiny_tokenizer))

    for _ in range(2):
        loss = _held_out_loss(equal, rows[:100], tiny_tokenizer)
        assert loss == pytest.approx(math.log(len(tiny_tokenizer)), abs=1e-5)
    assert seen[: len(seen) // 2] == seen[len(seen) // 2 :]  # each contender has the same masks


@pytest.mark.parametrize(("capability", "precision"), [("AVX2", "float32"), ("AVX512", "bfloat16")])
def test_all_compute_in_the_format_of_our_trainer(
    rows: Rows, tiny_tokenizer: SubwordTokenizer, monkeypatch: pytest.MonkeyPatch, capability: str, precision: str
) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    train, given = transformers.Trainer.train, []

    def noted(trainer: Any) -> Any:
        given.append(trainer.args.bf16)
        return train(trainer)

    monkeypatch.setattr(transformers.Trainer, "train", noted)
    said: list[str] = []
    ours, theirs = compare_training(rows, tiny_tokenizer, trial=TRIAL, peers=["transformers-eager"], tell=said.append)
    assert given == [precision == "bfloat16"] * 2  # the run, and the short one with a profile
    assert (ours.system, theirs.system) == ("ctxembed", "transformers-eager")
    for each in (ours, theirs):
        assert (each.precision, each.row_tokens, each.tokens) == (precision, WIDTH, 10 * 20 * WIDTH)
        assert 0 < each.lowest == each.tokens_per_second == each.highest
        assert 0 < each.validation_loss < 1.5 * math.log(len(tiny_tokenizer))
        assert each.profile
    assert ours.parameters == pytest.approx(theirs.parameters, rel=0.1)
    assert [line.split(":")[0] for line in said] == ["ctxembed, run 1", "transformers-eager, run 1"]


def test_our_trainer_without_dropped_tokens_is_a_contender_of_its_own(
    rows: Rows, tiny_tokenizer: SubwordTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, dropping = MaskedLanguageModelling.prepare, []

    def noted(task: MaskedLanguageModelling, *args: Any, **options: Any) -> Any:
        dropping.append(task.config.drop_fraction)
        return prepare(task, *args, **options)

    monkeypatch.setattr(MaskedLanguageModelling, "prepare", noted)
    ours, whole = compare_training(rows, tiny_tokenizer, trial=TRIAL, peers=["ctxembed-all-tokens"], tell=[].append)
    assert (ours.system, whole.system) == ("ctxembed", "ctxembed-all-tokens")
    assert ours.parameters == whole.parameters
    assert set(dropping) == {0.5, 0.0}

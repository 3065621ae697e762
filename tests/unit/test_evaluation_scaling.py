"""`bench scaling`: models of one size, and figures for every part."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ctxembed.errors import InvalidInputError
from ctxembed.evaluation.scaling import SHARES, Learner, ScalingResult, ScalingTrial, Task, run_scaling
from ctxembed.evaluation.scaling_memory import kept_for_gradient, peak_of
from ctxembed.evaluation.scaling_models import (
    Seq2Seq,
    TransformerSeq2Seq,
    denoising_loss,
    make_pair,
    num_parameters,
    sequential_steps,
)
from ctxembed.report.scaling import PANELS, draw_scaling
from ctxembed.runtime import data_directory

TRIAL = ScalingTrial(
    budget=3,
    width=32,
    num_layers=1,
    vocab_size=300,
    row_tokens=16,
    batch_tokens=128,
    lengths=(8, 16),
    batches=(1, 4),
    growth=(1, 2),
    writing=(8,),
    memory=(64, 512),
)

TELLS_PEAKS = Path("/proc/self/clear_refs").exists()


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return (data_directory() / "corpora" / "sample.txt").read_text(encoding="utf-8").splitlines()[:200]


@pytest.fixture(scope="module")
def task(texts: list[str]) -> Task:
    return Task(texts, TRIAL)


@pytest.fixture(scope="module")
def result(texts: list[str]) -> ScalingResult:
    return run_scaling(texts, trial=TRIAL)


def pair(task: Task) -> dict[str, Seq2Seq]:
    return make_pair(vocab_size=len(task.tokenizer), width=32, num_layers=1, max_length=512, seed=1)


@pytest.mark.parametrize(("width", "num_layers"), [(32, 1), (64, 2), (128, 2)])
def test_both_have_the_same_size_within_two_percent_beside_the_embedding(width: int, num_layers: int) -> None:
    models = make_pair(vocab_size=100, width=width, num_layers=num_layers, max_length=64, seed=1)
    transformer, recurrent = (num_parameters(model) - 100 * width for model in models.values())
    assert transformer == pytest.approx(recurrent, rel=0.02)
    assert len({model.embedding.weight.shape for model in models.values()}) == 1


def test_loss_is_the_cross_entropy_of_every_token_but_the_first(task: Task) -> None:
    batch = task.any_batch(16, 3)
    for model in pair(task).values():
        loss, count = denoising_loss(model, batch)
        hidden = model(batch.ids, batch.lengths, batch.target_ids[:, :-1])
        logits = hidden @ model.embedding.weight.T + model.bias
        expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.target_ids[:, 1:].flatten())
        assert count == 3 * 15
        assert loss.item() == pytest.approx(expected.item(), abs=1e-5)


def test_both_learn_a_batch_by_heart(task: Task) -> None:
    batch = task.any_batch(16, 4)
    for name, model in pair(task).items():
        learner = Learner(model, replace(TRIAL, learning_rate=1e-2))
        before = denoising_loss(model, batch)[0].item()
        for _ in range(120):
            learner.step(batch)
        assert denoising_loss(model, batch)[0].item() < 0.6 * before, name


def test_transformer_writes_the_most_probable_token_given_those_before(task: Task) -> None:
    model = pair(task)["transformer"].eval()
    assert isinstance(model, TransformerSeq2Seq)
    batch = task.any_batch(16, 2)
    with torch.no_grad():
        written = model.write(batch.ids, batch.lengths, start=task.tokenizer.cls_id, count=5)
        given = torch.cat((torch.full((2, 1), task.tokenizer.cls_id), written[:, :-1]), dim=1)
        hidden = model(batch.ids, batch.lengths, given)
        logits = model.decoder.logits(hidden, model.embedding.weight)
    assert torch.equal(written, logits.argmax(dim=-1))


def test_steps_in_a_row_are_layers_or_tokens(task: Task) -> None:
    models = pair(task)
    assert sequential_steps(models["transformer"], read=100, written=99) == 2
    assert sequential_steps(models["recurrent"], read=100, written=99) == 199


def test_gradient_needs_more_memory_for_longer_rows(task: Task) -> None:
    for model in pair(task).values():
        short, long = (kept_for_gradient(model, task.any_batch(width, 1)) for width in (8, 64))
        assert 0 < short < long / 2


@pytest.mark.skipif(not TELLS_PEAKS, reason="only Linux tells the high-water mark of memory")
def test_peak_is_what_a_call_needs_at_once() -> None:
    peak = peak_of(lambda: torch.ones(16 * 2**20).sum())  # 64 MiB
    assert peak is not None
    assert 60 < peak < 100


def test_every_part_has_figures_of_both(result: ScalingResult) -> None:
    assert {each.part for each in result.figures} == set(SHARES)
    for part, name in {(each.part, each.name) for each in result.figures}:
        found = result.values(part, name)
        untold = name == "reading one row, MiB" and not TELLS_PEAKS
        assert len(found["transformer"]) == len(found["recurrent"]) > 0 or "by" in name or untold
        for pairs in found.values():
            assert all(math.isfinite(value) and value >= 0 for _, value in pairs)


def test_loss_after_equal_tokens_is_at_the_same_count(result: ScalingResult) -> None:
    found = result.values("learning", "loss after equal tokens")
    ((ours, _),), ((theirs, _),) = found.values()
    assert ours == theirs > 0
    last = [result.values("learning", "held-out loss by tokens")[name][-1][0] for name in found]
    assert min(last) == ours


def test_picture_has_every_part(result: ScalingResult, tmp_path: Path) -> None:
    assert {part for part, _, _ in PANELS} == set(SHARES)
    for part, name, _ in PANELS:
        if part != "memory" or TELLS_PEAKS:
            assert all(result.values(part, name).values()), name
    draw_scaling(tmp_path / "scaling.png", result)
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")


def test_too_little_text_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="a trial needs 64: give more text"):
        run_scaling(["a few words about a few words"] * 3, trial=TRIAL)

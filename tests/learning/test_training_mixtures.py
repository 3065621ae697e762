"""Several objectives in one run: what reaches the weights."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ctxembed.errors import InvalidInputError
from ctxembed.model.checkpoint import checkpoint_modules
from ctxembed.training.batches import TokenRows, chunk_texts
from ctxembed.training.objectives.base import Objective
from ctxembed.training.objectives.contrastive import Contrastive
from ctxembed.training.pairs import PairCounts, PairRows
from ctxembed.training.trainer import Part

from .training_runs import (
    TEXTS,
    Recorded,
    float32,  # noqa: F401
    masked,
    run,
    state_of,
    tiny,
    trainer_of,
)

if TYPE_CHECKING:
    from ctxembed.tokenizer import SubwordTokenizer


def pairs_of(tokenizer: SubwordTokenizer) -> Contrastive:
    anchors, positives = (chunk_texts(texts, tokenizer, max_length=16) for texts in (TEXTS[:-1], TEXTS[1:]))
    pairs = PairRows(
        anchors=anchors,
        positives=positives,
        negatives=TokenRows.from_lists([]),
        negative_starts=np.zeros(len(anchors) + 1, dtype=np.int64),
        counts=PairCounts(),
    )
    return Contrastive(pairs, pad_id=tokenizer.pad_id)


@pytest.mark.parametrize("accumulation", [1, 3])
def test_the_gradient_of_a_mixture_is_the_weighted_sum_of_its_parts(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path, accumulation: int
) -> None:
    model = tiny(tiny_tokenizer, dropout=0.0)
    initial = copy.deepcopy(checkpoint_modules(model))
    pieces: list[tuple[int, NDArray[np.int64], tuple[int, ...]]] = []
    tasks: list[Objective[Any]] = [masked(tiny_tokenizer), pairs_of(tiny_tokenizer)]
    for number, task in enumerate(tasks):
        # Instances, so that the kind of the task is what it would be.
        def prepare(items: Any, *, seed: Any, number: int = number, prepare: Any = task.prepare) -> Any:
            if torch.is_grad_enabled():
                pieces.append((number, items, seed))
            return prepare(items, seed=seed)

        task.prepare = prepare  # type: ignore[method-assign]
    parts = Part(tasks[0], share=3.0, weight=0.25), Part(tasks[1], share=1.0, weight=2.0)
    limits = {"max_steps": 1, "clip_norm": 1e9, "batch_tokens": 192}
    trainer = trainer_of(tmp_path, model, *parts, accumulation=accumulation, **limits)
    (line,) = run(trainer)
    assert [number for number, _, _ in pieces] == [0] * accumulation + [1]  # rows that are compared stay together
    assert len({seed for _, _, seed in pieces}) == len(pieces)

    own = replace(model, encoder=initial["encoder"], head=initial["head"])
    total = torch.zeros(())
    for number, part in enumerate(parts):
        asked = [(items, seed) for each, items, seed in pieces if each == number]
        tokens = [int(part.objective.costs[items].sum()) for items, _ in asked]
        for (items, seed), cost in zip(asked, tokens, strict=True):
            loss = part.objective.train()(own, part.objective.prepare(items, seed=seed))
            total = total + part.weight * cost / sum(tokens) * loss.value
    gradients = torch.autograd.grad(total, list(initial.parameters()))
    assert line["loss"] == pytest.approx(total.item(), rel=1e-5)
    norm = math.sqrt(sum(gradient.square().sum().item() for gradient in gradients))
    assert line["gradient_norm"] == pytest.approx(norm, rel=1e-4)
    state = state_of(trainer)
    for (name, _), gradient in zip(initial.named_parameters(), gradients, strict=True):
        # After one step the first moment is a tenth of the gradient.
        torch.testing.assert_close(10 * state[f"first.model.{name}"], gradient, rtol=1e-3, atol=1e-6)


def test_objectives_get_their_shares_of_the_tokens(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    tasks = [masked(tiny_tokenizer, TEXTS * 4, Recorded) for _ in range(3)]
    parts = [Part(task, share=share) for task, share in zip(tasks, (4.0, 2.0, 1.0), strict=True)]
    trainer = trainer_of(tmp_path, tiny(tiny_tokenizer), *parts, batch_tokens=448, max_steps=12)
    run(trainer)
    tokens = np.array([sum(int(task.costs[items].sum()) for items, _ in task.asked) for task in tasks])
    np.testing.assert_allclose(tokens / tokens.sum(), [4 / 7, 2 / 7, 1 / 7], rtol=0.1)
    assert trainer.progress.tokens == tokens.sum()


def test_two_objectives_of_one_kind_are_told_apart_in_metrics(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    parts = [Part(masked(tiny_tokenizer, texts), weight=weight) for texts, weight in ((TEXTS, 0.5), (TEXTS[:3], 2.0))]
    trainer = trainer_of(tmp_path, tiny(tiny_tokenizer), *parts, max_steps=2)
    reported = run(trainer)
    figures = trainer.evaluate()
    for line, prefix in [(reported[0], ""), (reported[1], ""), (figures, "eval_")]:
        assert f"{prefix}mlm" not in line
        assert line[f"{prefix}mlm_1"] != line[f"{prefix}mlm_2"]
        expected = 0.5 * line[f"{prefix}mlm_1"] + 2.0 * line[f"{prefix}mlm_2"]
        assert line[f"{prefix}loss"] == pytest.approx(expected, rel=1e-5)
        assert f"{prefix}mlm_accuracy_2" in line


@pytest.mark.parametrize("field", ["share", "weight"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_a_share_or_weight_that_is_not_positive_is_refused(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path, field: str, value: float
) -> None:
    part = Part(masked(tiny_tokenizer), **{field: value})
    with pytest.raises(InvalidInputError, match=f"{field} = {value} of mlm: must be above 0"):
        trainer_of(tmp_path, tiny(tiny_tokenizer), part)

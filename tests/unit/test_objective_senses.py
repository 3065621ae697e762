from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctxembed.errors import InvalidInputError
from ctxembed.model.checkpoint import Checkpoint
from ctxembed.training.objectives.senses import (
    SenseBatch,
    SenseConfig,
    Senses,
    gather_glosses,
    sense_contrast,
)

from .sense_cases import PLAIN, build, contrast_by_hand, sense_rows, unit
from .tiny_models import WIDTH, checkpoint

if TYPE_CHECKING:
    from ctxembed.tokenizer import SubwordTokenizer

# The contrast of senses


@pytest.mark.parametrize("temperature", [0.1, 0.7])
def test_loss_and_accuracy_are_those_of_the_formula(temperature: float) -> None:
    generator = np.random.default_rng(3)
    groups, senses = generator.integers(0, 4, 24).tolist(), generator.integers(0, 3, 24).tolist()
    vectors = torch.from_numpy(generator.standard_normal((24, 6))).float()
    anchors, losses, right = sense_contrast(
        vectors, torch.tensor(groups), torch.tensor(senses), temperature=temperature
    )
    expected, nearest = contrast_by_hand(unit(vectors), groups, senses, temperature)
    assert 10 < len(expected) < 24
    assert torch.nonzero(anchors).flatten().tolist() == list(expected)
    np.testing.assert_allclose(losses.numpy(), list(expected.values()), rtol=1e-4)
    assert right.tolist() == list(nearest.values())
    assert 0 < right.sum() < len(right)


def test_equal_numbers_in_different_groups_do_not_meet() -> None:
    vectors = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    groups, senses = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([7, 7, 8, 7, 7, 8])
    whole = sense_contrast(vectors, groups, senses, temperature=0.1)[1]
    parts = [
        sense_contrast(vectors[part], groups[part], senses[part], temperature=0.1)[1]
        for part in (slice(3), slice(3, 6))
    ]
    torch.testing.assert_close(whole, torch.cat(parts))
    assert len(whole) == 4


@pytest.mark.parametrize(
    ("senses", "expected"),
    [
        ([0, 0, 1], [True, True, False]),
        ([0, 0, 0], [False, False, False]),
        ([0, 1, 2], [False, False, False]),
        ([0], [False]),
    ],
)
def test_an_anchor_needs_a_partner_and_a_rival(senses: list[int], expected: list[bool]) -> None:
    vectors = torch.randn(len(senses), 4, requires_grad=True)
    anchors, losses, right = sense_contrast(
        vectors, torch.zeros(len(senses), dtype=torch.int64), torch.tensor(senses), temperature=0.1
    )
    assert anchors.tolist() == expected
    assert len(losses) == len(right) == sum(expected)
    losses.sum().backward()
    assert vectors.grad is not None
    assert torch.isfinite(vectors.grad).all()


def test_equal_vectors_score_at_chance() -> None:
    senses = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])
    _, losses, right = sense_contrast(torch.ones(8, 4), torch.zeros(8), senses, temperature=0.1)
    np.testing.assert_allclose(right.numpy(), np.array([2, 2, 2, 1, 1, 2, 2, 2]) / 7, rtol=1e-6)
    np.testing.assert_allclose(losses.numpy(), math.log(7), rtol=1e-6)


def test_a_tie_between_partner_and_rival_counts_half() -> None:
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 2.0], [-1.0, 0.0]])
    _, _, right = sense_contrast(vectors, torch.zeros(4), torch.tensor([0, 0, 1, 1]), temperature=1.0)
    assert right.tolist() == [0.5, 0.0, 0.0, 0.5]


# The loss of a model


GLOSSES = {(0, 0): 0, (0, 1): 1, (0, 5): 2, (1, 0): 1, (1, 1): 3}
"""Synonyms share gloss 1; sense 5 of lemma 0 has no use, sense 2 no gloss."""


def vectors_by_hand(model: Checkpoint, objective: Senses) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The vector of each use and gloss, each text encoded alone."""
    rows, uses, glosses = objective.rows, [], []
    for row, start, end in zip(rows.rows, rows.starts, rows.ends, strict=True):
        ids = torch.from_numpy(rows.sentences.row(row).astype(np.int64))[None]
        uses.append(model.encoder(ids).hidden_states[model.pooling.usage_layer][0, start:end].mean(dim=0))
    for row in range(len(rows.glosses)):
        ids = torch.from_numpy(rows.glosses.row(row).astype(np.int64))[None]
        glosses.append(model.encoder(ids).last[0].mean(dim=0))
    return unit(torch.stack(uses)), unit(torch.stack(glosses)) if glosses else np.zeros((0, WIDTH))


def gloss_by_hand(
    uses: NDArray[np.float64], glosses: NDArray[np.float64], own: dict[int, int], foreign: dict[int, set[int]]
) -> dict[int, float]:
    losses = {}
    for use, gloss in own.items():
        scores = {
            g: math.exp(uses[use] @ glosses[g] / 0.1) for g in range(len(glosses)) if g not in foreign.get(use, ())
        }
        losses[use] = -math.log(scores[gloss] / sum(scores.values()))
    return losses


@pytest.mark.parametrize("layer", [-1, 1])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_loss_is_the_mean_over_anchors_of_both_parts(
    tiny_tokenizer: SubwordTokenizer, layer: int, weight: float
) -> None:
    rows, model = sense_rows(PLAIN[:9], glosses=GLOSSES), checkpoint(tiny_tokenizer, usage_layer=layer)
    objective = Senses(rows, model=model, config=SenseConfig(gloss_weight=weight))
    loss = objective(model, objective.prepare(np.array([0, 1]), seed=[1]))
    uses, glosses = vectors_by_hand(model, objective)
    senses, right = contrast_by_hand(uses, rows.lemmas.tolist(), rows.senses.tolist(), 0.1)
    own = {use: int(rows.sense_glosses[rows.senses[use]]) for use in range(9) if use != 3}
    described = gloss_by_hand(uses, glosses, own, {}) if weight else {}
    assert set(senses) == set(own) == {0, 1, 2, 4, 5, 6, 7, 8}
    assert loss.count == 8
    expected = (sum(senses.values()) + weight * sum(described.values())) / 8
    assert loss.value.item() == pytest.approx(expected, rel=1e-4)
    assert loss.metrics["senses"] == pytest.approx(expected, rel=1e-4)
    assert loss.metrics["sense_accuracy"] == pytest.approx(np.mean(list(right.values())))
    if weight:
        found = [np.argmax(uses[use] @ glosses.T) == gloss for use, gloss in own.items()]
        assert loss.metrics["gloss_accuracy"] == pytest.approx(np.mean(found))
    assert set(loss.metrics) == {"senses", "sense_accuracy", *(["gloss_accuracy"] if weight else [])}


def test_what_another_inventory_says_about_the_word_is_no_rival(tiny_tokenizer: SubwordTokenizer) -> None:
    # Lemmas 0 and 1 are one word under two inventories, lemma 2 is another word.
    uses = [(0, 0), (1, 0), (2, 0)]
    rows = sense_rows(uses, glosses={(0, 0): 0, (1, 0): 1, (2, 0): 2, (1, 1): 0}, words=[4, 4, 5])
    model = checkpoint(tiny_tokenizer)
    objective = Senses(rows, model=model)
    batch = objective.prepare(np.arange(3), seed=[1])
    assert batch.foreign.tolist() == [[0, 1]]  # gloss 0 is among lemma 1's own, from another sense
    vectors, glosses = vectors_by_hand(model, objective)
    expected = gloss_by_hand(vectors, glosses, {0: 0, 1: 1, 2: 2}, {0: {1}})
    assert objective(model, batch).value.item() == pytest.approx(sum(expected.values()) / 3, rel=1e-4)


def test_a_use_with_nothing_but_other_inventories_glosses_is_no_anchor(tiny_tokenizer: SubwordTokenizer) -> None:
    model = checkpoint(tiny_tokenizer)
    objective = Senses(sense_rows([(0, 0), (1, 0)], glosses={(0, 0): 0, (1, 0): 1}, words=[4, 4]), model=model)
    loss = objective(model, objective.prepare(np.array([0, 1]), seed=[1]))
    assert (loss.value.item(), loss.count, dict(loss.metrics)) == (0.0, 0, {})


def test_uses_of_one_word_under_two_inventories_do_not_repel(tiny_tokenizer: SubwordTokenizer) -> None:
    one = [(0, 0), (0, 0), (0, 1)]
    together = [*one, *((1, sense) for _, sense in one)]
    model = checkpoint(tiny_tokenizer)
    objective = Senses(sense_rows(together, words=[0, 0]), model=model)
    parts = [objective(model, objective.prepare(np.array([item]), seed=[1])) for item in (0, 1)]
    whole = objective(model, objective.prepare(np.array([0, 1]), seed=[1]))
    assert whole.value.item() == pytest.approx(np.mean([part.value.item() for part in parts]), rel=1e-5)


def test_parts_of_a_batch_weighed_by_count_have_the_gradient_of_the_whole(tiny_tokenizer: SubwordTokenizer) -> None:
    uses = [(lemma, use % (2 + lemma)) for lemma in range(4) for use in range(8)]
    model = checkpoint(tiny_tokenizer)
    objective = Senses(sense_rows(uses), model=model)

    def gradient(batches: list[list[int]]) -> Tensor:
        losses = [objective(model, objective.prepare(np.array(items), seed=[1])) for items in batches]
        total = sum(loss.count for loss in losses)
        value = sum((loss.value * (loss.count / total) for loss in losses), start=torch.zeros(()))
        return torch.cat([part.flatten() for part in torch.autograd.grad(value, list(model.encoder.parameters()))])

    whole, parts = gradient([[0, 1, 2, 3]]), gradient([[0], [3, 1], [2]])
    assert whole.abs().max() > 0.01
    torch.testing.assert_close(parts, whole, rtol=1e-3, atol=1e-5)


def test_a_batch_without_anchors_has_a_loss_of_zero_with_a_gradient(tiny_tokenizer: SubwordTokenizer) -> None:
    model = checkpoint(tiny_tokenizer)
    objective = Senses(sense_rows([(0, 0), (1, 0)], glosses={(0, 0): 0, (1, 0): 1}), model=model)
    loss = objective(model, objective.prepare(np.array([0]), seed=[1]))  # one gloss alone: nothing to tell it from
    loss.value.backward()
    assert (loss.value.item(), loss.count, dict(loss.metrics)) == (0.0, 0, {})
    assert all(torch.isfinite(part.grad).all() for part in model.encoder.parameters() if part.grad is not None)


def test_a_batch_without_glosses_among_others_that_have_some(tiny_tokenizer: SubwordTokenizer) -> None:
    model = checkpoint(tiny_tokenizer)
    objective = Senses(sense_rows([*PLAIN[:9], (2, 0)], glosses={(2, 0): 0, (2, 1): 1}), model=model)
    batch = objective.prepare(np.array([0, 1]), seed=[1])
    assert batch.glosses == ()
    loss = objective(model, batch)
    assert loss.count == 8
    assert set(loss.metrics) == {"senses", "sense_accuracy"}


def test_the_loss_is_computed_in_float32_under_autocast(tiny_tokenizer: SubwordTokenizer) -> None:
    model = checkpoint(tiny_tokenizer)
    objective = Senses(sense_rows(PLAIN, glosses=GLOSSES), model=model)
    batch: SenseBatch = objective.prepare(np.array([0, 1]), seed=[1])
    exact = objective(model, batch).value.item()
    with torch.autocast("cpu", torch.bfloat16):
        rough = objective(model, batch).value
    assert rough.dtype == torch.float32
    assert rough.item() == pytest.approx(exact, rel=0.1)


def test_gathered_glosses_stand_once_in_ascending_order() -> None:
    vectors = torch.arange(5.0)[:, None]
    found, numbers = gather_glosses(vectors, torch.tensor([9, 4, 9, 2, 4]))
    assert numbers.tolist() == [2, 4, 9]
    assert found.flatten().tolist() == [3.0, 1.0, 0.0]


# Settings


def test_settings_are_json_and_follow_from_config_and_data(tiny_tokenizer: SubwordTokenizer) -> None:
    rows = sense_rows(PLAIN)
    one = build(tiny_tokenizer, rows).settings
    assert one == build(tiny_tokenizer, rows).settings == json.loads(json.dumps(one))
    others = (
        build(tiny_tokenizer, rows, config=SenseConfig(seed=2)).settings,
        build(tiny_tokenizer, replace(rows, ends=rows.ends + 1)).settings,
    )
    assert all(other != one for other in others)
    assert not list(build(tiny_tokenizer, rows).parameters())


def test_the_summary_tells_what_is_used_and_what_is_left(tiny_tokenizer: SubwordTokenizer) -> None:
    summary = build(tiny_tokenizer, sense_rows(PLAIN)).summary
    assert summary == "2 groups of 9 uses; 3 uses left over (nothing to be told from, or beyond max_groups)"


def test_rows_with_nothing_to_tell_apart_are_refused(tiny_tokenizer: SubwordTokenizer) -> None:
    with pytest.raises(InvalidInputError, match=r"nor a use with a gloss: nothing to learn"):
        build(tiny_tokenizer, sense_rows([(0, 0), (0, 1), (1, 0), (1, 0)]))


def test_a_layer_that_the_model_lacks_is_refused(tiny_tokenizer: SubwordTokenizer) -> None:
    with pytest.raises(InvalidInputError, match=r"usage_layer = 3: the model has layers 0 \(embedding\) to 2"):
        build(tiny_tokenizer, sense_rows(PLAIN), usage_layer=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0.0}, "temperature = 0.0: must be above 0"),
        ({"group_size": 2}, "group_size = 2: must be at least 3"),
        ({"max_groups": 0}, "max_groups = 0: must be at least 1"),
        ({"gloss_weight": -1.0}, "gloss_weight = -1.0: must be at least 0"),
        ({"max_glosses": -1}, "max_glosses = -1: must be at least 0"),
        ({"seed": -1}, "seed = -1: must be at least 0"),
    ],
)
def test_a_wrong_setting_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        SenseConfig(**changes)

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ctxembed.config import EncoderConfig, PoolingConfig
from ctxembed.errors import InvalidInputError
from ctxembed.model.encoder import MaskedWordHead, TransformerEncoder
from ctxembed.model.pooling import pool_sentences, pool_spans
from ctxembed.training.batches import TokenRowBatch
from ctxembed.training.objectives import (
    Distillation,
    DistillationConfig,
    MaskedLanguageModelling,
    MaskingConfig,
    TeacherBatch,
    cosine_distance,
    first_rows,
    mask_tokens,
    similarity_divergence,
)

if TYPE_CHECKING:
    from ctxembed.tokenizer import SubwordTokenizer

WIDTH, TEACHER = 16, 6
LENGTHS = torch.tensor([8, 5, 3, 6])


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ordinary_ids(tokenizer: SubwordTokenizer, lengths: Tensor) -> Tensor:
    """Random rows between special tokens, padded."""
    ids = torch.randint(5, len(tokenizer), (len(lengths), int(lengths.max())), generator=seeded(9))
    ids[:, 0] = tokenizer.cls_id
    for row, length in enumerate(lengths.tolist()):
        ids[row, length - 1], ids[row, length:] = tokenizer.sep_id, tokenizer.pad_id
    return ids


def batch_of(tokenizer: SubwordTokenizer, lengths: Tensor = LENGTHS) -> TokenRowBatch:
    return TokenRowBatch(np.arange(len(lengths)), ordinary_ids(tokenizer, lengths), lengths)


def masked_modelling(tokenizer: SubwordTokenizer) -> MaskedLanguageModelling:
    shape = EncoderConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, num_layers=1, num_heads=2, intermediate_size=24, dropout=0.0
    )
    torch.manual_seed(1)
    return MaskedLanguageModelling(TransformerEncoder(shape), MaskedWordHead(shape), tokenizer, config=MaskingConfig())


# Masking


def test_shares_of_hidden_kept_and_random_tokens_are_those_of_the_config(tiny_tokenizer: SubwordTokenizer) -> None:
    config = MaskingConfig(mask_fraction=0.3, keep_fraction=0.2, random_fraction=0.15)
    lengths = torch.full((600,), 102)
    ids = ordinary_ids(tiny_tokenizer, lengths)
    changed, chosen = mask_tokens(ids, lengths, tiny_tokenizer, config=config, generator=seeded())
    now, before = changed[chosen], ids[chosen]
    size = len(tiny_tokenizer)
    assert chosen.sum().item() / (600 * 100) == pytest.approx(0.3, abs=0.01)
    # A random token is the mask or the old token once in a vocabulary each.
    assert (now == tiny_tokenizer.mask_id).float().mean().item() == pytest.approx(0.65 + 0.15 / size, abs=0.015)
    assert (now == before).float().mean().item() == pytest.approx(0.2 + 0.15 / size, abs=0.015)


def test_random_tokens_come_from_the_whole_vocabulary(tiny_tokenizer: SubwordTokenizer) -> None:
    config = MaskingConfig(mask_fraction=0.9, keep_fraction=0.0, random_fraction=1.0)
    lengths = torch.full((300,), 102)
    ids = ordinary_ids(tiny_tokenizer, lengths)
    changed, chosen = mask_tokens(ids, lengths, tiny_tokenizer, config=config, generator=seeded())
    assert set(changed[chosen].tolist()) == set(range(len(tiny_tokenizer)))


@settings(deadline=None)
@given(st.lists(st.integers(2, 12), min_size=1, max_size=6), st.floats(0.01, 0.99), st.integers(0, 2**31))
def test_only_ordinary_tokens_are_hidden_and_at_least_one(
    tiny_tokenizer: SubwordTokenizer, lengths: list[int], fraction: float, seed: int
) -> None:
    sizes = torch.tensor(lengths)
    ids = ordinary_ids(tiny_tokenizer, sizes)
    config = MaskingConfig(mask_fraction=fraction)
    changed, chosen = mask_tokens(ids, sizes, tiny_tokenizer, config=config, generator=seeded(seed))
    ordinary = (ids != tiny_tokenizer.cls_id) & (ids != tiny_tokenizer.sep_id) & (ids != tiny_tokenizer.pad_id)
    assert not (chosen & ~ordinary).any()
    assert chosen.any() == ordinary.any()
    assert torch.equal(changed[~chosen], ids[~chosen])


def test_the_input_is_not_changed_in_place(tiny_tokenizer: SubwordTokenizer) -> None:
    ids = ordinary_ids(tiny_tokenizer, LENGTHS)
    before = ids.clone()
    mask_tokens(ids, LENGTHS, tiny_tokenizer, config=MaskingConfig(mask_fraction=0.9), generator=seeded())
    assert torch.equal(ids, before)


def test_masks_follow_from_the_generator(tiny_tokenizer: SubwordTokenizer) -> None:
    ids = ordinary_ids(tiny_tokenizer, LENGTHS)
    config = MaskingConfig(mask_fraction=0.5)
    one, same, other = (
        mask_tokens(ids, LENGTHS, tiny_tokenizer, config=config, generator=seeded(seed))[0] for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mask_fraction": 0.0}, "mask_fraction = 0.0: must be between 0 and 1"),
        ({"mask_fraction": 1.0}, "mask_fraction = 1.0: must be between 0 and 1"),
        ({"keep_fraction": -0.1}, "must not be negative nor sum to more than 1"),
        ({"keep_fraction": 0.6, "random_fraction": 0.5}, "must not be negative nor sum to more than 1"),
    ],
)
def test_impossible_shares_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        MaskingConfig(**values)


# Masked-language modelling


def test_loss_is_the_cross_entropy_at_hidden_positions(tiny_tokenizer: SubwordTokenizer) -> None:
    objective, batch = masked_modelling(tiny_tokenizer), batch_of(tiny_tokenizer)
    loss = objective(batch, seeded(3))
    masked, chosen = mask_tokens(batch.ids, batch.lengths, tiny_tokenizer, config=objective.config, generator=seeded(3))
    hidden = objective.encoder(masked, batch.lengths).last
    logits = objective.head(hidden, objective.encoder.embedding.tokens.weight)
    by_hand = [
        -math.log(logits[row, column].double().softmax(dim=-1)[batch.ids[row, column]].item())
        for row, column in chosen.nonzero().tolist()
    ]
    right = [logits[row, column].argmax() == batch.ids[row, column] for row, column in chosen.nonzero().tolist()]
    assert loss.value.item() == pytest.approx(np.mean(by_hand), abs=1e-5)
    assert loss.metrics == pytest.approx({"mlm": np.mean(by_hand), "mlm_accuracy": np.mean(right)}, abs=1e-5)


def test_an_untrained_model_guesses_by_chance(tiny_tokenizer: SubwordTokenizer) -> None:
    loss = masked_modelling(tiny_tokenizer)(batch_of(tiny_tokenizer), seeded())
    assert loss.value.item() == pytest.approx(math.log(len(tiny_tokenizer)), abs=0.3)


def test_a_batch_without_ordinary_tokens_gives_zero_that_can_be_descended(tiny_tokenizer: SubwordTokenizer) -> None:
    loss = masked_modelling(tiny_tokenizer)(batch_of(tiny_tokenizer, torch.tensor([2, 2])), seeded())
    loss.value.backward()
    assert loss.value.item() == 0.0


# Distances


def test_cosine_distance_equals_that_of_scipy() -> None:
    from scipy.spatial.distance import cosine

    first, second = torch.randn(7, 5, generator=seeded()), torch.randn(7, 5, generator=seeded(2))
    expected = np.mean([cosine(a, b) for a, b in zip(first.numpy(), second.numpy(), strict=True)])
    assert cosine_distance(first, second).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("factor", "distance"), [(1.0, 0.0), (7.5, 0.0), (-2.0, 2.0)])
def test_cosine_distance_asks_for_the_direction_only(factor: float, distance: float) -> None:
    vectors = torch.randn(7, 5, generator=seeded())
    assert cosine_distance(vectors, factor * vectors).item() == pytest.approx(distance, abs=1e-6)


def divergence_by_hand(student: Tensor, teacher: Tensor, temperature: float) -> float:
    from scipy.special import rel_entr, softmax

    total = 0.0
    for row in range(len(student)):
        own, goal = (
            softmax(
                [
                    float(v[row] @ v[other] / np.linalg.norm(v[row]) / np.linalg.norm(v[other])) / temperature
                    for other in range(len(v))
                    if other != row
                ]
            )
            for v in (student.double().numpy(), teacher.double().numpy())
        )
        total += rel_entr(goal, own).sum()
    return total / len(student)


@pytest.mark.parametrize("temperature", [0.05, 0.5])
@pytest.mark.parametrize("rows", [3, 4, 9])
def test_similarity_divergence_equals_its_definition(rows: int, temperature: float) -> None:
    student, teacher = torch.randn(rows, 5, generator=seeded()), torch.randn(rows, 8, generator=seeded(2))
    found = similarity_divergence(student, teacher, temperature=temperature).item()
    assert found == pytest.approx(divergence_by_hand(student, teacher, temperature), rel=1e-4)
    assert found > 0.01


def test_similarity_divergence_is_zero_between_equal_similarities() -> None:
    vectors = torch.randn(6, 5, generator=seeded())
    turned = vectors @ torch.linalg.qr(torch.randn(5, 5, generator=seeded(2))).Q * 3
    assert similarity_divergence(vectors, vectors, temperature=0.05).item() == pytest.approx(0.0, abs=1e-6)
    assert similarity_divergence(turned, vectors, temperature=0.05).item() == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize("rows", [1, 2])
def test_two_rows_have_no_similarities_to_compare(rows: int) -> None:
    student = torch.randn(rows, 5, generator=seeded(), requires_grad=True)
    value = similarity_divergence(student, torch.randn(rows, 5), temperature=0.05)
    value.backward()
    assert value.item() == 0.0


# Distillation


@dataclass
class FakeTargets:
    """Says the same about every batch."""

    answer: TeacherBatch
    sentence_dimension: int = TEACHER
    word_dimension: int = TEACHER
    asked: list[TokenRowBatch] = field(default_factory=list)

    def lookup(self, batch: TokenRowBatch) -> TeacherBatch:
        self.asked.append(batch)
        return self.answer


def teacher_batch(**changes: Any) -> TeacherBatch:
    residuals = torch.randn(3, TEACHER, generator=seeded(6))
    residuals[1] = 0.0  # the form of the second word is too rare
    answer = TeacherBatch(
        sentence_rows=torch.tensor([0, 1, 3]),
        sentences=torch.randn(3, TEACHER, generator=seeded(4)),
        word_rows=torch.tensor([0, 0, 2]),
        word_starts=torch.tensor([1, 3, 1]),
        word_ends=torch.tensor([3, 4, 2]),
        words=torch.randn(3, TEACHER, generator=seeded(5)),
        residuals=residuals,
    )
    return replace(answer, **changes)


def without_sentences() -> TeacherBatch:
    return teacher_batch(sentence_rows=torch.zeros(0, dtype=torch.int64), sentences=torch.zeros(0, TEACHER))


def without_words() -> TeacherBatch:
    none = torch.zeros(0, dtype=torch.int64)
    empty = torch.zeros(0, TEACHER)
    return teacher_batch(word_rows=none, word_starts=none, word_ends=none, words=empty, residuals=empty)


def distillation(tokenizer: SubwordTokenizer, answer: TeacherBatch, **weights: float) -> Distillation:
    config = DistillationConfig(**weights)
    torch.manual_seed(2)
    return Distillation(masked_modelling(tokenizer), FakeTargets(answer), config=config)


def test_the_parts_of_a_distillation_are_what_they_say(tiny_tokenizer: SubwordTokenizer) -> None:
    answer, batch = teacher_batch(), batch_of(tiny_tokenizer)
    objective = distillation(tiny_tokenizer, answer, mlm_fraction=0.5)
    loss = objective(batch, seeded(3))
    hidden = objective.masked.encoder(batch.ids, batch.lengths).last
    own = pool_sentences(hidden, batch.lengths)[answer.sentence_rows]
    words = pool_spans(hidden, answer.word_rows, answer.word_starts, answer.word_ends)
    known = torch.tensor([0, 2])
    expected = {
        "sentence": cosine_distance(objective.to_sentence(own), answer.sentences),
        "similarity": similarity_divergence(own, answer.sentences, temperature=0.05),
        "word": cosine_distance(objective.to_word(words), answer.words),
        "residual": cosine_distance(objective.to_residual(words[known]), answer.residuals[known]),
        "mlm": objective.masked(first_rows(batch, 0.5), seeded(3)).value,
    }
    assert loss.metrics == pytest.approx({name: value.item() for name, value in expected.items()}, abs=1e-6)


def test_a_distillation_trains_the_vectors_that_its_pooling_gives(tiny_tokenizer: SubwordTokenizer) -> None:
    answer, batch = teacher_batch(), batch_of(tiny_tokenizer)
    torch.manual_seed(2)
    objective = Distillation(
        masked_modelling(tiny_tokenizer),
        FakeTargets(answer),
        config=DistillationConfig(mlm_weight=0.0),
        pooling=PoolingConfig(sentence="max", usage_layer=0),
    )
    metrics = objective(batch, seeded()).metrics
    output = objective.masked.encoder(batch.ids, batch.lengths)
    own = pool_sentences(output.last, batch.lengths, how="max")[answer.sentence_rows]
    words = pool_spans(output.hidden_states[0], answer.word_rows, answer.word_starts, answer.word_ends)
    expected = {
        "sentence": cosine_distance(objective.to_sentence(own), answer.sentences),
        "similarity": similarity_divergence(own, answer.sentences, temperature=0.05),
        "word": cosine_distance(objective.to_word(words), answer.words),
    }
    found = {name: metrics[name] for name in expected}
    assert found == pytest.approx({name: value.item() for name, value in expected.items()}, abs=1e-6)
    usual = distillation(tiny_tokenizer, answer, mlm_weight=0.0)(batch, seeded()).metrics
    assert all(abs(metrics[name] - usual[name]) > 1e-4 for name in expected)


@pytest.mark.parametrize("layer", [-3, 2])
def test_a_layer_that_the_model_lacks_is_refused(tiny_tokenizer: SubwordTokenizer, layer: int) -> None:
    with pytest.raises(
        InvalidInputError, match=rf"usage_layer = {layer}: the model has layers 0 \(embedding\) to 1, or"
    ):
        Distillation(
            masked_modelling(tiny_tokenizer),
            FakeTargets(teacher_batch()),
            config=DistillationConfig(),
            pooling=PoolingConfig(usage_layer=layer),
        )


def test_the_loss_is_the_weighted_sum_of_the_parts(tiny_tokenizer: SubwordTokenizer) -> None:
    weights = {
        "sentence_weight": 0.5,
        "similarity_weight": 2.0,
        "word_weight": 3.0,
        "residual_weight": 5.0,
        "mlm_weight": 7.0,
    }
    loss = distillation(tiny_tokenizer, teacher_batch(), **weights)(batch_of(tiny_tokenizer), seeded())
    expected = sum(weights[f"{name}_weight"] * value for name, value in loss.metrics.items())
    assert len(loss.metrics) == 5
    assert loss.value.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("answer", "weights", "parts"),
    [
        (without_sentences(), {}, {"word", "residual", "mlm"}),
        (without_words(), {}, {"sentence", "similarity", "mlm"}),
        (teacher_batch(residuals=torch.zeros(3, TEACHER)), {}, {"sentence", "similarity", "word", "mlm"}),
        (teacher_batch(), {"mlm_weight": 0.0}, {"sentence", "similarity", "word", "residual"}),
    ],
)
def test_a_part_without_targets_or_weight_is_left_out(
    tiny_tokenizer: SubwordTokenizer, answer: TeacherBatch, weights: dict[str, float], parts: set[str]
) -> None:
    objective = distillation(tiny_tokenizer, answer, **weights)
    loss = objective(batch_of(tiny_tokenizer), seeded())
    loss.value.backward()
    assert set(loss.metrics) == parts
    assert loss.value.isfinite()


def test_a_batch_without_any_target_gives_zero_that_can_be_descended(tiny_tokenizer: SubwordTokenizer) -> None:
    nothing = replace(
        without_words(), sentence_rows=torch.zeros(0, dtype=torch.int64), sentences=torch.zeros(0, TEACHER)
    )
    loss = distillation(tiny_tokenizer, nothing, mlm_weight=0.0)(batch_of(tiny_tokenizer), seeded())
    loss.value.backward()
    assert loss.value.item() == 0.0
    assert loss.metrics == {}


@pytest.mark.parametrize(("fraction", "rows"), [(0.01, 1), (0.25, 1), (0.5, 2), (1.0, 4)])
def test_a_fraction_of_a_batch_is_its_first_rows(tiny_tokenizer: SubwordTokenizer, fraction: float, rows: int) -> None:
    batch = batch_of(tiny_tokenizer)
    part = first_rows(batch, fraction)
    assert part.rows.tolist() == list(range(rows))
    assert torch.equal(part.ids, batch.ids[:rows])
    assert torch.equal(part.lengths, batch.lengths[:rows])


@pytest.mark.parametrize("fraction", [0.0, 1.5])
def test_an_impossible_fraction_is_refused(fraction: float) -> None:
    with pytest.raises(InvalidInputError, match=rf"mlm_fraction = {fraction}: must be in \(0, 1\]"):
        DistillationConfig(mlm_fraction=fraction)


def test_the_teacher_is_asked_about_the_batch(tiny_tokenizer: SubwordTokenizer) -> None:
    objective, batch = distillation(tiny_tokenizer, teacher_batch()), batch_of(tiny_tokenizer)
    objective(batch, seeded())
    assert isinstance(objective.targets, FakeTargets)
    assert objective.targets.asked == [batch]


def test_gradients_of_a_distillation_reach_encoder_and_projections(tiny_tokenizer: SubwordTokenizer) -> None:
    objective = distillation(tiny_tokenizer, teacher_batch())
    objective(batch_of(tiny_tokenizer), seeded()).value.backward()
    missing = [name for name, parameter in objective.named_parameters() if parameter.grad is None]
    assert missing == []
    for part in (objective.masked.encoder.layers[0], objective.to_sentence, objective.to_word, objective.to_residual):
        assert all(parameter.grad.norm() > 0 for name, parameter in part.named_parameters() if "key.bias" not in name)

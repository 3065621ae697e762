"""Distillation: every part against its definition, and two processes against one.

Run as a script, this file is one of two processes: ``python test_objective_distill.py RANK RENDEZVOUS OUTPUT``.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctxembed.config import EncoderConfig, PoolingConfig
from ctxembed.errors import InvalidInputError
from ctxembed.model.checkpoint import Checkpoint
from ctxembed.model.encoder import TransformerEncoder
from ctxembed.model.pooling import pool_sentences, pool_spans
from ctxembed.tokenizer import SubwordTokenizer, TokenizerConfig
from ctxembed.training import distributed
from ctxembed.training.batches import TokenRows
from ctxembed.training.objectives.distill import (
    Distillation,
    DistillationBatch,
    DistillationConfig,
    TeacherBatch,
    cosine_distance,
    relation_distance,
    similarity_divergence,
)

WIDTH, TEACHER = 16, 6
ALL_PARTS = {
    "sentence_weight": 0.5,
    "similarity_weight": 2.0,
    "word_weight": 3.0,
    "residual_weight": 5.0,
    "relation_weight": 7.0,
}
# Row, first token, one past the last, form: forms 0 and 1 occur several times, one of them in rows of both parities.
WORDS = np.array(
    [(0, 1, 3, 0), (0, 3, 4, 1), (1, 1, 2, 0), (2, 1, 2, 2), (3, 2, 4, 0), (4, 1, 2, 1), (4, 2, 3, 3), (6, 1, 4, 1)]
)
LENGTHS = (8, 5, 3, 6, 4, 4, 7)


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@dataclass
class FakeTargets:
    """A teacher of seven rows at random: some have no sentence vector, some no word, one word no residual."""

    sentence_dimension: int = TEACHER
    word_dimension: int = TEACHER
    silent_rows: tuple[int, ...] = (2,)
    settings: dict[str, Any] = field(default_factory=lambda: {"teachers": "fake"})

    def __post_init__(self) -> None:
        generator = np.random.default_rng(3)
        self.store = TokenRows.from_lists([generator.integers(5, 40, length).astype(np.int32) for length in LENGTHS])
        self.sentences = torch.randn(len(LENGTHS), self.sentence_dimension, generator=seeded(4))
        self.words = torch.randn(len(WORDS), self.word_dimension, generator=seeded(5))
        self.residuals = torch.randn(len(WORDS), self.word_dimension, generator=seeded(6))
        self.residuals[1] = 0.0

    def lookup(self, rows: NDArray[np.int64]) -> TeacherBatch:
        known = [place for place, row in enumerate(rows) if row not in self.silent_rows and self.sentence_dimension]
        found = [(place, n) for place, row in enumerate(rows) for n in np.flatnonzero(WORDS[:, 0] == row).tolist()]
        places, numbers = torch.tensor(found, dtype=torch.int64).reshape(-1, 2).T
        if not self.word_dimension:
            places, numbers = places[:0], numbers[:0]
        words = torch.from_numpy(WORDS)[numbers]
        return TeacherBatch(
            sentence_rows=torch.tensor(known, dtype=torch.int64),
            sentences=self.sentences[rows[known]] if known else self.sentences[:0],
            word_rows=places,
            word_starts=words[:, 1],
            word_ends=words[:, 2],
            word_forms=words[:, 3],
            words=self.words[numbers],
            residuals=self.residuals[numbers],
        )


def student(*, pooling: PoolingConfig | None = None) -> Checkpoint:
    tokenizer = SubwordTokenizer.train(["abcdefgh " * 3], config=TokenizerConfig(vocab_size=40, min_frequency=1))
    shape = EncoderConfig(
        vocab_size=40, hidden_size=WIDTH, num_layers=1, num_heads=2, intermediate_size=24, dropout=0.0
    )
    torch.manual_seed(1)
    encoder = TransformerEncoder(shape)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return Checkpoint(name="student", encoder=encoder, tokenizer=tokenizer, pooling=pooling or PoolingConfig())


def distillation(model: Checkpoint, targets: FakeTargets | None = None, **weights: float) -> Distillation:
    torch.manual_seed(2)
    return Distillation(targets or FakeTargets(), model=model, config=DistillationConfig(**weights))


def rows_of(*rows: int) -> NDArray[np.int64]:
    return np.array(rows, dtype=np.int64)


EVERY_ROW = rows_of(*range(len(LENGTHS)))


def batch_of(objective: Distillation, rows: NDArray[np.int64] = EVERY_ROW) -> DistillationBatch:
    return objective.prepare(rows, seed=[1])


# Distances


def test_cosine_distance_equals_that_of_scipy() -> None:
    from scipy.spatial.distance import cosine

    first, second = torch.randn(7, 5, generator=seeded()), torch.randn(7, 5, generator=seeded(2))
    expected = [cosine(a, b) for a, b in zip(first.numpy(), second.numpy(), strict=True)]
    np.testing.assert_allclose(cosine_distance(first, second), expected, atol=1e-6)


@pytest.mark.parametrize(("factor", "distance"), [(1.0, 0.0), (7.5, 0.0), (-2.0, 2.0)])
def test_cosine_distance_asks_for_the_direction_only(factor: float, distance: float) -> None:
    vectors = torch.randn(7, 5, generator=seeded())
    np.testing.assert_allclose(cosine_distance(vectors, factor * vectors), distance, atol=1e-6)


def cosines_by_hand(vectors: Tensor) -> NDArray[np.float64]:
    from scipy.spatial.distance import cdist

    return 1 - cdist(vectors.double().numpy(), vectors.double().numpy(), "cosine")


def divergence_by_hand(student: Tensor, teacher: Tensor, temperature: float) -> list[float]:
    from scipy.special import rel_entr, softmax

    own, goal = (cosines_by_hand(vectors) / temperature for vectors in (student, teacher))
    return [
        rel_entr(softmax(np.delete(goal[row], row)), softmax(np.delete(own[row], row))).sum()
        for row in range(len(student))
    ]


@pytest.mark.parametrize("temperature", [0.05, 0.5])
@pytest.mark.parametrize("rows", [3, 4, 9])
def test_similarity_divergence_equals_its_definition(rows: int, temperature: float) -> None:
    student, teacher = torch.randn(rows, 5, generator=seeded()), torch.randn(rows, 8, generator=seeded(2))
    found = similarity_divergence(student, teacher, temperature=temperature)
    np.testing.assert_allclose(found, divergence_by_hand(student, teacher, temperature), rtol=1e-4, atol=1e-6)
    assert found.max() > 0.01


def test_similarity_divergence_of_some_rows_is_that_of_all_there() -> None:
    student, teacher = torch.randn(9, 5, generator=seeded()), torch.randn(9, 8, generator=seeded(2))
    every = similarity_divergence(student, teacher, temperature=0.1)
    some = similarity_divergence(student, teacher, temperature=0.1, first=2, count=4)
    torch.testing.assert_close(some, every[2:6])
    assert similarity_divergence(student, teacher, temperature=0.1, first=9, count=0).shape == (0,)


def test_similarity_divergence_is_zero_between_equal_similarities() -> None:
    vectors = torch.randn(6, 5, generator=seeded())
    turned = vectors @ torch.linalg.qr(torch.randn(5, 5, generator=seeded(2))).Q * 3
    np.testing.assert_allclose(similarity_divergence(turned, vectors, temperature=0.05), 0.0, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 2])
def test_two_rows_have_no_similarities_to_compare(rows: int) -> None:
    student = torch.randn(rows, 5, generator=seeded(), requires_grad=True)
    value = similarity_divergence(student, torch.randn(rows, 5), temperature=0.05)
    value.sum().backward()
    assert value.tolist() == [0.0] * rows


def test_relation_distance_equals_its_definition() -> None:
    student, teacher = torch.randn(8, 5, generator=seeded()), torch.randn(8, 3, generator=seeded(2))
    forms = [4, 7, 4, 1, 4, 7, 2, 9]
    own, goal = cosines_by_hand(student), cosines_by_hand(teacher)
    expected = []
    for word, form in enumerate(forms):
        others = [other for other in range(8) if other != word and forms[other] == form]
        if others:
            expected.append(np.mean([(own[word, other] - goal[word, other]) ** 2 for other in others]))
    found = relation_distance(student, teacher, torch.tensor(forms))
    assert len(expected) == 5
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    some = relation_distance(student, teacher, torch.tensor(forms), first=1, count=4)  # of which word 3 has no other
    np.testing.assert_allclose(some, np.array(expected)[[1, 2, 3]], rtol=1e-4)


def test_relation_distance_without_a_form_that_repeats_is_empty() -> None:
    words = torch.randn(3, 5, requires_grad=True)
    value = relation_distance(words, torch.randn(3, 4), torch.arange(3))
    value.sum().backward()
    assert value.shape == (0,)


# The parts


def parts_by_hand(model: Checkpoint, objective: Distillation, batch: DistillationBatch) -> dict[str, Tensor]:
    teacher, output = batch.teacher, model.encoder(batch.ids, batch.lengths)
    own = pool_sentences(output.last, batch.lengths, how=model.pooling.sentence)[teacher.sentence_rows]
    states = output.hidden_states[model.pooling.usage_layer]
    words = pool_spans(states, teacher.word_rows, teacher.word_starts, teacher.word_ends)
    known = [number for number, residual in enumerate(teacher.residuals) if residual.any()]
    assert 0 < len(known) < len(words)
    return {
        "distill_sentence": cosine_distance(objective.to_sentence(own), teacher.sentences).mean(),
        "distill_similarity": similarity_divergence(own, teacher.sentences, temperature=0.05).mean(),
        "distill_word": cosine_distance(objective.to_word(words), teacher.words).mean(),
        "distill_residual": cosine_distance(objective.to_residual(words[known]), teacher.residuals[known]).mean(),
        "distill_relation": relation_distance(words, teacher.words, teacher.word_forms).mean(),
    }


@pytest.mark.parametrize("pooling", [PoolingConfig(), PoolingConfig(sentence="max", usage_layer=0)])
def test_the_loss_is_the_weighted_sum_of_its_parts(pooling: PoolingConfig) -> None:
    model = student(pooling=pooling)
    objective = distillation(model, **ALL_PARTS)
    batch = batch_of(objective)
    loss = objective(model, batch)
    expected = {name: value.item() for name, value in parts_by_hand(model, objective, batch).items()}
    total = sum(ALL_PARTS[name.replace("distill_", "") + "_weight"] * value for name, value in expected.items())
    assert loss.metrics == pytest.approx({"distill": total, **expected}, abs=1e-5)
    assert loss.value.item() == pytest.approx(total, abs=1e-5)
    assert loss.count == len(LENGTHS)


def test_gradients_are_those_of_the_parts_by_hand() -> None:
    model = student()
    objective = distillation(model, **ALL_PARTS)
    batch = batch_of(objective)
    parameters = [*model.encoder.parameters(), *objective.parameters()]
    parts = parts_by_hand(model, objective, batch)
    whole = sum(ALL_PARTS[name.replace("distill_", "") + "_weight"] * value for name, value in parts.items())
    expected = torch.autograd.grad(whole, parameters)
    found = torch.autograd.grad(objective(model, batch).value, parameters)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


NOTHING = FakeTargets(silent_rows=tuple(range(len(LENGTHS))))


@pytest.mark.parametrize(
    ("targets", "weights", "parts"),
    [
        (FakeTargets(), {}, {"sentence", "similarity", "word", "residual"}),
        (FakeTargets(sentence_dimension=0), {}, {"word", "residual"}),
        (FakeTargets(word_dimension=0), {}, {"sentence", "similarity"}),
        (NOTHING, {}, {"word", "residual"}),
        (FakeTargets(), {"similarity_weight": 0.0, "word_weight": 0.0}, {"sentence", "residual"}),
        (FakeTargets(), {"sentence_weight": 0.0, "residual_weight": 0.0}, {"similarity", "word"}),
    ],
)
def test_a_part_without_targets_or_weight_is_left_out(
    targets: FakeTargets, weights: dict[str, float], parts: set[str]
) -> None:
    model = student()
    objective = distillation(model, targets, **weights)
    loss = objective(model, batch_of(objective))
    loss.value.backward()
    assert set(loss.metrics) == {"distill", *(f"distill_{part}" for part in parts)}
    assert loss.value.item() > 0
    assert all(parameter.grad is not None for parameter in objective.parameters())


def test_a_batch_without_any_target_gives_zero_that_can_be_descended() -> None:
    model = student()
    objective = distillation(model, **ALL_PARTS)
    loss = objective(model, batch_of(objective, rows_of(2)))  # no sentence vector, and a word that stands alone
    quiet = distillation(model, replace(NOTHING, word_dimension=0))
    silence = quiet(model, batch_of(quiet))
    silence.value.backward()
    assert "distill_relation" not in loss.metrics
    assert silence.metrics == {"distill": 0.0}
    assert all(not parameter.grad.any() for parameter in quiet.parameters())


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_losses_are_float32_where_the_model_computes_in_bfloat16(weights: torch.dtype) -> None:
    model = student()
    objective = distillation(model, **ALL_PARTS)
    batch = batch_of(objective)
    exact = objective(model, batch).metrics
    model.encoder.to(weights)
    with torch.autocast("cpu", torch.bfloat16):
        loss = objective(model, batch)
    assert loss.value.dtype == torch.float32
    assert loss.metrics == pytest.approx(exact, rel=0.1)


# The objective


def test_a_batch_is_rows_between_padding_and_what_the_teacher_says() -> None:
    model, targets = student(), FakeTargets()
    objective = distillation(model, targets)
    batch = objective.prepare(rows_of(3, 2), seed=[1])
    assert (batch.lengths.tolist(), batch.num_tokens) == ([6, 3], 9)
    for place, row in enumerate((3, 2)):
        length = LENGTHS[row]
        assert batch.ids[place, :length].tolist() == targets.store.row(row).tolist()
        assert (batch.ids[place, length:] == model.tokenizer.pad_id).all()
    assert batch.teacher.word_rows.tolist() == [0, 1]
    moved = batch.to(torch.device("meta"))
    assert moved.ids.is_meta
    assert moved.teacher.words.is_meta


def test_costs_are_tokens_and_settings_hold_config_and_teacher() -> None:
    objective = distillation(student(), word_weight=0.25)
    assert objective.costs.tolist() == list(LENGTHS)
    assert objective.settings["word_weight"] == 0.25
    assert objective.settings["teachers"] == "fake"


@pytest.mark.parametrize("layer", [-3, 2])
def test_a_layer_that_the_model_lacks_is_refused(layer: int) -> None:
    message = rf"usage_layer = {layer}: the model has layers 0 \(embedding\) to 1, or"
    with pytest.raises(InvalidInputError, match=message):
        distillation(student(pooling=PoolingConfig(usage_layer=layer)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": 0.0}, "temperature = 0.0: must be above 0"),
        ({"word_weight": -1.0}, "word_weight = -1.0: must not be negative, 0 is off"),
    ],
)
def test_impossible_settings_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        DistillationConfig(**values)


def test_a_teacher_without_weight_is_refused() -> None:
    off = {"word_weight": 0.0, "residual_weight": 0.0}
    with pytest.raises(InvalidInputError, match="the teacher gives nothing that has a weight"):
        distillation(student(), FakeTargets(sentence_dimension=0), **off)


# Two processes

# Rows of the two processes: the second case leaves one without sentence vectors and without words that repeat.
SHARES = [((0, 2, 4, 6), (1, 3, 5)), ((0, 1, 3, 4, 5, 6), (2,))]


def compute(rows: NDArray[np.int64]) -> tuple[Tensor, dict[str, float]]:
    """Do a step as a trainer does: weigh by count, go backward, add up over processes; return gradients and metrics."""
    model = student()
    objective = distillation(model, **ALL_PARTS)
    loss = objective(model, batch_of(objective, rows))
    share = loss.count / distributed.total(loss.count, torch.device("cpu"))
    (loss.value * share).backward()
    parameters = [*model.encoder.parameters(), *objective.parameters()]
    distributed.add_gradients(parameters)
    metrics = {name: distributed.total(value * share, torch.device("cpu")) for name, value in loss.metrics.items()}
    return torch.cat([parameter.grad.flatten() for parameter in parameters]), metrics


def be_one_of_two(rank: int, rendezvous: str, output: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    try:
        torch.save([compute(rows_of(*shares[rank])) for shares in SHARES], f"{output}.{rank}")
    finally:
        torch.distributed.destroy_process_group()


def test_two_processes_have_the_gradients_and_metrics_of_one(tmp_path: Path) -> None:
    command = [sys.executable, __file__]
    workers = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "meet"), str(tmp_path / "out")]) for rank in range(2)
    ]
    assert [worker.wait(timeout=60) for worker in workers] == [0, 0]
    expected, metrics = compute(EVERY_ROW)
    assert expected.norm() > 0.1
    for rank in range(2):
        results = torch.load(tmp_path / f"out.{rank}")
        assert len(results) == len(SHARES)
        for gradient, figures in results:
            # Sums are taken in another order: float32 agrees to six digits of the largest.
            torch.testing.assert_close(gradient, expected, atol=2e-6 * float(expected.abs().max()), rtol=1e-4)
            assert figures == pytest.approx(metrics, rel=1e-5)


if __name__ == "__main__":
    be_one_of_two(int(sys.argv[1]), *sys.argv[2:])

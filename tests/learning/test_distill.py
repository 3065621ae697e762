"""A tiny student follows a small fixed teacher, in sentences, in words, and in what their context adds."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from ctxembed.config import EncoderConfig, PoolingConfig
from ctxembed.model.checkpoint import Checkpoint
from ctxembed.model.encoder import TransformerEncoder
from ctxembed.text import word_form, word_forms
from ctxembed.training.objectives.distill import Distillation, DistillationConfig
from ctxembed.training.teachers import LiveTargets
from ctxembed.types import Usage, Vectors

if TYPE_CHECKING:
    from ctxembed.tokenizer import SubwordTokenizer

PLACES, THINGS = ("bank", "river", "plant", "train"), ("bass", "spring", "crane", "cars", "band", "farmer")
TEXTS = [
    f"{who} {what} the {thing} near the {place}"
    for who, what, thing, place in itertools.product(("she", "he"), ("read", "caught"), THINGS, PLACES)
]
STEPS, BATCH = 150, 32


def direction(key: str) -> Vectors:
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")
    return np.random.default_rng(seed).standard_normal(12).astype(np.float32)


class Teacher:
    """A sentence is the sum of its words; a word is one vector for its form and another for each form beside it."""

    name, dimension, fingerprint = "teacher", 12, "teacher"

    def encode(self, texts: Sequence[str], *, prompt: str | None = None) -> Vectors:
        vectors = [np.sum([direction(form) for form in word_forms(text)], axis=0) for text in texts]
        return np.array(vectors, dtype=np.float32)

    def encode_usages(self, usages: Sequence[Usage], *, layer: int | None = None) -> Vectors:
        vectors = []
        for usage in usages:
            form = word_form(usage.word)
            context = [direction(f"{form} beside {other}") for other in word_forms(usage.text) if other != form]
            vectors.append(2 * direction(form) + np.sum(context, axis=0))
        return np.array(vectors, dtype=np.float32).reshape(-1, 12)


def student(tokenizer: SubwordTokenizer) -> Checkpoint:
    shape = EncoderConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_layers=2, num_heads=2, intermediate_size=64, dropout=0.0
    )
    torch.manual_seed(5)
    return Checkpoint(name="s", encoder=TransformerEncoder(shape), tokenizer=tokenizer, pooling=PoolingConfig())


def measure(objective: Distillation, model: Checkpoint, rows: np.ndarray) -> dict[str, float]:
    model.encoder.eval()
    with torch.no_grad():
        metrics = objective(model, objective.prepare(rows, seed=[0])).metrics
    model.encoder.train()
    return {name.removeprefix("distill_"): value for name, value in metrics.items()}


def learn(
    tokenizer: SubwordTokenizer, config: DistillationConfig, *, steps: int = STEPS
) -> tuple[dict[str, float], dict[str, float]]:
    """Train on most texts; return what is measured on the others, before and after."""
    targets = LiveTargets(TEXTS, tokenizer=tokenizer, max_length=32, sentence_teacher=Teacher(), word_teacher=Teacher())
    model = student(tokenizer)
    torch.manual_seed(6)
    objective = Distillation(targets, model=model, config=config)
    order = np.random.default_rng(7).permutation(len(TEXTS))
    held_out, rows = order[:16], order[16:]
    before = measure(objective, model, held_out)
    optimiser = torch.optim.AdamW([*model.encoder.parameters(), *objective.parameters()], lr=4e-3)
    generator = np.random.default_rng(8)
    batches = [objective.prepare(generator.choice(rows, BATCH, replace=False), seed=[0]) for _ in range(12)]
    for step in range(steps):
        optimiser.zero_grad()
        objective(model, batches[step % len(batches)]).value.backward()
        optimiser.step()
    return before, measure(objective, model, held_out)


@pytest.fixture(scope="module")
def learned(tiny_tokenizer: SubwordTokenizer) -> tuple[dict[str, float], dict[str, float]]:
    return learn(tiny_tokenizer, DistillationConfig())


def test_a_student_follows_sentences_words_and_what_the_context_adds(
    learned: tuple[dict[str, float], dict[str, float]],
) -> None:
    before, after = learned
    # A cosine on texts never seen, from about 0 at random.
    for part, wanted in (("sentence", 0.9), ("word", 0.85), ("residual", 0.5)):
        assert abs(1 - before[part]) < 0.3, part
        assert 1 - after[part] > wanted, part
    assert after["similarity"] < before["similarity"] / 5


def test_without_residuals_a_student_learns_the_words_but_not_what_the_context_adds(
    tiny_tokenizer: SubwordTokenizer, learned: tuple[dict[str, float], dict[str, float]]
) -> None:
    # So small a weight moves nothing but the map itself, which then shows what the words hold anyway.
    _, without = learn(tiny_tokenizer, DistillationConfig(word_weight=3.0, residual_weight=1e-6))
    assert 1 - without["word"] > 0.85
    assert learned[1]["residual"] < without["residual"] - 0.2


def test_a_student_gives_uses_of_a_form_the_teachers_cosines(tiny_tokenizer: SubwordTokenizer) -> None:
    others = {"sentence_weight": 0.0, "similarity_weight": 0.0, "word_weight": 0.0, "residual_weight": 0.0}
    before, after = learn(tiny_tokenizer, DistillationConfig(relation_weight=1.0, **others))
    assert set(after) == {"distill", "relation"}
    assert after["relation"] < before["relation"] / 4

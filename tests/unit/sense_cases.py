"""A tiny model and rows labelled by sense, made without files."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ctxembed.training.batches import TokenRows
from ctxembed.training.objectives.senses import (
    SenseConfig,
    Senses,
)
from ctxembed.training.sense_rows import SenseCounts, SenseRows

from .tiny_models import checkpoint

if TYPE_CHECKING:
    from ctxembed.tokenizer import SubwordTokenizer

Use = tuple[int, int]
"""A lemma and one of its senses."""


def random_rows(lengths: list[int]) -> TokenRows:
    generator = np.random.default_rng(7)
    return TokenRows.from_lists([generator.integers(5, 60, length).astype(np.int32) for length in lengths])


def sense_rows(
    uses: list[Use],
    *,
    glosses: dict[Use, int] | None = None,
    words: list[int] | None = None,
    rows: list[int] | None = None,
) -> SenseRows:
    """Uses in sentences of 4 to 16 tokens, one each unless ``rows`` says which; glosses by lemma and sense."""
    glosses = glosses or {}
    senses = {sense: number for number, sense in enumerate(dict.fromkeys([*uses, *glosses]))}
    placed = np.array(rows if rows is not None else range(len(uses)), dtype=np.int64)
    starts = 1 + np.arange(len(uses)) % 2
    return SenseRows(
        sentences=random_rows([4 + 5 * number % 13 for number in range(placed.max() + 1)]),
        rows=placed,
        starts=starts,
        ends=starts + 1 + np.arange(len(uses)) % 2,
        lemmas=np.array([lemma for lemma, _ in uses], dtype=np.int64),
        senses=np.array([senses[use] for use in uses], dtype=np.int64),
        sense_lemmas=np.array([lemma for lemma, _ in senses], dtype=np.int64),
        sense_glosses=np.array([glosses.get(sense, -1) for sense in senses], dtype=np.int64),
        lemma_words=np.array(words or range(1 + max(lemma for lemma, _ in senses)), dtype=np.int64),
        glosses=random_rows([3 + 4 * number % 7 for number in range(1 + max(glosses.values(), default=-1))]),
        counts=SenseCounts(),
    )


# Two senses of lemma 0 with partners, a third alone; two pairs of lemma 1; lemma 2 cannot teach.
PLAIN = [(0, 0), (0, 1), (0, 0), (0, 2), (0, 1), (1, 0), (1, 1), (1, 1), (1, 0), (2, 0), (2, 0), (2, 0)]


def unit(vectors: Tensor) -> NDArray[np.float64]:
    array = vectors.detach().double().numpy()
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def contrast_by_hand(
    vectors: NDArray[np.float64], groups: list[int], senses: list[int], temperature: float
) -> tuple[dict[int, float], dict[int, float]]:
    """Loss and accuracy of each anchor, in plain loops."""
    losses, right = {}, {}
    for i in range(len(groups)):
        others = [a for a in range(len(groups)) if a != i and groups[a] == groups[i]]
        partners = [p for p in others if senses[p] == senses[i]]
        if not partners or len(partners) == len(others):
            continue
        total = sum(math.exp(vectors[i] @ vectors[a] / temperature) for a in others)
        losses[i] = -sum(math.log(math.exp(vectors[i] @ vectors[p] / temperature) / total) for p in partners)
        losses[i] /= len(partners)
        best = max(others, key=lambda a: vectors[i] @ vectors[a])
        right[i] = float(best in partners)
    return losses, right


def build(tokenizer: SubwordTokenizer, rows: SenseRows, *, config: SenseConfig | None = None, **pooling: Any) -> Senses:
    return Senses(rows, model=checkpoint(tokenizer, **pooling), config=config)

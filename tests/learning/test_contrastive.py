"""Pairs and texts teach a tiny model to tell texts apart, also those it has not seen."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ctxembed.config import EncoderConfig, PoolingConfig
from ctxembed.model.checkpoint import Checkpoint
from ctxembed.model.encoder import TransformerEncoder
from ctxembed.training.batches import TokenRows
from ctxembed.training.objectives.base import Objective, encode_sentences, pad_rows
from ctxembed.training.objectives.contrastive import Contrastive, ContrastiveConfig, SimCSE, SimCSEConfig, TextBatch
from ctxembed.training.pairs import PairCounts, PairRows

if TYPE_CHECKING:
    from ctxembed.tokenizer import SubwordTokenizer

WORDS = 24
HELD_OUT = 48
Rows = list[NDArray[np.int32]]


def tiny(tokenizer: SubwordTokenizer, *, dropout: float) -> Checkpoint:
    shape = EncoderConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_layers=1,
        num_heads=2,
        intermediate_size=64,
        max_length=16,
        dropout=dropout,
    )
    torch.manual_seed(5)
    return Checkpoint(name="tiny", encoder=TransformerEncoder(shape), tokenizer=tokenizer, pooling=PoolingConfig())


def random_texts(tokenizer: SubwordTokenizer, *, count: int, words: int) -> Rows:
    """Different sets of words, in any order, between special tokens."""
    generator = np.random.default_rng(2)
    chosen: dict[tuple[int, ...], Rows] = {}
    while len(chosen) < count:
        ids = 10 + generator.choice(WORDS, words, replace=False)
        chosen.setdefault(tuple(sorted(ids)), [np.array([tokenizer.cls_id, *ids, tokenizer.sep_id], dtype=np.int32)])
    return [rows[0] for rows in chosen.values()]


def translated(rows: Rows) -> Rows:
    """The same texts in another language: every word has one translation, and the order is turned round."""
    return [np.concatenate((row[:1], row[-2:0:-1] + WORDS, row[-1:])) for row in rows]


def pairs_of(anchors: Rows, positives: Rows) -> PairRows:
    return PairRows(
        anchors=TokenRows.from_lists(anchors),
        positives=TokenRows.from_lists(positives),
        negatives=TokenRows.from_lists([]),
        negative_starts=np.zeros(len(anchors) + 1, dtype=np.int64),
        counts=PairCounts(pairs=len(anchors)),
    )


def train(
    model: Checkpoint, objective: Objective[Any], *, items: int, steps: int, batch: int, rate: float = 5e-3
) -> None:
    optimiser = torch.optim.AdamW(model.encoder.parameters(), lr=rate)
    generator = np.random.default_rng(4)
    model.encoder.train()
    for step in range(steps):
        chosen = generator.choice(items, batch, replace=False)
        loss = objective(model, objective.prepare(chosen, seed=[1, step]))
        optimiser.zero_grad()
        loss.value.backward()
        optimiser.step()
    model.encoder.eval()


def vectors(model: Checkpoint, texts: TextBatch, *, width: int = 32) -> Tensor:
    with torch.no_grad():
        return functional.normalize(encode_sentences(model, texts.ids, texts.lengths)[:, :width])


def measured(model: Checkpoint, objective: Objective[Any], items: NDArray[np.int64]) -> dict[str, float]:
    with torch.no_grad():
        return dict(objective(model, objective.prepare(items, seed=[9])).metrics)


def test_pairs_teach_to_match_texts_that_were_not_seen(tiny_tokenizer: SubwordTokenizer) -> None:
    anchors = random_texts(tiny_tokenizer, count=400, words=3)
    contrastive = Contrastive(pairs_of(anchors, translated(anchors)), pad_id=tiny_tokenizer.pad_id)
    model = tiny(tiny_tokenizer, dropout=0.0)
    unseen = np.arange(400 - HELD_OUT, 400)
    before = measured(model, contrastive, unseen)
    train(model, contrastive, items=400 - HELD_OUT, steps=150, batch=48)
    after = measured(model, contrastive, unseen)
    assert before["contrastive_accuracy"] < 0.15  # chance is 1 in 48
    assert after["contrastive_accuracy"] > 0.9
    assert after["contrastive"] < 0.2 * before["contrastive"]


def test_hard_negatives_teach_what_other_pairs_do_not(tiny_tokenizer: SubwordTokenizer) -> None:
    # A text and its translation say yes or no beside their words; a hard negative has the words and says the other.
    texts = random_texts(tiny_tokenizer, count=400, words=4)
    anchors = [np.insert(row, 1, 6 + number % 2).astype(np.int32) for number, row in enumerate(texts)]
    positives, negatives = (
        [np.insert(row, 1, 8 + (number + wrong) % 2).astype(np.int32) for number, row in enumerate(translated(texts))]
        for wrong in (0, 1)
    )
    pairs = replace(
        pairs_of(anchors, positives), negatives=TokenRows.from_lists(negatives), negative_starts=np.arange(401)
    )
    unseen = np.arange(400 - HELD_OUT, 400)
    gaps = []
    for number in (0, 1):
        contrastive = Contrastive(
            pairs, pad_id=tiny_tokenizer.pad_id, config=ContrastiveConfig(num_negatives=number, temperature=0.1)
        )
        model = tiny(tiny_tokenizer, dropout=0.0)
        train(model, contrastive, items=400 - HELD_OUT, steps=100, batch=24)
        sides = Contrastive(pairs, pad_id=tiny_tokenizer.pad_id).prepare(unseen, seed=[1])
        anchor, positive, negative = (
            vectors(model, side) for side in (sides.anchors, sides.positives, sides.negatives)
        )
        gaps.append((anchor * (positive - negative)).sum(dim=1).mean().item())
    assert gaps[1] > 2 * gaps[0] > 0


def test_narrow_vectors_serve_alone_when_they_were_trained_to(tiny_tokenizer: SubwordTokenizer) -> None:
    anchors = random_texts(tiny_tokenizer, count=400, words=3)
    pairs = pairs_of(anchors, translated(anchors))
    unseen = np.arange(400 - HELD_OUT, 400)
    accuracies = []
    for widths in ((), (3,)):
        contrastive = Contrastive(pairs, pad_id=tiny_tokenizer.pad_id, config=ContrastiveConfig(matryoshka=widths))
        model = tiny(tiny_tokenizer, dropout=0.0)
        train(model, contrastive, items=400 - HELD_OUT, steps=150, batch=48)
        sides = contrastive.prepare(unseen, seed=[1])
        one, two = (vectors(model, side, width=3) for side in (sides.anchors, sides.positives))
        accuracies.append(((one @ two.T).argmax(dim=1) == torch.arange(HELD_OUT)).float().mean().item())
    assert accuracies[1] > 0.5  # chance is 1 in 48
    assert accuracies[1] > accuracies[0] + 0.1


def uniformity(model: Checkpoint, rows: Rows, pad_id: int) -> float:
    """Wang and Isola 2020, equation 2: the logarithm of the mean of exp(-2 squared distance); lower is more even."""
    ids, lengths = pad_rows(rows, pad_id=pad_id)
    found = vectors(model, TextBatch(ids, lengths, keys=lengths))
    return torch.pdist(found).square().mul(-2).exp().mean().log().item()


def test_two_views_teach_to_spread_texts_and_to_know_them_again(tiny_tokenizer: SubwordTokenizer) -> None:
    rows = random_texts(tiny_tokenizer, count=300, words=4)
    views = SimCSE(TokenRows.from_lists(rows), pad_id=tiny_tokenizer.pad_id, config=SimCSEConfig(dropout=0.3))
    model = tiny(tiny_tokenizer, dropout=0.0)
    found = []
    for steps in (0, 100):
        train(model, views, items=300 - HELD_OUT, steps=steps, batch=48)
        model.encoder.train()
        torch.manual_seed(3)
        accuracy = measured(model, views, np.arange(300 - HELD_OUT, 300))["simcse_accuracy"]
        model.encoder.eval()
        found.append((accuracy, uniformity(model, rows[-HELD_OUT:], tiny_tokenizer.pad_id)))
    (accuracy, spread), (accuracy_after, spread_after) = found
    assert accuracy < 0.5
    assert accuracy_after > 0.8
    assert spread_after < spread - 1

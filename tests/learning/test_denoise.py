"""Denoising on a handful of sentences: their single vectors come to hold all of their words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from ctxembed.config import DecoderConfig, EncoderConfig, PoolingConfig
from ctxembed.model.checkpoint import Checkpoint
from ctxembed.model.decoder import TransformerDecoder
from ctxembed.model.encoder import TransformerEncoder
from ctxembed.reconstruction import Reconstructor, token_overlap
from ctxembed.training.batches import chunk_texts
from ctxembed.training.objectives.denoise import DenoiseConfig, Denoising

if TYPE_CHECKING:
    from ctxembed.tokenizer import SubwordTokenizer

TEXTS = [
    "the bank lent money to the old farmer.",
    "she sat on the bank of the river and read.",
    "a plant grew in the window of the bank.",
    "he plays the bass in a small band.",
    "they caught a bass in the cold river.",
    "the crane lifted the cars on the train.",
]
STEPS = 120
Trained = tuple[Checkpoint, list[dict[str, float]]]


@pytest.fixture(scope="module")
def trained(tiny_tokenizer: SubwordTokenizer) -> Trained:
    """A tiny model that saw the texts, with words deleted, so many times, and its metrics."""
    torch.manual_seed(1)
    shape = EncoderConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=32,
        num_layers=1,
        num_heads=2,
        intermediate_size=64,
        max_length=24,
        norm="pre",
        dropout=0.0,
    )
    model = Checkpoint(
        name="tiny",
        encoder=TransformerEncoder(shape),
        decoder=TransformerDecoder(shape, DecoderConfig(num_layers=1)),
        tokenizer=tiny_tokenizer,
        pooling=PoolingConfig(),
    )
    assert model.decoder is not None
    rows = chunk_texts(TEXTS, tiny_tokenizer, max_length=24)
    objective = Denoising(rows, tiny_tokenizer, config=DenoiseConfig(delete_fraction=0.4))
    optimiser = torch.optim.AdamW([*model.encoder.parameters(), *model.decoder.parameters()], lr=1e-2)
    metrics = []
    for step in range(STEPS):
        loss = objective(model, objective.prepare(np.arange(len(TEXTS)), seed=[1, step]))
        optimiser.zero_grad()
        loss.value.backward()
        optimiser.step()
        metrics.append(dict(loss.metrics))
    return model, metrics


def test_loss_falls_and_accuracy_rises_far_beyond_chance(trained: Trained, tiny_tokenizer: SubwordTokenizer) -> None:
    _, metrics = trained
    last = {name: np.mean([line[name] for line in metrics[-10:]]) for name in metrics[0]}
    assert metrics[0]["denoise"] == pytest.approx(np.log(len(tiny_tokenizer)), rel=0.1)
    assert metrics[0]["denoise_accuracy"] < 0.2
    assert last["denoise"] < 0.3
    assert last["denoise_accuracy"] > 0.9


def test_sentences_come_back_from_their_single_vectors(trained: Trained) -> None:
    reconstructor = Reconstructor(trained[0])
    rebuilt = [candidates[0].text for candidates in reconstructor.reconstruct(TEXTS)]
    tokens = (reconstructor.embedder.tokenizer.encode_ids(side) for side in (TEXTS, rebuilt))
    overlaps = [token_overlap(one.tolist(), other.tolist()) for one, other in zip(*tokens, strict=True)]
    assert sum(text == again for text, again in zip(TEXTS, rebuilt, strict=True)) >= len(TEXTS) - 1
    assert min(overlaps) > 0.8


def test_beam_search_finds_sentences_at_least_as_probable_as_the_greedy_ones(
    trained: Trained,
) -> None:
    reconstructor = Reconstructor(trained[0])
    known = reconstructor.embedder.encode(TEXTS)
    nowhere = np.random.default_rng(1).standard_normal((40, 32)).astype(np.float32)  # where nothing is certain
    greedy, beam = (reconstructor.reconstruct_vectors(np.vstack([known, nowhere]), beam=width) for width in (1, 5))
    first = np.array([candidates[0].log_probability for candidates in greedy])
    best = np.array([max(one.log_probability for one in candidates) for candidates in beam])
    assert (best >= first - 1e-4).all()
    assert (best > first + 1e-2).any()
    assert {len(candidates) for candidates in greedy} == {1}
    assert max(len(candidates) for candidates in beam) == 5


def test_near_a_sentence_the_way_to_another_still_gives_it(trained: Trained) -> None:
    reconstructor = Reconstructor(trained[0])
    one, other = reconstructor.embedder.encode(TEXTS[:2])
    way = np.stack([one + share * (other - one) for share in (0.0, 0.1, 0.9, 1.0)])
    rebuilt = [candidates[0].text for candidates in reconstructor.reconstruct_vectors(way)]
    assert rebuilt == [TEXTS[0], TEXTS[0], TEXTS[1], TEXTS[1]]

"""One step of the decoder: it is the step that ``reconstruct`` takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ctxembed.config import DecoderConfig
from ctxembed.errors import InvalidInputError
from ctxembed.inspection.decoding import decoder_step
from ctxembed.model.checkpoint import Checkpoint, load_checkpoint
from ctxembed.model.decoder import TransformerDecoder
from ctxembed.reconstruction import Reconstructor

TEXT = "The bank lent money."


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Checkpoint:
    """The tiny model with a decoder of random weights, which writes for a while before it ends."""
    checkpoint = load_checkpoint(tiny_model)
    torch.manual_seed(5)
    decoder = TransformerDecoder(checkpoint.encoder.config, DecoderConfig(num_layers=2))
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.15)
        decoder.bias[checkpoint.tokenizer.sep_id] = -20
    return replace(checkpoint, decoder=decoder)


def test_written_tokens_are_those_of_reconstruct(model: Checkpoint) -> None:
    step = decoder_step(model, TEXT, step=6)
    ((best, *_),) = Reconstructor(model, dtype="float32").reconstruct([TEXT], max_length=8)
    written = [model.tokenizer.vocabulary()[token] for token in step.tokens[1:]]
    assert len(written) == 5
    assert best.text.startswith(model.tokenizer.decode(written))


def test_nothing_later_is_looked_at_and_rows_sum_to_one(model: Checkpoint) -> None:
    step = decoder_step(model, TEXT, step=5)
    assert len(step.layers) == 2
    for layer in step.layers:
        back, across = layer.look_back, layer.look_across
        assert back.weights.shape == (2, 5, 5)
        assert (back.weights[:, ~np.tri(5, dtype=bool)] == 0).all()
        assert np.isneginf(back.scaled[:, ~np.tri(5, dtype=bool)]).all()
        np.testing.assert_allclose(back.weights.sum(axis=-1), 1, atol=1e-6)
        assert across.weights.shape == (2, 5, 1)
        np.testing.assert_array_equal(across.weights, 1)
        assert min(layer.sizes) > 0


def test_weights_equal_those_that_the_decoder_gives(model: Checkpoint) -> None:
    from ctxembed.model.decoder import sentence_memory

    step = decoder_step(model, TEXT, step=5)
    ids = torch.tensor([[model.tokenizer.vocabulary()[token] for token in step.tokens]])
    vector = torch.from_numpy(Reconstructor(model, dtype="float32").embedder.encode([TEXT]))
    assert model.decoder is not None
    with torch.no_grad():
        output = model.decoder(ids, sentence_memory(vector), embedding=model.encoder.embedding, need_weights=True)
        logits = model.decoder.logits(output.hidden[0, -1], model.encoder.embedding.tokens.weight)
    for layer, weights in zip(step.layers, output.self_attentions, strict=True):
        np.testing.assert_allclose(layer.look_back.weights, weights[0].numpy(), atol=1e-5)
    assert step.likeliest[0][0] == model.tokenizer.token(int(logits.argmax()))
    chances = [chance for _, chance in step.likeliest]
    assert chances == sorted(chances, reverse=True)
    assert 0 < sum(chances) <= 1


def test_an_early_end_stops_before_the_step(model: Checkpoint) -> None:
    assert model.decoder is not None
    ending = replace(model, decoder=TransformerDecoder(model.encoder.config, DecoderConfig(num_layers=1)))
    assert ending.decoder is not None
    with torch.no_grad():
        ending.decoder.bias[model.tokenizer.sep_id] = 50
    step = decoder_step(ending, TEXT, step=9)
    assert len(step.tokens) == 1
    assert step.likeliest[0] == ("[SEP]", pytest.approx(1))


@pytest.mark.parametrize(
    ("text", "step", "message"),
    [("", 1, "'' has 0 tokens"), ("the bank", 0, "step = 0: must be from 1 to 30"), ("bank " * 31, 1, "has 31 tokens")],
)
def test_what_cannot_be_shown_is_refused(model: Checkpoint, text: str, step: int, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        decoder_step(model, text, step=step)


def test_model_without_decoder_is_refused(tiny_model: Path) -> None:
    with pytest.raises(InvalidInputError, match="tiny has no decoder: `ctxembed train denoise`"):
        decoder_step(load_checkpoint(tiny_model), TEXT)

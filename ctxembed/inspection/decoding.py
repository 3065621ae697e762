"""One step of the denoising decoder: what it has written, where it looks, and what it would write next.

Letters: T tokens written so far, H heads, D hidden width, L decoder layers.
Source: Vaswani et al. 2017, section 3.1; the memory of one vector as in TSDAE (Wang et al. 2021).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch

from ctxembed.config import check
from ctxembed.errors import InvalidInputError
from ctxembed.inspection.recording import Array, AttentionSteps, Record, array, attention_steps, recording
from ctxembed.model.attention import causal_mask, rotary_angles
from ctxembed.model.checkpoint import Checkpoint
from ctxembed.model.decoder import DecoderLayer, TransformerDecoder, sentence_memory
from ctxembed.model.pooling import pool_sentences
from ctxembed.reconstruction import next_token_logits

LIKELIEST = 5


@dataclass(frozen=True, slots=True)
class DecoderLayerSteps:
    """One decoder layer, at every place written so far."""

    look_back: AttentionSteps
    """Masked self-attention: scores of what comes later are -inf, their weights zero."""
    look_across: AttentionSteps
    """Encoder-decoder attention; with a memory of one vector all weights are one."""
    sizes: tuple[float, float, float]
    """How long the vectors are that the three parts add at the last place: look back, look across, feed-forward."""


@dataclass(frozen=True, slots=True)
class DecoderStep:
    """The decoder of a model about to write one more token."""

    text: str
    """The sentence that was encoded to one vector."""
    tokens: tuple[str, ...]
    """T, written so far; the first is the start."""
    layers: tuple[DecoderLayerSteps, ...]
    likeliest: tuple[tuple[str, float], ...]
    """The most probable next tokens, with their probabilities."""


def decoder_step(model: Checkpoint, text: str, *, step: int = 4) -> DecoderStep:
    """Encode a sentence to one vector, let the decoder write, and stop before one of its tokens.

    Args:
        model: With a decoder, as `ctxembed train denoise` makes it; run in float32 on the CPU.
        text: The sentence.
        step: Which token it is about to write, from 1; the last one if it ends earlier.

    Raises:
        InvalidInputError: If the model has no decoder, the text no token or too many, or there is no such step.
    """
    decoder, tokenizer = model.decoder, model.tokenizer
    if decoder is None:
        raise InvalidInputError(f"the model {model.name} has no decoder: `ctxembed train denoise` makes one that has")
    ids, most = tokenizer.encode_ids([text])[0].tolist(), model.encoder.config.max_length - 2
    check(0 < len(ids) <= most, f"{text!r} has {len(ids)} tokens, need 1 to {most}: give one sentence")
    check(1 <= step <= most, f"step = {step}: must be from 1 to {most}, what the model can write")
    row = torch.tensor([[tokenizer.cls_id, *ids, tokenizer.sep_id]])
    written = [tokenizer.cls_id]
    with torch.no_grad():
        vector = pool_sentences(model.encoder.eval()(row).last, None, how=model.pooling.sentence)  # (1, D)
        memory = sentence_memory(vector)  # (1, 1, D)
        while True:
            with recording(decoder.eval()) as record:
                logits = next_token_logits(
                    decoder,
                    torch.tensor([written]),
                    memory,
                    embedding=model.encoder.embedding,
                    tokenizer=tokenizer,
                    need_weights=True,
                )[0]  # (V,)
            following = int(logits.argmax())
            if len(written) == step or following == tokenizer.sep_id:
                break
            written.append(following)
        layers = _layers(record, decoder, len(written))
    best = logits.softmax(dim=-1).topk(min(LIKELIEST, len(tokenizer)))
    return DecoderStep(
        text=text,
        tokens=tuple(map(tokenizer.token, written)),
        layers=layers,
        likeliest=tuple((tokenizer.token(int(number)), float(chance)) for chance, number in zip(*best, strict=True)),
    )


def size_rows(step: DecoderStep) -> list[dict[str, int | float]]:
    """Return a row for each layer with the length of what its parts add."""
    names = ("masked self-attention", "encoder-decoder attention", "feed-forward")
    return [
        {"layer": number} | {name: round(size, 6) for name, size in zip(names, layer.sizes, strict=True)}
        for number, layer in enumerate(step.layers, start=1)
    ]


def _layers(record: Record, decoder: TransformerDecoder, length: int) -> tuple[DecoderLayerSteps, ...]:
    mask, angles = causal_mask(length), None
    if decoder.shape.positions == "rotary":
        angles = rotary_angles(length, decoder.shape.hidden_size // decoder.shape.num_heads)
    steps = []
    for number, layer in enumerate(decoder.layers):
        name, layer = f"layers.{number}", cast(DecoderLayer, layer)
        added: list[Array] = [
            array(record.made[f"{name}.{part}"])[-1] for part in ("self_attention", "memory_attention", "feed_forward")
        ]
        back, across, fed = (float(np.linalg.norm(each)) for each in added)
        steps.append(
            DecoderLayerSteps(
                attention_steps(record, f"{name}.self_attention", layer.self_attention, angles=angles, mask=mask),
                attention_steps(record, f"{name}.memory_attention", layer.memory_attention),
                (back, across, fed),
            )
        )
    return tuple(steps)

"""One sentence on its way through a model: every layer's steps, and the words that its tokens make up.

Letters: T tokens, D hidden width, I inner width of the feed-forward part, L layers, U units (words, marks, specials).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch

from ctxembed.config import check
from ctxembed.errors import InvalidInputError
from ctxembed.inspection.recording import Array, AttentionSteps, Record, array, attention_steps, recording
from ctxembed.model.attention import rotary_angles
from ctxembed.model.checkpoint import Checkpoint
from ctxembed.model.encoder import EncoderLayer
from ctxembed.text import word_spans
from ctxembed.tokenizer import Offsets, token_ranges


@dataclass(frozen=True, slots=True)
class Unit:
    """A word, a punctuation mark or a special token, with the tokens that make it up."""

    text: str
    first: int
    """Its first token."""
    end: int
    """One past its last token."""
    kind: Literal["word", "mark", "special"]
    start: int = 0
    """First character in the text; special tokens have none."""


@dataclass(frozen=True, slots=True)
class EmbeddingSteps:
    """From token ids to the vectors that enter the first layer."""

    token: Array
    """(T, D): rows of the table."""
    position: Array | None
    """(T, D): what is added for the place; None where positions are rotary and turn Q and K instead."""
    output: Array
    """(T, D): their sum after layer normalisation."""


@dataclass(frozen=True, slots=True)
class LayerSteps:
    """One encoder layer: output = (given + attention) + feed-forward, normalised before each part or after each sum."""

    given: Array
    """(T, D)."""
    asked: Array
    """(T, D): what attention reads; given, normalised first in a pre-norm model."""
    attention: AttentionSteps
    residual: Array
    """(T, D): given + attention."""
    fed: Array
    """(T, D): what the feed-forward part reads; the residual sum, normalised."""
    inner: Array
    """(T, I): after the first map and the non-linearity."""
    feed_forward: Array
    """(T, D): after the second map."""
    output: Array
    """(T, D)."""


@dataclass(frozen=True, slots=True)
class Trace:
    """One sentence in one model."""

    model: str
    text: str
    tokens: tuple[str, ...]
    """T, special ones included."""
    units: tuple[Unit, ...]
    embedding: EmbeddingSteps
    layers: tuple[LayerSteps, ...]
    hidden_states: tuple[Array, ...]
    """L + 1 times (T, D), as the encoder gives them: the last after the final normalisation."""
    norm_first: bool
    """Whether the model normalises before each part (pre-norm) or after each sum."""

    @property
    def num_heads(self) -> int:
        """Heads H of every layer."""
        return len(self.layers[0].attention.weights)

    def unit_of(self, start: int) -> int:
        """Return the number of the unit that holds a character.

        Raises:
            InvalidInputError: If no token stands there.
        """
        for number, unit in enumerate(self.units):
            if unit.kind != "special" and unit.start <= start < unit.start + len(unit.text):
                return number
        raise InvalidInputError(f"no token of {self.model} stands at character {start} of {self.text!r}")


def trace_sentence(model: Checkpoint, text: str) -> Trace:
    """Run a model on one sentence, in float32 on the CPU, and keep every step.

    Raises:
        InvalidInputError: If the text has no token, or more than one window holds.
    """
    encoded = model.tokenizer.encode_batch([text])
    ids, offsets = encoded.ids[0], encoded.offsets[0]
    most = model.encoder.config.max_length - 2
    check(len(ids) > 0, f"{text!r} has no token that {model.name} could read: give a sentence")
    check(len(ids) <= most, f"the sentence has {len(ids)} tokens, {model.name} sees {most} at once: give a shorter one")
    config = model.encoder.config
    specials = (model.tokenizer.cls_id, model.tokenizer.sep_id)
    row = torch.tensor([[specials[0], *ids.tolist(), specials[1]]])  # (1, T)
    model.encoder.eval()
    with torch.no_grad(), recording(model.encoder) as record:
        output = model.encoder(row, need_weights=True)
        angles = None
        if config.positions == "rotary":
            angles = rotary_angles(row.size(1), config.hidden_size // config.num_heads)
        layers = tuple(
            _layer_steps(record, f"layers.{number}", cast(EncoderLayer, layer), angles)
            for number, layer in enumerate(model.encoder.layers)
        )
    tokens = tuple(model.tokenizer.token(int(each)) for each in row[0])
    return Trace(
        model=model.name,
        text=text,
        tokens=tokens,
        units=_units(text, tokens, offsets),
        embedding=_embedding_steps(record, model, row.size(1)),
        layers=layers,
        hidden_states=tuple(map(array, output.hidden_states)),
        norm_first=config.norm == "pre",
    )


def _embedding_steps(record: Record, model: Checkpoint, length: int) -> EmbeddingSteps:
    embedding, token = model.encoder.embedding, array(record.made["embedding.tokens"])
    position = None
    if embedding.positions is not None:
        position = embedding.positions.weight[:length].detach().numpy()
    elif embedding.sinusoids is not None:
        position, token = embedding.sinusoids[:length].numpy(), token * token.shape[-1] ** 0.5
    return EmbeddingSteps(token, position, array(record.made["embedding"]))


def _layer_steps(
    record: Record, name: str, layer: EncoderLayer, angles: tuple[torch.Tensor, torch.Tensor] | None
) -> LayerSteps:
    residual = "feed_forward_norm" if layer.norm_first else "attention_norm"
    parts = [
        record.given[name],
        record.given[f"{name}.attention"],
        record.given[f"{name}.{residual}"],
        record.given[f"{name}.feed_forward"],
        record.given[f"{name}.feed_forward.outer"],
        record.made[f"{name}.feed_forward"],
        record.made[name],
    ]
    given, asked, *after = map(array, parts)
    return LayerSteps(
        given, asked, attention_steps(record, f"{name}.attention", layer.attention, angles=angles), *after
    )


def _units(text: str, tokens: Sequence[str], offsets: Offsets) -> tuple[Unit, ...]:
    """Group tokens into words; every token belongs to exactly one unit, in reading order."""
    spans = word_spans(text)
    first, end = token_ranges(offsets, [span.start for span in spans], [span.end for span in spans])
    units, done = [Unit(tokens[0], 0, 1, "special")], 0
    for span, start, stop in zip(spans, first.tolist(), end.tolist(), strict=True):
        units += [_mark(text, offsets, place) for place in range(done, start)]
        start = max(start, done)  # a token that two words share belongs to the first
        if start < stop:
            units.append(Unit(span.text, start + 1, stop + 1, "word", span.start))
        done = max(done, stop)
    units += [_mark(text, offsets, place) for place in range(done, len(offsets))]
    return (*units, Unit(tokens[-1], len(tokens) - 1, len(tokens), "special"))


def _mark(text: str, offsets: Offsets, place: int) -> Unit:
    start, end = offsets[place].tolist()
    return Unit(text[start:end], place + 1, place + 2, "mark", start)

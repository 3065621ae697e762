"""Where order comes from: sinusoids, a learned table or rotation, and what is left of a sentence without any of them.

Letters: T tokens, D hidden width, K head width.
Source: Vaswani et al. 2017, section 3.5 (sinusoids); Gehring et al. 2017 (learned); Su et al. 2021 (rotary).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ctxembed.config import Positions
from ctxembed.inspection.heads import cosines
from ctxembed.inspection.recording import Array, array
from ctxembed.inspection.trace import Trace, trace_sentence
from ctxembed.model.attention import attention_scores, rotary_angles, rotate
from ctxembed.model.checkpoint import Checkpoint
from ctxembed.model.embeddings import sinusoidal_positions
from ctxembed.model.encoder import TransformerEncoder

DISTANCES = 32


@dataclass(frozen=True, slots=True)
class PositionTables:
    """What each kind of position gives the first T places, in the model's widths."""

    sinusoidal: Array
    """(T, D): added to the token vectors."""
    learned: Array | None
    """(T, D): added to the token vectors; None for a model that has no such table."""
    rotary: Array
    """(T, K / 2): the angle in radians by which each pair of columns of Q and K is turned."""
    by_distance: dict[str, Array]
    """How alike two places are at each distance from 0, cosine, for each kind."""


@dataclass(frozen=True, slots=True)
class Shuffled:
    """A sentence and the same tokens in another order, in the model as it is and without its positions."""

    tokens: tuple[str, ...]
    order: tuple[int, ...]
    """Which token of the sentence stands at each place of the shuffled one."""
    with_positions: Array
    """(T,): cosine of each token's last vector in the one order and in the other."""
    without_positions: Array
    """(T,): the same with positions switched off: all one, the order is lost."""
    largest_difference: float
    """The largest difference of any number of those vectors, without positions."""


@dataclass(frozen=True, slots=True)
class PositionReport:
    """All that is shown about positions."""

    model: str
    kind: Positions
    """That of the model."""
    tables: PositionTables
    shuffled: Shuffled


def position_report(model: Checkpoint, text: str, *, seed: int = 1) -> PositionReport:
    """Return the tables of positions and the experiment without them, for one sentence.

    Raises:
        InvalidInputError: If the sentence has no token, or more than one window holds.
    """
    trace = trace_sentence(model, text)
    config = model.encoder.config
    tables = position_tables(model.encoder, len(trace.tokens))
    return PositionReport(model.name, config.positions, tables, shuffle_experiment(model, trace, seed=seed))


def position_tables(encoder: TransformerEncoder, length: int) -> PositionTables:
    """Return what each kind of position gives the first places, by the functions that serve."""
    config = encoder.config
    width, most = config.hidden_size // config.num_heads, min(DISTANCES, config.max_length)
    width += width % 2
    sinusoids = sinusoidal_positions(max(length, most), config.hidden_size).numpy()
    cosine, sine = rotary_angles(length, width)
    angles: Array = np.unwrap(torch.atan2(sine, cosine).numpy(), axis=0)
    far = rotary_angles(most, width)
    turned = rotate(torch.ones(1, most, width), far)  # (1, T, K)
    rotary = array(attention_scores(turned[:, :1], turned))[0] / width
    by_distance = {"sinusoidal": _alike(sinusoids[:most]), "rotary": rotary}
    learned = None
    if encoder.embedding.positions is not None:
        table: Array = encoder.embedding.positions.weight.detach().float().numpy()
        learned, by_distance["learned"] = table[:length], _alike(table[:most])
    return PositionTables(sinusoids[:length], learned, angles, by_distance)


def _alike(table: Array) -> Array:
    """Return the mean cosine of places at each distance, (T, D) to (T,)."""
    count = len(table)
    means = [cosines(table[: count - distance], table[distance:]).mean() for distance in range(count)]
    result: Array = np.array(means)
    return result


def shuffle_experiment(model: Checkpoint, trace: Trace, *, seed: int) -> Shuffled:
    """Encode the tokens of a sentence in two orders, with and without positions, in float64."""
    generator = np.random.default_rng(seed)
    inner = generator.permutation(np.arange(1, len(trace.tokens) - 1))
    while len(inner) > 1 and (np.diff(inner) == 1).all():  # the same order once more
        inner = generator.permutation(inner)
    order = [0, *inner.tolist(), len(trace.tokens) - 1]
    ids = model.tokenizer.encode_ids([trace.text])[0].tolist()
    row = torch.tensor([[model.tokenizer.cls_id, *ids, model.tokenizer.sep_id]])
    usual = copy.deepcopy(model.encoder).double().eval()
    pairs = [_both_orders(encoder, row, order) for encoder in (usual, without_positions(usual))]
    with_positions, without = (cosines(*pair) for pair in pairs)
    return Shuffled(
        tokens=trace.tokens,
        order=tuple(order),
        with_positions=with_positions,
        without_positions=without,
        largest_difference=float(np.abs(pairs[1][0] - pairs[1][1]).max()),
    )


def without_positions(encoder: TransformerEncoder) -> TransformerEncoder:
    """Return a copy of an encoder that adds no position and turns nothing: all else is as it was."""
    blind = copy.deepcopy(encoder)
    blind.config = replace(blind.config, positions="learned")  # no rotation
    blind.embedding.positions = None
    blind.embedding.sinusoids = None
    return blind


def _both_orders(encoder: TransformerEncoder, row: torch.Tensor, order: Sequence[int]) -> tuple[Array, Array]:
    """Return the last vectors (T, D) of a row's tokens, read in its order and in another."""
    with torch.no_grad():
        straight, shuffled = array(encoder(row).last), array(encoder(row[:, list(order)]).last)
    back: Array = np.empty_like(shuffled)
    back[list(order)] = shuffled
    return straight, back

"""Contrastive learning: vectors of texts that belong together draw near, those of all other texts move away.

Letters: B pairs of this process's batch, M pairs and K hard negatives of all processes, C = M + K candidates,
T tokens, D width, N items in all.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ctxembed.config import check, to_mapping
from ctxembed.model.attention import MultiHeadAttention
from ctxembed.model.checkpoint import Checkpoint
from ctxembed.model.encoder import TransformerEncoder
from ctxembed.training.batches import TokenRows, pad_rows
from ctxembed.training.distributed import gather_rows
from ctxembed.training.objectives.base import Loss, Objective, encode_sentences, item_generator
from ctxembed.training.pairs import PairRows


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig:
    """How pairs are told from texts that do not belong together."""

    temperature: float = 0.05
    """Similarities are divided by it: the lower, the more the nearest wrong text counts."""
    symmetric: bool = True
    """Also find each positive's anchor among all anchors, with half the weight each."""
    num_negatives: int = 4
    """Most hard negatives of a pair in a batch; of more, others are drawn each time. Every anchor is set against
    those of all pairs. 0 leaves them out."""
    matryoshka: tuple[int, ...] = ()
    """Widths at which the first values of a vector must serve alone, beside its whole width, all with equal weight
    (Kusupati et al. 2022)."""
    piece_tokens: int | None = None
    """Tokens, padding included, whose activations are kept at once: a batch larger than memory, for one more forward
    pass (GradCache, Luyu Gao et al. 2021). None keeps all."""

    def __post_init__(self) -> None:
        _check_common(self.temperature, self.piece_tokens)
        check(self.num_negatives >= 0, f"num_negatives = {self.num_negatives}: must be at least 0")
        check(
            min(self.matryoshka, default=1) >= 1 and len(set(self.matryoshka)) == len(self.matryoshka),
            f"matryoshka = {self.matryoshka}: must be different widths of at least 1",
        )


@dataclass(frozen=True, kw_only=True)
class SimCSEConfig:
    """How two views of a text are told from views of other texts."""

    temperature: float = 0.05
    """Similarities are divided by it."""
    dropout: float | None = None
    """Probability that a unit is dropped, which alone makes the two views differ; None takes the model's own."""
    piece_tokens: int | None = None
    """Tokens, padding included, whose activations are kept at once; None keeps all."""

    def __post_init__(self) -> None:
        _check_common(self.temperature, self.piece_tokens)
        check(
            self.dropout is None or 0 < self.dropout < 1,
            f"dropout = {self.dropout}: must be between 0 and 1, or leave it out to take the model's",
        )


def _check_common(temperature: float, piece_tokens: int | None) -> None:
    check(0 < temperature < math.inf, f"temperature = {temperature}: must be above 0")
    check(piece_tokens is None or piece_tokens >= 1, f"piece_tokens = {piece_tokens}: must be at least 1, or left out")


# The loss


def info_nce(
    anchors: Tensor, candidates: Tensor, own: Tensor, *, temperature: float, same: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute how well each anchor picks its own candidate out of all: InfoNCE.

    Equation 4 of van den Oord et al. 2018, and equation 2 of Karpukhin et al. 2020 with the cosine as similarity:
    -log(exp(s_own / temperature) / sum over candidates of exp(s / temperature)). Departure: candidates
    that are known to say the same as the anchor's own are left out of the sum.

    Args:
        anchors: (B, D), of any length; B = 0 gives empty results.
        candidates: (C, D), C at least 1.
        own: int64 (B,), the candidate that belongs to each anchor.
        temperature: Above 0.
        same: Boolean (B, C), true where a candidate is no negative of an anchor; its own always counts.

    Returns:
        float32 (B,): the loss of each anchor in nats, 0 where it has no negative; and boolean (B,): whether
        its own candidate is the most similar.

    >>> corners = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    >>> losses, right = info_nce(corners, corners, torch.tensor([0, 1]), temperature=1.0)
    >>> [round(loss, 4) for loss in losses.tolist()], right.tolist()  # log(1 + 1 / e)
    ([0.3133, 0.3133], [True, True])
    """
    # In bfloat16 a cosine has three digits: divided by a temperature of 0.05, not enough to rank.
    with torch.autocast(anchors.device.type, enabled=False):
        units = functional.normalize(anchors.float(), dim=-1), functional.normalize(candidates.float(), dim=-1)
        scores = units[0] @ units[1].T / temperature  # (B, C)
    if same is not None:
        scores = scores.masked_fill(same.scatter(1, own[:, None], value=False), float("-inf"))
    return functional.cross_entropy(scores, own, reduction="none"), scores.argmax(dim=1) == own


def same_texts(keys: Tensor, partners: Tensor, others: Tensor, own: Tensor) -> Tensor:
    """Find the candidates that are no negatives of a row, because a text stands in several pairs.

    A candidate is none if it is the row's text or its partner's, or if it is the partner of an equal text.

    Args:
        keys: int64 (M,), equal for equal texts: the side that asks.
        partners: int64 (M,), of the side that answers.
        others: int64 (K,), of the candidates that are nobody's partner.
        own: int64 (B,), the rows of the M to look at.

    Returns:
        Boolean (B, M + K).

    >>> glosses = torch.tensor([10, 20, 10])  # the first word shares its gloss with the third
    >>> same_texts(torch.tensor([1, 2, 3]), glosses, torch.tensor([20]), torch.tensor([0, 1])).int().tolist()
    [[1, 0, 1, 0], [0, 1, 0, 1]]
    """
    row, partner = keys[own][:, None], partners[own][:, None]  # (B, 1)
    candidates = torch.cat((partners, others))  # (M + K,)
    same = (candidates == row) | (candidates == partner)  # (B, M + K)
    same[:, : len(keys)] |= keys == row
    return same


@dataclass(frozen=True, slots=True)
class Meeting:
    """The texts of one step, those of all processes, and which pairs are this process's own."""

    anchors: Tensor
    """(M, D)."""
    candidates: Tensor
    """(M + K, D): the positives in the order of the anchors, then all hard negatives."""
    own: Tensor
    """int64 (B,), the numbers of this process's pairs."""
    same: Tensor
    """Boolean (B, M + K): candidates that are no negatives of an own anchor."""
    same_anchors: Tensor
    """Boolean (B, M): anchors that are no negatives of an own positive."""


def meet(vectors: Sequence[Tensor], keys: Sequence[Tensor]) -> Meeting:
    """Bring the texts of all processes together.

    Args:
        vectors: Of this process's anchors (B, D), positives (B, D) and hard negatives (any number, D).
        keys: int64, one for each vector, equal for equal texts.
    """
    roles = torch.cat([torch.full_like(part, role) for role, part in enumerate(keys)])
    # One exchange for all three: every process takes part in the same ones, whether or not it has negatives.
    everyone, first = gather_rows(torch.cat(list(vectors)))  # (rows of all processes, D)
    facts, _ = gather_rows(torch.stack((roles, torch.cat(list(keys))), dim=1))  # (rows of all processes, 2)
    is_anchor, is_positive, is_negative = (facts[:, 0] == role for role in range(3))
    anchor_keys, positive_keys, negative_keys = (facts[found, 1] for found in (is_anchor, is_positive, is_negative))
    own = int(is_anchor[:first].sum()) + torch.arange(len(keys[0]), device=facts.device)
    return Meeting(
        anchors=everyone[is_anchor],
        candidates=torch.cat((everyone[is_positive], everyone[is_negative])),
        own=own,
        same=same_texts(anchor_keys, positive_keys, negative_keys, own),
        same_anchors=same_texts(positive_keys, anchor_keys, negative_keys[:0], own),
    )


def contrast(
    meeting: Meeting, *, kind: str, temperature: float, symmetric: bool = False, matryoshka: Sequence[int] = ()
) -> Loss:
    """Compute the loss of this process's pairs among the texts of all processes.

    With several processes: the loss of the whole batch is the mean of one term for each pair. The process that has the
    pair computes the term, from the same candidates as one process would, so the losses weighed by their counts
    sum up to that of the whole batch. So do the gradients: the derivative of process p's loss by a row of
    process q goes back through ``gather_rows`` to q, which adds up what comes from all p and carries it on to
    its copy of the parameters. Their sum over processes has every path from the whole loss to a parameter once.

    Args:
        meeting: The texts.
        kind: The name of the loss in metrics.
        temperature: Of both directions.
        symmetric: Average with the loss of finding each positive's anchor.
        matryoshka: The loss is the mean over vectors cut to each of these widths and whole ones.

    Returns:
        The mean over this process's pairs, 0 without any; the accuracy is that of whole vectors.

    Raises:
        InvalidInputError: If a width is above that of the vectors.
    """
    own, count, dimension = meeting.own, max(1, len(meeting.own)), meeting.anchors.size(1)
    wide = [width for width in matryoshka if width > dimension]
    check(not wide, f"matryoshka = {tuple(matryoshka)}: the model's vectors have {dimension} values, leave out {wide}")
    values = []
    for width in sorted({*matryoshka, dimension}):  # the whole width last
        anchors, candidates = meeting.anchors[:, :width], meeting.candidates[:, :width]
        losses, right = info_nce(anchors[own], candidates, own, temperature=temperature, same=meeting.same)
        if symmetric:
            back, _ = info_nce(candidates[own], anchors, own, temperature=temperature, same=meeting.same_anchors)
            losses = (losses + back) / 2  # (B,)
        values.append(losses.sum() / count)
    value = torch.stack(values).mean()
    return Loss(value, {kind: value.item(), f"{kind}_accuracy": right.sum().item() / count}, len(own))


# Batches


@dataclass(frozen=True, slots=True)
class TextBatch:
    """Some texts, padded to the longest."""

    ids: Tensor
    """int64 (B, T)."""
    lengths: Tensor
    """int64 (B,)."""
    keys: Tensor
    """int64 (B,), a hash of the tokens: equal for equal texts."""

    @property
    def num_tokens(self) -> int:
        """Real tokens, padding excluded."""
        return int(self.lengths.sum())

    def to(self, device: torch.device) -> TextBatch:
        """Return the batch with its tensors on a device."""
        return TextBatch(self.ids.to(device), self.lengths.to(device), self.keys.to(device))


@dataclass(frozen=True, slots=True)
class PairBatch:
    """Some pairs and hard negatives of theirs."""

    anchors: TextBatch
    positives: TextBatch
    negatives: TextBatch

    @property
    def num_tokens(self) -> int:
        """Real tokens, padding excluded."""
        return self.anchors.num_tokens + self.positives.num_tokens + self.negatives.num_tokens

    def to(self, device: torch.device) -> PairBatch:
        """Return the batch with its tensors on a device."""
        return PairBatch(self.anchors.to(device), self.positives.to(device), self.negatives.to(device))


def _text_batch(store: TokenRows, numbers: NDArray[np.int64], *, pad_id: int) -> TextBatch:
    rows = [store.row(number) for number in numbers.tolist()]
    ids, lengths = pad_rows(rows, pad_id=pad_id)
    keys = [hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in rows]
    return TextBatch(ids, lengths, torch.from_numpy(np.frombuffer(b"".join(keys), dtype=np.int64).copy()))


def _encode(model: Checkpoint, texts: TextBatch, piece_tokens: int | None) -> Tensor:
    if not len(texts.lengths):
        # No rows, but of the graph: a process without them still answers the backward exchange of the others.
        return model.encoder.embedding.tokens.weight[:0].float()  # (0, D)
    return encode_sentences(model, texts.ids, texts.lengths, piece_tokens=piece_tokens)


# The objectives


class Contrastive(Objective[PairBatch]):
    """Tell the text that belongs to an anchor from all other texts of the batch, and from hard negatives."""

    kind = "contrastive"
    compares_rows = True

    def __init__(self, pairs: PairRows, *, pad_id: int, config: ContrastiveConfig | None = None) -> None:
        """Prepare to learn from pairs.

        Args:
            pairs: The items.
            pad_id: The token that fills short rows.
            config: How they are compared.

        Raises:
            InvalidInputError: If there is nothing to tell a pair from.
        """
        super().__init__()
        self.pairs, self.pad_id, self.config = pairs, pad_id, config or ContrastiveConfig()
        told = f"{len(pairs)} pairs and {len(pairs.negatives)} hard negatives"
        alone = len(pairs) < 2 and not (len(pairs.negatives) and self.config.num_negatives)
        check(not alone, f"{told}: a pair is learned by telling it from others, give at least 2")
        starts, numbers = (
            pairs.negatives.starts[pairs.negative_starts],
            np.diff(pairs.negative_starts),
        )  # in tokens, rows
        drawn = np.minimum(numbers, self.config.num_negatives)
        mean_cost = np.ceil(np.diff(starts) * drawn / np.maximum(numbers, 1)).astype(np.int64)
        self.costs = pairs.anchors.lengths + pairs.positives.lengths + mean_cost
        nested = list(self.config.matryoshka)
        self.settings = {**to_mapping(self.config), "matryoshka": nested, "pairs_sha256": pairs.sha256}

    def prepare(self, items: NDArray[np.int64], *, seed: Sequence[int]) -> PairBatch:
        """Gather pairs; only which of many hard negatives come is left to chance."""
        negatives = [self._draw_negatives(int(item), seed) for item in items]
        numbers = np.concatenate([np.zeros(0, dtype=np.int64), *negatives])
        sides = ((self.pairs.anchors, items), (self.pairs.positives, items), (self.pairs.negatives, numbers))
        return PairBatch(*(_text_batch(store, rows, pad_id=self.pad_id) for store, rows in sides))

    def forward(self, model: Checkpoint, batch: PairBatch) -> Loss:
        """Return the mean InfoNCE loss (nats) of this process's pairs, and how many anchors find their positive."""
        config, sides = self.config, (batch.anchors, batch.positives, batch.negatives)
        vectors = [_encode(model, side, config.piece_tokens) for side in sides]
        return contrast(
            meet(vectors, [side.keys for side in sides]),
            kind=self.kind,
            temperature=config.temperature,
            symmetric=config.symmetric,
            matryoshka=config.matryoshka,
        )

    def _draw_negatives(self, item: int, seed: Sequence[int]) -> NDArray[np.int64]:
        numbers = np.arange(*self.pairs.negative_starts[item : item + 2])
        if len(numbers) <= self.config.num_negatives:
            return numbers
        return item_generator(seed, item).choice(numbers, self.config.num_negatives, replace=False)


class SimCSE(Objective[TextBatch]):
    """Tell a text, seen through another dropout, from all other texts of the batch.

    SimCSE without labels: Tianyu Gao et al. 2021, equation 4. Departure: a text that stands twice is no negative of
    itself. In evaluation the two views are equal, and the loss says how far apart different texts lie.
    """

    kind = "simcse"
    compares_rows = True

    def __init__(self, rows: TokenRows, *, pad_id: int, config: SimCSEConfig | None = None) -> None:
        """Prepare to learn from texts alone.

        Args:
            rows: The items.
            pad_id: The token that fills short rows.
            config: How they are compared.

        Raises:
            InvalidInputError: If there is nothing to tell a text from.
        """
        super().__init__()
        self.rows, self.pad_id, self.config = rows, pad_id, config or SimCSEConfig()
        check(len(rows) > 1, f"{len(rows)} texts: a text is learned by telling it from others, give at least 2")
        self.costs = 2 * rows.lengths
        self.settings = {**to_mapping(self.config), "rows_sha256": rows.sha256}

    def prepare(self, items: NDArray[np.int64], *, seed: Sequence[int]) -> TextBatch:
        """Gather every text twice: first all, then all again; nothing but dropout is left to chance."""
        return _text_batch(self.rows, np.concatenate((items, items)), pad_id=self.pad_id)

    def forward(self, model: Checkpoint, batch: TextBatch) -> Loss:
        """Return the mean InfoNCE loss (nats) of this process's texts, and how many find their other view.

        Raises:
            InvalidInputError: If nothing is dropped.
        """
        config = self.config
        check(
            model.encoder.config.dropout > 0 or config.dropout is not None,
            f"the model {model.name} has dropout = 0, so that the two views of a text would be equal: "
            "give simcse a dropout of its own (0.1, say)",
        )
        if config.dropout is not None:
            model = replace(model, encoder=with_dropout(model.encoder, config.dropout))
        vectors, keys = _encode(model, batch, config.piece_tokens), batch.keys
        half = len(keys) // 2
        meeting = meet((vectors[:half], vectors[half:], vectors[:0]), (keys[:half], keys[half:], keys[:0]))
        return contrast(meeting, kind=self.kind, temperature=config.temperature)


def with_dropout(encoder: TransformerEncoder, probability: float) -> TransformerEncoder:
    """Return an encoder of the very same parameters that drops units with another probability.

    To set it on the encoder for the time of a call would not do: with ``piece_tokens`` the backward pass calls it
    again, and other objectives train the same model.
    """
    shared = {id(tensor): tensor for tensor in (*encoder.parameters(), *encoder.buffers())}
    twin = copy.deepcopy(encoder, shared)
    for module in twin.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability
        elif isinstance(module, MultiHeadAttention):
            module.dropout = probability
    return twin

"""What is learned: each objective maps a batch to a loss and its metrics, and owns the parts that training adjusts.

Letters: B rows, T tokens, D hidden width, V vocabulary, M masked positions, W words, P teacher width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from ctxembed.config import PoolingConfig, check
from ctxembed.model.encoder import MaskedWordHead, TransformerEncoder
from ctxembed.model.pooling import pool_sentences, pool_spans
from ctxembed.tokenizer import SubwordTokenizer
from ctxembed.training.batches import TokenRowBatch


@dataclass(frozen=True, slots=True)
class Loss:
    """A scalar to descend, and plain numbers to watch."""

    value: Tensor
    metrics: Mapping[str, float]


class Objective(Protocol):
    """What the trainer needs of an objective; each is also an ``nn.Module``."""

    def __call__(self, batch: TokenRowBatch, generator: torch.Generator) -> Loss:
        """Compute the loss of a batch; all randomness but dropout comes from the generator."""
        ...


@dataclass(frozen=True, kw_only=True)
class MaskingConfig:
    """Which tokens are hidden and what stands in their place (Devlin et al. 2019, section 3.1)."""

    mask_fraction: float = 0.2
    """Share of ordinary tokens to predict; 0.15 in the paper, more teaches more a step (Wettig et al. 2023)."""
    keep_fraction: float = 0.1
    """Share of those that stay as they are."""
    random_fraction: float = 0.1
    """Share of those that become a random token; the rest becomes the mask token."""

    def __post_init__(self) -> None:
        check(0 < self.mask_fraction < 1, f"mask_fraction = {self.mask_fraction}: must be between 0 and 1")
        check(
            min(self.keep_fraction, self.random_fraction) >= 0 and self.keep_fraction + self.random_fraction <= 1,
            "keep_fraction and random_fraction must not be negative nor sum to more than 1",
        )


def mask_tokens(
    ids: Tensor, lengths: Tensor, tokenizer: SubwordTokenizer, *, config: MaskingConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Hide some tokens of each row.

    Args:
        ids: int64 (B, T), a special token first and last in each row.
        lengths: int64 (B,).
        tokenizer: Gives the mask token and the range of random tokens.
        config: How many, and what stands in their place.
        generator: The only source of chance.

    Returns:
        The changed ids (B, T), and the boolean mask (B, T) of positions to predict: never special
        tokens or padding, at least one in a batch that has an ordinary token.
    """
    position = torch.arange(ids.size(1), device=ids.device)
    ordinary = (position > 0) & (position < lengths[:, None] - 1)  # (B, T)
    chance = torch.rand(ids.shape, generator=generator).to(ids.device).masked_fill(~ordinary, 2.0)
    chosen = chance < config.mask_fraction
    if not chosen.any() and ordinary.any():
        chosen = chance == chance.min()
    fate = torch.rand(ids.shape, generator=generator).to(ids.device)
    random_ids = torch.randint(0, len(tokenizer), ids.shape, generator=generator).to(ids.device)
    changed = torch.where(chosen & (fate >= config.keep_fraction), tokenizer.mask_id, ids)
    return torch.where(chosen & (fate >= 1 - config.random_fraction), random_ids, changed), chosen


class MaskedLanguageModelling(nn.Module):
    """Predict hidden tokens from both sides of their context; logits at hidden positions only."""

    def __init__(
        self, encoder: TransformerEncoder, head: MaskedWordHead, tokenizer: SubwordTokenizer, *, config: MaskingConfig
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.tokenizer = tokenizer
        self.config = config

    def forward(self, batch: TokenRowBatch, generator: torch.Generator) -> Loss:
        """Return the mean cross-entropy (nats) over hidden tokens, and how many were guessed."""
        masked, chosen = mask_tokens(batch.ids, batch.lengths, self.tokenizer, config=self.config, generator=generator)
        if not chosen.any():
            zero = sum(parameter.sum() * 0.0 for parameter in self.head.parameters())
            return Loss(torch.as_tensor(zero), {"mlm": 0.0, "mlm_accuracy": 0.0})
        hidden = self.encoder(masked, batch.lengths).last[chosen]  # (M, D)
        logits = self.head(hidden, self.encoder.embedding.tokens.weight).float()  # (M, V)
        targets = batch.ids[chosen]
        loss = functional.cross_entropy(logits, targets)
        accuracy = (logits.argmax(dim=-1) == targets).float().mean().item()
        return Loss(loss, {"mlm": loss.item(), "mlm_accuracy": accuracy})


@dataclass(frozen=True, kw_only=True)
class DistillationConfig:
    """How much each part of a distillation counts."""

    sentence_weight: float = 1.0
    """Cosine distance of the projected sentence vector to the teacher's."""
    similarity_weight: float = 1.0
    """Divergence of the batch's similarity distribution from the teacher's, on the student's own vectors."""
    temperature: float = 0.05
    """Of both similarity distributions."""
    word_weight: float = 1.0
    """Cosine distance of the projected word vector to the teacher's centred one."""
    residual_weight: float = 2.0
    """Cosine distance to what the context adds: the teacher's vector minus the mean vector of its word form."""
    mlm_weight: float = 0.2
    """Masked-language modelling beside it, so that the head stays in use; 0 leaves it out."""
    mlm_fraction: float = 0.25
    """Share of each batch's rows that it sees, to save time."""

    def __post_init__(self) -> None:
        check(self.temperature > 0, f"temperature = {self.temperature}: must be above 0")
        check(0 < self.mlm_fraction <= 1, f"mlm_fraction = {self.mlm_fraction}: must be in (0, 1]")


@dataclass(frozen=True, slots=True)
class TeacherBatch:
    """What the teacher says about the rows of a batch; either part may be empty."""

    sentence_rows: Tensor
    """int64 (S,), the rows that have a sentence vector."""
    sentences: Tensor
    """float32 (S, P)."""
    word_rows: Tensor
    """int64 (W,), the row of each word, and its tokens from ``word_starts`` to ``word_ends``."""
    word_starts: Tensor
    word_ends: Tensor
    words: Tensor
    """float32 (W, P), centred."""
    residuals: Tensor
    """float32 (W, P); a zero row where the word form is too rare for a mean."""


class TeacherTargets(Protocol):
    """Looks up what the teacher says about rows."""

    sentence_dimension: int
    word_dimension: int

    def lookup(self, batch: TokenRowBatch) -> TeacherBatch:
        """Return the targets of a batch."""
        ...


class Distillation(nn.Module):
    """Follow a teacher's sentence vectors and word-in-context vectors.

    Word vectors are matched twice: as they are (centred), and as what the context adds to the word
    form. Without the second part a student mostly learns which word it is. Linear maps lead to the
    teacher's widths and are thrown away after training.
    """

    def __init__(
        self,
        masked: MaskedLanguageModelling,
        targets: TeacherTargets,
        *,
        config: DistillationConfig,
        pooling: PoolingConfig | None = None,
    ) -> None:
        """Add the maps to the teacher's widths.

        Args:
            masked: The student, and its masked-language modelling.
            targets: What the teacher says.
            config: How much each part counts.
            pooling: How the student will pool when it is used: what is trained is what it will give.

        Raises:
            InvalidInputError: If the student has no such layer.
        """
        super().__init__()
        self.masked = masked
        self.targets = targets
        self.config = config
        self.pooling = pooling or PoolingConfig()
        layer, num_layers = self.pooling.usage_layer, masked.encoder.config.num_layers
        check(
            -num_layers - 1 <= layer <= num_layers,
            f"usage_layer = {layer}: the model has layers 0 (embedding) to {num_layers}, or -1 for the last",
        )
        width = masked.encoder.config.hidden_size
        self.to_sentence = nn.Linear(width, max(1, targets.sentence_dimension))
        self.to_word = nn.Linear(width, max(1, targets.word_dimension))
        self.to_residual = nn.Linear(width, max(1, targets.word_dimension))

    def forward(self, batch: TokenRowBatch, generator: torch.Generator) -> Loss:
        """Return the weighted sum of the parts that have targets in this batch."""
        config = self.config
        teacher = self.targets.lookup(batch)
        output = self.masked.encoder(batch.ids, batch.lengths)
        hidden = output.last  # (B, T, D)
        parts: dict[str, tuple[float, Tensor]] = {}
        if len(teacher.sentences):
            own = pool_sentences(hidden, batch.lengths, how=self.pooling.sentence)[teacher.sentence_rows]  # (S, D)
            parts["sentence"] = (config.sentence_weight, cosine_distance(self.to_sentence(own), teacher.sentences))
            divergence = similarity_divergence(own, teacher.sentences, temperature=config.temperature)
            parts["similarity"] = (config.similarity_weight, divergence)
        if len(teacher.words):
            layer = self.pooling.usage_layer
            states = hidden if layer == -1 else output.hidden_states[layer]  # (B, T, D)
            words = pool_spans(states, teacher.word_rows, teacher.word_starts, teacher.word_ends)  # (W, D)
            parts["word"] = (config.word_weight, cosine_distance(self.to_word(words), teacher.words))
            known = teacher.residuals.abs().sum(dim=1) > 0
            if known.any():
                distance = cosine_distance(self.to_residual(words[known]), teacher.residuals[known])
                parts["residual"] = (config.residual_weight, distance)
        if config.mlm_weight:
            masked = self.masked(first_rows(batch, config.mlm_fraction), generator)
            parts["mlm"] = (config.mlm_weight, masked.value)
        total = hidden.sum() * 0.0 + sum(weight * value for weight, value in parts.values())
        return Loss(total, {name: value.item() for name, (_, value) in parts.items()})


def first_rows(batch: TokenRowBatch, fraction: float) -> TokenRowBatch:
    """Return the first rows of a batch, at least one."""
    count = max(1, round(len(batch.rows) * fraction))
    return TokenRowBatch(batch.rows[:count], batch.ids[:count], batch.lengths[:count])


def cosine_distance(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean of 1 - cosine over rows (N, P), a scalar in [0, 2].

    >>> cosine_distance(torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]])).item()
    0.5
    """
    return (1 - functional.cosine_similarity(first.float(), second.float(), dim=-1)).mean()


def similarity_divergence(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """Return the mean KL divergence between the rows of two similarity distributions over a batch.

    Each row asks how alike the others are: softmax of cosine / temperature, itself left out. The widths may differ.

    Args:
        student: (B, D).
        teacher: (B, P).
        temperature: Above 0.

    Returns:
        A scalar in nats; 0 for fewer than three rows, where there is nothing to compare.
    """
    if len(student) < 3:
        return student.sum() * 0.0
    own, goal = (_others(vectors, temperature) for vectors in (student, teacher))
    return functional.kl_div(own, goal, reduction="batchmean", log_target=True)


def _others(vectors: Tensor, temperature: float) -> Tensor:
    unit = functional.normalize(vectors.float(), dim=-1)
    scores = unit @ unit.T / temperature  # (B, B)
    size = len(vectors)
    outside = ~torch.eye(size, dtype=torch.bool, device=vectors.device)
    return scores[outside].reshape(size, size - 1).log_softmax(dim=-1)  # (B, B - 1)

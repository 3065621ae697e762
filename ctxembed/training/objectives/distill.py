"""Distillation: a student follows a teacher's sentence vectors and its vectors of words in context.

Sources: the teacher's vectors themselves, Reimers and Gurevych 2020, with cosine for squared distance; the similarity
distribution over a batch, Abbasi Koohpayegani et al. 2020 (CompRess), with the batch for their queue; similarities of
pairs, Park et al. 2019. That what the context adds (a vector minus the mean of its word form) is followed is our own.

Letters: B rows of a batch, T tokens, D student width, P teacher width, S sentences, W words, M rows of all processes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ctxembed.config import check, to_mapping
from ctxembed.model.checkpoint import Checkpoint
from ctxembed.model.pooling import pool_sentences, pool_spans
from ctxembed.training.batches import TokenRows, collate
from ctxembed.training.distributed import gather_rows, total
from ctxembed.training.objectives.base import Loss, Objective


@dataclass(frozen=True, kw_only=True)
class DistillationConfig:
    """How much each part of a distillation counts; a part of weight 0 is not computed."""

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
    relation_weight: float = 0.0
    """Squared difference of the cosines between two uses of one form in a batch, the student's own and the teacher's;
    for telling apart the senses of a word."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            check(field.name == "temperature" or value >= 0, f"{field.name} = {value}: must not be negative, 0 is off")
        check(self.temperature > 0, f"temperature = {self.temperature}: must be above 0")


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
    word_forms: Tensor
    """int64 (W,), equal for words of one form, in all processes."""
    words: Tensor
    """float32 (W, P), centred."""
    residuals: Tensor
    """float32 (W, P); a zero row where the word form is too rare for a mean."""

    def to(self, device: torch.device) -> Self:
        """Return the batch with its tensors on a device."""
        return type(self)(*(getattr(self, field.name).to(device) for field in dataclasses.fields(self)))


class TeacherTargets(Protocol):
    """The texts to learn from, and what the teacher says about each."""

    store: TokenRows
    """The texts, in the student's tokens."""
    sentence_dimension: int
    """Width of the teacher's sentence vectors; 0 without any."""
    word_dimension: int
    """Width of its word vectors; 0 without any."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """What decides the targets (teachers, layers, texts), as JSON values."""
        ...

    def lookup(self, rows: NDArray[np.int64]) -> TeacherBatch:
        """Return the targets of some rows of the store, on the CPU."""
        ...


@dataclass(frozen=True, slots=True)
class DistillationBatch:
    """Rows of tokens, and what the teacher says about them."""

    ids: Tensor
    """int64 (B, T)."""
    lengths: Tensor
    """int64 (B,)."""
    teacher: TeacherBatch

    @property
    def num_tokens(self) -> int:
        """Real tokens, padding excluded."""
        return int(self.lengths.sum())

    def to(self, device: torch.device) -> Self:
        """Return the batch with its tensors on a device."""
        return type(self)(*(getattr(self, field.name).to(device) for field in dataclasses.fields(self)))


@dataclass(frozen=True, slots=True)
class _Part:
    """One part of the loss, as far as this process has it."""

    weight: float
    terms: Tensor
    """float32 (N,), its terms in this process."""
    count: float
    """Its terms in all processes."""


class Distillation(Objective[DistillationBatch]):
    """Follow a teacher's sentence vectors and word-in-context vectors.

    Word vectors are matched twice: as they are (centred), and as what the context adds to the word
    form. Without the second part a student mostly learns which word it is. Linear maps lead to the
    teacher's widths and are thrown away after training.
    """

    kind = "distill"
    compares_rows = True

    def __init__(self, targets: TeacherTargets, *, model: Checkpoint, config: DistillationConfig | None = None) -> None:
        """Add the maps to the teacher's widths.

        Args:
            targets: What to learn from.
            model: The student: its shape and pooling are read, and what is trained is what it will give: sentence
                vectors as it pools them, word vectors of its ``pooling.usage_layer``.
            config: How much each part counts.

        Raises:
            InvalidInputError: If the student has no such layer, or no part has both a weight and a teacher.
        """
        super().__init__()
        self.targets = targets
        self.config = config or DistillationConfig()
        self.costs = targets.store.lengths
        self.settings = {**to_mapping(self.config), **targets.settings}
        self._pad_id = model.tokenizer.pad_id
        layer, num_layers = model.pooling.usage_layer, model.encoder.config.num_layers
        check(
            -num_layers - 1 <= layer <= num_layers,
            f"usage_layer = {layer}: the model has layers 0 (embedding) to {num_layers}, or -1 for the last",
        )
        weights = self.config
        of_sentences, of_words = targets.sentence_dimension, targets.word_dimension
        check(
            bool(of_sentences and weights.sentence_weight + weights.similarity_weight)
            or bool(of_words and weights.word_weight + weights.residual_weight + weights.relation_weight),
            "the teacher gives nothing that has a weight: raise one, or add sentence or word vectors",
        )
        width = model.encoder.config.hidden_size
        self.to_sentence = nn.Linear(width, of_sentences) if of_sentences and weights.sentence_weight else None
        self.to_word = nn.Linear(width, of_words) if of_words and weights.word_weight else None
        self.to_residual = nn.Linear(width, of_words) if of_words and weights.residual_weight else None

    def prepare(self, items: NDArray[np.int64], *, seed: Sequence[int]) -> DistillationBatch:
        """Gather rows and look up what the teacher says about them; nothing is left to chance."""
        batch = collate(self.targets.store, items, pad_id=self._pad_id)
        return DistillationBatch(batch.ids, batch.lengths, self.targets.lookup(items))

    def forward(self, model: Checkpoint, batch: DistillationBatch) -> Loss:
        """Return the weighted sum of the parts that have targets in this batch, in any process."""
        output = model.encoder(batch.ids, batch.lengths)
        sentences = pool_sentences(output.last, batch.lengths, how=model.pooling.sentence)  # (B, D)
        states = output.hidden_states[model.pooling.usage_layer]  # (B, T, D)
        teacher = batch.teacher
        words = pool_spans(states, teacher.word_rows, teacher.word_starts, teacher.word_ends)  # (W, D)
        with torch.autocast(words.device.type, enabled=False):
            parts = {
                **self._sentence_parts(sentences[teacher.sentence_rows], teacher),
                **self._word_parts(words, teacher),
            }
            return self._loss({name: part for name, part in parts.items() if part.count}, anchor=sentences)

    def _sentence_parts(self, own: Tensor, teacher: TeacherBatch) -> dict[str, _Part]:
        parts, config = {}, self.config
        if self.to_sentence is not None:
            terms = cosine_distance(self.to_sentence(own), teacher.sentences)
            parts["sentence"] = _Part(config.sentence_weight, terms, total(len(own), own.device))
        if self.targets.sentence_dimension and config.similarity_weight:
            (students, first), (goals, _) = gather_rows(own), gather_rows(teacher.sentences)
            terms = similarity_divergence(students, goals, temperature=config.temperature, first=first, count=len(own))
            parts["similarity"] = _Part(config.similarity_weight, terms, len(students))
        return parts

    def _word_parts(self, own: Tensor, teacher: TeacherBatch) -> dict[str, _Part]:
        parts, config = {}, self.config
        if self.to_word is not None:
            terms = cosine_distance(self.to_word(own), teacher.words)
            parts["word"] = _Part(config.word_weight, terms, total(len(own), own.device))
        if self.to_residual is not None:
            known = teacher.residuals.any(dim=1)
            terms = cosine_distance(self.to_residual(own[known]), teacher.residuals[known])
            parts["residual"] = _Part(config.residual_weight, terms, total(len(terms), own.device))
        if self.targets.word_dimension and config.relation_weight:
            (students, first), (goals, _) = gather_rows(own), gather_rows(teacher.words)
            forms, _ = gather_rows(teacher.word_forms)
            terms = relation_distance(students, goals, forms, first=first, count=len(own))
            parts["relation"] = _Part(config.relation_weight, terms, total(len(terms), own.device))
        return parts

    def _loss(self, parts: Mapping[str, _Part], *, anchor: Tensor) -> Loss:
        """Add the parts up so that several processes give together what one would.

        Each part k is the mean of its terms over ALL processes, N_k of them: the loss of one process with the whole
        batch of B rows is L = sum_k w_k S_k / N_k, where S_k is the sum of the terms. Parts have different N_k, so no
        mean over a process's own terms can be weighed back to L by one count. Process p therefore returns
        ``(B / B_p) sum_k w_k S_kp / N_k`` and counts its rows, B_p. Weighed by B_p / B and added up over processes that
        is sum_k w_k (sum_p S_kp) / N_k = L; B, B_p and N_k are constants, so the same holds for gradients. Terms that
        look at other processes' rows hand the gradient of those rows to their owners through ``gather_rows``. In one
        process the factor is 1.
        """
        rows = len(anchor)
        factor = total(rows, anchor.device) / max(1, rows)
        # Every parameter gets a gradient in every process, be it zero: gradients are added up one for one.
        zero = anchor.sum() * 0.0 + sum(parameter.sum() * 0.0 for parameter in self.parameters())
        values = {name: factor / part.count * part.terms.sum() for name, part in parts.items()}
        value = zero + sum((parts[name].weight * values[name] for name in parts), start=zero)
        figures = torch.stack([value, *values.values()]).tolist()
        names = [self.kind, *(f"{self.kind}_{name}" for name in values)]
        return Loss(value, dict(zip(names, figures, strict=True)), rows)


def cosine_distance(first: Tensor, second: Tensor) -> Tensor:
    """Return 1 - cosine of each row, (N,) in [0, 2], of two (N, P).

    >>> cosine_distance(torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]])).tolist()
    [0.0, 1.0]
    """
    return 1 - functional.cosine_similarity(first, second, dim=-1)


def similarity_divergence(
    student: Tensor, teacher: Tensor, *, temperature: float, first: int = 0, count: int | None = None
) -> Tensor:
    """Return, for some rows, the KL divergence of the student's similarity distribution from the teacher's.

    Each row asks how alike the others are: softmax of cosine / temperature, itself left out. The widths may differ.

    Args:
        student: (M, D).
        teacher: (M, P).
        temperature: Above 0.
        first: The first of the rows that ask; all others are compared with.
        count: How many ask; by default all from ``first`` on.

    Returns:
        (count,) in nats; zeros for fewer than three rows, where there is nothing to compare.
    """
    asking = torch.arange(first, len(student) if count is None else first + count, device=student.device)
    if len(student) < 3:
        return student.sum(dim=1)[asking] * 0.0
    own, goal = ((_cosines(rows, asking) / temperature) for rows in (student, teacher))  # (count, M)
    others = asking[:, None] != torch.arange(len(student), device=student.device)
    own, goal = (
        scores[others].reshape(len(asking), len(student) - 1).log_softmax(dim=-1) for scores in (own, goal)
    )  # (count, M - 1)
    return functional.kl_div(own, goal, reduction="none", log_target=True).sum(dim=-1)


def relation_distance(
    student: Tensor, teacher: Tensor, forms: Tensor, *, first: int = 0, count: int | None = None
) -> Tensor:
    """Return, for some words, how far their cosines to other uses of the same form are from the teacher's.

    Args:
        student: (M, D), a word a row.
        teacher: (M, P).
        forms: int64 (M,), equal for words of one form.
        first: The first of the words that ask; all others are compared with.
        count: How many ask; by default all from ``first`` on.

    Returns:
        The mean squared difference over the other uses, in [0, 4], for each word that asks and has any.
    """
    asking = torch.arange(first, len(student) if count is None else first + count, device=student.device)
    pairs = forms[asking, None] == forms  # (count, M)
    pairs &= asking[:, None] != torch.arange(len(forms), device=forms.device)
    uses = pairs.sum(dim=1)
    asking, pairs = asking[uses > 0], pairs[uses > 0]
    difference = _cosines(student, asking) - _cosines(teacher, asking)
    return (difference.square() * pairs).sum(dim=1) / uses[uses > 0]


def _cosines(rows: Tensor, asking: Tensor) -> Tensor:
    """Return the cosines of some rows with all, (count, M), of (M, D)."""
    unit = functional.normalize(rows, dim=-1)
    return unit[asking] @ unit.T

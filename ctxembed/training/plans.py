"""What a run is to learn from: plans that become objectives once the model and its tokenizer are known."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ctxembed.model.checkpoint import Checkpoint
from ctxembed.training import distributed
from ctxembed.training.batches import TokenRows, chunk_texts
from ctxembed.training.objectives.base import Objective
from ctxembed.training.objectives.contrastive import Contrastive, ContrastiveConfig, SimCSE, SimCSEConfig
from ctxembed.training.objectives.denoise import DenoiseConfig, Denoising
from ctxembed.training.objectives.distill import Distillation, DistillationConfig, TeacherTargets
from ctxembed.training.objectives.mlm import MaskedLanguageModelling, MaskingConfig
from ctxembed.training.objectives.senses import SenseConfig, Senses
from ctxembed.training.pairs import PairOptions, read_pairs
from ctxembed.training.sense_rows import read_senses
from ctxembed.types import Document


@dataclass(frozen=True, slots=True)
class Preparation:
    """What is known when an objective is made."""

    model: Checkpoint
    """The model to train."""
    max_length: int
    """Most tokens of a row."""
    path: Path
    """Where its token rows may be written."""
    tell: Callable[[str], None] | None
    """Called with a line about what was read and what was left out."""

    def say(self, line: str) -> None:
        """Pass on a line, if there is one and somebody listens."""
        if line and self.tell is not None and distributed.rank() == 0:
            self.tell(line)

    def rows(self, documents: Iterable[Document]) -> TokenRows:
        """Tokenise documents once, into memory-mapped rows that a resumed run finds again."""
        if distributed.rank() == 0 and not TokenRows.is_written(self.path):
            texts = (document.text for document in documents)
            chunk_texts(texts, self.model.tokenizer, max_length=self.max_length, path=self.path)
        distributed.barrier()
        return TokenRows.open(self.path)


@dataclass(frozen=True, slots=True)
class Plan:
    """An objective to be, and its place in the mixture."""

    build: Callable[[Preparation], Objective[Any]]
    share: float = 1.0
    """Of the tokens of each step."""
    weight: float = 1.0
    """Of its loss in the sum."""
    source: Mapping[str, Any] = field(default_factory=dict)
    """What its texts are read from, and how: a resumed run, which does not read them again, must say the same."""


def mlm(documents: Iterable[Document], config: MaskingConfig | None = None) -> Callable[[Preparation], Objective[Any]]:
    """Plan to predict masked words of documents."""
    return lambda given: MaskedLanguageModelling(given.rows(documents), given.model.tokenizer, config=config)


def simcse(
    documents: Iterable[Document], config: SimCSEConfig | None = None
) -> Callable[[Preparation], Objective[Any]]:
    """Plan to tell documents apart under dropout."""
    return lambda given: SimCSE(given.rows(documents), pad_id=given.model.tokenizer.pad_id, config=config)


def denoise(
    documents: Iterable[Document], config: DenoiseConfig | None = None
) -> Callable[[Preparation], Objective[Any]]:
    """Plan to rebuild documents from one vector."""
    return lambda given: Denoising(given.rows(documents), given.model.tokenizer, config=config)


def contrastive(
    paths: Sequence[str], *, options: PairOptions | None = None, config: ContrastiveConfig | None = None
) -> Callable[[Preparation], Objective[Any]]:
    """Plan to bring pairs together."""

    def build(given: Preparation) -> Contrastive:
        pairs = read_pairs(paths, given.model.tokenizer, max_length=given.max_length, options=options)
        given.say(pairs.counts.summary())
        return Contrastive(pairs, pad_id=given.model.tokenizer.pad_id, config=config)

    return build


def senses(paths: Sequence[str], *, config: SenseConfig | None = None) -> Callable[[Preparation], Objective[Any]]:
    """Plan to part the senses of words."""

    def build(given: Preparation) -> Senses:
        rows = read_senses(paths, given.model.tokenizer, max_length=given.max_length)
        given.say(rows.counts.summary())
        objective = Senses(rows, model=given.model, config=config)
        given.say(objective.summary)
        return objective

    return build


def distill(
    targets: Callable[[Preparation], TeacherTargets], *, config: DistillationConfig | None = None
) -> Callable[[Preparation], Objective[Any]]:
    """Plan to follow a teacher."""
    return lambda given: Distillation(targets(given), model=given.model, config=config)

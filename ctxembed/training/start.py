"""Where a run begins: a new model with its tokenizer, or one that exists already.

Letters: V vocabulary, D hidden width, W words, P width of their vectors.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from ctxembed.config import (
    DecoderConfig,
    EncoderConfig,
    PoolingConfig,
    TrainingConfig,
    check,
    from_mapping,
    to_mapping,
)
from ctxembed.corpus import require_restartable, sample_documents
from ctxembed.model.checkpoint import Checkpoint
from ctxembed.model.decoder import TransformerDecoder
from ctxembed.model.encoder import MaskedWordHead, TransformerEncoder
from ctxembed.tokenizer import FILE_NAME as TOKENIZER_FILE
from ctxembed.tokenizer import SubwordTokenizer, TokenizerConfig
from ctxembed.training import distributed
from ctxembed.types import Document, Vectors

TOKENIZER_SAMPLE = 200_000
Tell = Callable[[str], None] | None


class Start(Protocol):
    """Gives a run its model."""

    def model(
        self, name: str, *, folder: Path, training: TrainingConfig, tell: Tell
    ) -> tuple[Checkpoint, dict[str, Any]]:
        """Return the model to train, and what decides it (a resumed run must have the same).

        Args:
            name: Of the model to be.
            folder: Of the run: what must be there to resume it is kept here.
            training: Gives the seed and the longest row.
            tell: Called with a line about what was made.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class WordTable:
    """Static vectors to begin the embedding layer with: the notes' picture of it."""

    words: Sequence[str]
    """W word forms."""
    vectors: Vectors
    """float32 (W, P)."""
    name: str
    """Of their model."""


@dataclass(frozen=True, kw_only=True)
class NewModel:
    """A new encoder and, unless one is given, a tokenizer trained on the same text."""

    shape: Mapping[str, Any]
    """Fields of ``EncoderConfig`` other than ``vocab_size``; a preset, say."""
    tokenizer: SubwordTokenizer | TokenizerConfig
    """A trained one, or how to train one."""
    documents: Iterable[Document] = ()
    """What a new tokenizer learns from (a seeded sample of); restartable."""
    pooling: PoolingConfig = field(default_factory=PoolingConfig)
    """How it will pool."""
    decoder: DecoderConfig | None = None
    """The shape of a decoder, for denoising."""
    embeddings: WordTable | None = None
    """Static vectors to begin the embedding layer with."""

    def __post_init__(self) -> None:
        check(
            "vocab_size" not in self.shape,
            "vocab_size is not the encoder's to choose: it follows from the tokenizer, set it there",
        )
        from_mapping(EncoderConfig, {**self.shape, "vocab_size": 1})  # until the tokenizer is known
        require_restartable(self.documents)

    def model(
        self, name: str, *, folder: Path, training: TrainingConfig, tell: Tell
    ) -> tuple[Checkpoint, dict[str, Any]]:
        """Draw the weights by the seed."""
        tokenizer, origin = self._tokenizer(folder, seed=training.seed, tell=tell)
        config = from_mapping(EncoderConfig, {**self.shape, "vocab_size": len(tokenizer)})
        torch.manual_seed(training.seed)
        encoder, head = TransformerEncoder(config), MaskedWordHead(config)
        decoder = None if self.decoder is None else TransformerDecoder(config, self.decoder)
        model = Checkpoint(
            name=name, encoder=encoder, tokenizer=tokenizer, pooling=self.pooling, head=head, decoder=decoder
        )
        if self.embeddings is not None:
            begin_with_words(model, self.embeddings, seed=training.seed, tell=tell)
            origin["initial_embeddings"] = self.embeddings.name
        return model, origin

    def _tokenizer(self, folder: Path, *, seed: int, tell: Tell) -> tuple[SubwordTokenizer, dict[str, Any]]:
        """Return the tokenizer of the run (the one it was saved with, the one given, or a new one) and its origin."""
        given = self.tokenizer
        if isinstance(given, SubwordTokenizer):
            return given, {"given_tokenizer": given.fingerprint}
        if distributed.rank() == 0 and not (folder / TOKENIZER_FILE).exists():
            sample = sample_documents(self.documents, size=TOKENIZER_SAMPLE, seed=seed)
            SubwordTokenizer.train((document.text for document in sample), config=given).save(folder)
            if tell is not None:
                tell(
                    f"the tokenizer learned from {len(sample):,} documents "
                    f"(a seeded sample of at most {TOKENIZER_SAMPLE:,})"
                )
        distributed.barrier()
        return SubwordTokenizer.load(folder), {"given_tokenizer": to_mapping(given)}


@dataclass(frozen=True, kw_only=True)
class ExistingModel:
    """A model to train further; it is left as it is, and its tokenizer is kept."""

    checkpoint: Checkpoint
    """The model: one that ships, was trained here, or was imported."""
    pooling: PoolingConfig | None = None
    """How the trained model pools; as before by default."""
    decoder: DecoderConfig | None = None
    """The shape of a decoder to add, if it has none."""
    embeddings: WordTable | None = None
    """Static vectors to begin its embedding layer with anew."""

    def model(
        self, name: str, *, folder: Path, training: TrainingConfig, tell: Tell
    ) -> tuple[Checkpoint, dict[str, Any]]:
        """Copy the model, with a new masked-word head if it has none."""
        initial = self.checkpoint
        torch.manual_seed(training.seed)
        encoder, head, decoder = copy.deepcopy((initial.encoder, initial.head, initial.decoder))
        if head is None:
            head = MaskedWordHead(encoder.config)
            if tell is not None:
                tell(f"{initial.name} has no masked-word head: a new one begins with nothing, and only mlm teaches it")
        if decoder is None and self.decoder is not None:
            decoder = TransformerDecoder(encoder.config, self.decoder)
        model = replace(
            initial,
            name=name,
            encoder=encoder,
            head=head,
            decoder=decoder,
            pooling=self.pooling or initial.pooling,
            fingerprint="",
        )
        origin = {"initial": initial.fingerprint, "initial_name": initial.name}
        if self.embeddings is not None:
            begin_with_words(model, self.embeddings, seed=training.seed, tell=tell)
            origin["initial_embeddings"] = self.embeddings.name
        return model, origin


def begin_with_words(model: Checkpoint, table: WordTable, *, seed: int, tell: Tell = None) -> None:
    """Write static word vectors into the embedding layer.

    A token that is a word takes its vector, any other piece the mean over the words it is a part of; the rest
    stays as it was. A seeded rotation leads from width P to D (P <= D keeps all angles, P > D most), and lengths are
    brought to those of the layer.

    Raises:
        InvalidInputError: If no word has a piece that the tokenizer knows.
    """
    tokenizer, layer = model.tokenizer, model.encoder.embedding.tokens.weight.data
    sums, counts = np.zeros((len(layer), table.vectors.shape[1]), dtype=np.float32), np.zeros(len(layer))
    whole: dict[int, int] = {}
    for number, ids in enumerate(tokenizer.encode_ids(list(table.words))):
        if len(ids) == 1:
            whole.setdefault(int(ids[0]), number)
        np.add.at(sums, ids, table.vectors[number])
        np.add.at(counts, ids, 1)
    for token, number in whole.items():
        sums[token], counts[token] = table.vectors[number], 1
    counts[[tokenizer.pad_id, tokenizer.unknown_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id]] = 0
    known = np.flatnonzero(counts)
    check(bool(len(known)), f"{table.name} has no word that this tokenizer knows a piece of: choose other vectors")
    generator = np.random.default_rng([seed, 0xE3B])
    square = generator.standard_normal((max(sums.shape[1], layer.size(1)),) * 2)
    turn = np.linalg.qr(square)[0][: sums.shape[1], : layer.size(1)].astype(np.float32)  # (P, D)
    vectors = (sums[known] / counts[known, None]) @ turn
    usual = float(layer.norm(dim=1).mean())
    vectors *= usual / max(float(np.linalg.norm(vectors, axis=1).mean()), 1e-12)
    layer[torch.from_numpy(known)] = torch.from_numpy(vectors.astype(np.float32))
    if tell is not None:
        tell(f"the embedding layer begins with {table.name}: {len(known):,} of {len(layer):,} tokens")

"""What several test files share."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ctxembed.text import word_forms
from ctxembed.types import Vectors

if TYPE_CHECKING:
    from ctxembed.tokenizer import SubwordTokenizer


# Tensors are tiny here: more threads only wait for each other, for minutes when the machine is busy.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@dataclass(frozen=True)
class FakeEncoder:
    """Adds up a fixed random vector for each word: texts that share words are near each other."""

    name: str = "fake"
    dimension: int = 16

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.name} {self.dimension}".encode()).hexdigest()

    def encode(self, texts: Sequence[str], *, prompt: str | None = None) -> Vectors:
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for vector, text in zip(vectors, texts, strict=True):
            for word in word_forms(text):
                seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
                vector += np.random.default_rng(seed).standard_normal(self.dimension, dtype=np.float32)
            vector /= np.linalg.norm(vector) or 1
        return vectors


@pytest.fixture
def fake_encoder() -> FakeEncoder:
    """A tiny deterministic TextEncoder; dataclasses.replace gives it another name or width."""
    return FakeEncoder()


SENTENCES = (
    "The bank lent money to the old farmer.",
    "She sat on the bank of the river and read.",
    "A plant grew in the window of the bank.",
    "The plant makes cars and trains near the river.",
    "He plays the bass in a small band.",
    "They caught a bass in the cold river.",
    "The spring was cold, the summer was warm.",
    "A spring in the old watch was broken.",
    "The crane lifted the cars on the train.",
    "A crane stood in the water near the bank.",
)


@pytest.fixture(scope="session")
def tiny_tokenizer() -> SubwordTokenizer:
    """A WordPiece tokenizer of 110 pieces: common words are one token, rare ones several."""
    from ctxembed.tokenizer import SubwordTokenizer, TokenizerConfig

    return SubwordTokenizer.train(SENTENCES, config=TokenizerConfig(vocab_size=110))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: SubwordTokenizer) -> Path:
    """The folder of a model with random weights, far enough from zero that context changes every vector."""
    import torch

    from ctxembed.config import EncoderConfig, PoolingConfig
    from ctxembed.model.checkpoint import Checkpoint, save_checkpoint
    from ctxembed.model.encoder import MaskedWordHead, TransformerEncoder

    config = EncoderConfig(
        vocab_size=len(tiny_tokenizer), hidden_size=32, num_layers=2, num_heads=2, intermediate_size=64, max_length=32
    )
    torch.manual_seed(1)
    encoder, head = TransformerEncoder(config), MaskedWordHead(config)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.15)
    checkpoint = Checkpoint(
        name="tiny",
        encoder=encoder,
        tokenizer=tiny_tokenizer,
        pooling=PoolingConfig(),
        head=head,
        prompts={"query": "find the "},
    )
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_checkpoint(folder, checkpoint, dtype=torch.float32)
    return folder

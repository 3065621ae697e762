"""What several test files share."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ctxembed.runtime import write_json
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


BERT_VOCABULARY = tuple(
    dict.fromkeys(
        [
            *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "bank", "Bank", "river", "lent", "money", "of"),
            *(form for letter in "abcdefghijklmnopqrstuvwxyzéσς0123456789" for form in (letter, f"##{letter}")),
            *"ABCÉ.,;:!?'()-中文😀",
        ]
    )
)
"""What the small BERT models of the tests read: a few words, letters, and some characters beyond ASCII."""

MakeBert = Callable[..., Path]


def make_bert(
    folder: Path,
    *,
    kind: str = "BertModel",
    pooling: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    **config: Any,
) -> Path:
    """Write a small BERT with random weights as transformers does.

    Args:
        folder: Where it goes.
        kind: A class of transformers.
        pooling: Of sentence-transformers, in 1_Pooling/config.json, with modules.json; a plain folder without.
        settings: For the tokenizer.
        config: For BertConfig.
    """
    import torch
    import transformers

    shape = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
    shape |= {"vocab_size": len(BERT_VOCABULARY), "max_position_embeddings": 40, "layer_norm_eps": 1e-7}
    torch.manual_seed(1)
    model = getattr(transformers, kind)(transformers.BertConfig(**(shape | config)))
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases too, so that a swapped pair of names is seen
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    model.save_pretrained(folder)
    vocabulary = {token: number for number, token in enumerate(BERT_VOCABULARY)}
    transformers.BertTokenizer(vocab=vocabulary, **(settings or {})).save_pretrained(folder)
    if pooling is not None:
        kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
        modules = [{"path": path, "type": f"sentence_transformers.models.{name}"} for path, name in kinds.items()]
        write_json(folder / "modules.json", [{"idx": n, "name": str(n)} | each for n, each in enumerate(modules)])
        (folder / "1_Pooling").mkdir()
        write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 32} | pooling)
    return folder


@pytest.fixture(scope="session")
def bert() -> MakeBert:
    """``bert(folder, kind="BertForMaskedLM", ...)`` writes a small BERT as transformers does, into the folder."""
    return make_bert


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BERT in a folder of sentence-transformers; tests that change it copy it."""
    return make_bert(tmp_path_factory.mktemp("hf") / "little-bert", pooling={"pooling_mode": "mean"})

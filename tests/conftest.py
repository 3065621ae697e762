"""What several test files share."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from ctxembed.text import word_forms
from ctxembed.types import Vectors


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

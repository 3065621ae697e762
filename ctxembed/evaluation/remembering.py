"""An encoder that remembers what it was asked: rankings of one corpus read the same documents again and again."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from ctxembed.text import word_spans
from ctxembed.types import Encoder, Span, Usage, Vectors
from ctxembed.units import TokenSpans

MOST_BYTES = 2**30
"""Vectors that are kept at most; what comes later is computed each time."""


class RememberingEncoder:
    """Gives the vectors of another encoder and computes those of a text once.

    That changes nothing as long as the vectors of a text do not depend on the texts beside it.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._texts: dict[tuple[str, str | None], Vectors] = {}
        self._usages: dict[tuple[int | None, tuple[Usage, ...]], Vectors] = {}
        self._bytes = 0

    @property
    def name(self) -> str:
        """That of the encoder."""
        return self._encoder.name

    @property
    def dimension(self) -> int:
        """That of the encoder."""
        return self._encoder.dimension

    @property
    def fingerprint(self) -> str:
        """That of the encoder."""
        return self._encoder.fingerprint

    def token_spans(self, text: str) -> list[Span]:
        """Return the tokens of a text, or its words where the encoder has no tokens."""
        return self._encoder.token_spans(text) if isinstance(self._encoder, TokenSpans) else word_spans(text)

    def encode(self, texts: Sequence[str], *, prompt: str | None = None) -> Vectors:
        """Return what the encoder does."""
        new = list(dict.fromkeys(text for text in texts if (text, prompt) not in self._texts))
        computed = dict(zip(new, self._encoder.encode(new, prompt=prompt), strict=True)) if new else {}
        rows = [computed[text] if text in computed else self._texts[text, prompt] for text in texts]
        for text, vector in computed.items():
            if self._has_room(vector):
                self._texts[text, prompt] = vector
        return np.stack(rows) if rows else np.empty((0, self.dimension), dtype=np.float32)

    def encode_usages(self, usages: Sequence[Usage], *, layer: int | None = None) -> Vectors:
        """Return what the encoder does; neighbours of one text are remembered together."""
        groups = [tuple(group) for _, group in itertools.groupby(usages, key=lambda usage: usage.text)]
        new = list(dict.fromkeys(group for group in groups if (layer, group) not in self._usages))
        vectors = self._encoder.encode_usages([usage for group in new for usage in group], layer=layer)
        bounds = np.cumsum([0, *map(len, new)])
        computed = {
            group: vectors[start:end] for group, (start, end) in zip(new, itertools.pairwise(bounds), strict=True)
        }
        parts = [computed[group] if group in computed else self._usages[layer, group] for group in groups]
        for group, part in computed.items():
            if self._has_room(part):
                self._usages[layer, group] = part.copy()
        return np.concatenate([np.empty((0, self.dimension), dtype=np.float32), *parts])

    def _has_room(self, vectors: Vectors) -> bool:
        self._bytes += vectors.nbytes
        return self._bytes <= MOST_BYTES

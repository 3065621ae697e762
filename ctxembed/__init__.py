"""ctxembed: contextual embeddings of tokens, words and sentences.

The public names load on first use, so that ``import ctxembed`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ctxembed._version import __version__

if TYPE_CHECKING:
    from ctxembed.calibration import Calibration
    from ctxembed.corpus import Corpus, ReadOptions
    from ctxembed.embedder import Embedder
    from ctxembed.errors import ArtifactError, CtxEmbedError, InvalidInputError, MissingInputError, MissingLibraryError
    from ctxembed.index import VectorIndex
    from ctxembed.reconstruction import Reconstructor
    from ctxembed.search import SemanticSearch
    from ctxembed.static import StaticVectors
    from ctxembed.store import DocumentStore
    from ctxembed.text import find_usage, parse_usage, sentence_spans, word_spans
    from ctxembed.tokenizer import SubwordTokenizer, TokenizerConfig
    from ctxembed.types import Document, Hit, Span, TextEncoder, Usage, UsageEncoder
    from ctxembed.vectors import VectorFolder

_HOMES = {
    "ctxembed.calibration": ("Calibration",),
    "ctxembed.corpus": ("Corpus", "ReadOptions"),
    "ctxembed.embedder": ("Embedder",),
    "ctxembed.errors": (
        "ArtifactError",
        "CtxEmbedError",
        "InvalidInputError",
        "MissingInputError",
        "MissingLibraryError",
    ),
    "ctxembed.index": ("VectorIndex",),
    "ctxembed.reconstruction": ("Reconstructor",),
    "ctxembed.search": ("SemanticSearch",),
    "ctxembed.static": ("StaticVectors",),
    "ctxembed.store": ("DocumentStore",),
    "ctxembed.text": ("find_usage", "parse_usage", "sentence_spans", "word_spans"),
    "ctxembed.tokenizer": ("SubwordTokenizer", "TokenizerConfig"),
    "ctxembed.types": ("Document", "Hit", "Span", "TextEncoder", "Usage", "UsageEncoder"),
    "ctxembed.vectors": ("VectorFolder",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "ArtifactError",
    "Calibration",
    "Corpus",
    "CtxEmbedError",
    "Document",
    "DocumentStore",
    "Embedder",
    "Hit",
    "InvalidInputError",
    "MissingInputError",
    "MissingLibraryError",
    "ReadOptions",
    "Reconstructor",
    "SemanticSearch",
    "Span",
    "StaticVectors",
    "SubwordTokenizer",
    "TextEncoder",
    "TokenizerConfig",
    "Usage",
    "UsageEncoder",
    "VectorFolder",
    "VectorIndex",
    "__version__",
    "find_usage",
    "parse_usage",
    "sentence_spans",
    "word_spans",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its home on first use (PEP 562)."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'ctxembed' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return __all__

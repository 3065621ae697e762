"""An index of forty small documents, for the tests of its building, searching, files and vectors."""

from __future__ import annotations

import numpy as np

from ctxembed.search import SemanticSearch
from ctxembed.types import Document
from ctxembed.vectors import Row

WORDS = ("river", "bank", "money", "loan", "water", "boat", "tree", "leaf", "stone", "fish", "coin", "debt")
RNG = np.random.default_rng(0)
DOCUMENTS = [
    Document(f"d{number}", " ".join(RNG.choice(WORDS, size=4)), {"number": number, "even": number % 2 == 0})
    for number in range(40)
]


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def from_vectors(path, vectors, *, ids=None, **options):
    rows = [Row(name, "") for name in (ids or map(str, range(len(vectors))))]
    options = {"settings": {}, "dimension": vectors.shape[1]} | options
    return SemanticSearch.build_from_vectors([(rows, vectors)], path=path, **options)

"""An index of forty documents, what is added to it, and what it is compared with."""

from __future__ import annotations

import dataclasses

import numpy as np

from ctxembed.index.folder import check_folder
from ctxembed.search import SemanticSearch
from ctxembed.types import Document

WORDS = ("river", "bank", "money", "loan", "water", "boat", "tree", "leaf", "stone", "fish", "coin", "debt")
RNG = np.random.default_rng(0)
DOCUMENTS = [
    Document(f"d{number}", " ".join(RNG.choice(WORDS, size=4)), {"number": number, "even": number % 2 == 0})
    for number in range(40)
]
MORE = [Document(f"e{number}", f"{WORDS[number]} {WORDS[number - 1]}", {"number": 100 + number}) for number in range(9)]
CHANGED = [Document("d3", "a new text", {"number": 3}), dataclasses.replace(DOCUMENTS[4], metadata={"number": 99})]


@dataclasses.dataclass
class CountingEncoder:
    """Counts the texts that are really encoded."""

    encoder: object
    texts: int = 0

    def __getattr__(self, name):
        return getattr(self.encoder, name)

    def encode(self, texts, *, prompt=None):
        self.texts += len(texts)
        return self.encoder.encode(texts, prompt=prompt)


class KilledError(Exception):
    """Stands for a kill."""


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def found(path, encoder, query="river bank", **options):
    with SemanticSearch.open(path, encoder=encoder) as search:
        return [hit.id for hit in search.search(query, k=1000, **options)]


def same_as_built_from(path, documents, tmp_path, encoder):
    """The index answers like one that was built of these documents."""
    with (
        SemanticSearch.build(documents, encoder=encoder, path=tmp_path / "expected", overwrite=True) as expected,
        SemanticSearch.open(path, encoder=encoder) as search,
    ):
        for query in ("river bank", "money"):
            got, wanted = (
                {hit.id: (round(hit.score, 5), hit.text, hit.metadata) for hit in each.search(query, k=1000)}
                for each in (search, expected)
            )
            assert got == wanted
    check_folder(path)

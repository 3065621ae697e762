"""Time one query at a time of `SemanticSearch.search`, encoding left out: python search_latency.py ROWS CORPUS INDEX OUT.

Rows are pieces of 8 to 25 words of the corpus (*.txt.zst), with synthetic vectors of width 384 around 200 centres and
metadata: year (120 values), source (7) and rare (5,000). The kind is what `auto` chooses. Queries are four longer words
of the corpus. INDEX is built unless it is there. Also timed: adding one row, and deleting it.
"""

from __future__ import annotations

import itertools
import random
import re
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from ctxembed.index.changes import delete_rows
from ctxembed.index.updates import add_documents
from ctxembed.runtime import environment, write_json
from ctxembed.search import SemanticSearch
from ctxembed.types import Document
from ctxembed.vectors import Row

DIMENSION, BLOCK, NUM_QUERIES, K = 384, 16_384, 40, 10
SETTINGS = {"model": "synthetic", "fingerprint": "0" * 64}
WAYS: dict[str, dict[str, Any]] = {
    "dense": {},
    "lexical": {"mode": "lexical"},
    "hybrid": {"mode": "hybrid"},
    "dense, year >= 1990": {"where": "year >= 1990"},
    "dense, rare = 17": {"where": "rare = 17"},
    "lexical, rare = 17": {"mode": "lexical", "where": "rare = 17"},
    "hybrid, year >= 1990": {"mode": "hybrid", "where": "year >= 1990"},
    "hybrid, rare = 17": {"mode": "hybrid", "where": "rare = 17"},
    "hybrid, source = 's3' and year < 1905": {"mode": "hybrid", "where": "source = 's3' and year < 1905"},
    "dense, fold": {"fold": 0.95},
    "dense, diversity": {"diversity": 0.3},
    "hybrid, threshold": {"mode": "hybrid", "min_percentile": 50},
}
CENTRES = np.random.default_rng(1).standard_normal((200, DIMENSION), dtype=np.float32)


def vectors(rng: np.random.Generator, count: int) -> Any:
    """Draw vectors around the centres."""
    noise = rng.standard_normal((count, DIMENSION), dtype=np.float32)
    return CENTRES[rng.integers(len(CENTRES), size=count)] + noise


class Encoder:
    """Gives each text a vector drawn with its words as the seed."""

    name, fingerprint, dimension = SETTINGS["model"], SETTINGS["fingerprint"], DIMENSION

    def encode(self, texts: Any, *, prompt: str | None = None) -> Any:
        """Return (N, D)."""
        drawn = np.concatenate([vectors(np.random.default_rng(list(text.encode())), 1) for text in texts])
        return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def pieces(corpus: Path) -> Iterator[str]:
    """Yield pieces of the corpus as they follow each other."""
    chance = random.Random(1)
    for path in sorted(corpus.glob("*.txt.zst")):
        with zstandard.open(path, "rt", encoding="utf-8") as lines:
            for words in map(str.split, lines):
                while words:
                    size = chance.randint(8, 25)
                    yield " ".join(words[:size])
                    words = words[size:]


def parts(corpus: Path, rows: int) -> Iterator[tuple[list[Row], Any]]:
    """Yield rows with vectors."""
    stream, rng = itertools.islice(pieces(corpus), rows), np.random.default_rng(2)
    first = 0
    while texts := list(itertools.islice(stream, BLOCK)):
        numbers = range(first, first + len(texts))
        metadata = ({"year": 1900 + n % 120, "source": f"s{n % 7}", "rare": n % 5000} for n in numbers)
        yield [Row(f"r{n}", *each) for n, *each in zip(numbers, texts, [None] * len(texts), [None] * len(texts), metadata)], vectors(rng, len(texts))  # fmt: skip
        first += len(texts)


def main() -> None:
    """Build, search and change."""
    rows, corpus, folder, out = int(sys.argv[1]), *map(Path, sys.argv[2:5])
    encoder = Encoder()
    begun = time.perf_counter()
    if not (folder / "manifest.json").exists():
        SemanticSearch.build_from_vectors(
            parts(corpus, rows), settings=SETTINGS, dimension=DIMENSION, path=folder, overwrite=True
        ).close()
    found: dict[str, Any] = {"rows": rows, "build_s": time.perf_counter() - begun, "about": __doc__}
    begun = time.perf_counter()
    queries = []
    with SemanticSearch.open(folder, encoder=encoder) as search:
        found |= {"open_ms": 1000 * (time.perf_counter() - begun), "kind": search.manifest.indexes[0].kind}
        for piece in itertools.islice(pieces(corpus), 5, 60_000, 997):
            words = re.findall("[A-Za-z]{4,}", piece)[:4]
            if len(words) == 4 and len(queries) < NUM_QUERIES:
                queries.append(" ".join(words))
        for name, way in WAYS.items():
            times = []
            for query in queries:
                begun = time.perf_counter()
                search.search(query, k=K, **way)
                times.append(1000 * (time.perf_counter() - begun))
            p50, p95 = statistics.median(times[1:]), statistics.quantiles(times[1:], n=20)[-1]
            found[name] = {"first_ms": times[0], "p50_ms": p50, "p95_ms": p95}
            sys.stderr.write(f"{name:38} first {times[0]:8.1f}  p50 {p50:7.2f}  p95 {p95:7.2f} ms\n")
    for name, change in (
        ("add one row", lambda: add_documents(folder, [Document("one", "a boat", {"year": 1})], encoder=encoder)),
        ("delete one row", lambda: delete_rows(folder, ids=["one"])),
    ):
        begun = time.perf_counter()
        change()
        found[name] = {"first_ms": 1000 * (time.perf_counter() - begun)}
        sys.stderr.write(f"{name:38} {found[name]['first_ms']:14.1f} ms\n")
    write_json(out, {**found, "environment": environment()})


if __name__ == "__main__":
    main()

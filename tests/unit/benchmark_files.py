"""Small benchmark files for tests."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def write(path: Path, rows: Iterable[Any]) -> Path:
    """Write rows as JSON Lines, gzipped where the name says so."""
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def usage_row(word: str = "bank", /, *, number: int = 0, label: int = 1, **changes: Any) -> dict[str, Any]:
    """Return a row in the word-in-context format; a value of None drops the key."""
    row: dict[str, Any] = {"id": f"{word}.{number}", "word": word, "label": label}
    row |= {"sentence1": f"the {word} here", "start1": 4, "end1": 4 + len(word)}
    row |= {"sentence2": f"{word} é {number}", "start2": 0, "end2": len(word)}
    return {key: value for key, value in (row | changes).items() if value is not None}


TEXT_ROW = {"sentence1": "a cat", "sentence2": "a dog", "score": 2.5}


def write_retrieval(folder: Path, *, qrels: str = "q1\td1\t1\n", **changes: Any) -> dict[str, Path]:
    """Write a retrieval folder; changes replace the rows of corpus or queries."""
    parts: Mapping[str, Any] = {
        "corpus": [{"id": "d1", "title": "Tides", "text": "follow the moon"}, {"id": "d2", "text": "bread"}],
        "queries": [{"id": "q1", "text": "why tides"}, {"id": "q2", "text": "baking"}],
    } | changes
    paths = {name: write(folder / f"{name}.jsonl", rows) for name, rows in parts.items()}
    paths["qrels"] = folder / "qrels.tsv"
    paths["qrels"].write_text("query-id\tcorpus-id\tscore\n" + qrels, encoding="utf-8")
    return paths

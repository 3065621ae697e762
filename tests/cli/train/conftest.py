"""What tests of `ctxembed train` share: tiny texts, pairs and uses, and what a run leaves behind."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ..conftest import Run

TINY = ("--preset", "tiny", "--vocab-size", "150", "--max-length", "16", "--batch-tokens", "256", "--max-steps", "3")
SHORT = ("--max-length", "32", "--batch-tokens", "512", "--max-steps", "3")
EIGHTY = ("--preset", "tiny", "--max-steps", "80", "--checkpoint-every", "20", "--seed", "7")
FILES = [
    "README.md",
    "config.json",
    "loss.png",
    "metrics.jsonl",
    "model.safetensors",
    "tokenizer.json",
    "training.json",
]
SIZES, ANIMALS, PLACES = ("old", "big", "red", "wet"), ("dog", "cat", "hen"), ("river", "town", "muddy")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Thirty-six sentences of a tiny world."""
    path = tmp_path / "corpus.txt"
    lines = [
        f"The {size} {animal} sat on the {place} bank.\n" for size in SIZES for animal in ANIMALS for place in PLACES
    ]
    path.write_text("".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Thirty-six questions, each with its answer and one that only looks like it."""
    rows = [
        {
            "anchor": f"Where did the {a} {b} sit, near the {c}?",
            "positive": f"The {a} {b} sat on the {c} bank.",
            "negatives": [f"The {a} {b} ran from the {c} bank."],
        }
        for a, b, c in itertools.product(SIZES, ANIMALS, PLACES)
    ]
    return written(tmp_path / "pairs.jsonl", rows)


@pytest.fixture
def uses(tmp_path: Path) -> Path:
    """Sixteen uses of two words, two senses each."""
    frames = (
        ("bank", "shore", "The {} river bank was muddy."),
        ("bank", "money", "The {} bank in town lent money."),
        ("plant", "green", "The {} plant grew on the river."),
        ("plant", "works", "The {} plant in town makes cars."),
    )
    rows = []
    for size in SIZES:
        for word, sense, frame in frames:
            text = frame.format(size)
            start = text.index(word)
            rows.append({"text": text, "start": start, "end": start + len(word), "lemma": word, "label": sense})
    return written(tmp_path / "uses.jsonl", rows)


@pytest.fixture
def teacher(run: Run, corpus: Path, static: Path) -> Path:
    """Folders ``sentences`` and ``words`` with the static vectors of the corpus."""
    for output, unit in (("sentences", "sentence"), ("words", "word")):
        run("embed", corpus, "-o", output, "-m", static, "--unit", unit)
    return static


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def without(option: str, options: tuple[str, ...]) -> list[str]:
    """The options without one of them and its value."""
    place = options.index(option)
    return [*options[:place], *options[place + 2 :]]


def training(folder: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((Path(folder) / "training.json").read_text(encoding="utf-8"))
    return record


def metrics(folder: str) -> list[dict[str, float]]:
    """The lines of the steps, without those of evaluations."""
    lines = [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if "loss" in line]


def is_picture(folder: str) -> bool:
    return Path(folder, "loss.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")

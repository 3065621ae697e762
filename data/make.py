"""Writes what follows from the hand-written files: other formats of the sample corpus, and word-in-context pairs.

The sources are ``corpora/sample.jsonl`` and ``benchmarks/word_in_context/uses.jsonl``. Run ``make data`` after a
change to either; a test compares the result with what is in the folder, and SHA256SUMS freezes it.
"""

from __future__ import annotations

import itertools
import json
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import pandas as pd

from ctxembed.runtime import sha256_file
from ctxembed.text import word_form

HERE = Path(__file__).parent
SEED = 20261122
PAIRS_PER_WORD_AND_LABEL = 12


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read a file of one JSON object a line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a file of one JSON object a line."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def split_words(uses: list[dict[str, Any]]) -> tuple[set[str], set[str]]:
    """Deal the words into two halves, words of one part of speech and words of two dealt apart."""
    parts: dict[str, set[str]] = defaultdict(set)
    for use in uses:
        parts[use["word"]].add(use["pos"])
    halves: tuple[set[str], set[str]] = (set(), set())
    generator = random.Random(SEED)
    for num_parts in (1, 2):
        words = sorted(word for word, pos in parts.items() if len(pos) == num_parts)
        generator.shuffle(words)
        for position, word in enumerate(words):
            halves[position % 2].add(word)
    return halves


def make_pairs(uses: list[dict[str, Any]], words: set[str]) -> list[dict[str, Any]]:
    """Pair the uses of each word so that neither the word nor the two written forms tell the label.

    For every unordered pair of written forms of a word there are as many pairs of one sense as of
    two, so whatever looks only at the forms (a static lookup) is right half of the time.
    """
    generator = random.Random(SEED + 1)
    by_word = defaultdict(list)
    for use in uses:
        by_word[use["word"]].append(use)
    rows = []
    for word in sorted(words):
        candidates: dict[tuple[str, ...], tuple[list[Any], list[Any]]] = defaultdict(lambda: ([], []))
        for first, second in itertools.combinations(by_word[word], 2):
            forms = tuple(sorted(word_form(use["text"][use["start"] : use["end"]]) for use in (first, second)))
            candidates[forms][first["sense"] == second["sense"]].append((first, second))
        rows += [pair_row(*pair, generator=generator) for pair in choose_balanced(candidates, generator)]
    generator.shuffle(rows)
    return rows


def choose_balanced(
    candidates: dict[tuple[str, ...], tuple[list[Any], list[Any]]], generator: random.Random
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Take pairs of both labels in equal number from every pair of forms, up to the quota of a word."""
    stacks = []
    for forms in sorted(candidates):
        different, same = candidates[forms]
        generator.shuffle(different)
        generator.shuffle(same)
        stacks.append(list(zip(different, same, strict=False)))
    chosen: list[tuple[dict[str, Any], dict[str, Any]]] = []
    while any(stacks) and len(chosen) < 2 * PAIRS_PER_WORD_AND_LABEL:
        for stack in stacks:
            if stack and len(chosen) < 2 * PAIRS_PER_WORD_AND_LABEL:
                chosen.extend(stack.pop())
    return chosen


def pair_row(first: dict[str, Any], second: dict[str, Any], *, generator: random.Random) -> dict[str, Any]:
    """Return one row in the format of the WiC files, the two uses in random order."""
    if generator.random() < 0.5:
        first, second = second, first
    row: dict[str, Any] = {"id": f"{first['id']}~{second['id']}", "word": first["word"]}
    for number, use in ((1, first), (2, second)):
        row |= {f"sentence{number}": use["text"], f"start{number}": use["start"], f"end{number}": use["end"]}
    return row | {"label": int(first["sense"] == second["sense"])}


def main() -> None:
    """Write every derived file and SHA256SUMS."""
    corpus = read_jsonl(HERE / "corpora/sample.jsonl")
    (HERE / "corpora/sample.txt").write_text("".join(row["text"] + "\n" for row in corpus), encoding="utf-8")
    table = pd.DataFrame(corpus)
    table.to_csv(HERE / "corpora/sample.csv", index=False, lineterminator="\n")
    table.to_parquet(HERE / "corpora/sample.parquet", index=False)
    folder = HERE / "benchmarks/word_in_context"
    uses = read_jsonl(folder / "uses.jsonl")
    for name, words in zip(("dev", "test"), split_words(uses), strict=True):
        write_jsonl(folder / f"{name}.jsonl", make_pairs(uses, words))
    files = sorted(path for part in ("corpora", "benchmarks") for path in (HERE / part).rglob("*") if path.is_file())
    sums = "".join(f"{sha256_file(path)}  {path.relative_to(HERE).as_posix()}\n" for path in files)
    (HERE / "SHA256SUMS").write_text(sums, encoding="utf-8")


if __name__ == "__main__":
    main()

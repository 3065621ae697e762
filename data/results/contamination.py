"""Count the sentences of evaluation sets that stand word for word in the training text of the model that ships.

contamination.py OUT.json CORPUS EVAL: every *.zst in CORPUS and CORPUS/pairs against every *.jsonl.gz below EVAL and the sets that ship.
A sentence counts if it has at least six words and its letters and digits are those of a sentence in training.
"""

import gzip
import json
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from ctxembed.runtime import environment

LEAST_WORDS = 6
TEXTS = ("sentence", "sentence1", "sentence2", "text", "context")
BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def key(text: str) -> str | None:
    """Return the letters and digits of a text, lower-cased; None of one that is too short to tell."""
    words = re.findall(r"[^\W_]+", text.lower())
    return " ".join(words) if len(words) >= LEAST_WORDS else None


def evaluation(folder: Path) -> dict[str, set[str]]:
    """Read the sentences of every set."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in sorted([*folder.rglob("*.jsonl.gz"), *BENCHMARKS.rglob("*.jsonl")]):
        name = path.parent.name if path.name.split(".")[0] in ("dev", "test", "train") else f"{path.parent.name}/{path.name}"
        split = path.name.split(".")[0]
        name = f"{name} {split}" if split in ("dev", "test", "train") else name
        opened = gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")
        with opened as stream:
            for line in stream:
                row = json.loads(line)
                found[name] |= {key(row[field]) for field in TEXTS if isinstance(row.get(field), str)} - {None}
    return found


def training(folder: Path) -> Iterator[str]:
    """Yield the sentences of every file, of pairs and dictionaries each string."""
    for path in sorted([*folder.glob("*.zst"), *folder.glob("pairs/*.zst")]):
        with subprocess.Popen(["zstd", "-dcq", str(path)], stdout=subprocess.PIPE, text=True, encoding="utf-8") as process:
            for line in process.stdout or ():
                for text in strings(json.loads(line)) if ".jsonl" in path.name else [line]:
                    yield text
                    yield from re.split(r"(?<=[.!?])[\"')]*\s+", text)


def strings(value: object) -> Iterator[str]:
    """Yield every string in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from strings(part)


def main() -> None:
    """Compare and write the counts."""
    out, corpus, folder = map(Path, sys.argv[1:])
    sets = evaluation(folder)
    wanted = set().union(*sets.values())
    seen = {found for text in training(corpus) if (found := key(text)) in wanted}
    rows = [{"set": name, "sentences": len(keys), "in_training": len(keys & seen)} for name, keys in sets.items()]
    out.write_text(json.dumps({"least_words": LEAST_WORDS, "rows": rows, "environment": environment()}, indent=2) + "\n")


if __name__ == "__main__":
    main()

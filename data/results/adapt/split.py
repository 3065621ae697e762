"""Pairs of a term and its definition, cut into some to learn from and a retrieval set of the others: split.py PAIRS OUT.

OUT gets train.jsonl, definitions.txt (of these) and test/ (corpus.jsonl, queries.jsonl, qrels.tsv): every definition may be
found, queries are terms that were not learnt from and that do not stand in their own definition.
"""

from __future__ import annotations

import io
import json
import random
import sys
from pathlib import Path

import zstandard

from ctxembed.text import word_forms

QUERIES, LEAST_WORDS = 1000, 5


def main() -> None:
    """Write the two halves."""
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    with source.open("rb") as file:
        lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), "utf-8")
        rows = [json.loads(line) for line in lines]
    pairs = {row["anchor"]: row["positive"] for row in rows if len(row["positive"].split()) >= LEAST_WORDS}
    terms = sorted(pairs)
    random.Random(1).shuffle(terms)
    foreign = [term for term in terms if not {*word_forms(term)} & {*word_forms(pairs[term])}]
    queries = foreign[:QUERIES]
    asked = {*queries}
    learnt = [term for term in terms if term not in asked]
    test = out / "test"
    test.mkdir(parents=True, exist_ok=True)
    numbers = {term: f"d{number}" for number, term in enumerate(terms)}

    def write(path: Path, records: list[dict[str, str]]) -> None:
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")

    write(out / "train.jsonl", [{"anchor": term, "positive": pairs[term]} for term in learnt])
    (out / "definitions.txt").write_text("".join(f"{pairs[term]}\n" for term in learnt), encoding="utf-8")
    write(test / "corpus.jsonl", [{"id": numbers[term], "text": pairs[term]} for term in terms])
    write(test / "queries.jsonl", [{"id": f"q{numbers[term]}", "text": term} for term in queries])
    answers = [f"q{numbers[term]}\t{numbers[term]}\t1\n" for term in queries]
    (test / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(answers), encoding="utf-8")
    sys.stderr.write(f"{len(learnt)} pairs to learn from, {len(queries)} queries among {len(terms)} definitions\n")


if __name__ == "__main__":
    main()

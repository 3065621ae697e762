"""How often shifts that are there are found, and shifts that are not there are reported: planted in real text by a seed.

    planted_shift.py CORPUS.txt.zst OUT.json [--labelled FILE...] [--words 24] [--uses 150] [--seed 1] [-m MODEL]

Words are drawn among content words of similar frequency. Each pair of them, A and B, makes one pseudo-word: the old side
has uses of A only, the new side a known share of B (the other uses are further ones of A). Uses are encoded as they stand
in the text. With --labelled, files of uses whose senses people have named (sentence, start, end, sense), A and B are also two
senses of one word: a sense that enters at a known rate. At share 0 both sides are uses of one word or sense: whatever
is reported is false.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy as np

from ctxembed import Embedder
from ctxembed.corpus import Corpus, ReadOptions, sample_documents
from ctxembed.meaning.clusters import cluster_uses
from ctxembed.meaning.distances import adjusted_p_values, shift_test
from ctxembed.meaning.occurrences import count_words, find_uses, given_usage
from ctxembed.runtime import environment, sha256_file, write_json

SHARES = (0.0, 0.05, 0.1, 0.2, 0.4)
LEVEL = 0.05


def main() -> None:
    """Plant, test, count, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("corpus")
    parser.add_argument("out")
    parser.add_argument("--labelled", nargs="*", default=[])
    parser.add_argument("--words", type=int, default=24)
    parser.add_argument("--uses", type=int, default=150)
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--permutations", type=int, default=999)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("-m", "--model")
    options = parser.parse_args()
    documents = sample_documents(Corpus(options.corpus, options=ReadOptions()), size=options.documents, seed=options.seed)
    counts = count_words(documents, group=lambda _: "")[""]
    frequent = sorted(word for word, n in counts.items() if 2 * options.uses <= n <= 6 * options.uses and len(word) > 3)
    words = sorted(random.Random(options.seed).sample(frequent, options.words))
    found = find_uses(documents, words, group=lambda _: "", most=2 * options.uses, seed=options.seed)
    encoder = Embedder.load(options.model)
    vectors = {w: encoder.encode_usages([o.usage for o in found[w][""].occurrences]) for w in words}
    chance = np.random.default_rng(options.seed)
    rows = []
    for kind, table, chosen in (("pseudo-words", vectors, pairs(words)), ("senses", *senses(options, encoder))):
        for share in SHARES if chosen else ():
            tests = [planted(table, pair, share, options, chance) for pair in chosen]
            rows.append(summary(kind, share, tests))
            print(rows[-1], flush=True)
    record = {
        "what": "share of tests reported (p, and q over the tests of the row, at most 0.05)",
        "settings": {k: v for k, v in vars(options).items() if k not in ("corpus", "out", "model", "labelled")},
        "model": {"name": encoder.name, "fingerprint": encoder.fingerprint},
        "corpus_sha256": sha256_file(Path(options.corpus)),
        "words": words,
        "rows": rows,
        "environment": environment(),
    }
    write_json(Path(options.out), record)


def pairs(words: list[str]) -> list[tuple[str, str]]:
    """Pair every word with the next and the third after it, round the list."""
    return [(a, words[(n + step) % len(words)]) for n, a in enumerate(words) for step in (1, 3)]


def senses(options, encoder):
    """Encode labelled uses; return vectors by sense and pairs of senses of one word, with enough uses of each."""
    vectors, chosen = {}, []
    for path in options.labelled:
        rows = list(Corpus(path, options=ReadOptions(text_column="sentence")))
        random.Random(options.seed).shuffle(rows)
        by_sense = {}
        for row in rows:
            by_sense.setdefault(str(row.metadata["sense"]), []).append(given_usage(row)[0])
        large = sorted(sense for sense, uses in by_sense.items() if len(uses) >= options.uses)
        firsts = [sense for sense in large if len(by_sense[sense]) >= 2 * options.uses]
        for sense in large:
            vectors[sense] = encoder.encode_usages(by_sense[sense][: 3 * options.uses])
        chosen += [(a, b) for a in firsts for b in large if a != b for _ in range(4)]
    return vectors, chosen


def planted(vectors, pair, share, options, chance):
    """Test one word with this share of B on the new side."""
    a, b = (chance.permutation(vectors[word]) for word in pair)
    from_b = round(share * options.uses)
    old, new = a[: options.uses], np.concatenate([a[options.uses : 2 * options.uses - from_b], b[:from_b]])
    labels = cluster_uses(np.concatenate([old, new]), seed=options.seed).labels
    if labels.max() == 0:
        labels = cluster_uses(np.concatenate([old, new]), k=2, seed=options.seed).labels
    return shift_test(
        old, new, old_senses=labels[: len(old)], new_senses=labels[len(old) :],
        permutations=options.permutations, seed=int(chance.integers(2**31)),
    )  # fmt: skip


def summary(kind, share, tests):
    """Count what was reported."""
    row = {"planted": kind, "share": share, "tests": len(tests)}
    for name in ("p", "p_prt", "p_jsd"):
        values = np.array([getattr(test, name) for test in tests])
        row[f"reported_{name}"] = round(float((values <= LEVEL).mean()), 4)
        row[f"reported_{name.replace('p', 'q', 1)}"] = round(float((adjusted_p_values(values) <= LEVEL).mean()), 4)
    row["mean_excess"] = round(float(np.mean([test.excess for test in tests])), 5)
    row["mean_jsd"] = round(float(np.mean([test.jsd for test in tests])), 5)
    return row


if __name__ == "__main__":
    main()

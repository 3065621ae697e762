"""Senses found in labelled uses, beside one group, each alone, random groups and static contexts: V-measure, ARI, paired F.

    senses.py FOLDER OUT.json [--uses 1500] [--seed 1] [-m MODEL]

FOLDER has a file of JSON lines for each word: sentence, start, end, sense. Each word is grouped into as many groups as it
has labelled senses, and into as many as are found.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from ctxembed import Embedder, StaticVectors
from ctxembed.corpus import Corpus, ReadOptions
from ctxembed.evaluation.senses import LabelledWord, evaluate_senses
from ctxembed.meaning.occurrences import given_usage
from ctxembed.runtime import default_model, environment, sha256_file, write_json


def main() -> None:
    """Group, score, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--uses", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("-m", "--model")
    options = parser.parse_args()
    encoder, static = Embedder.load(options.model), StaticVectors.load(default_model("static"))
    rows, sums = [], {}
    for path in sorted(options.folder.glob("*.jsonl.gz")):
        sums[path.name] = sha256_file(path)
        documents = list(Corpus(path, options=ReadOptions(text_column="sentence")))
        documents = random.Random(options.seed).sample(documents, min(options.uses, len(documents)))
        usages = [given_usage(document)[0] for document in documents]
        word = LabelledWord(path.name.split(".")[0], usages, [str(d.metadata["sense"]) for d in documents])
        vectors, contexts = encoder.encode_usages(usages), encoder.encode([usage.text for usage in usages])
        for k in (len(set(word.senses)), None):
            for name, beside in (("word and sentence", contexts), ("word alone", None)):
                scored = evaluate_senses(word, vectors, contexts=beside, static=static, k=k, seed=options.seed)
                kept = scored if beside is not None else scored[:1]
                rows += [{"number": "given" if k else "found", "by": name} | row for row in kept]
        print(*rows[-12:], sep="\n", flush=True)
    write_json(
        options.out,
        {
            "settings": {"uses": options.uses, "seed": options.seed},
            "model": {"name": encoder.name, "fingerprint": encoder.fingerprint},
            "data_sha256": sums,
            "rows": rows,
            "environment": environment(),
        },
    )


if __name__ == "__main__":
    main()

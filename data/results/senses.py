"""Senses found in labelled uses, beside one group, each alone, random groups and static contexts: V-measure, ARI, paired F.

    senses.py FOLDER OUT.json --corpus TEXT [--uses 1500] [--seed 1] [-m MODEL]

FOLDER has a file of JSON lines for each word: sentence, start, end, sense. Each word is grouped into as many groups as it
has labelled senses, and into as many as are found. Words of one sense, whose uses are taken from the corpus, should come
out as one group.
"""

from __future__ import annotations

import argparse
import itertools
import random
from pathlib import Path

from ctxembed import Embedder, StaticVectors
from ctxembed.corpus import Corpus, ReadOptions
from ctxembed.evaluation.calibrating import one_sense_cosine
from ctxembed.evaluation.senses import LabelledWord, evaluate_senses
from ctxembed.meaning.occurrences import find_uses, given_usage
from ctxembed.meaning.senses import find_senses
from ctxembed.runtime import default_model, environment, sha256_file, write_json


ONE_SENSE = (
    "hospital guitar bicycle oxygen soldier daughter breakfast algorithm island sheep lawyer winter painting kitchen "
    "disease elephant physician orchestra violin professor village mountain forest lake tuesday january wheat copper "
    "whale horse"
).split()
DOCUMENTS, MOST, LEAST = 20_000, 130, 30
"""Of the corpus; uses of a word of one sense, at most and at least."""


def one_sense_words(corpus: str, encoder: Embedder, *, alike: float | None, seed: int) -> dict[str, int]:
    """Return into how many groups the uses of each word of one sense are put, by word and sentence."""
    documents = itertools.islice(Corpus(corpus), DOCUMENTS)
    groups = {}
    for word, sides in find_uses(documents, ONE_SENSE, group=lambda _: "", most=MOST, seed=seed).items():
        uses = sides[""].occurrences
        if len(uses) < LEAST:
            continue
        vectors, texts = encoder.encode_usages([each.usage for each in uses]), [each.usage.text for each in uses]
        found = find_senses(
            word, uses, vectors, contexts=encoder.encode(texts), alike=alike, seed=seed, with_stability=False
        )
        groups[word] = len(found.senses)
    return groups


def main() -> None:
    """Group, score, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--uses", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("-m", "--model")
    options = parser.parse_args()
    encoder, static = Embedder.load(options.model), StaticVectors.load(default_model("static"))
    alike = one_sense_cosine(encoder)
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
                scored = evaluate_senses(word, vectors, contexts=beside, static=static, k=k, alike=alike, seed=options.seed)
                kept = scored if beside is not None else scored[:1]
                rows += [{"number": "given" if k else "found", "by": name} | row for row in kept]
        print(*rows[-12:], sep="\n", flush=True)
    groups = one_sense_words(options.corpus, encoder, alike=alike, seed=options.seed)
    whole = sum(number == 1 for number in groups.values()) / len(groups)
    print(f"{whole:.0%} of {len(groups)} words of one sense are one group", groups)
    write_json(
        options.out,
        {
            "settings": {"uses": options.uses, "seed": options.seed, "alike": alike},
            "model": {"name": encoder.name, "fingerprint": encoder.fingerprint},
            "data_sha256": sums,
            "rows": rows,
            "one_sense": {"whole": round(whole, 4), "groups": groups},
            "environment": environment(),
        },
    )


if __name__ == "__main__":
    main()

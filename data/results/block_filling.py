"""How many rows of the blocks of `embed` are filling: what equal bits in any company cost, as a share of the rows.

Call: block_filling.py MODEL OUT.json
"""

from __future__ import annotations

import json
import sys

from ctxembed.embedder import Embedder
from ctxembed.evaluation.workloads import Workload, workload_texts
from ctxembed.runtime import data_directory, environment
from ctxembed.windows import blocks


def filling(embedder: Embedder, texts: list[str]) -> float:
    """Return the share of rows that hold no token, in [0, 1]."""
    network, windows = embedder._network, embedder._windows(embedder.tokenizer.encode_ids(texts))
    tokens = [sum(windows[i].end - windows[i].start + 2 for i in block) for block in blocks(windows, most=network.block)]
    return 1 - sum(tokens) / sum(network._shape(count)[0] for count in tokens)


def main(model: str, out: str) -> None:
    """Measure texts of mixed length, titles and long documents cut out of the sample corpus."""
    embedder = Embedder.load(model)
    sentences = (data_directory() / "corpora" / "sample.txt").read_text(encoding="utf-8").splitlines()
    kinds: tuple[Workload, ...] = ("mixed", "titles", "documents")
    shares = {
        f"{kind} {rows}": round(filling(embedder, list(workload_texts(kind, sentences, rows=rows, seed=1))), 4)
        for kind in kinds
        for rows in (500, 4000)
    }
    with open(out, "w", encoding="utf-8") as stream:
        json.dump({"model": embedder.name, "filling": shares, "environment": environment()}, stream, indent=2)


if __name__ == "__main__":
    main(*sys.argv[1:])

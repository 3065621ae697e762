"""Texts and word uses a second, of models and of static vectors, on the sample corpus that ships; JSON on stdout."""

import json
import sys
import time
from pathlib import Path

import torch

from ctxembed import Embedder, StaticVectors, Usage
from ctxembed.corpus import Corpus
from ctxembed.runtime import data_directory, environment
from ctxembed.text import word_spans

texts = [document.text for document in Corpus(data_directory() / "corpora" / "sample.txt")]
uses = [Usage(text, span.start, span.end) for text in texts for span in word_spans(text)]


def best(call):
    call()
    times = []
    for _ in range(3):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


rows = []
for folder in sys.argv[1:]:
    encoder = StaticVectors.load(folder) if (Path(folder) / "words.txt").exists() else Embedder.load(folder)
    texts_a_second = len(texts) / best(lambda: encoder.encode(texts))
    uses_a_second = len(uses) / best(lambda: encoder.encode_usages(uses))
    row = {"system": encoder.name, "precision": getattr(encoder, "precision", None)}
    rows.append(row | {"texts_a_second": texts_a_second, "uses_a_second": uses_a_second})
found = {"texts": len(texts), "uses": len(uses), "threads": torch.get_num_threads(), "environment": environment()}
print(json.dumps({**found, "results": rows}, indent=2))

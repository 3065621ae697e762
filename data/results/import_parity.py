"""Measure how near an imported model is to its original: python import_parity.py FOLDER IMPORTED CORPUS_FILE OUT.

FOLDER is the original, for transformers and sentence-transformers; IMPORTED is what `ctxembed import` made of it. Both
compute in float32, but for the row that says otherwise. Texts past the window are cut here as sentence-transformers
cuts them; what windows give instead is a part of its own.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer

from ctxembed.corpus import Corpus, ReadOptions, sample_documents
from ctxembed.embedder import Embedder
from ctxembed.model.checkpoint import load_checkpoint
from ctxembed.model.inference import InferenceEncoder
from ctxembed.runtime import environment, write_json

NUM_TEXTS, NUM_LONG, SEED = 1000, 40, 1
ODD = [
    *("a", "A", "?", "...", "$5.00!", "3.14159e-10", "C++ & C#", "don't", "it\u2019s", "re-entered", "under_score", "e-mail@example.org"),
    *("https://example.org/a?b=c#d", "x" * 101, "x" * 100, "Donaudampfschifffahrt" * 9, "no " + "y" * 3000 + " yes", "the " * 700),
    *("caf\u00e9", "cafe\u0301", "\u00c5ngstr\u00f6m \u212bngstr\u00f6m", "na\u00efve co\u00f6perate", "\u1e9eTRASSE stra\u00dfe", "\u0130stanbul \u0131rmak"),
    *("\u039f\u0394\u039f\u03a3 \u1f00\u03bb\u03ae\u03b8\u03b5\u03b9\u03b1", "\u041c\u043e\u0441\u043a\u0432\u0430 \u0439\u043e\u0434", "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd", "\u0645\u0631\u062d\u0628\u0627 \u0628\u0643", "\u0939\u093f\u0928\u094d\u0926\u0940 \u092d\u093e\u0937\u093e"),
    *("\u4e2d\u6587\u53e5\u5b50\u3002", "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8", "\ud55c\uad6d\uc5b4 \ubb38\uc7a5", "\u1112\u1161\u11ab\u1100\u1173\u11af", "\U00020000\U0002a6d6 rare", "\u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22"),
    *("\U0001f600\U0001f44d\U0001f3fd ok", "\U0001f468\u200d\U0001f469\u200d\U0001f467 family", "\u2764\ufe0f love", "\U0001f1e9\U0001f1ea flag"),
    *("zero\u200bwidth", "zero\u200cnon\u200djoiner", "\ufeffmark first", "soft\u00adhyphen", "no\u00a0break\u202fspace", "\u202eright to left\u202c"),
    *("tab\there", "line\nbreak\r\nand more", "nul\x00inside", "bell\x07 and \x1b[31mcolour", "c1\x85control", "bad \ufffd character", "\u2028separators\u2029"),
    *("\ufb01ne \uff26\uff35\uff2c\uff2c \u2167", "x\u00b2 + \u221ay \u2260 \u221e", "\u201cquoted\u201d \u2014 dash\u2026", "\u00bfqu\u00e9?", "private \ue000 use", "a\u0301\u0302\u0303\u0304 stacked"),
]  # fmt: skip


def read_texts(corpus: str) -> list[str]:
    """Return real sentences, some of them put together to be long, and the odd ones."""
    count = NUM_TEXTS - len(ODD) - NUM_LONG
    documents = sample_documents(
        Corpus([corpus], options=ReadOptions(split_sentences=True)), size=count + 30 * NUM_LONG, seed=SEED
    )
    sentences = [document.text for document in documents]
    rest = sentences[count:]
    return sentences[:count] + [" ".join(rest[first::NUM_LONG]) for first in range(NUM_LONG)] + ODD


def compare_tokens(original: str, imported: str, texts: list[str]) -> dict[str, Any]:
    """Compare token ids, and the vectors of every token of the last layer, with transformers' AutoModel."""
    tokenizer, model = AutoTokenizer.from_pretrained(original), AutoModel.from_pretrained(original).float().eval()
    ours = load_checkpoint(imported)
    network, window = InferenceEncoder(ours.encoder), ours.encoder.config.max_length
    cls, sep = ours.tokenizer.cls_id, ours.tokenizer.sep_id
    own = [torch.tensor([cls, *ids[: window - 2].tolist(), sep]) for ids in ours.tokenizer.encode_ids(texts)]
    equal, tokens, largest, at_once = 0, 0, 0.0, network.block // window
    with torch.inference_mode():
        for first in range(0, len(texts), at_once):
            ids = own[first : first + at_once]
            found = network(torch.cat(ids), [len(each) for each in ids], num_layers=ours.encoder.config.num_layers)
            vectors = found.split([len(each) for each in ids])
            for text, row, vector in zip(texts[first : first + at_once], ids, vectors, strict=True):
                theirs = tokenizer(text, truncation=True, max_length=window, return_tensors="pt")
                equal += torch.equal(row, theirs.input_ids[0])
                largest = max(largest, float((vector - model(**theirs).last_hidden_state[0]).abs().max()))
                tokens += len(row)
    return {"texts_with_equal_token_ids": equal, "token_vectors": tokens, "largest_difference": largest}


def compare_sentences(original: str, imported: str, texts: list[str]) -> dict[str, Any]:
    """Compare sentence vectors with sentence-transformers, and windows with cutting."""
    reference = SentenceTransformer(original, device="cpu").float()
    expected = unit(reference.encode(texts, batch_size=32))
    embedder = Embedder.load(imported, dtype="float32", on_long="truncate")
    cut = unit(embedder.encode(texts))
    fast = unit(Embedder.load(imported, on_long="truncate").encode(texts))
    windows = unit(Embedder.load(imported, dtype="float32").encode(texts))
    long = np.array([len(ids) > embedder.max_length - 2 for ids in embedder.tokenizer.encode_ids(texts)])
    return {
        "cut_as_sentence_transformers_cuts": {
            "texts": len(texts),
            "lowest_cosine_short_of_one": lowest(cut, expected),
            "largest_difference": float(np.abs(cut - expected).max()),
        },
        "in_the_number_format_chosen_here_by_default": {"lowest_cosine_short_of_one": lowest(fast, expected)},
        "windows_of_texts_that_fit": {
            "texts": int((~long).sum()),
            "equal_to_the_last_bit": bool(np.array_equal(windows[~long], cut[~long])),
        },
        "windows_of_longer_texts": {
            "texts": int(long.sum()),
            "lowest_cosine_with_cutting": float((windows[long] * cut[long]).sum(axis=1).min()),
            "mean_cosine_with_cutting": float((windows[long] * cut[long]).sum(axis=1).mean()),
        },
    }


def unit(vectors: Any) -> Any:
    """Bring rows to length one in double precision: a zero row, which would compare as equal, is an error."""
    vectors = np.asarray(vectors, dtype=np.float64)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not norms.all():
        raise ValueError("a text has a zero vector: it cannot be compared")
    return vectors / norms


def lowest(found: Any, expected: Any) -> float:
    """Return how far the least similar pair is from a cosine of one."""
    return float(max(0.0, 1.0 - (found * expected).sum(axis=1).min()))


def main() -> None:
    """Compare, and write the result file."""
    original, imported, corpus, out = sys.argv[1:]
    texts = read_texts(corpus)
    result = {
        "model": Embedder.load(imported).name,
        "fingerprint": Embedder.load(imported).fingerprint,
        "corpus": Path(corpus).name,
        "seed": SEED,
        "texts": len(texts),
        "odd_texts": len(ODD),
        "texts_sha256": hashlib.sha256("\0".join(texts).encode()).hexdigest(),
        "tokens": compare_tokens(original, imported, texts),
        "sentences": compare_sentences(original, imported, texts),
        "environment": environment(),
    }
    write_json(Path(out), result)
    print(result["tokens"], result["sentences"], sep="\n")


if __name__ == "__main__":
    main()

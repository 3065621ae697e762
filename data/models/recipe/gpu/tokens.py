"""Texts to the tokens of the student and of the teachers, and to the places of content words in both, as flat arrays.

tokens.py TEXTS OUT STUDENT TEACHER PROCESSES: of TEXTS/short.txt.xz and long.txt.xz, and of pairs.txt.xz to anchors and
positives, row by row, with a sentence out of each long text beside the rest of it. STUDENT and TEACHER are
tokenizer.json files (both teachers have BERT's word pieces).
"""

import lzma
import os
import sys
import zlib
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ctxembed.text import sentence_spans
from ctxembed.tokenizer import SubwordTokenizer
from ctxembed.training.targets import content_words, form_keys, token_places

FORMS = 2**21
"""Keys of word forms are taken modulo this."""
SIZES = {"short": (4000, 128), "long": (500, 224)}
"""Texts of a piece of work, and the student's most tokens of a text: longer ones are left out."""
TEACHER_LENGTH, CLS, SEP = 256, 101, 102

ANCHOR_LENGTH, PAIRS = 64, 2000
"""The student's most tokens of the shorter text of a pair, and the pairs of a piece of work."""

Rows = list[NDArray[np.int64]]
Arrays = dict[str, NDArray[np.generic]]
TOKENIZERS: list[object] = []


def start(student: str, teacher: str) -> None:
    """Load both tokenizers in a process."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    other = Tokenizer.from_file(teacher)
    other.no_padding()
    other.no_truncation()
    TOKENIZERS[:] = [SubwordTokenizer.load(student), other]


def rows(texts: Sequence[str], longest: int) -> tuple[Rows, Rows, NDArray[np.bool_], list[NDArray[np.int32]], Rows]:
    """Return both kinds of tokens of each text, which texts are kept, and the places of tokens in them."""
    student, teacher = TOKENIZERS
    own, others = student.encode_batch(texts), teacher.encode_batch(texts, add_special_tokens=False)
    offsets = [np.array(each.offsets, dtype=np.int32).reshape(-1, 2) for each in others]
    lengths, teacher_lengths = (np.array([len(each) + 2 for each in ids]) for ids in (own.ids, others))
    kept = (lengths >= 4) & (lengths <= longest) & (teacher_lengths >= 3) & (teacher_lengths <= TEACHER_LENGTH)
    kept &= teacher_lengths <= 1.5 * lengths + 8  # one such row would stretch all that stand beside it
    ids = [np.array([student.cls_id, *each, student.sep_id]) for each in own.ids]
    return ids, [np.array([CLS, *each.ids, SEP]) for each in others], kept, own.offsets, offsets


def flat(ids: Rows, teacher_ids: Rows, kept: NDArray[np.bool_]) -> Arrays:
    """Lay the kept rows one after the other."""
    arrays: Arrays = {}
    for name, each in (("", ids), ("teacher_", teacher_ids)):
        chosen = [each[row] for row in np.flatnonzero(kept)]
        arrays[f"{name}ids"] = np.concatenate([np.zeros(0), *chosen]).astype(np.uint16)
        arrays[f"{name}lengths"] = np.array([len(row) for row in chosen], dtype=np.int32)
    return arrays


def read(work: tuple[list[str], int]) -> Arrays:
    """Return both kinds of tokens, with the number of each text's, and words: places in both, form, how many a row."""
    texts, longest = work
    ids, teacher_ids, kept, own_offsets, offsets = rows(texts, longest)
    spans = content_words(texts)
    words = np.zeros((6, 0), np.int64)
    if len(spans.owners):
        words = np.stack((spans.owners, *token_places(spans, own_offsets), *token_places(spans, offsets)))
        words = np.concatenate((words, form_keys(spans)[None] % FORMS))
    words = words[:, kept[words[0]] & (words[1] < words[2]) & (words[3] < words[4])]
    counts = np.bincount(words[0], minlength=len(texts))[kept]
    places = words[1:5].astype(np.uint8).T  # words lie in the order of their rows
    return flat(ids, teacher_ids, kept) | {
        "counts": counts.astype(np.int32),
        "places": places,
        "forms": words[5].astype(np.int32),
    }


def cloze(text: str) -> tuple[str, str] | None:
    """Return a sentence of a text, its number by chance that follows from the text, and all the others."""
    parts = [text[span.start : span.end].strip() for span in sentence_spans(text)]
    chosen = zlib.crc32(text.encode()) % max(1, len(parts))
    return (parts[chosen], " ".join(parts[:chosen] + parts[chosen + 1 :])) if len(parts) > 2 else None


def read_pairs(texts: list[str]) -> tuple[Arrays, Arrays]:
    """Return the tokens of anchors and of positives, of the pairs that are kept."""
    pairs = [tuple(text.split("\t")) if "\t" in text else cloze(text) for text in texts]
    found = [pair for pair in pairs if pair is not None]
    sides = [
        rows([pair[side] for pair in found], longest) for side, longest in enumerate((ANCHOR_LENGTH, SIZES["long"][1]))
    ]
    kept = sides[0][2] & sides[1][2]
    first, second = (flat(ids, teacher_ids, kept) for ids, teacher_ids, *_ in sides)
    return first, second


def pieces(file: Path, size: int) -> Iterator[list[str]]:
    """Yield the lines of a file, so many at a time."""
    with lzma.open(file, "rt", encoding="utf-8") as lines:
        while texts := [line.rstrip("\n") for line in islice(lines, size)]:
            yield texts


def write(file: Path, parts: Sequence[Arrays]) -> None:
    """Join the parts of an archive and write it."""
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    np.savez(file, **arrays)
    counts = f"{len(arrays['lengths']):,} texts, {len(arrays['ids']):,} tokens"
    sys.stderr.write(f"{file.stem}: {counts}, {len(arrays.get('forms', ())):,} content words\n")


def main() -> None:
    """Write OUT/short.npz and long.npz, anchors.npz and positives.npz."""
    texts, out = Path(sys.argv[1]), Path(sys.argv[2])
    with Pool(int(sys.argv[5]), start, (sys.argv[3], sys.argv[4])) as pool:
        for name, (size, longest) in SIZES.items():
            work = ((piece, longest) for piece in pieces(texts / f"{name}.txt.xz", size))
            write(out / f"{name}.npz", list(pool.imap(read, work)))
        files = (texts / "pairs.txt.xz", texts / "long.txt.xz")
        both = list(pool.imap(read_pairs, chain.from_iterable(pieces(file, PAIRS) for file in files)))
        for name, parts in zip(("anchors", "positives"), zip(*both, strict=True), strict=True):
            write(out / f"{name}.npz", parts)


if __name__ == "__main__":
    main()

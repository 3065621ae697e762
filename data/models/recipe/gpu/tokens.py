"""Texts to the tokens of the student and of the teachers, and to the places of content words in both, as flat arrays.

tokens.py TEXTS OUT STUDENT TEACHER PROCESSES: of TEXTS/short.txt.xz and long.txt.xz; STUDENT and TEACHER are
tokenizer.json files (both teachers have BERT's word pieces).
"""

import lzma
import os
import sys
from collections.abc import Iterator
from itertools import islice
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ctxembed.tokenizer import SubwordTokenizer
from ctxembed.training.targets import content_words, form_keys, token_places

FORMS = 2**21
"""Keys of word forms are taken modulo this."""
SIZES = {"short": (4000, 128), "long": (500, 224)}
"""Texts of a piece of work, and the student's most tokens of a text: longer ones are left out."""
TEACHER_LENGTH, CLS, SEP = 256, 101, 102

Arrays = tuple[NDArray[np.uint16], NDArray[np.int32], NDArray[np.uint16], NDArray[np.int32], NDArray[np.int32]]
TOKENIZERS: list[object] = []


def start(student: str, teacher: str) -> None:
    """Load both tokenizers in a process."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    other = Tokenizer.from_file(teacher)
    other.no_padding()
    other.no_truncation()
    TOKENIZERS[:] = [SubwordTokenizer.load(student), other]


def read(work: tuple[list[str], int]) -> Arrays:
    """Return both kinds of tokens, with the number of each text's, and words: row, places in both, form."""
    texts, longest = work
    student, teacher = TOKENIZERS
    own, others = student.encode_batch(texts), teacher.encode_batch(texts, add_special_tokens=False)
    offsets = [np.array(each.offsets, dtype=np.int32).reshape(-1, 2) for each in others]
    lengths, teacher_lengths = (np.array([len(each) + 2 for each in ids]) for ids in (own.ids, others))
    kept = (lengths >= 4) & (lengths <= longest) & (teacher_lengths >= 3) & (teacher_lengths <= TEACHER_LENGTH)
    kept &= teacher_lengths <= 1.5 * lengths + 8  # one such row would stretch all that stand beside it
    spans = content_words(texts)
    words = np.stack((spans.owners, *token_places(spans, own.offsets), *token_places(spans, offsets)))
    words = np.concatenate((words, form_keys(spans)[None] % FORMS)) if len(spans.owners) else np.zeros((6, 0), np.int64)
    words = words[:, kept[words[0]] & (words[1] < words[2]) & (words[3] < words[4])]
    words[0] = (np.cumsum(kept) - 1)[words[0]]
    rows = np.flatnonzero(kept)
    ids = [np.array([student.cls_id, *own.ids[row], student.sep_id]) for row in rows]
    teacher_ids = [np.array([CLS, *others[row].ids, SEP]) for row in rows]
    flat, teacher_flat = (np.concatenate([np.zeros(0), *each]).astype(np.uint16) for each in (ids, teacher_ids))
    return (
        flat,
        lengths[rows].astype(np.int32),
        teacher_flat,
        teacher_lengths[rows].astype(np.int32),
        words.astype(np.int32),
    )


def pieces(file: Path, size: int, longest: int) -> Iterator[tuple[list[str], int]]:
    """Yield the work."""
    with lzma.open(file, "rt", encoding="utf-8") as lines:
        while texts := [line.rstrip("\n") for line in islice(lines, size)]:
            yield texts, longest


def main() -> None:
    """Write OUT/short.npz and long.npz."""
    texts, out = Path(sys.argv[1]), Path(sys.argv[2])
    with Pool(int(sys.argv[5]), start, (sys.argv[3], sys.argv[4])) as pool:
        for name, (size, longest) in SIZES.items():
            parts = list(pool.imap(read, pieces(texts / f"{name}.txt.xz", size, longest)))
            first = np.cumsum([0, *(len(part[1]) for part in parts)])
            for part, start_row in zip(parts, first, strict=False):
                part[4][0] += start_row
            ids, lengths, teacher_ids, teacher_lengths = (np.concatenate([part[n] for part in parts]) for n in range(4))
            words = np.concatenate([part[4] for part in parts], axis=1)
            np.savez(
                out / f"{name}.npz",
                ids=ids,
                lengths=lengths,
                teacher_ids=teacher_ids,
                teacher_lengths=teacher_lengths,
                counts=np.bincount(words[0], minlength=len(lengths)).astype(np.int32),
                places=words[1:5].astype(np.uint8),
                forms=words[5],
            )
            sys.stderr.write(f"{name}: {len(lengths):,} texts, {len(ids):,} tokens, {words.shape[1]:,} content words\n")


if __name__ == "__main__":
    main()

"""Word vectors of other programs: word2vec text and binary, GloVe text, fastText .vec and .bin; written as word2vec.

Their words become lookup forms (``text.word_form``), so that a comparison uses one definition of a word: of the entries
that fall together the one that is its own form is kept, else the first, which is the most frequent; entries that are
no single word, such as phrases and punctuation, are left out and counted.
"""

from __future__ import annotations

import gzip
import struct
from array import array
from collections.abc import Mapping, Sequence
from io import BufferedIOBase
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ctxembed.errors import ArtifactError, InvalidInputError
from ctxembed.runtime import atomic_path, existing, sha256_file
from ctxembed.subwords import Subwords
from ctxembed.text import word_form, word_forms
from ctxembed.types import Scalar, Vectors

WordFormat: TypeAlias = Literal["word2vec text", "word2vec binary", "GloVe text", "fastText binary"]
ZIPF_OFFSET = 2.7
"""In the frequency of the word of rank r, which is in proportion to 1 / (r + this) (Mandelbrot 1953)."""

_FASTTEXT_MAGIC = struct.pack("<i", 793712314)
_HEAD = 1 << 16
_REPLACED = "\ufffd"


class WordTable(NamedTuple):
    """What a file or folder of word vectors holds."""

    words: Sequence[str]
    """V distinct lookup forms, most frequent first."""
    vectors: NDArray[Any]
    """float16 or float32 (V, D)."""
    counts: NDArray[np.int64]
    """(V,), occurrences of each word."""
    notes: Mapping[str, Any]
    """Where they come from."""
    subwords: Subwords | None


def read_word_file(path: str | Path) -> WordTable:
    """Read word vectors that another program wrote; the format is recognised by the file's first bytes.

    Such files give no counts, only the order of the words: the counts are those of Zipf's law. The notes have the
    file's name, hash and format, and how many entries there were and how many became words.

    Args:
        path: The file; text and word2vec binary also as .gz.

    Raises:
        MissingInputError: If it does not exist.
        InvalidInputError: If it is of no known format, or a pickle of gensim, which could run anybody's code.
        ArtifactError: If it is damaged.
    """
    path = existing(path)
    kind = word_format(path)
    entries, vectors, subwords = _read(path, kind)
    if not entries:
        raise InvalidInputError(f"{path} holds no word: fetch or write it again")
    rows, words = _kept(entries)
    if not rows:
        raise InvalidInputError(f"none of the {len(entries)} entries of {path} is a word, such as {entries[0]!r}")
    counts = (1e7 / (np.array(rows) + 1 + ZIPF_OFFSET)).astype(np.int64) + 1
    notes: dict[str, Scalar] = {"source": path.name, "sha256": sha256_file(path), "format": kind}
    notes |= {"entries": len(entries), "words": len(rows), "counts": "estimated from the order by Zipf's law"}
    return WordTable(words, np.ascontiguousarray(vectors[rows], dtype=np.float32), counts, notes, subwords)


def write_word_file(path: Path, words: Sequence[str], vectors: NDArray[Any]) -> None:
    """Write words and vectors as word2vec does: binary for a name that ends in .bin, else text.

    Args:
        path: The file, replaced in one step.
        words: V words without white space.
        vectors: (V, D), written as float32.

    Raises:
        InvalidInputError: If a word holds white space, at which such files are cut.
    """
    from gensim.models import KeyedVectors

    unfit = [word for word in words if word.split() != [word]]
    if unfit:
        raise InvalidInputError(f"{len(unfit)} words hold white space, as {unfit[0]!r}: word2vec files cannot")
    table = KeyedVectors(vectors.shape[1])
    table.add_vectors(list(words), np.asarray(vectors, dtype=np.float32))
    with atomic_path(path) as temporary:
        table.save_word2vec_format(str(temporary), binary=path.suffix == ".bin")


def word_format(path: Path) -> WordFormat:
    """Recognise a file of word vectors.

    Raises:
        InvalidInputError: If it is none, or a pickle.
    """
    try:
        with _opened(path) as stream:
            head = stream.read(_HEAD)
    except (OSError, EOFError) as error:
        raise ArtifactError(f"{path} is damaged ({error}): fetch or write it again") from error
    if head[:4] == _FASTTEXT_MAGIC:
        return "fastText binary"
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        raise InvalidInputError(
            f"{path} is a pickle, as gensim's own save() writes; loading one can run any code. If you trust it, write "
            f"it anew: KeyedVectors.load({path.name!r}).save_word2vec_format('vectors.bin', binary=True), for a whole "
            "Word2Vec or FastText model its .wv"
        )
    first, _, rest = head.partition(b"\n")
    fields = first.split()
    if len(fields) == 2 and all(field.isdigit() for field in fields):
        line = rest.partition(b"\n")[0].rstrip().split(b" ")
        return "word2vec text" if len(line) == int(fields[1]) + 1 and _numbers(line[1:]) else "word2vec binary"
    if len(fields) > 2 and _numbers(fields[1:]):
        return "GloVe text"
    raise InvalidInputError(
        f"{path} is no file of word vectors (word2vec text or binary, GloVe text, fastText .vec or .bin), and no "
        "folder of `ctxembed train static`"
    )


def _read(path: Path, kind: WordFormat) -> tuple[list[str], Vectors, Subwords | None]:
    """Return all entries with their vectors, and the n-grams of a fastText model."""
    from gensim.models import KeyedVectors
    from gensim.models.fasttext import load_facebook_vectors

    try:
        if kind == "fastText binary":
            model = load_facebook_vectors(str(path))
            subwords = Subwords(model.vectors_ngrams, model.min_n, model.max_n) if model.bucket else None
            return model.index_to_key, model.vectors, subwords
        if kind == "GloVe text":
            return *_read_glove(path), None
        table = KeyedVectors.load_word2vec_format(
            str(path),
            binary=kind == "word2vec binary",
            unicode_errors="replace",  # word2vec cuts long words in the middle of a character
        )
    except (ValueError, EOFError, OSError, KeyError, IndexError, struct.error, AssertionError) as error:
        raise ArtifactError(f"{path} is damaged, or no {kind} ({error}): fetch or write it again") from error
    return table.index_to_key, table.vectors, None


def _read_glove(path: Path) -> tuple[list[str], Vectors]:
    """Read GloVe text, where an entry may hold blanks, as ". . ." does: a line's last fields are its numbers.

    Raises:
        ValueError: If a line has fewer numbers than the first, or something else in their place.
    """
    entries: list[str] = []
    numbers = array("f")
    with _opened(path) as stream:
        width = len(stream.readline().split()) - 1
        stream.seek(0)
        for line in stream:
            entry, *fields = line.rstrip().rsplit(b" ", width)
            if len(fields) < width:
                raise ValueError(f"line {len(entries) + 1} has {len(fields)} numbers, the first {width}")
            entries.append(entry.decode("utf-8", "replace"))
            numbers.extend(map(float, fields))
    return entries, np.frombuffer(numbers, dtype=np.float32).reshape(-1, width)


def _opened(path: Path) -> BufferedIOBase:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def _kept(entries: Sequence[str]) -> tuple[list[int], list[str]]:
    """Return the rows to keep, in order, and their lookup forms."""
    present, seen = set(entries), set()
    rows, words = [], []
    for row, entry in enumerate(entries):
        form = word_form(entry)
        other = form in seen or (form != entry and form in present)
        if other or _REPLACED in entry or word_forms(entry) != [form]:
            continue
        seen.add(form)
        rows.append(row)
        words.append(form)
    return rows, words


def _numbers(fields: Sequence[bytes]) -> bool:
    try:
        return all(np.isfinite(float(field)) for field in fields)
    except ValueError:
        return False

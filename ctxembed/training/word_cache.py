"""A teacher's word vectors in a cache on disk that is small enough to keep: a few principal axes, a byte each.

A cache is a folder of vector folders, ``words`` and ``axes`` (the mean, then the directions). An interrupted one is
continued, a finished one is only read.

Letters: N documents, W words, P teacher width, R reduced width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctxembed.config import check
from ctxembed.corpus import require_restartable, sample_documents
from ctxembed.runtime import batched, sha256_text
from ctxembed.text import word_form
from ctxembed.training.targets import Integers, content_words, form_means, text_keys
from ctxembed.types import Document, Scalar, TextEncoder, Usage, UsageEncoder, Vectors
from ctxembed.units import embed_corpus, embed_documents
from ctxembed.vector_writer import VectorWriter, to_stored
from ctxembed.vectors import Row, VectorFolder, encoder_settings, from_stored

ROW_BYTES = 28
"""What a row takes on disk beside its values and its text: scale, id, place and hash, compressed."""
TEXT_SHARE = 0.5
"""What a text takes of its length, compressed."""
HELD_OUT = 5
"""One document in so many of the sample measures the axes; the others make them."""


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """What a teacher is asked for, and how its answers are kept."""

    layer: int | None = None
    """The layer of its word vectors; its own choice by default."""
    width: int = 256
    """Principal axes of its word vectors that a cache keeps, all of a teacher that has no more. Of layer 5 of
    all-mpnet-base-v2, 768 wide, 256 axes keep a mean cosine of .89 (centred) and .78 (what the context adds), 384 axes
    .94 and .88, 512 axes .97 and .95; that they are kept in bytes costs less than .0001."""
    max_bytes: int | None = None
    """Most bytes of a cache; documents that would not fit are left out by chance."""
    sample_words: int = 50_000
    """Words that the axes of a cache, or the means of a teacher that is asked batch by batch, are taken from."""
    seed: int = 0
    """Decides every sample."""

    def __post_init__(self) -> None:
        for name in ("width", "sample_words"):
            check(getattr(self, name) >= 1, f"{name} = {getattr(self, name)}: must be at least 1")
        check(
            self.max_bytes is None or self.max_bytes >= 1,
            f"max_bytes = {self.max_bytes}: must be at least 1, or left out for no limit",
        )


def cache_word_vectors(
    documents: Iterable[Document],
    *,
    teacher: UsageEncoder,
    path: Path,
    config: TeacherConfig | None = None,
    tell: Callable[[str], None] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> VectorFolder:
    """Keep a teacher's vectors of content words on its principal axes (Jolliffe 2002, chapter 2), a byte each.

    The axes are orthogonal and the mean is left out, so that cosines between what a student
    learns from, centred vectors and their differences, are those of the whole vectors but for what lies off the axes.

    Args:
        documents: Restartable.
        teacher: Whose vectors they are.
        path: The folder for ``axes`` and ``words``; what is finished there is not computed again.
        config: The layer, the width and the limit.
        tell: Called with the size before anything is computed, and with what the axes lose.
        on_progress: Called with the number of documents done since its last call.

    Returns:
        The folder ``words``, for ``VectorTargets``.

    Raises:
        InvalidInputError: If no document has a content word, or none fits.
        ArtifactError: If the folder was begun with another teacher, layer, width or text.
    """
    config = config or TeacherConfig()
    chosen = choose_documents(documents, None, teacher, config=config)
    if tell:
        tell(chosen.summary)
    return write_words(chosen, teacher, path=path, config=config, tell=tell, on_progress=on_progress)


@dataclass(frozen=True)
class ChosenDocuments:
    """The documents that a cache will be made of, and how large it will be; restartable."""

    documents: Iterable[Document]
    kept: NDArray[np.bool_]
    """(N,)."""
    num_words: int
    """Content words of those kept."""
    num_bytes: int
    """Of their cache, about."""
    all_bytes: int
    """Of the cache of all, about."""

    def __iter__(self) -> Iterator[Document]:
        return compress(self.documents, self.kept.tolist())

    def __len__(self) -> int:
        return int(self.kept.sum())

    @property
    def summary(self) -> str:
        """A line that says so."""
        line = f"{len(self):,} documents, {self.num_words:,} content words: about {_megabytes(self.num_bytes)}"
        if len(self) < len(self.kept):
            line += f"; drawn from {len(self.kept):,}, which would take {_megabytes(self.all_bytes)}"
        return line


def choose_documents(
    documents: Iterable[Document],
    sentence_teacher: TextEncoder | None,
    word_teacher: UsageEncoder | None,
    *,
    config: TeacherConfig,
) -> ChosenDocuments:
    """Count what a cache will hold, and draw so many documents that it keeps to its limit; no teacher is asked.

    Raises:
        InvalidInputError: If there is no document, or not one fits.
    """
    require_restartable(documents)
    fixed, of_word, of_sentence = 0.0, 0, 0
    if word_teacher:
        width = min(config.width, word_teacher.dimension)
        of_word, fixed = width + ROW_BYTES, 4.0 * (width + 1) * word_teacher.dimension
    if sentence_teacher:
        of_sentence = sentence_teacher.dimension + ROW_BYTES
    lengths, counts = _measured(documents)
    check(len(lengths) > 0, "there is no text to ask a teacher about: check the input and its text column")
    folders = bool(of_word) + bool(of_sentence)
    sizes = of_word * counts + of_sentence + TEXT_SHARE * folders * lengths
    kept = np.ones(len(sizes), dtype=np.bool_)
    if config.max_bytes is not None and fixed + sizes.sum() > config.max_bytes:
        order = np.random.default_rng([config.seed, 0xCAC4E]).permutation(len(sizes))
        kept[order] = fixed + np.cumsum(sizes[order]) <= config.max_bytes
        needed = fixed + float(sizes[order[0]])
        check(bool(kept.any()), f"max_bytes = {config.max_bytes}: the first document takes {needed:.0f}, raise it")
    return ChosenDocuments(
        documents,
        kept,
        num_words=int(counts[kept].sum()),
        num_bytes=round(fixed + sizes[kept].sum()),
        all_bytes=round(fixed + sizes.sum()),
    )


def _measured(documents: Iterable[Document]) -> tuple[Integers, Integers]:
    """Return characters and content words of each document, (N,) each."""
    lengths: list[int] = []
    counts: list[int] = []
    for batch in batched(documents, 1024):
        texts = [document.text for document in batch]
        lengths += map(len, texts)
        counts += np.bincount(content_words(texts).owners, minlength=len(texts)).tolist()
    return np.array(lengths, dtype=np.int64), np.array(counts, dtype=np.int64)


class ReducedTeacher:
    """A ``UsageEncoder`` that gives another's vectors, less their mean, on their principal axes: not normalised."""

    def __init__(self, teacher: UsageEncoder, axes: VectorFolder) -> None:
        self._teacher = teacher
        self._mean, self._axes = np.split(axes.vectors(), [1])
        self.dimension = len(self._axes)
        self.name = f"{teacher.name} on {self.dimension} axes"
        self.fingerprint = sha256_text(teacher.fingerprint, *(part.vectors_sha256 for part in axes.manifest.parts))

    def encode_usages(self, usages: Sequence[Usage], *, layer: int | None = None) -> Vectors:
        """Return float32 (N, R); a word that has no vector is a zero row."""
        vectors = self._teacher.encode_usages(usages, layer=layer)
        reduced = (vectors - self._mean) @ self._axes.T
        return np.where(np.any(vectors, axis=1, keepdims=True), reduced, np.float32(0))


def principal_axes(vectors: Vectors, *, width: int) -> tuple[Vectors, Vectors]:
    """Return the mean (P,), and the directions (R, P) in which vectors (N, P) differ most, orthonormal, first to last.

    >>> mean, axes = principal_axes(np.array([[1, 0], [3, 0], [2, 0.1]], dtype=np.float32), width=1)
    >>> axes.round(1).tolist()
    [[1.0, 0.0]]
    """
    mean = vectors.mean(axis=0, dtype=np.float64)
    centred = vectors - mean
    _, directions = np.linalg.eigh(centred.T @ centred)  # ascending, in columns
    axes = directions[:, ::-1][:, :width].T
    strongest = np.abs(axes).argmax(axis=1)
    axes *= np.sign(axes[np.arange(len(axes)), strongest])[:, None]  # an axis has no sign of its own: fix it
    return mean.astype(np.float32), axes.astype(np.float32)


def write_words(
    chosen: ChosenDocuments,
    teacher: UsageEncoder,
    *,
    path: Path,
    config: TeacherConfig,
    tell: Callable[[str], None] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> VectorFolder:
    """Fit the axes and write the words of documents that are chosen; see ``cache_word_vectors``."""
    check(chosen.num_words > 0, "the texts hold no content word to ask a teacher about: check the input")
    axes = _written_axes(chosen, teacher, path=path / "axes", config=config)
    if tell:
        facts = next(axes.rows()).metadata
        tell(
            f"{len(axes) - 1} of {teacher.dimension} axes: mean cosine {facts['cosine']} to the vectors themselves, "
            f"{facts['centred_cosine']} centred, {facts['residual_cosine']} of what the context adds "
            f"({facts['measured_words']:,} words; {facts['fitted_words']:,} others made the axes)"
        )
    return embed_corpus(
        chosen,
        encoder=ReducedTeacher(teacher, axes),
        path=path / "words",
        unit="content-word",
        layer=config.layer,
        resume=True,
        dtype="int8",
        on_progress=on_progress,
    )


def _written_axes(chosen: ChosenDocuments, teacher: UsageEncoder, *, path: Path, config: TeacherConfig) -> VectorFolder:
    size = math.ceil(config.sample_words * len(chosen) / chosen.num_words)
    sample = sample_documents(chosen, size=min(size, len(chosen)), seed=config.seed)
    width = min(config.width, teacher.dimension)
    settings = {**encoder_settings(teacher, unit="content-word", layer=config.layer), "width": width}
    with VectorWriter(path, settings=settings, dimension=teacher.dimension, resume=True) as writer:
        todo = list(writer.skip_done(sample))  # refuses a sample of other texts
        if not writer.finished:
            mean, axes, facts = _fitted(todo, teacher, width=width, layer=config.layer)
            rows = [Row("mean", "", metadata=facts), *(Row(f"axis {number}", "") for number in range(width))]
            writer.append(rows, np.vstack((mean, axes)), documents=todo)
    return VectorFolder.open(path)


def _fitted(
    sample: Sequence[Document], teacher: UsageEncoder, *, width: int, layer: int | None
) -> tuple[Vectors, Vectors, dict[str, Scalar]]:
    """Return mean, axes, and how much they keep of the words of held-out documents (of all, if there are too few)."""
    parts = [
        embed_documents(part, teacher, unit="content-word", layer=layer)
        for part in ([document for place, document in enumerate(sample) if place % HELD_OUT], sample[::HELD_OUT])
    ]
    rows, vectors = [row for part, _ in parts for row in part], np.concatenate([part for _, part in parts])
    says = np.asarray(vectors.any(axis=1))
    late = np.arange(len(rows)) >= len(parts[0][0])
    measured, fitting = says & late, says & ~late
    if not measured.any() or not fitting.any():
        measured = fitting = says
    check(bool(says.any()), f"{teacher.name} has no vector for any word of the sample: use another teacher or layer")
    mean, axes = principal_axes(vectors[fitting], width=width)
    stored = from_stored(to_stored((vectors - mean) @ axes.T, "int8"))
    restored = stored @ axes + mean
    forms = text_keys([word_form(row.text[row.start : row.end]) for row in rows])
    residuals, kept = (
        form_means(forms, [each], dimension=each.shape[1])[0].residuals(forms, each) for each in (vectors, restored)
    )
    common = measured & residuals.any(axis=1)
    facts: dict[str, Scalar] = {
        "fitted_words": int(fitting.sum()),
        "measured_words": int(measured.sum()),
        "cosine": _mean_cosine(vectors[measured], restored[measured]),
        "centred_cosine": _mean_cosine((vectors - mean)[measured], stored[measured] @ axes),
        "residual_cosine": _mean_cosine(residuals[common], kept[common]),
    }
    return mean, axes, facts


def _mean_cosine(first: Vectors, second: Vectors) -> float | None:
    """Return the mean cosine of rows to four digits, None without rows."""
    if not len(first):
        return None
    products = np.einsum("nd,nd->n", first, second)
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return round(float((products / np.maximum(lengths, 1e-12)).mean()), 4)


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.1f} MB"

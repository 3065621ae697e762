"""Teachers as targets: asked batch by batch, or once, into a cache on disk.

Letters: N texts, W words, P teacher width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ctxembed.config import check
from ctxembed.runtime import batched
from ctxembed.tokenizer import SubwordTokenizer
from ctxembed.training.distributed import barrier, rank
from ctxembed.training.objectives.distill import TeacherBatch, TeacherTargets
from ctxembed.training.targets import (
    FormMeans,
    Integers,
    TextRows,
    VectorTargets,
    content_words,
    form_keys,
    form_means,
    teacher_batch,
    token_places,
)
from ctxembed.training.word_cache import TeacherConfig, choose_documents, write_words
from ctxembed.types import Document, TextEncoder, Usage, UsageEncoder, Vectors
from ctxembed.units import embed_corpus
from ctxembed.vectors import Spans, VectorFolder

TEXTS_AT_ONCE = 1024


def teach(
    documents: Iterable[Document],
    *,
    tokenizer: SubwordTokenizer,
    max_length: int,
    sentence_teacher: TextEncoder | None = None,
    word_teacher: UsageEncoder | None = None,
    cache: Path | None = None,
    config: TeacherConfig | None = None,
    tell: Callable[[str], None] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> TeacherTargets:
    """Make targets of texts and their teachers.

    With several processes the first fills the cache and the others wait; fill a large one beforehand, alone.

    Args:
        documents: Restartable; each text is a row.
        tokenizer: The student's.
        max_length: Texts of more tokens are left out.
        sentence_teacher: Gives a vector for each text.
        word_teacher: Gives a vector for each content word of a text.
        cache: The folder to keep the vectors in; without it teachers are asked for every batch, in every epoch.
        config: What is asked for, and how it is kept.
        tell: Called with a line about the size of the cache, what the axes lose, or where the means come from.
        on_progress: Called with the number of documents done since its last call, for each teacher in turn.

    Raises:
        InvalidInputError: If there is no teacher, no text, or no room.
        ArtifactError: If the cache is of another teacher, layer, width or text.
    """
    config = config or TeacherConfig()
    check(bool(sentence_teacher or word_teacher), "no teacher is given: name one for sentences, for words, or both")
    if cache is None:
        texts = (document.text for document in documents)
        return LiveTargets(
            texts,
            tokenizer=tokenizer,
            max_length=max_length,
            sentence_teacher=sentence_teacher,
            word_teacher=word_teacher,
            config=config,
            tell=tell,
        )
    if rank() == 0:
        chosen = choose_documents(documents, sentence_teacher, word_teacher, config=config)
        if tell:
            tell(chosen.summary)
        if sentence_teacher:
            embed_corpus(
                chosen,
                encoder=sentence_teacher,
                path=cache / "sentences",
                resume=True,
                dtype="int8",
                on_progress=on_progress,
            )
        if word_teacher:
            write_words(chosen, word_teacher, path=cache, config=config, tell=tell, on_progress=on_progress)
    barrier()
    return VectorTargets(
        tokenizer,
        sentences=[VectorFolder.open(cache / "sentences", verify=False)] if sentence_teacher else [],
        words=[VectorFolder.open(cache / "words", verify=False)] if word_teacher else [],
        max_length=max_length,
    )


class LiveTargets:
    """Satisfies ``TeacherTargets``: asks the teachers about the texts of each batch, again in every epoch."""

    def __init__(
        self,
        texts: Iterable[str],
        *,
        tokenizer: SubwordTokenizer,
        max_length: int,
        sentence_teacher: TextEncoder | None = None,
        word_teacher: UsageEncoder | None = None,
        config: TeacherConfig | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        """Tokenise the texts, keep them as bytes, and estimate the means that are subtracted from word vectors.

        Args:
            texts: Read once; equal texts are one row.
            tokenizer: The student's.
            max_length: Texts of more tokens, or of none, are left out and counted in ``skipped_long``.
            sentence_teacher: Gives a vector for each text.
            word_teacher: Gives a vector for each content word. Zero vectors and words without a token are left out, and
                counted in ``skipped_vectors`` as they are met.
            config: The layer, and the sample that the means are estimated from.
            tell: Called with a line about that sample.

        Raises:
            InvalidInputError: If no text is left.
        """
        self._tokenizer, self._config = tokenizer, config or TeacherConfig()
        self._sentence_teacher, self._word_teacher = sentence_teacher, word_teacher
        self.sentence_dimension = sentence_teacher.dimension if sentence_teacher else 0
        self.word_dimension = word_teacher.dimension if word_teacher else 0
        self.skipped_vectors = 0
        rows = TextRows(tokenizer, max_length=max_length)
        self._bytes, self._starts = _kept_texts(texts, rows, tokenizer)
        self.skipped_long = rows.skipped
        self.store = rows.store("there is")
        self._means, self.mean_words = self._estimated_means()
        """How many words of the sample have a vector."""
        if tell and word_teacher:
            forms = len(self._means.forms)
            tell(f"means of {forms:,} word forms, from a seeded sample of {self.mean_words:,} content words")

    @property
    def settings(self) -> dict[str, Any]:
        """The teachers, the sample behind the means, and a hash of the texts."""
        config, teachers = self._config, {"sentences": self._sentence_teacher, "words": self._word_teacher}
        layers = {"sentences": None, "words": config.layer}
        return {
            "teachers": {
                kind: {"fingerprint": teacher.fingerprint, "layer": layers[kind]} if teacher else {}
                for kind, teacher in teachers.items()
            },
            "rows_sha256": self.store.sha256,
            "means": {"sample_words": config.sample_words, "seed": config.seed},
        }

    def lookup(self, rows: Integers) -> TeacherBatch:
        """Ask about some rows of the store."""
        texts = [self.text(row) for row in rows.tolist()]
        sentences = np.zeros((len(texts), 0), dtype=np.float32)
        if self._sentence_teacher:
            sentences = self._sentence_teacher.encode(texts)
        known = sentences.any(axis=1)
        self.skipped_vectors += int((~known).sum()) if self._sentence_teacher else 0
        spans = content_words(texts if self._word_teacher else [])
        places = np.stack((spans.owners, *token_places(spans, self._tokenizer.encode_batch(spans.texts).offsets)))
        vectors = self._ask(spans)
        says = vectors.any(axis=1) & (places[1] < places[2])
        self.skipped_vectors += int((~says).sum())
        return teacher_batch(
            sentence_rows=np.flatnonzero(known),
            sentences=sentences[known],
            places=np.concatenate((places, form_keys(spans)[None]))[:, says],
            words=vectors[says],
            means=self._means,
        )

    def text(self, row: int) -> str:
        """Return the text of a row."""
        return self._bytes[self._starts[row] : self._starts[row + 1]].decode("utf-8", "surrogatepass")

    def _ask(self, spans: Spans) -> Vectors:
        """Return the vectors of words, (W, P)."""
        if self._word_teacher is None or not len(spans.owners):
            return np.zeros((len(spans.owners), self.word_dimension), dtype=np.float32)
        words = zip(spans.owners.tolist(), spans.starts.tolist(), spans.ends.tolist(), strict=True)
        usages = [Usage(spans.texts[owner], start, end) for owner, start, end in words]
        return self._word_teacher.encode_usages(usages, layer=self._config.layer)

    def _estimated_means(self) -> tuple[FormMeans, int]:
        """Ask about the words of texts drawn by seed, until they are ``sample_words``."""
        parts: list[Spans] = []
        if self._word_teacher:
            order = np.random.default_rng([self._config.seed, 0x3EA5]).permutation(len(self.store))
            missing = self._config.sample_words
            for start in range(0, len(order), TEXTS_AT_ONCE):
                parts.append(content_words([self.text(row) for row in order[start : start + TEXTS_AT_ONCE].tolist()]))
                missing -= len(parts[-1].owners)
                if missing <= 0:
                    break
        forms = np.concatenate([np.zeros(0, dtype=np.int64), *map(form_keys, parts)])
        means, says = form_means(forms, map(self._ask, parts), dimension=self.word_dimension)
        return means, int(says.sum())


def _kept_texts(texts: Iterable[str], rows: TextRows, tokenizer: SubwordTokenizer) -> tuple[bytes, Integers]:
    """Return the texts that are rows as UTF-8, end to end, and where each starts, (N + 1,)."""
    kept, lengths = bytearray(), [0]
    for part in batched(texts, TEXTS_AT_ONCE):
        first = len(rows)
        numbers, firsts = np.unique(rows.add(part, tokenizer.encode_ids(part)), return_index=True)
        for place in firsts[numbers >= first].tolist():
            data = part[place].encode("utf-8", "surrogatepass")
            kept += data
            lengths.append(len(data))
    return bytes(kept), np.cumsum(lengths)

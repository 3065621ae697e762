"""From documents to rows with vectors: one row for each text, each word, or each token."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, get_args, runtime_checkable

from ctxembed.config import check
from ctxembed.errors import InvalidInputError
from ctxembed.runtime import release_memory
from ctxembed.text import is_content_word, word_form, word_spans
from ctxembed.types import Document, Span, TextEncoder, Usage, UsageEncoder, Vectors
from ctxembed.vector_writer import VectorWriter
from ctxembed.vectors import Row, VectorFolder, encoder_settings

Unit: TypeAlias = Literal["sentence", "word", "content-word", "token"]
AnyEncoder: TypeAlias = TextEncoder | UsageEncoder


@runtime_checkable
class TokenSpans(Protocol):
    """An encoder that can say where its tokens stand."""

    def token_spans(self, text: str) -> list[Span]:
        """Return the tokens of a text."""
        ...


def embed_documents(
    documents: Sequence[Document], encoder: AnyEncoder, *, unit: Unit = "sentence", layer: int | None = None
) -> tuple[list[Row], Vectors]:
    """Encode some documents.

    Args:
        documents: Any number, all held in memory.
        encoder: What makes the vectors.
        unit: A row for each whole document ("sentence", whatever its length), each word, each word that is no
            function word, or each token.
        layer: For words and tokens, the layer to read; the encoder's choice by default.

    Returns:
        Rows, and float32 (N, D) L2-normalised; words and tokens have the id ``DOCUMENT#START-END``.

    Raises:
        InvalidInputError: If the encoder does not know the unit, or a layer is given for sentences.
    """
    check(unit in get_args(Unit), f"unit {unit!r}: must be one of {', '.join(get_args(Unit))}")
    if unit == "sentence":
        check(layer is None, f"layer = {layer}: sentence vectors have no layer to choose, leave it out or use words")
        if not isinstance(encoder, TextEncoder):
            raise InvalidInputError(f"{encoder.name} makes no sentence vectors: choose another unit or model")
        rows = [Row(document.id, document.text, metadata=document.metadata) for document in documents]
        return rows, encoder.encode([document.text for document in documents])
    if not isinstance(encoder, UsageEncoder):
        raise InvalidInputError(f"{encoder.name} makes no word vectors: choose another unit or model")
    find = _span_finder(encoder, unit)
    found = [(document, span) for document in documents for span in find(document.text)]
    rows = [
        Row(f"{document.id}#{span.start}-{span.end}", document.text, span.start, span.end, document.metadata)
        for document, span in found
    ]
    usages = [Usage(document.text, span.start, span.end) for document, span in found]
    return rows, encoder.encode_usages(usages, layer=layer)


def embed_corpus(
    documents: Iterable[Document],
    *,
    encoder: AnyEncoder,
    path: str | Path,
    unit: Unit = "sentence",
    layer: int | None = None,
    resume: bool = False,
    batch_size: int | None = None,
    on_progress: Callable[[int], None] | None = None,
    **writing: Any,
) -> VectorFolder:
    """Encode a stream of documents into a vector folder, with memory that does not grow with the stream.

    Args:
        documents: Read once.
        encoder: What makes the vectors.
        path: The folder.
        unit: See ``embed_documents``.
        layer: See ``embed_documents``.
        resume: Continue an interrupted folder; its finished parts are kept.
        batch_size: Documents encoded at a time; 16,384 sentences by default, or the words of 2,048.
        on_progress: Called with the number of documents done since its last call.
        writing: More arguments of ``VectorWriter`` (``part_rows``, ``dtype``).

    Returns:
        The finished folder, not verified again.

    Raises:
        InvalidInputError: If the folder is taken.
        ArtifactError: If the folder to be resumed had another model, unit or input.
    """
    if batch_size is None:  # many texts of one length fill a batch; many words would fill the memory
        batch_size = 16_384 if unit == "sentence" else 2048
    check(batch_size >= 1, f"batch_size is {batch_size}, need at least 1: leave it out")
    settings = encoder_settings(encoder, unit=unit, layer=layer)
    with VectorWriter(Path(path), settings=settings, dimension=encoder.dimension, resume=resume, **writing) as writer:
        if on_progress and writer.documents:
            on_progress(writer.documents)
        stream = writer.skip_done(documents)
        while batch := list(itertools.islice(stream, batch_size)):
            rows, vectors = embed_documents(batch, encoder, unit=unit, layer=layer)
            writer.append(rows, vectors, documents=batch)
            del rows, vectors
            release_memory()
            if on_progress:
                on_progress(len(batch))
    return VectorFolder.open(path, verify=False)


def _span_finder(encoder: AnyEncoder, unit: Unit) -> Callable[[str], list[Span]]:
    if unit == "word":
        return word_spans
    if unit == "content-word":
        return lambda text: [span for span in word_spans(text) if is_content_word(word_form(span.text))]
    if not isinstance(encoder, TokenSpans):
        raise InvalidInputError(f"{encoder.name} has no tokens: use --unit word")
    return encoder.token_spans

"""From documents to rows with vectors: one row for each text, each word, or each token."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, get_args, runtime_checkable

import numpy as np

from ctxembed.config import check
from ctxembed.errors import InvalidInputError
from ctxembed.reuse import KnownVectors
from ctxembed.runtime import batched, release_memory
from ctxembed.text import is_content_word, word_form, word_spans
from ctxembed.types import Document, Layer, Span, TextEncoder, Usage, UsageEncoder, Vectors
from ctxembed.vector_table import writing_table
from ctxembed.vector_writer import StorageLoss, VectorWriter
from ctxembed.vectors import Row, VectorFolder, encoder_settings

Unit: TypeAlias = Literal["sentence", "word", "content-word", "token"]
AnyEncoder: TypeAlias = TextEncoder | UsageEncoder


@runtime_checkable
class TokenSpans(Protocol):
    """An encoder that can say where its tokens stand."""

    def token_spans(self, text: str) -> list[Span]:
        """Return the tokens of a text."""
        ...


@runtime_checkable
class LayerMeans(Protocol):
    """An encoder that can average several layers."""

    def layer_numbers(self, layer: Layer | None = None) -> tuple[int, ...]:
        """Return the layers that ``layer`` names."""
        ...

    def encode_usages(self, usages: Sequence[Usage], *, layer: Layer | None = None) -> Vectors:
        """Return float32 (N, D), L2-normalised."""
        ...


class Selection(Protocol):
    """Which words of a document become rows, where not all do."""

    @property
    def record(self) -> Mapping[str, Any]:
        """What decides the choice, as JSON values: kept in the folder's settings, so that no two choices mix."""
        ...

    def spans(self, document: Document) -> list[Span]:
        """Return the words of a document that are chosen, in reading order."""
        ...


@dataclass
class EmbedCounts:
    """What a run met so far; ``summary`` says it in words."""

    rows: int = 0
    """Rows of this run: those of a resumed folder's finished parts are not among them."""
    reused: int = 0
    """Rows whose vector an earlier run had computed."""
    num_zero: int = 0
    """Rows without any token that the encoder could read: their vector is zero."""
    loss: StorageLoss = field(default_factory=StorageLoss)

    def summary(self) -> list[str]:
        """Return a line for each thing that a user should know; none is usual."""
        said = []
        if self.reused:
            said.append(f"{self.reused:,} rows reused, {self.rows - self.reused:,} computed")
        if self.num_zero:
            said.append(f"{self.num_zero:,} rows have no vector (no token that the model could read): they are zero")
        if self.loss.rows:
            said.append(
                f"cosine between stored and exact vectors: {self.loss.mean:.7f} on average, {self.loss.worst:.7f} at "
                f"worst ({self.loss.rows:,} rows)"
            )
        return said


def embed_documents(
    documents: Sequence[Document],
    encoder: AnyEncoder,
    *,
    unit: Unit = "sentence",
    layer: Layer | None = None,
    known: KnownVectors | None = None,
    counts: EmbedCounts | None = None,
    selection: Selection | None = None,
) -> tuple[list[Row], Vectors]:
    """Encode some documents.

    Args:
        documents: Any number, all held in memory.
        encoder: What makes the vectors.
        unit: A row for each whole document ("sentence", whatever its length), each word, each word that is no
            function word, or each token.
        layer: For words and tokens, the layer to read, or several to average; the encoder's choice by default.
        known: Where to take vectors from that are known already.
        counts: Told what was met.
        selection: For words: which of them; all of the unit by default.

    Returns:
        Rows, and float32 (N, D) L2-normalised; words and tokens have the id ``DOCUMENT#START-END``.

    Raises:
        InvalidInputError: If the encoder does not know the unit, or a layer is given for sentences.
    """
    encode = _row_encoder(encoder, unit, layer)
    rows = _rows_of(documents, encoder, unit, selection)
    if known is None:
        vectors, num_reused = encode(rows), 0
    else:
        numbers = known.find(rows)
        there = numbers >= 0
        vectors, num_reused = np.empty((len(rows), encoder.dimension), dtype=np.float32), int(there.sum())
        vectors[there] = known.take(numbers[there])
        vectors[~there] = encode([row for row, is_known in zip(rows, there, strict=True) if not is_known])
    if counts is not None:
        counts.rows += len(rows)
        counts.reused += num_reused
        counts.num_zero += len(rows) - int(vectors.any(axis=1).sum())
    return rows, vectors


def embed_corpus(
    documents: Iterable[Document],
    *,
    encoder: AnyEncoder,
    path: str | Path,
    unit: Unit = "sentence",
    layer: Layer | None = None,
    resume: bool = False,
    batch_size: int | None = None,
    reuse: str | Path | None = None,
    counts: EmbedCounts | None = None,
    selection: Selection | None = None,
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
        batch_size: Documents encoded at a time; 4,096 sentences by default, or the words of 2,048.
        reuse: A finished folder of the same model, unit and layer, in float32 or the same ``dtype``: rows that it has
            are not computed again.
        counts: Told what was met.
        selection: See ``embed_documents``.
        on_progress: Called with the number of documents done since its last call.
        writing: More arguments of ``VectorWriter`` (``part_rows``, ``dtype``, ``way_out``).

    Returns:
        The finished folder, not verified again.

    Raises:
        InvalidInputError: If the folder is taken.
        ArtifactError: If the folder to be resumed had another model, unit or input, or the one to be reused had
            another model, unit or layer.
    """
    settings, counts = encoder_settings(encoder, unit=unit, layer=layer), counts or EmbedCounts()
    if selection is not None:
        settings["words"] = dict(selection.record)
    kept = writing.get("dtype", "float32")
    known = None if reuse is None else KnownVectors.open(reuse, settings=settings, dtype=kept)
    with VectorWriter(Path(path), settings=settings, dimension=encoder.dimension, resume=resume, **writing) as writer:
        counts.loss = writer.loss
        if on_progress and writer.documents:
            on_progress(writer.documents)
        for batch in batched(writer.skip_done(documents), _batch_size(batch_size, unit, layer)):
            rows, vectors = embed_documents(
                batch, encoder, unit=unit, layer=layer, known=known, counts=counts, selection=selection
            )
            writer.append(rows, vectors, documents=batch)
            del rows, vectors
            release_memory()
            if on_progress:
                on_progress(len(batch))
    return VectorFolder.open(path, verify=False)


def embed_table(
    documents: Iterable[Document],
    *,
    encoder: AnyEncoder,
    path: str | Path,
    unit: Unit = "sentence",
    layer: Layer | None = None,
    batch_size: int | None = None,
    reuse: str | Path | None = None,
    counts: EmbedCounts | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> None:
    """Encode a stream of documents into one Parquet file; the arguments are those of ``embed_corpus``.

    Raises:
        InvalidInputError: If the file is there already.
        ArtifactError: If the folder to be reused had another model, unit or layer.
    """
    settings, counts = encoder_settings(encoder, unit=unit, layer=layer), counts or EmbedCounts()
    known = None if reuse is None else KnownVectors.open(reuse, settings=settings)
    with writing_table(path, settings=settings, dimension=encoder.dimension) as append:
        for batch in batched(documents, _batch_size(batch_size, unit, layer)):
            append(*embed_documents(batch, encoder, unit=unit, layer=layer, known=known, counts=counts))
            release_memory()
            if on_progress:
                on_progress(len(batch))


def _batch_size(wanted: int | None, unit: Unit, layer: Layer | None) -> int:
    """Return how many documents are encoded at a time: many texts of one length fill a block, many words the memory."""
    if wanted is None:
        num_layers = 1 if layer is None or isinstance(layer, int) else max(1, len(layer))
        return 4096 if unit == "sentence" else max(1, 2048 // num_layers)
    check(wanted >= 1, f"batch_size is {wanted}, need at least 1: leave it out")
    return wanted


def has_rows(document: Document, encoder: AnyEncoder, *, unit: Unit, selection: Selection | None = None) -> bool:
    """Tell whether a document gives any row: a whole text does, be it empty; others if they have a word or token."""
    return unit == "sentence" or bool(_rows_of([document], encoder, unit, selection))


def _rows_of(
    documents: Sequence[Document], encoder: AnyEncoder, unit: Unit, selection: Selection | None = None
) -> list[Row]:
    if unit == "sentence":
        return [Row(document.id, document.text, metadata=document.metadata) for document in documents]
    in_text = _span_finder(encoder, unit)
    find = (lambda document: in_text(document.text)) if selection is None else selection.spans
    return [
        Row(f"{document.id}#{span.start}-{span.end}", document.text, span.start, span.end, document.metadata)
        for document in documents
        for span in find(document)
    ]


def _row_encoder(encoder: AnyEncoder, unit: Unit, layer: Layer | None) -> Callable[[Sequence[Row]], Vectors]:
    """Return what gives rows their vectors, or say why this encoder cannot."""
    check(unit in get_args(Unit), f"unit {unit!r}: must be one of {', '.join(get_args(Unit))}")
    if unit == "sentence":
        check(layer is None, f"layer = {layer}: sentence vectors have no layer to choose, leave it out or use words")
        if not isinstance(encoder, TextEncoder):
            raise InvalidInputError(f"{encoder.name} makes no sentence vectors: choose another unit or model")
        return lambda rows: encoder.encode([row.text for row in rows])
    if not isinstance(encoder, UsageEncoder):
        raise InvalidInputError(f"{encoder.name} makes no word vectors: choose another unit or model")
    if layer is None or isinstance(layer, int):
        return lambda rows: encoder.encode_usages(_usages(rows), layer=layer)
    if not isinstance(encoder, LayerMeans):
        raise InvalidInputError(f"layer = {tuple(layer)}: {encoder.name} cannot average layers, name one")
    return lambda rows: encoder.encode_usages(_usages(rows), layer=layer)


def _usages(rows: Sequence[Row]) -> list[Usage]:
    return [Usage(row.text, row.start or 0, row.end or 0) for row in rows]


def _span_finder(encoder: AnyEncoder, unit: Unit) -> Callable[[str], list[Span]]:
    if unit == "word":
        return word_spans
    if unit == "content-word":
        return lambda text: [span for span in word_spans(text) if is_content_word(word_form(span.text))]
    if not isinstance(encoder, TokenSpans):
        raise InvalidInputError(f"{encoder.name} has no tokens: use --unit word")
    return encoder.token_spans

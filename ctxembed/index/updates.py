"""Documents or vectors into an index that is there: only what is new or has changed is embedded, or taken over."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ctxembed.errors import ArtifactError, InvalidInputError
from ctxembed.index.changes import Parts, change, locked, model_record
from ctxembed.index.folder import IndexFolder, check_encoder
from ctxembed.index.manifest import ADDING
from ctxembed.index.records import IndexRecord
from ctxembed.runtime import batched, existing, sha256_file
from ctxembed.store import StoredText, by_text, content_hash, metadata_json, text_id
from ctxembed.types import Document
from ctxembed.units import AnyEncoder, Selection, embed_corpus, has_rows
from ctxembed.vectors import MANIFEST, Row, VectorFolder, encoder_settings

OnExisting: TypeAlias = Literal["error", "skip", "update"]

PART_ROWS = 16_384
_BATCH = 1024


@dataclass
class Additions:
    """What an addition met; counts are of documents, or of the texts that vectors belong to."""

    added: int = 0
    updated: int = 0
    """Known ids with another text: embedded again."""
    metadata_only: int = 0
    """Known ids with the same text and other metadata: not embedded again."""
    unchanged: int = 0
    skipped: int = 0
    """Left out because their id was taken."""
    without_rows: int = 0
    """Left out because none of their words is to be a row."""
    rows: int = 0
    """Rows of the index now."""
    index: IndexRecord | None = None
    """The vector index that the new rows are in."""
    replaced: list[str] = field(default_factory=list)
    metadata: list[tuple[str, str]] = field(default_factory=list)

    def summary(self) -> str:
        """Return one line with every count that is not zero."""
        counts = [
            (self.added, "added"),
            (self.updated, "updated"),
            (self.metadata_only, "with new metadata only"),
            (self.unchanged, "unchanged"),
            (self.skipped, "skipped: their id was taken"),
            (self.without_rows, "without a word to index"),
        ]
        return ", ".join(f"{count:,} {what}" for count, what in counts if count) or "no documents"


def add_documents(
    path: str | Path,
    documents: Iterable[Document],
    *,
    encoder: AnyEncoder,
    on_existing: OnExisting = "error",
    resume: bool = False,
    restart: bool = False,
    wait: bool = False,
    batch_size: int | None = None,
    selection: Selection | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Additions:
    """Add documents to an index, or bring the ones it has up to date.

    A document with the id, the text and the metadata of one that is there is counted and passed over.

    Args:
        path: The index.
        documents: Read once.
        encoder: The model that made the index.
        on_existing: What to do with an id that is there with another text or metadata: refuse all, leave the old one,
            or put the new one in its place.
        resume: Continue an interrupted addition of the same documents.
        restart: Discard an interrupted addition.
        wait: Wait for another process that is changing the index.
        batch_size: Documents encoded at a time.
        selection: For an index of chosen words: the choice that it was built with, see ``meaning.word_index``.
        on_progress: Called with the number of embedded documents since its last call.

    Raises:
        InvalidInputError: If an id is taken, a document cannot be stored, an interrupted addition is there and neither
            ``resume`` nor ``restart`` is on, the words of the index were chosen otherwise, or another process is
            changing the index; nothing has changed then.
        ArtifactError: If the index is damaged or was made with another model.
    """
    path = existing(path)
    waiting = path / ADDING
    with locked(path, wait=wait), IndexFolder.open(path) as folder:
        _check_maker(folder, encoder, selection)
        if restart or not _is_interrupted(waiting, folder):
            _discard(waiting)
        elif not resume:
            raise InvalidInputError(
                f"{path} holds an interrupted addition: continue it with --resume, or discard it with --restart"
            )
        met = Additions()
        unit: Any = folder.manifest.unit
        gives_rows = partial(has_rows, encoder=encoder, unit=unit, selection=selection)
        vectors = embed_corpus(
            _to_embed(documents, folder, on_existing, met, gives_rows),
            encoder=encoder,
            path=waiting,
            unit=unit,
            layer=folder.manifest.settings.get("layer"),
            selection=selection,
            resume=resume,
            batch_size=batch_size,
            on_progress=on_progress,
            part_rows=PART_ROWS,
            way_out="discard what was begun with --restart",
        )
        parts = vectors.iter_parts() if len(vectors) else None
        _carry_out(folder, met, parts, len(vectors), on_existing, added=sha256_file(waiting / MANIFEST))
        _discard(waiting)
    return met


def add_vectors(
    path: str | Path, vectors: VectorFolder, *, on_existing: OnExisting = "error", wait: bool = False
) -> Additions:
    """Add the rows of a vector folder to an index that the same model made, or bring the ones it has up to date.

    A text with the id, the wording and the metadata of one that is there is counted and passed over.

    Args:
        path: The index.
        vectors: Read twice, a part at a time.
        on_existing: See ``add_documents``; of texts, with all of their rows.
        wait: Wait for another process that is changing the index.

    Raises:
        InvalidInputError: If an id is taken, or another process is changing the index; nothing has changed then.
        ArtifactError: If the index is damaged, or the vectors are of another model, unit, layer or width.
    """
    path = existing(path)
    with locked(path, wait=wait), IndexFolder.open(path) as folder:
        _check_made_alike(folder, vectors)
        met = Additions()
        chosen = [_new_rows(rows, folder, on_existing, met) for rows, _ in vectors.iter_parts()]
        new = sum(int(part.sum()) for part in chosen)
        _carry_out(folder, met, _taken(vectors, chosen) if new else None, new, on_existing)
    return met


def _is_interrupted(waiting: Path, folder: IndexFolder) -> bool:
    """Tell whether the vectors of an addition wait; those that are in the index were only not removed any more."""
    manifest = waiting / MANIFEST  # written before anything else
    return manifest.exists() and sha256_file(manifest) != folder.manifest.added


def _discard(waiting: Path) -> None:
    """Remove what waits, the manifest first: if that is all that happens, what is left counts for nothing."""
    (waiting / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(waiting, ignore_errors=True)


def _carry_out(
    folder: IndexFolder,
    met: Additions,
    parts: Parts | None,
    new: int,
    on_existing: OnExisting,
    *,
    added: str | None = None,
) -> None:
    """Make what was met a change of the index.

    Args:
        folder: The index.
        met: What is to be done, and to be told.
        parts: The rows to be added, if there are any.
        new: Their number.
        on_existing: See ``add_documents``.
        added: See ``IndexManifest.added``.
    """
    met.rows = len(folder)
    if parts is None and not met.replaced and not met.metadata:
        return
    replaced = np.concatenate([np.empty(0, np.int64), *(folder.store.numbers_of(name) for name in met.replaced)])
    with change(folder, touched=new + len(replaced) + len(met.metadata)) as changed:
        if len(replaced):
            changed.delete(replaced)
        changed.store.set_metadata(met.metadata)
        if parts is not None:
            met.index = changed.add(parts, on_duplicate="skip" if on_existing == "skip" else "error")
        folder.manifest = replace(folder.manifest, added=added or folder.manifest.added)
        met.skipped += changed.store.num_skipped_texts
        met.added -= changed.store.num_skipped_texts
        met.rows = folder.manifest.rows


def _check_made_alike(folder: IndexFolder, vectors: VectorFolder) -> None:
    """Refuse vectors that were made otherwise than those that are there."""
    old, new = folder.manifest, model_record(vectors.settings)
    if (old.model and old.model.fingerprint) != (new and new.fingerprint):
        makers = [f"{m.name} ({m.fingerprint[:12]})" if m else "an unknown model" for m in (old.model, new)]
        raise ArtifactError(f"{folder.path} was made with {makers[0]}, the vectors with {makers[1]}: use the former")
    for name, there, here in [
        ("width", old.dimension, vectors.dimension),
        ("unit", old.unit, vectors.settings.get("unit", "sentence")),
        ("layer", old.settings.get("layer"), vectors.settings.get("layer")),
    ]:
        if there != here:
            raise ArtifactError(f"{folder.path} has {name} {there!r}, the vectors {here!r}: add vectors made alike")
    if old.settings.get("words") != vectors.settings.get("words"):
        raise ArtifactError(
            f"the words of {folder.path} were chosen otherwise than those of the vectors: add the text itself"
        )


def _new_rows(rows: Sequence[Row], folder: IndexFolder, on_existing: OnExisting, met: Additions) -> NDArray[np.bool_]:
    """Tell which rows are new here, (N,); what becomes of the others is noted."""
    texts = [(len(places), rows[places.start]) for places in by_text(rows)]
    known = folder.store.known_texts([text_id(row) for _, row in texts])
    chosen = [
        np.full(size, _is_new(Document(text_id(row), row.text, row.metadata), known, folder, on_existing, met))
        for size, row in texts
    ]
    return np.concatenate([np.empty(0, dtype=np.bool_), *chosen])


def _taken(vectors: VectorFolder, chosen: Sequence[NDArray[np.bool_]]) -> Parts:
    """Yield the chosen rows of each part with their vectors."""
    for (rows, array), here in zip(vectors.iter_parts(), chosen, strict=True):
        yield list(itertools.compress(rows, here)), array[here]


def _check_maker(folder: IndexFolder, encoder: AnyEncoder, selection: Selection | None) -> None:
    """Refuse an encoder that would make other vectors than those that are there, or one for other words."""
    check_encoder(folder, encoder)
    manifest = folder.manifest
    if manifest.model is None:
        raise InvalidInputError(
            f"{folder.path} cannot take text, the model of its vectors is unknown: build it again with a model"
        )
    wanted = encoder_settings(encoder, unit=manifest.unit, layer=manifest.settings.get("layer"))
    for key, value in manifest.settings.items():
        if key != "model" and key in wanted and wanted[key] != value:
            raise InvalidInputError(
                f"{folder.path} was made with {key} = {value!r}, now it is {wanted[key]!r}: use the settings of then"
            )
    if manifest.settings.get("words") != (None if selection is None else selection.record):
        raise InvalidInputError(
            f"the words of {folder.path} were chosen otherwise: add sentences with `ctxembed index add`, or with "
            "add_sentences of ctxembed.meaning.word_index"
        )


def _to_embed(
    documents: Iterable[Document],
    folder: IndexFolder,
    on_existing: OnExisting,
    met: Additions,
    gives_rows: Callable[[Document], bool],
) -> Iterator[Document]:
    """Yield the documents whose text is new here; what becomes of the others is noted."""
    for batch in batched(documents, _BATCH):
        known = folder.store.known_texts([document.id for document in batch])
        for document in batch:
            if document.id not in known and not gives_rows(document):
                met.without_rows += 1
            elif _is_new(document, known, folder, on_existing, met):
                yield document


def _is_new(
    document: Document, known: Mapping[str, StoredText], folder: IndexFolder, on_existing: OnExisting, met: Additions
) -> bool:
    """Tell whether the vectors of a document are to be added; what becomes of it otherwise is noted."""
    there = known.get(document.id)
    if there is None:
        met.added += 1
        return True
    metadata = metadata_json(document.metadata)
    same_text = there.content_hash == content_hash(document.text)
    if same_text and there.metadata == metadata:
        met.unchanged += 1
    elif on_existing == "error":
        what = "metadata" if same_text else "text"
        raise InvalidInputError(
            f"id {document.id!r} is in {folder.path} with other {what}: `ctxembed index update` replaces it, "
            "--on-duplicate skip keeps it"
        )
    elif on_existing == "skip":
        met.skipped += 1
    elif same_text:
        met.metadata_only += 1
        met.metadata.append((metadata, document.id))
    else:
        met.updated += 1
        met.replaced.append(document.id)
        return True
    return False

"""Documents into an index that is there: only what is new or has changed is embedded."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from ctxembed.errors import InvalidInputError
from ctxembed.index.changes import change, locked
from ctxembed.index.folder import IndexFolder, check_encoder
from ctxembed.index.manifest import ADDING
from ctxembed.runtime import existing
from ctxembed.store import content_hash, metadata_json
from ctxembed.types import Document
from ctxembed.units import AnyEncoder, embed_corpus
from ctxembed.vectors import encoder_settings

OnExisting: TypeAlias = Literal["error", "skip", "update"]

PART_ROWS = 16_384
_BATCH = 1024


@dataclass
class Additions:
    """What an addition met; counts are of documents."""

    added: int = 0
    updated: int = 0
    """Known ids with another text: embedded again."""
    metadata_only: int = 0
    """Known ids with the same text and other metadata: not embedded again."""
    unchanged: int = 0
    skipped: int = 0
    """Left out because their id was taken."""
    rows: int = 0
    """Rows of the index now."""
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
        on_progress: Called with the number of embedded documents since its last call.

    Raises:
        InvalidInputError: If an id is taken, a document cannot be stored, an interrupted addition is there and neither
            ``resume`` nor ``restart`` is on, or another process is changing the index; nothing has changed then.
        ArtifactError: If the index is damaged or was made with another model.
    """
    path = existing(path)
    with locked(path, wait=wait), IndexFolder.open(path) as folder:
        _check_maker(folder, encoder)
        if restart:
            shutil.rmtree(path / ADDING, ignore_errors=True)
        elif (path / ADDING).exists() and not resume:
            raise InvalidInputError(
                f"{path} holds an interrupted addition: continue it with --resume, or discard it with --restart"
            )
        met = Additions()
        settings = folder.manifest.settings
        vectors = embed_corpus(
            _to_embed(documents, folder, on_existing, met),
            encoder=encoder,
            path=path / ADDING,
            unit=folder.manifest.unit,  # type: ignore[arg-type]
            layer=settings.get("layer"),
            resume=resume,
            batch_size=batch_size,
            on_progress=on_progress,
            part_rows=PART_ROWS,
        )
        met.rows = len(folder)
        if len(vectors) or met.replaced or met.metadata:
            with change(folder) as changed:
                if met.replaced:
                    changed.delete(np.concatenate([folder.store.numbers_of(name) for name in met.replaced]))
                changed.store.set_metadata(met.metadata)
                if len(vectors):
                    changed.add(vectors.iter_parts(), on_duplicate="skip" if on_existing == "skip" else "error")
                met.skipped += changed.store.num_skipped
                met.added -= changed.store.num_skipped
                met.rows = folder.manifest.rows
        shutil.rmtree(path / ADDING, ignore_errors=True)
    return met


def _check_maker(folder: IndexFolder, encoder: AnyEncoder) -> None:
    """Refuse an encoder that would make other vectors than those that are there."""
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


def _to_embed(
    documents: Iterable[Document], folder: IndexFolder, on_existing: OnExisting, met: Additions
) -> Iterator[Document]:
    """Yield the documents whose text is new here; what becomes of the others is noted."""
    stream = iter(documents)
    while batch := list(itertools.islice(stream, _BATCH)):
        yield from _new_or_changed(batch, folder, on_existing, met)


def _new_or_changed(
    batch: Sequence[Document], folder: IndexFolder, on_existing: OnExisting, met: Additions
) -> Iterator[Document]:
    known = folder.store.known_texts([document.id for document in batch])
    for document in batch:
        there = known.get(document.id)
        if there is None:
            met.added += 1
            yield document
            continue
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
            yield document

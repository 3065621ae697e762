"""Search by meaning: an encoder, an index of vectors and the rows behind them, in one folder.

The files of an index carry a generation in their names; replacing ``manifest.json`` is the one moment at which a
build becomes real. While a build runs, its vectors lie in ``.building`` inside the folder, so that it can be resumed.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ctxembed.calibration import Calibration, random_similarities
from ctxembed.errors import ArtifactError, InvalidInputError
from ctxembed.fulltext import query_words
from ctxembed.index import Ids, VectorIndex
from ctxembed.retrieval.candidates import Query
from ctxembed.retrieval.engine import Retriever
from ctxembed.retrieval.late_interaction import usage_encoder
from ctxembed.retrieval.options import SearchOptions
from ctxembed.runtime import atomic_path, existing, release_memory, sha256_file, write_json
from ctxembed.store import DocumentStore, OnDuplicate
from ctxembed.types import Document, Hit, TextEncoder, Vectors
from ctxembed.units import embed_corpus
from ctxembed.vectors import MANIFEST, Row, checked_vectors, read_manifest

FORMAT = "ctxembed-index"
VERSION = 1
METRIC = "cosine"
BUILDING = ".building"
PART_ROWS = 16_384
"""Rows of an interrupted build that are lost at most, beside the batch in progress."""
SAMPLED_ROWS = 20_000
"""Rows from which the distribution of similarities is drawn."""

_OWN_FILE = re.compile(r"(?:index\.\d+\.faiss|rows\.\d+\.sqlite)")
_TEMPORARY = re.compile(r"\.(?:index\.\d+\.faiss|rows\.\d+\.sqlite|manifest\.json)\.\d+\.tmp")


@dataclass(frozen=True, kw_only=True)
class IndexFile:
    """A file of an index, as the manifest knows it."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class ModelRecord:
    """The model that made the vectors of an index."""

    name: str
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class IndexManifest:
    """What an index folder holds; ``model`` is None for vectors of unknown origin."""

    generation: int
    files: Mapping[str, IndexFile]
    model: ModelRecord | None
    dimension: int
    rows: int
    unit: str
    num_zero: int
    """Rows whose vector is zero (an empty text, or no known word): they are found with score 0 only."""
    num_skipped: int
    """Rows left out because their id was taken."""
    similarities: Calibration | None = None
    """How alike random pairs of rows are; None where fewer than two rows have a vector."""

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as it stands on disk."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "generation": self.generation,
            "files": {role: asdict(file) for role, file in self.files.items()},
            "model": asdict(self.model) if self.model else None,
            "dimension": self.dimension,
            "rows": self.rows,
            "metric": METRIC,
            "unit": self.unit,
            "num_zero": self.num_zero,
            "num_skipped": self.num_skipped,
            "similarities": self.similarities.record() if self.similarities else None,
        }

    @classmethod
    def read(cls, folder: Path) -> IndexManifest:
        """Read a folder's manifest; ArtifactError if it is damaged or belongs to something else."""
        path = folder / MANIFEST
        record = read_manifest(path, expected=FORMAT, version=VERSION)
        try:
            manifest = cls(
                files={role: IndexFile(**record["files"][role]) for role in ("index", "rows")},
                model=ModelRecord(**record["model"]) if record["model"] else None,
                similarities=Calibration.from_record(record["similarities"]) if record["similarities"] else None,
                **{key: record[key] for key in ("generation", "dimension", "rows", "unit", "num_zero", "num_skipped")},
            )
            sound = manifest.to_json() == record and all(_OWN_FILE.fullmatch(f.name) for f in manifest.files.values())
        except (KeyError, TypeError, InvalidInputError) as error:
            raise ArtifactError(f"{path} is damaged ({error!r}): build the index again") from error
        if not sound:
            raise ArtifactError(f"{path} is damaged (unexpected entries): build the index again")
        return manifest


class SemanticSearch:
    """Finds the rows whose vectors are nearest to a query's."""

    def __init__(
        self, manifest: IndexManifest, index: VectorIndex, store: DocumentStore, *, encoder: TextEncoder | None
    ) -> None:
        self.manifest = manifest
        self._index = index
        self._store = store
        self._encoder = encoder

    @classmethod
    def build(
        cls,
        documents: Iterable[Document],
        *,
        encoder: TextEncoder,
        path: str | Path,
        on_duplicate: OnDuplicate = "error",
        overwrite: bool = False,
        resume: bool = False,
        batch_size: int | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> Self:
        """Embed documents and make an index of them.

        Args:
            documents: One row each; a document with an empty text is kept with a zero vector and counted.
            encoder: What turns texts into vectors.
            path: The folder of the index; made if needed.
            on_duplicate: Refuse an id that occurs twice, or keep its first row and count the others.
            overwrite: Replace the index, or discard the unfinished build, that the folder holds.
            resume: Continue the unfinished build that the folder holds, from the same documents; an index beside it
                is replaced when the build is done.
            batch_size: Documents encoded at a time.
            on_progress: Called with the number of documents done since its last call; with those of the
                interrupted build first.

        Raises:
            InvalidInputError: If the folder is taken, an id occurs twice, or a document cannot be stored.
            ArtifactError: If the build to be resumed had another model or other documents.
        """
        path = _claim(path, overwrite=overwrite, resume=resume)
        folder = embed_corpus(
            documents,
            encoder=encoder,
            path=path / BUILDING,
            resume=resume,
            batch_size=batch_size,
            on_progress=on_progress,
            part_rows=PART_ROWS,
        )
        size = (folder.dimension, len(folder))
        _publish(folder.iter_parts(), path, folder.settings, size=size, on_duplicate=on_duplicate)
        return cls.open(path, encoder=encoder, verify=False)

    @classmethod
    def build_from_vectors(
        cls,
        parts: Iterable[tuple[Sequence[Row], NDArray[Any]]],
        *,
        settings: Mapping[str, Any],
        dimension: int,
        path: str | Path,
        capacity: int = 0,
        on_duplicate: OnDuplicate = "error",
        overwrite: bool = False,
    ) -> Self:
        """Make an index of vectors that are there already.

        Args:
            parts: Rows with their vectors, floats (N, D) of any length: they are normalised, a zero vector stays zero.
            settings: Those of a VectorFolder (``model``, ``fingerprint``, ``unit`` are read), or empty: origin unknown.
            dimension: The width D of every vector.
            path: The folder of the index; made if needed.
            capacity: How many rows will come, if that is known: it keeps the memory at the size of the index.
            on_duplicate: Refuse an id that occurs twice, or keep its first row and count the others.
            overwrite: Replace the index, or discard the unfinished build, that the folder holds.

        Raises:
            InvalidInputError: If the folder is taken, an id occurs twice, or a vector or row cannot be stored.
        """
        path = _claim(path, overwrite=overwrite, resume=False)
        _publish(parts, path, settings, size=(dimension, capacity), on_duplicate=on_duplicate)
        return cls.open(path, verify=False)

    @classmethod
    def open(cls, path: str | Path, *, encoder: TextEncoder | None = None, verify: bool = True) -> Self:
        """Open an index.

        Args:
            path: The folder.
            encoder: The model that made it, needed to search by text.
            verify: Compare the sha256 of every file too, not only its size.

        Raises:
            MissingInputError: If there is no index.
            ArtifactError: If it is damaged, or was made with another model.
        """
        path = existing(path)
        manifest = IndexManifest.read(path)
        if encoder is not None:
            _check_encoder(path, manifest, encoder)
        for file in manifest.files.values():
            _check_file(path / file.name, file, verify=verify)
        index = VectorIndex.load(path / manifest.files["index"].name)
        store = DocumentStore.open(path / manifest.files["rows"].name)
        found = (len(index), len(store), index.dimension)
        if found != (manifest.rows, manifest.rows, manifest.dimension):
            store.close()
            raise ArtifactError(
                f"{path} holds {found[0]} vectors of width {found[2]} and {found[1]} rows, its manifest says "
                f"{manifest.rows} of width {manifest.dimension}: build the index again"
            )
        return cls(manifest, index, store, encoder=encoder)

    def __len__(self) -> int:
        return self.manifest.rows

    def numbers(self) -> Ids:
        """Return the number of every row, int64 (N,), in the order of the index."""
        return self._index.ids()

    def vectors(self, numbers: Ids) -> Vectors:
        """Return the vectors of rows, float32 (N, D), L2-normalised, in the order given."""
        return self._index.reconstruct(numbers)

    def rows(self, numbers: Ids) -> list[Row]:
        """Return rows by number, in the order given."""
        return [stored.row for stored in self._store.get(numbers)]

    def search(self, query: str, *, k: int = 10, **options: Any) -> list[Hit]:
        """Find the rows that answer a text best; all of them, if there are fewer than k.

        Args:
            query: The text.
            k: Hits wanted, at least 1.
            options: Fields of ``SearchOptions``: ``mode="hybrid"``, ``where="year >= 1990"``, ``rerank=50`` and so on.

        Returns:
            Hits, best first, equal scores in the order of the build; the score is the cosine similarity, unless the
            options ask for another ranking. Which of several rows that tie for the last place are among them is up
            to FAISS.

        Raises:
            InvalidInputError: If the query is empty or means nothing to the model, an option cannot be used, there is
                no model, or the rows are words or tokens, which a whole text cannot be ranked against.
        """
        return self.search_many([query], k=k, **options)[0]

    def search_many(self, queries: Sequence[str], *, k: int = 10, **options: Any) -> list[list[Hit]]:
        """Find the rows that answer each of several texts best, faster than one after the other.

        Args:
            queries: N texts.
            k: See ``search``.
            options: See ``search``.

        Returns:
            N lists of hits.

        Raises:
            InvalidInputError: See ``search``.
        """
        settings = SearchOptions(k=k, **options)
        for query in queries:
            if not query.strip():
                raise InvalidInputError("the query is empty: give at least one word")
        self._check_searched_by_text(settings)
        vectors = self._query_vectors(queries, settings) if settings.needs_vector else None
        if settings.mode == "lexical":
            for query in queries:
                if not query_words(query):
                    raise InvalidInputError(f"the query {query!r} has no word to look for: use letters or digits")
        found = [Query(text, None if vectors is None else vectors[n]) for n, text in enumerate(queries)]
        return self._run(found, settings)

    def search_like(self, id: str, *, k: int = 10, **options: Any) -> list[Hit]:  # noqa: A002
        """Find the rows most like a row of the index, which is not among the hits.

        Its vector is taken from the index, so that no model is needed unless hits are re-ranked or explained.

        Args:
            id: That of the row.
            k: See ``search``.
            options: See ``search``.

        Raises:
            InvalidInputError: If there is no such row, or it has no vector; else see ``search``.
        """
        settings = SearchOptions(k=k, **options)
        if settings.needs_words or settings.needs_usages:
            self._check_searched_by_text(settings)
        stored = self._store.by_id(id)
        [vector] = self._index.reconstruct(np.array([stored.number], dtype=np.int64))
        if settings.mode == "dense" and not vector.any():
            raise InvalidInputError(f"the row {id!r} has no vector (no word that the model knows): choose another")
        return self._run([Query(stored.row.text, vector, exclude=stored.number)], settings)[0]

    def search_vectors(self, vectors: NDArray[Any], *, k: int = 10, **options: Any) -> list[list[Hit]]:
        """Find the k rows nearest to each of several vectors.

        Args:
            vectors: Floats (N, D) of any length; a zero vector has score 0 with every row.
            k: Hits wanted for each, at least 1.
            options: See ``search``; those that need the text of a query cannot be used.

        Returns:
            N lists of hits, best first.

        Raises:
            InvalidInputError: On a wrong shape, width, value or k.
        """
        settings = SearchOptions(k=k, **options)
        if settings.needs_words or settings.needs_usages:
            raise InvalidInputError("vectors have no words: lexical search, rerank and explain need the query's text")
        queries = _normalised(checked_vectors(vectors, dimension=self._index.dimension, name="the queries"))
        return self._run([Query(None, vector) for vector in queries], settings)

    def _run(self, queries: Sequence[Query], settings: SearchOptions) -> list[list[Hit]]:
        usages = None
        if settings.needs_usages:
            usages = usage_encoder(self._need_encoder())
        return Retriever(self._index, self._store, self.manifest.similarities).run(queries, settings, encoder=usages)

    def _check_searched_by_text(self, settings: SearchOptions) -> None:
        if self.manifest.unit != "sentence":
            raise InvalidInputError(
                f"the index cannot be searched by text, its vectors are of unit {self.manifest.unit!r}: "
                "search with the vector of a word (search_vectors) or like a row (search_like), or set words side by "
                "side with `ctxembed compare`"
            )
        if settings.needs_vector or settings.needs_usages:
            self._need_encoder()

    def _need_encoder(self) -> TextEncoder:
        if self.manifest.model is None:
            raise InvalidInputError(
                "the index cannot be searched by text, the model of its vectors is unknown: "
                "search with a vector of the same origin (search_vectors), by words (mode lexical), or build it again "
                "with a model"
            )
        if self._encoder is None:
            raise InvalidInputError(
                f"the index was opened without a model: open it with {self.manifest.model.name}, which made it"
            )
        return self._encoder

    def _query_vectors(self, queries: Sequence[str], settings: SearchOptions) -> Vectors:
        encoder = self._need_encoder()
        vectors = encoder.encode(list(queries))
        for query, vector in zip(queries, vectors, strict=True):
            if not vector.any() and not (settings.needs_words and query_words(query)):
                raise InvalidInputError(f"the query {query!r} has no word that {encoder.name} knows: use other words")
        return vectors

    def close(self) -> None:
        """Release the files."""
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _normalised(vectors: Vectors) -> Vectors:
    """Return vectors of unit length, (N, D); a zero vector stays zero.

    Dividing by the largest component first keeps the squares of huge and tiny vectors within float32.
    """
    largest = np.maximum(vectors.max(axis=1, initial=0), -vectors.min(axis=1, initial=0))[:, None]
    scaled: Vectors = np.divide(vectors, np.where(largest > 0, largest, 1), dtype=np.float32)
    length = np.sqrt(np.einsum("nd,nd->n", scaled, scaled))[:, None]
    scaled /= np.where(length > 0, length, 1)
    return scaled


def _claim(path: str | Path, *, overwrite: bool, resume: bool) -> Path:
    """Make sure that an index may be written to a folder; with ``overwrite`` an unfinished build is discarded."""
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise InvalidInputError(f"{path} is a file, need a folder: choose another -o")
    names = sorted(entry.name for entry in path.iterdir()) if path.exists() else []
    unfinished = BUILDING in names
    if MANIFEST in names:
        rows = IndexManifest.read(path).rows  # raises on another tool's manifest, which is never replaced
        if not overwrite and not unfinished:  # a build can be begun beside an index only by an overwrite
            raise InvalidInputError(f"{path} holds an index of {rows} rows: --overwrite it, or choose another -o")
    elif others := [n for n in names if n != BUILDING and not _OWN_FILE.fullmatch(n) and not _TEMPORARY.fullmatch(n)]:
        raise InvalidInputError(f"{path} holds {others[0]!r} and is no index: choose another -o")
    if unfinished and not resume:
        if not overwrite:
            raise InvalidInputError(
                f"{path} holds an unfinished build: continue it with --resume, "
                "start again with --overwrite, or choose another -o"
            )
        shutil.rmtree(path / BUILDING)
    return path


def _publish(
    parts: Iterable[tuple[Sequence[Row], NDArray[Any]]],
    path: Path,
    settings: Mapping[str, Any],
    *,
    size: tuple[int, int],
    on_duplicate: OnDuplicate,
) -> None:
    """Write the next generation's files, make it the one that counts, then remove what is no longer needed.

    ``size`` is width and expected rows. The index lives in here only, so that it is gone from memory
    before anybody opens the files.
    """
    index = VectorIndex(size[0], capacity=size[1])
    path.mkdir(parents=True, exist_ok=True)
    generation = IndexManifest.read(path).generation + 1 if (path / MANIFEST).exists() else 1
    names = {"index": f"index.{generation}.faiss", "rows": f"rows.{generation}.sqlite"}
    with atomic_path(path / names["rows"]) as temporary:
        temporary.unlink(missing_ok=True)
        with DocumentStore.create(temporary) as store:
            num_zero = _fill(index, store, parts, on_duplicate)
            num_skipped = store.num_skipped
            store.optimize()
    index.save(path / names["index"])
    known = "model" in settings and "fingerprint" in settings
    manifest = IndexManifest(
        generation=generation,
        files={role: _describe(path / name) for role, name in names.items()},
        model=ModelRecord(name=settings["model"], fingerprint=settings["fingerprint"]) if known else None,
        dimension=index.dimension,
        rows=len(index),
        unit=settings.get("unit", "sentence"),
        num_zero=num_zero,
        num_skipped=num_skipped,
        similarities=_similarities(index),
    )
    write_json(path / MANIFEST, manifest.to_json())
    shutil.rmtree(path / BUILDING, ignore_errors=True)
    for entry in path.iterdir():
        if _TEMPORARY.fullmatch(entry.name) or (_OWN_FILE.fullmatch(entry.name) and entry.name not in names.values()):
            entry.unlink()


def _fill(
    index: VectorIndex,
    store: DocumentStore,
    parts: Iterable[tuple[Sequence[Row], NDArray[Any]]],
    on_duplicate: OnDuplicate,
) -> int:
    """Add every part to the index and to the store under the same numbers; return how many vectors are zero."""
    first, num_zero = 0, 0
    for rows, vectors in parts:
        if len(rows) != len(vectors):
            raise InvalidInputError(f"{len(rows)} rows came with {len(vectors)} vectors: give one vector for each row")
        array = _normalised(checked_vectors(vectors, dimension=index.dimension, first_row=first))
        numbers = store.add(rows, first_number=first, on_duplicate=on_duplicate)
        kept = array[numbers - first]
        index.add(numbers, kept)
        num_zero += len(kept) - int(kept.any(axis=1).sum())
        first += len(rows)
        release_memory()
    return num_zero


def _similarities(index: VectorIndex) -> Calibration | None:
    """Return how alike random pairs of rows are, from a seeded sample."""
    numbers = np.arange(len(index))
    if len(numbers) > SAMPLED_ROWS:
        numbers = np.sort(np.random.default_rng(1).choice(numbers, SAMPLED_ROWS, replace=False))
    drawn = random_similarities(index.reconstruct(index.ids()[numbers]))
    return Calibration.of_background(drawn) if len(drawn) else None


def _describe(path: Path) -> IndexFile:
    return IndexFile(name=path.name, bytes=path.stat().st_size, sha256=sha256_file(path))


def _check_file(path: Path, wanted: IndexFile, *, verify: bool) -> None:
    if not path.exists():
        raise ArtifactError(f"{path} is missing: build the index again")
    if (size := path.stat().st_size) != wanted.bytes:
        raise ArtifactError(f"{path} is damaged ({size} bytes, need {wanted.bytes}): build the index again")
    if verify and sha256_file(path) != wanted.sha256:
        raise ArtifactError(f"{path} is damaged (its sha256 differs): build the index again")


def _check_encoder(path: Path, manifest: IndexManifest, encoder: TextEncoder) -> None:
    model = manifest.model
    if model is not None and encoder.fingerprint != model.fingerprint:
        raise ArtifactError(
            f"{path} was made with {model.name} ({model.fingerprint[:12]}), not with {encoder.name} "
            f"({encoder.fingerprint[:12]}): open it with the former, or build it again with the latter"
        )
    if encoder.dimension != manifest.dimension:
        raise ArtifactError(
            f"{path} holds vectors of width {manifest.dimension}, {encoder.name} gives {encoder.dimension}: "
            "open it with the model that made it"
        )

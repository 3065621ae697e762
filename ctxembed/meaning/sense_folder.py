"""Senses that are kept, so that their names last.

``bank#2`` is stored with its centre: a later run that finds it again gives it the same name, and new senses get new
numbers, which are never used twice. Every change writes the centres to a file of a new name and then replaces the
manifest, which names it: a folder holds the senses of before or those of after, whenever a run is killed.
Letters: N uses, D width, K senses, S stored senses.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import EllipsisType
from typing import Any, NamedTuple, Self

import numpy as np

from ctxembed.errors import ArtifactError, InvalidInputError
from ctxembed.meaning.clusters import nearest_centres
from ctxembed.meaning.senses import WordSenses
from ctxembed.runtime import atomic_path, existing, sha256_file, synced, write_json
from ctxembed.text import word_form
from ctxembed.types import Usage, UsageEncoder, Vectors
from ctxembed.vectors import MANIFEST, read_manifest

FORMAT, VERSION = "ctxembed-senses", 1
_OWN = re.compile(r"centres(?:\.\d+)?\.npy|\.(?:centres(?:\.\d+)?\.npy|manifest\.json)\.\d+\.tmp")
"""Files of a folder beside its manifest, and what a killed run leaves of them."""
SAME_SENSE = 0.5
"""A new centre is that of a stored sense if it is this much nearer to it than either is to any other of the word."""


class NearSense(NamedTuple):
    """A stored sense, and the cosine similarity of a use to its centre, in [-1, 1]."""

    id: str
    similarity: float


@dataclass(frozen=True, kw_only=True)
class StoredWord:
    """What a sense folder keeps of a word beside the centres."""

    ids: tuple[str, ...]
    rows: tuple[int, ...]
    """Where the centre of each stands."""
    shares: tuple[float, ...]
    uses: tuple[int, ...]
    words: tuple[tuple[str, ...], ...]
    last: int
    """The highest number ever given: none is given twice."""


@dataclass
class SenseFolder:
    """Senses of words with their centres: manifest.json and centres.N.npy, small enough to be read whole."""

    fingerprint: str
    model: str
    layer: int | list[int] | None
    """Where the vectors were read, several layers of which the mean was taken; None for the model's choice."""
    words: dict[str, StoredWord] = field(default_factory=dict)
    centres: Vectors = field(default_factory=lambda: np.zeros((0, 0), dtype=np.float32))
    """float32 (S, D)."""

    @classmethod
    def open(
        cls, path: str | Path, *, layer: int | list[int] | EllipsisType | None, encoder: UsageEncoder | None = None
    ) -> Self:
        """Read a folder.

        Args:
            path: The folder.
            layer: Must be the one that was read, None for the model's choice; any will do where it is ``...``.
            encoder: Must be the one that made it; any will do where None.

        Raises:
            MissingInputError: If there is none.
            ArtifactError: If it is damaged, or was made with another model or layer.
        """
        folder = cls._read(existing(path))
        if encoder is not None and encoder.fingerprint != folder.fingerprint:
            raise ArtifactError(
                f"{path} was made with {folder.model} ({folder.fingerprint[:12]}), not with {encoder.name} "
                f"({encoder.fingerprint[:12]}): use the former, or find the senses again with the latter"
            )
        if layer is not ... and folder.layer != layer:
            raise ArtifactError(
                f"{path} was made with layer {folder.layer}, not {layer}: choose that layer or another folder"
            )
        return folder

    @classmethod
    def _read(cls, path: Path) -> Self:
        record = _manifest(path)
        try:
            words = {name: _stored_word(entry) for name, entry in record["words"].items()}
            file = path / _centres_name(record)
            if sha256_file(file) != record["sha256"]:
                raise ArtifactError(f"{file} is damaged (its sha256 differs): find the senses again")
            centres = np.load(file, allow_pickle=False)
            folder = cls(record["fingerprint"], record["model"], record["layer"], words, centres)
            folder._check(path)
        except (KeyError, TypeError, ValueError, OSError) as error:
            if _manifest(path) != record:
                return cls._read(path)  # another process has replaced this generation and removed its file
            if isinstance(error, ArtifactError):
                raise
            raise ArtifactError(f"{path} is damaged ({error!r}): find the senses again") from error
        return folder

    @classmethod
    def begin(cls, path: str | Path, *, encoder: UsageEncoder, layer: int | list[int] | None) -> Self:
        """Read the folder if it is there, or begin an empty one; ``changing`` is for those that keep senses in it.

        Raises:
            InvalidInputError: If something else is there.
            ArtifactError: If it is damaged, or was made with another model or layer.
        """
        path = Path(path)
        _refuse_others(path)
        if not (path / MANIFEST).exists():
            return cls(encoder.fingerprint, encoder.name, layer)
        return cls.open(path, layer=layer, encoder=encoder)

    @classmethod
    @contextlib.contextmanager
    def changing(cls, path: str | Path, *, encoder: UsageEncoder, layer: int | list[int] | None) -> Iterator[Self]:
        """Read or begin the folder, and save it when the block succeeds; another process waits for its turn.

        Raises:
            InvalidInputError: If something else is there.
            ArtifactError: If it is damaged, or was made with another model or layer.
        """
        from ctxembed.index.changes import locked

        path = Path(path)
        _refuse_others(path)
        path.mkdir(parents=True, exist_ok=True)
        with locked(path, wait=True):
            folder = cls.begin(path, encoder=encoder, layer=layer)
            yield folder
            folder.save(path)

    def save(self, path: str | Path) -> None:
        """Write the folder: replacing the manifest, which names the file of centres, is what makes it real.

        Raises:
            InvalidInputError: If something else is there.
        """
        path = Path(path)
        _refuse_others(path)
        path.mkdir(parents=True, exist_ok=True)
        generation = 1 + (_manifest(path).get("generation", 0) if (path / MANIFEST).exists() else 0)
        file = path / f"centres.{generation}.npy"
        with atomic_path(file) as temporary, temporary.open("wb") as stream:
            np.save(stream, self.centres, allow_pickle=False)
        synced(path)
        record = {
            "format": FORMAT,
            "version": VERSION,
            "generation": generation,
            "model": self.model,
            "fingerprint": self.fingerprint,
            "layer": self.layer,
            "sha256": sha256_file(file),
            "words": {name: asdict(word) for name, word in sorted(self.words.items())},
        }
        write_json(path / MANIFEST, record)
        synced(path)
        for entry in list(path.iterdir()):
            if entry.name != file.name and _OWN.fullmatch(entry.name):
                entry.unlink(missing_ok=True)

    def add(self, result: WordSenses) -> WordSenses:
        """Keep the senses of a word, in the place of those that were kept; return them with the names they keep.

        A new sense takes the name of the stored one that it is: twice as near to it as either is to any other centre
        of the word, stored or new (``SAME_SENSE``). Where both sides have one sense they are the same.
        """
        stored, centres = self.words.get(result.word), result.clusters.centres
        last = stored.last if stored else 0
        names = self._kept_names(stored, result)
        for n, name in enumerate(names):
            if name is None:
                last += 1
                names[n] = f"{result.word}#{last}"
        senses = tuple(replace(s, id=str(name)) for s, name in zip(result.senses, names, strict=True))
        self._remove(result.word)
        first = len(self.centres)
        self.centres = np.concatenate([self.centres.reshape(-1, centres.shape[1]), centres.astype(np.float32)])
        self.words[result.word] = StoredWord(
            ids=tuple(s.id for s in senses),
            rows=tuple(range(first, first + len(senses))),
            shares=tuple(round(s.share, 6) for s in senses),
            uses=tuple(s.uses for s in senses),
            words=tuple(s.words for s in senses),
            last=last,
        )
        return replace(result, senses=senses)

    def centres_of(self, word: str) -> tuple[tuple[str, ...], Vectors] | None:
        """Return the names of a word's senses and their centres (K, D); None for a word that is not kept."""
        stored = self.words.get(word)
        return None if stored is None else (stored.ids, self.centres[list(stored.rows)])

    def nearest(self, usages: Sequence[Usage], vectors: Vectors) -> list[NearSense | None]:
        """Find the stored sense that each use is nearest to.

        Args:
            usages: N uses, of any words.
            vectors: Their unit vectors (N, D), made by the model and layer of the folder.

        Returns:
            N senses; None for a use whose word is not kept.
        """
        found: list[NearSense | None] = []
        for usage, vector in zip(usages, vectors, strict=True):
            kept = self.centres_of(word_form(usage.word))
            if kept is None:
                found.append(None)
                continue
            label = int(nearest_centres(vector[None, :], kept[1])[0][0])
            found.append(NearSense(kept[0][label], float(np.clip(vector @ self.centre(kept[0][label]), -1.0, 1.0))))
        return found

    def centre(self, id: str) -> Vectors:  # noqa: A002
        """Return the centre of a sense such as ``bank#2``, brought to unit length, (D,).

        Raises:
            InvalidInputError: If it is not kept, with those that are.
        """
        for stored in self.words.values():
            if id in stored.ids:
                centre = self.centres[stored.rows[stored.ids.index(id)]]
                unit: Vectors = centre / max(float(np.linalg.norm(centre)), 1e-12)
                return unit
        own = self.words.get(id.rpartition("#")[0])
        known = ", ".join(own.ids if own else sorted(self.words)) or "none"
        raise InvalidInputError(f"no sense {id!r} is kept, there is {known}: find its senses with `ctxembed senses -o`")

    def _kept_names(self, stored: StoredWord | None, result: WordSenses) -> list[str | None]:
        names: list[str | None] = [None] * len(result.senses)
        if stored is None:
            return names
        old, new = self.centres[list(stored.rows)], result.clusters.centres
        distances = np.linalg.norm(new[:, None] - old[None, :], axis=2)  # (K, stored)
        for n, m in sorted(np.ndindex(*distances.shape), key=lambda pair: distances[pair]):
            others = np.concatenate([np.delete(distances[n], m), np.delete(distances[:, m], n)])
            is_same = distances[n, m] <= SAME_SENSE * others.min(initial=np.inf)
            if is_same and names[n] is None and stored.ids[m] not in names:
                names[n] = stored.ids[m]
        return names

    def _remove(self, word: str) -> None:
        gone = self.words.pop(word, None)
        if gone is None:
            return
        kept = np.setdiff1d(np.arange(len(self.centres)), gone.rows)
        place = {int(row): n for n, row in enumerate(kept)}
        self.centres = self.centres[kept]
        self.words = {
            name: replace(each, rows=tuple(place[row] for row in each.rows)) for name, each in self.words.items()
        }

    def _check(self, path: Path) -> None:
        rows = sorted(row for word in self.words.values() for row in word.rows)
        fits = self.centres.ndim == 2 and rows == list(range(len(self.centres)))
        if not fits or any(len(w.ids) != len(w.rows) for w in self.words.values()):
            raise ArtifactError(f"{path} is damaged (centres and names do not fit): find the senses again")


def _manifest(path: Path) -> dict[str, Any]:
    return read_manifest(path / MANIFEST, expected=FORMAT, version=VERSION)


def _centres_name(record: Mapping[str, Any]) -> str:
    """Return the name of the file of centres; before generations were counted there was one name."""
    return f"centres.{record['generation']:d}.npy" if "generation" in record else "centres.npy"


def _refuse_others(path: Path) -> None:
    """Refuse a folder that holds anything but senses and what a killed run left of them."""
    names = [entry.name for entry in path.iterdir()] if path.is_dir() else [path.name] if path.exists() else []
    others = [name for name in names if name != MANIFEST and not _OWN.fullmatch(name)]
    if others:
        raise InvalidInputError(f"{path} holds {min(others)!r} and is no folder of senses: choose another -o")


def _stored_word(entry: Mapping[str, Any]) -> StoredWord:
    fields: dict[str, Any] = {key: _tuples(value) if isinstance(value, list) else value for key, value in entry.items()}
    return StoredWord(**fields)


def _tuples(value: list[Any]) -> tuple[Any, ...]:
    return tuple(tuple(each) if isinstance(each, list) else each for each in value)

"""The senses of a word as groups of its uses, described so that they can be read, and kept so that their names last.

``bank#2`` is stored with its centre: a later run that finds it again gives it the same name, and new senses get new
numbers, which are never used twice. Letters: N uses, D width, K senses, S stored senses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ctxembed.config import check
from ctxembed.errors import ArtifactError, InvalidInputError
from ctxembed.meaning.clusters import Clusters, Method, cluster_uses, silhouette, stability, without_forms
from ctxembed.meaning.collocates import distinctive_words
from ctxembed.meaning.occurrences import Occurrence
from ctxembed.runtime import atomic_path, existing, sha256_file, write_json
from ctxembed.text import word_form
from ctxembed.types import UsageEncoder, Vectors
from ctxembed.vectors import MANIFEST, read_manifest

FORMAT, VERSION = "ctxembed-senses", 1
_CENTRES = "centres.npy"
SAME_SENSE = 0.5
"""A new centre is that of a stored sense if it is this much nearer to it than either is to any other of the word."""


@dataclass(frozen=True)
class Sense:
    """A group of uses of a word."""

    id: str
    """WORD#NUMBER."""
    uses: int
    """How many are nearest to its centre, unclear ones included."""
    share: float
    """Of all uses of the word."""
    words: tuple[str, ...]
    """Words beside it that distinguish it from the other senses."""
    typical: tuple[Occurrence, ...]
    """The uses nearest its centre."""
    substitutes: tuple[str, ...] = ()
    """What a masked-word model would write in its place."""
    gloss: str | None = None
    """The gloss of the inventory that is nearest, if there is one."""
    gloss_score: float | None = None
    """How much nearer it is than the word's glosses on average, a difference of cosines."""


@dataclass(frozen=True)
class WordSenses:
    """A word with its senses, the larger first, and the use each use belongs to."""

    word: str
    senses: tuple[Sense, ...]
    occurrences: Sequence[Occurrence]
    vectors: Vectors
    """float32 (N, D), L2-normalised."""
    clusters: Clusters
    silhouette: float | None
    """Mean by cosine distance, in [-1, 1]; None for one sense."""
    stability: float | None
    """Adjusted Rand index between the groups of two samples, in [-1, 1]; None where it was not asked for."""

    @property
    def unclear(self) -> float:
        """The share of uses that lie between two senses."""
        return float(self.clusters.unclear.mean()) if len(self.occurrences) else 0.0

    def ids(self) -> list[str]:
        """Return the sense of each use, (N,)."""
        return [self.senses[label].id for label in self.clusters.labels.tolist()]


def find_senses(
    word: str,
    occurrences: Sequence[Occurrence],
    vectors: Vectors,
    *,
    contexts: Vectors | None = None,
    k: int | None = None,
    method: Method = "k-means",
    seed: int = 1,
    num_examples: int = 3,
    with_stability: bool = True,
) -> WordSenses:
    """Group the uses of a word into senses and describe each.

    How many senses there are is decided by the word's own vectors; which use belongs to which by these and, where they
    are given, the vectors of the whole sentences, which weigh as much.

    Args:
        word: The word.
        occurrences: Its N uses, at least one.
        vectors: Unit vectors (N, D), none of them zero.
        contexts: Vectors of the sentences, (N, any width).
        k: How many senses; decided by how the uses fall apart where None (see ``clusters``).
        method: How members are found.
        seed: Decides every random choice.
        num_examples: Typical uses of each sense.
        with_stability: Whether to cluster samples of the uses too, which takes twenty times as long.

    Raises:
        InvalidInputError: If there is no use, or k or method cannot be.
    """
    check(
        len(occurrences) == len(vectors),
        f"{len(occurrences)} uses came with {len(vectors)} vectors: give one vector for each use",
    )
    forms = [word_form(each.usage.word) for each in occurrences]
    of_one_form = without_forms(vectors, forms)
    number = k
    if contexts is not None and k is None and method != "hdbscan":
        number = len(cluster_uses(of_one_form, seed=seed))
    placed = of_one_form if contexts is None or number == 1 else joined_vectors(of_one_form, contexts)
    clusters = cluster_uses(placed, k=number, method=method, seed=seed)
    centres = np.stack([of_one_form[clusters.labels == n].mean(axis=0) for n in range(len(clusters))])
    clusters = replace(clusters, centres=centres)
    texts = [each.usage.text for each in occurrences]
    words = distinctive_words(texts, clusters.labels, k=len(clusters), without={word, *forms})
    senses = tuple(
        Sense(
            f"{word}#{n + 1}",
            int(count),
            float(count / len(occurrences)),
            tuple(words[n]),
            typical_uses(occurrences, of_one_form, clusters, n, number=num_examples),
        )
        for n, count in enumerate(clusters.counts())
    )
    steady = stability(placed, k=k, method=method, seed=seed) if with_stability and len(vectors) > 1 else None
    spread = silhouette(placed, clusters.labels, seed=seed)
    return WordSenses(word, senses, occurrences, vectors, clusters, spread, steady)


def joined_vectors(words: Vectors, contexts: Vectors) -> Vectors:
    """Return word and sentence vectors side by side, (N, D + any), centred and of equal weight."""
    parts = []
    for vectors in (words, contexts):
        centred = vectors - vectors.mean(axis=0)
        spread = float(np.sqrt((centred**2).sum(axis=1).mean()))
        parts.append(centred / max(spread, 1e-9))
    return np.concatenate(parts, axis=1).astype(np.float32)


def typical_uses(
    occurrences: Sequence[Occurrence], vectors: Vectors, clusters: Clusters, sense: int, *, number: int
) -> tuple[Occurrence, ...]:
    """Return the clear uses nearest the centre of a sense, the nearest first, each text once."""
    members = np.flatnonzero((clusters.labels == sense) & ~clusters.unclear)
    if not len(members):
        members = np.flatnonzero(clusters.labels == sense)
    distances = np.linalg.norm(vectors[members] - clusters.centres[sense], axis=1)
    found: dict[str, Occurrence] = {}
    for n in members[np.argsort(distances, kind="stable")]:
        found.setdefault(occurrences[n].usage.text, occurrences[n])
        if len(found) == number:
            break
    return tuple(found.values())


def with_glosses(result: WordSenses, glosses: Sequence[str], gloss_vectors: Vectors) -> WordSenses:
    """Label each sense with the gloss whose vector lies nearest its centre, both less the mean of their kind.

    Args:
        result: K senses.
        glosses: G texts; none leaves the senses as they are.
        gloss_vectors: Of the word in each gloss or its examples, (G, D).
    """
    if not len(glosses):
        return result
    centres = _centred(result.clusters.centres, result.vectors.mean(axis=0))
    others = _centred(gloss_vectors, gloss_vectors.mean(axis=0)) if len(glosses) > 1 else gloss_vectors
    scores = centres @ others.T  # (K, G)
    best = scores.argmax(axis=1)
    labelled = [
        replace(sense, gloss=glosses[best[n]], gloss_score=float(scores[n, best[n]] - scores[n].mean()))
        for n, sense in enumerate(result.senses)
    ]
    return replace(result, senses=tuple(labelled))


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
    """Senses of words with their centres: manifest.json and centres.npy, small enough to be read whole."""

    fingerprint: str
    model: str
    layer: int | None
    words: dict[str, StoredWord] = field(default_factory=dict)
    centres: Vectors = field(default_factory=lambda: np.zeros((0, 0), dtype=np.float32))
    """float32 (S, D)."""

    @classmethod
    def open(cls, path: str | Path, *, encoder: UsageEncoder | None = None) -> Self:
        """Read a folder.

        Raises:
            MissingInputError: If there is none.
            ArtifactError: If it is damaged, or was made with another model.
        """
        path = existing(path)
        record = read_manifest(path / MANIFEST, expected=FORMAT, version=VERSION)
        try:
            words = {name: _stored_word(entry) for name, entry in record["words"].items()}
            if sha256_file(path / _CENTRES) != record["sha256"]:
                raise ArtifactError(f"{path / _CENTRES} is damaged (its sha256 differs): find the senses again")
            centres = np.load(path / _CENTRES, allow_pickle=False)
            folder = cls(record["fingerprint"], record["model"], record["layer"], words, centres)
            folder._check(path)
        except (KeyError, TypeError, ValueError, OSError) as error:
            if isinstance(error, ArtifactError):
                raise
            raise ArtifactError(f"{path} is damaged ({error!r}): find the senses again") from error
        if encoder is not None and encoder.fingerprint != folder.fingerprint:
            raise ArtifactError(
                f"{path} was made with {folder.model} ({folder.fingerprint[:12]}), not with {encoder.name} "
                f"({encoder.fingerprint[:12]}): use the former, or find the senses again with the latter"
            )
        return folder

    @classmethod
    def begin(cls, path: str | Path, *, encoder: UsageEncoder, layer: int | None = None) -> Self:
        """Read the folder if it is there, or begin an empty one.

        Raises:
            ArtifactError: If it is damaged, or was made with another model or layer.
        """
        if not (Path(path) / MANIFEST).exists():
            return cls(encoder.fingerprint, encoder.name, layer)
        folder = cls.open(path, encoder=encoder)
        if folder.layer != layer:
            raise ArtifactError(f"{path} was made with layer {folder.layer}, not {layer}: choose another folder")
        return folder

    def save(self, path: str | Path) -> None:
        """Write the folder; the manifest comes last and names the centres by their sha256.

        Raises:
            InvalidInputError: If something else is there.
        """
        path = Path(path)
        others = [entry.name for entry in path.iterdir()] if path.is_dir() else [path.name] if path.exists() else []
        if others and not {*others} <= {MANIFEST, _CENTRES}:
            raise InvalidInputError(f"{path} holds {sorted(others)[0]!r} and is no folder of senses: choose another -o")
        path.mkdir(parents=True, exist_ok=True)
        with atomic_path(path / _CENTRES) as temporary, temporary.open("wb") as stream:
            np.save(stream, self.centres, allow_pickle=False)
        record = {
            "format": FORMAT,
            "version": VERSION,
            "model": self.model,
            "fingerprint": self.fingerprint,
            "layer": self.layer,
            "sha256": sha256_file(path / _CENTRES),
            "words": {name: asdict(word) for name, word in sorted(self.words.items())},
        }
        write_json(path / MANIFEST, record)

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


def read_inventory(rows: Sequence[Mapping[str, Any]], word: str) -> list[tuple[str, list[str]]]:
    """Return the glosses of a word with example texts, from rows as WordNet's: lemma, gloss and, maybe, examples."""
    found = []
    for row in rows:
        if word_form(str(row.get("lemma", "")).replace("_", " ")) == word and row.get("gloss"):
            examples = row.get("examples") or []
            found.append((str(row["gloss"]), [str(each) for each in examples] if isinstance(examples, list) else []))
    return found


def _stored_word(entry: Mapping[str, Any]) -> StoredWord:
    fields: dict[str, Any] = {key: _tuples(value) if isinstance(value, list) else value for key, value in entry.items()}
    return StoredWord(**fields)


def _tuples(value: list[Any]) -> tuple[Any, ...]:
    return tuple(tuple(each) if isinstance(each, list) else each for each in value)


def _centred(vectors: Vectors, mean: NDArray[np.float32]) -> Vectors:
    """Return vectors less a mean, brought to unit length; one that is the mean itself stays zero."""
    moved = vectors - mean
    unit: Vectors = moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-9)
    return unit

"""The senses of a word as groups of its uses, described so that they can be read.

Letters: N uses, D width, K senses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ctxembed.config import check
from ctxembed.meaning.clusters import Clusters, Method, cluster_uses, silhouette, stability, without_forms
from ctxembed.meaning.collocates import distinctive_words
from ctxembed.meaning.occurrences import Occurrence
from ctxembed.text import word_form
from ctxembed.types import Vectors


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
    """How much nearer it is than the word's glosses on average, a difference of cosines; None if it is the only one."""


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
    alike: float | None = None,
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
        alike: Mean cosine from which uses are one sense, of the model and layer of ``vectors`` (see ``clusters``).
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
        number = len(cluster_uses(of_one_form, alike=alike, seed=seed))
    placed = of_one_form if contexts is None or number == 1 else joined_vectors(of_one_form, contexts)
    clusters = cluster_uses(placed, k=number, method=method, alike=alike, seed=seed)
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
    asked = None if method == "hdbscan" else len(clusters)
    steady = stability(placed, k=asked, method=method, seed=seed) if with_stability and len(vectors) > 1 else None
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
    """Label each sense with the gloss whose vector lies nearest its centre.

    Both are taken less the mean of their kind; of one sense or one gloss, which is that mean, both as they are.

    Args:
        result: K senses.
        glosses: G texts; none leaves the senses as they are.
        gloss_vectors: Of the word in each gloss or its examples, (G, D).
    """
    if not len(glosses):
        return result
    centres, others = result.clusters.centres, gloss_vectors
    if len(centres) > 1 and len(others) > 1:
        centres, others = centres - result.vectors.mean(axis=0), others - others.mean(axis=0)
    scores = _unit(centres) @ _unit(others).T  # (K, G)
    best = scores.argmax(axis=1)
    nearer = [float(row.max() - row.mean()) if len(glosses) > 1 else None for row in scores]
    labelled = [replace(sense, gloss=glosses[best[n]], gloss_score=nearer[n]) for n, sense in enumerate(result.senses)]
    return replace(result, senses=tuple(labelled))


def read_inventory(rows: Sequence[Mapping[str, Any]], word: str) -> list[tuple[str, list[str]]]:
    """Return the glosses of a word with example texts, from rows as WordNet's: lemma, gloss and, maybe, examples."""
    found = []
    for row in rows:
        if word_form(str(row.get("lemma", "")).replace("_", " ")) == word and row.get("gloss"):
            examples = row.get("examples") or []
            found.append((str(row["gloss"]), [str(each) for each in examples] if isinstance(examples, list) else []))
    return found


def _unit(vectors: Vectors) -> Vectors:
    """Return vectors brought to unit length; a zero vector stays zero."""
    unit: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    return unit

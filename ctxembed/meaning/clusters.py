"""Uses of a word grouped into senses, on arrays: how many groups, which use is in which, and how sure that is.

How many senses there are is decided in two steps.

1. Is there a gap? A group is cut by 2-means on one random half of it and the cut is tried on the other half: held-out
   uses are projected on the line through the two centres, and what counts is how many standard deviations the two sides
   lie apart (``separation``). A single normal cloud cut through its middle gives 2.65, whatever its width or shape; one
   sense in two grammatical positions gives 3 to 4.5. A cut stands from ``SEPARATION``; groups are cut until none does.
2. Where there is no gap, are the uses too unlike each other to be of one sense? They are if their mean cosine is below
   the one that tells words of one sense from words of two (``alike``, ``evaluation.calibrating.one_sense_cosine`` of
   the model). Then there are as many senses as two halves of the uses agree on best (``agreement``,
   as in Tibshirani and Walther 2005, with the adjusted Rand index in place of their prediction strength).

The first needs no scale but finds only senses that do not blend into each other; the second sees those too.
Letters: N uses, D width, K senses.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from ctxembed.config import check
from ctxembed.types import Vectors

Method: TypeAlias = Literal["k-means", "agglomerative", "hdbscan"]
Labels: TypeAlias = NDArray[np.int64]

MAX_SENSES = 12
MAX_BLENDED = 6
"""Senses at most where no gap parts them."""
LEARNING_USES = 1000
"""Uses that clusters are learnt from: a seeded sample of more; the others go to the nearest centre."""
SMALLEST_SHARE = 0.03
"""A group of fewer of the uses is no sense."""
SMALLEST_GROUP = 5
"""Nor is one of fewer uses."""
UNCLEAR_MARGIN = 0.05
"""A use is unclear if its distances to the two nearest centres differ by less than this share."""
HALVINGS = 4
SEPARATION = 5.0
"""Standard deviations, inside a side, that the two sides of a cut must lie apart on held-out uses. Chosen on made-up
words: of one sense with heavy-tailed, skewed or two-fold variation, which stay whole, and of two to four senses."""
SMALLEST_FORM = 5
"""Uses of a written form from which its own mean can be told."""


@dataclass(frozen=True)
class Clusters:
    """N uses in K groups, larger groups first."""

    labels: Labels
    """(N,), 0 to K - 1: the nearest centre, for unclear uses too."""
    centres: Vectors
    """float32 (K, D), the mean vector of each group."""
    unclear: NDArray[np.bool_]
    """(N,), uses that lie between two groups or, by HDBSCAN, in none."""

    def __len__(self) -> int:
        return len(self.centres)

    def counts(self) -> Labels:
        """Return the number of uses in each group, (K,)."""
        return np.bincount(self.labels, minlength=len(self))


def cluster_uses(
    vectors: Vectors,
    *,
    k: int | None = None,
    method: Method = "k-means",
    alike: float | None = None,
    seed: int = 1,
) -> Clusters:
    """Group uses of a word.

    Args:
        vectors: Unit vectors (N, D), at least one, of one written form or ``without_forms``.
        k: How many groups; decided by splitting where None (HDBSCAN always decides itself).
        method: How members are found once the number is known: k-means from the centres of the splits, agglomerative
            clustering with average linkage, or HDBSCAN.
        alike: Mean cosine from which uses are one sense, if that is known of the model; only gaps count where None.
        seed: Decides the sample, the halves and where k-means begins.

    Raises:
        InvalidInputError: If there is no use, or k does not go with the method or is not between 1 and the uses that
            groups are learnt from.
    """
    check(len(vectors) >= 1, "there is no use to group: look for a word that occurs")
    most = min(len(vectors), LEARNING_USES)
    check(k is None or 1 <= k <= most, f"k = {k} groups of {len(vectors)} uses: must be between 1 and {most}")
    check(method in get_args(Method), f"method {method!r}: must be one of {', '.join(get_args(Method))}")
    check(k is None or method != "hdbscan", f"k = {k} does not go with hdbscan, which finds the number itself")
    chance = np.random.default_rng(seed)
    some = np.sort(chance.permutation(len(vectors))[:LEARNING_USES])
    learnt = vectors[some]
    if method == "hdbscan":
        labels = _hdbscan(learnt)
    else:
        labels = split_uses(learnt, alike=alike, seed=seed) if k is None else _k_means(learnt, k, seed=seed)
        if method == "agglomerative":
            labels = _agglomerative(learnt, int(labels.max()) + 1)
    centres = _centres(learnt, labels)
    outside = np.zeros(len(vectors), dtype=np.bool_)
    outside[some] = labels < 0
    return _assigned(vectors, centres, outside, refine=method == "k-means")


def without_forms(vectors: Vectors, forms: Sequence[str]) -> Vectors:
    """Take out what the written form adds: move the uses of each form so that all forms have one mean.

    "lines" lies far from "line" whatever its sense, and would be found as a sense of its own. A form of fewer than
    ``SMALLEST_FORM`` uses stays where it is.

    Args:
        vectors: (N, D).
        forms: The written form of each use, (N,).

    Returns:
        New vectors (N, D), no longer of unit length where there are several forms; ``vectors`` itself where not.
    """
    names, numbers = np.unique(np.asarray(forms), return_inverse=True)
    if len(names) < 2:
        return vectors
    moved, mean = vectors.copy(), vectors.mean(axis=0)
    for number in np.flatnonzero(np.bincount(numbers) >= SMALLEST_FORM):
        members = numbers == number
        moved[members] += mean - vectors[members].mean(axis=0)
    return moved


def split_uses(vectors: Vectors, *, alike: float | None = None, seed: int = 1) -> Labels:
    """Split uses into as many groups as there are senses (see above); return their labels (N,)."""
    labels = _split_at_gaps(vectors, seed=seed)
    most = min(MAX_BLENDED, len(vectors) // (2 * SMALLEST_GROUP))
    if labels.any() or alike is None or most < 2 or mean_cosine(vectors) >= alike:
        return labels
    best = max(range(2, most + 1), key=lambda k: agreement(vectors, k, seed=seed))
    return _k_means(vectors, best, seed=seed)


def _split_at_gaps(vectors: Vectors, *, seed: int) -> Labels:
    labels = np.zeros(len(vectors), dtype=np.int64)
    smallest = max(SMALLEST_GROUP, int(np.ceil(SMALLEST_SHARE * len(vectors))))
    open_groups = [0]
    while open_groups and labels.max() + 1 < MAX_SENSES:
        members = np.flatnonzero(labels == open_groups.pop())
        if len(members) < 2 * smallest or separation(vectors[members], seed=seed) < SEPARATION:
            continue
        halves = _k_means(vectors[members], 2, seed=seed)
        if np.bincount(halves, minlength=2).min() < smallest:
            continue
        number = int(labels.max()) + 1
        open_groups += [int(labels[members[0]]), number]
        labels[members[halves == 1]] = number
    return labels


def agreement(vectors: Vectors, k: int, *, seed: int = 1) -> float:
    """Return how well the k groups of one half of the uses are those of the other half.

    Args:
        vectors: (N, D), at least 2 k of them.
        k: Groups, at least 2.
        seed: Decides the halves.

    Returns:
        The adjusted Rand index between a half's own groups and its nearest centres of the other half, in [-1, 1],
        averaged over several halvings.
    """
    from sklearn.metrics import adjusted_rand_score

    chance, found = np.random.default_rng(seed), []
    for _ in range(HALVINGS):
        order = chance.permutation(len(vectors))
        learnt, held = vectors[order[::2]], vectors[order[1::2]]
        centres = _centres(learnt, _k_means(learnt, k, seed=seed))
        found.append(adjusted_rand_score(_k_means(held, k, seed=seed), nearest_centres(held, centres)[0]))
    return float(np.mean(found))


def mean_cosine(vectors: Vectors) -> float:
    """Return the mean cosine of all pairs of different uses, in [-1, 1]; 1 for a single use.

    >>> mean_cosine(np.array([[1, 0], [0, 1], [1, 0]], dtype=np.float32)).__round__(3)
    0.333
    """
    size = len(vectors)
    if size < 2:
        return 1.0
    total = vectors.sum(axis=0, dtype=np.float64)
    return float((total @ total - (vectors.astype(np.float64) ** 2).sum()) / (size * (size - 1)))


def separation(vectors: Vectors, *, seed: int = 1) -> float:
    """Return how many standard deviations the two sides of the best cut lie apart, judged on held-out uses.

    Args:
        vectors: Any vectors (N, D); of fewer than eight the answer is 0.
        seed: Decides the halves.

    Returns:
        The mean over several random halvings, each half judged by a cut that was learnt on the other.
    """
    if len(vectors) < 8:
        return 0.0
    chance, found = np.random.default_rng(seed), []
    for _ in range(HALVINGS):
        order = chance.permutation(len(vectors))
        halves = vectors[order[::2]], vectors[order[1::2]]
        found += [_separation_of(learnt, held, seed) for learnt, held in (halves, halves[::-1])]
    return float(np.mean(found))


def silhouette(vectors: Vectors, labels: Labels, *, seed: int = 1) -> float | None:
    """Return the mean silhouette by cosine distance, in [-1, 1], of at most a thousand uses; None for one group."""
    from sklearn.metrics import silhouette_score

    some = np.random.default_rng(seed).permutation(len(vectors))[:LEARNING_USES]
    present = len(np.unique(labels[some]))
    if not 2 <= present < len(some):
        return None
    return float(silhouette_score(vectors[some], labels[some], metric="cosine"))


def stability(
    vectors: Vectors, *, k: int | None, method: Method = "k-means", seed: int = 1, rounds: int = 10, share: float = 0.8
) -> float:
    """Return how alike the groups of two overlapping samples of the uses are: mean adjusted Rand index of shared uses.

    The number of groups is decided anew in each sample unless ``k`` is given, so a word whose number changes from
    sample to sample is not stable; samples that both find one group agree (1).
    """
    from sklearn.metrics import adjusted_rand_score

    chance, found = np.random.default_rng(seed), []
    for _ in range(rounds):
        pair = []
        for _ in range(2):
            members = chance.permutation(len(vectors))[: max(1, int(share * len(vectors)))][: LEARNING_USES // 2]
            few = None if k is None else min(k, len(members))
            labels = np.full(len(vectors), -1, dtype=np.int64)
            labels[members] = cluster_uses(vectors[members], k=few, method=method, seed=seed).labels
            pair.append(labels)
        both = (pair[0] >= 0) & (pair[1] >= 0)
        found.append(adjusted_rand_score(pair[0][both], pair[1][both]) if both.any() else 1.0)
    return float(np.mean(found))


def nearest_centres(vectors: Vectors, centres: Vectors) -> tuple[Labels, NDArray[np.bool_]]:
    """Return the nearest centre of each use (N,), and which uses are unclear (N,): nearly as near to another."""
    squares = _squared_distances(vectors, centres)  # (N, K)
    labels = np.argmin(squares, axis=1).astype(np.int64)
    if len(centres) < 2:
        return labels, np.zeros(len(vectors), dtype=np.bool_)
    two = np.sqrt(np.partition(squares, 1, axis=1)[:, :2])
    return labels, (two[:, 1] - two[:, 0]) < UNCLEAR_MARGIN * np.maximum(two[:, 1], 1e-12)


def _separation_of(learnt: Vectors, held: Vectors, seed: int) -> float:
    """Cut ``learnt`` in two and return how far apart the two sides of ``held`` lie along the line of the centres."""
    centres = _centres(learnt, _k_means(learnt, 2, seed=seed))
    if len(centres) < 2:
        return 0.0
    axis = centres[1] - centres[0]
    places = (held - centres.mean(axis=0)) @ axis / max(float(np.linalg.norm(axis)), 1e-12)
    sides = places[places < 0], places[places >= 0]
    if min(map(len, sides)) < 2:
        return 0.0
    inside = sum(float(((side - side.mean()) ** 2).sum()) for side in sides) / (len(places) - 2)
    return float((sides[1].mean() - sides[0].mean()) / np.sqrt(max(inside, 1e-12)))


def _k_means(vectors: Vectors, k: int, *, seed: int) -> Labels:
    from sklearn.cluster import KMeans

    return _quiet(lambda: KMeans(k, n_init=3, random_state=seed).fit_predict(vectors))


def _agglomerative(vectors: Vectors, k: int) -> Labels:
    from sklearn.cluster import AgglomerativeClustering

    if k < 2 or len(vectors) < 2:
        return np.zeros(len(vectors), dtype=np.int64)
    return _quiet(lambda: AgglomerativeClustering(k, metric="cosine", linkage="average").fit_predict(vectors))


def _hdbscan(vectors: Vectors) -> Labels:
    from sklearn.cluster import HDBSCAN

    smallest = max(SMALLEST_GROUP, int(np.ceil(SMALLEST_SHARE * len(vectors))))
    if len(vectors) < 2 * smallest:
        return np.zeros(len(vectors), dtype=np.int64)
    labels = _quiet(lambda: HDBSCAN(min_cluster_size=smallest, copy=True).fit_predict(vectors))
    return labels if (labels >= 0).any() else np.zeros(len(vectors), dtype=np.int64)


def _quiet(fit: Callable[[], Any]) -> Labels:
    """Fit without scikit-learn's warning about fewer distinct uses than groups: the groups say so themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(fit(), dtype=np.int64)


def _centres(vectors: Vectors, labels: Labels) -> Vectors:
    """Return the mean of each group that has members, (K, D); a negative label is in none."""
    return np.stack([vectors[labels == label].mean(axis=0) for label in np.unique(labels[labels >= 0])])


def _assigned(vectors: Vectors, centres: Vectors, outside: NDArray[np.bool_], *, refine: bool) -> Clusters:
    """Give every use its nearest centre, and number the groups by size."""
    labels, between = nearest_centres(vectors, centres)
    for _ in range(10 if refine else 1):
        labels = np.unique(labels, return_inverse=True)[1].astype(np.int64)
        centres = _centres(vectors, labels)
        before, (labels, between) = labels, nearest_centres(vectors, centres)
        if np.array_equal(before, labels):
            break
    labels = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    by_size = np.argsort(-np.bincount(labels), kind="stable")
    labels = np.argsort(by_size)[labels]
    return Clusters(labels, _centres(vectors, labels), between | outside)


def _squared_distances(vectors: Vectors, centres: Vectors) -> NDArray[np.float64]:
    squares = (vectors**2).sum(axis=1)[:, None] - 2 * vectors @ centres.T + (centres**2).sum(axis=1)[None, :]
    positive: NDArray[np.float64] = np.maximum(squares.astype(np.float64), 0)
    return positive

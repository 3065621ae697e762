"""Senses found in uses that people have labelled: how well the groups agree, beside groupings that know nothing.

Letters: N uses, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ctxembed.config import check
from ctxembed.meaning.clusters import Method, cluster_uses
from ctxembed.meaning.occurrences import Occurrence
from ctxembed.meaning.senses import find_senses
from ctxembed.types import TextEncoder, Usage, Vectors


@dataclass(frozen=True)
class SenseScores:
    """How N uses grouped one way agree with the same uses grouped by people."""

    v_measure: float
    """Harmonic mean of homogeneity and completeness (Rosenberg and Hirschberg 2007), in [0, 1]."""
    ari: float
    """Adjusted Rand index: 0 for chance, 1 for the same groups."""
    paired_f: float
    """F of the pairs of uses put together (Manandhar et al. 2010), in [0, 1]."""


def sense_scores(gold: ArrayLike, found: ArrayLike) -> SenseScores:
    """Compare groups with labels.

    Args:
        gold: Labels, (N,), at least two uses.
        found: Groups, (N,).

    Raises:
        InvalidInputError: If they are not of one length, or fewer than two.

    >>> sense_scores(["a", "a", "b"], [1, 1, 0])
    SenseScores(v_measure=1.0, ari=1.0, paired_f=1.0)
    """
    from sklearn.metrics import adjusted_rand_score, v_measure_score
    from sklearn.metrics.cluster import pair_confusion_matrix

    first, second = (np.unique(np.asarray(side), return_inverse=True)[1] for side in (gold, found))
    check(len(first) == len(second) >= 2, f"{len(first)} labels and {len(second)} groups: need as many, at least two")
    (_, false), (missed, true) = pair_confusion_matrix(first, second).tolist()
    paired = 2 * true / (2 * true + false + missed) if true + false + missed else 1.0
    return SenseScores(float(v_measure_score(first, second)), float(adjusted_rand_score(first, second)), float(paired))


@dataclass(frozen=True)
class LabelledWord:
    """A word with uses whose senses people have named."""

    word: str
    usages: Sequence[Usage]
    senses: Sequence[str]


def evaluate_senses(
    word: LabelledWord,
    vectors: Vectors,
    *,
    contexts: Vectors | None = None,
    static: TextEncoder | None = None,
    k: int | None = None,
    method: Method = "k-means",
    alike: float | None = None,
    seed: int = 1,
) -> list[dict[str, Any]]:
    """Group the uses of a word and score the groups beside groupings that know nothing of context, or of anything.

    Args:
        word: N labelled uses.
        vectors: Their unit vectors in context, (N, D).
        contexts: Vectors of their sentences, (N, any width), as in ``meaning.senses.find_senses``.
        static: Gives the mean static vector of each sentence, for the static-context baseline.
        k: How many groups; found by how the uses fall apart where None.
        method: See ``clusters``.
        alike: See ``clusters``.
        seed: Decides every random choice.

    Returns:
        A row for each system: the groups found, all uses in one group, each use alone, as many random groups as were
        found, and static contexts grouped in the same way.
    """
    occurrences = [Occurrence(str(n), usage, word.word) for n, usage in enumerate(word.usages)]
    found = find_senses(
        word.word,
        occurrences,
        vectors,
        contexts=contexts,
        k=k,
        method=method,
        alike=alike,
        seed=seed,
        with_stability=False,
    )
    labels = found.clusters.labels
    number, size = int(labels.max()) + 1, len(labels)
    systems: dict[str, ArrayLike] = {
        "found": labels,
        "one group": np.zeros(size, dtype=np.int64),
        "each alone": np.arange(size),
        "random": np.random.default_rng(seed).integers(0, max(number, 2), size=size),
    }
    if static is not None:
        contexts = static.encode([usage.text for usage in word.usages])
        systems["static context"] = cluster_uses(contexts, k=k, method=method, seed=seed).labels
    rows = []
    for name, groups in systems.items():
        scores = sense_scores(word.senses, groups)
        count = len(np.unique(np.asarray(groups)))
        row = {"word": word.word, "system": name, "uses": size, "senses": len(set(word.senses)), "groups": count}
        rows.append(row | {key: round(getattr(scores, key), 4) for key in ("v_measure", "ari", "paired_f")})
    return rows

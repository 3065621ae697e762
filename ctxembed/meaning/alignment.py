"""The static comparison beside the contextual one: two Word2Vec spaces, one turned onto the other.

Letters: V words of both sides, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctxembed.config import check
from ctxembed.meaning.occurrences import Grouping
from ctxembed.static import StaticVectors
from ctxembed.types import Document


@dataclass(frozen=True)
class GroupStream:
    """The documents of some groups, as often as they are asked for."""

    documents: Iterable[Document]
    group: Grouping
    wanted: frozenset[str]

    def __iter__(self) -> Iterator[Document]:
        return (document for document in self.documents if self.group(document) in self.wanted)


def aligned_distances(old: StaticVectors, new: StaticVectors) -> dict[str, float]:
    """Return the cosine distance of every shared word after turning the old space onto the new one.

    Both are brought to unit length, centred and turned by orthogonal Procrustes over all V shared words (Hamilton,
    Leskovec and Jurafsky 2016, equation 4; centring as Schlechtweg et al. 2019 advise).

    Raises:
        InvalidInputError: If the widths differ or fewer words are shared than the space is wide.
    """
    from scipy.linalg import orthogonal_procrustes

    known = set(new.words)
    shared = [word for word in old.words if word in known]
    check(
        old.dimension == new.dimension and len(shared) >= old.dimension,
        f"{len(shared)} shared words in spaces of width {old.dimension} and {new.dimension}: need the same width and "
        "at least as many shared words; use more text or a smaller width",
    )
    first, second = (_unit_rows(side, shared) for side in (old, new))
    turned = first @ orthogonal_procrustes(first, second)[0]
    lengths = np.linalg.norm(turned, axis=1) * np.linalg.norm(second, axis=1)
    cosines = np.einsum("vd,vd->v", turned, second) / np.maximum(lengths, 1e-12)
    return dict(zip(shared, (1 - cosines).tolist(), strict=True))


def _unit_rows(side: StaticVectors, words: list[str]) -> NDArray[np.float64]:
    rows = {word: row for row, word in enumerate(side.words)}
    vectors = side.vectors[[rows[word] for word in words]].astype(np.float64)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    centred: NDArray[np.float64] = vectors - vectors.mean(axis=0)
    return centred

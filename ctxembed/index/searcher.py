"""Searching one vector index: exact or approximate, all rows or a selection, always as many results as there are."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from operator import gt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxembed.errors import InvalidInputError
from ctxembed.index.files import ExactVectors, Places, open_faiss
from ctxembed.types import Vectors

EXACT_ROWS = 20_000
"""A selection of no more rows is compared row by row: exact, and at most some 10 ms."""
EXACT_SHARE = 0.02
FEW_ROWS = 100
"""So few rows train no codes that could be relied on: an approximate index of them is searched exactly."""
SHORT = 100
"""Results of one query that are looked through without arrays, which is faster for so few."""
MAX_EF = 4096
READ_BYTES = 512 * 2**20
"""Codes of no more bytes are read: that takes less than a second, and they are scanned a tenth faster than mapped."""

Mask = NDArray[np.bool_]
Found = tuple[Vectors, Places]


class Searcher:
    """A FAISS index over exact vectors that lie beside it."""

    def __init__(self, exact: ExactVectors, approximate: Any | None, *, kind: str) -> None:
        """Put the parts together.

        Args:
            exact: All vectors.
            approximate: What ``files.train_and_add`` made or ``open_faiss`` read; None compares every vector.
            kind: See ``kinds``.
        """
        import faiss

        self.exact = exact
        self._approximate = approximate
        self._lists = None if approximate is None else faiss.try_extract_index_ivf(approximate)
        self._graph = approximate if isinstance(approximate, faiss.IndexHNSW) else None
        self._index = exact.index
        self._refined = False
        if kind == "hnsw" and approximate is not None:
            approximate.storage, approximate.own_fields = exact.index, False
            self._index = approximate
        elif approximate is not None:  # what an index of codes finds is ranked by the exact vectors
            self._index, self._refined = faiss.IndexRefine(approximate, exact.index), True
        self._parameters: dict[str, int] = {}
        if self._refined:
            self.set(k_factor=1)

    @classmethod
    def open(cls, exact: ExactVectors, path: Path, *, kind: str, parameters: Mapping[str, int]) -> Searcher:
        """Open an approximate index: lists of codes are read if they are small, and memory-mapped if not."""
        import faiss

        if kind == "hnsw":
            index = open_faiss(path, faiss.IO_FLAG_SKIP_STORAGE | faiss.IO_FLAG_MMAP_IFC)
        else:
            index = open_faiss(path, faiss.IO_FLAG_MMAP if path.stat().st_size > READ_BYTES else 0)
            lists = faiss.try_extract_index_ivf(index)
            stored = None if lists is None else faiss.downcast_InvertedLists(lists.invlists)
            if isinstance(stored, faiss.OnDiskInvertedLists):
                stored.prefetch_nthread = 0  # it would start threads for every query
        searcher = cls(exact, index, kind=kind)
        searcher.set(**parameters)
        return searcher

    @property
    def size(self) -> tuple[int, int]:
        """Rows and width of the approximate index, or of the exact vectors where there is none."""
        index = self.exact.index if self._approximate is None else self._approximate
        return int(index.ntotal), int(index.d)

    @property
    def parameters(self) -> dict[str, int]:
        """The settings that decide between speed and recall."""
        return dict(self._parameters)

    @property
    def effort(self) -> tuple[str, int] | None:
        """Name and largest value of the setting that a search takes longer with and finds more."""
        if self._lists is not None:
            return "nprobe", int(self._lists.nlist)
        return None if self._graph is None else ("efSearch", min(MAX_EF, max(16, len(self.exact))))

    @property
    def refined(self) -> bool:
        """Whether candidates are ranked again by their exact vectors."""
        return self._refined

    def set(self, **parameters: int) -> None:
        """Change settings: ``nprobe``, ``efSearch``, ``k_factor`` (candidates for each result)."""
        for name, value in parameters.items():
            if name == "k_factor" and self._refined:
                self._index.k_factor = value
            elif name == "nprobe" and self._lists is not None:
                self._lists.nprobe = value
            elif name == "efSearch" and self._graph is not None:
                self._graph.hnsw.efSearch = value
            else:
                raise InvalidInputError(f"{name} = {value}: this kind of index has no such setting")
            self._parameters[name] = value

    def search(self, queries: Vectors, k: int, selected: Mask | None = None) -> Found:
        """Find the k best rows: scores and places, (N, k), each row by falling score, then by place.

        Args:
            queries: float32 (N, D), N at least 1.
            k: At least 1, at most the number of rows, or of selected ones.
            selected: The rows that may be found, (rows,); None is all.

        Raises:
            InvalidInputError: If an inner product is beyond float32.
        """
        count = len(self.exact) if selected is None else int(np.count_nonzero(selected))
        few = selected is not None and (count <= EXACT_ROWS or count <= EXACT_SHARE * len(self.exact))
        if few or (self._approximate is not None and count <= max(4 * k, FEW_ROWS)):
            everything = np.arange(count) if selected is None else np.flatnonzero(selected)
            scores, places = self.exact.nearest(queries, k, everything)
        else:
            scores, places = self._search(queries, k, selected, count)
        if len(scores) == 1 and k <= SHORT and _falls(scores[0].tolist()):
            return scores, places
        if not np.isfinite(np.vdot(scores, scores)) and not np.isfinite(scores).all():
            raise InvalidInputError("an inner product is beyond float32: normalise the vectors to unit length first")
        if (scores[:, 1:] >= scores[:, :-1]).any():  # a tie, or not in order yet
            order = np.lexsort((places, -scores))
            scores, places = np.take_along_axis(scores, order, axis=1), np.take_along_axis(places, order, axis=1)
        return scores, places

    def _search(self, queries: Vectors, k: int, selected: Mask | None, count: int) -> Found:
        if selected is None:
            scores, places = self._index.search(queries, k)
        else:
            scores, places = self._selected(queries, k, selected, count)
        if places[:, -1].min() < 0:  # an approximate search may come back with less than there is
            missing = (places < 0).any(axis=1)
            everything = np.arange(len(self.exact)) if selected is None else np.flatnonzero(selected)
            scores[missing], places[missing] = self.exact.nearest(queries[missing], k, everything)
        return scores, places

    def _selected(self, queries: Vectors, k: int, selected: Mask, count: int) -> Found:
        """Search among some rows; the fewer they are, the harder is looked for them."""
        import faiss

        selector = faiss.IDSelectorBitmap(np.packbits(selected, bitorder="little"))
        harder = len(self.exact) / count
        try:
            found: Found = self._index.search(queries, k, params=self._selecting(selector, harder))
        except RuntimeError:  # a kind that takes no selection: ask for more, and drop what was not selected
            return self._sifted(queries, k, selected, harder)
        return found

    def _selecting(self, selector: Any, harder: float) -> Any:
        import faiss

        if self._approximate is None:
            return faiss.SearchParameters(sel=selector)
        effort = self.effort
        value = 0 if effort is None else min(effort[1], int(self._parameters.get(effort[0], 1) * harder) + 1)
        if self._lists is not None:
            inner = faiss.SearchParametersIVF(sel=selector, nprobe=value)
        elif self._graph is not None:
            inner = faiss.SearchParametersHNSW(sel=selector, efSearch=value)
        else:
            inner = faiss.SearchParameters(sel=selector)
        if isinstance(self._approximate, faiss.IndexPreTransform):
            inner = faiss.SearchParametersPreTransform(index_params=inner)
        if not self._refined:
            return inner
        factor = self._parameters["k_factor"]
        return faiss.IndexRefineSearchParameters(k_factor=factor, base_index_params=inner)

    def _sifted(self, queries: Vectors, k: int, selected: Mask, harder: float) -> Found:
        wanted = min(len(self.exact), int(2 * k * harder) + 1)
        scores, places = self._index.search(queries, wanted)
        good = (places >= 0) & selected[places]
        order = np.argsort(~good, axis=1, kind="stable")[:, :k]
        scores, places = np.take_along_axis(scores, order, axis=1), np.take_along_axis(places, order, axis=1)
        places[~np.take_along_axis(good, order, axis=1)] = -1
        return scores, places


def _falls(scores: list[float]) -> bool:
    """Tell whether finite scores fall from each to the next: the common case, told faster than by arrays."""
    return isfinite(scores[0]) and isfinite(scores[-1]) and all(map(gt, scores, scores[1:]))

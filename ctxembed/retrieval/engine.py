"""The run of a query: candidates, thresholds, re-ranking, folding, variety, and the rows behind what is left."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctxembed.calibration import Calibration
from ctxembed.errors import InvalidInputError
from ctxembed.index.folder import IndexFolder
from ctxembed.retrieval.candidates import Candidates, Query, find_candidates
from ctxembed.retrieval.late_interaction import explain, late_interaction
from ctxembed.retrieval.options import SearchOptions
from ctxembed.retrieval.ranking import fold_near_duplicates, maximal_marginal_relevance
from ctxembed.types import Answer, Hit, UsageEncoder
from ctxembed.vectors import Row


@dataclass(frozen=True, slots=True)
class Retriever:
    """An index, the rows behind it, and the scale of its similarities if that is known."""

    folder: IndexFolder
    scale: Calibration | None = None

    def run(
        self, queries: Sequence[Query], options: SearchOptions, *, encoder: UsageEncoder | None = None
    ) -> list[list[Hit]]:
        """Answer several queries.

        Args:
            queries: Each with what the mode compares.
            options: How.
            encoder: For re-ranking and explanations.

        Returns:
            At most k hits for each, best first; with diversity in the order of choice.

        Raises:
            InvalidInputError: If a percentile is asked for that is not known.
        """
        if not queries:
            return []
        lowest = self._lowest(options)
        found = self._find(queries, options, depth=options.depth)
        return [
            self._answer(query, candidates, options, lowest=lowest, encoder=encoder)
            for query, candidates in zip(queries, found, strict=True)
        ]

    def _find(self, queries: Sequence[Query], options: SearchOptions, *, depth: int) -> list[Candidates]:
        where = None if options.where is None else self.folder.condition(options.where)
        return find_candidates(self.folder, queries, mode=options.mode, depth=depth, where=where)

    def _lowest(self, options: SearchOptions) -> float:
        """Return the cosine below which rows are left out."""
        lowest = -np.inf if options.min_score is None else options.min_score
        if options.min_percentile is None:
            return lowest
        if self.scale is None:
            raise InvalidInputError(
                "the index does not know how alike its rows are (too few have vectors, or an older ctxembed built it): "
                "use min_score, or build it again"
            )
        return max(lowest, self.scale.at_percentile(options.min_percentile))

    def _answer(
        self,
        query: Query,
        candidates: Candidates,
        options: SearchOptions,
        *,
        lowest: float,
        encoder: UsageEncoder | None,
    ) -> list[Hit]:
        depth = options.depth
        while True:
            kept = candidates.take(~(candidates.cosines < lowest))
            exhausted = len(kept) < depth  # fewer than were asked for, or the nearest ones reach beyond the threshold
            kept = kept.take(np.arange(min(len(kept), depth)))
            if options.rerank and encoder is not None and len(kept):
                kept = kept.take(np.arange(min(len(kept), max(options.k, options.rerank))))
                texts = [stored.row.text for stored in self.folder.store.get(kept.numbers)]
                kept = kept.ranked_anew(late_interaction(encoder, query.text or "", texts), mode=options.mode)
            chosen, folded = self._choose(kept, options)
            if len(chosen) >= options.k or exhausted or options.fold is None or options.rerank:
                return self._hits(query, chosen, folded, options, encoder)
            depth *= 2
            candidates = self._find([query], options, depth=depth)[0]

    def _choose(self, ranked: Candidates, options: SearchOptions) -> tuple[Candidates, Mapping[int, list[int]]]:
        """Return the k rows to show, and for each the rows that were folded into it."""
        folded: dict[int, list[int]] = defaultdict(list)
        if (options.fold is None and not options.diversity) or not len(ranked):
            return ranked.take(np.arange(min(options.k, len(ranked)))), folded
        vectors = self.folder.take(ranked.numbers)
        if options.fold is not None:
            owners = fold_near_duplicates(vectors, threshold=options.fold)
            kept = np.flatnonzero(owners == np.arange(len(owners)))
            for place in np.flatnonzero(owners != np.arange(len(owners))).tolist():
                folded[int(ranked.numbers[owners[place]])].append(int(ranked.numbers[place]))
            ranked, vectors = ranked.take(kept), vectors[kept]
        if not options.diversity:
            return ranked.take(np.arange(min(options.k, len(ranked)))), folded
        relevance = _like_cosines(ranked.scores, options)
        places = maximal_marginal_relevance(relevance, vectors, k=options.k, diversity=options.diversity)
        return ranked.take(places), folded

    def _hits(
        self,
        query: Query,
        chosen: Candidates,
        folded: Mapping[int, list[int]],
        options: SearchOptions,
        encoder: UsageEncoder | None,
    ) -> list[Hit]:
        numbers = chosen.numbers.tolist()
        copies = [number for each in numbers for number in folded.get(each, ())]
        rows = {stored.number: stored.row for stored in self.folder.store.get([*numbers, *copies])}
        shown = [rows[number] for number in numbers]
        answers: list[tuple[Answer, ...]] = [()] * len(shown)
        if options.explain and encoder is not None and shown:
            answers = explain(encoder, query.text or "", [row.text for row in shown])
        percentiles = np.full(len(shown), np.nan) if self.scale is None else self.scale.percentile(chosen.cosines)
        return [
            _hit(
                row,
                score=float(chosen.scores[place]),
                cosine=_known(chosen.cosines[place]),
                bm25=_known(chosen.bm25[place]),
                late=_known(chosen.late[place]),
                percentile=_known(percentiles[place]),
                duplicates=tuple(rows[number].id for number in folded.get(numbers[place], ())),
                answers=answers[place],
            )
            for place, row in enumerate(shown)
        ]


def _hit(row: Row, *, score: float, **more: object) -> Hit:
    return Hit(row.id, score, row.text, row.metadata, row.start, row.end, **more)  # type: ignore[arg-type]


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _like_cosines(scores: NDArray[np.float64], options: SearchOptions) -> NDArray[np.float64]:
    """Bring scores to the scale of a cosine, so that relevance and likeness can be weighed against each other."""
    if options.mode == "dense":
        return scores
    return np.asarray(scores / scores.max(initial=1e-12))

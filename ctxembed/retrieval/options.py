"""How a search is to be done: one record with all that may be chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from ctxembed.config import check

Mode: TypeAlias = Literal["dense", "lexical", "hybrid"]

LIST_DEPTH = 100
"""Places of each ranking that hybrid search fuses, at least."""
VARIETY = 5
"""Candidates for each hit wanted, from which diverse hits are chosen."""


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """What ``SemanticSearch.search`` can be told; the defaults give the k rows of the largest cosine."""

    k: int = 10
    """Hits wanted; all rows where there are fewer."""
    mode: Mode = "dense"
    """By the vector of the query, by its words (BM25), or by both with their ranks fused."""
    where: str | None = None
    """A condition on metadata, such as ``year >= 1990 and source = 'x'``; only rows that satisfy it are searched."""
    rerank: int = 0
    """So many of the best rows are ranked anew by late interaction of their token vectors; 0 for none."""
    explain: bool = False
    """Tell for each hit which of its words answered which words of the query."""
    fold: float | None = None
    """Rows whose cosine with a better hit reaches this are folded into it; None keeps all."""
    diversity: float = 0.0
    """From 0 (relevance alone) to 1: how much a hit must differ from the hits before it."""
    min_score: float | None = None
    """Rows whose cosine with the query is lower are left out."""
    min_percentile: float | None = None
    """The same, on the index's own scale: the percentile of the cosine among random pairs of rows."""

    def __post_init__(self) -> None:
        check(self.k >= 1, f"k is {self.k}, need at least 1: ask for one hit or more")
        check(self.mode in get_args(Mode), f"mode {self.mode!r}: must be one of {', '.join(get_args(Mode))}")
        check(self.rerank >= 0, f"rerank is {self.rerank}, need 0 (no re-ranking) or the rows to be ranked anew")
        check(0 <= self.diversity <= 1, f"diversity is {self.diversity}, need 0 (relevance alone) to 1")
        fold, share = self.fold, self.min_percentile
        check(fold is None or 0 < fold <= 1, f"fold is {fold}, need a cosine above 0 and at most 1, such as 0.95")
        check(share is None or 0 <= share <= 100, f"min_percentile is {share}, need 0 to 100")
        check(
            not (self.has_threshold and self.mode == "lexical"),
            "a threshold is on the cosine, which lexical search has not: search in mode dense or hybrid",
        )

    @property
    def needs_words(self) -> bool:
        """Whether the words of the query are looked up."""
        return self.mode != "dense"

    @property
    def needs_vector(self) -> bool:
        """Whether the vector of the query is needed."""
        return self.mode != "lexical"

    @property
    def needs_usages(self) -> bool:
        """Whether vectors of single words or tokens are needed."""
        return bool(self.rerank or self.explain)

    @property
    def has_threshold(self) -> bool:
        """Whether rows too far from the query are left out."""
        return self.min_score is not None or self.min_percentile is not None

    @property
    def depth(self) -> int:
        """Candidates to begin with."""
        depth = max(self.k, self.rerank)
        if self.diversity:
            depth = max(depth, VARIETY * self.k)
        return max(depth, 2 * self.k) if self.fold is not None else depth

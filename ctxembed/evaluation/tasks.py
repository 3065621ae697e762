"""The three tasks: tell senses of a word apart, order sentence pairs by likeness, find documents for a query.

N is the number of items, D the width of a vector. An item without a vector (a zero row) has the similarity 0 to
everything and stays in the figure; ``coverage`` says how many have one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ctxembed.errors import InvalidInputError
from ctxembed.evaluation.datasets import RetrievalSet, TextSet, UsageSet
from ctxembed.evaluation.metrics import accuracy_at, best_threshold, ndcg_at_k, recall_at_k, spearman, top_columns
from ctxembed.types import TextEncoder, UsageEncoder, Vectors

Item = TypeVar("Item", bound=Hashable)

# A cosine of float32 vectors is uncertain in its seventh decimal, where the cosine of a vector with itself differs
# from word to word. Without rounding a threshold or a ranking would be made of that noise.
SIMILARITY_DECIMALS = 6
RECALL_DEPTH = 100


@dataclass(frozen=True, slots=True)
class TaskResult:
    """One figure: what was measured, on what, and how much of it had vectors."""

    task: str
    """The name of the data set."""
    split: str
    """The part of the data set that was scored."""
    metric: str
    """For example "accuracy", "spearman" or "nDCG@10"; higher is better for all of them."""
    value: float
    """Of accuracy, nDCG and recall in [0, 1]; of a correlation in [-1, 1]."""
    items: int
    """How many pairs, or queries with a relevant document, the value is an average over."""
    coverage: float
    """The share of these pairs (for retrieval: of pairs of query and relevant document) with two non-zero vectors."""
    threshold: float | None = None
    """The cosine from which on two usages count as one meaning."""
    threshold_from: str | None = None
    """The part of the data set on which the threshold was tuned."""


def evaluate_words(encoder: UsageEncoder, data: UsageSet, *, layer: int | None = None) -> TaskResult:
    """Measure how often a threshold on the cosine of two usages tells whether the word means the same.

    The task of Pilehvar and Camacho-Collados, "WiC: the Word-in-Context Dataset" (2019). The threshold is the most
    accurate one on other pairs than those scored.

    Args:
        encoder: Gives the vectors of the usages.
        data: The pairs.
        layer: The layer to take the vectors from; None is the encoder's own choice.

    Returns:
        The accuracy, in [0, 1].

    Raises:
        InvalidInputError: If a vector is not finite, or the encoder has no such layer.
    """
    pairs = [*data.threshold_pairs, *data.pairs]
    similarity, covered = _pair_similarity(
        [pair.first for pair in pairs],
        [pair.second for pair in pairs],
        encode=lambda usages: encoder.encode_usages(usages, layer=layer),
    )
    labels = np.array([pair.label for pair in pairs], dtype=np.bool_)
    scored = slice(len(data.threshold_pairs), None)
    tuned = slice(len(data.threshold_pairs))
    threshold = best_threshold(similarity[tuned], labels[tuned])
    return TaskResult(
        task=data.name,
        split=data.split,
        metric="accuracy",
        value=accuracy_at(similarity[scored], labels[scored], threshold),
        items=len(data.pairs),
        coverage=float(covered[scored].mean()),
        threshold=threshold,
        threshold_from=data.threshold_from,
    )


def evaluate_sentences(encoder: TextEncoder, data: TextSet) -> TaskResult:
    """Measure how well the cosine of two texts orders pairs as people do.

    The task of Cer et al., "SemEval-2017 Task 1" (2017), with rank correlation as is usual since.

    Args:
        encoder: Gives the vectors of the texts.
        data: The pairs with their scores.

    Returns:
        Spearman's correlation of cosine and score, in [-1, 1]; 0.0 where either is constant.

    Raises:
        InvalidInputError: If a vector is not finite.
    """
    similarity, covered = _pair_similarity(
        [pair.first for pair in data.pairs], [pair.second for pair in data.pairs], encode=encoder.encode
    )
    return TaskResult(
        task=data.name,
        split=data.split,
        metric="spearman",
        value=spearman(similarity, [pair.score for pair in data.pairs]),
        items=len(data.pairs),
        coverage=float(covered.mean()),
    )


def evaluate_retrieval(encoder: TextEncoder, data: RetrievalSet, *, k: int = 10) -> tuple[TaskResult, ...]:
    """Measure how high the relevant documents stand when all are ranked by cosine with the query.

    Documents of equal cosine are ranked by their id. Queries without a relevant document are left out, as
    trec_eval does. Identical texts are embedded once.

    Args:
        encoder: Gives the vectors of queries and documents.
        data: The corpus, the queries and the judgements.
        k: How many places nDCG looks at.

    Returns:
        nDCG@k, and recall at 100 places, each in [0, 1], averaged over the queries.

    Raises:
        InvalidInputError: If a vector is not finite, or k is below 1.
    """
    queries, documents = data.judged_queries, sorted(data.corpus, key=lambda document: document.id)
    vectors = _encode_distinct([item.text for item in [*queries, *documents]], encode=encoder.encode)
    query_vectors, document_vectors = vectors[: len(queries)], vectors[len(queries) :]
    column = {document.id: place for place, document in enumerate(documents)}
    document_has_vector = _has_vector(document_vectors)
    gains_at_k, recalls, covered = [], [], []
    for query, vector in zip(queries, query_vectors, strict=True):
        judged = data.judgements[query.id]
        gains = np.zeros(len(documents))
        gains[[column[document] for document in judged]] = list(judged.values())
        ranking = top_columns(_rounded(document_vectors @ vector), depth=max(k, RECALL_DEPTH))
        gains_at_k.append(ndcg_at_k(gains[ranking], gains, k=k))
        recalls.append(recall_at_k(gains[ranking], gains, k=RECALL_DEPTH))
        covered.append(document_has_vector[gains > 0] & bool(vector.any()))
    coverage = float(np.concatenate(covered).mean())
    return tuple(
        TaskResult(data.name, "all", metric, float(np.mean(values)), items=len(queries), coverage=coverage)
        for metric, values in ((f"nDCG@{k}", gains_at_k), (f"recall@{RECALL_DEPTH}", recalls))
    )


def _pair_similarity(
    first: Sequence[Item], second: Sequence[Item], *, encode: Callable[[Sequence[Item]], Vectors]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the cosine of each pair, (N,), and whether both of its items have a vector, (N,)."""
    vectors = _encode_distinct([*first, *second], encode=encode)
    left, right = vectors[: len(first)], vectors[len(first) :]
    return _rounded(np.einsum("nd,nd->n", left, right)), _has_vector(left) & _has_vector(right)


def _encode_distinct(items: Sequence[Item], *, encode: Callable[[Sequence[Item]], Vectors]) -> Vectors:
    """Encode every different item once; return a row for each item, (N, D)."""
    places = {item: place for place, item in enumerate(dict.fromkeys(items))}
    vectors = encode(list(places))
    if not np.isfinite(vectors).all():
        item = list(places)[int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])]
        raise InvalidInputError(f"the vector of {item!r} is not finite: the model is damaged, train or fetch it again")
    return vectors[[places[item] for item in items]]


def _has_vector(vectors: Vectors) -> NDArray[np.bool_]:
    return np.asarray(np.any(vectors, axis=1), dtype=np.bool_)


def _rounded(similarity: Vectors) -> NDArray[np.float64]:
    return np.asarray(similarity, dtype=np.float64).round(SIMILARITY_DECIMALS)

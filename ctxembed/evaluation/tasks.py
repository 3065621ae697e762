"""The tasks: tell senses of a word apart, order pairs by likeness, name the sense of a use, find documents for a query.

N is the number of items, D the width of a vector. An item without a vector (a zero row) has the similarity 0 to
everything and stays in the figure; ``coverage`` says how many have one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ctxembed.errors import InvalidInputError
from ctxembed.evaluation.metrics import (
    accuracy_at,
    average_precision,
    best_threshold,
    ndcg_at_k,
    nearest_agreement,
    recall_at_k,
    spearman,
    top_columns,
)
from ctxembed.evaluation.records import GradedPair, GradedSet, RetrievalSet, SenseSet, SenseUse, TextSet, UsageSet
from ctxembed.evaluation.significance import Outcomes, pooled_precision, units_of
from ctxembed.types import TextEncoder, UsageEncoder, Vectors

Item = TypeVar("Item", bound=Hashable)

# A cosine of float32 vectors is uncertain in its seventh decimal, where the cosine of a vector with itself differs
# from word to word. Without rounding a threshold or a ranking would be made of that noise.
SIMILARITY_DECIMALS = 6
RECALL_DEPTH = 100


@runtime_checkable
class Ranker(Protocol):
    """Anything that scores documents for a query without vectors."""

    @property
    def name(self) -> str:
        """A short name for tables and messages."""
        ...

    @property
    def fingerprint(self) -> str:
        """A sha256 over everything that changes a score."""
        ...

    def scorer(self, documents: Sequence[str]) -> Callable[[str], NDArray[np.float64]]:
        """Return a function that gives a query's score of each document, (N,); 0 where nothing is shared."""
        ...


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
    """Of a correlation in [-1, 1], of everything else in [0, 1]."""
    rows: int
    """How many pairs, uses, or queries with a relevant document, the value is of."""
    coverage: float
    """The share of these rows (for retrieval: of pairs of query and relevant document) that have vectors."""
    outcomes: Outcomes = field(repr=False, compare=False)
    """What the value is made of."""
    threshold: float | None = None
    """The cosine from which on two usages count as one meaning."""
    threshold_from: str | None = None
    """The part of the data set on which the threshold was tuned, or whose senses were known."""


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
    similarity, covered = pair_similarity(
        [pair.first for pair in pairs],
        [pair.second for pair in pairs],
        encode=lambda usages: encoder.encode_usages(usages, layer=layer),
    )
    labels = np.array([pair.label for pair in pairs], dtype=np.bool_)
    scored = slice(len(data.threshold_pairs), None)
    tuned = slice(len(data.threshold_pairs))
    threshold = best_threshold(similarity[tuned], labels[tuned])
    units, unit = units_of([pair.word for pair in data.pairs], name="word")
    right = ((similarity[scored] >= threshold) == labels[scored]).astype(np.float64)
    return TaskResult(
        task=data.name,
        split=data.split,
        metric="accuracy",
        value=accuracy_at(similarity[scored], labels[scored], threshold),
        rows=len(data.pairs),
        coverage=float(covered[scored].mean()),
        outcomes=Outcomes("mean", right, units=units, unit=unit),
        threshold=threshold,
        threshold_from=data.threshold_from,
    )


def evaluate_graded(encoder: UsageEncoder, data: GradedSet, *, layer: int | None = None) -> tuple[TaskResult, ...]:
    """Measure how well the cosine of two usages, or of two words alone, orders pairs as people do.

    The tasks of Huang et al., "SCWS" (2012), and of WordSim-353 or SimLex-999 where the words stand alone. Where rows
    are the same two words in two contexts, a second figure says how well the change from one to the other is ordered
    (Armendariz et al., "CoSimLex" (2020), there with Pearson's correlation).

    Args:
        encoder: Gives the vectors of the usages.
        data: The pairs with their scores.
        layer: The layer to take the vectors from; None is the encoder's own choice.

    Returns:
        Spearman's correlation of cosine and score, in [-1, 1], and with such rows that of the changes.

    Raises:
        InvalidInputError: If a vector is not finite, or the encoder has no such layer.
    """
    similarity, covered = pair_similarity(
        [pair.first for pair in data.pairs],
        [pair.second for pair in data.pairs],
        encode=lambda usages: encoder.encode_usages(usages, layer=layer),
    )
    scores = np.array([pair.score for pair in data.pairs])
    words = [pair.word for pair in data.pairs]
    results = [_correlation(data, "spearman", similarity, scores, covered=covered, units=units_of(words, name="word"))]
    if twice := _same_words(data.pairs):
        first, second = np.array(twice).T
        results.append(
            _correlation(
                data,
                "spearman of change",
                similarity[second] - similarity[first],
                scores[second] - scores[first],
                covered=covered[first] & covered[second],
            )
        )
    return tuple(results)


def evaluate_sentences(encoder: TextEncoder, data: TextSet) -> TaskResult:
    """Measure how well the cosine of two texts orders pairs as people do.

    The task of Cer et al., "SemEval-2017 Task 1" (2017), with rank correlation as is usual since; pairs that only do
    or do not belong together (as in MRPC, Dolan and Brockett 2005) are measured by average precision.

    Args:
        encoder: Gives the vectors of the texts.
        data: The pairs with their scores.

    Returns:
        Spearman's correlation of cosine and score, in [-1, 1], 0.0 where either is constant; or the average precision.

    Raises:
        InvalidInputError: If a vector is not finite.
    """
    similarity, covered = pair_similarity(
        [pair.first for pair in data.pairs], [pair.second for pair in data.pairs], encode=encoder.encode
    )
    scores = np.array([pair.score for pair in data.pairs])
    if not data.is_binary:
        return _correlation(data, "spearman", similarity, scores, covered=covered)
    return TaskResult(
        task=data.name,
        split=data.split,
        metric="average precision",
        value=pooled_precision(similarity, scores),
        rows=len(scores),
        coverage=float(covered.mean()),
        outcomes=Outcomes("average precision", similarity, scores),
    )


def evaluate_senses(encoder: UsageEncoder, data: SenseSet, *, layer: int | None = None) -> TaskResult:
    """Measure how often the nearest use of the same word has the same sense.

    The 1-nearest-neighbour task of Wiedemann et al., "Does BERT Make Any Sense?" (2019), within a lemma. Scored are
    the uses of lemmas with two senses or more among the known uses: elsewhere there is nothing to tell apart. Of
    equally near neighbours each counts for its share.

    Args:
        encoder: Gives the vectors of the usages.
        data: The uses, and those whose sense is known.
        layer: The layer to take the vectors from; None is the encoder's own choice.

    Returns:
        The accuracy, in [0, 1].

    Raises:
        InvalidInputError: If a vector is not finite, the encoder has no such layer, or no word has two known senses.
    """
    known, asked = _ambiguous(data)
    uses = [use for lemma in asked for use in (*known[lemma], *asked[lemma])]
    vectors = _encode_distinct(
        [use.usage for use in uses], encode=lambda some: encoder.encode_usages(some, layer=layer)
    )
    has_vector, right, covered, lemmas, start = _has_vector(vectors), [], [], [], 0
    for lemma in asked:
        middle, end = start + len(known[lemma]), start + len(known[lemma]) + len(asked[lemma])
        similarity = _rounded(vectors[middle:end] @ vectors[start:middle].T)
        right.append(nearest_agreement(similarity, _share_a_sense(asked[lemma], known[lemma])))
        covered.append(has_vector[middle:end])
        lemmas += [lemma] * (end - middle)
        start = end
    values = np.concatenate(right)
    units, unit = units_of(lemmas, name="word")
    return TaskResult(
        task=data.name,
        split=data.split,
        metric="1-NN accuracy",
        value=float(values.mean()),
        rows=len(values),
        coverage=float(np.concatenate(covered).mean()),
        outcomes=Outcomes("mean", values, units=units, unit=unit),
        threshold_from=data.known_from,
    )


def evaluate_retrieval(system: TextEncoder | Ranker, data: RetrievalSet, *, k: int = 10) -> tuple[TaskResult, ...]:
    """Measure how high the relevant documents stand when all are ranked by cosine with the query.

    Documents of equal score are ranked by their id. Queries without a relevant document are left out, as
    trec_eval does. Identical texts are embedded once.

    Args:
        system: Gives the vectors of queries and documents, or their scores.
        data: The corpus, the queries and the judgements.
        k: How many places nDCG looks at.

    Returns:
        nDCG@k, recall at 100 places, and the mean average precision, each in [0, 1], averaged over the queries.

    Raises:
        InvalidInputError: If a vector is not finite, or k is below 1.
    """
    queries, documents = data.judged_queries, sorted(data.corpus, key=lambda document: document.id)
    column = {document.id: place for place, document in enumerate(documents)}
    score, documents_covered = _scores(system, [query.text for query in queries], [each.text for each in documents])
    figures, covered = [], []
    for number, query in enumerate(queries):
        judged = data.judgements[query.id]
        gains = np.zeros(len(documents))
        gains[[column[document] for document in judged]] = list(judged.values())
        scores, query_covered = score(number)
        ranked = gains[top_columns(scores, depth=len(scores))]
        figures.append(
            (
                ndcg_at_k(ranked, gains, k=k),
                recall_at_k(ranked, gains, k=RECALL_DEPTH),
                average_precision(ranked, gains),
            )
        )
        covered.append(documents_covered[gains > 0] & query_covered)
    coverage = float(np.concatenate(covered).mean())
    metrics = f"nDCG@{k}", f"recall@{RECALL_DEPTH}", "MAP"
    return tuple(
        TaskResult(
            data.name,
            "all",
            metric,
            float(np.mean(values)),
            rows=len(queries),
            coverage=coverage,
            outcomes=Outcomes("mean", np.array(values), unit="query"),
        )
        for metric, values in zip(metrics, zip(*figures, strict=True), strict=True)
    )


def num_unambiguous(data: SenseSet) -> int:
    """Count the uses that are not scored, because their word has fewer than two known senses."""
    return len(data.uses) - sum(map(len, _ambiguous(data)[1].values()))


def frequent_sense_accuracy(data: SenseSet) -> float:
    """Return what always naming the most frequent known sense of a word would score, in [0, 1]."""
    known, asked = _ambiguous(data)
    right = []
    for lemma, uses in asked.items():
        counts: dict[str, int] = defaultdict(int)
        for sense in sorted(sense for use in known[lemma] for sense in use.senses):
            counts[sense] += 1
        frequent = max(counts, key=counts.__getitem__)
        right += [frequent in use.senses for use in uses]
    return float(np.mean(right))


def _ambiguous(data: SenseSet) -> tuple[dict[str, list[SenseUse]], dict[str, list[SenseUse]]]:
    """Return the known uses and the uses to score of every lemma that has both, and two known senses or more."""
    known: dict[str, list[SenseUse]] = defaultdict(list)
    asked: dict[str, list[SenseUse]] = defaultdict(list)
    for each, uses in ((known, data.known), (asked, data.uses)):
        for use in uses:
            each[use.lemma].append(use)
    several = [lemma for lemma in sorted(asked) if len({sense for use in known[lemma] for sense in use.senses}) > 1]
    if not several:
        raise InvalidInputError(f"no word of {data.name} has two senses among its known uses ({data.known_from})")
    return known, {lemma: asked[lemma] for lemma in several}


def _share_a_sense(uses: Sequence[SenseUse], known: Sequence[SenseUse]) -> NDArray[np.bool_]:
    """Return whether a use and a known use have a sense in common, (N, M)."""
    number = {sense: place for place, sense in enumerate(sorted({sense for use in known for sense in use.senses}))}
    sides = [np.zeros((len(side), len(number)), dtype=np.float32) for side in (uses, known)]
    for side, table in zip((uses, known), sides, strict=True):
        for use, row in zip(side, table, strict=True):
            row[[number[sense] for sense in use.senses if sense in number]] = 1
    return np.asarray(sides[0] @ sides[1].T > 0)


def _same_words(pairs: Sequence[GradedPair]) -> list[tuple[int, int]]:
    """Return the places of the rows that are the same two words in two contexts."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, pair in enumerate(pairs):
        if pair.pair is not None:
            places[pair.pair].append(place)
    return [(each[0], each[1]) for each in places.values() if len(each) == 2]


def _correlation(
    data: GradedSet | TextSet,
    metric: str,
    similarity: NDArray[np.float64],
    scores: NDArray[np.float64],
    *,
    covered: NDArray[np.bool_],
    units: tuple[NDArray[np.intp] | None, str] = (None, "row"),
) -> TaskResult:
    return TaskResult(
        task=data.name,
        split=data.split,
        metric=metric,
        value=spearman(similarity, scores),
        rows=len(scores),
        coverage=float(covered.mean()),
        outcomes=Outcomes("spearman", similarity, scores, units=units[0], unit=units[1]),
    )


def _scores(
    system: TextEncoder | Ranker, queries: Sequence[str], documents: Sequence[str]
) -> tuple[Callable[[int], tuple[NDArray[np.float64], bool]], NDArray[np.bool_]]:
    """Return what gives a query's scores of all documents and whether it has a vector, and which documents have one."""
    if isinstance(system, Ranker):
        ranks = system.scorer(documents)

        def by_words(number: int) -> tuple[NDArray[np.float64], bool]:
            scores = ranks(queries[number])
            return scores, bool(scores.any())

        return by_words, np.ones(len(documents), dtype=np.bool_)
    vectors = _encode_distinct([*queries, *documents], encode=system.encode)
    query_vectors, document_vectors = vectors[: len(queries)], vectors[len(queries) :]

    def by_vectors(number: int) -> tuple[NDArray[np.float64], bool]:
        return _rounded(document_vectors @ query_vectors[number]), bool(query_vectors[number].any())

    return by_vectors, _has_vector(document_vectors)


def pair_similarity(
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


def _rounded(similarity: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(similarity, dtype=np.float64).round(SIMILARITY_DECIMALS)

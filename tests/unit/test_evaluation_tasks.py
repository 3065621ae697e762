"""The three tasks on encoders whose vectors are known: right values, chance for a constant, coverage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from ctxembed.errors import InvalidInputError
from ctxembed.evaluation.records import RetrievalSet, TextPair, TextSet, UsagePair, UsageSet
from ctxembed.evaluation.tasks import evaluate_retrieval, evaluate_sentences, evaluate_words
from ctxembed.types import Document, TextEncoder, Usage, UsageEncoder, Vectors


@dataclass
class MappedEncoder:
    """Gives each text the angle (in degrees) that a function says, or no vector for None."""

    angle: Callable[[str], float | None]
    name: str = "mapped"
    dimension: int = 2
    fingerprint: str = "0" * 64
    seen: list[str] = field(default_factory=list)
    layers: list[int | None] = field(default_factory=list)

    def encode(self, texts: Sequence[str], *, prompt: str | None = None) -> Vectors:
        self.seen += texts
        angles = [self.angle(text) for text in texts]
        rows = [
            (0.0, 0.0) if angle is None else (np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))) for angle in angles
        ]
        return np.array(rows, dtype=np.float32).reshape(len(rows), 2)

    def encode_usages(self, usages: Sequence[Usage], *, layer: int | None = None) -> Vectors:
        self.layers.append(layer)
        return self.encode([usage.text for usage in usages])


def constant(text: str) -> float:
    return 0.0


def usage_pair(first: str, second: str, label: bool) -> UsagePair:
    return UsagePair(f"{first}~{second}", "w", Usage(first, 0, 1), Usage(second, 0, 1), label)


def usage_set(pairs: list[tuple[str, str, bool]]) -> UsageSet:
    """Score and tune on the same pairs."""
    made = [usage_pair(*pair) for pair in pairs]
    return UsageSet("wic", "dev", made, made, "train")


def text_set(pairs: list[tuple[str, str, float]]) -> TextSet:
    return TextSet("sts", "dev", [TextPair(str(number), *pair) for number, pair in enumerate(pairs)])


def retrieval_set(
    corpus: dict[str, str], queries: dict[str, str], judgements: dict[str, dict[str, int]]
) -> RetrievalSet:
    documents = [Document(*item) for item in corpus.items()]
    return RetrievalSet("find", documents, [Document(*item) for item in queries.items()], judgements)


def test_fake_encoder_offers_both_protocols() -> None:
    assert isinstance(MappedEncoder(constant), TextEncoder)
    assert isinstance(MappedEncoder(constant), UsageEncoder)


def test_words_report_accuracy_threshold_and_where_it_came_from() -> None:
    data = usage_set([("0", "10", True), ("0", "20", True), ("0", "80", False), ("0", "90", False)])
    result = evaluate_words(MappedEncoder(float), data)
    assert (result.task, result.split, result.metric, result.value) == ("wic", "dev", "accuracy", 1.0)
    assert (result.rows, result.coverage, result.threshold_from) == (4, 1.0, "train")
    assert result.threshold == pytest.approx((np.cos(np.deg2rad(20)) + np.cos(np.deg2rad(80))) / 2, abs=1e-5)


def test_words_apply_the_threshold_of_the_other_pairs() -> None:
    # On its own pairs 45 degrees could be told apart; tuned on the others the cut lies near 5 degrees.
    tuning = [usage_pair("0", "4", True), usage_pair("0", "6", False)]
    scored = [usage_pair("0", "40", True), usage_pair("0", "50", False)]
    result = evaluate_words(MappedEncoder(float), UsageSet("wic", "dev", scored, tuning, "train"))
    assert result.value == 0.5
    assert result.rows == 2


def test_words_pass_the_layer_on() -> None:
    encoder = MappedEncoder(float)
    evaluate_words(encoder, usage_set([("0", "1", True)]), layer=3)
    assert encoder.layers == [3]


def test_words_encode_every_usage_once() -> None:
    encoder = MappedEncoder(float)
    evaluate_words(encoder, usage_set([("0", "1", True), ("0", "2", True), ("1", "2", False)]))
    assert sorted(encoder.seen) == ["0", "1", "2"]


@pytest.mark.parametrize("true", [1, 2, 3])
def test_words_of_a_constant_encoder_reach_the_majority_share(true: int) -> None:
    data = usage_set([(str(number), "9", number < true) for number in range(4)])
    assert evaluate_words(MappedEncoder(constant), data).value == max(true, 4 - true) / 4


def test_words_of_equal_vectors_have_one_similarity_whatever_the_rounding() -> None:
    # The float32 product of a vector with itself is not always 1: a threshold must not be made of that noise.
    angles = np.linspace(1, 89, 60)
    vectors = MappedEncoder(float).encode([str(angle) for angle in angles])
    assert len(set(np.einsum("nd,nd->n", vectors, vectors).tolist())) > 1
    data = usage_set([(str(angle), str(angle), number % 3 == 0) for number, angle in enumerate(angles)])
    assert evaluate_words(MappedEncoder(float), data).value == pytest.approx(2 / 3)


def test_words_without_a_vector_count_with_similarity_zero() -> None:
    data = usage_set([("0", "5", True), ("0", "unknown", False), ("unknown", "unknown", False), ("0", "6", True)])
    result = evaluate_words(MappedEncoder(lambda text: None if text == "unknown" else float(text)), data)
    assert (result.value, result.rows, result.coverage) == (1.0, 4, 0.5)


def test_sentences_correlate_cosine_with_score() -> None:
    data = text_set([("0", "10", 5.0), ("0", "30", 4.0), ("0", "80", 0.5)])
    result = evaluate_sentences(MappedEncoder(float), data)
    assert (result.task, result.metric, result.rows, result.coverage) == ("sts", "spearman", 3, 1.0)
    assert result.value == pytest.approx(1.0)
    assert result.threshold is None


def test_sentences_of_a_constant_encoder_correlate_with_nothing() -> None:
    data = text_set([("0", "10", 5.0), ("0", "30", 4.0), ("0", "80", 0.5)])
    assert evaluate_sentences(MappedEncoder(constant), data).value == 0.0


def test_sentences_without_a_vector_stay_in_the_figure() -> None:
    data = text_set([("0", "10", 5.0), ("0", "", 0.0), ("0", "30", 4.0)])
    result = evaluate_sentences(MappedEncoder(lambda text: float(text) if text else None), data)
    assert result.value == pytest.approx(1.0)
    assert result.coverage == pytest.approx(2 / 3)


def test_retrieval_reports_ndcg_and_recall() -> None:
    data = retrieval_set({"a": "80", "b": "10", "c": "20"}, {"q": "0"}, {"q": {"c": 1}})
    ndcg, recall, _ = evaluate_retrieval(MappedEncoder(float), data)
    assert (ndcg.metric, ndcg.rows, ndcg.coverage) == ("nDCG@10", 1, 1.0)
    assert ndcg.value == pytest.approx(1 / np.log2(3))
    assert (recall.metric, recall.value) == ("recall@100", 1.0)


def test_retrieval_cuts_ndcg_at_k() -> None:
    data = retrieval_set({"a": "80", "b": "10", "c": "20"}, {"q": "0"}, {"q": {"c": 1}})
    ndcg, *_ = evaluate_retrieval(MappedEncoder(float), data, k=1)
    assert (ndcg.metric, ndcg.value) == ("nDCG@1", 0.0)


def test_retrieval_averages_over_queries_with_a_relevant_document() -> None:
    corpus = {"a": "0", "b": "90"}
    queries = {"good": "0", "bad": "0", "unjudged": "0", "nothing": "0"}
    judgements = {"good": {"a": 1}, "bad": {"b": 1}, "nothing": {"a": 0}}
    ndcg, *_ = evaluate_retrieval(MappedEncoder(float), retrieval_set(corpus, queries, judgements))
    assert ndcg.rows == 2
    assert ndcg.value == pytest.approx((1 + 1 / np.log2(3)) / 2)


def test_retrieval_ranks_ties_by_document_id_whatever_the_order_of_the_corpus() -> None:
    for corpus in ({"b": "7", "a": "7", "c": "7"}, {"c": "7", "b": "7", "a": "7"}):
        ndcg, *_ = evaluate_retrieval(MappedEncoder(float), retrieval_set(corpus, {"q": "0"}, {"q": {"b": 1}}))
        assert ndcg.value == pytest.approx(1 / np.log2(3))


def test_retrieval_of_a_constant_encoder_is_at_chance() -> None:
    # Every document is the one relevant document of one query, so any fixed order gives the mean over all places.
    corpus = {f"d{number:03d}": str(number) for number in range(200)}
    queries = {f"q{number}": str(number) for number in range(200)}
    judgements = {f"q{number}": {f"d{number:03d}": 1} for number in range(200)}
    ndcg, recall, _ = evaluate_retrieval(MappedEncoder(constant), retrieval_set(corpus, queries, judgements))
    assert ndcg.value == pytest.approx(sum(1 / np.log2(place + 1) for place in range(1, 11)) / 200)
    assert recall.value == pytest.approx(100 / 200)


def test_retrieval_coverage_is_of_relevant_pairs() -> None:
    data = retrieval_set({"a": "", "b": "10", "c": ""}, {"q": "0"}, {"q": {"a": 1, "b": 2, "c": 0}})
    ndcg, *_ = evaluate_retrieval(MappedEncoder(lambda text: float(text) if text else None), data)
    assert ndcg.coverage == 0.5


def test_vector_that_is_not_finite_is_refused_with_its_text() -> None:
    encoder = MappedEncoder(lambda text: float("nan") if text == "odd" else 0.0)
    with pytest.raises(InvalidInputError, match="the vector of 'odd' is not finite"):
        evaluate_sentences(encoder, text_set([("fine", "odd", 1.0), ("fine", "fine", 2.0)]))

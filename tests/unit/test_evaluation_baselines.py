"""A constant and a random scorer come out at chance on every task; length and BM25 do what they say."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from ctxembed.evaluation.baselines import BASELINES, BaselineEncoder, BM25Baseline
from ctxembed.evaluation.datasets import load_suite
from ctxembed.evaluation.records import (
    BenchmarkSet,
    GradedPair,
    GradedSet,
    RetrievalSet,
    SenseSet,
    SenseUse,
    Suite,
    TextPair,
    TextSet,
    UsagePair,
    UsageSet,
)
from ctxembed.evaluation.runner import run_suite
from ctxembed.evaluation.tasks import Ranker
from ctxembed.runtime import data_directory
from ctxembed.text import word_forms
from ctxembed.types import Document, Encoder, Usage

NUM = 400
CHANCE = np.random.default_rng(1)


def text(number: int) -> str:
    """Return a text of 1 to 30 words that no other number has."""
    return f"t{number} " + "word " * (number * 7 % 30)


def usage(number: int) -> Usage:
    return Usage(text(number), 0, len(text(number).split()[0]))


def tasks() -> dict[str, tuple[BenchmarkSet, dict[str, float]]]:
    """Return a set of each task, without any meaning, and what chance scores on it."""
    labels = [bool(n % 2) for n in range(NUM)]
    scores = CHANCE.random(NUM).tolist()
    pairs = [UsagePair(str(n), f"w{n}", usage(n), usage(n + NUM), label) for n, label in enumerate(labels)]
    graded = [GradedPair(str(n), f"w{n}", usage(n), usage(n + NUM), s, str(n // 2)) for n, s in enumerate(scores)]
    texts = [TextPair(str(n), text(n), text(n + NUM), s) for n, s in enumerate(scores)]
    binary = [TextPair(str(n), text(n), text(n + NUM), float(label)) for n, label in enumerate(labels)]
    documents = [Document(f"d{n:03d}", text(n)) for n in CHANCE.permutation(NUM)]
    queries = [Document(f"q{n}", text(n + NUM)) for n in range(NUM)]
    judged = {f"q{n}": {f"d{n:03d}": 1} for n in range(NUM)}
    places = np.arange(1, NUM + 1)
    ndcg = float(np.sum(1 / np.log2(places[:10] + 1)) / NUM)
    return {
        "words": (UsageSet("t", "dev", pairs[: NUM // 2], pairs[NUM // 2 :], "train"), {"accuracy": 0.5}),
        "graded": (GradedSet("t", "dev", graded), {"spearman": 0.0, "spearman of change": 0.0}),
        "sentences": (TextSet("t", "dev", texts), {"spearman": 0.0}),
        "labels": (TextSet("t", "dev", binary, is_binary=True), {"average precision": 0.5}),
        "retrieval": (
            RetrievalSet("t", documents, queries, judged),
            {"nDCG@10": ndcg, "recall@100": 100 / NUM, "MAP": float(np.mean(1 / places))},
        ),
    }


@pytest.mark.parametrize("name", ["constant", "random"])
@pytest.mark.parametrize("task", ["words", "graded", "sentences", "labels", "retrieval"])
def test_system_without_meaning_is_at_chance_on_every_task(name: str, task: str) -> None:
    data, chance = tasks()[task]
    suite = Suite("words", data_directory(), [data])
    results = {each.result.metric: each for each in run_suite(suite, [BaselineEncoder(name)])}
    assert chance.keys() == results.keys()
    for metric, expected in chance.items():
        slack = 0.05 if task == "retrieval" else 0.1
        exact = name == "constant" and task != "retrieval"
        assert results[metric].result.value == pytest.approx(expected, abs=1e-9 if exact else slack)


@pytest.mark.parametrize("name", ["constant", "random"])
def test_senses_of_a_system_without_meaning_are_at_chance(name: str) -> None:
    uses = [SenseUse(str(n), f"w{n % 25}", usage(n), frozenset(["aab"[n // 25 % 3]])) for n in range(1500)]
    data = SenseSet("t", "half 2", uses[750:], uses[:750], "half 1")
    [result] = run_suite(Suite("senses", data_directory(), [data]), [BaselineEncoder(name)])
    assert result.result.value == pytest.approx(5 / 9, abs=1e-9 if name == "constant" else 0.05)


@pytest.mark.parametrize("name", ["constant", "random"])
@pytest.mark.parametrize("kind", ["words", "senses"])
def test_shipped_sets_give_nothing_to_a_system_without_meaning(kind: str, name: str) -> None:
    [result] = run_suite(load_suite(kind), [BaselineEncoder(name)])
    assert result.result.value == pytest.approx(0.5, abs=1e-9 if name == "constant" else 0.04)


def test_baselines_are_encoders_with_fingerprints_of_their_own() -> None:
    assert all(isinstance(BaselineEncoder(name), Encoder) for name in BASELINES)
    prints = [BaselineEncoder(name).fingerprint for name in BASELINES] + [BaselineEncoder("random", seed=2).fingerprint]
    assert len(set(prints)) == 4


def test_random_vectors_depend_on_the_seed_and_on_nothing_else() -> None:
    first, again, other = (BaselineEncoder("random", seed=seed).encode(["a", "b"]) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, rtol=1e-6)


def test_length_falls_with_the_difference_in_words() -> None:
    vectors = BaselineEncoder("length").encode(["a b c d", "x y z w", "a b c", "a", "a " * 200])
    assert np.all(np.diff(vectors @ vectors[0]) <= 0)
    assert vectors[0] @ vectors[1] == pytest.approx(1)


def test_empty_text_has_no_vector_in_any_baseline() -> None:
    for name in BASELINES:
        assert not BaselineEncoder(name).encode(["", " "]).any()
        assert BaselineEncoder(name).encode([]).shape == (0, BaselineEncoder(name).dimension)


def test_bm25_equals_its_formula() -> None:
    documents = ["The bank lent money.", "A river bank", "money, money, money", "unrelated ferries sail"]
    forms = [[form for form in word_forms(document) if form not in ("the", "a")] for document in documents]
    mean = np.mean([len(each) for each in forms])
    for query in ("bank money", "Money", "the river river"):
        expected = []
        for each in forms:
            total = 0.0
            for word in word_forms(query):
                found = sum(word in other for other in forms)
                idf = math.log(1 + (len(forms) - found + 0.5) / (found + 0.5))
                count = Counter(each)[word]
                total += idf * count / (count + 1.5 * (1 - 0.75 + 0.75 * len(each) / mean)) if found else 0.0
            expected.append(total)
        scores = BM25Baseline().scorer(documents)(query)
        np.testing.assert_allclose(scores, expected, rtol=1e-6)


def test_bm25_is_a_ranker_and_knows_nothing_of_unknown_words() -> None:
    assert isinstance(BM25Baseline(), Ranker)
    assert not BM25Baseline().scorer(["sea boat", "coast"])("unheard of").any()
    assert not BM25Baseline().scorer(["...", "the"])("the").any()
    assert list(itertools.chain(BM25Baseline().scorer(["sea boat", "coast"])("sea") > 0)) == [True, False]

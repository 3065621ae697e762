from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctxembed.errors import InvalidInputError
from ctxembed.retrieval.ranking import (
    best_alignment,
    fold_near_duplicates,
    max_similarities,
    maximal_marginal_relevance,
    reciprocal_rank_fusion,
)

RNG = np.random.default_rng(0)


def unit(*shape):
    vectors = RNG.standard_normal(shape, dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


rankings = st.lists(st.lists(st.integers(0, 20), unique=True, max_size=12), max_size=4)


@settings(max_examples=60, deadline=None)
@given(rankings, st.integers(0, 100))
def test_fusion_adds_reciprocal_ranks(lists, constant):
    expected: dict[int, float] = {}
    for ranking in lists:
        for place, item in enumerate(ranking, start=1):
            expected[item] = expected.get(item, 0.0) + 1 / (constant + place)
    fused = reciprocal_rank_fusion([np.array(each, dtype=np.int64) for each in lists], constant=constant)
    assert set(fused.ids.tolist()) == set(expected)
    np.testing.assert_allclose(fused.scores, [expected[item] for item in fused.ids.tolist()], rtol=1e-12)
    pairs = list(zip((-fused.scores).tolist(), fused.ids.tolist(), strict=True))
    assert pairs == sorted(pairs)


def test_fusion_of_one_ranking_keeps_its_order():
    assert reciprocal_rank_fusion([np.array([4, 2, 9])]).ids.tolist() == [4, 2, 9]


def test_fusion_refuses_a_negative_constant():
    with pytest.raises(InvalidInputError, match="constant is -1, need 0 or more"):
        reciprocal_rank_fusion([], constant=-1)


def mmr_by_hand(relevance, vectors, k, diversity):
    left, chosen = list(range(len(relevance))), []
    while left and len(chosen) < k:

        def value(item):
            nearest = max((float(vectors[item] @ vectors[other]) for other in chosen), default=0.0)
            weight = 1 if not chosen else 1 - diversity
            return weight * relevance[item] - diversity * nearest

        best = max(left, key=lambda item: (round(value(item), 6), -item))
        chosen.append(best)
        left.remove(best)
    return chosen  # fmt: skip


@pytest.mark.parametrize("diversity", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("k", [1, 5, 40])
def test_mmr_equals_the_definition(k, diversity):
    vectors, relevance = unit(25, 6), RNG.random(25)
    found = maximal_marginal_relevance(relevance, vectors, k=k, diversity=diversity)
    assert found.tolist() == mmr_by_hand(relevance, vectors, k, diversity)


def test_mmr_without_diversity_is_the_order_of_relevance():
    relevance = RNG.random(9)
    found = maximal_marginal_relevance(relevance, unit(9, 3), k=9, diversity=0)
    assert found.tolist() == np.argsort(-relevance).tolist()


@pytest.mark.parametrize(("k", "diversity", "message"), [(0, 0.5, "k is 0"), (1, 1.5, "diversity is 1.5")])
def test_mmr_refuses_what_it_cannot_do(k, diversity, message):
    with pytest.raises(InvalidInputError, match=message):
        maximal_marginal_relevance(np.ones(2), unit(2, 3), k=k, diversity=diversity)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 4), max_size=15), st.sampled_from([0.5, 0.9, 1.0]))
def test_folded_items_are_near_a_kept_one_before_and_kept_ones_apart(copies, threshold):
    base = np.concatenate([np.eye(4, dtype=np.float32), np.zeros((1, 4), np.float32)])
    vectors = base[copies].reshape(-1, 4)
    owners = fold_near_duplicates(vectors, threshold=threshold)
    first = {copy: place for place, copy in reversed(list(enumerate(copies)))}
    assert owners.tolist() == [place if copy == 4 else first[copy] for place, copy in enumerate(copies)]


def test_fold_compares_with_kept_items_only():
    angles = np.deg2rad([0, 20, 40])  # the third is near the second, which is folded, and far from the first
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert fold_near_duplicates(vectors, threshold=0.9).tolist() == [0, 0, 2]


@pytest.mark.parametrize("threshold", [0.0, 1.1])
def test_fold_refuses_an_impossible_threshold(threshold):
    with pytest.raises(InvalidInputError, match=f"near-duplicates is {threshold}"):
        fold_near_duplicates(unit(2, 2), threshold=threshold)


def test_maxsim_equals_the_definition():
    query, items = unit(4, 8), [unit(n, 8) for n in (3, 1, 7)]
    bounds = np.cumsum([0, 3, 1, 7])
    expected = [np.mean([max(float(q @ t) for t in item) for q in query]) for item in items]
    np.testing.assert_allclose(max_similarities(query, np.concatenate(items), bounds), expected, atol=1e-6)


def test_maxsim_is_negative_where_all_cosines_are():
    query = np.array([[1, 0]], dtype=np.float32)
    items = np.array([[-1, 0], [-0.6, 0.8]], dtype=np.float32)
    assert max_similarities(query, items, np.array([0, 1, 2])).tolist() == pytest.approx([-1, -0.6])


def test_maxsim_ranks_an_item_without_vectors_last():
    scores = max_similarities(unit(2, 3), unit(4, 3), np.array([0, 0, 2, 2, 4, 4]))
    assert scores[[0, 2, 4]].tolist() == [-1, -1, -1]
    assert (scores[[1, 3]] > -1).all()


def test_maxsim_leaves_unknown_words_of_the_query_out():
    query, items = unit(3, 4), unit(5, 4)
    padded = np.concatenate([query, np.zeros((2, 4), np.float32)])
    bounds = np.array([0, 2, 5])
    np.testing.assert_array_equal(max_similarities(padded, items, bounds), max_similarities(query, items, bounds))
    assert max_similarities(np.zeros((1, 4), np.float32), items, bounds).tolist() == [0, 0]


def test_alignment_names_the_nearest_vector():
    query, item = unit(5, 6), unit(7, 6)
    aligned = best_alignment(query, item)
    cosines = query @ item.T
    np.testing.assert_array_equal(aligned.places, cosines.argmax(axis=1))
    np.testing.assert_allclose(aligned.cosines, cosines.max(axis=1), atol=1e-6)


def test_alignment_with_nothing_is_refused():
    with pytest.raises(InvalidInputError, match="nothing can answer"):
        best_alignment(unit(1, 2), np.empty((0, 2), np.float32))

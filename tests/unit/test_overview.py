from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score

from ctxembed.errors import InvalidInputError
from ctxembed.overview import duplicates, topics
from ctxembed.overview.blocks import IndexVectors
from ctxembed.overview.duplicates import near_duplicate_groups
from ctxembed.overview.projection import name_groups, project
from ctxembed.overview.topics import distinctive_words, find_topics

RNG = np.random.default_rng(0)


def unit(*shape):
    vectors = RNG.standard_normal(shape, dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def groups_by_hand(vectors, threshold):
    """Depth-first search over all pairs."""
    near = vectors.astype(np.float64) @ vectors.T.astype(np.float64) >= threshold
    left, groups = set(range(len(vectors))), []
    while left:
        stack, group = [min(left)], set()
        while stack:
            row = stack.pop()
            if row in left:
                left.remove(row)
                group.add(row)
                stack += np.flatnonzero(near[row]).tolist()
        groups.append(sorted(group))
    return sorted((group for group in groups if len(group) > 1), key=lambda group: (-len(group), group))


@pytest.mark.parametrize("block", [1, 3, 7, 100])
@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9])
def test_groups_equal_a_search_over_all_pairs(monkeypatch, block, threshold):
    monkeypatch.setattr(duplicates, "BLOCK_ROWS", block)
    vectors, seen = unit(60, 4), []
    found = near_duplicate_groups(vectors, threshold=threshold, on_progress=seen.append)
    assert [group.tolist() for group in found] == groups_by_hand(vectors, threshold) != []
    assert sum(seen) == 60


def test_equal_vectors_are_duplicates_at_every_threshold():
    vectors = np.repeat(unit(5, 300), 3, axis=0)
    assert [group.tolist() for group in near_duplicate_groups(vectors, threshold=1.0)] == [
        [3 * n, 3 * n + 1, 3 * n + 2] for n in range(5)
    ]


@pytest.mark.parametrize("vectors", [np.empty((0, 3), np.float32), np.zeros((4, 3), np.float32), unit(1, 3)])
def test_nothing_duplicates_nothing(vectors):
    assert near_duplicate_groups(vectors, threshold=0.9) == []


def test_impossible_threshold_is_refused():
    with pytest.raises(InvalidInputError, match=r"the threshold is 1\.5"):
        near_duplicate_groups(unit(2, 2), threshold=1.5)


class Kept:
    """Keeps vectors under numbers from 100 on, and notes how many are asked for at a time."""

    def __init__(self, array):
        self.array, self.asked = array, []

    def vectors(self, numbers):
        self.asked.append(len(numbers))
        return self.array[numbers - 100]


def test_groups_of_an_index_read_two_blocks_at_a_time(monkeypatch):
    monkeypatch.setattr(duplicates, "BLOCK_ROWS", 7)
    kept = Kept(unit(60, 4))
    found = near_duplicate_groups(IndexVectors(kept, np.arange(100, 160)), threshold=0.7)
    assert [group.tolist() for group in found] == groups_by_hand(kept.array, 0.7)
    assert max(kept.asked) == 7


def test_topics_of_an_index_are_those_of_the_array_and_are_read_in_blocks(monkeypatch):
    vectors, _ = blobs([40, 10, 25])
    vectors[3] = 0
    expected = find_topics(vectors, count=3)
    monkeypatch.setattr(topics, "BLOCK_ROWS", 9)
    kept = Kept(vectors)
    found = find_topics(IndexVectors(kept, np.arange(100, 175)), count=3)
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_allclose(found.cosines, expected.cosines, atol=1e-6)
    assert sorted(set(kept.asked)) == [2, 3, 9, 74]  # blocks, their rests, and the sample


def blobs(sizes, width=16, spread=0.1):
    """Rows around one axis a topic, in turns."""
    truth = RNG.permutation(np.repeat(np.arange(len(sizes)), sizes))
    vectors = np.eye(width, dtype=np.float32)[truth] + spread * RNG.standard_normal((len(truth), width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), truth


def test_topics_are_the_groups_that_are_there_largest_first():
    vectors, truth = blobs([10, 40, 25])
    found = find_topics(vectors, count=3)
    assert adjusted_rand_score(truth, found.labels) == 1
    assert found.sizes.tolist() == [40, 25, 10]
    np.testing.assert_allclose(np.linalg.norm(found.centroids, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(found.cosines, (vectors * found.centroids[found.labels]).sum(axis=1), atol=1e-5)


def test_typical_rows_are_nearest_to_their_centroid():
    vectors, _ = blobs([30, 30], spread=0.3)
    found = find_topics(vectors, count=2)
    members = np.flatnonzero(found.labels == 1)
    best = members[np.argsort(-(vectors[members] @ found.centroids[1]))]
    assert found.typical(1, count=4).tolist() == best[:4].tolist()


def test_equal_seeds_find_equal_topics():
    vectors = unit(300, 8)
    first, second = (find_topics(vectors, count=6, seed=5) for _ in range(2))
    np.testing.assert_array_equal(first.labels, second.labels)


def test_rows_without_vector_have_no_topic():
    vectors, _ = blobs([5, 5])
    vectors[[0, 7]] = 0
    found = find_topics(vectors, count=2)
    assert np.flatnonzero(found.labels < 0).tolist() == [0, 7]
    assert found.sizes.sum() == 8


@pytest.mark.parametrize("vectors", [np.empty((0, 3), np.float32), np.zeros((4, 3), np.float32)])
def test_nothing_has_no_topics(vectors):
    found = find_topics(vectors, count=3)
    assert (len(found.centroids), found.labels.tolist()) == (0, [-1] * len(vectors))


def test_there_are_no_more_topics_than_different_rows():
    found = find_topics(np.repeat(np.eye(3, dtype=np.float32), 4, axis=0), count=10)
    assert found.sizes.tolist() == [4, 4, 4]


def test_no_topic_is_refused():
    with pytest.raises(InvalidInputError, match="0 topics are asked for"):
        find_topics(unit(3, 3), count=0)


def test_centroids_are_learned_from_a_sample_and_every_row_gets_one(monkeypatch):
    monkeypatch.setattr("ctxembed.overview.topics.LEAST_SAMPLE", 20)
    monkeypatch.setattr("ctxembed.overview.topics.ROWS_PER_TOPIC", 10)
    vectors, truth = blobs([50, 50])
    found = find_topics(vectors, count=2)
    assert adjusted_rand_score(truth, found.labels) == 1


TEXTS = ["a red boat on the river", "the boat sank", "a loan for the boat", "the bank gave a loan", ""]


def test_distinctive_words_follow_the_formula():
    labels = [0, 0, 1, 1, -1]
    [boats, loans] = distinctive_words(TEXTS, labels, count=9, num_topics=2)
    words = [["red", "boat", "river", "boat", "sank"], ["loan", "boat", "bank", "gave", "loan"]]
    for found, mine in zip((boats, loans), words, strict=True):
        everything = words[0] + words[1]
        scores = {
            word: mine.count(word) / len(mine) * np.log(1 + len(everything) / 2 / everything.count(word))
            for word in mine
        }
        assert found == sorted(scores, key=lambda word: (-scores[word], word))


def test_topic_without_words_has_none():
    assert distinctive_words(["the", "boat"], [0, 1], count=3, num_topics=3) == [[], ["boat"], []]


@pytest.mark.parametrize("shape", [(50, 6), (3, 8), (2, 2)])
def test_projection_equals_principal_components(shape):
    vectors = unit(*shape) * np.arange(1, shape[1] + 1, dtype=np.float32)
    reference = PCA(2, svd_solver="full").fit(vectors.astype(np.float64))
    expected = reference.transform(vectors.astype(np.float64))
    found = project(vectors)
    assert found.share == pytest.approx(reference.explained_variance_ratio_.sum())
    np.testing.assert_allclose(np.abs(found.points), np.abs(expected), atol=1e-5)


@pytest.mark.parametrize("vectors", [np.empty((0, 3), np.float32), np.ones((4, 3), np.float32), unit(4, 1)])
def test_projection_of_degenerate_vectors_is_defined(vectors):
    found = project(vectors)
    assert found.points.shape == (len(vectors), 2)
    assert np.isfinite(found.points).all()
    assert 0 <= found.share <= 1 + 1e-9


def test_projection_keeps_the_distances_of_vectors_that_lie_in_a_plane():
    generator = np.random.default_rng(1)
    flat = generator.standard_normal((6, 2)) @ np.linalg.qr(generator.standard_normal((9, 2)))[0].T + 3
    found = project(flat.astype(np.float32)).points
    distances = [np.linalg.norm(points[:, None] - points[None], axis=-1) for points in (found, flat)]
    np.testing.assert_allclose(*distances, atol=1e-4)


@pytest.mark.parametrize("vector", [np.ones(5), unit(1, 9)[0], np.ones(1)])
def test_projection_of_vectors_that_do_not_differ_is_one_point(vector):
    assert project(np.tile(vector.astype(np.float32), (7, 1))).points.tolist() == [[0, 0]] * 7


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 1, 0, 2]])
def test_projection_has_its_axes_the_same_way_round_in_any_order(order):
    vectors = np.array([[3, 0], [-3, 0], [0, 1], [0, -1]], dtype=np.float32)
    np.testing.assert_allclose(project(vectors[order]).points, vectors[order], atol=1e-12)


scalars = st.one_of(st.none(), st.booleans(), st.integers(-5, 50), st.floats(-9, 9), st.sampled_from(["", "a", "7"]))


@settings(max_examples=60, deadline=None)
@given(st.lists(scalars, max_size=40), st.integers(1, 5))
def test_every_value_has_a_group_and_groups_are_few(values, most):
    groups = name_groups(values, most=most)
    assert len(groups) == len(values)
    assert len(set(groups) - {"(others)", "(none)"}) <= most
    assert [group == "(none)" for group in groups] == [value in (None, "") for value in values]

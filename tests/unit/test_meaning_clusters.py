from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from ctxembed.errors import InvalidInputError
from ctxembed.meaning.clusters import (
    SEPARATION,
    agreement,
    cluster_uses,
    mean_cosine,
    nearest_centres,
    separation,
    silhouette,
    split_uses,
    stability,
    without_forms,
)


def word(rng: np.random.Generator, number: int, *, senses: int, apart: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """Uses of a made-up word: factors of falling strength, some heavy-tailed or skewed, and planted senses."""
    width = 48
    strength = 1 / np.arange(1, width + 1) ** 0.5
    kind = rng.integers(0, 3, size=width)
    factors = rng.standard_normal((number, width))
    factors = np.where(kind == 1, rng.standard_t(5, (number, width)), factors)
    factors = np.where(kind == 2, (rng.gamma(4, 1, (number, width)) - 4) / 2, factors)
    directions = rng.standard_normal((senses, width))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    gold = rng.integers(0, senses, size=number)
    vectors = 1.5 + factors * strength + apart * directions[gold]
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), gold


def test_words_of_one_planted_sense_stay_whole() -> None:
    rng = np.random.default_rng(7)
    found = [len(cluster_uses(word(rng, n, senses=1)[0], seed=i)) for n in (20, 60, 200) for i in range(12)]
    assert np.mean(np.array(found) == 1) >= 0.9


def test_planted_senses_are_found_with_their_members() -> None:
    rng = np.random.default_rng(8)
    for senses in (2, 3):
        vectors, gold = word(rng, 150, senses=senses)
        clusters = cluster_uses(vectors)
        assert len(clusters) == senses
        assert adjusted_rand_score(gold, clusters.labels) > 0.95
        assert clusters.counts().tolist() == sorted(clusters.counts().tolist(), reverse=True)


@pytest.mark.parametrize("method", ["k-means", "agglomerative", "hdbscan"])
def test_every_method_finds_two_senses_that_are_far_apart(method) -> None:
    vectors, gold = word(np.random.default_rng(9), 90, senses=2, apart=8.0)
    clusters = cluster_uses(vectors, method=method)
    clear = ~clusters.unclear
    assert clear.mean() > 0.6
    assert adjusted_rand_score(gold[clear], clusters.labels[clear]) > 0.95


def blended(rng: np.random.Generator, number: int, *, apart: float) -> tuple[np.ndarray, np.ndarray]:
    """Uses of two senses that shade into each other: no gap, but the wider spread the further apart they are."""
    gold = np.repeat([0, 1], number // 2)
    vectors = rng.standard_normal((number, 48)) / np.arange(1, 49) ** 0.5
    vectors[:, 0] += apart * gold
    vectors[:, 1] += 2
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), gold


def test_uses_too_unlike_to_be_one_sense_are_split_without_a_gap() -> None:
    rng = np.random.default_rng(4)
    (one, _), (two, gold) = blended(rng, 200, apart=0.0), blended(rng, 200, apart=2.5)
    alike = (mean_cosine(one) + mean_cosine(two)) / 2
    assert len(cluster_uses(one, alike=alike)) == 1
    assert len(cluster_uses(two)) == 1  # nothing but the model's scale tells
    found = cluster_uses(two, alike=alike)
    assert len(found) == 2
    assert adjusted_rand_score(gold, found.labels) > 0.4


def test_halves_agree_best_on_the_number_planted() -> None:
    vectors = word(np.random.default_rng(11), 240, senses=3)[0]
    found = {k: agreement(vectors, k) for k in (2, 3, 5)}
    assert found[3] > 0.9 > max(found[2], found[5])


def test_mean_cosine_is_that_of_all_pairs() -> None:
    vectors = word(np.random.default_rng(5), 30, senses=2)[0]
    pairs = np.triu_indices(30, 1)
    assert mean_cosine(vectors) == pytest.approx(float((vectors @ vectors.T)[pairs].mean()), abs=1e-6)
    assert mean_cosine(vectors[:1]) == 1


def test_one_sense_in_two_grammatical_positions_stays_whole() -> None:
    """The positions lie 3.5 standard deviations apart, as those of real words do."""
    rng = np.random.default_rng(2)
    found = []
    for seed in range(10):
        vectors = rng.standard_normal((120, 24)).astype(np.float32) * 0.1
        vectors[:, 0] += 1 + rng.choice([0, 0.35], size=120)
        found.append(len(cluster_uses(vectors, seed=seed)))
    assert np.mean(np.array(found) == 1) >= 0.9


def test_written_forms_of_one_sense_are_no_senses() -> None:
    rng = np.random.default_rng(6)
    vectors, gold = word(rng, 160, senses=2)
    forms = np.where(rng.random(160) < 0.4, "lines", "line")
    shifted = (
        vectors + np.where(forms == "lines", 1.0, 0.0)[:, None].astype(np.float32) * np.eye(48, dtype=np.float32)[3]
    )
    assert adjusted_rand_score(gold, cluster_uses(shifted, k=2).labels) < 0.5
    assert adjusted_rand_score(gold, cluster_uses(without_forms(shifted, forms.tolist())).labels) > 0.95
    assert without_forms(vectors, ["line"] * 160) is vectors


def test_separation_of_a_normal_cloud_is_that_of_a_normal_distribution_cut_in_two() -> None:
    """sqrt(2 / pi) / sqrt(1 - 2 / pi) standard deviations from the middle on each side."""
    rng = np.random.default_rng(1)
    values = [separation(rng.standard_normal((400, 12)).astype(np.float32), seed=s) for s in range(8)]
    assert np.mean(values) == pytest.approx(2 * np.sqrt(2 / np.pi) / np.sqrt(1 - 2 / np.pi), abs=0.1)
    assert max(values) < 3.2 < SEPARATION


def test_more_uses_than_are_learnt_from_all_get_a_group() -> None:
    vectors, gold = word(np.random.default_rng(3), 2500, senses=2)
    clusters = cluster_uses(vectors)
    assert adjusted_rand_score(gold, clusters.labels) > 0.95


def test_number_that_is_asked_for_is_given() -> None:
    vectors, _ = word(np.random.default_rng(3), 60, senses=1)
    assert len(cluster_uses(vectors, k=4)) == 4
    assert len(cluster_uses(vectors, k=4, method="agglomerative")) == 4
    assert len(cluster_uses(vectors[:1])) == 1


def test_same_seed_gives_the_same_groups() -> None:
    vectors, _ = word(np.random.default_rng(3), 80, senses=3)
    first, second = (cluster_uses(vectors, seed=5) for _ in range(2))
    assert first.labels.tolist() == second.labels.tolist()


def test_equal_uses_are_one_group() -> None:
    assert len(cluster_uses(np.ones((30, 4), dtype=np.float32) / 2)) == 1
    assert split_uses(np.ones((30, 4), dtype=np.float32) / 2).max() == 0


def test_use_between_two_centres_is_unclear() -> None:
    centres = np.array([[1, 0], [-1, 0]], dtype=np.float32)
    labels, unclear = nearest_centres(np.array([[0.9, 0], [0.01, 1], [-1, 0]], dtype=np.float32), centres)
    assert labels.tolist() == [0, 0, 1]
    assert unclear.tolist() == [False, True, False]


def test_silhouette_and_stability_are_high_for_clear_senses_only() -> None:
    rng = np.random.default_rng(4)
    vectors, _ = word(rng, 100, senses=2, apart=6.0)
    clusters = cluster_uses(vectors)
    assert (silhouette(vectors, clusters.labels) or 0) > 0.5
    assert stability(vectors, k=None, rounds=3) > 0.9
    cloud, _ = word(rng, 100, senses=1)
    assert silhouette(cloud, np.zeros(100, dtype=np.int64)) is None
    assert stability(cloud, k=4, rounds=3) < 0.7


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"k": 0}, "k = 0 groups of 30 uses"),
        ({"k": 2, "method": "hdbscan"}, "does not go with hdbscan"),
        ({"method": "affinity"}, "must be one of k-means"),
    ],
)
def test_choices_that_cannot_be_are_refused(arguments, message) -> None:
    with pytest.raises(InvalidInputError, match=message):
        cluster_uses(np.eye(30, dtype=np.float32), **arguments)


@pytest.mark.parametrize("number, most", [(30, 30), (1500, 1000)])
def test_more_groups_than_uses_that_are_learnt_from_are_refused(number: int, most: int) -> None:
    vectors = np.ones((number, 2), dtype=np.float32)
    message = f"k = {most + 1} groups of {number} uses: must be between 1 and {most}$"
    with pytest.raises(InvalidInputError, match=message):
        cluster_uses(vectors, k=most + 1)

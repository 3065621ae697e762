from __future__ import annotations

import itertools

import numpy as np
import pytest

from ctxembed.errors import InvalidInputError
from ctxembed.evaluation.senses import LabelledWord, evaluate_senses, sense_scores
from ctxembed.types import Usage


def test_paired_f_is_that_of_all_pairs() -> None:
    rng = np.random.default_rng(1)
    gold, found = rng.integers(0, 3, 40), rng.integers(0, 4, 40)
    pairs = list(itertools.combinations(range(40), 2))
    together = [{pair for pair in pairs if side[pair[0]] == side[pair[1]]} for side in (gold, found)]
    shared = len(together[0] & together[1])
    precision, recall = shared / len(together[1]), shared / len(together[0])
    assert sense_scores(gold, found).paired_f == pytest.approx(2 * precision * recall / (precision + recall))


def test_groupings_that_know_nothing_score_as_they_must() -> None:
    gold = np.repeat([0, 1], [30, 10])
    one, alone = sense_scores(gold, np.zeros(40)), sense_scores(gold, np.arange(40))
    assert (one.v_measure, one.ari) == (0.0, 0.0)
    assert (alone.paired_f, alone.ari) == (0.0, 0.0)
    assert abs(sense_scores(gold, np.random.default_rng(0).integers(0, 2, 40)).ari) < 0.15


def test_different_lengths_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="3 labels and 2 groups"):
        sense_scores([1, 2, 3], [1, 2])


def test_separable_senses_beat_every_baseline(fake_encoder) -> None:
    rng = np.random.default_rng(2)
    senses = np.repeat(["a", "b"], 25)
    vectors = rng.normal(0, 0.1, (50, 8)) + np.eye(8)[[0 if s == "a" else 1 for s in senses]]
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    usages = [Usage(f"word number {n}", 0, 4) for n in range(50)]
    rows = evaluate_senses(LabelledWord("word", usages, senses.tolist()), vectors, static=fake_encoder)
    by_name = {row["system"]: row for row in rows}
    assert list(by_name) == ["found", "one group", "each alone", "random", "static context"]
    assert by_name["found"]["groups"] == 2
    for name in ("one group", "each alone", "random", "static context"):
        assert all(by_name["found"][key] > by_name[name][key] for key in ("v_measure", "ari", "paired_f"))

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctxembed.training.objectives.senses import (
    STRETCH,
    SenseConfig,
    collate_by_length,
    deal_groups,
)
from ctxembed.training.sense_rows import SenseRows

from .sense_cases import PLAIN, Use, build, random_rows, sense_rows

if TYPE_CHECKING:
    from ctxembed.tokenizer import SubwordTokenizer

# Groups


def valid(rows: SenseRows, uses: list[int], *, glosses: bool) -> bool:
    counts = Counter(rows.senses[uses].tolist())
    has_gloss = glosses and any(rows.sense_glosses[sense] >= 0 for sense in counts)
    return has_gloss or (len(counts) > 1 and max(counts.values()) > 1)


@given(
    uses=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=90),
    glossed=st.sets(st.tuples(st.integers(0, 3), st.integers(0, 4)), max_size=5),
    size=st.integers(3, 9),
    most=st.integers(1, 6),
    weight=st.sampled_from([0.0, 1.0]),
)
@settings(max_examples=120, deadline=None)
def test_groups_are_valid(uses: list[Use], glossed: set[Use], size: int, most: int, weight: float) -> None:
    rows = sense_rows(uses, glosses={sense: number for number, sense in enumerate(sorted(glossed))})
    config = SenseConfig(group_size=size, max_groups=most, gloss_weight=weight, max_glosses=3)
    groups = deal_groups(rows, config=config)
    dealt = [use for group in groups for use in group.uses]
    assert len(dealt) == len(set(dealt))
    assert max(Counter(int(rows.lemmas[group.uses[0]]) for group in groups).values(), default=0) <= most
    for group in groups:
        assert 1 <= len(group.uses) <= size
        assert len(set(rows.lemmas[group.uses].tolist())) == 1
        assert valid(rows, group.uses, glosses=weight > 0)
        own = set(rows.sense_glosses[rows.senses[group.uses]].tolist()) - {-1} if weight else set()
        of_lemma = rows.sense_glosses[rows.sense_lemmas == rows.lemmas[group.uses[0]]]
        assert own <= set(group.glosses) <= set(of_lemma.tolist())
        assert len(group.glosses) == len(set(group.glosses)) <= max(3, len(own))
        assert own or not group.glosses


def test_a_lemma_that_can_teach_gets_a_group() -> None:
    assert [sorted(rows.uses) for rows in deal_groups(sense_rows(PLAIN), config=SenseConfig())] == [
        [0, 1, 2, 3, 4],
        [5, 6, 7, 8],
    ]


def test_a_use_alone_is_an_item_if_it_has_a_gloss() -> None:
    rows = sense_rows([(0, 0), (1, 0)], glosses={(0, 0): 0, (0, 1): 1, (0, 2): 2})
    (group,) = deal_groups(rows, config=SenseConfig(max_glosses=2))
    assert group.uses == [0]
    assert group.glosses in ([0, 1], [0, 2])
    assert deal_groups(rows, config=SenseConfig(gloss_weight=0.0)) == []


@pytest.mark.parametrize("seed", range(6))
def test_single_uses_meet_the_pair_that_they_are_rivals_of(seed: int) -> None:
    rows = sense_rows([(0, 0), (0, 0), *((0, sense) for sense in range(1, 9))])
    (group,) = deal_groups(rows, config=SenseConfig(group_size=8, seed=seed))
    assert group.uses[:2] in ([0, 1], [1, 0])
    assert len(group.uses) == 8


def test_rare_senses_come_before_the_most_groups_are_reached() -> None:
    uses = [(0, 0)] * 400 + [(0, sense) for sense in range(1, 9) for _ in range(sense)]
    rows = sense_rows(uses)
    groups = deal_groups(rows, config=SenseConfig(group_size=8, max_groups=12))
    dealt = Counter(int(rows.senses[use]) for group in groups for use in group.uses)
    assert set(dealt) == set(range(9))
    assert all(dealt[sense] == sense for sense in range(1, 9))
    assert 4 <= len(groups) <= 12


def test_a_frequent_lemma_gives_many_groups_up_to_the_most() -> None:
    rows = sense_rows([(0, sense) for sense in range(2) for _ in range(200)])
    assert [len(deal_groups(rows, config=SenseConfig(max_groups=most))) for most in (1, 10, 1000)] == [1, 10, 50]


def test_equal_seeds_deal_equal_groups_and_another_seed_others() -> None:
    rows = sense_rows([(lemma, use % 3) for lemma in range(5) for use in range(30)])
    one, same, other = (deal_groups(rows, config=SenseConfig(seed=seed)) for seed in (1, 1, 2))
    assert one == same != other
    assert len(one) == len(other)


# Batches


def test_rows_of_like_length_lie_in_one_piece() -> None:
    store = random_rows([9, 40, 3, 10, 4, 40, 3, 41, 12, 22])
    rows = np.array([1, 2, 3, 5, 6, 8, 9, 0, 4])
    pieces, places = collate_by_length(store, rows, pad_id=0)
    laid = torch.cat([piece.ids.flatten() for piece in pieces]).numpy()
    for row, place in zip(rows.tolist(), places.tolist(), strict=True):
        np.testing.assert_array_equal(laid[place : place + store.lengths[row]], store.row(row))
    assert len(pieces) == 4
    assert all(piece.lengths.max() <= STRETCH * piece.lengths.min() for piece in pieces)
    assert len(laid) < 1.3 * store.lengths[rows].sum()
    assert collate_by_length(store, rows[:0], pad_id=0)[0] == ()


def test_costs_are_the_tokens_of_each_group(tiny_tokenizer: SubwordTokenizer) -> None:
    glosses = {(0, 0): 0, (0, 1): 1, (1, 0): 1, (1, 4): 2}
    objective = build(tiny_tokenizer, sense_rows(PLAIN, glosses=glosses, rows=[0, 1, 0, 2, 1, 3, 4, 5, 6, 7, 8, 9]))
    found = [objective.prepare(np.array([item]), seed=[1]).num_tokens for item in range(len(objective.groups))]
    assert objective.costs.tolist() == found
    assert len(found) == 2
    assert objective.costs.dtype == np.int64


def test_a_sentence_and_a_gloss_stand_in_a_batch_once(tiny_tokenizer: SubwordTokenizer) -> None:
    # Lemmas 0 and 1 share a gloss, and their uses stand in the same sentences.
    uses = [(0, 0), (0, 0), (0, 1), (1, 0), (1, 0), (1, 1)]
    objective = build(tiny_tokenizer, sense_rows(uses, glosses={(0, 0): 0, (1, 0): 0}, rows=[0, 1, 2, 0, 1, 2]))
    batch = objective.prepare(np.array([0, 1]), seed=[1])
    assert sum(len(piece.rows) for piece in batch.sentences) == 3
    assert batch.gloss_numbers.tolist() == [0]
    assert batch.groups.tolist() == [0, 0, 0, 1, 1, 1]
    assert sorted(batch.use_glosses.tolist()) == [-1, -1, 0, 0, 0, 0]


def test_a_batch_does_not_depend_on_its_seed(tiny_tokenizer: SubwordTokenizer) -> None:
    objective = build(tiny_tokenizer, sense_rows(PLAIN))
    one, other = (objective.prepare(np.array([1, 0]), seed=[seed]) for seed in (1, 2))
    assert torch.equal(one.starts, other.starts)
    assert torch.equal(one.senses, other.senses)


def test_all_of_a_batch_moves(tiny_tokenizer: SubwordTokenizer) -> None:
    batch = build(tiny_tokenizer, sense_rows(PLAIN, glosses={(0, 0): 0})).prepare(np.array([0]), seed=[1])
    moved = batch.to(torch.device("meta"))
    parts = (
        moved.starts,
        moved.ends,
        moved.groups,
        moved.senses,
        moved.use_glosses,
        moved.gloss_numbers,
        moved.foreign,
    )
    assert {part.device.type for part in parts} == {"meta"}
    assert {piece.ids.device.type for piece in (*moved.sentences, *moved.glosses)} == {"meta"}

from __future__ import annotations

import pytest

from ctxembed.errors import InvalidInputError
from ctxembed.index.kinds import IndexOptions, num_lists, num_parts, plan_index

MIB = 2**20


@pytest.mark.parametrize(
    "rows, max_memory, kind",
    [
        (1, None, "flat"),
        (50_000, None, "flat"),
        (200_000, None, "hnsw"),
        (1_000_000, None, "ivf-sq8"),
        (1_000_000, 300 * MIB, "ivf-pq"),
        (200_000, 200 * MIB, "ivf-sq8"),
        (50_000, 30 * MIB, "ivf-sq8"),
    ],
)
def test_kind_follows_from_rows_and_memory(rows, max_memory, kind):
    plan = plan_index(rows, 384, IndexOptions(max_memory=max_memory))
    assert plan.kind == kind
    assert max_memory is None or plan.memory <= max_memory
    assert plan.reason


def test_all_of_the_nearest_needs_every_vector():
    assert plan_index(10**7, 384, IndexOptions(min_recall=1)).kind == "flat"


@pytest.mark.parametrize("kind", ["auto", "flat", "ivf-pq"])
def test_too_little_memory_is_refused_with_what_is_needed(kind):
    with pytest.raises(InvalidInputError, match=r"needs [\d,]+ bytes of memory .* the limit is 1,000: .*ivf-pq needs"):
        plan_index(10**6, 384, IndexOptions(kind=kind, max_memory=1000))


def test_factory_string_is_kept():
    plan = plan_index(10**6, 384, IndexOptions(kind="IVF100,Flat"))
    assert (plan.kind, plan.factory, plan.memory) == ("IVF100,Flat", "IVF100,Flat", None)


@pytest.mark.parametrize("rows, lists", [(0, 1), (39, 1), (78, 2), (10_000, 256), (1_000_000, 2048), (10**7, 8192)])
def test_lists_are_a_power_of_two_with_enough_rows_each(rows, lists):
    assert num_lists(rows) == lists


@pytest.mark.parametrize("dimension, parts", [(384, 48), (7, 1), (20, 2), (3, 1), (64, 8)])
def test_parts_divide_the_width(dimension, parts):
    assert num_parts(dimension) == parts


@pytest.mark.parametrize(
    "options, message",
    [
        ({"min_recall": 0}, "min_recall is 0, need more than 0"),
        ({"min_recall": 1.1}, "min_recall is 1.1"),
        ({"max_memory": 0}, "max_memory is 0"),
        ({"storage": "int8"}, "storage is 'int8': use one of float32, float16"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(InvalidInputError, match=message):
        IndexOptions(**options)

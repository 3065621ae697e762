from __future__ import annotations

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ctxembed.errors import ArtifactError, InvalidInputError, MissingInputError
from ctxembed.index import VectorIndex

RNG = np.random.default_rng(0)
VECTORS = RNG.standard_normal((50, 8), dtype=np.float32)
IDS = RNG.permutation(1000)[:50].astype(np.int64)


def filled(**options):
    index = VectorIndex(8, **options)
    index.add(IDS, VECTORS)
    return index


def brute_force(queries, vectors, ids, k):
    scores = queries.astype(np.float64) @ vectors.astype(np.float64).T
    order = np.lexsort((np.broadcast_to(ids, scores.shape), -scores))[:, :k]
    return np.take_along_axis(scores, order, axis=1), ids[order]


@pytest.mark.parametrize("num_queries", [1, 3, 40])  # FAISS takes another path from 20 queries on
@pytest.mark.parametrize("k", [1, 7, 50])
def test_search_equals_brute_force(num_queries, k):
    queries = RNG.standard_normal((num_queries, 8), dtype=np.float32)
    scores, ids = brute_force(queries, VECTORS, IDS, k)
    found = filled().search(queries, k=k)
    np.testing.assert_array_equal(found.ids, ids)
    np.testing.assert_allclose(found.scores, scores, atol=1e-5)
    assert (found.scores.dtype, found.ids.dtype) == (np.float32, np.int64)


small = st.integers(-8, 8).map(lambda number: number / 8)  # products are exact, ties are frequent


@settings(max_examples=50, deadline=None)
@given(st.data(), st.integers(1, 12), st.integers(1, 5), st.integers(1, 15))
def test_all_that_search_returns_is_sorted_unique_and_exact(data, num_rows, dimension, k):
    vectors = data.draw(hnp.arrays(np.float32, (num_rows, dimension), elements=small))
    query = data.draw(hnp.arrays(np.float32, (1, dimension), elements=small))
    ids = np.array(data.draw(st.permutations(range(num_rows))), dtype=np.int64)
    index = VectorIndex(dimension)
    index.add(ids, vectors)
    scores, found = (array[0] for array in index.search(query, k=k))
    products = dict(zip(ids.tolist(), (vectors @ query[0]).tolist(), strict=True))
    assert len(set(found.tolist())) == min(k, num_rows)
    assert scores.tolist() == [products[number] for number in found.tolist()]
    assert scores.tolist() == sorted(products.values(), reverse=True)[:k]
    pairs = list(zip((-scores).tolist(), found.tolist(), strict=True))
    assert pairs == sorted(pairs)


def test_equal_scores_come_in_order_of_id():
    index = VectorIndex(2)
    index.add(np.array([9, 4, 7, 1]), np.ones((4, 2), np.float32))
    assert index.search(np.ones((1, 2), np.float32), k=4).ids.tolist() == [[1, 4, 7, 9]]


def test_adding_in_pieces_equals_adding_at_once():
    pieces = VectorIndex(8, capacity=20)
    for start in range(0, 50, 9):
        pieces.add(IDS[start : start + 9], VECTORS[start : start + 9])
    np.testing.assert_array_equal(pieces.search(VECTORS, k=5).ids, filled().search(VECTORS, k=5).ids)
    assert len(pieces) == len(filled()) == 50


def test_capacity_keeps_vectors_where_they_are():
    index = VectorIndex(8, capacity=50)
    flat = faiss.downcast_index(index._index.index)
    index.add(IDS[:1], VECTORS[:1])
    before = int(flat.codes.data())
    index.add(IDS[1:], VECTORS[1:])
    assert (int(flat.codes.data()), len(index)) == (before, 50)


def test_float64_and_strided_vectors_are_converted():
    index = VectorIndex(8)
    index.add(IDS, np.asfortranarray(VECTORS.astype(np.float64)))
    np.testing.assert_array_equal(index.reconstruct(IDS), VECTORS)


def test_k_beyond_the_index_returns_all_without_padding():
    found = filled().search(VECTORS[:2], k=1000)
    assert found.ids.shape == found.scores.shape == (2, 50)
    assert sorted(found.ids[0].tolist()) == sorted(IDS.tolist())


def test_empty_index_returns_no_columns():
    found = VectorIndex(8).search(VECTORS[:3], k=5)
    assert found.ids.shape == found.scores.shape == (3, 0)


def test_no_queries_return_no_rows():
    assert filled().search(VECTORS[:0], k=5).ids.shape == (0, 5)


def test_adding_nothing_changes_nothing():
    index = VectorIndex(8)
    index.add(IDS[:0], VECTORS[:0])
    assert len(index) == 0


@pytest.mark.parametrize(
    "ids, vectors, message",
    [
        (IDS, VECTORS[:, :5], "are 5 wide, need 8"),
        (IDS[:1], VECTORS[0], r"have shape \(8,\), need \(N, 8\)"),
        (IDS[:2], VECTORS[:3], "2 ids came with 3 vectors"),
        (IDS.astype(np.int32), VECTORS, "ids are int32"),
        (IDS[:, None], VECTORS, r"shape \(50, 1\), need int64"),
        (np.array([5, 6, 5]), VECTORS[:3], "id 5 occurs twice"),
        (np.array([-1]), VECTORS[:1], "id -1 is negative"),
        (IDS[:1], np.full((1, 8), np.nan), "row 0 of the vectors holds NaN"),
        (IDS[:1], np.ones((1, 8), dtype=int), "need floats"),
    ],
)
def test_add_refuses_what_faiss_would_mistake(ids, vectors, message):
    index = VectorIndex(8)
    with pytest.raises(InvalidInputError, match=message):
        index.add(ids, vectors)
    assert len(index) == 0


@pytest.mark.parametrize("taken", [IDS.min(), IDS.max()])
def test_add_refuses_an_id_that_is_taken(taken):
    index = filled()
    with pytest.raises(InvalidInputError, match=f"id {taken} occurs twice"):
        index.add(np.array([taken, 5000]), VECTORS[:2])
    assert len(index) == 50


@pytest.mark.parametrize(
    "queries, k, message",
    [
        (VECTORS[0], 1, "the queries have shape"),
        (VECTORS[:, :3], 1, "the queries are 3 wide, need 8"),
        (np.full((1, 8), np.inf), 1, "the queries holds NaN, infinity"),
        (VECTORS, 0, "k is 0, need at least 1"),
        (np.full((1, 8), 3e38), 1, "beyond float32"),
    ],
)
def test_search_refuses_what_faiss_would_mistake(queries, k, message):
    index = filled()
    index.add(np.array([5000]), np.full((1, 8), 3e38))
    with pytest.raises(InvalidInputError, match=message):
        index.search(queries, k=k)


@pytest.mark.parametrize("options", [{"dimension": 0}, {"dimension": 2, "capacity": -1}])
def test_impossible_sizes_are_refused(options):
    with pytest.raises(InvalidInputError, match=r"need 1 or more; capacity is .*, need 0 or more"):
        VectorIndex(**options)


def test_removed_rows_are_not_found_again():
    index = filled()
    assert index.remove(np.array([IDS[3], IDS[7], 5000])) == 2
    assert len(index) == 48
    kept = np.delete(np.arange(50), [3, 7])
    np.testing.assert_array_equal(
        index.search(VECTORS, k=48).ids, brute_force(VECTORS, VECTORS[kept], IDS[kept], 48)[1]
    )


def test_removed_id_may_be_added_again():
    index = filled()
    index.remove(IDS[:1])
    index.add(IDS[:1], VECTORS[1:2])
    np.testing.assert_array_equal(index.reconstruct(IDS[:1]), VECTORS[1:2])


def test_removing_nothing_counts_nothing():
    assert filled().remove(IDS[:0]) == 0


def test_reconstruct_gives_vectors_in_the_order_of_ids():
    np.testing.assert_array_equal(filled().reconstruct(IDS[::-2]), VECTORS[::-2])


def test_reconstruct_names_an_unknown_id():
    with pytest.raises(InvalidInputError, match="id 5000 is not in the index of 50 rows"):
        filled().reconstruct(np.array([IDS[0], 5000]))


@pytest.mark.parametrize("num_rows", [0, 1, 50])
def test_saved_index_loads_equal(tmp_path, num_rows):
    index = VectorIndex(8, capacity=100)
    index.add(IDS[:num_rows], VECTORS[:num_rows])
    index.save(tmp_path / "i.faiss")
    loaded = VectorIndex.load(tmp_path / "i.faiss")
    assert (len(loaded), loaded.dimension) == (num_rows, 8)
    np.testing.assert_array_equal(loaded.reconstruct(IDS[:num_rows]), VECTORS[:num_rows])
    loaded.add(np.array([5000]), VECTORS[:1])
    with pytest.raises(InvalidInputError, match="id 5000 occurs twice"):
        loaded.add(np.array([5000]), VECTORS[:1])


def test_save_names_a_missing_folder(tmp_path):
    with pytest.raises(MissingInputError, match="nowhere does not exist"):
        filled().save(tmp_path / "nowhere" / "i.faiss")


def test_load_names_a_missing_file(tmp_path):
    with pytest.raises(MissingInputError, match=r"i\.faiss does not exist"):
        VectorIndex.load(tmp_path / "i.faiss")


@pytest.mark.parametrize("size", [0, 3, 30, 400, -1])
def test_load_refuses_a_truncated_file(tmp_path, size):
    filled().save(tmp_path / "i.faiss")
    data = (tmp_path / "i.faiss").read_bytes()
    (tmp_path / "i.faiss").write_bytes(data[:size])
    with pytest.raises(ArtifactError, match=r"i\.faiss is damaged"):
        VectorIndex.load(tmp_path / "i.faiss")


@pytest.mark.parametrize("other", [faiss.IndexFlatIP(4), faiss.IndexIDMap2(faiss.IndexFlatL2(4))])
def test_load_refuses_another_kind_of_index(tmp_path, other):
    faiss.write_index(other, str(tmp_path / "i.faiss"))
    with pytest.raises(ArtifactError, match="need an exact index"):
        VectorIndex.load(tmp_path / "i.faiss")


def test_load_refuses_an_impossible_dimension(tmp_path):
    filled().save(tmp_path / "i.faiss")
    data = (tmp_path / "i.faiss").read_bytes()
    assert data[4:8] == (8).to_bytes(4, "little")
    (tmp_path / "i.faiss").write_bytes(data[:4] + bytes(4) + data[8:])
    with pytest.raises(ArtifactError, match=r"i\.faiss is damaged"):
        VectorIndex.load(tmp_path / "i.faiss")

from __future__ import annotations

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ctxembed.errors import ArtifactError, InvalidInputError, MissingInputError
from ctxembed.index import VectorIndex
from ctxembed.index import searcher as index_search
from ctxembed.index.files import ExactVectors

RNG = np.random.default_rng(0)
VECTORS = RNG.standard_normal((50, 8), dtype=np.float32)
IDS = RNG.permutation(1000)[:50].astype(np.int64)
KINDS = ("flat", "hnsw", "ivf-sq8", "ivf-pq", "SQ8", "PCA4,IVF2,SQ8", "NSG8")
"""The last ones are factory strings; NSG takes no selection."""


def clustered(rows, *, dimension=16, seed=0):
    """Unit vectors around thirty centres."""
    centres = np.random.default_rng(0).standard_normal((30, dimension))
    rng = np.random.default_rng(seed + 1)
    vectors = centres[rng.integers(0, 30, rows)] + 0.6 * rng.standard_normal((rows, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


MANY = clustered(3000)


@pytest.fixture(scope="module", params=KINDS)
def many_folder(request, tmp_path_factory):
    """The folder of an index of 3,000 rows of each kind."""
    folder = tmp_path_factory.mktemp("i")
    VectorIndex.build(MANY, kind=request.param, path=folder)
    return folder


@pytest.fixture(scope="module")
def many(many_folder):
    """An index of 3,000 rows of each kind."""
    return VectorIndex.open(many_folder)


def brute_force(queries, vectors, ids, k):
    scores = queries.astype(np.float64) @ vectors.astype(np.float64).T
    order = np.lexsort((np.broadcast_to(ids, scores.shape), -scores))[:, :k]
    return np.take_along_axis(scores, order, axis=1), ids[order]


@pytest.mark.parametrize("num_queries", [1, 3, 40])  # FAISS takes another path from 20 queries on
@pytest.mark.parametrize("k", [1, 7, 50])
def test_flat_search_equals_brute_force(num_queries, k):
    queries = RNG.standard_normal((num_queries, 8), dtype=np.float32)
    scores, ids = brute_force(queries, VECTORS, IDS, k)
    found = VectorIndex.build(VECTORS, IDS).search(queries, k)
    np.testing.assert_array_equal(found.ids, ids)
    np.testing.assert_allclose(found.scores, scores, atol=1e-5)
    assert (found.scores.dtype, found.ids.dtype) == (np.float32, np.int64)


small = st.integers(-8, 8).map(lambda number: number / 8)  # products are exact, ties are frequent


@settings(max_examples=25, deadline=None)
@given(st.data(), st.sampled_from(KINDS[:4]), st.integers(0, 12), st.sampled_from([1, 4]), st.integers(1, 15))
def test_all_that_search_returns_of_few_rows_is_sorted_unique_and_exact(data, kind, num_rows, dimension, k):
    vectors = data.draw(hnp.arrays(np.float32, (num_rows, dimension), elements=small))
    query = data.draw(hnp.arrays(np.float32, (1, dimension), elements=small))
    selected = data.draw(hnp.arrays(np.bool_, num_rows))
    index = VectorIndex.build(vectors, kind=kind, min_recall=1)
    products = vectors @ query[0]
    for mask in (None, selected):
        scores, found = (array[0] for array in index.search(query, k, selected=mask))
        allowed = products if mask is None else products[mask]
        assert len(set(found.tolist())) == min(k, len(allowed))
        assert mask is None or mask[found].all()
        assert scores.tolist() == products[found].tolist()
        assert scores.tolist() == sorted(allowed.tolist(), reverse=True)[:k]
        pairs = list(zip((-scores).tolist(), found.tolist(), strict=True))
        assert pairs == sorted(pairs)


def test_equal_scores_come_in_order_of_row():
    index = VectorIndex.build(np.ones((4, 2), np.float32))
    assert index.search(np.ones((1, 2), np.float32), 4).ids.tolist() == [[0, 1, 2, 3]]


# Kinds


def test_measured_recall_reaches_the_target_and_holds_for_other_queries(many):
    queries = clustered(200, seed=1)
    scores, _ = many.search(queries, 10)
    best, _ = brute_force(queries, MANY, np.arange(3000), 10)
    if many.record.measured is None:
        assert many.record.kind == "flat"
    else:
        assert many.record.measured.recall >= 0.94  # measured on other rows than it was tuned on
        assert many.record.measured.queries == 150
        assert many.record.measured.latency_ms > 0
    assert (scores >= best[:, -1:] - 1e-5).mean() >= 0.9


def test_scores_are_those_of_the_exact_vectors(many):
    scores, ids = many.search(MANY[:50], 10)
    np.testing.assert_allclose(scores, np.einsum("qd,qkd->qk", MANY[:50], MANY[ids]), atol=1e-5)


@pytest.mark.parametrize("share", [0.5, 0.05, 0.001])
@pytest.mark.parametrize("exact_rows", [0, 20_000])
def test_selection_is_obeyed_and_gives_the_best_of_it(many, monkeypatch, share, exact_rows):
    monkeypatch.setattr(index_search, "EXACT_ROWS", exact_rows)
    selected = np.random.default_rng(2).random(3000) < share
    assert 0 < selected.sum() < 1700
    scores, ids = many.search(MANY[:100], 10, selected=selected)
    assert ids.shape == (100, min(10, selected.sum()))
    assert selected[ids].all()
    best, _ = brute_force(MANY[:100], MANY[selected], np.flatnonzero(selected), 10)
    assert (scores >= best[:, -1:] - 1e-5).mean() >= (1 if exact_rows else 0.9)


def test_every_row_is_returned_when_all_are_wanted(many):
    ids = many.search(MANY[:2], 5000).ids
    assert ids.shape == (2, 3000)
    assert (np.sort(ids) == np.arange(3000)).all()


def test_index_opened_again_answers_the_same(many, many_folder):
    again = VectorIndex.open(many_folder, verify=True)
    assert len(again) == 3000
    np.testing.assert_array_equal(again.take(np.array([5, 3])), MANY[[5, 3]])
    np.testing.assert_array_equal(again.search(MANY[:20], 10).ids, many.search(MANY[:20], 10).ids)


def test_exact_target_compares_every_vector():
    assert VectorIndex.build(MANY, min_recall=1).record.kind == "flat"


def test_half_precision_takes_half_the_bytes_and_finds_the_same():
    whole, half = (VectorIndex.build(MANY, storage=storage) for storage in ("float32", "float16"))
    assert half.record.bytes_per_row == pytest.approx(32, abs=0.1)
    assert whole.record.bytes_per_row == pytest.approx(64, abs=0.1)
    same = whole.search(MANY[:100], 10).ids == half.search(MANY[:100], 10).ids
    assert same.mean() > 0.98


def test_half_precision_refuses_what_it_cannot_hold():
    with pytest.raises(InvalidInputError, match="beyond 65504, the limit of float16"):
        VectorIndex.build(np.full((2, 3), 1e6), storage="float16")


@pytest.mark.parametrize("kind", ["XYZ", "IVF9999,SQ8", "IDMap,Flat", "LSH", "PQ7"])
def test_factory_string_that_cannot_be_built_is_refused_with_the_reason(kind, tmp_path):
    with pytest.raises(InvalidInputError, match=f"FAISS cannot build '{kind}' for 3000 rows of width 16"):
        VectorIndex.build(MANY, kind=kind, path=tmp_path / "i")
    assert list((tmp_path / "i").iterdir()) == []


def test_vectors_file_is_one_that_faiss_reads(tmp_path):
    for storage in ("float32", "float16"):
        VectorIndex.build(MANY, path=tmp_path / storage, storage=storage)
        plain = faiss.read_index(str(tmp_path / storage / "vectors.faiss"))
        np.testing.assert_allclose(plain.reconstruct_n(0, 3000), MANY, atol=1e-3)


# Inputs


def test_blocks_equal_one_array():
    pieces = VectorIndex.build((VECTORS[start : start + 9] for start in range(0, 50, 9)), IDS)
    np.testing.assert_array_equal(pieces.search(VECTORS, 5).ids, VectorIndex.build(VECTORS, IDS).search(VECTORS, 5).ids)
    assert len(pieces) == 50


def test_float64_and_strided_vectors_are_converted():
    index = VectorIndex.build(np.asfortranarray(VECTORS.astype(np.float64)), IDS)
    np.testing.assert_array_equal(index.reconstruct(IDS), VECTORS)


def test_k_beyond_the_index_returns_all_without_padding():
    found = VectorIndex.build(VECTORS, IDS).search(VECTORS[:2], 1000)
    assert found.ids.shape == found.scores.shape == (2, 50)
    assert sorted(found.ids[0].tolist()) == sorted(IDS.tolist())


@pytest.mark.parametrize("vectors", [VECTORS[:0], []])
def test_empty_index_returns_no_columns(vectors):
    found = VectorIndex.build(vectors, dimension=8).search(VECTORS[:3], 5)
    assert found.ids.shape == found.scores.shape == (3, 0)


def test_no_queries_return_no_rows():
    assert VectorIndex.build(VECTORS).search(VECTORS[:0], 5).ids.shape == (0, 5)


def test_nothing_selected_returns_no_columns():
    assert VectorIndex.build(VECTORS).search(VECTORS, 5, selected=np.zeros(50, bool)).ids.shape == (50, 0)


@pytest.mark.parametrize(
    "vectors, ids, message",
    [
        (VECTORS[0], None, r"have shape \(8,\), need \(N, D\)"),
        ([VECTORS[:3], VECTORS[:3, :5]], None, "are 5 wide, need 8"),
        ([], None, "no vectors and no dimension"),
        (VECTORS[:3], IDS[:2], "2 ids came with 3 vectors"),
        (VECTORS, IDS.astype(np.int32), "ids are int32"),
        (VECTORS, IDS[:, None], r"shape \(50, 1\), need int64"),
        (VECTORS[:3], np.array([5, 6, 5]), "id 5 occurs twice"),
        (VECTORS[:1], np.array([-1]), "id -1 is negative"),
        (np.full((1, 8), np.nan), None, "row 0 of the vectors holds NaN"),
        (np.ones((1, 8), dtype=int), None, "need floats"),
    ],
)
def test_build_refuses_what_faiss_would_mistake(vectors, ids, message, tmp_path):
    with pytest.raises(InvalidInputError, match=message):
        VectorIndex.build(vectors, ids, path=tmp_path / "i")
    assert not (tmp_path / "i").exists() or list((tmp_path / "i").iterdir()) == []


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
    index = VectorIndex.build(np.concatenate([VECTORS, np.full((1, 8), 3e38)]))
    with pytest.raises(InvalidInputError, match=message):
        index.search(queries, k)


def test_selection_of_another_size_is_refused():
    with pytest.raises(InvalidInputError, match=r"selected is bool \(9,\), need bool \(50,\)"):
        VectorIndex.build(VECTORS).search(VECTORS, 1, selected=np.ones(9, bool))


def test_reconstruct_gives_vectors_in_the_order_of_ids():
    np.testing.assert_array_equal(VectorIndex.build(VECTORS, IDS).reconstruct(IDS[::-2]), VECTORS[::-2])
    np.testing.assert_array_equal(VectorIndex.build(VECTORS).reconstruct(np.array([7, 0])), VECTORS[[7, 0]])


@pytest.mark.parametrize("ids", [IDS, None])
def test_reconstruct_names_an_unknown_id(ids):
    with pytest.raises(InvalidInputError, match="id 5000 is not in the index of 50 rows"):
        VectorIndex.build(VECTORS, ids).reconstruct(np.array([5000]))


# Files


def test_folder_with_something_in_it_is_refused(tmp_path):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(InvalidInputError, match=r"holds 'thesis\.txt': choose an empty folder"):
        VectorIndex.build(VECTORS, path=tmp_path)


def test_open_names_a_missing_folder(tmp_path):
    with pytest.raises(MissingInputError, match=r"nowhere does not exist"):
        VectorIndex.open(tmp_path / "nowhere")


@pytest.fixture
def saved(tmp_path):
    VectorIndex.build(VECTORS, IDS, kind="ivf-sq8", path=tmp_path / "i")
    return tmp_path / "i"


@pytest.mark.parametrize("name", ["vectors.faiss", "index.faiss", "ids.npy"])
def test_damage_is_named(saved, name):
    data = (saved / name).read_bytes()
    (saved / name).write_bytes(data[:-1])
    with pytest.raises(ArtifactError, match=f"{name} is damaged"):
        VectorIndex.open(saved)
    (saved / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ArtifactError, match=rf"{name} is damaged \(its sha256 differs\)"):
        VectorIndex.open(saved, verify=True)
    (saved / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name} is missing"):
        VectorIndex.open(saved)


@pytest.mark.parametrize("size", [0, 3, 30, 400])
def test_header_that_faiss_cannot_read_is_named(tmp_path, size):
    path = tmp_path / "vectors.faiss"
    VectorIndex.build(VECTORS, path=tmp_path / "i")
    path.write_bytes((tmp_path / "i" / "vectors.faiss").read_bytes()[:size])
    with pytest.raises(ArtifactError, match=r"vectors\.faiss is damaged \(no 50 vectors of width 8\)"):
        ExactVectors(path, rows=50, dimension=8, storage="float32")

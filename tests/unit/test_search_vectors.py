"""Indexes of vectors that are there already."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ctxembed.errors import InvalidInputError
from ctxembed.foreign import read_foreign
from ctxembed.index.changes import normalised
from ctxembed.search import SemanticSearch
from ctxembed.vector_writer import VectorWriter
from ctxembed.vectors import Row, VectorFolder, encoder_settings

from .search_samples import DOCUMENTS, RNG, from_vectors


@pytest.fixture
def built(tmp_path, fake_encoder):
    with SemanticSearch.build(DOCUMENTS, encoder=fake_encoder, path=tmp_path / "i", batch_size=7) as search:
        yield search


def test_vector_folder_gives_the_same_index_as_its_documents(built, tmp_path, fake_encoder):
    settings = encoder_settings(fake_encoder, unit="sentence")
    with VectorWriter(tmp_path / "v", settings=settings, dimension=16, part_rows=9) as writer:
        for document in DOCUMENTS:
            rows = [Row(document.id, document.text, metadata=document.metadata)]
            writer.append(rows, fake_encoder.encode([document.text]), documents=[document])
    folder = VectorFolder.open(tmp_path / "v")
    SemanticSearch.build_from_vectors(
        folder.iter_parts(), settings=folder.settings, dimension=16, path=tmp_path / "j"
    ).close()
    with SemanticSearch.open(tmp_path / "j", encoder=fake_encoder) as search:
        assert search.search("river bank", k=20) == built.search("river bank", k=20)
        assert search.manifest.unit == "sentence"


def test_foreign_vectors_are_searched_by_cosine(tmp_path):
    vectors = RNG.standard_normal((20, 4), dtype=np.float32) * 100
    np.save(tmp_path / "x.npy", vectors)
    source = read_foreign(tmp_path / "x.npy")
    search = SemanticSearch.build_from_vectors(source, settings={}, dimension=source.dimension, path=tmp_path / "i")
    query = RNG.standard_normal((1, 4), dtype=np.float32) * 7
    cosines = (vectors @ query[0]) / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)
    [hits] = search.search_vectors(query, k=20)
    search.close()
    assert [int(hit.id) for hit in hits] == np.argsort(-cosines).tolist()
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(cosines)[::-1], atol=1e-6)


def test_foreign_vectors_cannot_be_searched_by_text(tmp_path, fake_encoder):
    from_vectors(tmp_path / "i", np.ones((2, 16), np.float32)).close()
    with (
        SemanticSearch.open(tmp_path / "i", encoder=fake_encoder) as search,
        pytest.raises(InvalidInputError, match="the model of its vectors is unknown: search with a vector"),
    ):
        search.search("river")


@pytest.mark.parametrize("unit", ["word", "content-word", "token"])
def test_index_of_words_is_searched_by_vector_not_by_text(tmp_path, fake_encoder, unit):
    settings = encoder_settings(fake_encoder, unit=unit)
    vectors = fake_encoder.encode(["river", "money"])
    from_vectors(tmp_path / "i", vectors, settings=settings).close()
    with SemanticSearch.open(tmp_path / "i", encoder=fake_encoder) as search:
        with pytest.raises(InvalidInputError, match=rf"its vectors are of unit '{unit}': search with the vector of a"):
            search.search("river")
        assert [hits[0].id for hits in search.search_vectors(vectors, k=1)] == ["0", "1"]


def test_skipped_duplicates_keep_rows_and_vectors_together(tmp_path):
    vectors = np.eye(4, dtype=np.float32)
    with from_vectors(tmp_path / "i", vectors, ids=["a", "b", "a", "c"], on_duplicate="skip") as search:
        found = [hits[0] for hits in search.search_vectors(vectors[[0, 1, 3]], k=1)]
        assert [(hit.id, hit.score) for hit in found] == [("a", 1), ("b", 1), ("c", 1)]
        assert (len(search), search.manifest.num_skipped) == (3, 1)


def test_counts_of_rows_and_vectors_must_agree(tmp_path):
    with pytest.raises(InvalidInputError, match="1 rows came with 2 vectors"):
        from_vectors(tmp_path / "i", np.ones((2, 4)), ids=["a"])


def test_vectors_of_another_width_are_refused(tmp_path):
    with pytest.raises(InvalidInputError, match="are 4 wide, need 5"):
        from_vectors(tmp_path / "i", np.ones((2, 4)), dimension=5)


def test_failed_build_leaves_nothing_that_hinders_the_next(tmp_path):
    with pytest.raises(InvalidInputError, match="row 1 of the vectors holds NaN"):
        from_vectors(tmp_path / "i", np.array([[1.0], [np.nan]]))
    with from_vectors(tmp_path / "i", np.ones((2, 1))) as search:
        assert len(search) == 2


finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=100, deadline=None)
@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=finite))
def test_normalised_vectors_have_length_one_or_stay_zero(vectors):
    lengths = np.linalg.norm(normalised(vectors).astype(np.float64), axis=1)
    np.testing.assert_allclose(lengths, vectors.any(axis=1).astype(float), atol=1e-5)
    before = vectors.astype(np.float64)
    before /= np.maximum(np.linalg.norm(before, axis=1, keepdims=True), 1e-300)
    np.testing.assert_allclose(normalised(vectors), before, atol=1e-5)


def test_no_vectors_normalise_to_none():
    assert normalised(np.zeros((0, 3), np.float32)).shape == (0, 3)

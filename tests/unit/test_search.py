"""Searching an index by text and by vector, and opening it."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from ctxembed.errors import ArtifactError, InvalidInputError, MissingInputError
from ctxembed.search import SemanticSearch
from ctxembed.types import Document

from .search_samples import DOCUMENTS, from_vectors, names


@pytest.fixture
def built(tmp_path, fake_encoder):
    with SemanticSearch.build(DOCUMENTS, encoder=fake_encoder, path=tmp_path / "i", batch_size=7) as search:
        yield search


def test_search_equals_brute_force(built, fake_encoder):
    matrix = fake_encoder.encode([document.text for document in DOCUMENTS])
    for query in ("river boat", "money", "debt coin loan bank"):
        scores = matrix @ fake_encoder.encode([query])[0]
        hits = built.search(query, k=len(DOCUMENTS))
        np.testing.assert_allclose([hit.score for hit in hits], np.sort(scores)[::-1], atol=1e-6)
        by_id = {document.id: score for document, score in zip(DOCUMENTS, scores, strict=True)}
        np.testing.assert_allclose([hit.score for hit in hits], [by_id[hit.id] for hit in hits], atol=1e-6)
        assert {hit.id for hit in hits} == by_id.keys()


def test_hits_carry_text_and_metadata(built):
    [hit] = built.search(DOCUMENTS[3].text, k=1)
    document = next(document for document in DOCUMENTS if document.id == hit.id)
    assert (hit.text, hit.metadata) == (document.text, document.metadata)
    assert hit.score == pytest.approx(1, abs=1e-6)
    assert hit.score <= 1


def test_opened_index_gives_the_same_hits(built, tmp_path, fake_encoder):
    with SemanticSearch.open(tmp_path / "i", encoder=fake_encoder) as again:
        assert len(again) == len(built) == 40
        assert again.search("river bank", k=9) == built.search("river bank", k=9)
        assert len(again.search("river bank")) == 10


def test_several_vectors_give_a_list_for_each(built, fake_encoder):
    queries = ["river", "money"]
    hits = built.search_vectors(fake_encoder.encode(queries), k=3)
    for query, found in zip(queries, hits, strict=True):  # FAISS may sum in another order for one than for two
        expected = built.search(query, k=3)
        assert [hit.id for hit in found] == [hit.id for hit in expected]
        np.testing.assert_allclose([hit.score for hit in found], [hit.score for hit in expected], atol=1e-6)


def test_finished_folder_holds_three_files(built, tmp_path):
    assert names(tmp_path / "i") == ["manifest.json", "rows.1.sqlite", "vectors.1.faiss"]


def test_manifest_records_what_made_the_index(built, tmp_path, fake_encoder):
    record = json.loads((tmp_path / "i" / "manifest.json").read_text())
    assert record["model"] == {"name": "fake", "fingerprint": fake_encoder.fingerprint}
    assert {key: record[key] for key in ("generation", "dimension", "rows", "metric", "unit", "num_zero")} == {
        "generation": 1, "dimension": 16, "rows": 40, "metric": "cosine", "unit": "sentence", "num_zero": 0,
    }  # fmt: skip


def test_two_equal_builds_give_equal_files(built, tmp_path, fake_encoder):
    SemanticSearch.build(DOCUMENTS, encoder=fake_encoder, path=tmp_path / "j", batch_size=7).close()
    for name in names(tmp_path / "i"):
        assert (tmp_path / "i" / name).read_bytes() == (tmp_path / "j" / name).read_bytes()


def test_k_beyond_the_rows_returns_all(built):
    assert len(built.search("river", k=1000)) == 40


def test_one_row_is_found(tmp_path, fake_encoder):
    with SemanticSearch.build(DOCUMENTS[:1], encoder=fake_encoder, path=tmp_path / "i") as search:
        assert [hit.id for hit in search.search("money")] == ["d0"]


def test_empty_index_finds_nothing(tmp_path, fake_encoder):
    with SemanticSearch.build([], encoder=fake_encoder, path=tmp_path / "i") as search:
        assert (len(search), search.search("money")) == (0, [])


def test_one_shot_documents_are_enough(tmp_path, fake_encoder):
    with SemanticSearch.build(iter(DOCUMENTS), encoder=fake_encoder, path=tmp_path / "i", batch_size=7) as search:
        assert len(search) == 40


def test_empty_texts_are_kept_and_counted(tmp_path, fake_encoder):
    documents = [Document("a", "river"), Document("b", ""), Document("c", "  ")]
    with SemanticSearch.build(documents, encoder=fake_encoder, path=tmp_path / "i") as search:
        assert search.manifest.num_zero == 2
        assert [(hit.id, hit.score) for hit in search.search("river")][1:] == [("b", 0), ("c", 0)]


@pytest.mark.parametrize(
    "query, k, message",
    [
        ("", 3, "the query is empty"),
        (" \n", 3, "the query is empty"),
        ("?!", 3, r"the query '\?!' has no word that fake knows"),
        ("river", 0, "k is 0, need at least 1"),
    ],
)
def test_impossible_queries_are_refused(built, query, k, message):
    with pytest.raises(InvalidInputError, match=message):
        built.search(query, k=k)


def test_query_vectors_of_another_width_are_refused(built):
    with pytest.raises(InvalidInputError, match="the queries are 5 wide, need 16"):
        built.search_vectors(np.ones((1, 5)))


def test_index_opened_without_model_names_the_one_it_needs(built, tmp_path):
    with (
        SemanticSearch.open(tmp_path / "i") as search,
        pytest.raises(InvalidInputError, match="without a model: open it with fake"),
    ):
        search.search("river")


def test_another_model_is_refused_with_both_names(built, tmp_path, fake_encoder):
    other = dataclasses.replace(fake_encoder, name="other")
    wanted = rf"fake \({fake_encoder.fingerprint[:12]}\), not with other \({other.fingerprint[:12]}\)"
    with pytest.raises(ArtifactError, match=wanted):
        SemanticSearch.open(tmp_path / "i", encoder=other)


def test_model_of_another_width_is_refused(tmp_path, fake_encoder):
    from_vectors(tmp_path / "i", np.ones((2, 5), np.float32)).close()
    with pytest.raises(ArtifactError, match="holds vectors of width 5, fake gives 16"):
        SemanticSearch.open(tmp_path / "i", encoder=fake_encoder)


def test_missing_index_is_named(tmp_path):
    with pytest.raises(MissingInputError, match="nowhere does not exist"):
        SemanticSearch.open(tmp_path / "nowhere")

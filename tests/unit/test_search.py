from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ctxembed import search as search_module
from ctxembed.errors import ArtifactError, InvalidInputError, MissingInputError
from ctxembed.foreign import read_foreign
from ctxembed.index.changes import normalised
from ctxembed.search import SemanticSearch
from ctxembed.types import Document
from ctxembed.vector_writer import VectorWriter
from ctxembed.vectors import Row, VectorFolder, encoder_settings

WORDS = ("river", "bank", "money", "loan", "water", "boat", "tree", "leaf", "stone", "fish", "coin", "debt")
RNG = np.random.default_rng(0)
DOCUMENTS = [
    Document(f"d{number}", " ".join(RNG.choice(WORDS, size=4)), {"number": number, "even": number % 2 == 0})
    for number in range(40)
]


@pytest.fixture
def built(tmp_path, fake_encoder):
    with SemanticSearch.build(DOCUMENTS, encoder=fake_encoder, path=tmp_path / "i", batch_size=7) as search:
        yield search


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def from_vectors(path, vectors, *, ids=None, **options):
    rows = [Row(name, "") for name in (ids or map(str, range(len(vectors))))]
    options = {"settings": {}, "dimension": vectors.shape[1]} | options
    return SemanticSearch.build_from_vectors([(rows, vectors)], path=path, **options)


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


def test_progress_adds_up_to_the_documents(tmp_path, fake_encoder):
    seen = []
    options = {"batch_size": 7, "on_progress": seen.append}
    SemanticSearch.build(DOCUMENTS, encoder=fake_encoder, path=tmp_path / "i", **options).close()
    assert seen == [7, 7, 7, 7, 7, 5]


def test_batch_size_below_one_is_refused(tmp_path, fake_encoder):
    with pytest.raises(InvalidInputError, match="batch_size is 0"):
        SemanticSearch.build(DOCUMENTS, encoder=fake_encoder, path=tmp_path / "i", batch_size=0)


def test_duplicate_id_is_refused_and_the_work_is_kept(tmp_path, fake_encoder):
    documents = [*DOCUMENTS, Document("d3", "another")]
    with pytest.raises(InvalidInputError, match="id 'd3' occurs twice"):
        SemanticSearch.build(documents, encoder=fake_encoder, path=tmp_path / "i")
    assert names(tmp_path / "i") == [".building"]
    options = {"on_duplicate": "skip", "resume": True}
    with SemanticSearch.build(documents, encoder=fake_encoder, path=tmp_path / "i", **options) as search:
        assert (len(search), search.manifest.num_skipped) == (40, 1)
        assert search.search(DOCUMENTS[3].text, k=40) != []


class KilledError(Exception):
    """Stands for a kill while encoding."""


@dataclasses.dataclass
class FragileEncoder:
    """The encoder it is given, until the n-th call."""

    encoder: object
    calls_left: int

    def __getattr__(self, name):
        return getattr(self.encoder, name)

    def encode(self, texts, *, prompt=None):
        self.calls_left -= 1
        if self.calls_left < 0:
            raise KilledError
        return self.encoder.encode(texts, prompt=prompt)


@pytest.fixture
def killed(tmp_path, fake_encoder, monkeypatch):
    """A build that stopped after 28 of 40 documents, 24 of them in finished parts."""
    monkeypatch.setattr(search_module, "PART_ROWS", 10)
    with pytest.raises(KilledError):
        SemanticSearch.build(DOCUMENTS, encoder=FragileEncoder(fake_encoder, 7), path=tmp_path / "i", batch_size=4)
    return tmp_path / "i"


def test_resumed_build_equals_an_uninterrupted_one(killed, tmp_path, fake_encoder):
    options = {"encoder": fake_encoder, "batch_size": 4}
    seen = []
    SemanticSearch.build(DOCUMENTS, path=killed, resume=True, on_progress=seen.append, **options).close()
    SemanticSearch.build(DOCUMENTS, path=tmp_path / "whole", **options).close()
    assert seen == [24, 4, 4, 4, 4]
    assert names(killed) == names(tmp_path / "whole")
    for name in names(killed):
        assert (killed / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_unfinished_build_is_no_index(killed):
    with pytest.raises(MissingInputError, match=r"manifest\.json does not exist"):
        SemanticSearch.open(killed)


def test_unfinished_build_needs_a_decision(killed, fake_encoder):
    with pytest.raises(InvalidInputError, match="--resume, start again with --overwrite, or choose another -o"):
        SemanticSearch.build(DOCUMENTS, encoder=fake_encoder, path=killed)


@pytest.fixture
def killed_overwrite(built, tmp_path, fake_encoder, monkeypatch):
    """An index of 40 rows, and beside it a build in other order that stopped after 24 documents in finished parts."""
    monkeypatch.setattr(search_module, "PART_ROWS", 10)
    fragile = FragileEncoder(fake_encoder, 7)
    with pytest.raises(KilledError):
        SemanticSearch.build(DOCUMENTS[::-1], encoder=fragile, path=tmp_path / "i", batch_size=4, overwrite=True)
    return tmp_path / "i"


def test_killed_overwrite_is_continued_and_replaces_the_index(killed_overwrite, fake_encoder):
    seen = []
    options = {"encoder": fake_encoder, "batch_size": 4, "resume": True, "on_progress": seen.append}
    with SemanticSearch.build(DOCUMENTS[::-1], path=killed_overwrite, **options) as search:
        assert (len(search), search.manifest.generation) == (40, 2)
    assert seen == [24, 4, 4, 4, 4]
    assert names(killed_overwrite) == ["manifest.json", "rows.2.sqlite", "vectors.2.faiss"]


def test_killed_overwrite_needs_a_decision(killed_overwrite, fake_encoder):
    with pytest.raises(InvalidInputError, match="holds an unfinished build: continue it with --resume"):
        SemanticSearch.build(DOCUMENTS, encoder=fake_encoder, path=killed_overwrite)


def test_resume_of_a_finished_index_is_refused(built, tmp_path, fake_encoder):
    with pytest.raises(InvalidInputError, match="holds an index of 40 rows: --overwrite it, or choose another -o"):
        SemanticSearch.build(DOCUMENTS, encoder=fake_encoder, path=tmp_path / "i", resume=True)


def test_unfinished_build_is_discarded_on_overwrite(killed, fake_encoder):
    with SemanticSearch.build(DOCUMENTS[:3], encoder=fake_encoder, path=killed, overwrite=True) as search:
        assert len(search) == 3
    assert names(killed) == ["manifest.json", "rows.1.sqlite", "vectors.1.faiss"]


def test_resume_with_another_model_is_refused(killed, fake_encoder):
    other = dataclasses.replace(fake_encoder, name="other")
    with pytest.raises(ArtifactError, match="was begun with fingerprint"):
        SemanticSearch.build(DOCUMENTS, encoder=other, path=killed, resume=True)


def test_resume_with_other_documents_is_refused(killed, fake_encoder):
    with pytest.raises(ArtifactError, match="the input has changed"):
        SemanticSearch.build(DOCUMENTS[1:], encoder=fake_encoder, path=killed, resume=True)


def test_existing_index_is_not_replaced_unasked(built, tmp_path, fake_encoder):
    with pytest.raises(InvalidInputError, match="holds an index of 40 rows: --overwrite it, or choose another -o"):
        SemanticSearch.build(DOCUMENTS, encoder=fake_encoder, path=tmp_path / "i")


def test_overwrite_replaces_the_generation(built, tmp_path, fake_encoder):
    with SemanticSearch.build(DOCUMENTS[:3], encoder=fake_encoder, path=tmp_path / "i", overwrite=True) as search:
        assert (len(search), search.manifest.generation) == (3, 2)
    assert names(tmp_path / "i") == ["manifest.json", "rows.2.sqlite", "vectors.2.faiss"]


def test_failed_overwrite_leaves_the_old_index(built, tmp_path, fake_encoder):
    with pytest.raises(KilledError):
        SemanticSearch.build(DOCUMENTS, encoder=FragileEncoder(fake_encoder, 0), path=tmp_path / "i", overwrite=True)
    with SemanticSearch.open(tmp_path / "i", encoder=fake_encoder) as search:
        assert len(search.search("river", k=100)) == 40


@pytest.mark.parametrize("overwrite", [False, True])
def test_folder_with_other_things_is_refused(tmp_path, fake_encoder, overwrite):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(InvalidInputError, match=r"'thesis\.txt' and is no index"):
        SemanticSearch.build(DOCUMENTS, encoder=fake_encoder, path=tmp_path, overwrite=overwrite)


def test_another_kind_of_artefact_is_never_overwritten(tmp_path, fake_encoder):
    VectorWriter(tmp_path / "v", settings={}, dimension=4).finish()
    with pytest.raises(ArtifactError, match="has format 'ctxembed-vectors', need 'ctxembed-index'"):
        SemanticSearch.build(DOCUMENTS, encoder=fake_encoder, path=tmp_path / "v", overwrite=True)


def test_file_in_place_of_the_folder_is_refused(tmp_path, fake_encoder):
    (tmp_path / "i").touch()
    with pytest.raises(InvalidInputError, match="is a file, need a folder"):
        SemanticSearch.build(DOCUMENTS, encoder=fake_encoder, path=tmp_path / "i")


def test_another_model_is_refused_with_both_names(built, tmp_path, fake_encoder):
    other = dataclasses.replace(fake_encoder, name="other")
    wanted = rf"fake \({fake_encoder.fingerprint[:12]}\), not with other \({other.fingerprint[:12]}\)"
    with pytest.raises(ArtifactError, match=wanted):
        SemanticSearch.open(tmp_path / "i", encoder=other)


def test_model_of_another_width_is_refused(tmp_path, fake_encoder):
    from_vectors(tmp_path / "i", np.ones((2, 5), np.float32)).close()
    with pytest.raises(ArtifactError, match="holds vectors of width 5, fake gives 16"):
        SemanticSearch.open(tmp_path / "i", encoder=fake_encoder)


@pytest.mark.parametrize("name", ["vectors.1.faiss", "rows.1.sqlite"])
@pytest.mark.parametrize("verify", [True, False])
def test_truncated_file_is_named(built, tmp_path, name, verify):
    file = tmp_path / "i" / name
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=rf"{name} is damaged \(\d+ bytes, need \d+\)"):
        SemanticSearch.open(tmp_path / "i", verify=verify)


@pytest.mark.parametrize("name", ["vectors.1.faiss", "rows.1.sqlite"])
def test_changed_byte_is_found(built, tmp_path, name):
    file = tmp_path / "i" / name
    data = bytearray(file.read_bytes())
    data[-2] ^= 1
    file.write_bytes(data)
    with pytest.raises(ArtifactError, match=rf"{name} is damaged \(its sha256 differs\)"):
        SemanticSearch.open(tmp_path / "i")


def test_missing_file_is_named(built, tmp_path):
    (tmp_path / "i" / "rows.1.sqlite").unlink()
    with pytest.raises(ArtifactError, match=r"rows\.1\.sqlite is missing"):
        SemanticSearch.open(tmp_path / "i")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"rows": 39}, "its own sha256 differs"),
        ({"version": 9}, "has version 9"),
        ({"metric": "l2"}, "its own sha256 differs"),
        ({"indexes": []}, "its own sha256 differs"),
    ],
)
def test_wrong_manifest_is_refused(built, tmp_path, change, message):
    file = tmp_path / "i" / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ArtifactError, match=message):
        SemanticSearch.open(tmp_path / "i")


def test_file_outside_the_folder_is_refused(built, tmp_path):
    manifest = dataclasses.replace(
        built.manifest, rows_file=dataclasses.replace(built.manifest.rows_file, name="../rows.1.sqlite")
    )
    (tmp_path / "i" / "manifest.json").write_text(json.dumps(manifest.to_json()))
    with pytest.raises(ArtifactError, match="its entries contradict each other"):
        SemanticSearch.open(tmp_path / "i")


def test_missing_index_is_named(tmp_path):
    with pytest.raises(MissingInputError, match="nowhere does not exist"):
        SemanticSearch.open(tmp_path / "nowhere")


def test_index_opened_without_model_names_the_one_it_needs(built, tmp_path):
    with (
        SemanticSearch.open(tmp_path / "i") as search,
        pytest.raises(InvalidInputError, match="without a model: open it with fake"),
    ):
        search.search("river")


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

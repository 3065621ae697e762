from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from ctxembed.errors import ArtifactError, InvalidInputError
from ctxembed.index.folder import check_folder
from ctxembed.index.kinds import IndexOptions
from ctxembed.index.manifest import IndexManifest
from ctxembed.index.updates import add_documents, add_vectors
from ctxembed.meaning.word_choice import AddedWords, WordChoice, count_chosen, forecast, word_options
from ctxembed.meaning.word_index import WordIndex, add_sentences, build_word_index
from ctxembed.search import SemanticSearch
from ctxembed.text import parse_usage, word_form, word_forms
from ctxembed.types import Document, Usage, Vectors
from ctxembed.units import embed_corpus


class ContextEncoder:
    """A vector that says what the sentence is about (river or money), which word it is, and a little noise."""

    name, dimension, fingerprint = "context", 16, "c" * 64

    def encode_usages(self, usages: Sequence[Usage], *, layer: int | None = None) -> Vectors:
        vectors = np.zeros((len(usages), 16), dtype=np.float32)
        for vector, usage in zip(vectors, usages, strict=True):
            forms = word_forms(usage.text)
            vector[0], vector[1] = "river" in forms, "money" in forms
            vector[2:] = np.random.default_rng(sum(map(ord, word_form(usage.word)))).normal(0, 0.2, 14)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


DOCUMENTS = [
    Document("a", "The bank of the river was muddy.", {"year": 1900}),
    Document("b", "The bank lent money to the farmer.", {"year": 1950}),
    Document("c", "A shore near the river, and banks.", {"year": 2000}),
    Document("d", "The Bank has money.", {"year": 2010}),
]


class DeafEncoder(ContextEncoder):
    """Sees nothing in a sentence about nothing."""

    def encode_usages(self, usages: Sequence[Usage], *, layer: int | None = None) -> Vectors:
        vectors = super().encode_usages(usages, layer=layer)
        vectors[["nothing" in word_forms(usage.text) for usage in usages]] = 0
        return vectors


def build(
    path: Path, documents: list[Document] = DOCUMENTS, encoder: ContextEncoder | None = None, **choice: object
) -> WordIndex:
    encoder = encoder or ContextEncoder()
    counted = count_chosen(documents, WordChoice(**choice))  # type: ignore[arg-type]
    build_word_index(documents, counted, encoder=encoder, path=path)
    return WordIndex.open(path, encoder=encoder)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> WordIndex:
    return build(tmp_path_factory.mktemp("w") / "widx")


RIVER = parse_usage("the [bank] of the river")


def test_every_content_word_is_a_row_and_each_text_is_stored_once(index) -> None:
    rows = [stored.row for stored in index.folder.store.get(index.folder.numbers())]
    words = [row.text[row.start : row.end] for row in rows]
    assert words == "bank river muddy bank lent money farmer shore near river banks Bank money".split()
    assert rows[0].id == "a#4-8"
    assert index.folder.store._query("SELECT COUNT(*) FROM texts")[0][0] == 4


def test_same_word_is_found_in_the_same_sense_first(index) -> None:
    hits = index.search(index.encode(RIVER), k=5, only=["bank"])
    assert [hit.id for hit in hits] == ["a#4-8", "b#4-8", "d#4-8"]
    assert hits[0].score == pytest.approx(1, abs=1e-3)
    assert (hits[0].text[hits[0].start : hits[0].end], hits[0].metadata) == ("bank", {"year": 1900})


def test_other_words_are_those_used_like_it(index) -> None:
    hits = index.search(index.encode(RIVER), k=3, without=["bank", "banks"])
    assert {hit.text[hit.start : hit.end] for hit in hits} <= {"river", "muddy", "shore", "near"}


def test_conditions_and_pages_narrow_the_hits(index) -> None:
    vector = index.encode(RIVER)
    assert [hit.id for hit in index.search(vector, k=5, only=["bank"], where="year >= 1950")] == ["b#4-8", "d#4-8"]
    assert [hit.id for hit in index.search(vector, k=1, only=["bank"], skip=1)] == ["b#4-8"]
    everything = index.search(vector, k=13)
    assert [hit.id for hit in everything[4:8]] == [hit.id for hit in index.search(vector, k=4, skip=4)]
    assert index.search(vector, k=5, only=["bank"], where="year >= 2020") == []


def test_word_that_is_not_in_the_index_is_refused_and_others_beside_it_are_found(index) -> None:
    vector = index.encode(RIVER)
    with pytest.raises(InvalidInputError, match="the word 'zebra' is not in .*: words are matched in any case"):
        index.search(vector, k=5, only=["zebra"])
    assert [hit.id for hit in index.search(vector, k=5, only=["zebra", "shore"])] == ["c#2-7"]


def test_conditions_on_words_mean_the_rows_own_unless_they_are_quoted(tmp_path: Path) -> None:
    documents = [Document(d.id, d.text, {"word": "lent", "start": 7}) for d in DOCUMENTS[:2]]
    with build(tmp_path / "widx", documents) as index:
        vector = index.encode(RIVER)
        assert [hit.id for hit in index.search(vector, k=9, where="word = 'lent'")] == ["b#9-13"]
        assert [hit.id for hit in index.search(vector, k=9, where="start = 9")] == ["b#9-13"]
        assert len(index.search(vector, k=9, where='"word" = \'lent\' and "start" = 7')) == 7


def test_neighbours_are_words_each_once(index) -> None:
    hits = index.neighbours(index.encode(RIVER), k=4, without=["bank"])
    words = [word_form(hit.text[hit.start : hit.end]) for hit in hits]
    assert len(set(words)) == len(words) == 4
    assert "bank" not in words
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_uses_of_a_word_come_with_their_vectors(index) -> None:
    occurrences, vectors, total, num_zero = index.uses("bank")
    assert [each.id for each in occurrences] == ["a#4-8", "b#4-8", "d#4-8"]
    assert (total, num_zero) == (3, 0)
    expected = ContextEncoder().encode_usages([each.usage for each in occurrences])
    np.testing.assert_allclose(vectors, expected, atol=1e-3)
    assert len(index.uses("bank", inflections=True)[0]) == 4
    assert len(index.uses("bank", most=2)[0]) == 2
    with pytest.raises(InvalidInputError, match="'zebra' is not in"):
        index.uses("zebra")


def test_uses_without_a_vector_are_left_out_and_counted(tmp_path: Path) -> None:
    documents = [*DOCUMENTS, Document("n", "A bank of nothing."), Document("m", "A shade of nothing.")]
    with build(tmp_path / "widx", documents, DeafEncoder()) as index:
        found = index.uses("bank")
        assert [each.id for each in found.occurrences] == ["a#4-8", "b#4-8", "d#4-8"]
        assert found.vectors.any(axis=1).tolist() == [True] * 3
        assert (found.total, found.num_zero) == (4, 1)
        unseen = index.uses("shade")
        assert (unseen.occurrences, unseen.vectors.shape, unseen.num_zero) == ([], (0, 16), 1)


def test_choice_by_list_and_frequency() -> None:
    assert count_chosen(DOCUMENTS, WordChoice(words=frozenset(["the", "bank"]))).counts == {"the": 6, "bank": 3}
    assert count_chosen(DOCUMENTS, WordChoice(min_count=2)).counts == {"bank": 3, "river": 2, "money": 2}
    assert count_chosen(DOCUMENTS, WordChoice(min_count=2, max_count=2)).counts == {"river": 2, "money": 2}
    assert count_chosen(DOCUMENTS, WordChoice(all_words=True)).counts["the"] == 6
    with pytest.raises(InvalidInputError, match="no chosen word occurs often enough"):
        count_chosen(DOCUMENTS, WordChoice(min_count=99))
    with pytest.raises(InvalidInputError, match="max_count = 1 is below min_count = 2"):
        WordChoice(min_count=2, max_count=1)


def test_frequent_words_are_sampled_by_the_seed() -> None:
    documents = [Document(str(n), f"a bank near shore {n % 3}") for n in range(400)]
    counted = count_chosen(documents, WordChoice(max_per_word=100, seed=3))
    rows = [(d.id, s.text) for d in documents for s in counted.spans(d)]
    drawn = [name for name, word in rows if word == "bank"]
    assert 70 < len(drawn) < 130
    assert drawn != [name for name, word in rows if word == "shore"]
    assert counted.sampled == {"bank": 400, "near": 400, "shore": 400}
    assert counted.rows == 300
    again = count_chosen(documents, WordChoice(max_per_word=100, seed=3))
    assert [(d.id, s.text) for d in documents for s in again.spans(d)] == rows
    assert again.record == counted.record


def test_forecast_counts_rows_and_bytes_before_anything_is_built() -> None:
    counted = count_chosen(DOCUMENTS, WordChoice())
    foretold = forecast(counted, ContextEncoder(), options=IndexOptions())
    assert (foretold.rows, foretold.words, foretold.kind) == (13, 9, "flat")
    assert foretold.bytes > 13 * 16 * 2
    assert foretold.minutes >= 0


def test_large_indexes_are_compressed_unless_another_kind_is_asked_for() -> None:
    assert word_options(IndexOptions(), rows=10**6).kind == "ivf-sq8"
    assert word_options(IndexOptions(), rows=100) == IndexOptions(storage="float16")
    assert word_options(IndexOptions(kind="hnsw"), rows=10**6).kind == "hnsw"


def test_index_of_other_rows_or_another_model_is_refused(tmp_path: Path, fake_encoder) -> None:
    SemanticSearch.build(DOCUMENTS, encoder=fake_encoder, path=tmp_path / "idx").close()
    with pytest.raises(InvalidInputError, match="rows of unit 'sentence', need words"):
        WordIndex.open(tmp_path / "idx")
    build(tmp_path / "widx").close()
    other = ContextEncoder()
    other.fingerprint = "d" * 64
    with pytest.raises(ArtifactError, match="was made with context"):
        WordIndex.open(tmp_path / "widx", encoder=other)
    wide = ContextEncoder()
    wide.dimension = 32
    with pytest.raises(ArtifactError, match="holds vectors of width 16, context gives 32"):
        WordIndex.open(tmp_path / "widx", encoder=wide)


# Additions


MORE = [
    Document("e", "A muddy shore, a muddy bank.", {"year": 2020}),
    Document("f", "So it was.", {"year": 2021}),
    Document("g", "Money lent is money gone.", {"year": 2022}),
]


def rows_of(path: Path) -> dict[str, tuple[str, object]]:
    """Every row of an index by its id: its word and metadata; the vectors must be those of the words."""
    with WordIndex.open(path, encoder=ContextEncoder()) as index:
        numbers = index.folder.numbers()
        rows = [stored.row for stored in index.folder.store.get(numbers)]
        usages = [Usage(row.text, row.start or 0, row.end or 0) for row in rows]
        np.testing.assert_allclose(index.folder.take(numbers), ContextEncoder().encode_usages(usages), atol=1e-3)
    check_folder(path)
    return {row.id: (row.text[row.start : row.end], row.metadata) for row in rows}


@pytest.mark.parametrize(
    "choice",
    [{}, {"words": frozenset(["bank", "gone"])}, {"all_words": True}, {"max_per_word": None}, {"layer": 3}],
)
def test_added_sentences_give_the_rows_of_a_build_of_all(tmp_path: Path, choice: dict[str, object]) -> None:
    layer = choice.pop("layer", None)
    for name, documents in (("some", DOCUMENTS), ("all", [*DOCUMENTS, *MORE])):
        counted = count_chosen(documents, WordChoice(**choice))  # type: ignore[arg-type]
        build_word_index(documents, counted, encoder=ContextEncoder(), path=tmp_path / name, layer=layer)
    met = add_sentences(tmp_path / "some", MORE, encoder=ContextEncoder())
    expected = rows_of(tmp_path / "all")
    assert rows_of(tmp_path / "some") == expected
    wordless = sum(all(not name.startswith(f"{d.id}#") for name in expected) for d in MORE)
    assert (met.added, met.without_rows, met.rows) == (3 - wordless, wordless, len(expected))
    assert add_sentences(tmp_path / "some", [*DOCUMENTS, *MORE], encoder=ContextEncoder()).added == 0


def test_updated_sentences_replace_those_of_the_build(tmp_path: Path) -> None:
    build(tmp_path / "widx").close()
    new = [Document("a", "The bank was dry.", {"year": 1}), Document("b", "So it was."), *DOCUMENTS[2:], MORE[1]]
    met = add_sentences(tmp_path / "widx", new, encoder=ContextEncoder(), on_existing="update")
    assert met.summary() == "2 updated, 2 unchanged, 1 without a word to index"
    rows = rows_of(tmp_path / "widx")
    assert {name: rows[name] for name in rows if name[0] in "abf"} == {
        "a#4-8": ("bank", {"year": 1}),
        "a#13-16": ("dry", {"year": 1}),
    }


def test_sampled_words_are_added_in_the_share_of_the_build(tmp_path: Path) -> None:
    documents = [
        Document(f"s{n}", f"a bank near shore {n % 3}, rarely {'muddy' if n < 9 else 'dry'}") for n in range(90)
    ]
    counted = count_chosen(documents[:60], WordChoice(max_per_word=20, seed=3))
    assert counted.sampled == {"bank": 60, "near": 60, "shore": 60, "rarely": 60, "dry": 51}
    choice = AddedWords.of(json.loads(json.dumps(counted.record)))
    assert choice.record == counted.record
    assert [choice.spans(d) for d in documents[:60]] == [counted.spans(d) for d in documents[:60]]
    build_word_index(documents[:60], counted, encoder=ContextEncoder(), path=tmp_path / "widx")
    add_sentences(tmp_path / "widx", [*documents[60:], Document("t", "muddy " * 30)], encoder=ContextEncoder())
    rows = rows_of(tmp_path / "widx")
    drawn = {f"{d.id}#{s.start}-{s.end}" for d in documents for s in counted.spans(d)}
    assert {name for name in rows if name[0] == "s"} == drawn
    assert sum(name[0] == "t" for name in rows) == 30  # not sampled by the build


@pytest.mark.parametrize("choice", [{"min_count": 2}, {"max_count": 2}])
def test_words_chosen_by_frequency_take_no_text(tmp_path: Path, choice: dict[str, int]) -> None:
    build(tmp_path / "widx", **choice).close()
    before = (tmp_path / "widx" / "manifest.json").read_bytes()
    with pytest.raises(InvalidInputError, match="were chosen by frequency .* only a build counts: build it again"):
        add_sentences(tmp_path / "widx", MORE, encoder=ContextEncoder())
    assert (tmp_path / "widx" / "manifest.json").read_bytes() == before


def test_choice_that_an_older_ctxembed_kept_takes_no_text() -> None:
    record = dict(count_chosen(DOCUMENTS, WordChoice()).record)
    del record["words"], record["sampled"]
    with pytest.raises(InvalidInputError, match="does not know which words were chosen .* build it again"):
        AddedWords.of(record)


def test_other_choices_of_words_do_not_mix(tmp_path: Path) -> None:
    build(tmp_path / "widx", words=frozenset(["bank"])).close()
    with pytest.raises(InvalidInputError, match="were chosen otherwise: add sentences with `ctxembed index add`"):
        add_documents(tmp_path / "widx", MORE, encoder=ContextEncoder())
    record = count_chosen(DOCUMENTS, WordChoice()).record
    with pytest.raises(InvalidInputError, match="were chosen otherwise"):
        add_documents(tmp_path / "widx", MORE, encoder=ContextEncoder(), selection=AddedWords.of(record))
    everything = embed_corpus(MORE, encoder=ContextEncoder(), path=tmp_path / "v", unit="word")
    with pytest.raises(ArtifactError, match="were chosen otherwise than those of the vectors: add the text itself"):
        add_vectors(tmp_path / "widx", everything)
    options = {"settings": everything.settings, "dimension": 16, "path": tmp_path / "all"}
    SemanticSearch.build_from_vectors(everything.iter_parts(), **options).close()
    with pytest.raises(InvalidInputError, match="holds no chosen words: add documents to it"):
        add_sentences(tmp_path / "all", MORE, encoder=ContextEncoder())


def test_vectors_of_the_same_choice_are_added(tmp_path: Path) -> None:
    build(tmp_path / "widx", words=frozenset(["bank", "lent"])).close()
    choice = AddedWords.of(IndexManifest.read(tmp_path / "widx").settings["words"])
    vectors = embed_corpus(MORE, encoder=ContextEncoder(), path=tmp_path / "v", unit="word", selection=choice)
    assert add_vectors(tmp_path / "widx", vectors).summary() == "2 added"
    assert set(rows_of(tmp_path / "widx")) >= {"e#23-27", "g#6-10"}


def test_interrupted_addition_of_sentences_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(tmp_path / "widx").close()

    def fail(*_: object) -> None:
        raise OSError

    with monkeypatch.context() as patch:
        patch.setattr(IndexManifest, "publish", fail)
        with pytest.raises(OSError):
            add_sentences(tmp_path / "widx", MORE, encoder=ContextEncoder())
    met = add_sentences(tmp_path / "widx", MORE, encoder=ContextEncoder(), resume=True)
    assert met.summary() == "2 added, 1 without a word to index"

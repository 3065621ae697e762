from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from ctxembed.errors import ArtifactError, InvalidInputError
from ctxembed.index.kinds import IndexOptions
from ctxembed.meaning.word_choice import WordChoice, count_chosen, forecast, word_options
from ctxembed.meaning.word_index import WordIndex, build_word_index
from ctxembed.text import parse_usage, word_form, word_forms
from ctxembed.types import Document, Usage, Vectors


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


def build(path: Path, documents: list[Document] = DOCUMENTS, **choice: object) -> WordIndex:
    counted = count_chosen(documents, WordChoice(**choice))  # type: ignore[arg-type]
    build_word_index(documents, counted, encoder=ContextEncoder(), path=path)
    return WordIndex.open(path, encoder=ContextEncoder())


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
    assert index.search(vector, k=5, only=["zebra"]) == []


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
    occurrences, vectors, total = index.uses("bank")
    assert [each.id for each in occurrences] == ["a#4-8", "b#4-8", "d#4-8"]
    assert total == 3
    expected = ContextEncoder().encode_usages([each.usage for each in occurrences])
    np.testing.assert_allclose(vectors, expected, atol=1e-3)
    assert len(index.uses("bank", inflections=True)[0]) == 4
    assert len(index.uses("bank", most=2)[0]) == 2
    with pytest.raises(InvalidInputError, match="'zebra' is not in"):
        index.uses("zebra")


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
    from ctxembed.search import SemanticSearch

    SemanticSearch.build(DOCUMENTS, encoder=fake_encoder, path=tmp_path / "idx").close()
    with pytest.raises(InvalidInputError, match="rows of unit 'sentence', need words"):
        WordIndex.open(tmp_path / "idx")
    build(tmp_path / "widx").close()
    other = ContextEncoder()
    other.fingerprint = "d" * 64
    with pytest.raises(ArtifactError, match="was made with context"):
        WordIndex.open(tmp_path / "widx", encoder=other)

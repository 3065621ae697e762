from __future__ import annotations

import math
import re
import sqlite3

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctxembed.fulltext import affordable, any_of, query_words
from ctxembed.store import DocumentStore
from ctxembed.vectors import Row

TEXTS = (
    "the red boat crossed river water",
    "a boat and a boat met another boat",
    "money lent to farmers",
    "river water ran cold over cold stones near an old mill that nobody had used for many long years",
    "",
)


@pytest.fixture
def store(tmp_path):
    with DocumentStore.create(tmp_path / "rows.sqlite") as store:
        rows = [Row(str(n), text, metadata={"n": n}) for n, text in enumerate(TEXTS)]
        store.add(rows)
        yield store


def bm25(texts, words, *, k1=1.2, b=0.75):
    """Score texts of words without endings, as FTS5 documents it."""
    documents = [re.findall(r"\w+", text) for text in texts]
    mean = sum(map(len, documents)) / len(documents)
    scores = []
    for document in documents:
        score = 0.0
        for word in words:
            found = sum(word in other for other in documents)
            idf = max(math.log((len(texts) - found + 0.5) / (found + 0.5)), 1e-6)
            count = document.count(word)
            score += idf * count * (k1 + 1) / (count + k1 * (1 - b + b * len(document) / mean))
        scores.append(score)
    return scores


@pytest.mark.parametrize("words", [("boat",), ("boat", "mill"), ("farmers", "cold", "boat")])
def test_scores_equal_the_formula(store, words):
    expected = {n: score for n, score in enumerate(bm25(TEXTS, words)) if score}
    assert dict(store.search_text(" ".join(words), k=9)) == pytest.approx(expected)


def test_best_rows_come_first_and_k_cuts(store):
    scores = store.search_text("boat mill money", k=9)
    assert len(scores) == 4
    assert [score for _, score in scores] == sorted((score for _, score in scores), reverse=True)
    assert store.search_text("boat mill money", k=2) == scores[:2]


def test_endings_case_and_accents_do_not_matter(store):
    assert [number for number, _ in store.search_text("BÖATS", k=9)] == [1, 0]


def test_rows_without_any_word_are_not_found(store):
    assert store.search_text("zyzzyva ?!", k=9) == []
    assert store.search_text("", k=9) == []


def test_only_rows_under_the_condition_are_found(store):
    assert [number for number, _ in store.search_text("boat mill", k=9, among=np.array([1, 2, 3]))] == [3, 1]


def test_words_of_spans_are_not_indexed(store):
    [place] = store.add([Row("x#0-4", "boat trips", 0, 4)])
    assert (place, store.next_number()) == (0, 6)
    assert 5 not in dict(store.search_text("boat trips", k=9))


def test_changes_of_rows_change_what_is_found(store, tmp_path):
    store.delete(np.array([1, 2]))
    store.add([Row("2", "a canoe")])
    connection = sqlite3.connect(tmp_path / "rows.sqlite", isolation_level=None)
    connection.execute("INSERT INTO words (words) VALUES ('integrity-check')")
    connection.close()
    assert [number for number, _ in store.search_text("boat", k=9)] == [0]
    assert [number for number, _ in store.search_text("canoe money", k=9)] == [5]


def test_compacted_rows_are_found_under_their_new_numbers(store, tmp_path):
    store.delete(np.array([1, 2]))
    store.compact_into(tmp_path / "compacted")
    with DocumentStore.open(tmp_path / "compacted") as compacted:
        assert [number for number, _ in compacted.search_text("mill boat", k=9)] == [0, 1]


syntax = st.sampled_from(['"', "'", "*", "NEAR(", "AND", "OR NOT", "text:", "^", "{", "\0", "-", "boat", "(", " "])


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.text(max_size=30), st.lists(syntax, max_size=8).map("".join)))
def test_nothing_in_a_query_is_syntax(tmp_path_factory, query):
    store = syntax_store(tmp_path_factory)
    found = dict(store.search_text(query, k=9))
    assert found.keys() <= {0}
    if "boat" in query_words(query):
        assert found.keys() == {0}


_STORES: list[DocumentStore] = []


def syntax_store(factory):
    if not _STORES:
        _STORES.append(DocumentStore.create(factory.mktemp("s") / "r"))
        _STORES[0].add([Row("a", "boat")])
    return _STORES[0]


@pytest.fixture(autouse=True, scope="module")
def _closed():
    yield
    while _STORES:
        _STORES.pop().close()


@settings(max_examples=80, deadline=None)
@given(st.text(alphabet=st.characters(categories=("Lu", "Ll", "Lo", "Nd")), min_size=1, max_size=12))
def test_a_word_of_any_script_is_found(word):
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE VIRTUAL TABLE words USING fts5(text, tokenize = 'porter unicode61 remove_diacritics 2')")
    connection.execute("INSERT INTO words (rowid, text) VALUES (1, ?)", (f"before {word} behind",))
    found = connection.execute("SELECT rowid FROM words WHERE words MATCH ?", (any_of(query_words(word)),)).fetchall()
    connection.close()
    assert found == [(1,)]


def test_common_words_are_left_out_beyond_the_budget():
    counts = {"a": 60, "b": 50, "c": 30, "d": 5, "e": 0}
    assert affordable(counts, budget=100) == ["d", "c", "b"]
    assert affordable({"a": 1000}, budget=100) == ["a"]
    assert affordable({"a": 0}) == []


def test_a_long_query_is_searched_by_its_rarest_words():
    assert affordable({str(n): n for n in range(1, 60)}) == [str(n) for n in range(1, 33)]

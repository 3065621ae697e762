from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest

from ctxembed.errors import InvalidInputError
from ctxembed.evaluation import remembering
from ctxembed.evaluation.remembering import RememberingEncoder
from ctxembed.evaluation.search_systems import SearchSystem, search_system

DOCUMENTS = ["the boat on the river", "a bank lent money", "river water", "", "money for a boat"]


class WordEncoder:
    """The encoder of the tests, with vectors of single words."""

    def __init__(self, encoder):
        self._encoder = encoder

    def __getattr__(self, name):
        return getattr(self._encoder, name)

    def encode_usages(self, usages, *, layer=None):
        return self._encoder.encode([usage.word for usage in usages])


@pytest.fixture
def encoder(fake_encoder):
    return WordEncoder(fake_encoder)


def ranking(scores):
    return [place for place in np.argsort(-scores, kind="stable").tolist() if scores[place] > 0]


def test_scores_are_in_the_order_of_the_cosines(encoder):
    scores = SearchSystem(encoder, "dense").scorer(DOCUMENTS)("river boat")
    cosines = encoder.encode(DOCUMENTS) @ encoder.encode(["river boat"])[0]
    assert ranking(scores) == np.argsort(-cosines, kind="stable").tolist()


def test_documents_without_a_word_score_nothing(encoder):
    score = SearchSystem(encoder, "lexical").scorer(DOCUMENTS)
    assert {n for n, value in enumerate(score("river boat").tolist()) if value > 0} == {0, 2, 4}
    assert score("?!").tolist() == [0] * 5


def test_reranked_documents_stand_before_the_others(encoder):
    scores = SearchSystem(encoder, "hybrid", rerank=2).scorer(DOCUMENTS)("river boat")
    assert sorted(scores > 1, reverse=True) == [True, True, False, False, False]
    assert np.count_nonzero(scores) == 5


def test_folder_of_the_index_goes_with_the_function(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    score = SearchSystem(encoder, "lexical").scorer(DOCUMENTS)
    assert len(list(Path(tmp_path).iterdir())) == 1
    del score
    gc.collect()
    assert list(Path(tmp_path).iterdir()) == []


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("search:dense", "dense fake"),
        ("search:lexical", "lexical"),
        ("search:hybrid", "hybrid fake"),
        ("search:hybrid+rerank", "hybrid fake, 50 re-ranked"),
    ],
)
def test_way_to_search_is_read_from_its_name(encoder, text, name):
    assert search_system(text, encoder).name == name


@pytest.mark.parametrize("text", ["search:", "search:fuzzy", "search:hybrid+", "search:hybrid+fold"])
def test_other_ways_are_refused(encoder, text):
    with pytest.raises(InvalidInputError, match="is no way to search: write search:dense"):
        search_system(text, encoder)


def test_fingerprints_part_the_ways(encoder):
    ways = [search_system(f"search:{way}", encoder) for way in ("dense", "lexical", "hybrid", "hybrid+rerank")]
    assert len({way.fingerprint for way in ways}) == 4


class Counting(WordEncoder):
    """Counts the texts and words that it is asked for."""

    num_texts = num_words = 0

    def encode(self, texts, *, prompt=None):
        self.num_texts += len(texts)
        return self._encoder.encode(texts, prompt=prompt)

    def encode_usages(self, usages, *, layer=None):
        self.num_words += len(usages)
        return super().encode_usages(usages, layer=layer)


@pytest.mark.parametrize("most_bytes", [2**30, 0])
def test_remembering_encoder_ranks_alike_and_reads_a_document_once(fake_encoder, monkeypatch, most_bytes):
    monkeypatch.setattr(remembering, "MOST_BYTES", most_bytes)
    plain, counting = Counting(fake_encoder), Counting(fake_encoder)
    remembers = RememberingEncoder(counting)
    for mode in ("dense", "hybrid"):
        for query in ("river boat", "money", "river boat"):
            expected = SearchSystem(plain, mode, rerank=4).scorer(DOCUMENTS)(query)
            np.testing.assert_allclose(SearchSystem(remembers, mode, rerank=4).scorer(DOCUMENTS)(query), expected)
    if most_bytes:
        assert (counting.num_texts, counting.num_words) == (len(DOCUMENTS) + 2, 5 + 4 + 2 + 4 + 2 + 1)
    assert counting.num_words <= plain.num_words


def test_remembering_encoder_of_nothing_gives_nothing(fake_encoder):
    remembers = RememberingEncoder(WordEncoder(fake_encoder))
    assert remembers.encode([]).shape == remembers.encode_usages([]).shape == (0, 16)

"""Occlusion and swaps: what is taken away is what is said, and the effect is that of encoding the changed text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxembed.embedder import Embedder
from ctxembed.errors import InvalidInputError
from ctxembed.meaning.occlusion import MOST_WORDS, context_words, explain_usages, replaced, swap_words, without
from ctxembed.text import parse_usage, word_forms
from ctxembed.types import Usage, Vectors

RIVER, MONEY = parse_usage("the [bank] of the river"), parse_usage("the [bank] lent money")
WEIGHTS = {"river": (1.0, 0.0), "money": (0.0, 1.0), "lent": (0.0, 0.5)}


class TopicEncoder:
    """Adds up what a few words say about the topic, and remembers how often it was called."""

    name, dimension, fingerprint = "topic", 3, "topic"

    def __init__(self) -> None:
        self.calls = 0

    def encode_usages(self, usages: Sequence[Usage], *, layer: int | None = None) -> Vectors:
        self.calls += 1
        rows = [np.sum([(*WEIGHTS.get(form, (0.0, 0.0)), 0.0) for form in word_forms(u.text)], axis=0) for u in usages]
        vectors = np.array(rows, dtype=np.float32) + np.array([0, 0, 1], dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_the_word_that_decides_comes_first_and_words_that_do_nothing_last() -> None:
    river, money = explain_usages([RIVER, MONEY], encoder=TopicEncoder())
    assert [each.word for each in river] == ["river", "the", "of", "the"]  # equals in reading order
    assert [each.move for each in river] == pytest.approx([1 - 0.5**0.5, 0, 0, 0], abs=1e-6)
    assert [each.word for each in money] == ["money", "lent", "the"]


def test_sign_says_whether_a_word_pulls_towards_the_other_use() -> None:
    uses = [RIVER, parse_usage("river [bank] money")]
    _, both = explain_usages(uses, encoder=TopicEncoder())
    towards = {each.word: each.towards for each in both}
    assert towards["river"][0] > 0.1 > 0 > -0.1 > towards["money"][0]
    assert towards["river"][1] is None


@pytest.mark.parametrize("how", ["delete", "mask"])
def test_effect_is_that_of_encoding_the_changed_texts_one_by_one(tiny_model: Path, how: str) -> None:
    encoder = Embedder.load(tiny_model, dtype="float32")
    found = explain_usages([RIVER, MONEY], encoder=encoder, how=how)  # type: ignore[arg-type]
    original = encoder.encode_usages([RIVER, MONEY])
    texts = {
        ("delete", "river"): "the [bank] of the",
        ("delete", "of"): "the [bank] the river",
        ("mask", "river"): "the [bank] of the _",
        ("mask", "of"): "the [bank] _ the river",
    }
    checked = 0
    for each in found[0]:
        if text := texts.get((how, each.word)):
            (vector,) = encoder.encode_usages([parse_usage(text)])
            assert each.move == pytest.approx(1 - float(vector @ original[0]), abs=1e-5)
            pull = float(original[0] @ original[1] - vector @ original[1])
            assert each.towards == (None, pytest.approx(pull, abs=1e-5))
            checked += 1
    assert checked == 2


def test_all_variants_of_all_uses_are_encoded_in_one_call() -> None:
    encoder = TopicEncoder()
    explain_usages([RIVER, MONEY, RIVER], encoder=encoder)
    assert encoder.calls == 1
    swap_words([RIVER, MONEY], [("the", "a"), ("river", "loan")], encoder=encoder)
    assert encoder.calls == 2


@given(
    st.text(alphabet="ab '-[]\n中é_", max_size=30),
    st.integers(0, 29),
    st.integers(1, 6),
    st.sampled_from(["delete", "mask"]),
)
def test_the_word_in_question_is_never_touched(text: str, start: int, length: int, how: str) -> None:
    if start >= len(text):
        return
    usage = Usage(text, start, min(len(text), start + length))
    for span in context_words(usage):
        assert text[span.start : span.end] == span.text
        changed = without(usage, span, how=how)  # type: ignore[arg-type]
        assert changed.word == usage.word
        assert how == "mask" or len(changed.text) < len(text)


def test_word_that_stands_alone_has_no_context() -> None:
    assert explain_usages([parse_usage("[bank]")], encoder=TopicEncoder()) == [[]]


def test_of_a_long_context_the_nearest_words_are_tried() -> None:
    words = ["far"] * 300 + ["[bank]"] + ["near"] * 100
    tried = context_words(parse_usage(" ".join(words)))
    assert len(tried) == MOST_WORDS
    assert [span.text for span in tried].count("near") == 100
    assert [span.start for span in tried] == sorted(span.start for span in tried)


def test_long_text_is_cut_to_the_passage_around_the_word_and_places_stay_those_of_the_text() -> None:
    seen: list[str] = []

    class Watching(TopicEncoder):
        def encode_usages(self, usages: Sequence[Usage], *, layer: int | None = None) -> Vectors:
            seen.extend(usage.text for usage in usages)
            return super().encode_usages(usages, layer=layer)

    usage = parse_usage(" ".join(["far"] * 3000 + ["river", "[bank]"] + ["near"] * 40))
    (found,) = explain_usages([usage], encoder=Watching())
    assert len(found) == MOST_WORDS
    assert found[0].word == usage.text[found[0].start : found[0].end] == "river"
    assert {len(text.split()) for text in seen} == {MOST_WORDS, MOST_WORDS + 1}


def test_unknown_way_of_occlusion_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="how = 'blur': must be one of delete, mask"):
        explain_usages([RIVER], encoder=TopicEncoder(), how="blur")  # type: ignore[arg-type]


def test_swap_replaces_every_occurrence_but_the_word_itself() -> None:
    changed = replaced(parse_usage("A bank by the [bank], Bank of all."), "BANK", "shore")
    assert changed == parse_usage("A shore by the [bank], shore of all.")
    assert replaced(RIVER, "loan", "x") is None


def test_swap_measures_the_drift_and_where_it_goes() -> None:
    (swap,) = swap_words([RIVER, MONEY], [("river", "money")], encoder=TopicEncoder())
    assert (swap.use, swap.usage) == (0, parse_usage("the [bank] of the money"))
    assert swap.drift == pytest.approx(0.5)  # from (1, 0, 1) to (0, 1, 1)
    assert swap.before[0] == pytest.approx(1)
    assert swap.after[1] > swap.before[1] + 0.3


def test_swap_of_a_word_that_is_in_no_context_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="the word 'bank' stands in no context"):
        swap_words([RIVER], [("bank", "shore")], encoder=TopicEncoder())
    with pytest.raises(InvalidInputError, match="'river' is to be replaced by nothing"):
        swap_words([RIVER], [("river", " ")], encoder=TopicEncoder())

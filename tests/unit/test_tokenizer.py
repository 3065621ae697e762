from __future__ import annotations

import unicodedata
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ctxembed.text import word_spans
from ctxembed.tokenizer import SPECIAL_TOKENS, SubwordTokenizer, TokenizerConfig, token_ranges

from .tokenizer_texts import any_text, every_kind, foldings, latin_text, pieces, trained

# Where tokens stand


@every_kind
@settings(deadline=None, max_examples=60)
@given(text=any_text, folding=foldings)
def test_offsets_lie_in_the_text_and_ascend(kind: str, text: str, folding: dict[str, Any]) -> None:
    batch = trained(kind, **folding).encode_batch([text])
    starts, ends = batch.offsets[0].T
    assert len(starts) == len(batch.ids[0])
    assert ((starts >= 0) & (starts <= ends) & (ends <= len(text))).all()
    assert (np.diff(starts) >= 0).all()
    assert (np.diff(ends) >= 0).all()


@every_kind
@settings(deadline=None, max_examples=60)
@given(text=any_text, folding=foldings)
def test_tokens_of_a_word_cover_it(kind: str, text: str, folding: dict[str, Any]) -> None:
    offsets = trained(kind, **folding).encode_batch([text]).offsets[0]
    words = word_spans(text)
    first, last = token_ranges(offsets, [word.start for word in words], [word.end for word in words])
    for word, start, stop in zip(words, first, last, strict=True):
        assert start < stop
        covered = {position for a, b in offsets[start:stop].tolist() for position in range(a, b)}
        left_out = set(range(word.start, word.end)) - covered
        # A combining mark has no place of its own once it is composed with its letter, or stripped.
        assert all(unicodedata.category(text[position])[0] == "M" for position in left_out)


@settings(deadline=None)
@given(text=latin_text, lowercase=st.booleans(), strip_accents=st.booleans())
def test_known_pieces_are_what_stands_there_in_latin_text(text: str, lowercase: bool, strip_accents: bool) -> None:
    tokenizer = trained(lowercase=lowercase, strip_accents=strip_accents)
    batch = tokenizer.encode_batch([text])
    assert batch.ids[0].size or not text.strip()
    for token_id, (start, end) in zip(batch.ids[0].tolist(), batch.offsets[0].tolist(), strict=True):
        standing = unicodedata.normalize("NFC", text[start : end + (text[end : end + 1] == "\u0301")])
        standing = standing.lower() if lowercase else standing
        if strip_accents:
            standing = "".join(c for c in unicodedata.normalize("NFD", standing) if unicodedata.category(c) != "Mn")
        assert tokenizer.token(token_id).removeprefix("##") == standing


@every_kind
def test_surrogates_count_one_each(kind: str) -> None:
    text = "\ud83d\ude00 bank \ud83d bank"
    offsets = trained(kind).encode_batch([text]).offsets[0]
    first, last = token_ranges(offsets, [3, 10], [7, 14])
    assert [(offsets[a, 0], offsets[b - 1, 1]) for a, b in zip(first, last, strict=True)] == [(3, 7), (10, 14)]


@pytest.mark.parametrize("space", ["\n", "\t", "\u3000", " \n "])
def test_all_white_space_parts_words_alike_for_unigram(space: str) -> None:
    assert pieces(trained("unigram"), f"bank{space}the{space}") == pieces(trained("unigram"), "bank the")


offset_pairs = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=12).map(
    lambda steps: np.cumsum(np.array(steps, dtype=np.int32).reshape(-1, 2), axis=0)
)


@settings(deadline=None)
@given(offset_pairs, st.integers(0, 30), st.integers(1, 8))
def test_token_ranges_are_the_tokens_that_overlap(pairs: Any, start: int, length: int) -> None:
    offsets = np.sort(pairs, axis=1).astype(np.int32)
    first, last = token_ranges(offsets, [start], [start + length])
    overlapping = [row for row, (a, b) in enumerate(offsets.tolist()) if a < start + length and b > start]
    assert list(range(first[0], last[0])) == overlapping


def test_token_ranges_of_no_tokens_and_of_no_stretches_are_empty() -> None:
    first, last = token_ranges(np.empty((0, 2), dtype=np.int32), [0, 5], [3, 9])
    assert first.tolist() == last.tolist() == [0, 0]
    first, last = token_ranges(np.array([[0, 3]], dtype=np.int32), [], [])
    assert first.shape == last.shape == (0,)


# Which tokens a text has


@every_kind
@settings(deadline=None, max_examples=60)
@given(texts=st.lists(any_text, max_size=4))
def test_ids_are_the_same_with_and_without_offsets(kind: str, texts: list[str]) -> None:
    ids, batch = trained(kind).encode_ids(texts), trained(kind).encode_batch(texts)
    assert [each.tolist() for each in ids] == [each.tolist() for each in batch.ids]
    assert len(ids) == len(batch.offsets) == len(texts)


@every_kind
def test_empty_text_has_no_tokens_and_arrays_keep_their_shape_and_type(kind: str) -> None:
    batch = trained(kind).encode_batch(["", "bank"])
    assert batch.ids[0].shape == (0,)
    assert batch.offsets[0].shape == (0, 2)
    assert {array.dtype for array in (*batch.ids, *batch.offsets, *trained(kind).encode_ids(["bank", ""]))} == {
        np.dtype(np.int32)
    }
    assert trained(kind).encode_ids([]) == []


@pytest.mark.parametrize(
    "settings, text, expected",
    [
        ({}, "Bank BANK", ["bank", "bank"]),
        ({"strip_accents": True}, "Café cafe\u0301", ["cafe", "cafe"]),
        ({"unicode_form": "nfkc"}, "ｂａｎｋ", ["bank"]),
        ({"unicode_form": "nfc"}, "ｂａｎｋ", ["[UNK]"]),
        ({}, "cafe\u0301", ["café"]),
        ({"unicode_form": "none", "lowercase": False}, "e\u0301", ["[UNK]"]),
    ],
)
def test_folding_decides_what_is_the_same_word(settings: dict[str, Any], text: str, expected: list[str]) -> None:
    assert pieces(trained(**settings), text) == expected


def test_case_is_kept_when_asked() -> None:
    tokenizer = trained(lowercase=False)
    assert pieces(tokenizer, "The the") == ["The", "the"]


@settings(deadline=None)
@given(latin_text)
def test_word_of_known_characters_is_never_unknown(text: str) -> None:
    assert "[UNK]" not in pieces(trained(), text)


def test_word_of_unknown_characters_is_one_unknown_token_for_wordpiece() -> None:
    assert pieces(trained(), "the ᚠᚢᚦ bank") == ["the", "[UNK]", "bank"]


def test_bytes_know_every_character() -> None:
    assert "[UNK]" not in pieces(trained("bpe"), "ᚠᚢᚦ \x00 \U0010ffff")


@every_kind
def test_special_tokens_have_the_first_ids(kind: str) -> None:
    tokenizer = trained(kind)
    ids = [tokenizer.pad_id, tokenizer.unknown_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id]
    assert ids == [0, 1, 2, 3, 4]
    assert [tokenizer.token(token_id) for token_id in ids] == list(SPECIAL_TOKENS)


@every_kind
def test_vocabulary_names_every_id_once(kind: str) -> None:
    tokenizer = trained(kind)
    vocabulary = tokenizer.vocabulary()
    assert sorted(vocabulary.values()) == list(range(len(tokenizer)))
    assert all(tokenizer.token(token_id) == piece for piece, token_id in vocabulary.items())


# Words and text from tokens


def words_of(tokenizer: SubwordTokenizer, text: str) -> list[list[str]]:
    """The tokens of a text, split where a token begins a word."""
    starts, words = tokenizer.word_starts(), []
    for token_id in tokenizer.encode_ids([text])[0].tolist():
        if starts[token_id] or not words:
            words.append([])
        words[-1].append(tokenizer.token(token_id))
    return words


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("wordpiece", ["bankers", "lent", "3", "cafés", ".", "to", "millers", "'", "s"]),
        ("bpe", [" bankers", " lent", " 3", " cafés.", " to", " millers's"]),
        ("unigram", [" bankers", " lent", " 3", " cafés.", " to", " millers's"]),
    ],
)
def test_word_starts_part_a_text_into_its_words(kind: str, wanted: list[str]) -> None:
    words = words_of(trained(kind, vocab_size=460), "Bankers lent 3 cafés. To millers's")
    written = ["".join(piece.removeprefix("##") for piece in word) for word in words]
    assert [word.replace("Ġ", " ").replace("▁", " ").replace("Ã©", "é") for word in written] == wanted
    assert max(map(len, words)) > 1  # some words are several tokens


@every_kind
def test_word_starts_are_one_for_each_token_and_special_ones_begin_a_word(kind: str) -> None:
    tokenizer = trained(kind)
    starts = tokenizer.word_starts()
    assert (starts.shape, starts.dtype) == ((len(tokenizer),), np.bool_)
    assert starts[: len(SPECIAL_TOKENS)].all()
    assert 0 < starts.sum() < len(tokenizer)


def test_line_breaks_and_tabs_begin_a_word_where_tokens_are_bytes() -> None:
    starts = trained("bpe").word_starts()
    vocabulary = trained("bpe").vocabulary()
    assert [bool(starts[vocabulary[piece]]) for piece in ("Ġ", "Ċ", "ĉ", "é")] == [True, True, True, False]


def test_a_letter_that_looks_like_the_marker_of_another_kind_is_a_letter() -> None:
    tokenizer = SubwordTokenizer.train(["aĠa Ġa"] * 9, config=TokenizerConfig(kind="unigram", lowercase=False))
    assert not tokenizer.word_starts()[tokenizer.vocabulary()["Ġ"]]


@pytest.mark.parametrize(
    ("kind", "written"),
    [
        ("wordpiece", 'the (naïve) bank, it\'s the re - entered mill. " the "'),
        ("bpe", 'the (naïve) bank, it\'s the re-entered mill. "the"'),
        ("unigram", 'the (naïve) bank, it\'s the re-entered mill. "the"'),
    ],
)
def test_decoding_writes_words_with_spaces_and_without_special_tokens(kind: str, written: str) -> None:
    tokenizer = trained(kind)
    ids = tokenizer.encode_ids(['The (naïve) bank, it\'s the re-entered mill. "the"'])[0].tolist()
    assert tokenizer.decode([tokenizer.cls_id, *ids, tokenizer.sep_id, tokenizer.pad_id]) == written
    assert tokenizer.decode([]) == ""


@every_kind
@settings(deadline=None, max_examples=100)
@given(text=latin_text)
def test_decoded_text_has_the_tokens_that_were_decoded(kind: str, text: str) -> None:
    tokenizer = trained(kind)
    [ids] = tokenizer.encode_ids([" ".join(text.split())])  # how much space there was is not written again
    assume(tokenizer.unknown_id not in ids)
    [again] = tokenizer.encode_ids([tokenizer.decode(ids.tolist())])
    assert again.tolist() == ids.tolist()


def test_an_unknown_token_is_written_as_such() -> None:
    tokenizer = trained("wordpiece")
    assert tokenizer.decode(tokenizer.encode_ids(["the 鱼 bank"])[0].tolist()) == "the [UNK] bank"

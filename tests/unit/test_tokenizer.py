from __future__ import annotations

import dataclasses
import functools
import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ctxembed.errors import ArtifactError, InvalidInputError, MissingInputError
from ctxembed.text import word_spans
from ctxembed.tokenizer import FILE_NAME, SPECIAL_TOKENS, SubwordTokenizer, TokenizerConfig, token_ranges

KINDS = ("wordpiece", "bpe", "unigram")
LATIN = [chr(code) for code in range(0x21, 0x180) if chr(code).isprintable() and chr(code) != "İ"]
CORPUS = [
    "The bank of the river was steep, and the bank lent money to the miller.",
    "A café, naïve and über: it's 3.5 % of the re-entered banks!",
    "Bankers were banking (rivers, mills and millers' money).",
    "日本の銀行 😀 emoji",
    " ".join(LATIN),
] * 3

# Text in which known words, spaces of all kinds and what Unicode normalisation moves about are frequent.
WORDS = [
    "bank",
    "Bankers",
    "the",
    "re-entered",
    "café",
    "e\u0301",
    "İ",
    "ﬁ",
    "[MASK]",
    "日本",
    "😀",
    "\ud83d\ude00",
    "\udc00",
]
any_text = st.lists(
    st.sampled_from([*WORDS, *" \n\t\u3000.,'’-(▁Ġ#"]) | st.text(st.characters(exclude_categories=[]), max_size=9),
    max_size=12,
).map("".join)
latin_text = st.lists(st.sampled_from([*LATIN, " ", "bank", "millers", "e\u0301"]), max_size=9).map("".join)
every_kind = pytest.mark.parametrize("kind", KINDS)
foldings = st.fixed_dictionaries(
    {
        "lowercase": st.booleans(),
        "strip_accents": st.booleans(),
        "unicode_form": st.sampled_from(["nfc", "nfkc", "none"]),
    }
)


@functools.cache
def trained(kind: str = "wordpiece", **settings: Any) -> SubwordTokenizer:
    config = TokenizerConfig(**{"kind": kind, "vocab_size": 6000, **settings})
    return SubwordTokenizer.train(CORPUS, config=config)


def pieces(tokenizer: SubwordTokenizer, text: str) -> list[str]:
    return [tokenizer.token(token_id) for token_id in tokenizer.encode_ids([text])[0].tolist()]


def edited(tokenizer: SubwordTokenizer, folder: Path, old: str, new: str) -> Path:
    """Save a tokenizer with something in its file replaced."""
    tokenizer.save(folder)
    file = folder / FILE_NAME
    content = file.read_text(encoding="utf-8")
    assert old in content
    file.write_text(content.replace(old, new), encoding="utf-8")
    return file


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


# Training


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_equal_texts_train_equal_tokenizers(kind: str) -> None:
    config = TokenizerConfig(kind=kind, vocab_size=700, min_frequency=1)  # type: ignore[arg-type]
    # Many equally frequent pieces, so that the vocabulary depends on how ties are broken.
    texts = [f"{left}{right}{left}" for left in "abcdefghij" for right in "klmnopqrst"]
    fingerprints = {SubwordTokenizer.train(texts, config=config).fingerprint for _ in range(4)}
    assert len(fingerprints) == 1


def test_equal_texts_train_an_equal_vocabulary_for_unigram() -> None:
    config = TokenizerConfig(kind="unigram", vocab_size=6000)
    assert set(SubwordTokenizer.train(CORPUS, config=config).vocabulary()) == set(trained("unigram").vocabulary())


@every_kind
def test_one_shot_stream_trains_like_a_list(kind: str) -> None:
    streamed = SubwordTokenizer.train(iter(CORPUS), config=TokenizerConfig(kind=kind, vocab_size=6000))  # type: ignore[arg-type]
    assert set(streamed.vocabulary()) == set(trained(kind).vocabulary())


@pytest.mark.parametrize("kind, size", [("wordpiece", 230), ("bpe", 300), ("unigram", 232)])
def test_vocabulary_has_the_size_asked_for_or_what_there_is(kind: str, size: int) -> None:
    assert len(trained(kind, vocab_size=size)) == size
    assert size < len(trained(kind)) < 1000


def test_rarer_pieces_than_min_frequency_are_not_learned() -> None:
    assert "steep" in trained(min_frequency=3).vocabulary()
    assert "steep" not in trained(min_frequency=4).vocabulary()


@pytest.mark.parametrize("vocab_size, number", [(300, 100), (3200, 200), (20_000, 1000)])
def test_the_most_frequent_characters_are_known(vocab_size: int, number: int) -> None:
    characters = [chr(0x4E00 + number) for number in range(1100)]
    texts = [" ".join(characters), characters[1099]]
    tokenizer = SubwordTokenizer.train(texts, config=TokenizerConfig(vocab_size=vocab_size))
    known = {piece for piece in tokenizer.vocabulary() if len(piece) == 1}
    assert known == {characters[1099], *characters[: number - 1]}


@pytest.mark.parametrize("kind, size, least", [("wordpiece", 5, 6), ("bpe", 260, 261), ("unigram", 0, 6)])
def test_vocabulary_too_small_for_any_text_is_refused(kind: str, size: int, least: int) -> None:
    with pytest.raises(InvalidInputError, match=rf"vocab_size = {size}: a {kind} tokenizer needs at least {least}"):
        TokenizerConfig(kind=kind, vocab_size=size)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_vocabulary_too_small_for_the_characters_is_refused(kind: str) -> None:
    with pytest.raises(InvalidInputError, match=r"vocab_size = 20 has no room for the characters .* \(.+\): raise it"):
        SubwordTokenizer.train(CORPUS, config=TokenizerConfig(kind=kind, vocab_size=20))  # type: ignore[arg-type]


@pytest.mark.parametrize("setting, known", [("kind", "wordpiece, bpe, unigram"), ("unicode_form", "nfc, nfkc, none")])
def test_unknown_word_for_a_setting_is_refused_with_the_known_ones(setting: str, known: str) -> None:
    with pytest.raises(InvalidInputError, match=rf"TokenizerConfig.{setting} = 'odd': must be one of {known}"):
        TokenizerConfig(**{setting: "odd"})  # type: ignore[arg-type]


@every_kind
@pytest.mark.parametrize("texts", [[], ["", " \n"], ["... !?", "😀"]])
def test_corpus_without_a_word_is_refused(kind: str, texts: list[str]) -> None:
    with pytest.raises(InvalidInputError, match="the corpus holds no word to train on: check the input"):
        SubwordTokenizer.train(texts, config=TokenizerConfig(kind=kind))  # type: ignore[arg-type]


# Files


@every_kind
def test_saved_tokenizer_comes_back_the_same(tmp_path: Path, kind: str) -> None:
    trained(kind).save(tmp_path / "new")
    texts = ["The café by the bank, 日本 😀", ""]
    for path in (tmp_path / "new", tmp_path / "new" / FILE_NAME, str(tmp_path / "new")):
        loaded = SubwordTokenizer.load(path)
        assert loaded.fingerprint == trained(kind).fingerprint
        assert [ids.tolist() for ids in loaded.encode_ids(texts)] == [
            ids.tolist() for ids in trained(kind).encode_ids(texts)
        ]
        assert loaded.encode_batch(texts).offsets[0].tolist() == trained(kind).encode_batch(texts).offsets[0].tolist()


def test_fingerprints_of_different_tokenizers_differ() -> None:
    tokenizers = [trained(), trained("bpe"), trained("unigram"), trained(lowercase=False), trained(vocab_size=300)]
    assert len({tokenizer.fingerprint for tokenizer in tokenizers}) == len(tokenizers)


def test_padding_and_truncation_that_a_file_asks_for_are_off(tmp_path: Path) -> None:
    trained().save(tmp_path)
    state = json.loads((tmp_path / FILE_NAME).read_text(encoding="utf-8"))
    state["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    state["padding"] = {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None}
    state["padding"] |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}
    (tmp_path / FILE_NAME).write_text(json.dumps(state), encoding="utf-8")
    loaded = SubwordTokenizer.load(tmp_path)
    assert pieces(loaded, "the bank of the river") == ["the", "bank", "of", "the", "river"]
    assert loaded.fingerprint == trained().fingerprint


@pytest.mark.parametrize("file", ["nowhere", FILE_NAME])
def test_missing_file_is_an_error(tmp_path: Path, file: str) -> None:
    with pytest.raises(MissingInputError, match=f"{file} does not exist"):
        SubwordTokenizer.load(tmp_path / file if file == "nowhere" else tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-20],
        lambda data: b"\xff\xfe" + data,
        lambda data: b"{}",
        lambda data: data.replace(b'"WordPiece"', b'"SomethingElse"'),
        lambda data: data.replace(b'"vocab"', b'"words"'),
    ],
)
def test_damaged_file_is_an_error_naming_it(tmp_path: Path, damage: Any) -> None:
    trained().save(tmp_path)
    file = tmp_path / FILE_NAME
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ArtifactError, match=r"tokenizer\.json is no tokenizer that can be used \(.+\): train it again"):
        SubwordTokenizer.load(tmp_path)


def test_missing_special_token_is_an_error_naming_it(tmp_path: Path) -> None:
    file = edited(trained(), tmp_path, "[MASK]", "[HIDE]")
    with pytest.raises(ArtifactError, match=r"the tokenizer has no \[MASK\] token \(nor <mask>\)"):
        SubwordTokenizer.load(file)


@pytest.mark.parametrize("name, other", [("[PAD]", "<pad>"), ("[CLS]", "<s>"), ("[SEP]", "</s>"), ("[MASK]", "<mask>")])
def test_special_tokens_are_known_by_their_other_names(tmp_path: Path, name: str, other: str) -> None:
    loaded = SubwordTokenizer.load(edited(trained(), tmp_path, name, other))
    assert loaded.token(SPECIAL_TOKENS.index(name)) == other
    assert (loaded.pad_id, loaded.cls_id, loaded.sep_id, loaded.mask_id) == (0, 2, 3, 4)


# The report


@pytest.fixture
def small_tokenizer() -> SubwordTokenizer:
    """Nine tokens that can be counted by hand."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {name: number for number, name in enumerate([*SPECIAL_TOKENS, "the", "bank", "##s", "."])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return SubwordTokenizer(tokenizer)


def test_report_counts_what_can_be_counted_by_hand(small_tokenizer: SubwordTokenizer) -> None:
    # the | bank ##s | .    bank | [UNK] | .     4 words of 5 tokens, 2 of them one known token; 7 tokens in all.
    report = small_tokenizer.report(["the banks.", "", "bank zz ."])
    assert dataclasses.asdict(report) == {
        "vocab_size": 9,
        "documents": 3,
        "words": 4,
        "tokens": 7,
        "fertility": 5 / 4,
        "whole_words": 2 / 4,
        "unknown_tokens": 1 / 7,
        "vocabulary_used": 5 / 9,
        "longest_pieces": ("bank", "##s", "the", "."),
    }


@pytest.mark.parametrize("texts", [[], ["", "\n"]])
def test_report_of_a_corpus_without_words_is_all_zero(small_tokenizer: SubwordTokenizer, texts: list[str]) -> None:
    report = small_tokenizer.report(texts)
    assert (report.documents, report.words, report.tokens) == (len(texts), 0, 0)
    assert (report.fertility, report.whole_words, report.unknown_tokens, report.vocabulary_used) == (0, 0, 0, 0)
    assert report.longest_pieces == ()


def test_report_reads_a_long_stream_in_one_pass(small_tokenizer: SubwordTokenizer) -> None:
    report = small_tokenizer.report("the banks" for _ in range(1025))
    assert (report.documents, report.words, report.tokens) == (1025, 2050, 3075)


def test_report_names_the_twenty_longest_pieces() -> None:
    report = trained().report(CORPUS)
    assert len(report.longest_pieces) == 20
    assert list(report.longest_pieces) == sorted(report.longest_pieces, key=lambda piece: (-len(piece), piece))


@pytest.mark.parametrize("name", SPECIAL_TOKENS)
def test_a_special_token_written_in_a_text_is_ordinary_text(small_tokenizer: SubwordTokenizer, name: str) -> None:
    ids = small_tokenizer.encode_ids([f"the {name} bank"])[0].tolist()
    special = {small_tokenizer.pad_id, small_tokenizer.cls_id, small_tokenizer.sep_id, small_tokenizer.mask_id}
    assert not special & set(ids)
    assert [small_tokenizer.token(i) for i in (ids[0], ids[-1])] == ["the", "bank"]


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

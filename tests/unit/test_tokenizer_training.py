from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from ctxembed.errors import ArtifactError, InvalidInputError, MissingInputError
from ctxembed.tokenizer import FILE_NAME, SPECIAL_TOKENS, SubwordTokenizer, TokenizerConfig

from .tokenizer_texts import CORPUS, edited, every_kind, pieces, trained

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

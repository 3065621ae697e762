"""The formats of benchmark files: which is recognised as what."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from ctxembed.errors import InvalidInputError
from ctxembed.evaluation.datasets import (
    frequency_halves,
    halves_of_uses,
    load_suite,
)
from ctxembed.evaluation.records import (
    BenchmarkSet,
    GradedSet,
    Kind,
    SenseSet,
    SenseUse,
    TextSet,
    UsageSet,
)
from ctxembed.types import Usage

from .benchmark_files import usage_row, write

TWO_WORDS = {
    "word1": "bank",
    "sentence1": "the bank paid",
    "start1": 4,
    "end1": 8,
    "word2": "shore",
    "sentence2": "the shore",
    "start2": 4,
    "end2": 9,
    "score": 2.5,
}
DEFINITION = {"word": "bank", "sentence": "the bank", "start": 4, "end": 8, "definition": "a shore", "label": 0}
USE = {"lemma": "bank", "sentence": "the bank", "start": 4, "end": 8, "sense": "shore"}
SEMCOR = {
    "id": "doc.s1",
    "sentence": "the bank paid",
    "instances": [
        {"lemma": "bank", "pos": "NOUN", "start": 4, "end": 8, "senses": ["b1", "b2"]},
        {"lemma": "pay", "start": 9, "end": 13, "senses": ["p1"]},
    ],
}


def only_set(kind: Kind, directory: Path, rows: Iterable[Any]) -> BenchmarkSet:
    """Write one file and return the one set that it is."""
    write(directory / "mine.jsonl", rows)
    [data] = load_suite(kind, directory).sets
    return data


@pytest.mark.parametrize(
    ("row", "word", "pair"),
    [
        ({k: v for k, v in usage_row().items() if k != "label"} | {"score": 2.5}, "bank", None),
        (TWO_WORDS, "bank shore", None),
        (TWO_WORDS | {"pair": "bank~shore"}, "bank shore", "bank~shore"),
    ],
)
def test_graded_pairs_of_one_word_or_of_two_are_recognised(
    tmp_path: Path, row: dict[str, Any], word: str, pair: str | None
) -> None:
    data = only_set("words", tmp_path, [row])
    assert isinstance(data, GradedSet)
    assert (data.split, data.pairs[0].word, data.pairs[0].score, data.pairs[0].pair) == ("all", word, 2.5, pair)
    assert data.pairs[0].first.word == "bank"


def test_use_beside_a_definition_is_a_pair_of_usages(tmp_path: Path) -> None:
    data = only_set("words", tmp_path, [DEFINITION, DEFINITION | {"word": "seal"}])
    assert isinstance(data, UsageSet)
    assert data.pairs[0].second == Usage("a shore", 0, 7)


def test_word_pairs_without_context_are_recognised(tmp_path: Path) -> None:
    data = only_set("similarity", tmp_path, [{"word1": "sea", "word2": "ice cream", "score": 3}])
    assert isinstance(data, GradedSet)
    assert (data.pairs[0].first, data.pairs[0].second) == (Usage("sea", 0, 3), Usage("ice cream", 0, 9))


def test_sentences_with_labels_are_measured_by_average_precision(tmp_path: Path) -> None:
    data = only_set("sentences", tmp_path, [{"sentence1": "a", "sentence2": "b", "label": 1}])
    assert isinstance(data, TextSet)
    assert data.is_binary


def test_uses_with_senses_are_read_from_both_forms(tmp_path: Path) -> None:
    data = only_set("senses", tmp_path / "a", [USE, USE | {"sense": "money"}, USE, USE | {"sense": "money"}])
    assert isinstance(data, SenseSet)
    assert {use.id for use in (*data.uses, *data.known)} == {"1", "2", "3", "4"}
    sentences = [SEMCOR, SEMCOR | {"id": "other.s1"}]
    data = only_set("senses", tmp_path / "b", sentences)
    assert isinstance(data, SenseSet)
    assert {use.document for use in data.uses} != {use.document for use in data.known}
    assert next(use for use in data.uses if use.lemma == "bank").senses == {"b1", "b2"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (SEMCOR | {"instances": {}}, "'instances' is .*, need a list of objects"),
        (SEMCOR | {"instances": [{"lemma": "a", "start": 0, "end": 3}]}, "'senses' is None, need a list of strings"),
        (SEMCOR | {"instances": [{"lemma": "a", "start": 3, "end": 4, "senses": ["x"]}]}, "start 3 to end 4 mark"),
        (USE | {"start": 3}, "start 3 to end 8 mark ' bank'"),
    ],
)
def test_wrong_use_is_refused_with_file_and_line(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=rf"mine\.jsonl:1: {message}"):
        only_set("senses", tmp_path, [row])


def test_halves_of_uses_have_every_sense_and_share_no_document() -> None:
    usage = Usage("w", 0, 1)
    senses = ["a", "b"] * 6
    uses = [SenseUse(str(n), "w", usage, frozenset([sense])) for n, sense in enumerate(senses)]
    for half in halves_of_uses(uses, seed=3):
        assert sorted(sense for use in half for sense in use.senses) == ["a", "a", "a", "b", "b", "b"]
    documents = [SenseUse(str(n), "w", usage, frozenset("a"), document=f"d{n // 3}") for n in range(12)]
    first, second = halves_of_uses(documents, seed=3)
    assert len({use.document for use in first}) == len({use.document for use in second}) == 2
    assert not {use.document for use in first} & {use.document for use in second}


def test_halves_of_one_document_are_refused() -> None:
    use = SenseUse("1", "w", Usage("w", 0, 1), frozenset("a"), document="d")
    with pytest.raises(InvalidInputError, match="of one document and cannot be halved"):
        halves_of_uses([use], seed=1)


def test_shipped_senses_are_the_uses_of_the_benchmark() -> None:
    [data] = load_suite("senses").sets
    assert isinstance(data, SenseSet)
    assert len(data.uses) + len(data.known) == 72 * 14


def test_shipped_word_pairs_do_not_exist_and_the_message_says_the_way_out() -> None:
    with pytest.raises(InvalidInputError, match=r"no set of word pairs ships .* --data"):
        load_suite("similarity")


def test_pairs_are_parted_by_their_rarest_word(tmp_path: Path) -> None:
    pairs = [("the", "sea"), ("sea", "of"), ("the", "of"), ("of", "kraken")]
    rows = [{"word1": first, "word2": second, "score": 1} for first, second in pairs]
    write(tmp_path / "pairs.jsonl", rows)
    rarer, commoner = frequency_halves(load_suite("similarity", tmp_path), {"the": 9, "of": 8, "sea": 2}).sets
    assert isinstance(rarer, GradedSet)
    assert isinstance(commoner, GradedSet)
    assert (rarer.name, [pair.word for pair in rarer.pairs]) == ("pairs, rarer half", ["the sea", "of kraken"])
    assert (commoner.name, [pair.word for pair in commoner.pairs]) == ("pairs, commoner half", ["sea of", "the of"])

"""Benchmark sets: splits, thresholds, discovery and halves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxembed.errors import InvalidInputError
from ctxembed.evaluation.datasets import (
    load_suite,
    word_disjoint_halves,
)
from ctxembed.evaluation.records import (
    RetrievalSet,
    TextSet,
    UsagePair,
    UsageSet,
)
from ctxembed.types import Usage

from .benchmark_files import TEXT_ROW, usage_row, write, write_retrieval


def usage_set(directory: Path, **options: Any) -> UsageSet:
    """Return the one words task of a folder."""
    [data] = load_suite("words", directory, **options).sets
    assert isinstance(data, UsageSet)
    return data


@pytest.mark.parametrize(
    ("files", "scored", "tuned"),
    [
        (["dev", "train"], "dev", "train"),
        (["dev", "test"], "test", "dev"),
        (["dev", "test", "train"], "test", "train"),
    ],
)
def test_words_take_the_threshold_from_another_split(tmp_path: Path, files: list[str], scored: str, tuned: str) -> None:
    for name in files:
        write(tmp_path / "wic" / f"{name}.jsonl", [usage_row(name)])
    data = usage_set(tmp_path)
    assert (data.name, data.split, data.threshold_from) == ("wic", scored, tuned)
    assert [data.pairs[0].word, data.threshold_pairs[0].word] == [scored, tuned]
    assert [path.name for path in data.files] == [f"{scored}.jsonl", f"{tuned}.jsonl"]


def test_words_take_the_threshold_from_half_the_words_where_there_is_one_split(tmp_path: Path) -> None:
    rows = [usage_row(f"word{number // 2}", number=number) for number in range(12)]
    data = usage_set(write(tmp_path / "wic" / "dev.jsonl", rows).parent)
    assert (data.name, data.split, data.threshold_from) == ("wic", "dev, half 2", "dev, half 1")
    assert len(data.pairs) == len(data.threshold_pairs) == 6
    assert not {pair.word for pair in data.pairs} & {pair.word for pair in data.threshold_pairs}


def test_words_of_a_single_word_without_train_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "dev.jsonl", [usage_row(), usage_row("Bank", number=1)])
    with pytest.raises(InvalidInputError, match="of 1 word and cannot be dealt into halves"):
        load_suite("words", tmp_path)


def test_one_file_is_a_task_by_its_own_name(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.jsonl", [usage_row("bank"), usage_row("seal")])
    data = usage_set(path)
    assert (data.name, data.split) == ("mine", "all, half 2")


def test_suite_names_tasks_by_folder_and_file(tmp_path: Path) -> None:
    write(tmp_path / "stsb" / "dev.jsonl.gz", [TEXT_ROW])
    write(tmp_path / "other" / "mine.jsonl", [TEXT_ROW])
    write(tmp_path / ".hidden" / "dev.jsonl", [TEXT_ROW])
    suite = load_suite("sentences", tmp_path)
    assert [data.name for data in suite.sets] == ["other/mine", "stsb"]


def test_sentences_score_test_rather_than_dev(tmp_path: Path) -> None:
    for name in ("train", "dev", "test"):
        write(tmp_path / f"{name}.jsonl", [TEXT_ROW | {"sentence1": name}])
    [data] = load_suite("sentences", tmp_path).sets
    assert isinstance(data, TextSet)
    assert (data.name, data.split, data.pairs[0].first) == (tmp_path.name, "test", "test")


def test_suite_says_what_it_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "sts" / "dev.jsonl", [TEXT_ROW])
    write(tmp_path / "sts" / "train.jsonl", [{"sentence1": "a", "sentence2": "b", "label": 1}])
    write(tmp_path / "wic" / "dev.jsonl", [usage_row()])
    write(tmp_path / "find" / "queries.jsonl", [{"id": "q1", "text": "a"}])
    write(tmp_path / "empty.jsonl", [])
    assert load_suite("sentences", tmp_path).skipped == {
        "empty.jsonl": "no rows",
        "find/queries.jsonl": "rows without sentence1, sentence2, score",
        "sts/train.jsonl": "rows of another format than dev.jsonl",
        "wic/dev.jsonl": "rows without the form of sentences (they have start1)",
    }


def test_task_of_a_train_split_alone_is_scored_on_it(tmp_path: Path) -> None:
    write(tmp_path / "mrpc" / "train.jsonl", [{"sentence1": "a", "sentence2": "b", "label": 1}])
    [data] = load_suite("sentences", tmp_path).sets
    assert isinstance(data, TextSet)
    assert (data.name, data.split, data.is_binary) == ("mrpc", "train", True)


def test_later_row_without_a_key_is_an_error_not_a_skip(tmp_path: Path) -> None:
    write(tmp_path / "dev.jsonl", [TEXT_ROW, {"sentence1": "a", "sentence2": "b"}])
    with pytest.raises(InvalidInputError, match=r"dev\.jsonl:2: no 'score'"):
        load_suite("sentences", tmp_path)


@pytest.mark.parametrize("names", [("dev.jsonl", "dev.jsonl.gz"), ("a.jsonl", "a/dev.jsonl")])
def test_two_files_of_one_task_and_split_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        write(tmp_path / name, [TEXT_ROW])
    with pytest.raises(InvalidInputError, match="would both be the task"):
        load_suite("sentences", tmp_path)


def test_retrieval_finds_whole_folders_and_says_what_others_lack(tmp_path: Path) -> None:
    write_retrieval(tmp_path / "tides")
    write(tmp_path / "half" / "queries.jsonl", [{"id": "q1", "text": "a"}])
    suite = load_suite("retrieval", tmp_path)
    assert [data.name for data in suite.sets] == ["tides"]
    assert suite.skipped == {"half": "no corpus, qrels"}


@pytest.mark.parametrize("kind", ["words", "sentences", "retrieval"])
def test_folder_without_data_of_the_kind_is_refused(tmp_path: Path, kind: Any) -> None:
    with pytest.raises(InvalidInputError, match=rf"holds no data for {kind} \(no \.jsonl file at all\)"):
        load_suite(kind, tmp_path)


def test_file_of_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.touch()
    with pytest.raises(InvalidInputError, match=r"neither a folder nor a file in \.jsonl or \.jsonl\.gz"):
        load_suite("words", path)


def test_shipped_words_tune_on_dev_and_score_test() -> None:
    [data] = load_suite("words").sets
    assert isinstance(data, UsageSet)
    assert (data.name, data.split, data.threshold_from) == ("word_in_context", "test", "dev")
    assert not {pair.word for pair in data.pairs} & {pair.word for pair in data.threshold_pairs}


def test_shipped_retrieval_has_a_relevant_document_for_every_query() -> None:
    [data] = load_suite("retrieval").sets
    assert isinstance(data, RetrievalSet)
    assert data.queries
    assert len(data.judged_queries) == len(data.queries)


def test_shipped_sentences_do_not_exist_and_the_message_says_the_way_out() -> None:
    with pytest.raises(InvalidInputError, match=r"no set of sentence pairs ships .* --data"):
        load_suite("sentences")


@given(words=st.lists(st.text("abcé", min_size=1, max_size=3), min_size=2, max_size=40), seed=st.integers(0, 99))
def test_halves_share_no_word_and_lose_no_pair(words: list[str], seed: int) -> None:
    pairs = [
        UsagePair(str(number), word, Usage(word, 0, len(word)), Usage(word, 0, len(word)), True)
        for number, word in enumerate([*words, "x", "y"])
    ]
    first, second = word_disjoint_halves(pairs, seed=seed)
    assert first
    assert second
    assert not {pair.word for pair in first} & {pair.word for pair in second}
    assert sorted((*first, *second), key=lambda pair: int(pair.id)) == pairs


def test_halves_do_not_depend_on_the_order_of_the_pairs() -> None:
    usage = Usage("w", 0, 1)
    pairs = [UsagePair(str(number), f"w{number}", usage, usage, True) for number in range(9)]
    first, _ = word_disjoint_halves(pairs, seed=3)
    again, _ = word_disjoint_halves(pairs[::-1], seed=3)
    assert {pair.id for pair in first} == {pair.id for pair in again}

"""Benchmark data: rows, splits, discovery, and every refusal with its file and line."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxembed.errors import InvalidInputError, MissingInputError
from ctxembed.evaluation.datasets import (
    frequency_halves,
    halves_of_uses,
    load_retrieval,
    load_suite,
    load_usage_pairs,
    word_disjoint_halves,
)
from ctxembed.evaluation.formats import SCORED_TEXTS, load_records
from ctxembed.evaluation.records import (
    BenchmarkSet,
    GradedSet,
    Kind,
    RetrievalSet,
    SenseSet,
    SenseUse,
    TextPair,
    TextSet,
    UsagePair,
    UsageSet,
)
from ctxembed.types import Document, Usage


def write(path: Path, rows: Iterable[Any]) -> Path:
    """Write rows as JSON Lines, gzipped where the name says so."""
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def load_text_pairs(path: Path) -> list[TextPair]:
    """Read scored sentence pairs."""
    return load_records(path, SCORED_TEXTS)


def usage_row(word: str = "bank", /, *, number: int = 0, label: int = 1, **changes: Any) -> dict[str, Any]:
    """Return a row in the word-in-context format; a value of None drops the key."""
    row: dict[str, Any] = {"id": f"{word}.{number}", "word": word, "label": label}
    row |= {"sentence1": f"the {word} here", "start1": 4, "end1": 4 + len(word)}
    row |= {"sentence2": f"{word} é {number}", "start2": 0, "end2": len(word)}
    return {key: value for key, value in (row | changes).items() if value is not None}


TEXT_ROW = {"sentence1": "a cat", "sentence2": "a dog", "score": 2.5}


def write_retrieval(folder: Path, *, qrels: str = "q1\td1\t1\n", **changes: Any) -> dict[str, Path]:
    """Write a retrieval folder; changes replace the rows of corpus or queries."""
    parts: Mapping[str, Any] = {
        "corpus": [{"id": "d1", "title": "Tides", "text": "follow the moon"}, {"id": "d2", "text": "bread"}],
        "queries": [{"id": "q1", "text": "why tides"}, {"id": "q2", "text": "baking"}],
    } | changes
    paths = {name: write(folder / f"{name}.jsonl", rows) for name, rows in parts.items()}
    paths["qrels"] = folder / "qrels.tsv"
    paths["qrels"].write_text("query-id\tcorpus-id\tscore\n" + qrels, encoding="utf-8")
    return paths


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.jsonl.gz"])
def test_usage_pairs_are_read_from_plain_and_gzipped_files(tmp_path: Path, name: str) -> None:
    [pair] = load_usage_pairs(write(tmp_path / name, [usage_row()]))
    assert pair == UsagePair("bank.0", "bank", Usage("the bank here", 4, 8), Usage("bank é 0", 0, 4), True)


def test_usage_pair_without_an_id_gets_its_line(tmp_path: Path) -> None:
    pairs = load_usage_pairs(write(tmp_path / "pairs.jsonl", [usage_row(), usage_row(id=None)]))
    assert [pair.id for pair in pairs] == ["bank.0", "2"]


def test_text_pairs_take_whole_numbers_as_scores(tmp_path: Path) -> None:
    [pair] = load_text_pairs(write(tmp_path / "pairs.jsonl", [TEXT_ROW | {"score": 3}]))
    assert (pair.first, pair.second, pair.score) == ("a cat", "a dog", 3.0)


def test_byte_order_mark_is_no_part_of_the_first_row(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(TEXT_ROW).encode())
    assert len(load_text_pairs(path)) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"end1": 40}, r"start1 4 to end1 40 mark 'bank here' in 'the bank here', not a word"),
        ({"start1": -9}, "start1 -9 to end1 8 mark"),
        ({"start2": 4}, "start2 4 to end2 4 mark ''"),
        ({"start1": 3}, "mark ' bank'"),
        ({"sentence1": "the --?! here"}, "mark '--"),
        ({"start1": "4"}, "'start1' is '4', need a whole number"),
        ({"start1": True}, "'start1' is True, need a whole number"),
        ({"label": 2}, "'label' is 2, need 1 or 0"),
        ({"label": "T"}, "'label' is 'T', need 1 or 0"),
        ({"sentence2": None}, "no 'sentence2'"),
        ({"word": 7}, "'word' is 7, need a string"),
    ],
)
def test_wrong_usage_row_is_refused_with_file_and_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "pairs.jsonl", [usage_row(), usage_row(**changes)])
    with pytest.raises(InvalidInputError, match=rf"pairs\.jsonl:2: .*{message}"):
        load_usage_pairs(path)


def test_offsets_in_bytes_are_refused_where_they_leave_the_word(tmp_path: Path) -> None:
    row = usage_row(sentence1="é ü bank", start1=len("é ü ".encode()), end1=len("é ü bank".encode()))
    with pytest.raises(InvalidInputError, match="offsets count characters from 0"):
        load_usage_pairs(write(tmp_path / "pairs.jsonl", [row]))


@pytest.mark.parametrize("score", ["NaN", "Infinity", "null", '"3"', "true"])
def test_score_that_is_no_number_is_refused(tmp_path: Path, score: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"sentence1": "a", "sentence2": "b", "score": ' + score + "}\n", encoding="utf-8")
    with pytest.raises(InvalidInputError, match=r"pairs\.jsonl:1: 'score' is .*, need a finite number"):
        load_text_pairs(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"", "not JSON in UTF-8"),
        (b"{", "not JSON in UTF-8"),
        (b'{"sentence1": "caf\xe9"}', "not JSON in UTF-8 .*0xe9"),
        (b"[1]", "a JSON list, need one object a line"),
        (b'{"sentence1": "\\ud800", "sentence2": "b", "score": 1}', "need text without lone surrogates"),
    ],
)
def test_line_that_is_no_usable_object_is_refused(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(json.dumps(TEXT_ROW).encode() + b"\n" + line + b"\n")
    with pytest.raises(InvalidInputError, match=rf"pairs\.jsonl:2: .*{message}"):
        load_text_pairs(path)


def test_gzip_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.jsonl.gz", [TEXT_ROW] * 50)
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(InvalidInputError, match="damaged or cut short"):
        load_text_pairs(path)


def test_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="has no rows"):
        load_text_pairs(write(tmp_path / "pairs.jsonl", []))


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="does not exist"):
        load_text_pairs(tmp_path / "pairs.jsonl")


def test_retrieval_puts_the_title_before_the_text(tmp_path: Path) -> None:
    data = load_retrieval("tides", **write_retrieval(tmp_path))
    assert data.corpus == [Document("d1", "Tides follow the moon"), Document("d2", "bread")]
    assert data.judgements == {"q1": {"d1": 1}}


def test_retrieval_scores_only_queries_with_a_relevant_document(tmp_path: Path) -> None:
    data = load_retrieval("tides", **write_retrieval(tmp_path, qrels="q1\td1\t2\nq2\td1\t0\n"))
    assert [query.id for query in data.judged_queries] == ["q1"]


@pytest.mark.parametrize(
    ("qrels", "message"),
    [
        ("q1 d1 1\n", r"qrels\.tsv:2: 'q1 d1 1', need query-id, corpus-id and a score"),
        ("q1\td1\t-1\n", r"qrels\.tsv:2: .* a score of 0 or more"),
        ("q1\td1\t1\n\nq2\td1\t1\n", r"qrels\.tsv:3: ''"),
        ("q9\td1\t1\n", r"qrels\.tsv:2: the query 'q9' is judged but not there"),
        ("q1\td9\t1\n", r"qrels\.tsv:2: the document 'd9' is judged but not there"),
        ("q1\td1\t1\nq1\td1\t2\n", r"qrels\.tsv:3: 'q1' and 'd1' are judged twice"),
        ("q1\td1\t0\n", "names no relevant document"),
    ],
)
def test_wrong_judgements_are_refused(tmp_path: Path, qrels: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        load_retrieval("tides", **write_retrieval(tmp_path, qrels=qrels))


def test_judgements_without_their_header_are_refused(tmp_path: Path) -> None:
    paths = write_retrieval(tmp_path)
    paths["qrels"].write_text("q1\td1\t1\n", encoding="utf-8")
    with pytest.raises(InvalidInputError, match=r"qrels\.tsv:1: the header is 'q1"):
        load_retrieval("tides", **paths)


def test_document_id_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    paths = write_retrieval(tmp_path, corpus=[{"id": "d1", "text": "a"}, {"id": "d1", "text": "b"}])
    with pytest.raises(InvalidInputError, match=r"corpus\.jsonl: the id 'd1' occurs twice"):
        load_retrieval("tides", **paths)


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


# Formats


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

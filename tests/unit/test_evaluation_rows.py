"""Benchmark rows: how they are read, and every refusal with its file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ctxembed.errors import InvalidInputError, MissingInputError
from ctxembed.evaluation.datasets import (
    load_retrieval,
    load_usage_pairs,
)
from ctxembed.evaluation.formats import SCORED_TEXTS, load_records
from ctxembed.evaluation.records import (
    TextPair,
    UsagePair,
)
from ctxembed.types import Document, Usage

from .benchmark_files import TEXT_ROW, usage_row, write, write_retrieval


def load_text_pairs(path: Path) -> list[TextPair]:
    """Read scored sentence pairs."""
    return load_records(path, SCORED_TEXTS)


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

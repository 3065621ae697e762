"""Ways to search, as a user asks for them; what they find is tested in tests/unit/test_search_modes.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]

QUERY = "lost card"


def found(run: Run, *arguments: str | Path, code: int = 0) -> list[dict]:
    return run("search", *arguments, "--format", "json", code=code).json


def test_hybrid_search_under_a_condition_gives_json(run: Run, index: Path, model: Path) -> None:
    rows = found(run, index, "bank money", "--hybrid", "--where", "year >= 2020", "-m", model)
    assert {row["id"] for row in rows} == {"lost", "fee", "loan"}
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
    assert [set(row) for row in rows] == [{"id", "score", "text", "metadata", "cosine", "bm25"}] * 3
    assert {row["id"]: row["bm25"] is not None for row in rows} == {"lost": False, "fee": False, "loan": True}


def test_lexical_search_loads_no_model(run: Run, index: Path) -> None:
    outcome = run("search", index, "lost card", "--lexical", "--format", "json", "-m", "nowhere")
    assert [row["id"] for row in outcome.json] == ["lost"]
    assert outcome.stderr == ""


def test_every_option_of_ranking_goes_together(run: Run, index: Path, model: Path) -> None:
    options = ["--hybrid", "--rerank", "--fold", "1", "--diversity", "0.3", "--min-score", "-1"]
    rows = found(run, index, QUERY, "-k", "3", *options, "--explain", "-m", model)
    assert len(rows) == 3
    for row in rows:
        assert [answer["query"]["text"] for answer in row["answers"]] == ["lost", "card"]
        for answer in row["answers"]:
            hit = answer["hit"]
            assert row["text"][hit["start"] : hit["end"]] == hit["text"]
        assert row["duplicates"] == []


def test_percentiles_are_shown_where_they_are_a_threshold(run: Run, index: Path, model: Path) -> None:
    rows = found(run, index, "The bank lent money to the farmer.", "--min-percentile", "90", "-m", model)
    assert rows[0]["id"] == "loan"
    assert all(row["percentile"] >= 90 for row in rows)


def test_explanation_is_told_in_a_table(run: Run, index: Path, model: Path) -> None:
    outcome = run("search", index, QUERY, "-k", "1", "--explain", "-m", model)
    assert outcome.stdout.splitlines()[0].split()[-1] == "answers"
    assert "card=" in outcome.stdout


def test_depth_of_reranking_and_folding_may_be_said(run: Run, index: Path, model: Path) -> None:
    rows = found(run, index, QUERY, "--rerank", "2", "--fold", "0.5", "-k", "2", "-m", model)
    assert 1 <= len(rows) <= 2


def test_rows_like_a_row_need_no_model(run: Run, index: Path) -> None:
    rows = found(run, index, "--like", "loan", "-k", "9", "-m", "nowhere")
    assert {row["id"] for row in rows} == {"lost", "fee", "river", "plant", "light"}


def test_queries_of_a_file_are_answered_each_under_its_id(run: Run, index: Path, model: Path) -> None:
    Path("asked.jsonl").write_text('{"id": "a", "text": "lost card"}\n{"id": "b", "text": "river bank"}\n')
    rows = found(run, index, "--queries", "asked.jsonl", "-k", "2", "--hybrid", "-m", model)
    assert [row["query"] for row in rows] == ["a", "a", "b", "b"]
    single = found(run, index, "river bank", "-k", "2", "--hybrid", "-m", model)
    assert [row["id"] for row in rows[2:]] == [row["id"] for row in single]


def test_queries_come_on_stdin_and_empty_lines_are_counted(run: Run, index: Path, model: Path) -> None:
    outcome = run("search", index, "--queries", "-", "-k", "1", "--format", "csv", "-m", model, input="card\n\nbank\n")
    assert [line.split(",")[0] for line in outcome.stdout.splitlines()] == ["query", "stdin:1", "stdin:3"]
    assert "1 empty" in outcome.stderr


MISTAKES = {
    "nothing asked": ([], 2, "give one of QUERY, --like ID and --queries FILE"),
    "two things asked": (["q", "--like", "loan"], 2, "give one of QUERY, --like ID and --queries FILE"),
    "empty query": ([" "], 1, "the query is empty"),
    "no condition": (["q", "--where", "year >"], 1, "the condition 'year >' cannot be read"),
    "unknown id": (["--like", "nobody"], 1, "no row has the id 'nobody'"),
    "threshold without cosines": (["q", "--lexical", "--min-score", "0.5"], 1, "a threshold is on the cosine"),
    "diversity": (["q", "--diversity", "2"], 2, "2.0 is not in the range"),
}


@pytest.mark.parametrize(("arguments", "code", "message"), MISTAKES.values(), ids=list(MISTAKES))
def test_mistakes_are_named(run: Run, index: Path, model: Path, arguments: list[str], code: int, message: str) -> None:
    outcome = run("search", index, *arguments, "-m", model, code=code)
    assert message in outcome.stderr
    assert outcome.stdout == ""


def test_file_without_queries_is_refused(run: Run, index: Path, model: Path) -> None:
    Path("asked.txt").write_text("\n")
    outcome = run("search", index, "--queries", "asked.txt", "-m", model, code=1)
    assert "asked.txt holds no query: write one a line" in outcome.stderr

"""``ctxembed index dedupe``, ``cluster`` and ``map``, on six rows and a copy."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


@pytest.fixture
def copied(run: Run, rows: Path, model: Path) -> Path:
    """The six rows, one of them twice."""
    text = json.loads(rows.read_text().splitlines()[0])["text"]
    with rows.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"id": "again", "text": text, "topic": "card", "year": 2023}) + "\n")
    run("index", "build", rows, "-o", "copied", "-m", model)
    return Path("copied")


def test_copies_are_listed_as_one_group(run: Run, copied: Path) -> None:
    outcome = run("index", "dedupe", copied, "--threshold", "1", "--format", "json")
    assert [(row["group"], row["id"], row["of"]) for row in outcome.json] == [(1, "lost", "lost"), (1, "again", "lost")]
    assert [row["cosine"] for row in outcome.json] == pytest.approx([1, 1], abs=1e-5)
    assert outcome.stderr == "1 groups of 2 rows; 1 rows could go\n"


def test_index_without_duplicates_has_no_groups(run: Run, index: Path) -> None:
    assert run("index", "dedupe", index, "--threshold", "1", "--format", "json").json == []


def test_topics_come_with_words_and_typical_rows(run: Run, index: Path) -> None:
    topics = run("index", "cluster", index, "--topics", "2", "--typical", "1", "--format", "json").json
    assert [set(topic) for topic in topics] == [{"topic", "rows", "words", "typical"}] * 2
    assert sum(topic["rows"] for topic in topics) == 6
    assert [len(topic["typical"]) for topic in topics] == [1, 1]
    assert all(topic["words"] for topic in topics)
    assert run("index", "cluster", index, "--topics", "2").stdout.split()[:4] == ["topic", "rows", "words", "typical"]


def test_every_row_can_be_printed_with_its_topic(run: Run, index: Path) -> None:
    rows = run("index", "cluster", index, "--topics", "2", "--rows", "--format", "json").json
    assert [row["id"] for row in rows] == ["lost", "fee", "river", "loan", "plant", "light"]
    assert {row["topic"] for row in rows} == {1, 2}


@pytest.mark.parametrize("colour", [[], ["--colour", "year"], ["--colour", "topic"]])
def test_map_is_one_page_with_every_text_and_no_request(run: Run, index: Path, colour: list[str]) -> None:
    outcome = run("index", "map", index, "--html", "map.html", *colour)
    page = Path("map.html").read_text(encoding="utf-8")
    assert "lost: My card got lost somewhere in town." in page
    assert len(re.findall("<title>[a-z]+: ", page)) == 6
    assert "default-src 'none'" in page
    assert re.search(r'(?:src|href)="(?!data:)', page) is None
    assert outcome.stderr.startswith("map.html: 6 of 6 rows, ")


def test_map_of_many_rows_shows_a_sample(run: Run, index: Path) -> None:
    outcome = run("index", "map", index, "--html", "map.html", "--rows", "3")
    assert "3 of 6 rows" in outcome.stderr
    assert len(re.findall("<title>[a-z]+: ", Path("map.html").read_text(encoding="utf-8"))) == 3


def test_unknown_colour_is_refused_with_those_that_are_there(run: Run, index: Path) -> None:
    outcome = run("index", "map", index, "--html", "map.html", "--colour", "source", code=1)
    assert outcome.stderr == "error: no row has a column 'source': the index has topic, year\n"
    assert not Path("map.html").exists()


def test_empty_index_has_no_topics_and_no_map(run: Run, model: Path) -> None:
    Path("rows.txt").touch()
    run("index", "build", "rows.txt", "-o", "idx", "-m", model)
    assert run("index", "cluster", "idx", "--format", "json").json == []
    assert run("index", "dedupe", "idx", "--format", "json").json == []
    assert "holds no rows" in run("index", "map", "idx", "--html", "map.html", code=1).stderr

"""`ctxembed shift`: two corpora, given uses, or one corpus by a column."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from ctxembed_cli.shift_sides import Sides

from ctxembed.meaning.occurrences import FoundUses

from .conftest import Run

NUMBERS = ["uses_old", "uses_new", "apd", "prt", "jsd", "p", "q", "low", "high"]


@pytest.fixture
def corpora(tmp_path: Path) -> tuple[Path, Path]:
    """The word attack moves from rivers to money; plane stays."""
    water, money = "The {} crossed the river {}.", "The {} lent the farmer money {}."
    old = [t.format("attack", n) for n in range(12) for t in (water,)]
    new = [money.format("attack", n) for n in range(12)]
    both = [t.format("plane", n) for n in range(8) for t in (water, money)]
    paths = tmp_path / "old.txt", tmp_path / "new.txt"
    for path, lines in zip(paths, (old, new), strict=True):
        path.write_text("\n".join(lines + both), encoding="utf-8")
    return paths


def test_shift_of_two_corpora_is_an_array_of_words(run: Run, corpora, model: Path) -> None:
    arguments = ("shift", "old.txt", "new.txt", "--words", "attack,plane", "--permutations", "99", "-m", model)
    attack, plane = run(*arguments, "--format", "json").json
    assert (attack["word"], attack["uses_old"], attack["uses_new"]) == ("attack", 12, 12)
    assert (plane["word"], plane["uses_old"], plane["uses_new"]) == ("plane", 16, 16)
    assert all(isinstance(row[name], int | float) for row in (attack, plane) for name in NUMBERS)
    assert attack["p"] == 0.01
    assert attack["low"] <= attack["apd"] <= attack["high"]
    assert attack["apd"] > plane["apd"]
    assert plane["p"] > 0.05
    assert "money" in attack["after"][0]["text"]
    assert attack["controls"]


def test_shift_takes_given_uses_as_they_are(run: Run, tmp_path: Path, model: Path) -> None:
    for side, text in (("old", "The {} crossed the river."), ("new", "The {} lent money.")):
        rows = [
            {"text": text.format(form), "word": "attack", "start": 4, "end": 4 + len(form)}
            for form in ("attack", "attacks", "attack", "attacking", "attack")
        ]
        (tmp_path / f"{side}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    arguments = ("shift", "old.jsonl", "new.jsonl", "--permutations", "99", "-m", model, "--format", "json")
    (row,) = run(*arguments).json
    assert (row["word"], row["uses_old"], row["uses_new"]) == ("attack", 5, 5)
    assert run(*arguments, "--words", "attack").json[0]["apd"] == row["apd"]


def test_uses_of_a_csv_file_are_those_of_the_same_rows_as_json(run: Run, tmp_path: Path, model: Path) -> None:
    for side, text in (
        ("old", "an attack after an attack by the river {}"),
        ("new", "an attack after an attack of flu {}"),
    ):
        rows = [{"text": text.format(n), "word": "attack", "start": 19, "end": 25} for n in range(5)]
        (tmp_path / f"{side}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        lines = [",".join(map(str, row.values())) for row in rows]
        (tmp_path / f"{side}.csv").write_text("\n".join(["text,word,start,end", *lines]), encoding="utf-8")
    arguments = ("--words", "attack", "--controls", "0", "--permutations", "9", "-m", model, "--format", "csv")
    found = [run("shift", f"old.{kind}", f"new.{kind}", *arguments).stdout for kind in ("jsonl", "csv")]
    assert found[0] == found[1]
    (sense,) = run("senses", "old.csv", "attack", "-k", "1", "-m", model, "--format", "json").json
    assert (sense["uses"], {(each["start"], each["end"]) for each in sense["typical"]}) == (5, {(19, 25)})


def test_controls_of_given_uses_are_other_words_of_their_texts(run: Run, tmp_path: Path, model: Path) -> None:
    for side, verb in (("old", "sank"), ("new", "sold")):
        texts = [f"Plane {n} {verb} the boat near {n} islands." for n in range(6)]
        rows = [{"text": text, "word": "plane", "start": 0, "end": 5} for text in [*texts, texts[0]]]
        (tmp_path / f"{side}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    arguments = ("shift", "old.jsonl", "new.jsonl", "--permutations", "19", "-m", model, "--format", "json")
    (row,) = run(*arguments).json
    assert row["uses_old"] == 7  # a use given twice is two uses; its text gives the control words once
    assert {control["word"] for control in row["controls"]} == {"boat", "near", "islands"}


def test_given_uses_whose_texts_share_no_word_say_why_there_are_no_controls(
    run: Run, tmp_path: Path, model: Path
) -> None:
    for side, texts in (("old", "the plane flew over hills"), ("new", "a plane of smooth wood")):
        row = {"text": texts, "start": texts.index("plane"), "end": texts.index("plane") + 5}
        (tmp_path / f"{side}.jsonl").write_text((json.dumps(row) + "\n") * 5, encoding="utf-8")
    outcome = run("shift", "old.jsonl", "new.jsonl", "--permutations", "9", "-m", model, "--format", "json")
    assert outcome.json[0]["controls"] == []
    assert (
        "no control words for plane: no other word of the given texts occurs 0.25 to 4 times as often" in outcome.stderr
    )


def test_word_that_does_not_occur_has_a_row_without_numbers(run: Run, corpora, model: Path) -> None:
    outcome = run(
        "shift", "old.txt", "new.txt", "--words", "zebra,attack", "-m", model, "--format", "json", "--permutations", "9"
    )
    zebra, attack = outcome.json
    assert (zebra["word"], zebra["uses_old"], zebra["apd"], zebra["q"]) == ("zebra", 0, None, None)
    assert attack["apd"] is not None
    assert "not tested, fewer than 5 uses on a side: zebra" in outcome.stderr


def test_shift_by_a_column_is_a_time_line(run: Run, tmp_path: Path, model: Path) -> None:
    rows = [
        {"text": f"The bank {'of the river' if year < 1900 else 'lent money'} {n}.", "year": year}
        for year in (1810, 1860, 1910, 1960)
        for n in range(6)
    ]
    (tmp_path / "dated.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    arguments = ("shift", "dated.jsonl", "--words", "bank", "-m", model, "--permutations", "99", "--controls", "0")
    found = run(*arguments, "--by", "year", "--every", "50", "--format", "jsonl").jsonl
    assert [(row["old"], row["new"]) for row in found] == [
        ("1800-1849", "1850-1899"), ("1850-1899", "1900-1949"), ("1900-1949", "1950-1999")
    ]  # fmt: skip
    assert max(found, key=lambda row: row["excess"])["new"] == "1900-1949"
    (row,) = run(*arguments, "--by", "year", "--cut", "1900", "--format", "json").json
    assert (row["old"], row["new"], row["uses_old"]) == ("before 1900", "from 1900", 12)


@pytest.fixture
def dated(tmp_path: Path) -> Path:
    """bank and boat are as frequent as each other in three periods of six texts; cloud is rare in one of them."""
    clouds = {1810: 3, 1860: 3, 1910: 1}
    rows = [
        {"text": f"The bank by the boat {n}." + " A cloud." * number, "year": year}
        for year, number in clouds.items()
        for n in range(6)
    ]
    rows += [{"text": "A boat on the lake.", "year": 1960} for _ in range(40)]  # no bank, so nothing to compare
    path = tmp_path / "dated.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


REST = "shift dated.jsonl --words bank --by year --against rest --permutations 9".split()


def test_controls_beside_the_rest_are_as_frequent_in_all_other_groups_together(run: Run, dated, model: Path) -> None:
    outcome = run(*REST, "--controls", "1", "-m", model, "--format", "json")
    assert [(row["old"], row["new"], row["found_old"]) for row in outcome.json] == [
        ("rest", "1810", 12), ("rest", "1860", 12), ("rest", "1910", 12)
    ]  # fmt: skip
    assert [[control["word"] for control in row["controls"]] for row in outcome.json] == [["boat"]] * 3
    assert "no control words" not in outcome.stderr


def test_no_control_words_beside_the_rest_is_said(run: Run, tmp_path: Path, model: Path) -> None:
    rows = [{"text": f"The bank of {word}.", "year": year} for year, word in ((1, "mud"), (2, "ice")) for _ in range(6)]
    (tmp_path / "dated.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    outcome = run(*REST, "-m", model, "--format", "json")
    assert [row["controls"] for row in outcome.json] == [[], []]
    assert "no control words for bank: no other word is on both sides" in outcome.stderr


def test_sampling_of_groups_is_said_only_where_a_use_was_left_out(run: Run, dated, model: Path) -> None:
    arguments = [*REST, "--controls", "0", "-m", model, "--format", "json"]
    whole = run(*arguments, "--max-uses", "6")
    assert [(row["uses_old"], row["found_old"]) for row in whole.json] == [(12, 12)] * 3
    assert "stands for all" not in whole.stderr
    some = run(*arguments, "--max-uses", "5")
    assert [(row["uses_old"], row["found_old"]) for row in some.json] == [(10, 12)] * 3
    assert "a sample of 5 uses of a group (seed 1) stands for all of: bank" in some.stderr


def test_top_finds_the_word_that_moved_among_all(run: Run, corpora, model: Path) -> None:
    outcome = run(
        "shift",
        "old.txt",
        "new.txt",
        "--top",
        "2",
        "--min-count",
        "5",
        "--permutations",
        "99",
        "-m",
        model,
        "--format",
        "csv",
    )
    rows = list(csv.DictReader(io.StringIO(outcome.stdout)))
    assert rows[0]["word"] == "attack"
    assert len(rows) == 2


@pytest.mark.parametrize(
    "arguments",
    ["--words bank,boat,cloud,the", "--words mud,bank --controls 0", "--top 3 --min-count 6 --max-uses 4 --min-uses 4"],
)
def test_words_whose_uses_are_too_many_are_measured_some_at_a_time(
    run: Run, tmp_path: Path, static: Path, monkeypatch: pytest.MonkeyPatch, arguments: str
) -> None:
    rows = [
        {"text": f"The bank by the boat {n}. A cloud, a cloud." + " Some mud." * (year != 1860), "year": year}
        for year in (1810, 1860, 1910)
        for n in range(6)
    ]
    (tmp_path / "dated.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    command = "shift dated.jsonl --by year --permutations 9 --format json".split() + arguments.split()
    whole = run(*command, "-m", static)
    held, find = [], Sides.find

    def counted(self: Sides, *given: Any, **options: Any) -> FoundUses:
        found = find(self, *given, **options)
        held.append({word: sum(len(side.occurrences) for side in sides.values()) for word, sides in found.items()})
        return found

    monkeypatch.setattr(Sides, "find", counted)
    monkeypatch.setattr("ctxembed_cli.shift.BLOCK_USES", 24)
    parted = run(*command, "-m", static)
    assert parted.json == whole.json
    assert whole.json
    assert "passes, for at most 24 uses or one word at a time" in parted.stderr
    assert "passes" not in whole.stderr
    assert all(sum(words.values()) <= 24 or len(words) == 1 for words in held)


QUICK = "shift old.txt new.txt --words attack --permutations 9 --format json".split()


def test_inflections_count_for_the_word_if_asked(run: Run, tmp_path: Path, model: Path) -> None:
    for side in ("old", "new"):
        (tmp_path / f"{side}.txt").write_text("The attack came.\nTwo attacks came.\n" * 5, encoding="utf-8")
    arguments = [*QUICK, "-m", model]
    assert run(*arguments).json[0]["uses_old"] == 5
    assert run(*arguments, "--inflections").json[0]["uses_old"] == 10


def test_sampling_is_said(run: Run, corpora, model: Path) -> None:
    arguments = [*QUICK, "-m", model]
    outcome = run(*arguments, "--max-uses", "6")
    assert (outcome.json[0]["uses_old"], outcome.json[0]["found_old"]) == (6, 12)
    assert "a sample of 6 uses of a side (seed 1) stands for all of: attack" in outcome.stderr


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["old.txt", "--words", "attack"], "1 inputs, need two to compare"),
        (["old.txt", "new.txt", "--words", " , "], "names no word"),
        (["old.txt", "new.txt", "--by", "year", "--words", "attack"], "has no column 'year'"),
        (["old.txt", "new.txt", "--top", "2", "--min-count", "500"], "no word occurs 500 times in every group"),
    ],
)
def test_mistakes_are_one_line(run: Run, corpora, model: Path, arguments, message) -> None:
    assert message in run("shift", *arguments, "-m", model, code=1).stderr


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("--top 2 --controls 10", "--controls does nothing with --top"),
        ("--words attack --min-count 50", "--min-count does nothing without --top"),
        ("--words attack --against first", "--against does nothing without --by"),
    ],
)
def test_options_that_do_nothing_are_refused(run: Run, corpora, arguments: str, message: str) -> None:
    assert message in run("shift", "old.txt", "new.txt", *arguments.split(), "-m", "no-model", code=2).stderr


@pytest.mark.parametrize("options", ["--top 2 --min-count 5", "--inflections"])
def test_options_for_text_are_refused_with_all_uses_that_are_given(run: Run, tmp_path: Path, options: str) -> None:
    (tmp_path / "uses.jsonl").write_text('{"text": "an attack", "start": 3, "end": 9}\n', encoding="utf-8")
    outcome = run("shift", "uses.jsonl", "uses.jsonl", *options.split(), "-m", "no-model", code=2)
    assert "does nothing for uses that are given, which are all measured" in outcome.stderr


def test_file_of_words_has_one_a_line_in_utf8(run: Run, corpora, tmp_path: Path, model: Path) -> None:
    arguments = ("shift", "old.txt", "new.txt", "--words", "words.txt", "--permutations", "9", "-m", model)
    (tmp_path / "words.txt").write_bytes("\N{BOM}attack\nplane\n".encode())
    assert [row["word"] for row in run(*arguments, "--format", "json").json] == ["attack", "plane"]
    (tmp_path / "words.txt").write_bytes(b"attack\ncaf\xe9\n")
    assert "words.txt is not UTF-8 (" in run(*arguments, code=1).stderr
    (tmp_path / "words.txt").write_bytes(b"\n")
    assert "words.txt names no word: write one a line" in run(*arguments, code=1).stderr


def test_table_says_what_moved(run: Run, corpora, model: Path) -> None:
    assert (
        "what moved"
        in run("shift", "old.txt", "new.txt", "--words", "attack", "-m", model, "--permutations", "9").stdout
    )


def test_kind_of_figure_is_checked_before_anything_is_read(run: Run, model: Path) -> None:
    arguments = ("shift", "none.txt", "none.txt", "--words", "attack", "-m", model, "--plot", "figure")
    assert "figure ends in 'nothing', need one of .png, .svg, .pdf" in run(*arguments, code=2).stderr


def test_rows_are_printed_though_there_is_nothing_to_draw(run: Run, corpora, tmp_path: Path, model: Path) -> None:
    arguments = ("shift", "old.txt", "new.txt", "--words", "river", "--min-uses", "50", "--controls", "0", "-m", model)
    outcome = run(*arguments, "--format", "json", "--plot", "figure.png", "--html", "page.html")
    assert (outcome.json[0]["word"], outcome.json[0]["apd"]) == ("river", None)
    assert "figure.png is not written: no word had enough uses to be measured" in outcome.stderr
    assert outcome.stderr.splitlines()[-1] == "written: page.html"
    assert not (tmp_path / "figure.png").exists()


def test_rows_are_printed_though_a_picture_cannot_be_written(run: Run, corpora, model: Path) -> None:
    for option, name in (("--html", "page.html"), ("--plot", "figure.png")):
        outcome = run(*QUICK, "--controls", "0", "-m", model, option, f"old.txt/{name}", code=1)
        assert outcome.json[0]["word"] == "attack"
        assert outcome.stderr.splitlines()[-1].startswith("error: ")


def test_help_says_what_is_tested(run: Run) -> None:
    assert "p and q without a name belong to excess" in " ".join(run("shift", "--help").stdout.split())


def test_static_distance_stands_beside_if_asked(run: Run, tmp_path: Path, static: Path) -> None:
    for side, step in (("old", 1), ("new", 7)):
        lines = [" ".join(f"word{(n * step + m) % 130}" for m in range(12)) for n in range(130)]
        (tmp_path / f"{side}.txt").write_text("\n".join([*lines, *lines]), encoding="utf-8")
    arguments = ("shift", "old.txt", "new.txt", "--words", "word3,zebra", "-m", static, "--permutations", "9")
    known, unknown = run(*arguments, "--controls", "0", "--static", "--format", "json").json
    assert 0 <= known["static"] <= 2
    assert unknown["static"] is None

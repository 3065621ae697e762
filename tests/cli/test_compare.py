"""``ctxembed compare``: contextual and static similarity side by side, nearest words, and how a word is marked."""

from __future__ import annotations

import csv
import io
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ctxembed.text import is_content_word

if TYPE_CHECKING:
    from .conftest import Outcome, Run

RIVER, MONEY = "the [bank] of the river", "the [bank] lent money"


def compared(run: Run, *arguments: str | Path, **options: Any) -> Outcome:
    """Compare without what takes long: nearest words, and the calibrated scale."""
    return run("compare", *arguments, "--nearest", "0", "--raw", **options)


def test_json_holds_uses_and_both_matrices(run: Run, model: Path, static: Path) -> None:
    record = run("compare", RIVER, MONEY, "-m", model, "--static", static, "--format", "json").json
    assert (record["model"], record["static_model"]) == ("model", "static")
    assert [(use["word"], use["text"], use["start"], use["end"]) for use in record["uses"]] == [
        ("bank", "the bank of the river", 4, 8),
        ("bank", "the bank lent money", 4, 8),
    ]
    contextual, lookup = np.array(record["contextual"]), np.array(record["static"])
    np.testing.assert_allclose(np.diag(contextual), 1, atol=1e-5)
    np.testing.assert_array_equal(contextual, contextual.T)
    assert contextual[0, 1] < 0.99999
    np.testing.assert_allclose(lookup, 1, atol=1e-5)  # one word, one vector: the lookup cannot tell


def test_nearest_words_are_other_content_words_of_the_corpus(run: Run, model: Path) -> None:
    arguments = ["compare", RIVER, MONEY, "-m", model, "--no-static", "--nearest", "4", "--format", "json"]
    uses = run(*arguments).json["uses"]
    for use in uses:
        near = use["nearest"]
        assert len(near) == 4
        assert [word["similarity"] for word in near] == sorted((word["similarity"] for word in near), reverse=True)
        for word in near:
            assert word["text"][word["start"] : word["end"]].casefold() == word["word"]
            assert word["word"] != "bank"
            assert is_content_word(word["word"])


def test_nearest_words_come_from_the_corpus_given(run: Run, tmp_path: Path, model: Path) -> None:
    (tmp_path / "corpus.txt").write_text("A muddy shore.\nThe bank of England.\n")
    record = run("compare", RIVER, "-m", model, "--no-static", "--corpus", "corpus.txt", "--format", "json").json
    assert {word["word"] for word in record["uses"][0]["nearest"]} == {"muddy", "shore", "england"}


def test_corpus_on_stdin_gives_the_uses_and_the_nearest_words(run: Run, model: Path) -> None:
    arguments = ["-m", model, "--no-static", "--corpus", "-", "--word", "bank", "--format", "json"]
    record = run("compare", *arguments, input="A muddy bank by the shore.\nThe bank of England.\n").json
    assert [use["text"] for use in record["uses"]] == ["A muddy bank by the shore.", "The bank of England."]
    for use in record["uses"]:
        assert {word["word"] for word in use["nearest"]} == {"muddy", "shore", "england"}
    assert np.array(record["percentile"]).shape == (2, 2)


@pytest.mark.parametrize("twice", [["-", "-"], ["-", "--corpus", "-"], ["-", "--file", "-"]], ids=" ".join)
def test_stdin_in_two_places_is_refused(run: Run, model: Path, twice: list[str]) -> None:
    outcome = compared(run, *twice, "-m", model, "--no-static", input=f"{RIVER}\n{MONEY}\n", code=2)
    assert "- is given more than once, and stdin can be read once" in outcome.stderr


def test_words_of_the_corpus_are_computed_once(run: Run, tmp_path: Path, model: Path) -> None:
    (tmp_path / "corpus.txt").write_text("Only this test has a quagga.\n")
    cache = Path(os.environ["CTXEMBED_CACHE"]) / "background"
    before = set(cache.iterdir()) if cache.exists() else set()
    arguments = ["compare", RIVER, "-m", model, "--no-static", "--corpus", "corpus.txt", "--format", "json"]
    first = run(*arguments).json
    [made] = set(cache.iterdir()) - before
    written = (made / "part-00000.npy").stat().st_mtime_ns
    assert run(*arguments).json == first
    assert (made / "part-00000.npy").stat().st_mtime_ns == written


def test_table_shows_the_uses_and_both_matrices(run: Run, model: Path, static: Path) -> None:
    outcome = run("compare", RIVER, MONEY, "-m", model, "--static", static)
    blocks = [block.splitlines() for block in outcome.stdout.split("\n\n")]
    uses, matrices, scale, (where, *nearest), (looked_up, *lookup) = blocks
    assert [line.split(maxsplit=1)[1].strip() for line in uses[1:]] == [RIVER, MONEY]
    titles = ["in context: model", "same sense: probability", "static lookup: static"]
    assert re.split(" {4,}", matrices[0].strip()) == titles
    assert [line.split()[-3:] for line in matrices[2:]] == [["A", "1.00", "1.00"], ["B", "1.00", "1.00"]]
    assert re.match(r"more alike than [\d.]+ % of random pairs of uses in the sample corpus; ", scale[0])
    assert where == "used most like it in the sample corpus"
    assert [line.split()[0] for line in nearest] == ["use", "A", "B"]
    assert looked_up == "nearest by static lookup in static"
    assert [line.split()[0] for line in lookup] == ["word", "bank"]
    assert outcome.stderr.startswith("computed by model on cpu in ")


def test_pairs_are_rows_of_the_other_formats(run: Run, model: Path, static: Path) -> None:
    uses = [RIVER, MONEY, "a muddy [bank]"]
    record = compared(run, *uses, "-m", model, "--static", static, "--format", "json").json
    pairs = [(0, 1), (0, 2), (1, 2)]
    wanted = [
        {
            "first": uses[i],
            "second": uses[j],
            "contextual": record["contextual"][i][j],
            "static": record["static"][i][j],
        }
        for i, j in pairs
    ]
    assert compared(run, *uses, "-m", model, "--static", static, "--format", "jsonl").jsonl == wanted
    table = compared(run, *uses, "-m", model, "--static", static, "--format", "csv").stdout
    assert list(csv.DictReader(io.StringIO(table))) == [
        {key: str(value) for key, value in row.items()} for row in wanted
    ]


def test_uses_may_come_from_stdin(run: Run, model: Path) -> None:
    record = compared(run, "-", "-m", model, "--no-static", "--format", "json", input=f"{RIVER}\n\n  {MONEY}\n").json
    assert [use["text"] for use in record["uses"]] == ["the bank of the river", "the bank lent money"]


def test_word_is_found_by_its_form(run: Run, model: Path) -> None:
    uses = ["The Bank lent money", "on the bank's edge a bank"]
    record = compared(run, "--word", "bank", *uses, "-m", model, "--no-static", "--format", "json").json
    assert [(use["word"], use["start"]) for use in record["uses"]] == [("Bank", 4), ("bank", 21)]


def test_marked_word_wins_over_the_word_named(run: Run, model: Path) -> None:
    uses = ["the cell divides", "all [cells] divide"]
    record = compared(run, "--word", "cell", *uses, "-m", model, "--no-static", "--format", "json").json
    assert [use["word"] for use in record["uses"]] == ["cell", "cells"]


def test_one_use_alone_is_as_good_as_none_to_compare_but_has_neighbours(run: Run, model: Path) -> None:
    record = run("compare", RIVER, "-m", model, "--no-static", "--format", "json").json
    assert record["contextual"] == [[pytest.approx(1, abs=1e-5)]]
    assert len(record["uses"][0]["nearest"]) == 5


UNKNOWN, OTHER = "a [zyzzyva] sat", "two [Quaggas] sat"


@pytest.mark.parametrize(
    ("uses", "names", "with_themselves"),
    [
        ((UNKNOWN, MONEY), "zyzzyva", [None, 1]),
        ((MONEY, UNKNOWN), "zyzzyva", [1, None]),
        ((UNKNOWN, OTHER), "zyzzyva, Quaggas", [None, None]),
    ],
)
def test_word_without_static_vector_is_named_and_has_no_similarity(
    run: Run, model: Path, static: Path, uses: tuple[str, str], names: str, with_themselves: list[int | None]
) -> None:
    outcome = compared(run, *uses, "-m", model, "--static", static)
    assert outcome.stderr.startswith(f"no static vector for: {names}\n")
    record = compared(run, *uses, "-m", model, "--static", static, "--format", "json").json
    assert [value and round(value, 3) for value in np.diag(record["static"])] == with_themselves
    assert record["static"][0][1] is None
    assert all(value is not None for line in record["contextual"] for value in line)


def test_word_that_the_model_itself_does_not_know_is_a_mistake(run: Run, static: Path) -> None:
    outcome = compared(run, "a [zyzzyva] sat", "-m", static, "--no-static", code=1)
    assert outcome.stderr == "error: static sees nothing in 'zyzzyva': mark a word made of letters or digits\n"


def test_layer_changes_the_similarity(run: Run, model: Path) -> None:
    similarity = {
        layer: compared(run, RIVER, MONEY, "-m", model, "--no-static", "--layer", layer, "--format", "json").json[
            "contextual"
        ][0][1]
        for layer in ("0", "1", "2")
    }
    assert len(set(similarity.values())) == 3
    assert similarity["0"] == pytest.approx(1, abs=1e-3)  # the same token at the same place: no context yet


@pytest.mark.parametrize(
    ("use", "message"),
    [
        ("the bank of the river", "0 words are marked in 'the bank of the river', need exactly one"),
        ("the [bank] of the [river]", "2 words are marked in 'the [bank] of the [river]', need exactly one"),
        ("the [] of the river", "0 words are marked in 'the [] of the river', need exactly one"),
    ],
)
def test_use_without_exactly_one_mark_is_refused(run: Run, model: Path, use: str, message: str) -> None:
    outcome = compared(run, use, MONEY, "-m", model, "--no-static", code=1)
    assert outcome.stderr.startswith(f"error: {message}")
    assert "name it with --word" in outcome.stderr


def test_stdin_that_is_not_utf8_is_refused_by_line(run: Run, model: Path) -> None:
    outcome = compared(run, "-", "-m", model, "--no-static", input=b"the [bank]\na [caf\xe9]\n", code=1)
    assert outcome.stderr.startswith("error: stdin:2: not UTF-8")


def test_nothing_on_stdin_is_refused(run: Run, model: Path) -> None:
    assert "there is nothing to compare" in compared(run, "-", "-m", model, "--no-static", code=1).stderr


def test_encoder_given_as_static_vectors_is_refused(run: Run, model: Path) -> None:
    assert "manifest.json does not exist" in compared(run, RIVER, "-m", model, "--static", model, code=1).stderr


def test_static_vectors_and_none_contradict_each_other(run: Run, model: Path, static: Path) -> None:
    outcome = compared(run, RIVER, "-m", model, "--static", static, "--no-static", code=2)
    assert "--static and --no-static contradict each other: leave one out" in outcome.stderr


READING_OPTIONS = {"--text-column": ["body"], "--split-sentences": [], "--stdin-format": ["jsonl"]}


@pytest.mark.parametrize(("option", "value"), READING_OPTIONS.items(), ids=list(READING_OPTIONS))
def test_reading_option_without_a_corpus_is_refused(run: Run, model: Path, option: str, value: list[str]) -> None:
    outcome = compared(run, RIVER, "-m", model, "--no-static", option, *value, code=2)
    assert f"{option} does nothing without --corpus or --file: leave it out" in outcome.stderr


def test_corpus_is_read_as_the_reading_options_say(run: Run, tmp_path: Path, model: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text('{"body": "A muddy shore."}\n')
    arguments = ["-m", model, "--no-static", "--corpus", "corpus.jsonl", "--text-column", "body", "--format", "json"]
    record = run("compare", RIVER, *arguments).json
    assert {word["word"] for word in record["uses"][0]["nearest"]} == {"muddy", "shore"}


@pytest.mark.usefixtures("shipped_models")
def test_models_that_ship_tell_the_river_from_the_money(run: Run) -> None:
    uses = [
        "They sat on the grassy [bank] of the river.",
        "The muddy [bank] of the stream.",
        "The [bank] lent them money.",
    ]
    record = compared(run, *uses, "--format", "json").json
    contextual = np.array(record["contextual"])
    assert contextual[0, 1] > max(contextual[0, 2], contextual[1, 2])
    np.testing.assert_allclose(record["static"], 1, atol=1e-3)


@pytest.mark.parametrize(
    ("use", "word", "found"),
    [
        ("see [1] the bank", "bank", (12, 16)),
        ("the bank by the [bank]", "bank", (16, 20)),
        ("all [cells] divide", "cell", (4, 9)),
        ("the cell divides", "cell", (4, 8)),
    ],
)
def test_the_word_named_and_the_word_marked_agree_on_a_place(use: str, word: str, found: tuple[int, int]) -> None:
    from ctxembed_cli.compare_uses import read_usage

    usage = read_usage(use, word)
    assert (usage.start, usage.end) == found


# Why, and what if


def test_why_ranks_every_context_word_of_each_use(run: Run, model: Path) -> None:
    record = compared(run, RIVER, MONEY, "-m", model, "--no-static", "--why", "--format", "json").json
    for number, words in enumerate((["of", "river", "the", "the"], ["lent", "money", "the"])):
        use = record["uses"][number]
        assert sorted(each["word"] for each in use["why"]) == words
        moves = [each["move"] for each in use["why"]]
        assert moves == sorted(moves, reverse=True)
        assert moves[0] > 0
        for each in use["why"]:
            assert use["text"][each["start"] : each["end"]] == each["word"]
            assert each["towards"][number] is None
            assert -2 <= each["towards"][1 - number] <= 2


def test_why_agrees_with_leaving_the_word_out_by_hand(run: Run, model: Path) -> None:
    arguments = ["-m", model, "--no-static", "--precision", "float32", "--format", "json"]
    record = compared(run, RIVER, MONEY, "--why", *arguments).json
    (river,) = [each for each in record["uses"][0]["why"] if each["word"] == "river"]
    by_hand = compared(run, RIVER, "the [bank] of the", MONEY, *arguments).json["contextual"]
    assert river["move"] == pytest.approx(1 - by_hand[0][1], abs=1e-5)
    assert river["towards"][1] == pytest.approx(by_hand[0][2] - by_hand[1][2], abs=1e-5)


def test_why_in_rows_has_a_row_for_each_word(run: Run, model: Path) -> None:
    rows = compared(run, RIVER, MONEY, "-m", model, "--no-static", "--why", "--format", "jsonl").jsonl
    assert len(rows) == 7
    assert set(rows[0]) == {"use", "without", "moves", "towards other use", "start", "end"}
    masked = compared(run, RIVER, MONEY, "-m", model, "--no-static", "--why", "--occlude", "mask", "--format", "jsonl")
    assert {row["without"]: row["moves"] for row in masked.jsonl} != {row["without"]: row["moves"] for row in rows}


def test_swap_shows_the_drift(run: Run, model: Path) -> None:
    arguments = ["-m", model, "--no-static", "--precision", "float32", "--format", "json"]
    (swap,) = compared(run, RIVER, MONEY, "--swap", "river=loan", *arguments).json["swaps"]
    assert (swap["use"], swap["from"], swap["to"], swap["text"]) == (0, "river", "loan", "the bank of the loan")
    by_hand = compared(run, RIVER, "the [bank] of the loan", MONEY, *arguments).json["contextual"]
    assert swap["drift"] == pytest.approx(1 - by_hand[0][1], abs=1e-5)
    assert swap["after"] == pytest.approx([by_hand[1][0], by_hand[1][2]], abs=1e-5)


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--swap", "sea=loan"], 1, "the word 'sea' stands in no context"),
        (["--swap", "river"], 2, "'river': write it as OLD=NEW"),
        (["--occlude", "mask"], 2, "--occlude does nothing without --why"),
        (["--max-uses", "3"], 2, "--max-uses does nothing with uses that are given"),
        (["--layers", "top"], 2, "'top': write all, or numbers such as 0,3,6"),
        (["--layers", "9"], 1, "layer = 9"),
        (["--why", "--layers", "0", "--format", "csv"], 2, "rows of different kinds"),
        (["--measure", "why"], 2, "leave uses, --file and --corpus out"),
    ],
)
def test_wish_that_cannot_be_met_is_one_line(
    run: Run, model: Path, options: list[str], code: int, message: str
) -> None:
    assert message in compared(run, RIVER, "-m", model, "--no-static", *options, code=code).stderr


def test_rows_of_different_kinds_are_refused_before_anything_is_computed(run: Run, tmp_path: Path) -> None:
    arguments = ["compare", RIVER, "-m", "no-model", "--html", "page.html", "--format", "jsonl"]
    outcome = run(*arguments, "--swap", "river=loan", "--senses", "kept", code=2)
    assert "--swap and --senses have rows of different kinds" in outcome.stderr
    assert not list(tmp_path.iterdir())


def test_layers_show_every_pair_in_every_layer(run: Run, model: Path) -> None:
    arguments = ["-m", model, "--no-static", "--layers", "all", "--nearest", "0", "--format", "json"]
    layers = run("compare", RIVER, MONEY, *arguments).json["layers"]
    assert [view["layer"] for view in layers] == [0, 1, 2]
    assert layers[0]["similarities"][0][1] == pytest.approx(1, abs=1e-3)
    assert len({view["similarities"][0][1] for view in layers}) == 3
    assert all(0 < view["probability"][0][1] < 1 for view in layers)
    rows = compared(run, RIVER, MONEY, "-m", model, "--no-static", "--layers", "0,2", "--format", "jsonl").jsonl
    assert [(row["layer"], row["first"], row["second"]) for row in rows] == [(0, "A", "B"), (2, "A", "B")]


def test_static_vectors_have_no_layers_to_compare(run: Run, static: Path) -> None:
    outcome = compared(run, RIVER, "-m", static, "--no-static", "--layers", "all", code=1)
    assert "static has no layers to compare" in outcome.stderr


# The calibrated scale


def test_json_has_the_calibrated_scale_beside_the_raw_one(run: Run, model: Path, static: Path) -> None:
    uses = [RIVER, MONEY, "a muddy [bank]"]
    record = run("compare", *uses, "-m", model, "--static", static, "--nearest", "0", "--format", "json").json
    contextual, probability, percentile = (
        np.array(record[name]) for name in ("contextual", "probability", "percentile")
    )
    curve = record["calibration"]
    assert curve["fitted_on"] == "word_in_context dev"
    expected = 1 / (1 + np.exp(-(curve["slope"] * contextual + curve["intercept"])))
    np.testing.assert_allclose(probability, expected, atol=1e-5)
    assert ((percentile >= 0) & (percentile <= 100)).all()
    order = np.argsort(contextual.ravel())
    assert (np.diff(percentile.ravel()[order]) >= 0).all()
    np.testing.assert_allclose(record["static_probability"], 0.5, atol=0.05)  # it cannot tell


# On a terminal


def test_words_that_matter_are_shaded_where_there_are_colours() -> None:
    from ctxembed_cli.compare_output import use_text
    from rich.console import Console

    from ctxembed.meaning.compare import Comparison, Findings
    from ctxembed.meaning.occlusion import Influence
    from ctxembed.text import parse_usage

    one = np.ones((1, 1), dtype=np.float32)
    result = Comparison((parse_usage("a [bank] lent money"),), one, static=None, nearest=(), vectors=one)
    why = ((Influence("money", 12, 17, 0.4), Influence("a", 0, 1, 0.0)),)
    text = use_text(Findings(comparison=result, model="x", why=why), 0)
    assert text.plain == "a [bank] lent money"
    (strong,) = [text.plain[span.start : span.end] for span in text.spans if "white on" in str(span.style)]
    assert strong == "money"
    terminal = Console(force_terminal=True, color_system="truecolor", width=80, file=io.StringIO())
    terminal.print(text)
    assert "\x1b[" in terminal.file.getvalue()  # type: ignore[attr-defined]


def test_nothing_but_plain_text_goes_into_a_pipe(run: Run, model: Path, static: Path) -> None:
    assert "\x1b" not in compared(run, RIVER, MONEY, "-m", model, "--static", static, "--why").stdout


def test_html_is_one_page_beside_the_usual_output(run: Run, tmp_path: Path, model: Path, static: Path) -> None:
    arguments = [RIVER, MONEY, "-m", model, "--static", static, "--why", "--layers", "all", "--html", "out/page.html"]
    outcome = run("compare", *arguments, "--format", "json")
    assert "wrote out/page.html" in outcome.stderr
    assert len(outcome.json["uses"]) == 2
    page = (tmp_path / "out" / "page.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert "percentile among random pairs of uses in the sample corpus" in page
    assert "By static lookup: the vocabulary of static" in page

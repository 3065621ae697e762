"""``ctxembed train static`` in its three ways, ``ctxembed export``, and what `bench --against` makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctxembed.static import StaticVectors

from .conftest import Run

BRIEF = ("--dimension", "6", "--min-count", "2", "--epochs", "1")


def test_exported_vectors_are_taken_over_again(run: Run, static: Path) -> None:
    run("export", static, "-o", "vectors.bin")
    outcome = run("train", "static", "--from", "vectors.bin", "-o", "again", "--max-vocabulary", "50")
    assert "vectors.bin (word2vec binary)" in outcome.stderr
    again, first = StaticVectors.load("again"), StaticVectors.load(static)
    assert again.words == first.words[:50]


def test_training_begins_with_given_vectors_and_takes_their_width(run: Run, static: Path, sample: Path) -> None:
    run("train", "static", sample, "--from", static, "-o", "more", "--min-count", "2", "--epochs", "1")
    more = StaticVectors.load("more")
    assert more.dimension == 16
    assert more.training["start"] == StaticVectors.load(static).fingerprint


def test_subwords_are_trained_and_used_by_name(run: Run, sample: Path, rows: Path) -> None:
    run("train", "static", sample, "--subwords", "--buckets", "500", *BRIEF, "-o", "ft")
    Path("pairs.jsonl").write_text(
        '{"word1": "money", "word2": "moneybankish", "score": 3}\n{"word1": "money", "word2": "bank", "score": 1}\n'
    )
    call = ("bench", "similarity", "--data", "pairs.jsonl", "-m", "ft", "--against", "static+subwords:ft")
    plain, subwords = run(*call, "--format", "json").json
    assert (plain["system"], plain["coverage"]) == ("ft", 0.5)
    assert (subwords["system"], subwords["coverage"]) == ("ft+subwords", 1.0)


def test_twin_and_layer0_stand_beside_their_model(run: Run, model: Path, sample: Path) -> None:
    outcome = run("train", "static", sample, "--twin-of", model, "--contexts", "2", "--min-count", "3", "-o", "twin")
    assert "words of width" in outcome.stderr
    Path("pairs.jsonl").write_text(
        '{"sentence1": "the river", "sentence2": "a bank", "score": 3}\n'
        '{"sentence1": "the river", "sentence2": "the loan", "score": 1}\n'
    )
    names = ("static:twin", f"layer0:{model}", f"twin:{model}", "static+sif+common:twin")
    call = [part for name in names for part in ("--against", name)]
    found = run("bench", "sentences", "--data", "pairs.jsonl", "-m", model, *call, "--format", "json").json
    assert [row["system"] for row in found] == ["model", "twin", "layer0 of model", "twin of model", "twin+sif+common"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "there is nothing to learn from"),
        (("--from", "x.bin", "--window", "3"), "--window does nothing without INPUT"),
        (("corpus.txt", "--contexts", "3"), "--contexts does nothing without --twin-of"),
        (("corpus.txt", "--threads", "2"), "--threads does nothing without --twin-of: training has --workers"),
        (("corpus.txt", "--precision", "float32"), "--precision does nothing without --twin-of"),
        (("corpus.txt", "--twin-of", "m", "--epochs", "3"), "--epochs does nothing with --twin-of"),
        (("corpus.txt", "--buckets", "3"), "--buckets does nothing without --subwords"),
    ],
)
def test_options_that_would_do_nothing_are_refused(run: Run, arguments: tuple[str, ...], message: str) -> None:
    Path("corpus.txt").write_text("a b c\n", encoding="utf-8")
    assert message in run("train", "static", *arguments, "-o", "out", code=2).stderr


def test_unknown_option_of_a_lookup_is_refused(run: Run, static: Path) -> None:
    outcome = run("bench", "senses", "-m", static, "--against", f"static+tfidf:{static}", code=1)
    assert "no option 'tfidf' of static vectors, only sif, common, subwords" in outcome.stderr

"""``ctxembed tokenizer``: what is learnt, that it is learnt again, and the report on a corpus."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ctxembed.tokenizer import SubwordTokenizer

if TYPE_CHECKING:
    from .conftest import Run

MEASURES = (
    "vocab_size",
    "documents",
    "words",
    "tokens",
    "fertility",
    "whole_words",
    "unknown_tokens",
    "vocabulary_used",
    "longest_pieces",
)


@pytest.fixture
def tokenizer(run: Run, sample: Path) -> Path:
    """A small WordPiece tokenizer of the sample corpus."""
    run("tokenizer", "train", sample, "-o", "tok", "--vocab-size", "400")
    return Path("tok")


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_each_kind_is_trained_to_the_size_asked_for(run: Run, sample: Path, kind: str) -> None:
    outcome = run("tokenizer", "train", sample, "-o", "tok/", "--kind", kind, "--vocab-size", "400")
    assert outcome.stdout == ""
    assert outcome.stderr.startswith("1,044 documents; learning from 1,044 of them\n")
    assert outcome.stderr.endswith("tok/tokenizer.json: 400 tokens\n")
    assert len(SubwordTokenizer.load("tok")) == 400


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_equal_runs_learn_the_same_vocabulary(run: Run, sample: Path, kind: str) -> None:
    for output in ("first", "second"):
        run("tokenizer", "train", sample, "-o", output, "--kind", kind, "--vocab-size", "400", "--sample", "500")
    assert Path("first/tokenizer.json").read_bytes() == Path("second/tokenizer.json").read_bytes()


@pytest.mark.parametrize("command", ["train", "report"])
def test_threads_are_those_of_the_tokenizers_library(
    run: Run, sample: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("RAYON_NUM_THREADS", "7")  # and put back at the end
    arguments = {"train": (sample, "-o", "threads", "--vocab-size", "200"), "report": (tokenizer, sample)}[command]
    run("tokenizer", command, *arguments, "--threads", "1")
    assert os.environ["RAYON_NUM_THREADS"] == "1"


def test_sample_is_drawn_by_the_seed(run: Run, sample: Path) -> None:
    for seed in ("1", "2"):
        arguments = ["-o", seed, "--vocab-size", "400", "--sample", "200", "--seed", seed]
        assert "learning from 200 of them" in run("tokenizer", "train", sample, *arguments).stderr
    assert Path("1/tokenizer.json").read_bytes() != Path("2/tokenizer.json").read_bytes()


def test_case_and_accents_are_kept_or_folded_as_asked(run: Run, tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("Café CAFÉ cafe\n" * 5)
    run("tokenizer", "train", "corpus.txt", "-o", "kept", "--keep-case", "--vocab-size", "100")
    run("tokenizer", "train", "corpus.txt", "-o", "folded", "--strip-accents", "--vocab-size", "100")
    kept, folded = (SubwordTokenizer.load(name).encode_ids(["Café", "cafe"]) for name in ("kept", "folded"))
    assert kept[0].tolist() != kept[1].tolist()
    assert folded[0].tolist() == folded[1].tolist()


def test_vocabulary_that_the_corpus_cannot_fill_is_said(run: Run, rows: Path) -> None:
    outcome = run("tokenizer", "train", rows, "-o", "tok", "--vocab-size", "5000")
    size = len(SubwordTokenizer.load("tok"))
    assert size < 5000
    assert f"the sample has no more than {size} pieces (of 5,000 asked for)\n" in outcome.stderr


def test_tokenizer_is_not_written_over(run: Run, tokenizer: Path, rows: Path) -> None:
    before = (tokenizer / "tokenizer.json").read_bytes()
    outcome = run("tokenizer", "train", rows, "-o", tokenizer, "--vocab-size", "100", code=1)
    assert outcome.stderr == "error: tok/tokenizer.json exists already: choose another -o, or delete it\n"
    assert (tokenizer / "tokenizer.json").read_bytes() == before


def test_report_measures_the_corpus(run: Run, tokenizer: Path, tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("The the\n\n火\n")
    [report] = run("tokenizer", "report", tokenizer, "corpus.txt", "--format", "json").json
    assert tuple(report) == MEASURES
    assert (report["vocab_size"], report["documents"], report["words"], report["tokens"]) == (400, 2, 3, 3)
    assert (report["fertility"], report["longest_pieces"]) == (1, ["the"])
    assert (report["whole_words"], report["unknown_tokens"]) == (pytest.approx(2 / 3), pytest.approx(1 / 3))


def test_report_is_the_same_in_every_format(run: Run, tokenizer: Path, rows: Path) -> None:
    def report(output_format: str) -> str:
        outcome = run("tokenizer", "report", tokenizer, rows, "--format", output_format)
        assert outcome.stderr == "6 documents\n"
        return outcome.stdout

    [wanted] = run("tokenizer", "report", tokenizer, rows, "--format", "json").json
    [line] = run("tokenizer", "report", tokenizer, rows, "--format", "jsonl").jsonl
    assert line == wanted
    wanted["longest_pieces"] = " ".join(wanted["longest_pieces"])
    assert {row["measure"]: row["value"] for row in csv.DictReader(io.StringIO(report("csv")))} == {
        name: str(value) for name, value in wanted.items()
    }
    head, *lines = report("table").splitlines()
    assert head.split() == ["measure", "value"]
    assert [line.split()[0] for line in lines] == list(MEASURES)


def test_report_on_nothing_is_zero(run: Run, tokenizer: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    [report] = run("tokenizer", "report", tokenizer, "empty.txt", "--format", "json").json
    assert [report[name] for name in MEASURES[1:]] == [0, 0, 0, 0, 0, 0, 0, []]


def test_model_folder_holds_a_tokenizer_to_report_on(run: Run, model: Path, rows: Path) -> None:
    [report] = run("tokenizer", "report", model, rows, "--format", "json").json
    assert report["documents"] == 6


@pytest.mark.parametrize("content", ["", "{}", '{"version": "1.0"}'])
def test_damaged_tokenizer_is_refused(run: Run, rows: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    outcome = run("tokenizer", "report", tmp_path, rows, code=3)
    assert outcome.stderr.startswith(f"error: {tmp_path}/tokenizer.json is no tokenizer that can be used")
    assert len(outcome.stderr.splitlines()) == 1

"""``ctxembed train contrastive``, ``simcse``, ``denoise`` and ``senses``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .conftest import SHORT, is_picture, metrics, training

if TYPE_CHECKING:
    from ..conftest import Run


def test_pairs_are_brought_together(run: Run, pairs: Path, model: Path) -> None:
    options = ["--from", model, "--max-length", "32", "--batch-tokens", "2048", "--max-steps", "20"]
    outcome = run(
        "train", "contrastive", pairs, "-o", "out", *options, "--matryoshka", "16,32", "--piece-tokens", "400"
    )
    assert "36 pairs\n" in outcome.stderr
    lines = metrics("out")
    assert lines[-1]["contrastive"] < lines[0]["contrastive"]
    [objective] = training("out")["objectives"]
    assert (objective["kind"], objective["items"], objective["matryoshka"]) == ("contrastive", 36, [16, 32])
    assert is_picture("out")


def test_columns_of_pairs_may_have_other_names(run: Run, tmp_path: Path, model: Path) -> None:
    (tmp_path / "pairs.csv").write_text("title,abstract\nthe bank,money is lent\nthe river,water runs\n,nothing\n")
    columns = ["--anchor-column", "title", "--positive-column", "abstract"]
    outcome = run("train", "contrastive", "pairs.csv", "-o", "out", "--from", model, *SHORT, *columns)
    assert "2 pairs; 1 with an empty side skipped\n" in outcome.stderr
    assert "no column 'anchor'" in run("train", "contrastive", "pairs.csv", "-o", "o", "--from", model, code=1).stderr


def test_width_that_is_no_number_is_wrong_usage(run: Run, pairs: Path, model: Path) -> None:
    outcome = run("train", "contrastive", pairs, "-o", "out", "--from", model, "--matryoshka", "64;128", code=2)
    assert "'64;128': write widths with commas between, 64,128" in outcome.stderr


def test_pairs_alone_make_no_tokenizer(run: Run, pairs: Path) -> None:
    outcome = run("train", "contrastive", pairs, "-o", "out", "--preset", "tiny", code=1)
    assert "a new model needs text for its tokenizer: go on from a model (from), or name" in outcome.stderr


def test_plain_sentences_are_told_apart(run: Run, corpus: Path, model: Path) -> None:
    options = ["--from", model, "--max-length", "32", "--max-steps", "10"]
    run("train", "simcse", corpus, "-o", "out", *options)
    assert metrics("out")[-1]["simcse"] < metrics("out")[0]["simcse"]
    assert training("out")["objectives"][0]["dropout"] == 0.1
    assert is_picture("out")


def test_dropout_of_a_settings_file_is_not_overruled_by_a_default(
    run: Run, corpus: Path, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "settings.toml").write_text("[config]\ndropout = 0.3\n")
    run("train", "simcse", corpus, "-o", "out", "--from", model, *SHORT, "--config", "settings.toml")
    assert training("out")["objectives"][0]["dropout"] == 0.3


def test_denoising_makes_a_model_that_reconstructs(run: Run, corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text("[decoder]\nnum_layers = 1\n")
    options = ["--preset", "tiny", "--max-length", "16", "--max-steps", "60", "--learning-rate", "5e-3"]
    run("train", "denoise", corpus, "-o", "out", *options, "--delete-fraction", "0.2", "--config", "settings.toml")
    assert metrics("out")[-1]["denoise"] < 0.5 * metrics("out")[0]["denoise"]
    assert is_picture("out")
    sentence = "The old dog sat on the river bank."
    [row] = run("reconstruct", sentence, "-m", "out", "--format", "json").json
    assert row["sentence"] == sentence
    assert row["overlap"] > 0.5


def test_senses_are_parted(run: Run, uses: Path, model: Path) -> None:
    options = ["--from", model, "--max-length", "32", "--max-steps", "15"]
    outcome = run("train", "senses", uses, "-o", "out", *options, "--temperature", "0.2", "--gloss-weight", "0")
    assert "16 uses of 2 lemmas in 16 sentences\n" in outcome.stderr
    assert "2 groups of 16 uses; 0 uses left over" in outcome.stderr
    assert metrics("out")[-1]["senses"] < metrics("out")[0]["senses"]
    assert training("out")["objectives"][0]["temperature"] == 0.2
    assert is_picture("out")


@pytest.mark.parametrize("command", ["contrastive", "senses"])
def test_rows_without_what_an_objective_needs_are_named(run: Run, tmp_path: Path, model: Path, command: str) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "the bank"}\n')
    outcome = run("train", command, "rows.jsonl", "-o", "out", "--from", model, code=1)
    assert outcome.stderr.startswith("error: ")
    assert "rows.jsonl:1: " in outcome.stderr
    assert not Path("out").exists()

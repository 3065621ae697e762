"""``ctxembed reconstruct``: sentences beside what their vectors remember."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from ctxembed.config import DecoderConfig
from ctxembed.model.checkpoint import load_checkpoint, save_checkpoint
from ctxembed.model.decoder import TransformerDecoder
from ctxembed.reconstruction import Reconstructor, token_overlap

if TYPE_CHECKING:
    from .conftest import Run

SENTENCES = ["The bank lent money.", "A crane stood in the water near the bank."]


@pytest.fixture(scope="module")
def denoiser(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """The tiny model with a decoder of random weights."""
    model = load_checkpoint(tiny_model)
    torch.manual_seed(5)
    decoder = TransformerDecoder(model.encoder.config, DecoderConfig(num_layers=1))
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.15)
    folder = tmp_path_factory.mktemp("models") / "denoiser"
    save_checkpoint(folder, replace(model, name="denoiser", decoder=decoder), dtype=torch.float32)
    return folder


def test_row_holds_the_sentence_its_rebuilding_and_how_near_they_are(run: Run, denoiser: Path) -> None:
    rows = run("reconstruct", *SENTENCES, "-m", denoiser, "--format", "json").json
    reconstructor = Reconstructor.load(denoiser)
    encoder = reconstructor.embedder
    for sentence, row in zip(SENTENCES, rows, strict=True):
        [[one]] = reconstructor.reconstruct([sentence])
        assert list(row) == ["sentence", "rebuilt", "log_probability", "overlap", "cosine"]
        assert (row["sentence"], row["rebuilt"]) == (sentence, one.text)
        assert row["log_probability"] == pytest.approx(one.log_probability, abs=1e-2)
        before, after = (ids.tolist() for ids in encoder.tokenizer.encode_ids([sentence, one.text]))
        assert row["overlap"] == pytest.approx(token_overlap(before, after), abs=1e-6)
        first, second = encoder.encode([sentence, one.text])
        assert row["cosine"] == pytest.approx(float(np.dot(first, second)), abs=1e-2)


def test_formats_hold_the_same_rows(run: Run, denoiser: Path) -> None:
    arguments = ["reconstruct", *SENTENCES, "-m", denoiser, "--format"]
    rows = run(*arguments, "json").json
    assert run(*arguments, "jsonl").jsonl == rows
    table = csv.DictReader(io.StringIO(run(*arguments, "csv").stdout))
    assert list(table) == [{key: str(value) for key, value in row.items()} for row in rows]


def test_table_shows_both_sentences_and_the_figures(run: Run, denoiser: Path) -> None:
    outcome = run("reconstruct", SENTENCES[0], "-m", denoiser)
    header, *lines = outcome.stdout.splitlines()
    assert header.split() == ["sentence", "rebuilt", "log_probability", "overlap", "cosine"]
    assert lines[0].startswith(SENTENCES[0])
    assert outcome.stderr.startswith("computed by denoiser on cpu in ")


def test_sentences_may_come_from_stdin_beside_others(run: Run, denoiser: Path) -> None:
    arguments = ["-m", denoiser, "--format", "json"]
    rows = run("reconstruct", SENTENCES[0], "-", *arguments, input=f"\n {SENTENCES[1]}\n").json
    assert rows == run("reconstruct", *SENTENCES, *arguments).json


def test_a_wider_beam_is_followed(run: Run, denoiser: Path) -> None:
    arguments = ["reconstruct", *SENTENCES, "-m", denoiser, "--format", "json", "--beam"]
    rows = {beam: run(*arguments, beam).json for beam in (1, 6)}
    wanted = Reconstructor.load(denoiser).reconstruct(SENTENCES, beam=6)
    assert [row["rebuilt"] for row in rows[6]] == [candidates[0].text for candidates in wanted]
    assert [row["rebuilt"] for row in rows[6]] != [row["rebuilt"] for row in rows[1]]


def test_a_long_text_is_reported(run: Run, denoiser: Path) -> None:
    outcome = run("reconstruct", "the bank of the river " * 20, "-m", denoiser)
    assert "1 texts were longer than the window of denoiser: windowed, no token lost" in outcome.stderr


def test_a_model_without_decoder_is_a_mistake_with_the_way_out(run: Run, tiny_model: Path) -> None:
    outcome = run("reconstruct", SENTENCES[0], "-m", tiny_model, code=1)
    assert outcome.stderr.startswith("error: the model tiny has no decoder")
    assert "`ctxembed train denoise`" in outcome.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["the bank", " "], "error: a sentence is empty and has no vector: leave it out\n"),
        (["-"], "error: stdin holds no sentence: give one a line\n"),
        (["the bank", "-m", "hf:models/bert"], "error: hf:models/bert has no decoder: name a folder made by"),
        (["the bank", "-m", "nowhere"], "error: nowhere does not exist: check the spelling"),
    ],
)
def test_mistakes_are_answered_by_one_line(run: Run, denoiser: Path, arguments: list[str], message: str) -> None:
    model = [] if "-m" in arguments else ["-m", denoiser]
    outcome = run("reconstruct", *arguments, *model, code=1)
    assert outcome.stderr.startswith(message)
    assert outcome.stdout == ""


def test_without_a_model_the_one_that_ships_remembers_what_a_sentence_is_about(run: Run) -> None:
    sentences = ["She asked the bank for a loan.", "The light of the sun fell on the water."]
    rows = run("reconstruct", *sentences, "--format", "json").json
    assert [row["sentence"] for row in rows] == sentences
    assert "bank" in rows[0]["rebuilt"]
    assert {"light", "water", "sun"} & set(rows[1]["rebuilt"].split())

"""``ctxembed attend``: the worked example, and sentences in a model, as printed."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from html import escape, unescape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from ctxembed.config import DecoderConfig
from ctxembed.inspection.decoding import decoder_step
from ctxembed.inspection.heads import by_words
from ctxembed.inspection.trace import trace_sentence
from ctxembed.inspection.worked import worked_example
from ctxembed.model.checkpoint import load_checkpoint, save_checkpoint
from ctxembed.model.decoder import TransformerDecoder

if TYPE_CHECKING:
    from .conftest import Run

USES = ["the [bank] of the river", "The [bank] lent money."]


def test_worked_example_prints_the_numbers_of_the_notes(run: Run) -> None:
    lines = run("attend", "--worked").stdout.splitlines()
    start = next(number for number, line in enumerate(lines) if "raw scores" in line)
    assert [line.strip() for line in lines[start + 1 : start + 4]] == ["THE  2 0 2", "CAT  0 2 2", "SAT  2 2 4"]
    assert any("softmax([6, 4]) = 0.88 and 0.12" in line for line in lines)
    assert sum(line.split()[:1] in (["4"], ["64"], ["512"]) for line in lines) == 6


def test_worked_example_as_json_holds_every_matrix(run: Run) -> None:
    record = run("attend", "--worked", "--format", "json", "--seed", "3").json
    example = worked_example(seed=3)
    for name in ("query", "key", "value", "scores", "scaled", "weights", "mixed", "joined", "output"):
        np.testing.assert_allclose(record["random"][name], getattr(example.random, name), atol=1e-6)
        np.testing.assert_allclose(record["identity"][name], getattr(example.by_hand, name), atol=1e-6)
    assert [row["d_k"] for row in record["scaling"]] == [4, 4, 64, 64, 512, 512]


def test_worked_example_as_csv_is_a_row_for_each_pair(run: Run) -> None:
    rows = list(csv.DictReader(io.StringIO(run("attend", "--worked", "--format", "csv").stdout)))
    assert [float(row["score"]) for row in rows] == [2, 0, 2, 0, 2, 2, 2, 2, 4]


def test_word_attends_by_the_numbers_of_the_model(run: Run, tiny_model: Path) -> None:
    text = "She sat near the unbelievable bank of the river."
    record = run("attend", text, "--word", "bank", "--layer", "1", "-m", tiny_model, "--format", "json").json
    trace = trace_sentence(load_checkpoint(tiny_model), text)
    steps, number = trace.layers[0].attention, trace.unit_of(text.index("bank"))
    asks, unit = record["sentences"][0]["asks"], trace.units[number]
    assert (asks["word"], asks["number"]) == ("bank", number)
    for name in ("query", "key", "value", "scores", "mixed"):
        np.testing.assert_allclose(asks[name], getattr(steps, name)[:, unit.first : unit.end], atol=1e-6)
    np.testing.assert_allclose(asks["word_weights"], by_words(steps.weights, trace.units)[:, number], atol=1e-6)
    assert "compare --why" in record["caution"]


def test_table_shows_what_asks_what_heads_do_and_how_uses_part(run: Run, tiny_model: Path) -> None:
    outcome = run("attend", *USES, "-m", tiny_model)
    assert outcome.stdout.count("looks at each word") == 2
    assert "what the heads look at" in outcome.stdout
    assert "A bank and B bank" in outcome.stdout
    assert outcome.stdout.rstrip().endswith("ctxembed compare --why.")
    assert outcome.stderr == "computed by tiny on cpu in float32\n"


def test_two_uses_of_a_word_part_from_each_other_and_from_the_embedding(run: Run, tiny_model: Path) -> None:
    layers = run("attend", *USES, "-m", tiny_model, "--format", "json").json["layers"]
    assert [row["layer"] for row in layers] == [0, 1, 2]
    assert layers[0]["A bank, layer 0"] == 1
    assert layers[2]["A bank and B bank"] < 0.999
    assert layers[2]["A bank, layer 0"] < layers[0]["A bank, layer 0"]


def test_sentence_without_a_word_shows_all_pairs(run: Run, tiny_model: Path) -> None:
    outcome = run("attend", "THE BANK SAT", "-m", tiny_model, "--head", "2", "--layer", "2", "--format", "jsonl")
    trace = trace_sentence(load_checkpoint(tiny_model), "THE BANK SAT")
    expected = by_words(trace.layers[1].attention.weights, trace.units)[1]
    assert {(row["layer"], row["head"]) for row in outcome.jsonl} == {(2, 2)}
    np.testing.assert_allclose([row["weight"] for row in outcome.jsonl], expected.ravel(), atol=1e-6)


@pytest.mark.parametrize("arguments", [[], ["--head", "1"]])
def test_table_of_all_pairs_names_every_word(run: Run, tiny_model: Path, arguments: list[str]) -> None:
    shown = run("attend", "the bank of the river", "-m", tiny_model, *arguments).stdout
    assert "rollout of layers 1 to 2" in shown
    assert ("head 1" if arguments else "mean over its heads") in shown


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "give a SENTENCE, or --worked"),
        (["--worked", "the bank"], 2, "--worked has words of its own"),
        (["--worked", "--layer", "1"], 2, "--layer does nothing with --worked"),
        (["the bank", "--layer", "3"], 1, "layer = 3: tiny has layers 1 to 2"),
        (["the bank", "--layer", "0"], 1, "layer = 0: tiny has layers 1 to 2"),
        (["the bank", "--head", "3"], 1, "head = 3: tiny has heads 1 to 2"),
        (["the bank", "--word", "river"], 1, "'river' does not occur"),
        (["the bank", "-m", "hf:bert"], 1, "hf:bert runs in another library"),
    ],
)
def test_mistakes_are_answered_by_one_line(
    run: Run, tiny_model: Path, arguments: list[str], code: int, message: str
) -> None:
    own = [] if "-m" in arguments or "--worked" in arguments or not arguments else ["-m", tiny_model]
    outcome = run("attend", *arguments, *own, code=code)
    assert message in outcome.stderr
    assert outcome.stdout == ""


def test_static_vectors_are_refused(run: Run, static: Path) -> None:
    assert "a lookup attends to nothing" in run("attend", "the bank", "-m", static, code=1).stderr


def test_positions_are_shown_with_the_sentence_that_loses_its_order(run: Run, tiny_model: Path) -> None:
    shown = run("attend", "the bank was cold", "--positions", "-m", tiny_model).stdout
    for kind in ("sinusoidal", "learned", "rotary"):
        assert f"\n{kind}: " in shown
    assert "the order of the words is lost" in shown
    record = run("attend", "the bank was cold", "--positions", "-m", tiny_model, "--format", "json").json
    assert record["positions"] == "learned"
    assert all(row["without"] == 1 for row in record["tokens"])
    assert any(row["with positions"] < 0.9999 for row in record["tokens"])
    assert record["largest_difference"] < 1e-12


def test_positions_have_a_page_of_their_own(run: Run, tiny_model: Path) -> None:
    run("attend", "--positions", "-m", tiny_model, "--html", "places.html", "--format", "csv")
    page = Path("places.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 4
    assert "the order of the words is lost" in page


@pytest.fixture(scope="module")
def denoiser(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """The tiny model with a decoder of random weights."""
    model = load_checkpoint(tiny_model)
    torch.manual_seed(5)
    decoder = TransformerDecoder(model.encoder.config, DecoderConfig(num_layers=1))
    with torch.no_grad():
        decoder.bias[model.tokenizer.sep_id] = -20
    folder = tmp_path_factory.mktemp("models") / "denoiser"
    save_checkpoint(folder, replace(model, name="denoiser", decoder=decoder), dtype=torch.float32)
    return folder


def test_decoder_shows_one_step_of_it(run: Run, denoiser: Path) -> None:
    arguments = ["attend", "The bank lent money.", "--decoder", "--step", "3", "-m", denoiser]
    shown = run(*arguments).stdout
    assert "layer 1, masked self-attention" in shown
    assert "the sentence's vector (encoder-decoder)  1.000" in shown.replace("   ", "  ")
    assert "what comes next" in shown
    record = run(*arguments, "--format", "json").json
    step = decoder_step(load_checkpoint(denoiser), "The bank lent money.", step=3)
    assert record["tokens"] == list(step.tokens)
    assert len(record["tokens"]) == 3
    weights = record["layers"][0]["self_attention"]["weights"]
    np.testing.assert_allclose(weights, step.layers[0].look_back.weights, atol=1e-6)
    assert record["layers"][0]["self_attention"]["scaled"][0][0][1] is None  # -inf: it may not look ahead
    assert record["next"][0]["token"] == step.likeliest[0][0]


def test_decoder_page_shows_the_numbers_of_the_step(run: Run, denoiser: Path) -> None:
    arguments = ["attend", "The <bank> lent money.", "--decoder", "--step", "3", "-m", denoiser]
    run(*arguments, "--html", "step.html")
    page = Path("step.html").read_text(encoding="utf-8")
    step = decoder_step(load_checkpoint(denoiser), "The <bank> lent money.", step=3)
    assert "<h1>One step of the decoder: The &lt;bank&gt; lent money.</h1>" in page
    rows = [re.findall(r">([^<]*)</t[dh]>", row) for row in re.findall(r"<tr>(.*?)</tr>", unescape(page), re.DOTALL)]
    weights = step.layers[0].look_back.weights[:, -1]  # (H, T)
    for place, token in enumerate(step.tokens):
        assert [token, *(f"{weight:.3f}" for weight in weights[:, place])] in rows
    assert ["1", *(f"{size:.3f}" for size in step.layers[0].sizes)] in rows
    token, chance = step.likeliest[0]
    assert f"<title>{escape(token)}: {chance:.4g}</title>" in page


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--worked", "--positions"], 2, "are three views: choose one"),
        (["the bank", "--step", "2"], 2, "--step does nothing without --decoder"),
        (["a", "b", "--positions"], 2, "--positions shows one sentence at a time"),
        (["the bank", "--decoder", "--head", "1"], 2, "--head does nothing with --decoder"),
        (["the bank", "--decoder"], 1, "tiny has no decoder"),
        (["the bank", "--seed", "2"], 2, "--seed does nothing without --worked or --positions"),
    ],
)
def test_views_that_do_not_go_together_are_refused(
    run: Run, tiny_model: Path, arguments: list[str], code: int, message: str
) -> None:
    assert message in run("attend", *arguments, "-m", tiny_model, code=code).stderr

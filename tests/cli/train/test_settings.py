"""Settings of a training run are checked before any work."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .conftest import SHORT, TINY, training, without

if TYPE_CHECKING:
    from ..conftest import Run


def test_settings_of_a_file_are_those_of_the_model(run: Run, corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text(
        '[model]\nnum_layers = 1\npositions = "rotary"\n[tokenizer]\nvocab_size = 60\n'
        '[pooling]\nsentence = "cls"\n[config]\nmask_fraction = 0.3\nwhole_words = true\n'
    )
    options = [*without("--vocab-size", TINY), "--mask-fraction", "0.4", "--config", "settings.toml"]
    run("train", "mlm", corpus, "-o", "model", *options)
    [facts] = run("info", "model", "--format", "json").json
    assert (facts["layers"], facts["positions"], facts["width"], facts["vocabulary"]) == (1, "rotary", 64, 60)
    assert training("model")["pooling"]["sentence"] == "cls"
    [objective] = training("model")["objectives"]
    assert objective["whole_words"]
    assert objective["mask_fraction"] == 0.4  # the command line wins


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "[tokenizer]\nvocab_size = 60\n",
            "--vocab-size does nothing beside the [tokenizer] vocab_size of the settings",
        ),
        ('[model]\npreset = "mini"\n', "--preset does nothing beside the [model] preset of the settings file"),
        ('[model]\nfrom = "elsewhere"\n', "--preset does nothing with a model to go on from: leave it out"),
    ],
)
def test_nothing_is_set_in_two_places(run: Run, corpus: Path, tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "settings.toml").write_text(content)
    outcome = run("train", "mlm", corpus, "-o", "model", *TINY, "--config", "settings.toml", code=2)
    assert message in outcome.stderr.splitlines()[-1]
    assert not Path("model").exists()


SETTINGS = {
    "no TOML": ("x = ", r"settings\.toml is not valid TOML"),
    "unknown section": ("[modell]\nnum_layers = 1", r"'modell' is no section of this command: use \[model\], "),
    "section of the old form": (
        "[encoder]\nnum_layers = 1",
        r"'encoder' is no section .*: use \[model\], \[tokenizer\]",
    ),
    "section that is none": ("model = 3", "'model' is no section of this command"),
    "unknown key": (
        "[model]\nnum_layer = 1",
        "unknown setting 'num_layer' for EncoderConfig: did you mean 'num_layers'",
    ),
    "wrong type": ('[model]\nnum_layers = "two"', "EncoderConfig.num_layers = 'two': must be a int"),
    "heads that do not fit": ("[model]\nnum_heads = 3", "hidden_size = 64 is not a multiple of num_heads = 3"),
    "fraction": ("[config]\nmask_fraction = 7.0", "mask_fraction = 7.0: must be between 0 and 1"),
    "setting of another objective": (
        "[config]\ndelete_fraction = 0.1",
        "unknown setting 'delete_fraction' for Masking",
    ),
    "vocabulary": ("[model]\nvocab_size = 9", "vocab_size is not the encoder's to choose"),
    "short window": ("[model]\nmax_length = 8", "rows of max_length = 16 tokens, but the encoder's .*is 8"),
    "decoder": ("[decoder]\nnum_layers = 1", r"\[decoder\] does nothing without a denoise objective"),
}


@pytest.mark.parametrize(("content", "message"), SETTINGS.values(), ids=list(SETTINGS))
def test_wrong_setting_is_refused_before_anything_is_written(
    run: Run, corpus: Path, tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "settings.toml").write_text(content)
    outcome = run("train", "mlm", corpus, "-o", "model", *TINY, "--config", "settings.toml", code=1)
    assert re.search(f"(?m)^error: .*{message}", outcome.stderr)
    assert not Path("model").exists()


CONTRADICTIONS = {
    "steps and budget": ("mlm corpus.txt --max-steps 3 --budget 4s", "--max-steps does nothing beside --budget"),
    "new size of an old model": (
        "mlm corpus.txt --from {model} --preset mini",
        "--preset does nothing with a model to",
    ),
    "new tokenizer of an old model": (
        "mlm corpus.txt --from {model} --tokenizer {model}",
        "--tokenizer does nothing with a model to go on from",
    ),
    "size of a given tokenizer": (
        "mlm corpus.txt --tokenizer {model} --vocab-size 99",
        "--vocab-size does nothing with a trained tokenizer",
    ),
    "question to a folder": (
        "distill --from {model} --words words --layer 2",
        "--layer does nothing without INPUT to ask a model about",
    ),
    "texts of a folder": (
        "distill --from {model} --words words --max-documents 9",
        "--max-documents does nothing without INPUT",
    ),
    "limit of no cache": (
        "distill corpus.txt --from {model} --word-model {model} --cache-limit 9",
        "--cache-limit does nothing without --cache",
    ),
    "layer of no word teacher": (
        "distill corpus.txt --from {model} --sentence-model {model} --layer 1",
        "--layer does nothing without --word-model",
    ),
    "pieces of rows that are compared": (
        "simcse corpus.txt --from {model} --accumulation 2",
        "--accumulation does nothing for simcse, which compares the rows of a batch",
    ),
    "steps and budget of a recipe": ("recipe corpus.txt --max-steps 3 --budget 4s", "--max-steps does nothing beside"),
}


@pytest.mark.parametrize(("call", "message"), CONTRADICTIONS.values(), ids=list(CONTRADICTIONS))
def test_contradiction_is_wrong_usage(run: Run, corpus: Path, model: Path, call: str, message: str) -> None:
    outcome = run("train", *call.format(model=model).split(), "-o", "out", code=2)
    assert message in outcome.stderr.splitlines()[-1]
    assert not Path("out").exists()


def test_corpus_without_a_word_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    outcome = run("train", "mlm", "empty.txt", "-o", "model", *TINY, code=1)
    assert outcome.stderr == "error: the corpus holds no word to train on: check the input and its text column\n"


def test_training_that_diverges_says_what_to_lower(run: Run, corpus: Path) -> None:
    outcome = run("train", "mlm", corpus, "-o", "model", *TINY, "--learning-rate", "1e30", code=1)
    assert re.search(
        r"(?m)^error: the loss became \w+ at step \d: lower learning_rate \(1e\+30\); nothing had been saved",
        outcome.stderr,
    )
    assert not Path("model").exists()


def test_training_that_diverges_leaves_the_last_checkpoint_to_go_on_from(run: Run, corpus: Path) -> None:
    call = ["train", "mlm", corpus, *without("--max-steps", TINY)]
    outcome = run(*call, "-o", "model", "--learning-rate", "30", "--checkpoint-every", "2", code=1)
    assert re.search(
        r"the loss rose from .* to .*; the model of step \d+ is in model/last-good: go on ", outcome.stderr
    )
    assert not Path("model/config.json").exists()
    run("train", "mlm", corpus, "--from", "model/last-good", "-o", "other", *SHORT[2:], "--max-length", "16")


def test_a_mistake_does_not_stand_in_the_way_of_its_correction(run: Run, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"body": "the ferry left the port"}\n' * 4)
    call = ("train", "mlm", "rows.jsonl", "-o", "new", "--preset", "tiny", "--max-steps", "1")
    assert "no column 'text'" in run(*call, code=1).stderr
    assert not (tmp_path / "new").exists()
    run(*call, "--text-column", "body")
    assert (tmp_path / "new" / "config.json").exists()

"""``ctxembed train``: a model comes out and works, equal runs are equal, settings are checked before any work."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ctxembed.static import StaticVectors
from ctxembed.tokenizer import SubwordTokenizer

if TYPE_CHECKING:
    from .conftest import Run

TINY = ("--preset", "tiny", "--vocab-size", "150", "--max-length", "16", "--batch-tokens", "256", "--max-steps", "3")
SHORT = ("--max-length", "32", "--batch-tokens", "512", "--max-steps", "3")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Thirty-six sentences of a tiny world."""
    path = tmp_path / "corpus.txt"
    lines = [
        f"The {size} {animal} sat on the {place} bank.\n"
        for size in ("old", "big", "red", "wet")
        for animal in ("dog", "cat", "hen")
        for place in ("river", "town", "muddy")
    ]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def without_vocabulary(options: tuple[str, ...]) -> list[str]:
    """The options without --vocab-size and its value."""
    place = options.index("--vocab-size")
    return [*options[:place], *options[place + 2 :]]


def training(folder: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((Path(folder) / "training.json").read_text(encoding="utf-8"))
    return record


def test_mlm_makes_a_model_that_is_better_than_chance_and_can_be_used(run: Run, corpus: Path) -> None:
    arguments = ["--preset", "tiny", "--max-steps", "80", "--seed", "7"]
    outcome = run("train", "mlm", "corpus.txt", "-o", "model/", *arguments)
    assert outcome.stdout == ""
    assert "step 80/80: loss " in outcome.stderr
    assert "36 documents\n" in outcome.stderr
    assert "the tokenizer learned from 36 documents (a seeded sample of at most 200,000)\n" in outcome.stderr
    assert training("model")["tokenizer_documents"] == 36
    assert "the model is in model: try  ctxembed compare -m model " in outcome.stderr
    assert sorted(path.name for path in Path("model").iterdir()) == [
        "README.md",
        "config.json",
        "metrics.jsonl",
        "model.safetensors",
        "tokenizer.json",
        "training.json",
    ]
    metrics = [json.loads(line) for line in Path("model/metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in metrics if "loss" in line]
    assert losses[-1] < 0.7 * losses[0]
    assert (training("model")["steps"], training("model")["seed"]) == (80, 7)
    assert training("model")["inputs"] == ["corpus.txt"]
    uses = ["the [bank] of the river", "the old [bank]"]
    compared = run("compare", *uses, "-m", "model", "--no-static", "--nearest", "0", "--format", "json").json
    assert compared["model"] == "model"


def test_equal_runs_make_equal_models(run: Run, corpus: Path) -> None:
    for parent in ("first", "second"):
        run("train", "mlm", corpus, "-o", f"{parent}/model", *TINY, "--seed", "3")
    run("train", "mlm", corpus, "-o", "third/model", *TINY, "--seed", "4")
    for name in ("config.json", "model.safetensors", "tokenizer.json", "training.json", "README.md"):
        assert Path("first/model", name).read_bytes() == Path("second/model", name).read_bytes(), name
    assert Path("first/model/model.safetensors").read_bytes() != Path("third/model/model.safetensors").read_bytes()


def test_model_of_one_sentence_can_be_trained(run: Run, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("The bank of the river.\n")
    run("train", "mlm", "one.txt", "-o", "model", *TINY)
    assert training("model")["steps"] == 3


def test_tokenizer_that_is_given_is_the_one_used(run: Run, corpus: Path) -> None:
    run("tokenizer", "train", corpus, "-o", "tok", "--kind", "bpe", "--vocab-size", "300")
    run("train", "mlm", corpus, "-o", "model", *without_vocabulary(TINY), "--tokenizer", "tok")
    tokenizers = [SubwordTokenizer.load(folder) for folder in ("tok", "model")]
    assert tokenizers[0].fingerprint == tokenizers[1].fingerprint


def test_sample_of_the_documents_is_trained_on(run: Run, corpus: Path) -> None:
    run("train", "mlm", corpus, "-o", "model", *TINY, "--max-documents", "5")
    assert training("model")["rows"] == 5


def test_settings_of_a_file_win_over_the_preset(run: Run, corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text(
        '[encoder]\nnum_layers = 1\npositions = "rotary"\n[tokenizer]\nvocab_size = 60\n'
        "[masking]\nmask_fraction = 0.3\n"
    )
    run("train", "mlm", corpus, "-o", "model", *without_vocabulary(TINY), "--config", "settings.toml")
    [facts] = run("info", "model", "--format", "json").json
    assert (facts["layers"], facts["positions"], facts["width"], facts["vocabulary"]) == (1, "rotary", 64, 60)
    assert training("model")["masking"]["mask_fraction"] == 0.3


def test_vocabulary_is_not_set_twice(run: Run, corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text("[tokenizer]\nvocab_size = 60\n")
    outcome = run("train", "mlm", corpus, "-o", "model", *TINY, "--config", "settings.toml", code=2)
    assert "--vocab-size does nothing beside the [tokenizer] vocab_size in settings.toml: leave it" in outcome.stderr
    assert not Path("model").exists()


SETTINGS = {
    "no TOML": ("x = ", r"settings\.toml is not valid TOML"),
    "unknown section": ("[encodr]\nnum_layers = 1", r"'encodr' is no section of this command: use \[encoder\], "),
    "section that is none": ("encoder = 3", "'encoder' is no section of this command"),
    "unknown key": (
        "[encoder]\nnum_layer = 1",
        "unknown setting 'num_layer' for EncoderConfig: did you mean 'num_layers'",
    ),
    "wrong type": ('[encoder]\nnum_layers = "two"', "EncoderConfig.num_layers = 'two': must be a int"),
    "heads that do not fit": ("[encoder]\nnum_heads = 3", "hidden_size = 64 is not a multiple of num_heads = 3"),
    "fraction": ("[masking]\nmask_fraction = 7.0", "mask_fraction = 7.0: must be between 0 and 1"),
    "vocabulary": ("[encoder]\nvocab_size = 9", "vocab_size is not the encoder's to choose"),
    "short window": ("[encoder]\nmax_length = 8", "rows of max_length = 16 tokens, but the encoder's .*is 8"),
}


@pytest.mark.parametrize(("content", "message"), SETTINGS.values(), ids=list(SETTINGS))
def test_wrong_setting_is_refused_before_anything_is_written(
    run: Run, corpus: Path, tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "settings.toml").write_text(content)
    outcome = run("train", "mlm", corpus, "-o", "model", *TINY, "--config", "settings.toml", code=1)
    assert re.search(f"^error: .*{message}", outcome.stderr)
    assert not Path("model").exists()


def test_corpus_without_a_word_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    outcome = run("train", "mlm", "empty.txt", "-o", "model", *TINY, code=1)
    assert outcome.stderr == "error: the corpus holds no word to train on: check the input and its text column\n"


def test_training_that_diverges_says_what_to_lower(run: Run, corpus: Path) -> None:
    outcome = run("train", "mlm", corpus, "-o", "model", *TINY, "--learning-rate", "1e30", code=1)
    assert re.search(r"(?m)^error: the loss became \w+ at step \d: lower learning_rate", outcome.stderr)


# Following a teacher


@pytest.fixture
def teacher(run: Run, corpus: Path, static: Path) -> Path:
    """Folders ``sentences`` and ``words`` with the static vectors of the corpus."""
    for output, unit in (("sentences", "sentence"), ("words", "word")):
        run("embed", corpus, "-o", output, "-m", static, "--unit", unit)
    return static


@pytest.mark.parametrize("folders", [("--sentences",), ("--words",), ("--sentences", "--words")])
def test_model_follows_a_teacher(run: Run, teacher: Path, model: Path, folders: tuple[str, ...]) -> None:
    given = [part for option in folders for part in (option, option.removeprefix("--"))]
    outcome = run("train", "distill", "--init", model, *given, "-o", "student", *SHORT)
    assert "36 texts; 0 longer than 32 tokens left out\n" in outcome.stderr
    named = {"fingerprint": StaticVectors.load(teacher).fingerprint, "layer": None}
    kinds = [option.removeprefix("--") for option in folders]
    notes = training("student")
    assert {kind: found for kind, found in notes["teachers"].items() if found} == dict.fromkeys(kinds, named)
    counts = {"sentences": 36, "words": 36 * 8}
    units = {"sentences": "sentence", "words": "word"}
    assert notes["teacher_folders"] == [
        {"model": "static", "unit": units[kind], "layer": None, "vectors": counts[kind]} for kind in kinds
    ]
    assert notes["texts"] == 36
    card = Path("student/README.md").read_text(encoding="utf-8")
    assert all(f"- teacher: static, {counts[kind]} {units[kind]} vectors\n" in card for kind in kinds)
    run("embed", "corpus.txt", "-o", "vecs", "-m", "student")


def test_vectors_that_say_nothing_are_counted(run: Run, static: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "odd.txt").write_text("The bank of the river.\nqqzzqq xxqqxx\n")
    run("embed", "odd.txt", "-o", "odd", "-m", static)
    outcome = run("train", "distill", "--init", model, "--sentences", "odd", "-o", "student", *SHORT)
    assert "1 vectors left out: they are zero, or their word has no token\n" in outcome.stderr
    assert training("student")["skipped_vectors"] == 1


@pytest.mark.parametrize(
    ("option", "folder", "message"),
    [
        ("--sentences", "words", "words holds word vectors, need sentence: "),
        ("--words", "sentences", "sentences holds sentence vectors, need word or content-word: "),
    ],
)
def test_teacher_of_the_other_unit_is_refused(
    run: Run, teacher: Path, model: Path, option: str, folder: str, message: str
) -> None:
    outcome = run("train", "distill", "--init", model, option, folder, "-o", "student", *SHORT, code=1)
    assert outcome.stderr.startswith(f"error: {message}")


def test_damaged_teacher_is_refused(run: Run, teacher: Path, model: Path, flip: Callable[[Path], None]) -> None:
    flip(Path("words/part-00000.npy"))
    outcome = run("train", "distill", "--init", model, "--words", "words", "-o", "student", *SHORT, code=3)
    assert "words/part-00000.npy is damaged" in outcome.stderr


# Static vectors


STATIC = ("--dimension", "8", "--epochs", "2", "--min-count", "1")


def test_static_vectors_of_equal_runs_are_equal_byte_for_byte(run: Run, corpus: Path) -> None:
    outcome = run("train", "static", corpus, "-o", "first/static", *STATIC)
    assert "epoch 2/2: 36 documents, 288 words\n" in outcome.stderr
    assert "first/static: 14 words of width 8\n" in outcome.stderr
    assert outcome.stdout == ""
    run("train", "static", corpus, "-o", "second/static", *STATIC)
    names = sorted(path.name for path in Path("first/static").iterdir())
    assert names == ["counts.npy", "manifest.json", "vectors.npy", "words.txt"]
    for name in names:
        assert Path("first/static", name).read_bytes() == Path("second/static", name).read_bytes(), name


def test_static_vocabulary_is_bounded_as_asked(run: Run, corpus: Path) -> None:
    run("train", "static", corpus, "-o", "static", *STATIC, "--max-vocabulary", "2", "--algorithm", "cbow")
    assert StaticVectors.load("static").words == ("the", "bank")


@pytest.mark.parametrize("taken", ["static", "model"])
def test_static_vectors_replace_nothing(run: Run, corpus: Path, taken: str) -> None:
    Path(taken).mkdir()
    (Path(taken) / "words.txt").write_text("mine")
    outcome = run("train", "static", corpus, "-o", taken, *STATIC, code=1)
    assert outcome.stderr == f"error: {taken} exists already: choose another -o, or delete it\n"
    assert (Path(taken) / "words.txt").read_text() == "mine"


def test_a_mistake_does_not_stand_in_the_way_of_its_correction(run: Run, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"body": "the ferry left the port"}\n' * 4)
    call = ("train", "mlm", "rows.jsonl", "-o", "new", "--preset", "tiny", "--max-steps", "1")
    assert "no column 'text'" in run(*call, code=1).stderr
    assert not (tmp_path / "new").exists()
    run(*call, "--text-column", "body")
    assert (tmp_path / "new" / "config.json").exists()

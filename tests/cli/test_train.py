"""``ctxembed train``: a model comes out and works, equal runs are equal, settings are checked before any work."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ctxembed.static import StaticVectors
from ctxembed.tokenizer import SubwordTokenizer

if TYPE_CHECKING:
    from .conftest import Run

TINY = ("--preset", "tiny", "--vocab-size", "150", "--max-length", "16", "--batch-tokens", "256", "--max-steps", "3")
SHORT = ("--max-length", "32", "--batch-tokens", "512", "--max-steps", "3")
EIGHTY = ("--preset", "tiny", "--max-steps", "80", "--checkpoint-every", "20", "--seed", "7")
FILES = [
    "README.md",
    "config.json",
    "loss.png",
    "metrics.jsonl",
    "model.safetensors",
    "tokenizer.json",
    "training.json",
]
SIZES, ANIMALS, PLACES = ("old", "big", "red", "wet"), ("dog", "cat", "hen"), ("river", "town", "muddy")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Thirty-six sentences of a tiny world."""
    path = tmp_path / "corpus.txt"
    lines = [
        f"The {size} {animal} sat on the {place} bank.\n" for size in SIZES for animal in ANIMALS for place in PLACES
    ]
    path.write_text("".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Thirty-six questions, each with its answer and one that only looks like it."""
    rows = [
        {
            "anchor": f"Where did the {a} {b} sit, near the {c}?",
            "positive": f"The {a} {b} sat on the {c} bank.",
            "negatives": [f"The {a} {b} ran from the {c} bank."],
        }
        for a, b, c in itertools.product(SIZES, ANIMALS, PLACES)
    ]
    return written(tmp_path / "pairs.jsonl", rows)


@pytest.fixture
def uses(tmp_path: Path) -> Path:
    """Sixteen uses of two words, two senses each."""
    frames = (
        ("bank", "shore", "The {} river bank was muddy."),
        ("bank", "money", "The {} bank in town lent money."),
        ("plant", "green", "The {} plant grew on the river."),
        ("plant", "works", "The {} plant in town makes cars."),
    )
    rows = []
    for size in SIZES:
        for word, sense, frame in frames:
            text = frame.format(size)
            start = text.index(word)
            rows.append({"text": text, "start": start, "end": start + len(word), "lemma": word, "label": sense})
    return written(tmp_path / "uses.jsonl", rows)


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def without(option: str, options: tuple[str, ...]) -> list[str]:
    """The options without one of them and its value."""
    place = options.index(option)
    return [*options[:place], *options[place + 2 :]]


def training(folder: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((Path(folder) / "training.json").read_text(encoding="utf-8"))
    return record


def metrics(folder: str) -> list[dict[str, float]]:
    """The lines of the steps, without those of evaluations."""
    lines = [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if "loss" in line]


def is_picture(folder: str) -> bool:
    return Path(folder, "loss.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


# Masked words


def test_mlm_makes_a_model_that_is_better_than_chance_and_can_be_used(run: Run, corpus: Path) -> None:
    outcome = run("train", "mlm", "corpus.txt", "-o", "model/", *EIGHTY)
    assert outcome.stdout == ""
    assert "step 80: loss " in outcome.stderr
    assert "36 documents\n" in outcome.stderr
    assert "the tokenizer learned from 36 documents (a seeded sample of at most 200,000)\n" in outcome.stderr
    assert "the model is in model, its loss curve in model/loss.png\n" in outcome.stderr
    assert sorted(path.name for path in Path("model").iterdir()) == FILES
    assert is_picture("model")
    lines = metrics("model")
    assert [line["step"] for line in lines] == list(range(1, 81))
    assert all(line.keys() >= {"step", "loss", "tokens", "seconds"} for line in lines)
    assert lines[-1]["loss"] < 0.7 * lines[0]["loss"]
    assert (training("model")["steps"], training("model")["seed"]) == (80, 7)
    assert training("model")["inputs"] == ["corpus.txt"]
    marked = ["the [bank] of the river", "the old [bank]"]
    compared = run("compare", *marked, "-m", "model", "--no-static", "--nearest", "0", "--format", "json").json
    assert compared["model"] == "model"


def started(*arguments: str) -> subprocess.Popen[bytes]:
    """Begin a run in a process of its own."""
    command = [sys.executable, "-m", "ctxembed_cli", *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def wait_for_steps(process: subprocess.Popen[bytes], file: Path, steps: int) -> None:
    """Wait until a run has written so many lines of metrics."""
    for _ in range(20_000):
        if file.exists() and file.read_bytes().count(b"\n") >= steps:
            return
        assert process.poll() is None, process.communicate()[1].decode()
        time.sleep(0.005)
    pytest.fail(f"{file} had no {steps} lines in time")


def test_killed_run_that_is_resumed_gives_the_same_model_and_losses(run: Run, corpus: Path) -> None:
    run("train", "mlm", "corpus.txt", "-o", "whole/model/", *EIGHTY)
    call = ("train", "mlm", "corpus.txt", "-o", "killed/model/", *EIGHTY)
    with started(*call) as process:
        wait_for_steps(process, Path("killed/model/metrics.jsonl"), 25)  # metrics are there while it runs
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not Path("killed/model/model.safetensors").exists()
    assert Path("killed/model/.run/state.safetensors").exists()
    assert metrics("killed/model")[-1]["step"] < 80
    run(*call, "--resume")
    assert sorted(path.name for path in Path("killed/model").iterdir()) == FILES
    for name in ("model.safetensors", "tokenizer.json"):
        assert Path("killed/model", name).read_bytes() == Path("whole/model", name).read_bytes(), name
    whole, killed = ([{**line, "seconds": 0} for line in metrics(f"{part}/model")] for part in ("whole", "killed"))
    assert killed == whole


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
    run("train", "mlm", corpus, "-o", "model", *without("--vocab-size", TINY), "--tokenizer", "tok")
    tokenizers = [SubwordTokenizer.load(folder) for folder in ("tok", "model")]
    assert tokenizers[0].fingerprint == tokenizers[1].fingerprint


def test_sample_of_the_documents_is_trained_on(run: Run, corpus: Path) -> None:
    run("train", "mlm", corpus, "-o", "model", *TINY, "--max-documents", "5")
    assert training("model")["objectives"][0]["items"] == 5


def test_texts_that_are_left_out_are_counted(run: Run, tmp_path: Path) -> None:
    (tmp_path / "gaps.txt").write_bytes(b"the river\n\nthe b\xffnk\n")
    outcome = run("train", "mlm", "gaps.txt", "-o", "model", *TINY, "--encoding-errors", "replace")
    assert "2 documents; 1 empty texts skipped; 1 lines with undecodable bytes replaced\n" in outcome.stderr


def test_processes_of_torchrun_make_one_model(run: Run, corpus: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "ctxembed_cli"]
    call = ["train", "mlm", "corpus.txt", "-o", "model", *TINY]
    surroundings = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, *call], capture_output=True, text=True, timeout=300, env=surroundings, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the model is in model") == 1
    assert done.stderr.count("step 3: loss ") == 1
    assert sorted(path.name for path in Path("model").iterdir()) == FILES
    assert training("model")["processes"] == 2
    run(*call[:4], "alone", *TINY)
    for shared, alone in zip(metrics("model"), metrics("alone"), strict=True):
        assert shared["loss"] == pytest.approx(alone["loss"], abs=0.05)  # dropout is each process's own


# Settings in a file


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


# Where to begin


def test_model_is_gone_on_from_and_left_as_it_was(run: Run, corpus: Path, model: Path) -> None:
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    run("train", "mlm", corpus, "-o", "adapted", "--from", model, *SHORT, "--learning-rate", "2e-4")
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before
    assert Path("adapted/tokenizer.json").read_bytes() == before["tokenizer.json"]
    assert training("adapted")["initial_name"] == "model"
    assert "- continued from: model\n" in Path("adapted/README.md").read_text(encoding="utf-8")
    assert is_picture("adapted")
    first = metrics("adapted")[0]["mlm"]
    run("train", "mlm", corpus, "-o", "anew", "--tokenizer", model, "--preset", "tiny", *SHORT)
    assert first < metrics("anew")[0]["mlm"]  # what the model had learned was there from the start


def test_default_is_the_model_that_ships(run: Run, corpus: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctxembed.training.recipes.default_model", {"encoder": model}.__getitem__)
    run("train", "mlm", corpus, "-o", "adapted", "--from", "default", *SHORT)
    assert training("adapted")["initial_name"] == "model"


def test_embedding_layer_begins_with_static_vectors(run: Run, corpus: Path, static: Path) -> None:
    from ctxembed.model.checkpoint import load_checkpoint

    still = ["--init-embeddings", static, "--learning-rate", "1e-12"]
    outcome = run("train", "mlm", corpus, "-o", "model", *TINY, *still)
    told = re.search(r"the embedding layer begins with static: (\d+) of (\d+) tokens", outcome.stderr)
    assert told
    assert 0 < int(told[1]) < int(told[2])
    assert training("model")["initial_embeddings"] == "static"
    checkpoint, vectors = load_checkpoint("model"), StaticVectors.load(static)
    whole = [word for word in ("the", "sat", "on", "old", "bank", "town", "dog") if word in vectors.words]
    tokens = [int(checkpoint.tokenizer.vocabulary()[word]) for word in whole]
    assert len(tokens) > 2
    begun = checkpoint.encoder.embedding.tokens.weight.detach().float().numpy()[tokens]
    given = vectors.encode(whole)
    begun /= np.linalg.norm(begun, axis=1, keepdims=True)
    np.testing.assert_allclose(begun @ begun.T, given @ given.T, atol=5e-3)  # a turn keeps all angles


# Pairs, plain sentences, senses


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
    outcome = run("train", "distill", "--from", model, *given, "-o", "student", *SHORT)
    assert re.search(r"(?m)^36 texts; 0 longer than 32 tokens left out; \d+ vectors without use$", outcome.stderr)
    named = {"fingerprint": StaticVectors.load(teacher).fingerprint, "layer": None}
    kinds = [option.removeprefix("--") for option in folders]
    [objective] = training("student")["objectives"]
    assert {kind: found for kind, found in objective["teachers"].items() if found} == dict.fromkeys(kinds, named)
    assert objective["items"] == 36
    lines = {"sentences": "static, 36 sentence vectors", "words": "static, 288 word vectors"}
    assert training("student")["teachers"] == [lines[kind] for kind in kinds]
    card = Path("student/README.md").read_text(encoding="utf-8")
    assert all(f"- teacher: {lines[kind]}\n" in card for kind in kinds)
    run("embed", "corpus.txt", "-o", "vecs", "-m", "student")


def test_teacher_that_is_asked_is_asked_once(run: Run, corpus: Path, static: Path, model: Path) -> None:
    asked = ["--sentence-model", static, "--word-model", static, "--cache", "cache"]
    call = ["train", "distill", corpus, "--from", model, *asked, *SHORT, "-o"]
    outcome = run(*call, "student")
    assert "36 documents, 180 content words: about 0.0 MB\n" in outcome.stderr
    assert re.search(r"(?m)^36 texts; 0 longer than 32 tokens left out; \d+ vectors without use$", outcome.stderr)
    assert "- teacher: static, sentence vectors\n" in Path("student/README.md").read_text(encoding="utf-8")
    kept = {path: path.stat().st_mtime_ns for path in Path("cache").rglob("*") if path.is_file()}
    assert {path.parts[1] for path in kept} == {"sentences", "words", "axes"}
    run(*call, "again/student")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert Path("again/student/model.safetensors").read_bytes() == Path("student/model.safetensors").read_bytes()


def test_teacher_may_be_asked_batch_by_batch(run: Run, corpus: Path, static: Path, model: Path) -> None:
    outcome = run("train", "distill", corpus, "--from", model, "--word-model", static, *SHORT, "-o", "student")
    assert re.search(r"(?m)^means of \d+ word forms, from a seeded sample of \d+ content words$", outcome.stderr)
    assert metrics("student")[0]["distill_word"] > 0


def test_weights_of_a_distillation_stand_in_a_file(run: Run, teacher: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text("[config]\nresidual_weight = 0.0\n")
    call = ["train", "distill", "--from", model, "--words", "words", "-o", "student", *SHORT]
    run(*call, "--config", "settings.toml")
    assert "distill_word" in metrics("student")[0]
    assert "distill_residual" not in metrics("student")[0]


def test_vectors_that_say_nothing_are_counted(run: Run, static: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "odd.txt").write_text("The bank of the river.\nqqzzqq xxqqxx\n")
    run("embed", "odd.txt", "-o", "odd", "-m", static)
    outcome = run("train", "distill", "--from", model, "--sentences", "odd", "-o", "student", *SHORT)
    assert "; 1 vectors without use\n" in outcome.stderr


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
    outcome = run("train", "distill", "--from", model, option, folder, "-o", "student", *SHORT, code=1)
    assert outcome.stderr.startswith(f"error: {message}")


def test_teacher_is_either_folders_or_models(run: Run, teacher: Path, model: Path) -> None:
    both = ["corpus.txt", "--words", "words", "--word-model", teacher]
    outcome = run("train", "distill", *both, "--from", model, "-o", "student", code=1)
    assert re.match(r"error: distill needs a teacher: folders .* or models .*, not both\n$", outcome.stderr)


def test_damaged_teacher_is_refused(run: Run, teacher: Path, model: Path, flip: Callable[[Path], None]) -> None:
    flip(Path("words/part-00000.npy"))
    outcome = run("train", "distill", "--from", model, "--words", "words", "-o", "student", *SHORT, code=3)
    assert "words/part-00000.npy is damaged" in outcome.stderr


# Recipes

MIXTURE = """
[model]
preset = "tiny"
[tokenizer]
vocab_size = 150
[training]
max_steps = 4
batch_tokens = 512
max_length = 32
[[objective]]
kind = "mlm"
inputs = ["../corpus.txt"]
config = { whole_words = true }
[[objective]]
kind = "contrastive"
inputs = ["$PAIRS/pairs.jsonl"]
share = 3
weight = 0.5
"""


@pytest.fixture
def recipe(corpus: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A mixture of two objectives, in a folder of its own."""
    monkeypatch.setenv("PAIRS", str(pairs.parent))
    path = tmp_path / "recipes" / "mixture.toml"
    path.parent.mkdir()
    path.write_text(MIXTURE)
    return path


def test_recipe_mixes_objectives_by_share_and_weight(run: Run, recipe: Path) -> None:
    outcome = run("train", "recipe", recipe, "-o", "out", "--seed", "5")
    assert "36 documents\n36 pairs\n" in outcome.stderr
    lines = metrics("out")
    assert len(lines) == 4
    assert all(line["loss"] == pytest.approx(line["mlm"] + 0.5 * line["contrastive"], rel=1e-4) for line in lines)
    record = training("out")
    assert [(each["kind"], each["share"], each["weight"]) for each in record["objectives"]] == [
        ("mlm", 1, 1),
        ("contrastive", 3, 0.5),
    ]
    assert (record["seed"], record["inputs"]) == (5, ["corpus.txt", "pairs.jsonl"])
    assert record["objectives"][0]["whole_words"]
    assert is_picture("out")


def test_recipe_keeps_to_a_budget_and_says_what_it_allows(run: Run, recipe: Path) -> None:
    outcome = run("train", "recipe", recipe, "-o", "out", "--budget", "4s")
    forecast = re.search(r"(?m)^forecast: ([\d,]+) steps and ([\d,]+) tokens in 4 s$", outcome.stderr)
    truth = re.search(r"(?m)^forecast (.*) steps, (.*) tokens; done (.*) steps, (.*) tokens in 4 s$", outcome.stderr)
    assert forecast
    assert truth
    assert forecast.groups() == truth.groups()[:2]
    last = metrics("out")[-1]
    assert 4 <= last["seconds"] < 4.6
    assert truth.groups()[2:] == (f"{last['step']:,}", f"{last['tokens']:,}")
    promised, done = int(forecast[1].replace(",", "")), last["step"]
    assert 0.5 * done < promised < 2 * done


def test_steps_of_the_command_line_win_over_a_budget_of_the_recipe(run: Run, recipe: Path) -> None:
    recipe.write_text(MIXTURE.replace("max_steps = 4", "budget = 3600"))
    run("train", "recipe", recipe, "-o", "out", "--max-steps", "2")
    assert training("out")["steps"] == 2


def test_dry_run_checks_a_recipe_and_writes_nothing(run: Run, recipe: Path) -> None:
    outcome = run("train", "recipe", recipe, "-o", "out", "--dry-run")
    assert outcome.stderr == f"{recipe} is in order: 2 objectives on corpus.txt, pairs.jsonl\n"
    assert not Path("out").exists()


def test_teacher_of_a_recipe_is_looked_for_beside_it(
    run: Run, teacher: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEACHER", str(teacher))
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "distill.toml").write_text(
        f'[model]\nfrom = "{model}"\n[training]\nmax_steps = 2\nmax_length = 32\n'
        '[[objective]]\nkind = "distill"\nteacher = { sentences = ["../sentences"], words = ["../words"] }\n'
        '[[objective]]\nkind = "distill"\ninputs = ["../corpus.txt"]\n'
        'teacher = { word_model = "$TEACHER", cache = "kept" }\n'
    )
    run("train", "recipe", "recipes/distill.toml", "-o", "out")
    assert sorted(path.name for path in (folder / "kept").iterdir()) == ["axes", "words"]
    assert training("out")["teachers"] == [
        "static, 36 sentence vectors",
        "static, 288 word vectors",
        "static, word vectors",
    ]


RECIPES = {
    "unknown section": ("[modell]\n", r"mixture\.toml: unknown section 'modell': known are model, tokenizer"),
    "no section": ("training = 3\n", r"mixture\.toml: training = 3 is no section: write \[training\]"),
    "one objective": ('[objective]\nkind = "mlm"\n', r"is no section: write \[\[objective\]\]"),
    "no objective": ('[model]\npreset = "tiny"\n', r"a recipe needs at least one \[\[objective\]\]"),
    "unknown kind": ('[[objective]]\nkind = "glove"\n', "kind = 'glove': must be one of mlm, contrastive, simcse"),
    "no kind": ('[[objective]]\ninputs = ["../corpus.txt"]\n', "ObjectiveTable needs kind: add it"),
    "no inputs": ('[[objective]]\nkind = "mlm"\n', "mlm needs inputs: name files to learn from"),
    "missing inputs": ('[[objective]]\nkind = "mlm"\ninputs = ["corpus.txt"]\n', r"corpus\.txt does not exist"),
    "misspelt setting": (
        '[[objective]]\nkind = "mlm"\ninputs = ["../corpus.txt"]\nwieght = 2\n',
        "unknown setting 'wieght' for ObjectiveTable: did you mean 'weight'",
    ),
    "weight": ('[[objective]]\nkind = "mlm"\nweight = 0\n', "share and weight of mlm must be above 0"),
    "teacher of none": (
        '[[objective]]\nkind = "mlm"\ninputs = ["../corpus.txt"]\nteacher = { cache = "x" }\n',
        "teacher does nothing for mlm: leave it out",
    ),
    "sample of pairs": (
        '[[objective]]\nkind = "contrastive"\ninputs = ["../pairs.jsonl"]\nmax_documents = 3\n',
        "max_documents does nothing for contrastive",
    ),
    "teacher that is no list": (
        '[[objective]]\nkind = "distill"\nteacher = { words = "words" }\n',
        "words = 'words' of the teacher: write a list of folders",
    ),
    "unknown teacher": (
        '[[objective]]\nkind = "distill"\nteacher = { wrods = ["words"] }\n',
        "unknown setting 'wrods' of the teacher: known are cache, layer",
    ),
    "new shape of an old model": (
        '[model]\nfrom = "default"\nnum_layers = 2\n[[objective]]\nkind = "mlm"\ninputs = ["../corpus.txt"]\n',
        "num_layers cannot be changed in a model to go on from: leave it out",
    ),
}


@pytest.mark.parametrize(("content", "message"), RECIPES.values(), ids=list(RECIPES))
def test_wrong_recipe_is_refused_with_the_reason(run: Run, recipe: Path, content: str, message: str) -> None:
    recipe.write_text(content)
    outcome = run("train", "recipe", recipe, "-o", "out", code=1)
    assert re.fullmatch(f"error: .*{message}.*\n", outcome.stderr)
    assert not Path("out").exists()


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

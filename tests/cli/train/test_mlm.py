"""``ctxembed train mlm``: a model comes out and works, equal runs are equal, a killed run goes on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ctxembed.static import StaticVectors
from ctxembed.tokenizer import SubwordTokenizer

from .conftest import EIGHTY, FILES, SHORT, TINY, is_picture, metrics, training, without

if TYPE_CHECKING:
    from ..conftest import Run


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
    monkeypatch.setattr("ctxembed.runtime.default_model", {"encoder": model}.__getitem__)
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

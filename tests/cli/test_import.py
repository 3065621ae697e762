"""``ctxembed import``: what it says, what it refuses, and that its result serves wherever a model does."""

from __future__ import annotations

import json
import shutil
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ctxembed.embedder import Embedder

if TYPE_CHECKING:
    from .conftest import Run


@pytest.fixture(scope="session")
def imported(tmp_path_factory: pytest.TempPathFactory, bert_folder: Path) -> Path:
    """An imported model without a head, for tests that only read it."""
    from ctxembed.interop.importing import import_model, save_imported

    folder = tmp_path_factory.mktemp("imported") / "model"
    save_imported(folder, import_model(bert_folder))
    return folder


def test_a_folder_becomes_a_model_that_embeds(run: Run, bert_folder: Path) -> None:
    outcome = run("import", bert_folder, "-o", "model/")
    assert outcome.stdout == ""
    assert outcome.stderr.splitlines() == [
        "left out 2 weights that no vector needs: pooler.dense.bias, pooler.dense.weight",
        "the model is in model: 3 layers, 32 wide, windows of 40 tokens, mean pooling, without masked-word head, "
        "prompts: none",
    ]
    vectors = Embedder.load("model/").encode(["the bank lent money", "a river"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_options_win_over_the_folder(run: Run, bert_folder: Path) -> None:
    options = ("--name", "mine", "--pooling", "cls", "--max-length", "16", "--dtype", "float16")
    outcome = run("import", bert_folder, "-o", "model", *options)
    assert "windows of 16 tokens, cls pooling" in outcome.stderr
    [facts] = run("info", "model", "--format", "json").json
    assert (facts["name"], facts["max_length"], facts["width"]) == ("mine", 16, 32)


def test_an_output_that_exists_is_kept(run: Run, bert_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("kept")
    outcome = run("import", bert_folder, "-o", "model", code=1)
    assert outcome.stderr == "error: model exists already: choose another -o, or delete it\n"


def test_a_refused_model_leaves_nothing_behind(run: Run, tmp_path: Path) -> None:
    (tmp_path / "roberta").mkdir()
    (tmp_path / "roberta" / "config.json").write_text('{"model_type": "roberta"}')
    outcome = run("import", "roberta", "-o", "model", code=1)
    assert outcome.stderr.startswith("error: roberta is of the type 'roberta'")
    assert outcome.stderr.count("\n") == 1
    assert not (tmp_path / "model").exists()


def test_a_folder_that_is_no_model_is_damage(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty has no config.json: name the folder of a Hugging Face model" in (
        run("import", "empty", "-o", "model", code=3).stderr
    )


# Downloads


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A huggingface_hub that reaches no network."""
    module = types.ModuleType("huggingface_hub")
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return module


def test_an_id_is_fetched_only_when_told_to(run: Run, hub: types.ModuleType) -> None:
    outcome = run("import", "maker/little-bert", "-o", "model", code=1)
    assert outcome.stderr == (
        "error: maker/little-bert does not exist here: check the spelling, or if it is an id of the Hugging Face hub, "
        "fetch it with --download\n"
    )


def test_an_id_is_fetched_and_imported_under_its_name(run: Run, hub: types.ModuleType, bert_folder: Path) -> None:
    asked: list[Any] = []

    def snapshot_download(repo_id: str, **options: Any) -> str:
        asked.append((repo_id, options))
        return str(bert_folder)

    hub.snapshot_download = snapshot_download  # type: ignore[attr-defined]
    run("import", "maker/small-bert", "-o", "model", "--download")
    [(repo_id, options)] = asked
    assert repo_id == "maker/small-bert"
    assert "*.safetensors" in options["allow_patterns"]
    assert not any("bin" in pattern or pattern == "*" for pattern in options["allow_patterns"])
    assert Embedder.load("model").name == "small-bert"


def test_what_the_hub_refuses_is_one_line(run: Run, hub: types.ModuleType) -> None:
    def snapshot_download(repo_id: str, **options: Any) -> str:
        raise OSError("Repository Not Found\nand a page more")

    hub.snapshot_download = snapshot_download  # type: ignore[attr-defined]
    outcome = run("import", "maker/none", "-o", "model", "--download", code=1)
    assert outcome.stderr == (
        "error: maker/none could not be fetched from the Hugging Face hub (Repository Not Found): check the id\n"
    )


def test_without_the_library_the_pip_line_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    outcome = run("import", "maker/none", "-o", "model", "--download", code=1)
    assert "huggingface_hub is not installed: pip install '.[interop]'" in outcome.stderr


def test_download_of_a_folder_that_is_here_is_refused(run: Run, bert_folder: Path) -> None:
    outcome = run("import", bert_folder, "-o", "model", "--download", code=2)
    assert "--download does nothing with a folder that is here" in outcome.stderr


# The result, wherever a model serves


def test_an_imported_model_embeds_indexes_searches_and_compares(run: Run, imported: Path, rows: Path) -> None:
    run("embed", rows, "-o", "words", "--unit", "word", "-m", imported)
    run("index", "build", rows, "-o", "idx", "-m", imported)
    hits = run(
        "search", "idx", "The bank lent money to the farmer.", "-k", "1", "-m", imported, "--format", "json"
    ).json
    assert hits[0]["id"] == "loan"
    assert hits[0]["score"] == pytest.approx(1, abs=1e-2)
    outcome = run("compare", "the [bank] of the river", "the [bank] lent money", "-m", imported, "--corpus", rows)
    assert "in context" in outcome.stdout


def test_an_imported_model_is_measured(run: Run, imported: Path) -> None:
    outcome = run("bench", "retrieval", "-m", imported, "--format", "json")
    assert outcome.json


def test_a_default_prompt_is_that_of_searches_too(run: Run, bert_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(bert_folder, tmp_path / "asking")
    prompts = {"prompts": {"query": "the river: "}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    assert "prompts: query" in run("import", folder, "-o", "model").stderr
    embedder = Embedder.load("model", dtype="float32")
    np.testing.assert_array_equal(embedder.encode(["bank"]), embedder.encode(["the river: bank"], prompt=""))


QUICK = ("--max-steps", "2", "--eval-every", "2", "--batch-tokens", "256", "--max-length", "32")


def tokenizer_of(folder: Path) -> bytes:
    return (folder / "tokenizer.json").read_bytes()


def test_an_imported_model_is_distilled_further_with_its_tokenizer(
    run: Run, imported: Path, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "texts.txt").write_text("".join(f"money of the river {n}\n" for n in range(40)))
    start = ("--from", imported, "--sentence-model", model)
    run("train", "distill", "texts.txt", "-o", "more", *start, *QUICK)
    assert tokenizer_of(tmp_path / "more") == tokenizer_of(imported)
    assert not np.allclose(Embedder.load("more").encode(["the bank"]), Embedder.load(imported).encode(["the bank"]))


def test_an_imported_model_is_trained_further_on_pairs(run: Run, imported: Path, tmp_path: Path) -> None:
    pairs = [{"anchor": f"the bank {n}", "positive": f"money of the river {n}"} for n in range(40)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    run("train", "contrastive", "pairs.jsonl", "-o", "more", "--from", imported, *QUICK)
    assert tokenizer_of(tmp_path / "more") == tokenizer_of(imported)


def test_masked_words_go_on_with_the_head_of_the_original(run: Run, bert: Any, sample: Path, tmp_path: Path) -> None:
    folder = bert(tmp_path / "mlm", kind="BertForMaskedLM")
    assert "with masked-word head" in run("import", folder, "-o", "model").stderr
    outcome = run("train", "mlm", sample, "-o", "more", "--from", "model", "--max-documents", "40", *QUICK)
    assert "begins with nothing" not in outcome.stderr


def test_masked_words_without_a_head_say_that_it_begins_with_nothing(run: Run, imported: Path, sample: Path) -> None:
    outcome = run("train", "mlm", sample, "-o", "more", "--from", imported, "--max-documents", "40", *QUICK)
    assert "little-bert has no masked-word head: a new one begins with nothing" in outcome.stderr

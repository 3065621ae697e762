"""``ctxembed info``: the facts of every kind of folder, in every format, and what is damaged."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ctxembed import __version__
from ctxembed.embedder import Embedder
from ctxembed.index import VectorIndex
from ctxembed.tokenizer import SubwordTokenizer

if TYPE_CHECKING:
    from .conftest import Run


@pytest.fixture
def facts(run: Run) -> Callable[..., dict[str, Any]]:
    """Return the facts that are printed for a folder."""

    def look(*arguments: str | Path) -> dict[str, Any]:
        [found] = run("info", *arguments, "--format", "json").json
        return dict(found)

    return look


def test_model_is_described_by_its_shape_and_fingerprint(facts: Callable[..., dict[str, Any]], model: Path) -> None:
    found = facts(model)
    assert (found["name"], found["format"], found["layers"], found["width"]) == ("model", "ctxembed-model", 2, 64)
    assert found["fingerprint"] == Embedder.load(model).fingerprint
    assert found["bytes"] == sum((model / name).stat().st_size for name in ("model.safetensors", "tokenizer.json"))


def test_static_vectors_are_described(facts: Callable[..., dict[str, Any]], static: Path) -> None:
    found = facts(static)
    assert (found["name"], found["format"], found["dimension"]) == ("static", "ctxembed-static", 16)
    assert found["words"] == len((static / "words.txt").read_text(encoding="utf-8").splitlines())


def test_index_is_described_with_its_model(facts: Callable[..., dict[str, Any]], index: Path, model: Path) -> None:
    found = facts(index)
    assert (found["format"], found["rows"], found["metric"], found["unit"]) == (
        "ctxembed-index",
        6,
        "cosine",
        "sentence",
    )
    assert (found["model"], found["fingerprint"]) == ("model", Embedder.load(model).fingerprint)
    assert "name" not in found


def test_index_of_unknown_origin_is_described(run: Run, facts: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    np.save(tmp_path / "theirs.npy", np.ones((2, 3), dtype=np.float32))
    run("index", "build", "theirs.npy", "-o", "idx")
    found = facts("idx")
    assert (found["rows"], found["model"], found["fingerprint"]) == (2, "unknown", None)


def test_tokenizer_alone_is_described(facts: Callable[..., dict[str, Any]], tmp_path: Path, model: Path) -> None:
    shutil.copy(model / "tokenizer.json", tmp_path)
    tokenizer = SubwordTokenizer.load(tmp_path)
    assert facts(tmp_path) == {
        "format": "tokenizer",
        "vocabulary": len(tokenizer),
        "fingerprint": tokenizer.fingerprint,
    }


def test_interrupted_build_is_told_with_its_way_out(run: Run, rows: Path, static: Path) -> None:
    run("embed", rows, "-o", "idx/.building", "-m", static)
    assert run("info", "idx", code=3).stderr == (
        "error: idx is an index whose build is unfinished: continue it with `ctxembed index build --resume`, "
        "or start again with --overwrite\n"
    )


def test_vectors_are_described_with_their_settings(
    run: Run, facts: Callable[..., dict[str, Any]], rows: Path, model: Path
) -> None:
    run("embed", rows, "-o", "vecs", "-m", model, "--unit", "word", "--layer", "1", "--dtype", "float16")
    found = facts("vecs")
    assert (found["format"], found["complete"], found["documents"]) == ("ctxembed-vectors", True, 6)
    assert (found["model"], found["unit"], found["layer"], found["dtype"]) == ("model", "word", 1, "float16")


def test_senses_are_described_by_their_words_and_model(
    run: Run, facts: Callable[..., dict[str, Any]], tmp_path: Path, model: Path
) -> None:
    texts = [f"the bank of the river {n}" for n in range(9)] + [f"the bank lent money {n}" for n in range(9)]
    (tmp_path / "uses.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    run("senses", "uses.txt", "bank", "-k", "2", "-m", model, "-o", "kept")
    found = facts("kept")
    assert (found["format"], found["words"], found["model"], found["layer"]) == ("ctxembed-senses", 1, "model", None)
    [centres] = Path("kept").glob("centres*.npy")
    centres.write_bytes(centres.read_bytes()[:-1])
    assert "is damaged" in run("info", "kept", code=3).stderr


def test_an_index_of_vectors_alone_is_described(facts: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    vectors = np.random.default_rng(1).standard_normal((30, 8)).astype(np.float32)
    VectorIndex.build(vectors, path=tmp_path / "bare")
    found = facts("bare")
    assert (found["format"], found["rows"], found["kind"]) == ("ctxembed-vector-index", 30, "flat")


def test_every_format_has_the_same_facts(run: Run, facts: Callable[..., dict[str, Any]], model: Path) -> None:
    wanted = facts(model)
    assert run("info", model, "--format", "jsonl").jsonl == [wanted]
    pairs = list(csv.reader(io.StringIO(run("info", model, "--format", "csv").stdout)))
    assert pairs == [["what", "value"], *([name, str(value)] for name, value in wanted.items())]
    table = [line.split(maxsplit=1) for line in run("info", model).stdout.splitlines()]
    assert [[name, value.strip()] for name, value in table] == pairs


def test_without_folder_the_versions_are_shown_and_no_path_is(facts: Callable[..., dict[str, Any]]) -> None:
    found = facts()
    assert found["ctxembed"] == __version__
    assert {"python", "torch", "faiss-cpu", "system", "cores", "encoder model", "static model"} <= set(found)
    assert str(Path.home()) not in json.dumps(found)


@pytest.mark.parametrize("kind", ["empty folder", "file"])
def test_what_is_not_ours_is_refused(run: Run, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "thing"
    path.mkdir() if kind == "empty folder" else path.touch()
    outcome = run("info", path, code=3)
    assert outcome.stderr == f"error: {path} holds no model, vectors or index of ctxembed: check the path\n"


def test_format_of_a_later_version_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"format": "ctxembed-dreams"}')
    assert "which this ctxembed does not know: upgrade it" in run("info", tmp_path, code=3).stderr


PARTS = {
    "model": ("model.safetensors", "tokenizer.json"),
    "static": ("vectors.npy", "words.txt", "counts.npy"),
    "index": ("vectors.1.faiss", "rows.1.sqlite"),
}


@pytest.mark.parametrize(("kind", "part"), [(kind, part) for kind, parts in PARTS.items() for part in parts])
def test_changed_byte_is_found(
    run: Run, request: pytest.FixtureRequest, flip: Callable[[Path], None], kind: str, part: str
) -> None:
    shutil.copytree(request.getfixturevalue(kind), "damaged")
    flip(Path("damaged") / part)
    outcome = run("info", "damaged", code=3)
    assert outcome.stderr.startswith(f"error: damaged/{part} is damaged")
    assert (outcome.stdout, len(outcome.stderr.splitlines())) == ("", 1)


@pytest.mark.parametrize("content", ["{", "3", '{"version": 1}'])
def test_damaged_manifest_is_found(run: Run, index: Path, content: str) -> None:
    shutil.copytree(index, "damaged")
    Path("damaged/manifest.json").write_text(content)
    assert run("info", "damaged", code=3).stderr.startswith("error: damaged/manifest.json is damaged (")

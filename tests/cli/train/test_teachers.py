"""``ctxembed train distill``: a model follows a teacher."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ctxembed.static import StaticVectors

from .conftest import SHORT, metrics, training

if TYPE_CHECKING:
    from ..conftest import Run


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

"""``ctxembed demo`` and the model that is used where none is named."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ctxembed.runtime import data_directory

if TYPE_CHECKING:
    from .conftest import Run


@pytest.fixture
def tiny_models_ship(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Path, static: Path) -> None:
    """Let the tiny models of the tests stand where those that ship are looked for."""
    data = tmp_path / "data"
    shutil.copytree(model, data / "models" / "encoder")
    shutil.copytree(static, data / "models" / "static")
    for part in ("corpora", "benchmarks"):
        (data / part).symlink_to(data_directory() / part)
    monkeypatch.setattr("ctxembed.runtime.data_directory", lambda: data)


@pytest.fixture
def no_models_ship(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation without models."""
    monkeypatch.setattr("ctxembed.runtime.data_directory", lambda: tmp_path)


@pytest.mark.usefixtures("tiny_models_ship")
def test_demo_embeds_indexes_searches_and_compares(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    outcome = run("demo")
    assert "1,044 sentences, 64 wide, in " in outcome.stderr
    assert re.search(r"^done in \d+\.\d s$", outcome.stderr, re.MULTILINE)
    assert len(re.findall(r"^== \d\. ", outcome.stdout, re.MULTILINE)) == 3
    answers = outcome.stdout.split("\n? ")[1:]
    assert [len(re.findall(r"^ *-?[01]\.\d{3}  \S", answer, re.MULTILINE)) for answer in answers] == [3, 3, 3]
    assert outcome.stdout.count("[bank]") >= 4
    assert " static lookup: static\n" in re.sub(" +\n", "\n", outcome.stdout)
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.usefixtures("tiny_models_ship")
def test_model_that_ships_is_used_where_none_is_named(run: Run, rows: Path, model: Path) -> None:
    run("index", "build", rows, "-o", "idx")
    default = run("search", "idx", "my card got lost", "-k", "5", "--format", "json").json
    assert default == run("search", "idx", "my card got lost", "-k", "5", "--format", "json", "-m", model).json
    compared = run("compare", "the [bank] of the river", "the [bank] lent money", "--format", "json").json
    assert (compared["model"], compared["static_model"]) == ("model", "static")


@pytest.mark.usefixtures("no_models_ship")
@pytest.mark.parametrize(
    "arguments", [["demo"], ["search", "idx", "bank"], ["compare", "a [bank]"], ["bench", "words"]]
)
def test_installation_without_models_says_so(run: Run, monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    monkeypatch.setattr("ctxembed.evaluation.datasets.data_directory", data_directory)
    outcome = run(*arguments, code=1)
    assert outcome.stderr.startswith("error: this installation ships no encoder model: train one, and name its folder")


@pytest.mark.usefixtures("shipped_models")
def test_demo_runs_on_the_models_that_ship(run: Run) -> None:
    outcome = run("demo")
    assert "1,044 sentences" in outcome.stderr
    assert outcome.stdout.count("\n? ") == 3


@pytest.mark.usefixtures("shipped_models")
def test_commands_of_the_readme_run_without_naming_a_model(run: Run, rows: Path) -> None:
    run("index", "build", rows, "--text-column", "text", "-o", "idx/")
    hits = run("search", "idx/", "my card got lost", "-k", "5", "--format", "json").json
    assert hits[0]["id"] == "lost"
    assert [set(hit) for hit in hits] == [{"id", "score", "text", "metadata"}] * 5
    compared = run("compare", "the [bank] of the river", "the [bank] lent money", "--format", "json").json
    assert compared["contextual"][0][1] < compared["static"][0][1]

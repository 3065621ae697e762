"""``ctxembed train static``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ctxembed.static import StaticVectors

if TYPE_CHECKING:
    from ..conftest import Run


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

"""docs/adapt.md, index.md and search.md: every command that they show is run, on a few rows and with a tiny model."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctxembed.embedder import Embedder

from .conftest import Run, ctxembed

DOCS = Path(__file__).parents[2] / "docs"
SUBJECTS = ("card got lost", "river bank", "loan of money", "plant in light", "cell in a phone", "cell in a leaf")
ROWS = [
    {"id": f"n{number}", "text": f"Row {number} has my {subject}, invoice {4700 + number}.", "year": 1980 + number}
    | {"source": "xyz"[number % 3]}
    for number, subject in enumerate(SUBJECTS * 4)
]
ADAPTING = {"train mlm", "train recipe", "bench words", "bench retrieval"}


def commands(page: str) -> list[list[str]]:
    """The arguments of every command that a page shows, in order."""
    lines = (DOCS / page).read_text(encoding="utf-8").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("    ctxembed ")]


def write(name: str, rows: list[dict[str, Any]]) -> None:
    """Write rows into the test's own folder."""
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def folder(run: Run, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test's own folder, where the tiny model stands for the one that ships."""
    del run
    monkeypatch.setenv("CTXEMBED_MODEL", str(model))
    write("notes.jsonl", ROWS)
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_commands_of_the_guide_to_indexes_run() -> None:
    write("more.jsonl", [{"id": "m1", "text": "One more.", "source": "x"}])
    write("rows.jsonl", [ROWS[0] | {"year": 2001}, {"id": "u1", "text": "A new row.", "source": "y"}])
    write("parts.jsonl", [{"id": f"v{number}", "text": f"Vector {number}."} for number in range(3)])
    ctxembed("embed", "parts.jsonl", "-o", "vecs")
    np.save("theirs.npy", np.random.default_rng(1).standard_normal((9, 4)).astype(np.float32))
    Path("ids.txt").write_text("".join(f"t{number}\n" for number in range(9)))
    Path("texts.txt").write_text("".join(f"Their text {number}.\n" for number in range(9)))
    shown = commands("index.md")
    builds = [command for command in shown if command[1] == "build"]
    assert len(builds) >= 3
    for command in reversed(builds):  # the first of them makes the index that the rest is about
        shutil.rmtree("idx", ignore_errors=True)
        ctxembed(*command)
    for command in shown:
        if command[1] != "build":
            ctxembed(*command)
    assert {command[1] for command in shown} >= {"info", "add", "update", "delete", "compact", "verify"}
    rows = ctxembed("search", "idx", "anything", "-k", "100", "--format", "jsonl").jsonl
    kept = {row["id"] for row in ROWS if row["source"] != "x"}  # the row of n0 was updated, and deleted with its source
    assert {row["id"] for row in rows} == kept | {"u1", "v0", "v1", "v2"}


def test_commands_of_the_guide_to_searching_run(folder: Path) -> None:
    shown = commands("search.md")
    assert len(shown) >= 8
    printed = {" ".join(command): ctxembed(*command).stdout for command in shown}
    assert all(text for command, text in printed.items() if command.startswith("search "))
    [conditional] = [text for command, text in printed.items() if "--where" in command]
    years = [hit["metadata"]["year"] for hit in json.loads(conditional)]
    assert years
    assert min(years) >= 1990
    assert "<svg" in (folder / "map.html").read_text(encoding="utf-8")


# Going on from a model


@pytest.fixture
def field(folder: Path) -> None:
    """The files that docs/adapt.md names."""
    texts = "".join(f"{row['text']}\n" for row in ROWS * 3)
    for name in ("my-field.txt", "general.txt", "documents.txt"):
        (folder / name).write_text(texts, encoding="utf-8")
    write("questions.jsonl", [{"anchor": f"Where is {row['id']}?", "positive": row["text"]} for row in ROWS])
    uses = [row["text"] for row in ROWS if "cell" in row["text"]]
    write(
        "uses.jsonl",
        [
            {"text": text, "start": text.index("cell"), "end": text.index("cell") + 4, "lemma": "cell"}
            | {"label": text.split(",")[0].split()[-1]}
            for text in uses
        ],
    )
    write("my-queries/corpus.jsonl", [{"id": row["id"], "text": row["text"]} for row in ROWS])
    write("my-queries/queries.jsonl", [{"id": "q1", "text": "a lost card"}, {"id": "q2", "text": "a cell"}])
    Path("my-queries/qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq1\tn0\t1\nq2\tn4\t1\n")


def recipes(model: Path) -> list[str]:
    """The recipes of docs/adapt.md, made short, and begun from a model."""
    page = (DOCS / "adapt.md").read_text(encoding="utf-8")
    parts = re.findall(r"(?m)(?:^(?:    .*)?\n)+", page)
    found = [re.sub(r"(?m)^    ", "", part) for part in parts if "[[objective]]" in part]
    changes = ((r'"default"', f'"{model}"'), (r"max_steps = \d+", "max_steps = 2"), (r"(?m)^batch_tokens = .*\n", ""))
    for pattern, value in changes:
        found = [re.sub(pattern, value, recipe) for recipe in found]
    return found


@pytest.mark.usefixtures("field")
def test_commands_of_the_guide_to_adapting_run(model: Path) -> None:
    [kept, *others] = recipes(model)
    Path("adapt.toml").write_text(kept, encoding="utf-8")
    shown = commands("adapt.md")
    assert {" ".join(command[:2]) for command in shown} >= ADAPTING
    fingerprints = set()
    for command in shown:
        given = [str(model) if word == "default" else word for word in command]
        if "-o" in given:
            shutil.rmtree("adapted", ignore_errors=True)  # the second way to make it
        if given[1] == "mlm":
            given[given.index("--max-steps") + 1] = "2"
        ctxembed(*given)
        fingerprints.add(Embedder.load("adapted").fingerprint)
    assert len(fingerprints) == 2
    for number, recipe in enumerate(others):
        Path("other.toml").write_text(recipe, encoding="utf-8")
        ctxembed("train", "recipe", "other.toml", "-o", f"other-{number}")
    assert len(others) == 2

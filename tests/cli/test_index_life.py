"""``ctxembed index add``, ``update``, ``delete``, ``compact``, ``verify``, ``info`` and the kinds of ``build``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from .conftest import Run

MORE = (
    {"id": "ferry", "text": "The ferry left at dawn.", "topic": "outdoors", "year": 2023},
    {"id": "lost", "text": "My card got lost somewhere in town.", "topic": "card", "year": 2021},
)


@pytest.fixture
def more(tmp_path: Path) -> Path:
    """A new row, and one that the index has."""
    path = tmp_path / "more.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in MORE), encoding="utf-8")
    return path


@pytest.fixture
def own(index: Path, tmp_path: Path) -> str:
    """An index of six documents that may be changed."""
    shutil.copytree(index, tmp_path / "idx")
    return "idx/"


def ids(run: Run, index: str, model: Path) -> list[str]:
    hits = run("search", index, "my card got lost", "-k", "100", "--format", "json", "-m", model).json
    return sorted(hit["id"] for hit in hits)


SIX = ["fee", "light", "loan", "lost", "plant", "river"]


def test_life_of_an_index(run: Run, own: str, more: Path, model: Path) -> None:
    added = run("index", "add", own, "more.jsonl", "-m", model)
    assert added.stdout == ""
    assert "idx: 1 added, 1 unchanged; 7 rows now, in " in added.stderr
    assert ids(run, own, model) == sorted([*SIX, "ferry"])
    deleted = run("index", "delete", own, "--where", "topic = 'outdoors' and year >= 2018")
    assert deleted.stderr == "idx: 2 rows deleted\n"
    assert ids(run, own, model) == ["fee", "loan", "lost", "plant", "river"]
    assert run("index", "delete", own, "--id", "river", "--id", "fee").stderr == "idx: 2 rows deleted\n"
    assert ids(run, own, model) == ["loan", "lost", "plant"]
    assert run("index", "compact", own).stderr.startswith("idx: compacted in ")
    assert run("index", "compact", own).stderr == "idx: there was nothing to do\n"
    assert ids(run, own, model) == ["loan", "lost", "plant"]
    assert run("index", "verify", own).stderr.startswith("idx is sound: 3 rows, 2 files, ")


def test_addition_that_is_no_flat_index_says_what_it_is(
    run: Run, rows: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("index", "build", "rows.jsonl", "-o", "idx", "--kind", "ivf-sq8", "--max-memory", "1M", "-m", model)
    Path("many.txt").write_text("".join(f"The ferry left at {n}.\n" for n in range(40)))
    assert "new vector index" not in run("index", "add", "idx", "many.txt", "-m", model).stderr
    monkeypatch.setattr("ctxembed.index.changes.FLAT_VALUES", 10)
    Path("more.txt").write_text("".join(f"The train left at {n}.\n" for n in range(40)))
    added = run("index", "add", "idx", "more.txt", "-m", model).stderr
    assert "40 rows are in a new vector index: ivf-sq8, recall " in added
    assert [record["kind"] for record in run("index", "info", "idx", "--format", "json").json] == [
        "ivf-sq8", "flat", "ivf-sq8"
    ]  # fmt: skip


def test_update_replaces_a_text(run: Run, own: str, tmp_path: Path, model: Path) -> None:
    (tmp_path / "new.jsonl").write_text('{"id": "fee", "text": "A boat.", "year": 1}\n{"id": "x", "text": "Y."}\n')
    refused = run("index", "add", own, "new.jsonl", "-m", model, code=1)
    assert refused.stderr.startswith("error: id 'fee' is in idx with other text: `ctxembed index update` replaces it")
    assert "1 added, 1 updated; 7 rows now" in run("index", "update", own, "new.jsonl", "-m", model).stderr
    [hit] = run("search", own, "A boat.", "-k", "1", "--format", "json", "-m", model).json
    assert (hit["id"], hit["metadata"]) == ("fee", {"year": 1})
    run("index", "verify", own)


def test_metadata_column_of_the_sample_is_found_by_its_name(run: Run, static: Path, sample: Path) -> None:
    lines = sample.read_text(encoding="utf-8").splitlines(keepends=True)
    Path("cranes.jsonl").write_text("".join(line for line in lines if '"art' in line), encoding="utf-8")
    run("index", "build", "cranes.jsonl", "-o", "idx", "-m", static)
    hits = run("search", "idx", "red cap", "--where", "word = 'crane'", "--format", "json", "-m", static).json
    assert "art-001" in {hit["id"] for hit in hits}
    assert {hit["metadata"]["word"] for hit in hits} == {"crane"}
    assert f"{len(hits):,} rows deleted" in run("index", "delete", "idx", "--where", "word = 'crane'").stderr


def test_id_twice_in_an_update_is_told_without_an_option_that_it_has_not(run: Run, own: str, model: Path) -> None:
    Path("twice.jsonl").write_text('{"id": "x", "text": "A boat."}\n{"id": "x", "text": "A tree."}\n')
    refused = run("index", "update", own, "twice.jsonl", "-m", model, code=1).stderr
    assert refused.startswith("error: id 'x' occurs twice: leave one out, or let `index build` or `index add` keep")
    skipped = run("index", "add", own, "twice.jsonl", "-m", model, "--restart", "--on-duplicate", "skip").stderr
    assert "1 added, 1 skipped: their id was taken; 7 rows now" in skipped


def test_folder_of_vectors_is_added(run: Run, own: str, more: Path, model: Path) -> None:
    run("embed", "more.jsonl", "-o", "vecs", "-m", model, "--text-column", "text")
    idle = run("index", "add", own, "vecs/", "-m", model, code=2)
    assert "--model does nothing for an input of vectors" in idle.stderr
    assert "idx: 1 added, 1 unchanged; 7 rows now, in " in run("index", "add", own, "vecs/").stderr
    assert run("index", "update", own, "vecs/").stderr.startswith("idx: 2 unchanged; 7 rows now")
    assert ids(run, own, model) == sorted([*SIX, "ferry"])
    run("index", "verify", own)


def test_verify_names_what_is_damaged(run: Run, own: str, flip: Callable[[Path], None]) -> None:
    flip(Path("idx/vectors.1.faiss"))
    outcome = run("index", "verify", own, code=3)
    assert outcome.stderr == ("error: idx/vectors.1.faiss is damaged (its sha256 differs): build the index again\n")


def test_damaged_manifest_is_replaced_as_the_message_says(
    run: Run, own: str, more: Path, model: Path, flip: Callable[[Path], None]
) -> None:
    flip(Path("idx/manifest.json"))
    assert "manifest.json is damaged" in run("index", "verify", own, code=3).stderr
    build = ("index", "build", "more.jsonl", "-o", own, "-m", model)
    assert "idx holds an index that cannot be read: --overwrite it" in run(*build, code=1).stderr
    run(*build, "--overwrite")
    assert ids(run, own, model) == ["ferry", "lost"]
    run("index", "verify", own)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["delete", "idx/"], 2, "say which rows: either --where CONDITION, or --id ID"),
        (["delete", "idx/", "--where", "year >"], 1, "the condition 'year >' cannot be read: it ends too early"),
        (["delete", "idx/", "--where", "yaer > 1"], 1, "has a column 'yaer': did you mean 'year'?"),
        (["delete", "idx/", "--id", "nobody"], 1, "no row has the id 'nobody'"),
        (["delete", "idx/", "--id", "fee#1-99999999999999999999"], 1, "no row has the id 'fee#1-9"),
        (["add", "idx/", "idx/"], 3, "has format 'ctxembed-index', need 'ctxembed-vectors'"),
        (["add", "idx/", "theirs.npy"], 1, "theirs.npy does not say which model made it"),
        (["compact", "nowhere"], 1, "nowhere does not exist"),
        (["verify", "nowhere"], 1, "nowhere does not exist"),
    ],
)
def test_mistakes_are_one_line(run: Run, own: str, arguments: list[str], code: int, message: str) -> None:
    assert message in run("index", *arguments, code=code).stderr


@pytest.fixture
def vectors(tmp_path: Path) -> np.ndarray:
    """Three thousand vectors in theirs.npy, some of them alike."""
    rng = np.random.default_rng(0)
    array = rng.standard_normal((50, 16))[rng.integers(0, 50, 3000)] + 0.5 * rng.standard_normal((3000, 16))
    np.save(tmp_path / "theirs.npy", array.astype(np.float32))
    return array


@pytest.mark.parametrize("kind", ["hnsw", "ivf-sq8", "ivf-pq", "IVF16,Flat"])
def test_kind_is_built_measured_and_described(run: Run, vectors: np.ndarray, kind: str) -> None:
    built = run("index", "build", "theirs.npy", "-o", "idx", "--kind", kind, "--min-recall", "0.9")
    assert f"{kind} (" in built.stderr
    assert "of the ten nearest" in built.stderr
    [record] = run("index", "info", "idx", "--format", "json").json
    assert (record["kind"], record["rows"]) == (kind, 3000)
    assert record["recall@10"] >= 0.88
    assert record["latency_ms"] > 0
    run("index", "verify", "idx")


def test_automatic_kind_of_few_rows_compares_every_vector(run: Run, vectors: np.ndarray) -> None:
    run("index", "build", "theirs.npy", "-o", "idx/", "--kind", "auto", "--min-recall", "0.95")
    [record] = run("index", "info", "idx/", "--format", "json").json
    assert (record["kind"], record["recall@10"]) == ("flat", 1.0)


def test_dry_run_prints_the_plan_and_builds_nothing(run: Run, vectors: np.ndarray, rows: Path, static: Path) -> None:
    plan = run("index", "build", "theirs.npy", "-o", "idx", "--max-memory", "100K", "--dry-run").stdout
    assert "ivf-sq8" in plan
    assert "3,000" in plan
    assert "flat" in run("index", "build", rows, "-o", "idx", "-m", static, "--dry-run").stdout
    assert not Path("idx").exists()


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--max-memory", "lots"], 2, "'lots' is no size: write 500M or 2G"),
        (["--max-memory", "1K"], 1, "bytes of memory for 3,000 rows of width 16, the limit is 1,024"),
        (["--kind", "nonsense"], 1, "FAISS cannot build 'nonsense' for 3000 rows of width 16"),
    ],
)
def test_impossible_kinds_are_refused(
    run: Run, vectors: np.ndarray, options: list[str], code: int, message: str
) -> None:
    assert message in run("index", "build", "theirs.npy", "-o", "idx", *options, code=code).stderr
    assert not Path("idx/manifest.json").exists()

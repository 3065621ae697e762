"""``ctxembed index build`` and ``ctxembed search``: what comes back, in every format, and what is refused."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ctxembed.embedder import Embedder

if TYPE_CHECKING:
    from .conftest import Run

QUERY = "my card got lost"


def test_rows_are_indexed_and_found(run: Run, rows: Path, model: Path) -> None:
    built = run("index", "build", "rows.jsonl", "--text-column", "text", "-o", "idx/", "-m", model)
    assert built.stdout == ""
    assert "6 documents\n" in built.stderr
    assert "idx: 6 rows of width 64 by model, in " in built.stderr
    hits = run("search", "idx/", QUERY, "-k", "5", "--format", "json", "-m", model).json
    assert len(hits) == 5
    assert [set(hit) for hit in hits] == [{"id", "text", "score", "metadata"}] * 5
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)


def test_scores_are_the_cosines_of_the_model(run: Run, index: Path, model: Path) -> None:
    hits = run("search", index, QUERY, "--format", "json", "-m", model).json
    query, *texts = Embedder.load(model).encode([QUERY, *(hit["text"] for hit in hits)])
    np.testing.assert_allclose([hit["score"] for hit in hits], texts @ query, atol=0.005)  # bfloat16 where it is fast
    assert len(hits) == 6


def test_text_of_a_row_finds_that_row_first(run: Run, index: Path, model: Path, rows: Path) -> None:
    for line in rows.read_text().splitlines():
        row = json.loads(line)
        [hit] = run("search", index, row["text"], "-k", "1", "--format", "json", "-m", model).json
        assert (hit["id"], hit["score"]) == (row["id"], pytest.approx(1, abs=0.005))


def test_metadata_comes_back_with_its_types(run: Run, index: Path, model: Path) -> None:
    hits = run("search", index, QUERY, "--format", "json", "-m", model).json
    metadata = {hit["id"]: hit["metadata"] for hit in hits}
    assert metadata["lost"] == {"topic": "card", "year": 2021}
    assert metadata["river"] == {"topic": "outdoors", "year": None}


def test_every_format_has_the_same_hits(run: Run, index: Path, model: Path) -> None:
    def search(output_format: str) -> str:
        return run("search", index, QUERY, "-k", "3", "--format", output_format, "-m", model).stdout

    hits = json.loads(search("json"))
    assert [json.loads(line) for line in search("jsonl").splitlines()] == hits
    table = list(csv.DictReader(io.StringIO(search("csv"))))
    assert [(row["id"], row["text"]) for row in table] == [(hit["id"], hit["text"]) for hit in hits]
    assert [float(row["score"]) for row in table] == [hit["score"] for hit in hits]
    assert [json.loads(row["metadata"]) for row in table] == [hit["metadata"] for hit in hits]
    head, *lines = search("table").splitlines()
    assert head.split() == ["id", "score", "text", "metadata"]
    assert [line.split()[:2] for line in lines] == [[hit["id"], f"{hit['score']:.3f}"] for hit in hits]


def test_table_is_what_search_prints_without_a_format(run: Run, index: Path, model: Path) -> None:
    assert (
        run("search", index, QUERY, "-m", model).stdout
        == run("search", index, QUERY, "-m", model, "--format", "table").stdout
    )


def test_more_hits_than_rows_gives_every_row_once(run: Run, index: Path, model: Path) -> None:
    hits = run("search", index, QUERY, "-k", "100", "--format", "json", "-m", model).json
    assert sorted(hit["id"] for hit in hits) == ["fee", "light", "loan", "lost", "plant", "river"]


def test_long_query_is_said_to_be_long(run: Run, index: Path, model: Path) -> None:
    outcome = run("search", index, "river bank " * 150, "--format", "json", "-m", model)
    assert outcome.stderr.endswith("\n1 texts were longer than the window of model: windowed, no token lost\n")
    assert len(outcome.json) == 6


def test_static_vectors_search_too(run: Run, rows: Path, static: Path) -> None:
    run("index", "build", rows, "-o", "idx", "-m", static)
    hits = run("search", "idx", "money", "-k", "2", "--format", "json", "-m", static).json
    assert len(hits) == 2
    unknown = run("search", "idx", "zyzzyva", "-m", static, code=1)
    assert unknown.stderr == "error: the query 'zyzzyva' has no word that static knows: use other words\n"


# Other ways to build


def test_folder_of_vectors_gives_the_index_of_its_text(run: Run, rows: Path, index: Path, model: Path) -> None:
    run("embed", rows, "-o", "vecs", "-m", model)
    run("index", "build", "vecs", "-o", "idx")
    search = ["search", QUERY, "--format", "json", "-m", model]
    assert run(*search[:1], "idx", *search[1:]).json == run(*search[:1], index, *search[1:]).json


def test_words_in_context_are_searched_by_a_marked_use(run: Run, rows: Path, model: Path) -> None:
    run("embed", rows, "-o", "words", "-m", model, "--unit", "word")
    run("index", "build", "words", "-o", "idx")
    assert "0 words are marked in 'bank'" in run("search", "idx", "bank", "-m", model, code=1).stderr
    hits = run(
        "search", "idx", "the [bank] of the river", "-k", "2", "--same-word", "-m", model, "--format", "json"
    ).json
    assert [hit["word"] for hit in hits] == ["bank", "bank"]


@pytest.mark.parametrize("option", ["--ids", "--texts"])
def test_lines_beside_a_folder_of_vectors_are_refused(run: Run, rows: Path, static: Path, option: str) -> None:
    run("embed", rows, "-o", "vecs", "-m", static)
    outcome = run("index", "build", "vecs", option, rows, "-o", "idx", code=2)
    assert f"{option} does nothing for a folder of vectors, which has its own: leave it out" in outcome.stderr
    assert not Path("idx").exists()


def test_size_of_the_index_file_is_told(run: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "theirs.npy", np.ones((5000, 64), dtype=np.float32))
    outcome = run("index", "build", "theirs.npy", "-o", "idx")
    size = Path("idx/vectors.1.faiss").stat().st_size / 2**20
    assert size > 1
    assert f", vectors {size:.1f} MiB, peak memory " in outcome.stderr


def test_killed_overwrite_is_continued_from_the_command_line(run: Run, rows: Path, static: Path) -> None:
    run("index", "build", rows, "-o", "idx", "-m", static)
    run("embed", rows, "-o", "idx/.building", "-m", static)  # what a build killed before its last step leaves
    refused = run("index", "build", rows, "-o", "idx", "-m", static, code=1)
    assert "holds an unfinished build: continue it with --resume" in refused.stderr
    run("index", "build", rows, "-o", "idx", "-m", static, "--resume")
    assert sorted(path.name for path in Path("idx").iterdir()) == ["manifest.json", "rows.2.sqlite", "vectors.2.faiss"]


def test_array_of_another_tool_is_indexed_with_its_ids_and_texts(run: Run, tmp_path: Path, model: Path) -> None:
    vectors = Embedder.load(model).encode(["one bank", "two rivers"])
    np.save(tmp_path / "theirs.npy", vectors * 3)
    (tmp_path / "ids.txt").write_text("first\nsecond\n")
    (tmp_path / "texts.txt").write_text("one bank\ntwo rivers\n")
    run("index", "build", "theirs.npy", "--ids", "ids.txt", "--texts", "texts.txt", "-o", "idx/")
    assert run("info", "idx", "--format", "json").json[0]["rows"] == 2
    outcome = run("search", "idx", "one bank", "-m", model, code=1)
    assert "cannot be searched by text, the model of its vectors is unknown" in outcome.stderr


ARRAYS = {
    "integers": (np.ones((3, 4), dtype=np.int64), "theirs.npy are int64, need floats"),
    "not a number": (np.full((3, 4), np.nan, dtype=np.float32), "row 0 of theirs.npy holds NaN"),
    "one dimension": (np.ones(3, dtype=np.float32), r"theirs.npy has shape \(3,\), need \(N, D\)"),
    "python objects": (np.array([{}, {}, {}], dtype=object), "theirs.npy is no plain .npy array"),
    "another count": (np.ones((2, 4), dtype=np.float32), "ids.txt has 3 lines, theirs.npy has 2 rows"),
}


@pytest.mark.parametrize(("array", "message"), ARRAYS.values(), ids=list(ARRAYS))
def test_array_that_cannot_be_used_is_refused(run: Run, tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "theirs.npy", array, allow_pickle=True)
    (tmp_path / "ids.txt").write_text("a\nb\nc\n")
    outcome = run("index", "build", "theirs.npy", "--ids", "ids.txt", "-o", "idx", code=1)
    assert re.search(f"^error: {message}", outcome.stderr)


def test_vectors_and_text_do_not_mix(run: Run, rows: Path, index: Path) -> None:
    outcome = run("index", "build", rows, index, "-o", "idx", code=1)
    assert outcome.stderr.startswith(f"error: {index} holds vectors and must be the only input")


# Ids, empty inputs, second builds


@pytest.fixture
def twice(tmp_path: Path) -> Path:
    """Three rows, two of one id."""
    path = tmp_path / "twice.jsonl"
    texts = [("a", "the first bank"), ("b", "a river"), ("a", "the second bank")]
    path.write_text("".join(json.dumps({"id": id_, "text": text}) + "\n" for id_, text in texts))
    return path


def test_duplicate_id_is_refused_with_the_way_out(run: Run, twice: Path, model: Path) -> None:
    outcome = run("index", "build", twice, "-o", "idx", "-m", model, code=1)
    assert outcome.stderr == (
        "error: id 'a' occurs twice: leave one out, or let `index build` or `index add` keep the first with "
        "--on-duplicate skip\n"
    )
    assert not Path("idx/manifest.json").exists()


def test_duplicate_id_can_be_skipped_and_is_counted(run: Run, twice: Path, model: Path) -> None:
    outcome = run("index", "build", twice, "-o", "idx", "-m", model, "--on-duplicate", "skip")
    assert "1 rows skipped: their id was taken\n" in outcome.stderr
    hits = run("search", "idx", "bank", "-m", model, "--format", "json").json
    assert sorted((hit["id"], hit["text"]) for hit in hits) == [("a", "the first bank"), ("b", "a river")]


@pytest.mark.parametrize(("text", "found"), [("", 0), ("one bank\n", 1)])
def test_tiny_corpus_gives_a_tiny_index(run: Run, tmp_path: Path, model: Path, text: str, found: int) -> None:
    (tmp_path / "rows.txt").write_text(text)
    assert f"idx: {found} rows" in run("index", "build", "rows.txt", "-o", "idx", "-m", model).stderr
    assert len(run("search", "idx", "bank", "-m", model, "--format", "json").json) == found


def test_no_hit_is_said_where_a_table_would_be(run: Run, tmp_path: Path, model: Path) -> None:
    (tmp_path / "rows.txt").touch()
    run("index", "build", "rows.txt", "-o", "idx", "-m", model)
    outcome = run("search", "idx", "bank", "-m", model)
    assert outcome.stdout == ""
    assert outcome.stderr.startswith("no results\n")


def test_text_without_a_known_word_is_counted_as_not_to_be_found(run: Run, tmp_path: Path, static: Path) -> None:
    (tmp_path / "rows.txt").write_text("the bank\nzyzzyva\n")
    outcome = run("index", "build", "rows.txt", "-o", "idx", "-m", static)
    assert "1 rows have no vector (no word that the model knows)" in outcome.stderr


def test_index_is_replaced_only_when_asked(run: Run, rows: Path, twice: Path, model: Path) -> None:
    run("index", "build", rows, "-o", "idx", "-m", model)
    refused = run("index", "build", twice, "-o", "idx", "-m", model, code=1)
    assert refused.stderr == "error: idx holds an index of 6 rows: --overwrite it, or choose another -o\n"
    run("index", "build", twice, "-o", "idx", "-m", model, "--overwrite", "--on-duplicate", "skip")
    assert len(run("search", "idx", "bank", "-m", model, "--format", "json").json) == 2


def test_equal_builds_give_equal_files(run: Run, rows: Path, model: Path) -> None:
    for output in ("first", "second"):
        run("index", "build", rows, "-o", output, "-m", model)
    names = sorted(path.name for path in Path("first").iterdir())
    assert names == ["manifest.json", "rows.1.sqlite", "vectors.1.faiss"]
    for name in names:
        assert (Path("first") / name).read_bytes() == (Path("second") / name).read_bytes(), name


# Artefacts that are damaged or do not belong together


def test_other_model_is_refused_with_both_names(run: Run, index: Path, static: Path) -> None:
    outcome = run("search", index, QUERY, "-m", static, code=3)
    assert re.search(r"^error: .* was made with model \(\w{12}\), not with static \(\w{12}\)", outcome.stderr)
    assert outcome.stdout == ""


def test_folder_of_something_else_is_refused(run: Run, rows: Path, model: Path) -> None:
    run("embed", rows, "-o", "vecs", "-m", model)
    outcome = run("search", "vecs", QUERY, "-m", model, code=3)
    assert "has format 'ctxembed-vectors', need 'ctxembed-index'" in outcome.stderr


DAMAGE = {
    "vectors changed": ("vectors.1.faiss", None, r"vectors\.1\.faiss is damaged \(its sha256 differs\)"),
    "rows changed": ("rows.1.sqlite", None, r"rows\.1\.sqlite is damaged \(its sha256 differs\)"),
    "rows gone": ("rows.1.sqlite", Path.unlink, r"rows\.1\.sqlite is missing"),
    "rows emptied": ("rows.1.sqlite", lambda path: path.write_bytes(b""), r"rows\.1\.sqlite is damaged \(0 bytes"),
    "manifest cut": ("manifest.json", lambda path: path.write_text("{"), r"manifest\.json is damaged"),
    "manifest of another": ("manifest.json", lambda path: path.write_text("[]"), r"manifest\.json has format \[\]"),
}


@pytest.mark.parametrize(("file", "change", "message"), DAMAGE.values(), ids=list(DAMAGE))
def test_damaged_index_is_refused(
    run: Run,
    index: Path,
    model: Path,
    flip: Callable[[Path], None],
    file: str,
    change: Callable[[Path], object] | None,
    message: str,
) -> None:
    shutil.copytree(index, "damaged")
    (change or flip)(Path("damaged") / file)
    outcome = run("search", "damaged", QUERY, "-m", model, code=3)
    assert re.search(f"^error: .*{message}", outcome.stderr)
    assert (outcome.stdout, len(outcome.stderr.splitlines())) == ("", 1)


@pytest.mark.parametrize("file", ["part-00000.npy", "part-00000.parquet"])
def test_damaged_vectors_are_not_indexed(
    run: Run, rows: Path, model: Path, flip: Callable[[Path], None], file: str
) -> None:
    run("embed", rows, "-o", "vecs", "-m", model)
    flip(Path("vecs") / file)
    outcome = run("index", "build", "vecs", "-o", "idx", code=3)
    assert outcome.stderr.startswith(f"error: vecs/{file} is damaged (its sha256 differs)")

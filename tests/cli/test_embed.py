"""``ctxembed embed``: what is in the folder, what is on stdout, what is said, and what a second run does."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import zstandard

from ctxembed.types import Document
from ctxembed.vector_writer import VectorWriter
from ctxembed.vectors import VectorFolder

if TYPE_CHECKING:
    from .conftest import Run

LINES = ("My card got lost.", "The bank of the river is muddy.", "", "A plant grows.")


@pytest.fixture
def txt(tmp_path: Path) -> Path:
    """Four lines, one of them empty."""
    path = tmp_path / "rows.txt"
    path.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    return path


def files(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file in a folder, at least one."""
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert found
    return found


def test_folder_has_a_unit_vector_for_each_document(run: Run, txt: Path, model: Path) -> None:
    outcome = run("embed", txt, "-o", "vecs/", "--unit", "sentence", "-m", model)
    manifest = json.loads(Path("vecs/manifest.json").read_text())
    assert (manifest["complete"], manifest["rows"], manifest["dimension"]) == (True, 3, 64)
    assert manifest["settings"]["model"] == "model"
    vectors = np.load("vecs/part-00000.npy", allow_pickle=False)
    assert (vectors.shape, vectors.dtype) == ((3, 64), np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    rows = list(VectorFolder.open("vecs").rows())
    assert [(row.id, row.text) for row in rows] == [
        (f"rows:{number}", line) for number, line in enumerate(LINES, start=1) if line
    ]
    assert outcome.stdout == ""
    assert "vecs: 3 vectors of width 64 by model, in " in outcome.stderr
    assert "3 documents; 1 empty texts skipped\n" in outcome.stderr


@pytest.mark.parametrize("unit", ["sentence", "word", "token"])
def test_equal_runs_give_equal_folders_byte_for_byte(run: Run, rows: Path, model: Path, unit: str) -> None:
    for output in ("first", "second"):
        run("embed", rows, "-o", output, "-m", model, "--unit", unit)
    assert files(Path("first")) == files(Path("second"))


def test_words_have_their_place_in_the_text(run: Run, txt: Path, model: Path) -> None:
    run("embed", txt, "-o", "words", "-m", model, "--unit", "word")
    folder = VectorFolder.open("words")
    rows = [row for row in folder.rows() if row.id.startswith("rows:2#")]
    assert [row.text[row.start : row.end] for row in rows] == ["The", "bank", "of", "the", "river", "is", "muddy"]
    assert [row.id for row in rows][:2] == ["rows:2#0-3", "rows:2#4-8"]
    assert folder.settings["unit"] == "word"
    np.testing.assert_allclose(np.linalg.norm(folder.vectors(), axis=1), 1, atol=1e-6)


def test_tokens_cover_every_character_that_is_no_space(run: Run, txt: Path, model: Path) -> None:
    run("embed", txt, "-o", "tokens", "-m", model, "--unit", "token")
    rows = [row for row in VectorFolder.open("tokens").rows() if row.id.startswith("rows:2#")]
    assert "".join(row.text[row.start : row.end] for row in rows) == LINES[1].replace(" ", "")


def test_layer_changes_the_vectors_of_words(run: Run, txt: Path, model: Path) -> None:
    for layer in ("0", "1", "2", "-1"):
        run("embed", txt, "-o", f"layer{layer}", "-m", model, "--unit", "word", "--layer", layer)
    vectors = {layer: VectorFolder.open(f"layer{layer}").vectors() for layer in ("0", "1", "2", "-1")}
    assert np.array_equal(vectors["2"], vectors["-1"])
    assert not np.allclose(vectors["0"], vectors["1"], atol=0.01)
    assert not np.allclose(vectors["1"], vectors["2"], atol=0.01)


def test_half_precision_stores_nearly_the_same_vectors(run: Run, rows: Path, model: Path) -> None:
    run("embed", rows, "-o", "full", "-m", model)
    run("embed", rows, "-o", "half", "-m", model, "--dtype", "float16")
    full, half = (np.load(f"{name}/part-00000.npy") for name in ("full", "half"))
    assert half.dtype == np.float16
    np.testing.assert_allclose(half, full, atol=1e-3)


def test_int8_takes_a_quarter_and_says_what_it_costs(run: Run, rows: Path, model: Path) -> None:
    run("embed", rows, "-o", "full", "-m", model)
    outcome = run("embed", rows, "-o", "bytes", "-m", model, "--dtype", "int8")
    said = re.search(r"stored and exact vectors: (0\.\d+) on average, (0\.\d+) at worst \(6 rows\)", outcome.stderr)
    full, rounded = VectorFolder.open("full").vectors(), VectorFolder.open("bytes").vectors()
    cosines = (full * rounded).sum(axis=1) / np.linalg.norm(rounded, axis=1)
    assert said
    assert (float(said[1]), float(said[2])) == pytest.approx((cosines.mean(), cosines.min()), abs=2e-6)
    assert np.load("bytes/part-00000.npy").nbytes == 6 * (64 + 4)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_rounded_folders_can_be_indexed_and_searched(run: Run, rows: Path, model: Path, dtype: str) -> None:
    run("embed", rows, "-o", "vecs", "-m", model, "--dtype", dtype)
    run("index", "build", "vecs", "-o", "idx")
    hits = run("search", "idx", "The bank lent money to the farmer.", "-m", model, "-k", "1", "--format", "json").json
    assert hits[0]["id"] == "loan"
    assert hits[0]["score"] > 0.999


def test_several_layers_are_averaged(run: Run, txt: Path, model: Path) -> None:
    for name, layers in (("one", "1"), ("two", "2"), ("mean", "1,-1")):
        run("embed", txt, "-o", name, "-m", model, "--unit", "word", "--layer", layers)
    one, two, mean = (VectorFolder.open(name).vectors() for name in ("one", "two", "mean"))
    expected = (one + two) / np.linalg.norm(one + two, axis=1, keepdims=True)
    np.testing.assert_allclose(mean, expected, atol=1e-5)
    assert VectorFolder.open("mean").settings["layer"] == [1, -1]


@pytest.mark.parametrize("layer", ["last", "1,", "1.5"])
def test_what_is_no_layer_is_refused(run: Run, txt: Path, model: Path, layer: str) -> None:
    outcome = run("embed", txt, "-o", "v", "-m", model, "--unit", "word", "--layer", layer, code=2)
    assert f"{layer!r} is no layer: write a number, such as -1, or several, such as 3,4,5" in outcome.stderr


def test_precision_is_that_of_the_computation_and_is_kept(run: Run, rows: Path, model: Path) -> None:
    for name in ("float32", "bfloat16"):
        outcome = run("embed", rows, "-o", name, "-m", model, "--precision", name)
        assert f"computed by model on cpu in {name}, " in outcome.stderr
        assert VectorFolder.open(name).settings["precision"] == name
        assert VectorFolder.open(name).vectors().dtype == np.float32
    exact, rounded = (VectorFolder.open(name).vectors() for name in ("float32", "bfloat16"))
    assert 0.999 < (exact * rounded).sum(axis=1).min() < 1
    assert not np.array_equal(exact, rounded)
    refused = run("embed", rows, "-o", "float32", "-m", model, "--precision", "bfloat16", "--resume", code=3)
    assert "was begun with precision = 'float32', now it is 'bfloat16'" in refused.stderr


def test_precision_without_effect_is_said(run: Run, rows: Path, static: Path) -> None:
    outcome = run("embed", rows, "-o", "v", "-m", static, "--precision", "float32")
    assert f"--precision does nothing with {static}\n" in outcome.stderr


# Other outputs and earlier runs


@pytest.mark.parametrize("unit", ["sentence", "word"])
def test_parquet_holds_what_the_folder_holds(run: Run, rows: Path, model: Path, unit: str) -> None:
    run("embed", rows, "-o", "vecs", "-m", model, "--unit", unit)
    outcome = run("embed", rows, "-o", "vecs.parquet", "-m", model, "--unit", unit)
    table, folder = pyarrow.parquet.read_table("vecs.parquet"), VectorFolder.open("vecs")
    assert f"vecs.parquet: {len(folder):,} vectors of width 64 by model, in " in outcome.stderr
    np.testing.assert_array_equal(table["vector"].to_pylist(), folder.vectors())
    kept = [(row.id, row.text, row.start, row.end, json.dumps(dict(row.metadata))) for row in folder.rows()]
    assert [tuple(row.values())[:-1] for row in table.to_pylist()] == kept
    assert run("embed", rows, "-o", "vecs.parquet", "-m", model, code=1).stderr == (
        "error: vecs.parquet exists: delete it, or choose another -o\n"
    )


@pytest.mark.parametrize("option", [["--resume"], ["--dtype", "int8"]])
def test_parquet_refuses_what_it_cannot_do(run: Run, rows: Path, option: list[str]) -> None:
    assert (
        f"{option[0]} does nothing for a Parquet file" in run("embed", rows, "-o", "v.parquet", *option, code=2).stderr
    )


@pytest.mark.parametrize("unit", ["sentence", "word"])
def test_rows_that_have_not_changed_are_reused_bit_for_bit(run: Run, tmp_path: Path, model: Path, unit: str) -> None:
    (tmp_path / "old.txt").write_text("".join(f"{line} {n}\n" for n in range(40) for line in LINES))
    (tmp_path / "new.txt").write_text(
        "".join(f"{line} {n}\n" for n in range(39, 20, -1) for line in (*LINES, "New one"))
    )
    run("embed", "old.txt", "-o", "old", "-m", model, "--unit", unit)
    run("embed", "new.txt", "-o", "fresh", "-m", model, "--unit", unit)
    outcome = run("embed", "new.txt", "-o", "new", "-m", model, "--unit", unit, "--reuse", "old")
    said = re.search(r"(\d+) rows reused, (\d+) computed\n", outcome.stderr)
    assert said
    assert (int(said[1]), int(said[2])) == {"sentence": (76, 19), "word": (342, 57)}[unit]
    assert files(Path("new")) == files(Path("fresh"))


def test_vectors_of_another_model_are_not_reused(run: Run, rows: Path, model: Path, static: Path) -> None:
    run("embed", rows, "-o", "old", "-m", static)
    outcome = run("embed", rows, "-o", "new", "-m", model, "--reuse", "old", code=3)
    assert re.match("error: old was made by static with fingerprint = .*, this run is by model with", outcome.stderr)


def test_sample_is_decided_by_the_seed(run: Run, rows: Path, model: Path) -> None:
    def ids(output: str, seed: str) -> list[str]:
        run("embed", rows, "-o", output, "-m", model, "--sample", "3", "--seed", seed)
        return [row.id for row in VectorFolder.open(output).rows()]

    samples = [ids(f"v{number}", seed) for number, seed in enumerate(["1", "1", "2", "3"])]
    assert samples[0] == samples[1]
    assert len({tuple(sample) for sample in samples}) > 1
    assert {len(sample) for sample in samples} == {3}


def test_static_vectors_are_a_model_too(run: Run, rows: Path, static: Path) -> None:
    outcome = run("embed", rows, "-o", "vecs", "-m", static)
    assert "vecs: 6 vectors of width 16 by static" in outcome.stderr


def test_model_comes_from_the_environment(run: Run, rows: Path, static: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CTXEMBED_MODEL", str(static))
    assert "by static" in run("embed", rows, "-o", "vecs").stderr


# Every way in


def jsonl(path: Path, records: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def csv(path: Path, records: list[dict[str, str]], *, separator: str = ",") -> None:
    lines = [["id", "text"], *([record["id"], record["text"]] for record in records)]
    path.write_text("".join(separator.join(line) + "\n" for line in lines), encoding="utf-8")


def compressed(path: Path, records: list[dict[str, str]]) -> None:
    jsonl(path.with_suffix(""), records)
    data = path.with_suffix("").read_bytes()
    path.with_suffix("").unlink()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else zstandard.compress(data))


WRITERS: dict[str, Callable[[Path, list[dict[str, str]]], None]] = {
    "rows.csv": csv,
    "rows.tsv": lambda path, records: csv(path, records, separator="\t"),
    "rows.parquet": lambda path, records: pyarrow.parquet.write_table(pa.Table.from_pylist(records), path),
    "rows.jsonl.gz": compressed,
    "rows.jsonl.zst": compressed,
}


@pytest.mark.parametrize("name", WRITERS)
def test_same_rows_in_another_format_give_the_same_folder(run: Run, tmp_path: Path, static: Path, name: str) -> None:
    records = [{"id": f"r{number}", "text": line} for number, line in enumerate(LINES)]
    jsonl(tmp_path / "plain.jsonl", records)
    WRITERS[name](tmp_path / name, records)
    run("embed", "plain.jsonl", "-o", "plain", "-m", static)
    run("embed", name, "-o", "other", "-m", static)
    assert files(Path("other")) == files(Path("plain"))


def test_directory_is_read_with_everything_in_it(run: Run, tmp_path: Path, static: Path) -> None:
    (tmp_path / "texts" / "deeper").mkdir(parents=True)
    (tmp_path / "texts" / "a.txt").write_text("one bank\n")
    (tmp_path / "texts" / "deeper" / "b.jsonl").write_text('{"text": "two rivers"}\n')
    (tmp_path / "texts" / "image.png").touch()
    outcome = run("embed", "texts", "-o", "vecs", "-m", static)
    assert [row.text for row in VectorFolder.open("vecs").rows()] == ["one bank", "two rivers"]
    assert "2 documents; 1 files of other kinds ignored" in outcome.stderr


def test_columns_are_chosen_by_name(run: Run, rows: Path, static: Path) -> None:
    options = ["--text-column", "topic", "--id-column", "text", "--metadata-columns", "id, year"]
    run("embed", rows, "-o", "vecs", "-m", static, *options)
    row = next(VectorFolder.open("vecs").rows())
    assert (row.id, row.text) == ("My card got lost somewhere in town.", "card")
    assert row.metadata == {"id": "lost", "year": 2021}


def test_paragraphs_and_sentences_can_be_documents(run: Run, tmp_path: Path, static: Path) -> None:
    (tmp_path / "book.txt").write_text("One bank. Two\nrivers.\n\nThree.\n")
    run("embed", "book.txt", "-o", "paragraphs", "-m", static, "--document", "paragraph")
    run("embed", "book.txt", "-o", "sentences", "-m", static, "--split-sentences")
    texts = {name: [row.text for row in VectorFolder.open(name).rows()] for name in ("paragraphs", "sentences")}
    assert texts == {
        "paragraphs": ["One bank. Two\nrivers.", "Three."],
        "sentences": ["One bank.", "Two", "rivers.", "Three."],
    }


@pytest.mark.parametrize("name", ["empty.txt", "empty.jsonl", "blank.txt"])
def test_empty_input_gives_an_empty_folder(run: Run, tmp_path: Path, model: Path, name: str) -> None:
    (tmp_path / name).write_text("\n  \n" if name == "blank.txt" else "")
    outcome = run("embed", name, "-o", "vecs", "-m", model)
    assert len(VectorFolder.open("vecs")) == 0
    assert "vecs: 0 vectors of width 64" in outcome.stderr
    assert ("2 empty texts skipped" in outcome.stderr) == (name == "blank.txt")


def test_one_row_gives_one_vector(run: Run, model: Path) -> None:
    [row] = run("embed", "-", "--format", "jsonl", "-m", model, input="a single line").jsonl
    assert (row["id"], row["text"], len(row["vector"])) == ("stdin:1", "a single line", 64)


# stdout


def test_stdin_becomes_an_object_a_line_on_stdout(run: Run, model: Path) -> None:
    outcome = run("embed", "-", "--format", "jsonl", "-m", model, input="one bank\n\ntwo rivers\n")
    assert [(row["id"], row["text"]) for row in outcome.jsonl] == [("stdin:1", "one bank"), ("stdin:3", "two rivers")]
    first, second = outcome.stderr.splitlines()
    assert first == "2 documents; 1 empty texts skipped"
    assert re.fullmatch(r"computed by model on cpu in (bfloat16|float32), \d+ threads", second)


def test_stdin_may_hold_json_lines(run: Run, static: Path) -> None:
    arguments = ["embed", "-", "--stdin-format", "jsonl", "--format", "jsonl", "-m", static]
    [row] = run(*arguments, input='{"id": "7", "text": "one bank"}\n').jsonl
    assert (row["id"], row["text"]) == ("7", "one bank")


def test_stdout_and_folder_hold_the_same_vectors(run: Run, rows: Path, model: Path) -> None:
    run("embed", rows, "-o", "vecs", "-m", model)
    printed = run("embed", rows, "--format", "jsonl", "-m", model).jsonl
    np.testing.assert_allclose([row["vector"] for row in printed], VectorFolder.open("vecs").vectors(), atol=1e-6)


def test_words_on_stdout_come_with_their_place(run: Run, model: Path) -> None:
    lines = run("embed", "-", "--unit", "word", "--format", "jsonl", "-m", model, input="the café's bank").jsonl
    assert [(row["start"], row["end"], row["word"]) for row in lines] == [
        (0, 3, "the"),
        (4, 10, "café's"),
        (11, 15, "bank"),
    ]


# Long texts


@pytest.fixture
def long_txt(tmp_path: Path) -> Path:
    """A text of 240 words, then one of a single word."""
    path = tmp_path / "long.txt"
    path.write_text("river bank money town " * 60 + "\nshort\n")
    return path


def test_long_text_is_windowed_and_every_word_has_a_vector(run: Run, long_txt: Path, model: Path) -> None:
    outcome = run("embed", long_txt, "-o", "words", "-m", model, "--unit", "word")
    assert "1 texts were longer than the window of model: windowed, no token lost\n" in outcome.stderr
    vectors = VectorFolder.open("words").vectors()
    assert len(vectors) == 241
    assert vectors.any(axis=1).all()


def test_long_text_that_is_cut_loses_what_is_said(run: Run, long_txt: Path, model: Path) -> None:
    outcome = run("embed", long_txt, "-o", "words", "-m", model, "--unit", "word", "--on-long", "truncate")
    lost = re.search(r"1 texts were longer than the window of model: cut, (\d+) tokens lost\n", outcome.stderr)
    assert lost
    without = int((~VectorFolder.open("words").vectors().any(axis=1)).sum())
    assert 0 < without <= int(lost[1])  # a word is one token or more


@pytest.mark.parametrize("output", [["-o", "v.parquet"], ["--format", "jsonl"], ["-o", "v", "--unit", "token"]])
def test_long_text_is_reported_whatever_the_output(run: Run, long_txt: Path, model: Path, output: list[str]) -> None:
    outcome = run("embed", long_txt, *output, "-m", model)
    assert "1 texts were longer than the window of model: windowed, no token lost\n" in outcome.stderr


def test_long_text_can_be_refused(run: Run, long_txt: Path, model: Path) -> None:
    outcome = run("embed", long_txt, "-o", "vecs", "-m", model, "--on-long", "error", code=1)
    assert re.search(r"^error: a text has \d+ tokens, the model takes 126: shorten it", outcome.stderr)


# A second run


def test_finished_folder_is_not_written_again(run: Run, rows: Path, model: Path) -> None:
    run("embed", rows, "-o", "vecs", "-m", model)
    before = files(Path("vecs"))
    outcome = run("embed", rows, "-o", "vecs", "-m", model, code=1)
    assert outcome.stderr == "error: vecs exists and is complete: delete it, or choose another -o\n"
    run("embed", rows, "-o", "vecs", "-m", model, "--resume")
    assert files(Path("vecs")) == before


def test_killed_folder_resumes_behind_its_last_part(run: Run, rows: Path, model: Path) -> None:
    run("embed", rows, "-o", "whole", "-m", model)
    whole = VectorFolder.open("whole")
    documents = [Document(row.id, row.text, row.metadata) for row in whole.rows()]
    writer = VectorWriter("killed", settings=whole.settings, dimension=64, part_rows=2)
    writer.append(list(whole.rows())[:2], whole.vectors()[:2], documents=documents[:2])
    finished = Path("killed/part-00000.npy").stat().st_mtime_ns
    assert "unfinished: continue it with --resume" in run("embed", rows, "-o", "killed", "-m", model, code=1).stderr
    run("embed", rows, "-o", "killed", "-m", model, "--resume")
    assert Path("killed/part-00000.npy").stat().st_mtime_ns == finished
    assert list(VectorFolder.open("killed").rows()) == list(whole.rows())
    np.testing.assert_allclose(VectorFolder.open("killed").vectors(), whole.vectors(), atol=1e-6)


def test_other_input_cannot_resume_a_folder(run: Run, rows: Path, txt: Path, model: Path) -> None:
    run("embed", rows, "-o", "vecs", "-m", model)
    outcome = run("embed", txt, "-o", "vecs", "-m", model, "--resume", code=3)
    assert outcome.stderr.startswith("error: the input has changed since vecs was begun")


def test_other_layer_cannot_resume_a_folder(run: Run, rows: Path, model: Path) -> None:
    run("embed", rows, "-o", "vecs", "-m", model, "--unit", "word", "--layer", "1")
    outcome = run("embed", rows, "-o", "vecs", "-m", model, "--unit", "word", "--layer", "2", "--resume", code=3)
    assert outcome.stderr.startswith("error: vecs was begun with layer = 1, now it is 2")


# Damaged models


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


DAMAGE: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "weights cut short": ("model.safetensors", cut_short, r"model\.safetensors is damaged or of another model"),
    "weights gone": ("model.safetensors", Path.unlink, r"model\.safetensors is missing"),
    "tokenizer of another": ("tokenizer.json", cut_short, r"tokenizer\.json is damaged or of another model"),
    "settings gone": ("config.json", Path.unlink, r"damaged is not a ctxembed model: it has no config\.json"),
    "settings cut short": ("config.json", cut_short, r"config\.json is damaged"),
    "settings of another tool": ("config.json", lambda path: path.write_text("{}"), "damaged is not a ctxembed model"),
}


@pytest.mark.parametrize(("file", "change", "message"), DAMAGE.values(), ids=list(DAMAGE))
def test_damaged_model_is_refused(
    run: Run, rows: Path, model: Path, file: str, change: Callable[[Path], object], message: str
) -> None:
    shutil.copytree(model, "damaged")
    change(Path("damaged") / file)
    outcome = run("embed", rows, "-o", "vecs", "-m", "damaged", code=3)
    assert re.search(f"^error: .*{message}", outcome.stderr)
    assert len(outcome.stderr.splitlines()) == 1
    assert not Path("vecs").exists()

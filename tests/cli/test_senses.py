"""`ctxembed senses`: groups of the uses of a word, printed, kept and drawn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ctxembed_cli.senses import USES_FOR_SUBSTITUTES, labelled

from ctxembed.embedder import Embedder
from ctxembed.meaning.occurrences import Occurrence
from ctxembed.meaning.senses import find_senses
from ctxembed.types import Usage

from .conftest import Run


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    lines = ["We sat on the bank of the river."] * 12
    lines += ["The bank lent the farmer money."] * 8
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_senses_are_an_array_with_id_share_and_uses(run: Run, corpus, model: Path) -> None:
    rows = run("senses", "corpus.txt", "bank", "-k", "2", "-m", model, "--format", "json").json
    assert [row["id"] for row in rows] == ["bank#1", "bank#2"]
    assert [row["uses"] for row in rows] == [12, 8]
    assert [row["share"] for row in rows] == [0.6, 0.4]
    assert rows[0]["typical"][0]["text"].startswith("We sat on the bank")
    assert rows[1]["words"]
    assert rows[0]["substitutes"]
    assert rows[0]["word_uses"] == 20


def test_substitutes_are_of_the_uses_that_are_typical_of_a_sense_in_any_form(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder, asked = Embedder.load(tiny_model), []
    monkeypatch.setattr("ctxembed.substitutes.substitutes", lambda _, usages: asked.append(list(usages)) or ["word"])
    chance, occurrences, vectors = np.random.default_rng(1), [], []
    for n in range(80):
        form = ("line", "lines")[n % 2]
        occurrences.append(Occurrence(str(n), Usage(f"the {form} {n}", 4, 4 + len(form)), form))
        vectors.append(np.eye(8)[n // 40] + (n % 2) * np.eye(8)[4] + chance.normal(0, 0.1, 8))
    unit = np.array([each / np.linalg.norm(each) for each in vectors], dtype=np.float32)
    found = find_senses("line", occurrences, unit, k=2, num_examples=USES_FOR_SUBSTITUTES, with_stability=False)
    result = labelled(found, embedder, inventory=None, layer=None)
    assert asked == [[each.usage for each in sense.typical] for sense in found.senses]
    assert [sense.substitutes for sense in result.senses] == [("word",)] * 2


def test_static_vectors_give_one_sense_without_substitutes(run: Run, corpus, static: Path) -> None:
    (row,) = run("senses", "corpus.txt", "bank", "-m", static, "--format", "json").json
    assert (row["share"], row["uses"], row["substitutes"], row["silhouette"]) == (1.0, 20, [], None)


def test_senses_are_kept_assigned_and_tracked(run: Run, corpus, tmp_path: Path, model: Path) -> None:
    arguments = ("senses", "corpus.txt", "bank", "-k", "2", "-m", model, "-o", "kept", "--assign", "uses.jsonl")
    outcome = run(*arguments, "--html", "page.html", "--plot", "figure.svg")
    assert "kept: 2 senses kept, such as bank#1" in outcome.stderr
    uses = [json.loads(line) for line in (tmp_path / "uses.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(uses) == 20
    assert {use["sense"] for use in uses} == {"bank#1", "bank#2"}
    assert all(use["text"][use["start"] : use["end"]] == "bank" for use in uses)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "bank#2" in page
    assert "The number of senses (2) was given." in page
    assert (tmp_path / "figure.svg").stat().st_size > 1000
    lines = corpus.read_text(encoding="utf-8").splitlines()
    (tmp_path / "old.txt").write_text("\n".join(lines[:12]), encoding="utf-8")
    (tmp_path / "new.txt").write_text("\n".join(lines[12:]), encoding="utf-8")
    arguments = (
        "shift",
        "old.txt",
        "new.txt",
        "--words",
        "bank",
        "--senses",
        "kept",
        "-m",
        model,
        "--permutations",
        "19",
    )
    (row,) = run(*arguments, "--controls", "0", "--html", "shift.html", "--plot", "shift.png", "--format", "json").json
    assert {sense["id"]: sense["uses_new"] for sense in row["senses"]} == {"bank#1": 0, "bank#2": 8}
    page = (tmp_path / "shift.html").read_text(encoding="utf-8")
    assert "Uses that moved most, old to new" in page
    assert "p: by permutation, of excess" in page
    assert (tmp_path / "shift.png").stat().st_size > 1000


def test_kind_of_figure_is_checked_before_anything_is_kept(run: Run, corpus, tmp_path: Path, model: Path) -> None:
    arguments = ("senses", "corpus.txt", "bank", "-m", model, "-o", "kept", "--plot", "figure.jpg")
    assert "figure.jpg ends in '.jpg', need one of .png, .svg, .pdf" in run(*arguments, code=2).stderr
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.txt"]


def test_senses_are_printed_though_a_picture_cannot_be_written(run: Run, corpus, static: Path) -> None:
    for option, name in (("--html", "page.html"), ("--plot", "figure.png")):
        outcome = run(
            "senses", "corpus.txt", "bank", "-m", static, option, f"corpus.txt/{name}", "--format", "json", code=1
        )
        assert outcome.json[0]["id"] == "bank#1"
        assert outcome.stderr.splitlines()[-1].startswith("error: ")


def test_compare_names_the_stored_sense_of_each_use(run: Run, corpus, model: Path) -> None:
    run("senses", "corpus.txt", "bank", "-k", "2", "-m", model, "-o", "kept")
    uses = "We sat on the [bank] of the river.", "The [bank] lent the farmer money.", "a [zebra] came"
    arguments = ("compare", *uses, "-m", model, "--senses", "kept", "--no-static", "--nearest", "0", "--raw")
    senses = [use["sense"] for use in run(*arguments, "--format", "json").json["uses"]]
    assert [sense["sense"] for sense in senses] == ["bank#1", "bank#2", None]
    assert senses[0]["similarity"] == pytest.approx(1, abs=1e-4)  # all uses of the sense are the same sentence
    assert "bank#2" in run(*arguments).stdout
    rows = run(*arguments, "--format", "jsonl").jsonl
    assert [(row["use"], row["sense"]) for row in rows] == [("A", "bank#1"), ("B", "bank#2"), ("C", None)]
    wrong = run(*arguments, "--layer", "0", code=3).stderr
    assert "was made with layer None, not 0" in wrong


def test_inventory_gives_glosses(run: Run, corpus, tmp_path: Path, model: Path) -> None:
    glosses = [
        {"lemma": "bank", "gloss": "land beside a river", "examples": ["we sat on the bank of the river"]},
        {"lemma": "bank", "gloss": "a company that lends money", "examples": ["the bank lent the farmer money"]},
    ]
    (tmp_path / "wn.jsonl").write_text("".join(json.dumps(row) + "\n" for row in glosses), encoding="utf-8")
    arguments = ("senses", "corpus.txt", "bank", "-k", "2", "-m", model, "--inventory", "wn.jsonl", "--format", "json")
    assert [row["gloss"] for row in run(*arguments).json] == ["land beside a river", "a company that lends money"]


@pytest.mark.parametrize("words", [("plant", "bank"), ("bank", "plant")])
def test_table_has_glosses_in_one_column_though_only_one_word_has_any(
    run: Run, tmp_path: Path, static: Path, words
) -> None:
    (tmp_path / "corpus.txt").write_text("The bank lent money.\nThe plant grew.\n" * 6, encoding="utf-8")
    (tmp_path / "wn.jsonl").write_text('{"lemma": "plant", "gloss": "GLOSS"}\n', encoding="utf-8")
    table = run("senses", "corpus.txt", *words, "--inventory", "wn.jsonl", "-m", static).stdout.splitlines()
    assert len(table) == 3
    rows = {line.split("#")[0]: line for line in table[1:]}
    gloss, typical = table[0].index("gloss"), table[0].index("typical use")
    assert rows["plant"][gloss:].startswith("GLOSS")
    assert rows["plant"][typical:].rstrip() == "The [plant] grew."
    assert rows["bank"][gloss:typical].strip() == ""
    assert rows["bank"][typical:].rstrip() == "The [bank] lent money."


def test_table_finds_its_columns_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    from ctxembed_cli.output import print_table

    print_table([{"word": "a", "n": 1}, {"n": 2, "more": "x"}])
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["word", "n", "more"], ["a", "1"], ["2", "x"]
    ]  # fmt: skip


def test_word_is_a_word_though_a_file_has_its_name(run: Run, corpus, tmp_path: Path, static: Path) -> None:
    (tmp_path / "bank").write_text("river\n", encoding="utf-8")
    (row,) = run("senses", "corpus.txt", "bank", "-m", static, "--format", "json").json
    assert row["id"] == "bank#1"
    assert "' , ' names no word" in run("senses", "corpus.txt", " , ", "-m", static, code=1).stderr


def test_word_that_does_not_occur_is_refused(run: Run, corpus, model: Path) -> None:
    assert "'zebra' does not occur in corpus.txt" in run("senses", "corpus.txt", "zebra", "-m", model, code=1).stderr

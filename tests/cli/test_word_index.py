"""`index build --unit word` and what searches it: concordances, neighbours, senses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Run, ctxembed

TEXT = "We sat on the bank of the river. It was warm.\nThe Bank lent the farmer money.\nA shore lies near the river.\n"


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    folder = tmp_path_factory.mktemp("words")
    (folder / "corpus.txt").write_text(TEXT * 4, encoding="utf-8")
    ctxembed("index", "build", folder / "corpus.txt", "--unit", "word", "-o", folder / "widx", "-m", model)
    return folder / "widx"


def test_build_says_what_it_made(run: Run, tmp_path: Path, model: Path) -> None:
    (tmp_path / "corpus.txt").write_text(TEXT, encoding="utf-8")
    arguments = ("index", "build", "corpus.txt", "--unit", "word", "-o", "widx", "-m", model)
    dry = run(*arguments, "--dry-run").stderr
    assert "10 words, about 12 rows in 4 sentences: flat" in dry
    assert not (tmp_path / "widx").exists()
    built = run(*arguments, "--max-per-word", "1").stderr
    assert "2 words have more than 1 uses, sampled by seed 1" in built
    assert "rows of width" in built


def word_ids(run: Run, index: str) -> list[str]:
    """The ids of all rows: numbers are those of the build and the additions."""
    from ctxembed.index.folder import IndexFolder

    run("index", "verify", index)
    with IndexFolder.open(index) as folder:
        return sorted(stored.row.id for stored in folder.store.get(folder.numbers()))


def test_text_is_added_as_it_was_built(run: Run, tmp_path: Path, model: Path) -> None:
    more = "The dam broke. So it was.\nA bank is a shore. The 12 banks lent it.\n"
    (tmp_path / "corpus.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "more.txt").write_text(more, encoding="utf-8")
    build = ("index", "build", "--unit", "word", "-m", model, "--words", "bank,shore,dam", "-o")
    run(*build, "all", "corpus.txt", "more.txt")
    run(*build, "some", "corpus.txt")
    added = run("index", "add", "some", "more.txt", "-m", model).stderr
    assert "some: 2 added, 2 without a word to index; 6 rows now" in added
    assert word_ids(run, "some") == word_ids(run, "all")
    assert "more:1.0#4-7" in word_ids(run, "some")
    again = run("index", "update", "some", "corpus.txt", "more.txt", "-m", model).stderr
    assert "some: 5 unchanged, 3 without a word to index; 6 rows now" in again
    (tmp_path / "more.txt").write_text(more.replace("a shore", "no shore"), encoding="utf-8")
    assert "1 updated, 1 unchanged" in run("index", "update", "some", "more.txt", "-m", model).stderr
    hits = run("search", "some", "the [bank]", "-k", "9", "-m", model, "--format", "json").json
    assert {hit["text"] for hit in hits if hit["id"].startswith("more:2")} == {"A bank is no shore."}


def test_sampled_words_stay_sampled_and_that_is_said(run: Run, tmp_path: Path, model: Path) -> None:
    (tmp_path / "corpus.txt").write_text("The bank of the river.\n" * 40, encoding="utf-8")
    (tmp_path / "more.txt").write_text("The bank of the river.\n" * 40, encoding="utf-8")
    build = ("index", "build", "corpus.txt", "--unit", "word", "--max-per-word", "10", "-o", "widx", "-m", model)
    run(*build)
    before = len(word_ids(run, "widx"))
    added = run("index", "add", "widx", "more.txt", "-m", model).stderr
    assert "of 2 words that the build sampled the same share of uses is taken" in added
    assert before < len(word_ids(run, "widx")) < before + 50


def test_words_chosen_by_frequency_take_no_text(run: Run, tmp_path: Path, model: Path) -> None:
    (tmp_path / "corpus.txt").write_text(TEXT, encoding="utf-8")
    run("index", "build", "corpus.txt", "--unit", "word", "--min-count", "2", "-o", "widx", "-m", model)
    refused = run("index", "add", "widx", "corpus.txt", "-m", model, code=1).stderr
    assert refused.startswith("error: the words of the index were chosen by frequency (min_count 2, max_count None)")
    run("embed", "corpus.txt", "--unit", "word", "-o", "vecs", "-m", model)
    assert "were chosen otherwise than those of the vectors" in run("index", "add", "widx", "vecs", code=3).stderr


def test_search_for_the_same_word_gives_uses_with_word_and_place(run: Run, words: Path, model: Path) -> None:
    arguments = ("search", words, "the [bank] of the river", "-k", "20", "--same-word", "-m", model)
    hits = run(*arguments, "--format", "json").json
    assert len(hits) == 8
    assert set(hits[0]) == {"id", "score", "text", "word", "start", "end", "metadata"}
    assert all(hit["text"][hit["start"] : hit["end"]] == hit["word"] for hit in hits)
    assert {hit["word"].casefold() for hit in hits} == {"bank"}
    assert hits[0]["text"].startswith("We sat")
    assert hits[0]["id"] == "corpus:1.0#14-18"
    assert run(*arguments, "--skip", "5", "--format", "json").json == hits[5:]


def test_table_is_a_concordance_aligned_at_the_word(run: Run, words: Path, model: Path) -> None:
    lines = run("search", words, "the [bank] of the river", "-k", "8", "--same-word", "-m", model).stdout.splitlines()
    assert len(lines) == 8
    assert len({line.casefold().index("[bank]") for line in lines}) == 1


def test_other_words_and_neighbours_leave_the_word_out(run: Run, words: Path, model: Path) -> None:
    query = "the [bank] of the river"
    others = run("search", words, query, "-k", "9", "--other-words", "-m", model, "--format", "json").json
    near = run("neighbours", words, query, "-k", "4", "-m", model, "--format", "json").json
    assert len(others) == 9
    assert "bank" not in {row["word"].casefold() for row in others}
    assert len({row["word"] for row in near}) == 4
    assert "bank" not in {row["word"] for row in near}


def test_senses_of_an_index_can_be_searched_by_name(run: Run, words: Path, model: Path) -> None:
    rows = run("senses", words, "bank", "-k", "2", "-o", "kept", "-m", model, "--format", "json").json
    assert sorted(row["uses"] for row in rows) == [4, 4]
    arguments = ("search", words, "bank#2", "--senses", "kept", "-k", "4", "-m", model)
    hits = run(*arguments, "--same-word", "--format", "jsonl").jsonl
    assert {hit["text"] for hit in hits} == {rows[1]["typical"][0]["text"]}
    assert run("neighbours", words, "bank#1", "--senses", "kept", "-m", model, "--format", "jsonl").jsonl


@pytest.fixture(scope="module")
def first_layer(words: Path, model: Path) -> Path:
    """The same words, their vectors read before any context."""
    folder = words.parent / "first"
    ctxembed("index", "build", words.parent / "corpus.txt", "--unit", "word", "--layer", "0", "-o", folder, "-m", model)
    return folder


def test_senses_of_an_index_are_found_and_labelled_on_its_layer(
    run: Run, tmp_path: Path, first_layer: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ctxembed.embedder import Embedder

    read, encode_usages = [], Embedder.encode_usages

    def recorded(self, usages, *, layer=None):
        read.append(layer)
        return encode_usages(self, usages, layer=layer)

    monkeypatch.setattr(Embedder, "encode_usages", recorded)
    monkeypatch.setenv("CTXEMBED_CACHE", str(tmp_path / "cache"))
    glosses = [{"lemma": "bank", "gloss": gloss, "examples": []} for gloss in ("beside a river", "lends money")]
    (tmp_path / "wn.jsonl").write_text("".join(json.dumps(row) + "\n" for row in glosses), encoding="utf-8")
    run("senses", first_layer, "bank", "-o", "kept", "--inventory", "wn.jsonl", "-m", model)
    assert len(read) >= 3  # the scale of one sense, and each gloss
    assert set(read) == {0}
    assert json.loads((tmp_path / "kept" / "manifest.json").read_text(encoding="utf-8"))["layer"] == 0


def test_senses_of_another_layer_are_refused(
    run: Run, tmp_path: Path, words: Path, first_layer: Path, model: Path
) -> None:
    run("senses", first_layer, "bank", "-k", "2", "-o", "kept", "-m", model)
    (tmp_path / "old.txt").write_text(TEXT * 4, encoding="utf-8")
    query = ("bank#1", "--senses", "kept", "-m", model)
    shift = ("shift", "old.txt", "old.txt", "--words", "bank", "--permutations", "9", "--senses", "kept", "-m", model)
    compare = ("compare", "the [bank] of the river", "--senses", "kept", "--no-static", "--raw", "-m", model)
    message = "kept was made with layer 0, not None: choose that layer or another folder"
    for refused in (("search", words, *query), ("neighbours", words, *query), shift, compare):
        assert message in run(*refused, code=3).stderr
    for taken in (("search", first_layer, *query), ("neighbours", first_layer, *query)):
        assert run(*taken).stdout
    for taken in (shift, compare):
        assert "bank#1" in run(*taken, "--layer", "0", "--format", "json").stdout


def test_senses_of_an_index_leave_out_uses_without_a_vector(run: Run, tmp_path: Path, static: Path) -> None:
    lines = ["The bank lent money."] * 8 + ["The banked fire went out.", "A zebra came."]
    (tmp_path / "corpus.txt").write_text("\n".join(lines), encoding="utf-8")
    run("index", "build", "corpus.txt", "--unit", "word", "-o", "widx", "-m", static)
    arguments = ("senses", "widx", "bank", "--inflections", "--method", "agglomerative", "-k", "2", "-m", static)
    outcome = run(*arguments, "--max-uses", "9", "--format", "json")
    assert [(row["id"], row["uses"]) for row in outcome.json] == [("bank#1", 8)]
    assert "bank: 1 uses have no vector and are left out" in outcome.stderr
    assert "stands for all" not in outcome.stderr
    assert "static knows no use of 'zebra'" in run("senses", "widx", "zebra", "-m", static, code=1).stderr


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (["the bank"], 1, "0 words are marked"),
        (["the [bank]", "--same-word", "--other-words"], 2, "contradict each other"),
        (["bank#1"], 1, "name the folder that keeps it with --senses"),
        (["the [bank]", "--explain"], 2, "--explain does nothing in an index of words"),
    ],
)
def test_mistakes_are_one_line(run: Run, words: Path, model: Path, arguments, code, message) -> None:
    assert message in run("search", words, *arguments, "-m", model, code=code).stderr


def test_options_of_words_are_refused_elsewhere(run: Run, rows: Path, index: Path, words: Path, model: Path) -> None:
    outcome = run("index", "build", rows, "-o", "idx", "--min-count", "2", "-m", model, code=2)
    assert "--min-count does nothing without --unit word" in outcome.stderr
    assert "--same-word does nothing" in run("search", index, "a card", "--same-word", "-m", model, code=2).stderr
    assert "rows of unit 'sentence'" in run("neighbours", index, "the [bank]", "-m", model, code=1).stderr
    assert "'zebra' is not in" in run("senses", words, "zebra", "-m", model, code=1).stderr
    asked = run("search", words, "the [zebra]", "--same-word", "-m", model, code=1)
    assert "the word 'zebra' is not in" in asked.stderr


def test_metadata_and_conditions_work_as_in_sentence_search(run: Run, tmp_path: Path, model: Path) -> None:
    rows = [{"id": f"d{n}", "text": "The bank of the river.", "year": 1900 + n} for n in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    run("index", "build", "rows.jsonl", "--unit", "word", "--words", "bank", "-o", "widx", "-m", model)
    arguments = ("search", "widx", "the [bank]", "--where", "year >= 1904", "-m", model, "--format", "json")
    hits = run(*arguments).json
    assert [hit["metadata"] for hit in hits] == [{"year": 1904}, {"year": 1905}]
    assert hits[0]["id"] == "d4.0#4-8"

"""``ctxembed bench`` with static vectors as the model: values, formats, what it says, what it refuses."""

from __future__ import annotations

import csv
import functools
import io
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from ctxembed_cli.main import ctxembed

from ctxembed.errors import InvalidInputError
from ctxembed.evaluation.training_speed import TrainingTrial
from ctxembed.runtime import data_directory
from ctxembed.static import StaticVectors

WORDS = ("warm", "hot", "cold", "icy", "wet")


def bench(*arguments: str | Path) -> Result:
    """Run the command; an unexpected error is raised with its traceback."""
    return CliRunner().invoke(ctxembed, ["bench", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Static vectors on a line from warm to icy."""
    angles = np.array([0.0, 0.1, 1.3, 1.5, 0.7])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    folder = tmp_path / "line"
    StaticVectors(WORDS, vectors, np.arange(5, 0, -1), name="line").save(folder)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """One set of each kind."""
    pairs = [("warm", "hot", 5.0), ("warm", "wet", 3.0), ("hot", "icy", 1.0), ("warm", "unknown", 0.0)]
    folder = tmp_path / "data"
    write(folder / "sts" / "dev.jsonl", [{"sentence1": a, "sentence2": b, "score": s} for a, b, s in pairs])
    usages = [
        {
            "word": a,
            "sentence1": a,
            "start1": 0,
            "end1": len(a),
            "sentence2": b,
            "start2": 0,
            "end2": len(b),
            "label": s > 2,
        }
        for a, b, s in pairs
    ]
    for split in ("train", "dev"):
        write(folder / "wic" / f"{split}.jsonl", usages)
    write(folder / "find" / "corpus.jsonl", [{"id": word, "text": word} for word in WORDS])
    write(folder / "find" / "queries.jsonl", [{"id": "q1", "text": "warm"}, {"id": "q2", "text": "icy"}])
    (folder / "find" / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq1\thot\t1\n", encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def _short_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctxembed.evaluation.utilisation.SECONDS", 0.001)


def write(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


FIELDS = ["system", "task", "metric", "value", "low", "high", "rows", "coverage"]


def test_words_print_a_row_for_every_figure(model: Path, data: Path) -> None:
    [row] = json.loads(bench("words", "--data", data, "-m", model, "--format", "json").stdout)
    assert list(row) == FIELDS
    assert (row["system"], row["task"], row["metric"]) == ("line", "wic", "accuracy")
    assert (row["value"], row["low"], row["high"], row["rows"], row["coverage"]) == (1.0, 1.0, 1.0, 4, 0.75)


def test_sentences_print_spearman(model: Path, data: Path) -> None:
    [row] = csv.DictReader(io.StringIO(bench("sentences", "--data", data, "-m", model, "--format", "csv").stdout))
    assert list(row) == FIELDS
    assert (row["metric"], float(row["value"])) == ("spearman", pytest.approx(1.0))


def test_retrieval_prints_ndcg_recall_and_map(model: Path, data: Path) -> None:
    lines = bench("retrieval", "--data", data, "-m", model, "--format", "jsonl").stdout.splitlines()
    rows = [json.loads(line) for line in lines]
    # "warm" itself is first, the relevant "hot" second.
    assert [(row["metric"], row["value"]) for row in rows] == [
        ("nDCG@10", pytest.approx(1 / np.log2(3))),
        ("recall@100", 1.0),
        ("MAP", 0.5),
    ]


def test_similarity_prints_spearman_of_words_alone(model: Path, data: Path) -> None:
    rows = [{"word1": "warm", "word2": other, "score": score} for other, score in (("hot", 5), ("wet", 3), ("icy", 1))]
    write(data / "pairs.jsonl", rows)
    [row] = json.loads(bench("similarity", "--data", data, "-m", model, "--format", "json").stdout)
    assert (row["task"], row["metric"], row["value"], row["rows"]) == ("pairs", "spearman", pytest.approx(1.0), 3)


def test_senses_print_nearest_neighbour_accuracy(model: Path, data: Path) -> None:
    uses = [("warm", "heat"), ("hot", "heat"), ("cold", "frost"), ("icy", "frost")]
    rows = [{"lemma": "w", "text": word, "start": 0, "end": len(word), "sense": sense} for word, sense in uses]
    write(data / "uses.jsonl", rows)
    result = bench("senses", "--data", data / "uses.jsonl", "-m", model, "--format", "json")
    [row] = json.loads(result.stdout)
    assert (row["metric"], row["value"], row["rows"]) == ("1-NN accuracy", 1.0, 2)
    assert "always the most frequent sense would score 0.500" in result.stderr


def test_table_has_systems_as_rows_and_tasks_as_columns(tmp_path: Path, model: Path, data: Path) -> None:
    other = tmp_path / "other"
    StaticVectors(WORDS, np.ones((5, 2), dtype=np.float32), np.ones(5, dtype=np.int64), name="other").save(other)
    table = bench("words", "--data", data, "-m", model, "-m", other).stdout
    lines = table.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["accuracy,", "system", "line", "other"]
    assert lines[1].split() == ["system", "wic"]
    assert "1.000 [1.000, 1.000] 12.5% unknown" in lines[2]
    assert "accuracy of wic: 4 rows of dev, threshold from train; intervals draw each row" in table
    assert "paired, p corrected for 1 comparisons" in table


def test_peers_stand_behind_the_models_in_the_order_given(tmp_path: Path, model: Path, data: Path) -> None:
    other = tmp_path / "other"
    StaticVectors(WORDS, np.ones((5, 2), dtype=np.float32), np.ones(5, dtype=np.int64), name="other").save(other)
    call = ["retrieval", "--data", data, "-m", model, "--against", "bm25", "--against", "length"]
    rows = json.loads(bench(*call, "--against", f"static:{other}", "--format", "json").stdout)
    assert list(dict.fromkeys(row["system"] for row in rows)) == ["line", "bm25 (bm25s)", "length", "other"]


def test_bm25_is_refused_where_nothing_is_ranked(model: Path, data: Path) -> None:
    with pytest.raises(InvalidInputError, match="ranks documents for queries: name it for `bench retrieval` only"):
        bench("words", "--data", data, "-m", model, "--against", "bm25")


def test_page_stands_by_itself_and_has_every_figure(tmp_path: Path, model: Path, data: Path) -> None:
    page = tmp_path / "page.html"
    bench("words", "--data", data, "-m", model, "--against", "random", "--html", page)
    text = page.read_text(encoding="utf-8")
    assert "threshold from train" in text
    assert text.count("<svg") == 1
    assert "random" in text
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert "https://" not in text


def test_what_is_left_out_is_said_on_stderr(model: Path, data: Path) -> None:
    words = bench("words", "--data", data, "-m", model)
    assert "3 files or folders hold nothing for words: find/corpus.jsonl, find/queries.jsonl" in words.stderr
    assert "line: 25.0% of the rows of wic have no vector on at least one side" in words.stderr
    retrieval = bench("retrieval", "--data", data / "find", "-m", model)
    assert "find: 1 of 2 queries have no relevant document and are not scored" in retrieval.stderr


@pytest.mark.usefixtures("shipped_models")
def test_shipped_model_is_set_against_its_static_vectors_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CTXEMBED_MODEL", raising=False)
    context, lookup = json.loads(bench("words", "--format", "json").stdout)
    assert list(context) == FIELDS
    assert (context["task"], context["metric"], context["rows"]) == ("word_in_context", "accuracy", 864)
    assert lookup["value"] == 0.5  # by construction
    assert context["low"] > 0.5


def test_output_file_carries_the_results_and_the_seed(tmp_path: Path, model: Path, data: Path) -> None:
    path = tmp_path / "result.json"
    bench("sentences", "--data", data, "-m", model, "-o", path, "--seed", "5")
    content = json.loads(path.read_text(encoding="utf-8"))
    assert (content["kind"], content["seed"], content["results"][0]["task"]) == ("sentences", 5, "sts")
    assert list(content["data"]["sts"]) == ["sts/dev.jsonl"]


def test_model_comes_from_the_environment_where_none_is_named(
    model: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CTXEMBED_MODEL", str(model))
    [row] = json.loads(bench("sentences", "--data", data, "--format", "json").stdout)
    assert row["system"] == "line"


def test_layer_of_static_vectors_is_refused(model: Path, data: Path) -> None:
    with pytest.raises(InvalidInputError, match="static vectors have no layers"):
        bench("words", "--data", data, "-m", model, "--layer", "3")


def test_sentences_without_data_say_the_way_out(model: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"no set of sentence pairs ships with ctxembed: .* --data"):
        bench("sentences", "-m", model)


def test_shipped_words_of_static_vectors_are_at_chance(model: Path) -> None:
    result = bench("words", "-m", model, "--format", "json")
    [row] = json.loads(result.stdout)
    # "cold" is among the scored words: its vectors are all one, and so are the labels in equal number.
    assert (row["task"], row["value"], row["rows"]) == ("word_in_context", 0.5, 864)
    assert 0 < row["coverage"] < 0.1


@pytest.mark.parametrize("kind", ["words", "sentences", "retrieval", "similarity", "senses"])
def test_help_says_the_format_and_gives_an_example(kind: str) -> None:
    text = bench(kind, "--help").stdout
    assert ".jsonl" in text
    assert f"  Example:   ctxembed bench {kind} --data" in text
    assert "\\b" not in text


def test_speed_prints_every_contender_and_keeps_what_is_needed_to_repeat_it(tmp_path: Path, tiny_model: Path) -> None:
    path = tmp_path / "speed.json"
    call = ("speed", "-m", tiny_model, "--against", "ctxembed-float32", "--rows", "20", "--repeats", "2", "-o", path)
    result = bench(*call, "--format", "json")
    rows = json.loads(result.stdout)
    assert [(row["workload"], row["system"]) for row in rows] == [
        (workload, system) for workload in ("mixed", "query") for system in ("ctxembed", "ctxembed-float32")
    ]
    assert rows[0]["ratio"] == 1
    assert rows[1]["min_cosine"] == pytest.approx(1)
    assert "of the time is tokenization" in result.stderr
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["trial"] == {"workloads": ["mixed", "query"], "rows": 20, "repeats": 2, "seed": 1}
    assert list(content["models"]) == ["tiny"]
    assert {"vector_instructions", "amx", "threads"} <= set(content["cpu"])
    assert content["results"][0]["utilisation"]["profile"]


def test_speed_of_texts_as_they_are_reads_the_input(tmp_path: Path, tiny_model: Path) -> None:
    write(tmp_path / "in.jsonl", [{"body": "one two"}, {"body": "three"}])
    call = ("speed", tmp_path / "in.jsonl", "--text-column", "body", "--workload", "texts", "-m", tiny_model)
    rows = json.loads(bench(*call, "--repeats", "1", "--format", "json").stdout)
    assert [(row["system"], row["texts"]) for row in rows] == [("ctxembed", 2), ("ctxembed-truncated", 2)]


def test_speed_table_has_a_part_for_each_workload(tiny_model: Path) -> None:
    call = ("speed", "-m", tiny_model, "--rows", "20", "--repeats", "1", "--workload", "titles", "--workload", "query")
    table = bench(*call).stdout.split("query", maxsplit=1)
    assert "latency_ms" not in table[0]
    assert "latency_ms" in table[1]


def test_speed_refuses_what_would_do_nothing(tmp_path: Path, tiny_model: Path) -> None:
    for idle in (["--weights", tmp_path], ["--text-column", "body"], ["--workload", "texts"]):
        result = bench("speed", "-m", tiny_model, *idle)
        assert result.exit_code == 2, result.stdout


def test_speed_offers_every_peer_that_there_is() -> None:
    from ctxembed_cli.bench import SPEED_PEERS

    from ctxembed.evaluation.peers import PEERS
    from ctxembed.evaluation.speed import OTHER_WAYS

    assert (*OTHER_WAYS, *PEERS) == SPEED_PEERS


def test_the_model_that_ships_has_a_name(data: Path, model: Path) -> None:
    call = ("words", "--data", data, "-m", "default", "-m", model, "--format", "json")
    assert [row["system"] for row in json.loads(bench(*call).stdout)] == ["ctxembed-small", "line"]


def test_training_takes_no_precision_that_it_would_ignore() -> None:
    outcome = CliRunner().invoke(ctxembed, ["bench", "training", "text.txt", "--precision", "float32"])
    assert outcome.exit_code == 2
    assert "No such option '--precision'" in outcome.output


def test_training_prints_nothing_but_its_rows(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    monkeypatch.setattr("ctxembed.runtime.default_model", lambda kind: tiny_model)  # a small vocabulary
    trial = "ctxembed.evaluation.training_speed.TrainingTrial"
    monkeypatch.setattr(trial, functools.partial(TrainingTrial, batch_tokens=256))
    corpus = data_directory() / "corpora" / "sample.txt"
    (tmp_path / "text.txt").write_text("".join(corpus.read_text(encoding="utf-8").splitlines(True)[:300]))
    call = ("training", tmp_path / "text.txt", "--preset", "tiny", "--steps", "10", "--repeats", "1")
    call += ("--row-tokens", "16", "--against", "transformers-eager", "-o", tmp_path / "out.json", "--format", "json")
    ours, theirs = json.loads(bench(*call).stdout)
    assert (ours["system"], theirs["system"]) == ("ctxembed", "transformers-eager")
    assert ours["times_slower"] == 1
    assert theirs["times_slower"] == pytest.approx(ours["tokens_per_second"] / theirs["tokens_per_second"])
    assert "profile" not in ours
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["inputs"] == ["text.txt"]
    assert record["trial"]["steps"] == 10
    assert [each["precision"] for each in record["results"]] == [ours["precision"], theirs["precision"]]
    assert all(each["profile"] for each in record["results"])

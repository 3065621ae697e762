"""The runner: systems, layers, the table, the result file, and what does not fit together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from ctxembed.errors import InvalidInputError
from ctxembed.evaluation.datasets import load_suite
from ctxembed.evaluation.records import Suite
from ctxembed.evaluation.runner import SystemResult, result_frame, result_rows, run_suite, write_results
from ctxembed.runtime import sha256_file
from ctxembed.types import Usage, Vectors


@dataclass
class LengthEncoder:
    """Gives the length of a text as its angle; the layer, where there is one, multiplies it."""

    name: str = "length"
    fingerprint: str = "a" * 64
    dimension: int = 2

    def encode(self, texts: Sequence[str], *, prompt: str | None = None) -> Vectors:
        angles = np.array([len(text) for text in texts]) / 20
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    def encode_usages(self, usages: Sequence[Usage], *, layer: int | None = None) -> Vectors:
        return self.encode([usage.text * (layer or 1) for usage in usages])


@dataclass
class TextsOnly:
    """Offers no usages."""

    name: str = "texts"
    fingerprint: str = "b" * 64
    dimension: int = 2

    def encode(self, texts: Sequence[str], *, prompt: str | None = None) -> Vectors:
        return LengthEncoder().encode(texts)


class UsagesOnly:
    """Offers no texts."""

    name = "usages"
    fingerprint = "c" * 64
    dimension = 2

    def encode_usages(self, usages: Sequence[Usage], *, layer: int | None = None) -> Vectors:
        return LengthEncoder().encode_usages(usages, layer=layer)


@pytest.fixture
def words(tmp_path: Path) -> Suite:
    rows = [
        {
            "word": f"w{n}",
            "sentence1": "ab",
            "start1": 0,
            "end1": 2,
            "sentence2": "cd " * n,
            "start2": 0,
            "end2": 2,
            "label": n % 2,
        }
        for n in range(1, 7)
    ]
    for split in ("train", "dev"):
        folder = tmp_path / "wic"
        folder.mkdir(exist_ok=True)
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return load_suite("words", tmp_path)


@pytest.fixture
def sentences(tmp_path: Path) -> Suite:
    rows = [{"sentence1": "ab", "sentence2": "x" * n, "score": 6 - n} for n in range(3, 6)]
    for name in ("one", "two"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return load_suite("sentences", tmp_path)


def test_run_gives_a_result_for_every_system_set_and_tells_as_it_goes(sentences: Suite) -> None:
    told: list[SystemResult] = []
    results = run_suite(sentences, [LengthEncoder(), TextsOnly()], on_task=told.append)
    assert [(each.system, each.result.task) for each in results] == [
        ("length", "one"),
        ("length", "two"),
        ("texts", "one"),
        ("texts", "two"),
    ]
    assert told == results


def test_run_scores_words_at_every_layer(words: Suite) -> None:
    results = run_suite(words, [LengthEncoder()], layers=[None, 2])
    assert [each.layer for each in results] == [None, 2]
    assert results[0].result.threshold != results[1].result.threshold


def test_systems_of_one_name_are_told_apart_by_fingerprint(sentences: Suite) -> None:
    results = run_suite(sentences, [LengthEncoder(), LengthEncoder(fingerprint="f" * 64), TextsOnly()])
    assert sorted({each.system for each in results}) == ["length@aaaaaaaa", "length@ffffffff", "texts"]


def test_one_model_given_twice_is_refused(sentences: Suite) -> None:
    with pytest.raises(InvalidInputError, match="length@aaaaaaaa is given twice"):
        run_suite(sentences, [LengthEncoder(), LengthEncoder()])


def test_no_model_is_refused(sentences: Suite) -> None:
    with pytest.raises(InvalidInputError, match="no model is named"):
        run_suite(sentences, [])


def test_layers_of_anything_but_words_are_refused(sentences: Suite) -> None:
    with pytest.raises(InvalidInputError, match=r"layers \[3\] are asked for sentences: only words"):
        run_suite(sentences, [LengthEncoder()], layers=[3])


def test_encoder_without_usages_is_refused_for_words(words: Suite) -> None:
    with pytest.raises(InvalidInputError, match="texts gives no vectors of words in context, which 'wic' needs"):
        run_suite(words, [TextsOnly()])


def test_encoder_without_texts_is_refused_for_sentences(sentences: Suite) -> None:
    with pytest.raises(InvalidInputError, match="usages gives no vectors of texts, which 'one' needs"):
        run_suite(sentences, [UsagesOnly()])


def test_frame_has_systems_as_rows_and_tasks_as_columns(sentences: Suite) -> None:
    frame = result_frame(run_suite(sentences, [TextsOnly(), LengthEncoder()]))
    assert frame.index.tolist() == ["texts", "length"]
    assert frame.columns.tolist() == ["one spearman", "two spearman"]
    assert frame.loc["length", "two spearman"] == pytest.approx(1.0)


def test_frame_has_a_row_for_every_layer(words: Suite) -> None:
    frame = result_frame(run_suite(words, [LengthEncoder()], layers=[1, 2]))
    assert frame.index.tolist() == ["length layer 1", "length layer 2"]


def test_rows_are_what_a_program_reads(words: Suite) -> None:
    [row] = result_rows(run_suite(words, [LengthEncoder()], layers=[2]))
    assert list(row) == ["system", "task", "metric", "value", "low", "high", "rows", "coverage"]
    assert (row["system"], row["rows"]) == ("length layer 2", 6)


def test_result_file_carries_what_is_needed_to_repeat_it(tmp_path: Path, words: Suite) -> None:
    path = tmp_path / "out" / "result.json"
    results = run_suite(words, [LengthEncoder()])
    write_results(path, results, suite=words, seed=7)
    content = json.loads(path.read_text(encoding="utf-8"))
    assert (content["format"], content["version"], content["kind"], content["seed"]) == (
        "ctxembed-bench",
        2,
        "words",
        7,
    )
    assert content["systems"] == {"length": "a" * 64}
    assert content["data"] == {
        "wic": {f"wic/{name}.jsonl": sha256_file(tmp_path / "wic" / f"{name}.jsonl") for name in ("dev", "train")}
    }
    assert content["environment"]["versions"]["ctxembed"]
    [row], [kept] = result_rows(results), content["results"]
    assert row.items() <= kept.items()
    assert (kept["split"], kept["threshold_from"], kept["resampled_by"]) == ("dev", "train", "row")


def test_equal_runs_give_equal_result_files(tmp_path: Path, words: Suite) -> None:
    for name in ("a", "b"):
        write_results(tmp_path / name, run_suite(words, [LengthEncoder()]), suite=words, seed=1)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()

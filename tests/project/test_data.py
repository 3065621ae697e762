"""What ships in data/: frozen bytes, offsets that hold, labels that no written form gives away."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import json
from collections import Counter, defaultdict
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow.parquet
import pytest

from ctxembed.runtime import data_directory
from ctxembed.text import word_form, word_spans

DATA = data_directory()
CORPORA = DATA / "corpora"
WORDS = DATA / "benchmarks" / "word_in_context"
RETRIEVAL = DATA / "benchmarks" / "retrieval"

Record = dict[str, Any]


def read(path: Path) -> list[Record]:
    """Read a file of JSON lines that is not empty."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert rows, path
    return rows


@pytest.fixture(scope="module")
def corpus() -> list[Record]:
    return read(CORPORA / "sample.jsonl")


@pytest.fixture(scope="module")
def uses() -> list[Record]:
    return read(WORDS / "uses.jsonl")


@pytest.fixture(scope="module", params=["dev", "test"])
def pairs(request: pytest.FixtureRequest) -> list[Record]:
    return read(WORDS / f"{request.param}.jsonl")


@pytest.fixture(scope="module")
def make() -> ModuleType:
    """data/make.py, which is a script."""
    spec = importlib.util.spec_from_file_location("make_data", DATA / "make.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def forms(pair: Record) -> tuple[str, ...]:
    """Return the two written forms of a pair, in an order that does not depend on which comes first."""
    return tuple(sorted(word_form(pair[f"sentence{n}"][pair[f"start{n}"] : pair[f"end{n}"]]) for n in (1, 2)))


# Frozen


def test_sums_cover_every_file_and_match() -> None:
    lines = (DATA / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    sums = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    folders = (DATA / "corpora", DATA / "benchmarks")
    present = {path.relative_to(DATA).as_posix() for folder in folders for path in folder.rglob("*") if path.is_file()}
    assert set(sums) == present
    changed = [
        name for name, digest in sums.items() if hashlib.sha256((DATA / name).read_bytes()).hexdigest() != digest
    ]
    assert not changed, f"changed since SHA256SUMS was written: {', '.join(changed)}"


# The corpus


def test_corpus_is_large_and_varied_enough(corpus: list[Record]) -> None:
    assert len(corpus) >= 800
    assert len({row["text"] for row in corpus}) == len(corpus)
    assert len({row["id"] for row in corpus}) == len(corpus)
    assert len({row["field"] for row in corpus}) >= 12
    senses = defaultdict(set)
    for row in corpus:
        if row.get("word"):
            senses[row["word"]].add(row["sense"])
    assert sum(len(found) >= 2 for found in senses.values()) >= 60


def test_corpus_rows_hold_the_word_they_name(corpus: list[Record]) -> None:
    named = [row for row in corpus if row.get("word")]
    assert named
    without = [
        row["id"] for row in named if not any(is_form_of(span.text, row["word"]) for span in word_spans(row["text"]))
    ]
    assert not without, f"no form of their word: {', '.join(without)}"
    assert [row["id"] for row in named if not row["sense"].startswith(f"{row['word']}.")] == []


def test_other_formats_hold_the_same_corpus(corpus: list[Record]) -> None:
    assert (CORPORA / "sample.txt").read_text(encoding="utf-8").splitlines() == [row["text"] for row in corpus]
    with (CORPORA / "sample.csv").open(encoding="utf-8", newline="") as stream:
        assert list(csv.DictReader(stream)) == [{key: value or "" for key, value in row.items()} for row in corpus]
    assert pyarrow.parquet.read_table(CORPORA / "sample.parquet").to_pylist() == corpus


# The word-in-context benchmark


def is_form_of(written: str, word: str) -> bool:
    """Tell whether a word is written as itself or as a regular inflection of it."""
    form = word_form(written).removesuffix("'s")
    stems = {word, word.removesuffix("e"), word.removesuffix("y") + "i", word + word[-1]}
    endings = ("", "s", "es", "ed", "d", "ing", "er", "est")
    return form in {stem + ending for stem in stems for ending in endings} | IRREGULAR.get(word, set())


IRREGULAR = {"draw": {"drew", "drawn"}}


def test_uses_mark_a_form_of_their_word(uses: list[Record]) -> None:
    marked = {(use["text"][use["start"] : use["end"]], use["word"]) for use in uses}
    assert [pair for pair in sorted(marked) if not is_form_of(*pair)] == []


def test_uses_mark_whole_words(uses: list[Record]) -> None:
    cut = [
        use["id"]
        for use in uses
        if (use["start"], use["end"]) not in {(span.start, span.end) for span in word_spans(use["text"])}
    ]
    assert cut == []


def test_every_word_has_two_senses_of_six_uses_or_more(uses: list[Record]) -> None:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for use in uses:
        counts[use["word"]][use["sense"]] += 1
        assert use["sense"].startswith(f"{use['word']}.")
    assert len(counts) >= 60
    assert {word: senses for word, senses in counts.items() if len(senses) < 2 or min(senses.values()) < 6} == {}


def test_half_of_the_words_have_one_part_of_speech(uses: list[Record]) -> None:
    parts = defaultdict(set)
    for use in uses:
        parts[use["word"]].add(use["pos"])
    assert 2 * sum(len(found) == 1 for found in parts.values()) == len(parts)


def test_uses_are_all_different_and_none_is_in_the_corpus(uses: list[Record], corpus: list[Record]) -> None:
    texts = [use["text"] for use in uses]
    assert len({use["id"] for use in uses}) == len(set(texts)) == len(texts)
    assert set(texts) & {row["text"] for row in corpus} == set()


def test_halves_share_no_word_and_hold_all(uses: list[Record]) -> None:
    dev, test = ({pair["word"] for pair in read(WORDS / f"{half}.jsonl")} for half in ("dev", "test"))
    assert dev & test == set()
    assert dev | test == {use["word"] for use in uses}


def test_pairs_are_made_of_two_uses_of_one_word(pairs: list[Record], uses: list[Record]) -> None:
    known = {use["id"]: use for use in uses}
    for pair in pairs:
        first, second = (known[name] for name in pair["id"].split("~"))
        assert first is not second
        assert first["word"] == second["word"] == pair["word"]
        for number, use in ((1, first), (2, second)):
            assert [pair[f"{key}{number}"] for key in ("sentence", "start", "end")] == [
                use[key] for key in ("text", "start", "end")
            ]
        assert pair["label"] == int(first["sense"] == second["sense"])
    assert len({frozenset(pair["id"].split("~")) for pair in pairs}) == len(pairs)


def test_nothing_that_sees_only_the_written_forms_can_beat_chance(pairs: list[Record]) -> None:
    """Equal counts of both labels for each word and pair of forms: any function of these is right half of the time."""
    labels: dict[tuple[str, ...], Counter[int]] = defaultdict(Counter)
    for pair in pairs:
        labels[pair["word"], *forms(pair)][pair["label"]] += 1
    assert {key: counts for key, counts in labels.items() if counts[0] != counts[1]} == {}


def test_pairs_follow_from_the_uses(make: ModuleType, uses: list[Record]) -> None:
    for name, words in zip(("dev", "test"), make.split_words(uses), strict=True):
        assert make.make_pairs(uses, words) == read(WORDS / f"{name}.jsonl")


# The retrieval benchmark


def test_judgements_name_queries_and_documents_that_exist(corpus: list[Record]) -> None:
    header, *lines = (RETRIEVAL / "qrels.tsv").read_text(encoding="utf-8").splitlines()
    assert header == "query-id\tcorpus-id\tscore"
    judgements = [line.split("\t") for line in lines]
    queries = [query["id"] for query in read(RETRIEVAL / "queries.jsonl")]
    assert len(set(queries)) == len(queries)
    assert {query for query, _, _ in judgements} == set(queries)
    assert {document for _, document, _ in judgements} <= {row["id"] for row in corpus}
    assert {score for _, _, score in judgements} <= {"1", "2"}
    assert len({(query, document) for query, document, _ in judgements}) == len(judgements)


# The cues


@pytest.fixture(scope="module")
def cues() -> list[Record]:
    return read(DATA / "benchmarks" / "cues" / "cues.jsonl")


def test_cues_mark_two_words_of_each_sentence(cues: list[Record]) -> None:
    for row in cues:
        spans = {(span.start, span.end) for span in word_spans(row["text"])}
        assert {(row["start"], row["end"]), (row["cue_start"], row["cue_end"])} <= spans, row["id"]
        assert is_form_of(row["text"][row["start"] : row["end"]], row["word"]) or row["word"] == "glasses"
        assert row["text"][row["cue_start"] : row["cue_end"]] == row["cue"]


def test_cue_is_all_that_the_two_sentences_of_a_word_differ_in(cues: list[Record]) -> None:
    frames: dict[str, list[str]] = defaultdict(list)
    for row in cues:
        frames[row["word"]].append(row["text"][: row["cue_start"]] + "*" + row["text"][row["cue_end"] :])
    assert len(frames) >= 20
    assert {word: found for word, found in frames.items() if len(found) != 2 or len(set(found)) != 1} == {}
    assert len({row["id"] for row in cues}) == len({row["text"] for row in cues}) == len(cues) >= 40


def test_cues_stand_before_and_after_near_and_far(cues: list[Record]) -> None:
    before = sum(row["cue_start"] < row["start"] for row in cues)
    assert 0.3 < before / len(cues) < 0.7
    between = [
        len(word_spans(row["text"][min(row["end"], row["cue_end"]) : max(row["start"], row["cue_start"])]))
        for row in cues
    ]
    assert min(between) <= 1
    assert max(between) >= 7

from __future__ import annotations

import datetime
import decimal
import gzip
import io
import re
import tempfile
import tracemalloc
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctxembed.corpus import Corpus, ReadOptions, require_restartable, sample_documents
from ctxembed.errors import InvalidInputError, MissingInputError
from ctxembed.types import Document

from .corpus_files import COMPRESS, FORMATS, Rows, expect_error, read, write, write_parquet

# Ids and metadata


def test_id_column_is_written_as_text(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "x", "key": 7, "id": "other"}')
    assert read(path, id_column="key") == [Document("7", "x", {"id": "other"})]


def test_row_without_a_value_in_the_column_id_is_named_by_its_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "x", "id": null}\n{"text": "y", "id": 0}')
    assert [document.id for document in read(path)] == ["a:1", "0"]


def test_empty_value_in_a_requested_id_column_is_an_error(tmp_path: Path) -> None:
    expect_error(
        write(tmp_path / "a.csv", "text,key\nx,\n"), r"a\.csv:2: the id column 'key' is empty", id_column="key"
    )


def test_only_known_suffixes_are_left_out_of_ids(tmp_path: Path) -> None:
    assert read(write(tmp_path / "2024.01.notes.txt.gz", gzip.compress(b"x")))[0].id == "2024.01.notes:1"


def test_equal_stems_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    for name in ("x/a.txt", "y/a.txt", "y/a.jsonl", "y/b.txt"):
        write(tmp_path / name, '"one"')
    ids = [document.id for document in Corpus([tmp_path / "x", tmp_path / "y"])]
    assert ids == ["x/a.txt:1", "y/a.jsonl:1", "y/a.txt:1", "b:1"]


def test_metadata_columns_choose_what_is_kept(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text,b,c\nx,1,2\n")
    assert read(path, metadata_columns=("c", "text"))[0].metadata == {"c": "2", "text": "x"}
    assert read(path, metadata_columns=())[0].metadata == {}


def test_json_metadata_is_scalar_or_json_text(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl", '{"text": "x", "f": 1.5, "b": true, "n": null, "nan": NaN, "l": [1, "é"], "o": {"k": 2}}'
    )
    expected = {"f": 1.5, "b": True, "n": None, "nan": None, "l": '[1, "é"]', "o": '{"k": 2}'}
    assert read(path)[0].metadata == expected


def test_jsonl_rows_without_a_requested_metadata_column_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "x", "m": 1}\n{"text": "y"}')
    corpus = Corpus([path], options=ReadOptions(metadata_columns=("m",)))
    assert [document.metadata for document in corpus] == [{"m": 1}, {}]
    assert corpus.counts.rows_without_metadata == 1


def test_parquet_values_become_plain_scalars(tmp_path: Path) -> None:
    path = write_parquet(
        tmp_path / "a.parquet",
        text=["x"],
        id=pa.array([5], pa.int64()),
        nan=pa.array([float("nan")]),
        when=pa.array([datetime.datetime(2024, 5, 1, 12, 30)], pa.timestamp("ns")),
        day=pa.array([datetime.date(2024, 5, 1)]),
        price=pa.array([decimal.Decimal("1.10")]),
        kind=pa.array(["k"]).dictionary_encode(),
        count=pa.array([3], pa.uint8()),
    )
    (document,) = read(path)
    expected = {
        "nan": None,
        "when": "2024-05-01T12:30:00",
        "day": "2024-05-01",
        "price": "1.10",
        "kind": "k",
        "count": 3,
    }
    assert document == Document("5", "x", expected)
    assert {type(value) for value in document.metadata.values()} == {str, int, type(None)}


def test_parquet_nested_and_binary_columns_are_named_and_read_only_on_request(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", text=["x"], vector=[[1, 2]], image=[b"\x01\xff"], n=[1])
    corpus = Corpus([path])
    assert next(iter(corpus)).metadata == {"n": 1}
    assert "columns not read because they hold no scalars: image, vector" in corpus.counts.summary()
    assert read(path, metadata_columns=("vector", "image"))[0].metadata == {"vector": "[1, 2]", "image": "01ff"}


def test_parquet_text_in_bytes_follows_the_encoding_policy(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", text=["č".encode(), b"\xff"])
    expect_error(path, r"a\.parquet:2: not UTF-8")
    assert [document.text for document in read(path, encoding_errors="replace")] == ["č", "\ufffd"]


def test_sentences_become_documents_with_numbered_ids(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "One is here. Two is there!", "id": "d", "m": 1}\n{"text": "Three."}')
    corpus = Corpus([path], options=ReadOptions(split_sentences=True))
    assert list(corpus) == [
        Document("d.0", "One is here.", {"m": 1}),
        Document("d.1", "Two is there!", {"m": 1}),
        Document("a:2.0", "Three.", {}),
    ]
    assert corpus.counts.documents == 3


# Inputs


def test_directory_is_read_recursively_sorted_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.jsonl", ".hidden.txt", ".git/c.txt", "readme.md", "a/table.parquet.gz"):
        write(tmp_path / name, '"one"')
    corpus = Corpus(tmp_path)
    assert corpus.names == [str(tmp_path / "a" / "z.jsonl"), str(tmp_path / "b.txt")]
    assert list(corpus) == [Document("z:1", "one"), Document("b:1", '"one"')]
    assert corpus.counts.summary() == "2 documents; 2 files of other kinds ignored"


def test_directory_without_supported_files_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "a.pdf", "x")
    with pytest.raises(InvalidInputError, match=r"holds no supported file \(1 of other kinds\): use \.txt \.jsonl"):
        Corpus([tmp_path])


def test_unknown_suffix_is_an_error_listing_the_supported_ones(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pdf", "x")
    with pytest.raises(InvalidInputError, match=r"a\.pdf is of no supported kind: use \.txt \.jsonl \.csv \.tsv"):
        Corpus([path])


def test_missing_path_is_an_error() -> None:
    with pytest.raises(MissingInputError, match=r"nowhere\.txt does not exist"):
        Corpus(["nowhere.txt"])


def test_no_input_is_an_error() -> None:
    with pytest.raises(InvalidInputError, match="0 inputs are given"):
        Corpus([])


def test_repeated_input_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "x")
    with pytest.raises(InvalidInputError, match=r"a\.txt is given 2 times"):
        Corpus([tmp_path, path])


def test_stdin_is_read_once_and_stays_restartable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO("één\ntwo\n".encode())))
    corpus = Corpus(["-"])
    assert list(corpus) == list(corpus) == [Document("stdin:1", "één"), Document("stdin:2", "two")]
    assert corpus.names == ["stdin"]
    assert len(list(tmp_path.iterdir())) == 1
    del corpus
    assert list(tmp_path.iterdir()) == []


def test_stdin_format_jsonl_reads_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b'{"text": "x", "id": 3}\n5')))
    iterator = iter(Corpus("-", options=ReadOptions(stdin_format="jsonl")))
    assert next(iterator) == Document("3", "x")
    with pytest.raises(InvalidInputError, match="stdin:2: not a JSON object"):
        next(iterator)


@pytest.mark.parametrize("option", ["document", "encoding_errors", "stdin_format"])
def test_unknown_option_value_is_an_error(option: str) -> None:
    with pytest.raises(InvalidInputError, match=rf"{option}='odd': use one of "):
        ReadOptions(**{option: "odd"})  # type: ignore[arg-type]


# Streams


row_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
random_rows = st.lists(st.fixed_dictionaries({"text": row_texts, "id": row_texts, "lang": row_texts}), max_size=6)


@settings(max_examples=25, deadline=None)
@given(rows=random_rows)
@pytest.mark.parametrize("kind", FORMATS)
def test_random_rows_come_back_equal_in_two_passes(kind: str, rows: Rows) -> None:
    with tempfile.TemporaryDirectory() as folder:
        corpus = Corpus([write(Path(folder) / f"rows.{kind}", FORMATS[kind](rows))])
        documents = list(corpus)
        assert list(corpus) == documents
    kept = [row for row in rows if row["text"].strip()]
    found = [(document.text, document.metadata["lang"]) for document in documents]
    assert found == [(row["text"], row["lang"]) for row in kept]
    assert corpus.counts.skipped_empty == len(rows) - len(kept)
    for document, row in zip(documents, kept, strict=True):
        assert document.id == row["id"] or (row["id"] == "" and re.fullmatch(r"rows:\d+", document.id))


def test_counts_are_of_the_last_pass_even_when_it_is_partial(tmp_path: Path) -> None:
    corpus = Corpus([write(tmp_path / "a.txt", "one\n\ntwo\n")])
    assert len(list(corpus)) == corpus.counts.documents == 2
    next(iter(corpus))
    assert (corpus.counts.documents, corpus.counts.skipped_empty) == (1, 0)


def test_interleaved_passes_do_not_disturb_each_other(tmp_path: Path) -> None:
    corpus = Corpus([write(tmp_path / "a.txt", "one\ntwo\n")])
    assert [(left.text, right.text) for left, right in zip(corpus, corpus, strict=True)] == [
        ("one", "one"),
        ("two", "two"),
    ]


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.txt.zst"])
def test_large_file_is_never_held_in_memory(tmp_path: Path, name: str) -> None:
    data = b"".join(b"line number %d of a long file\n" % number for number in range(60_000))
    corpus = Corpus([write(tmp_path / name, COMPRESS[Path(name).suffix if name != "a.txt" else ""](data))])
    tracemalloc.start()
    num_documents = sum(1 for _ in corpus)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert num_documents == 60_000
    assert peak < len(data) / 2


def test_sample_keeps_the_order_and_repeats_with_its_seed() -> None:
    documents = [Document(str(number), "x") for number in range(100)]
    sample = sample_documents(documents, size=10, seed=3)
    positions = [int(document.id) for document in sample]
    assert len(positions) == 10
    assert positions == sorted(set(positions))
    assert sample == sample_documents(iter(documents), size=10, seed=3)
    assert sample != sample_documents(documents, size=10, seed=4)


def test_sample_of_a_short_stream_is_the_whole_stream() -> None:
    documents = [Document(str(number), "x") for number in range(3)]
    assert sample_documents(documents, size=5, seed=0) == documents
    assert sample_documents([], size=5, seed=0) == []


def test_sample_draws_every_document_equally_often() -> None:
    documents = [Document(str(number), "x") for number in range(10)]
    drawn = Counter(document.id for seed in range(2000) for document in sample_documents(documents, size=3, seed=seed))
    # 600 expected, standard deviation 20.5; five of them on each side.
    assert len(drawn) == 10
    assert all(500 < count < 700 for count in drawn.values())


def test_sample_of_size_zero_is_an_error() -> None:
    with pytest.raises(InvalidInputError, match="a sample of size 0, need at least 1"):
        sample_documents([], size=0, seed=0)


def test_one_shot_iterator_is_refused_by_name() -> None:
    with pytest.raises(InvalidInputError, match=r"generator is a one-shot iterator.*pass a list or a Corpus"):
        require_restartable(Document(str(number), "x") for number in range(3))


def test_list_and_corpus_pass_as_restartable(tmp_path: Path) -> None:
    corpus = Corpus([write(tmp_path / "a.txt", "x")])
    documents = [Document("1", "x")]
    assert require_restartable(corpus) is corpus
    assert require_restartable(documents) is documents

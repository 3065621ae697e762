from __future__ import annotations

import csv
import datetime
import decimal
import gzip
import io
import json
import re
import struct
import tempfile
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from ctxembed.corpus import Corpus, ReadOptions, require_restartable, sample_documents, texts
from ctxembed.errors import InvalidInputError, MissingInputError
from ctxembed.types import Document

Rows = list[dict[str, str]]
ROWS: Rows = [
    {"text": "the bank of the river", "id": "r1", "lang": "en"},
    {"text": "čaj, “kávé” 茶", "id": "r2", "lang": "hu"},
]
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".zst": lambda data: zstandard.ZstdCompressor().compress(data),
}


def table_bytes(rows: Rows, *, delimiter: str) -> bytes:
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, fieldnames=list(ROWS[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().encode()


def parquet_bytes(rows: Rows) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema([(name, pa.string()) for name in ROWS[0]])), stream)
    return stream.getvalue()


FORMATS: dict[str, Callable[[Rows], bytes]] = {
    "jsonl": lambda rows: "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode(),
    "csv": lambda rows: table_bytes(rows, delimiter=","),
    "tsv": lambda rows: table_bytes(rows, delimiter="\t"),
    "parquet": parquet_bytes,
}


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(path: Path, **options: object) -> list[Document]:
    return list(Corpus([path], options=ReadOptions(**options)))  # type: ignore[arg-type]


def write_parquet(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def expect_error(path: Path, message: str, **options: object) -> None:
    with pytest.raises(InvalidInputError, match=message):
        read(path, **options)


# Formats and compressions


@pytest.mark.parametrize("compression", COMPRESS)
def test_txt_gives_one_document_per_line_in_every_compression(tmp_path: Path, compression: str) -> None:
    path = write(tmp_path / f"notes.txt{compression}", COMPRESS[compression]("first\nšálek čaje\nlast".encode()))
    assert read(path) == [Document("notes:1", "first"), Document("notes:2", "šálek čaje"), Document("notes:3", "last")]


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv"])
def test_rows_are_read_in_every_compression(tmp_path: Path, kind: str, compression: str) -> None:
    path = write(tmp_path / f"rows.{kind}{compression}", COMPRESS[compression](FORMATS[kind](ROWS)))
    assert read(path) == [Document(row["id"], row["text"], {"lang": row["lang"]}) for row in ROWS]


def test_parquet_is_read_over_several_batches(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "rows.parquet", text=[f"text {number}" for number in range(3000)])
    documents = read(path)
    assert len(documents) == 3000
    assert documents[2999] == Document("rows:3000", "text 2999")


def test_suffixes_are_read_in_any_case(tmp_path: Path) -> None:
    assert read(write(tmp_path / "A.TXT.GZ", gzip.compress(b"x"))) == [Document("A:1", "x")]


def test_paragraphs_join_lines_up_to_an_empty_one(tmp_path: Path) -> None:
    path = write(tmp_path / "notes.txt", "\n\none\ntwo\n \t\n\nthree\r\n\r\nfour")
    assert read(path, document="paragraph") == [
        Document("notes:3", "one\ntwo"),
        Document("notes:7", "three"),
        Document("notes:9", "four"),
    ]


def test_zstd_files_of_several_and_skippable_frames_are_read_whole(tmp_path: Path) -> None:
    skippable = struct.pack("<II", 0x184D2A50, 5) + b"notes"
    frames = [zstandard.ZstdCompressor().compress(text) for text in (b"one\ntw", b"o\n", b"three")]
    path = write(tmp_path / "a.txt.zst", skippable + frames[0] + frames[1] + skippable + frames[2])
    assert list(texts(Corpus([path]))) == ["one", "two", "three"]


def test_a_string_on_a_jsonl_line_is_the_text(tmp_path: Path) -> None:
    assert read(write(tmp_path / "rows.jsonl", '"plain"\n{"text": "row"}\n')) == [
        Document("rows:1", "plain"),
        Document("rows:2", "row"),
    ]


def test_quoted_fields_keep_separators_and_line_breaks(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", 'text,n\n"a, ""b""\r\nc",1\nd,2\n')
    assert read(path) == [Document("rows:2", 'a, "b"\r\nc', {"n": "1"}), Document("rows:4", "d", {"n": "2"})]


def test_csv_field_longer_than_the_library_default_is_read(tmp_path: Path) -> None:
    text = "x" * 200_000
    assert read(write(tmp_path / "rows.csv", f"text\n{text}\n")) == [Document("rows:2", text)]


# Lines and characters


def test_crlf_and_cr_end_lines(tmp_path: Path) -> None:
    assert list(texts(Corpus([write(tmp_path / "a.txt", "one\r\ntwo\rthree\n")]))) == ["one", "two", "three"]


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x00"])
def test_other_separators_and_nul_stay_inside_the_text(tmp_path: Path, character: str) -> None:
    text = f"a{character}b"
    assert read(write(tmp_path / "a.txt", f"{text}\n")) == [Document("a:1", text)]
    assert read(write(tmp_path / "b.csv", f"text,m\n{text},1\n")) == [Document("b:2", text, {"m": "1"})]


@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv"])
def test_byte_order_mark_is_no_part_of_the_text(tmp_path: Path, kind: str) -> None:
    content = {"txt": "ä", "jsonl": '{"text": "ä"}', "csv": "text\nä"}[kind]
    assert list(texts(Corpus([write(tmp_path / f"a.{kind}", b"\xef\xbb\xbf" + content.encode())]))) == ["ä"]


def test_bad_bytes_are_an_error_naming_the_line_when_strict(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"fine\ncaf\xe9\n")
    expect_error(path, r"a\.txt:2: not UTF-8 \(character 4 of the line\).*--encoding-errors replace")


def test_bad_bytes_are_replaced_and_counted_when_asked(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "číst\n".encode() + b"caf\xe9\n\xff\xfe\n\xed\xa0\x80\n")
    corpus = Corpus([path], options=ReadOptions(encoding_errors="replace"))
    expected = path.read_bytes().decode("utf-8", "replace").split("\n")[:-1]
    assert list(texts(corpus)) == expected
    assert expected[1] == "caf\ufffd"
    assert corpus.counts.undecodable_lines == 3


def test_escaped_lone_surrogate_is_treated_like_a_bad_byte(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", r'{"text": "\ud83d\ude00 \ud800", "m": ["\udfff"]}')
    expect_error(path, r"a\.jsonl:1: not UTF-8")
    assert read(path, encoding_errors="replace") == [Document("a:1", "😀 \ufffd", {"m": '["\ufffd"]'})]


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


# What is empty or wrong


@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv", "tsv"])
@pytest.mark.parametrize("compression", COMPRESS)
def test_empty_file_yields_nothing(tmp_path: Path, kind: str, compression: str) -> None:
    corpus = Corpus([write(tmp_path / f"a.{kind}{compression}", COMPRESS[compression](b""))])
    assert list(corpus) == []
    assert corpus.counts.documents == corpus.counts.skipped_empty == 0


@pytest.mark.parametrize(
    "name, content, skipped",
    [
        ("a.txt", "x\n\n \t\u3000\ny", 2),
        ("a.jsonl", '{"text": "x"}\n\n{"text": " "}\n{"text": null}\n""\n"y"', 4),
        ("a.csv", 'text,m\nx,1\n\n,2\n" ",3\ny,4\n', 3),
    ],
)
def test_empty_texts_are_skipped_and_counted(tmp_path: Path, name: str, content: str, skipped: int) -> None:
    corpus = Corpus([write(tmp_path / name, content)])
    assert list(texts(corpus)) == ["x", "y"]
    assert corpus.counts.skipped_empty == skipped
    assert corpus.counts.summary() == f"2 documents; {skipped} empty texts skipped"


def test_parquet_null_and_empty_texts_are_skipped_and_counted(tmp_path: Path) -> None:
    corpus = Corpus([write_parquet(tmp_path / "a.parquet", text=[None, "x", ""])])
    assert list(corpus) == [Document("a:2", "x")]
    assert corpus.counts.skipped_empty == 2


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("option", ["text_column", "id_column"])
def test_missing_column_is_an_error_naming_the_columns(tmp_path: Path, kind: str, option: str) -> None:
    path = write(tmp_path / f"rows.{kind}", FORMATS[kind](ROWS))
    expect_error(path, rf"rows\.{kind}.*: no column 'body': the columns are 'text', 'id', 'lang'", **{option: "body"})


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_missing_metadata_column_of_a_table_is_an_error(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / f"rows.{kind}", FORMATS[kind]([]))
    expect_error(path, rf"rows\.{kind}: no column 'year'", metadata_columns=("year",))


def test_id_column_of_a_txt_file_is_an_error(tmp_path: Path) -> None:
    expect_error(write(tmp_path / "a.txt", "x"), r"a\.txt:1: no column 'key': the columns are 'text'", id_column="key")


@pytest.mark.parametrize("line", ['{"text": "x"', "42", "[1]", "null", "{}", "[" * 100_000, "9" * 5000])
def test_malformed_json_row_is_an_error_naming_the_line(tmp_path: Path, line: str) -> None:
    expect_error(write(tmp_path / "rows.jsonl", f'{{"text": "x"}}\n\n{line}\n'), r"rows\.jsonl:3: not a JSON object \(")


@pytest.mark.parametrize("value", ["5", "[1]", "true", '{"a": 1}'])
def test_text_that_is_no_string_is_an_error_naming_the_line(tmp_path: Path, value: str) -> None:
    expect_error(
        write(tmp_path / "rows.jsonl", f'"x"\n{{"text": {value}}}'), r"rows\.jsonl:2: 'text' is .*need a string"
    )


def test_parquet_text_that_is_no_string_is_an_error(tmp_path: Path) -> None:
    expect_error(write_parquet(tmp_path / "a.parquet", text=[5]), r"a\.parquet:1: 'text' is 5 \(int\), need a string")


@pytest.mark.parametrize(
    "content, message",
    [
        ('text,m\n"a\nb",1\nx,1,2\n', r"rows\.csv:4: 3 fields where the header has 2"),
        ('text,m\nx,1\n"open,2\ny,3\n', r"rows\.csv:3: not valid CSV"),
        ('text,m\n"a" b,1\n', r"rows\.csv:2: not valid CSV"),
        ("text,text\na,b\n", r"rows\.csv: the column 'text' stands twice"),
    ],
)
def test_malformed_csv_is_an_error_naming_the_line(tmp_path: Path, content: str, message: str) -> None:
    expect_error(write(tmp_path / "rows.csv", content), message)


@pytest.mark.parametrize("compression", [".gz", ".zst"])
@pytest.mark.parametrize("damage", [lambda data: data[:-3], lambda data: b"no " + data, lambda data: data + b"garbage"])
def test_damaged_compressed_file_is_an_error_naming_the_file(
    tmp_path: Path, compression: str, damage: Callable[[bytes], bytes]
) -> None:
    path = write(tmp_path / f"a.txt{compression}", damage(COMPRESS[compression](b"line\n" * 5000)))
    expect_error(path, rf"a\.txt\{compression} cannot be read to its end \(.+\)")


def test_damaged_parquet_is_an_error_naming_the_file(tmp_path: Path) -> None:
    expect_error(write(tmp_path / "a.parquet", b"PAR1 nothing else"), r"a\.parquet cannot be read to its end")


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

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from ctxembed.corpus import Corpus, ReadOptions, texts
from ctxembed.types import Document

from .corpus_files import COMPRESS, FORMATS, ROWS, expect_error, read, write, write_parquet

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

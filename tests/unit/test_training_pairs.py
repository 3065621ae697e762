from __future__ import annotations

import gzip
import json
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctxembed.errors import InvalidInputError, MissingInputError
from ctxembed.training.batches import TokenRows
from ctxembed.training.pairs import PairCounts, PairOptions, PairRows, read_pairs

if TYPE_CHECKING:
    from ctxembed.tokenizer import SubwordTokenizer

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".zst": lambda data: zstandard.ZstdCompressor().compress(data),
}
ROWS = [
    {"anchor": "the bank", "positive": "it lent money", "source": "here"},
    {"anchor": "a crane", "positive": "it stood in the water", "negatives": ["it lifted cars", "a band"]},
    {"anchor": "a plant", "positive": "it grew", "negative": "it makes trains"},
]


def write(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path | Sequence[Path], tokenizer: SubwordTokenizer, **changes: Any) -> PairRows:
    return read_pairs(path, tokenizer, max_length=changes.pop("max_length", 16), options=PairOptions(**changes))


def as_lists(rows: TokenRows) -> list[list[int]]:
    return [rows.ids[first:last].tolist() for first, last in zip(rows.starts[:-1], rows.starts[1:], strict=True)]


def tokens(tokenizer: SubwordTokenizer, *texts: str) -> list[list[int]]:
    return [[tokenizer.cls_id, *ids.tolist(), tokenizer.sep_id] for ids in tokenizer.encode_ids(texts)]


@pytest.mark.parametrize("suffix", COMPRESS)
def test_pairs_and_their_negatives_become_token_rows(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path, suffix: str
) -> None:
    plain = write(tmp_path / "plain.jsonl", ROWS).read_bytes()
    path = tmp_path / f"pairs.jsonl{suffix}"
    path.write_bytes(COMPRESS[suffix](plain))
    pairs = read(path, tiny_tokenizer)
    assert len(pairs) == 3
    assert as_lists(pairs.anchors) == tokens(tiny_tokenizer, "the bank", "a crane", "a plant")
    assert as_lists(pairs.positives) == tokens(tiny_tokenizer, "it lent money", "it stood in the water", "it grew")
    assert as_lists(pairs.negatives) == tokens(tiny_tokenizer, "it lifted cars", "a band", "it makes trains")
    assert pairs.negative_starts.tolist() == [0, 0, 2, 3]
    assert pairs.counts == PairCounts(pairs=3)


def test_columns_may_have_other_names(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    row = {"lemma": "bank", "gloss": "it lent money", "wrong": "the river", "negatives": ["cars"], "examples": []}
    path = write(tmp_path / "glosses.jsonl", [row])
    pairs = read(path, tiny_tokenizer, anchor_column="lemma", positive_column="gloss", negative_column="wrong")
    assert as_lists(pairs.anchors) == tokens(tiny_tokenizer, "bank")
    assert as_lists(pairs.positives) == tokens(tiny_tokenizer, "it lent money")
    assert as_lists(pairs.negatives) == tokens(tiny_tokenizer, "the river")


def test_a_list_gives_a_pair_for_each_of_its_texts(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    rows = [
        {"gloss": "it lent money", "examples": ["the bank", "a bank"], "negative": "the river"},
        {"gloss": "it grew", "examples": []},
    ]
    path = write(tmp_path / "glosses.jsonl", rows)
    pairs = read(path, tiny_tokenizer, anchor_column="gloss", positive_column="examples")
    assert as_lists(pairs.anchors) == tokens(tiny_tokenizer, "it lent money", "it lent money")
    assert as_lists(pairs.positives) == tokens(tiny_tokenizer, "the bank", "a bank")
    assert as_lists(pairs.negatives) == tokens(tiny_tokenizer, "the river", "the river")
    assert pairs.counts == PairCounts(pairs=2, skipped_empty=1)


@pytest.mark.parametrize(("suffix", "separator"), [("csv", ","), ("tsv", "\t")])
def test_tables_are_read_too(tiny_tokenizer: SubwordTokenizer, tmp_path: Path, suffix: str, separator: str) -> None:
    path = tmp_path / f"pairs.{suffix}"
    lines = [("anchor", "positive", "negative"), ("the bank", "money", "water"), ("a crane", "cars", "")]
    path.write_text("\n".join(separator.join(line) for line in lines), encoding="utf-8")
    pairs = read(path, tiny_tokenizer)
    assert as_lists(pairs.positives) == tokens(tiny_tokenizer, "money", "cars")
    assert as_lists(pairs.negatives) == tokens(tiny_tokenizer, "water")
    assert pairs.counts == PairCounts(pairs=2, skipped_negatives=1)


def test_several_files_and_folders_are_read_in_order(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    second = write(tmp_path / "folder" / "b.jsonl", ROWS[1:2])
    first = write(tmp_path / "z.jsonl", ROWS[:1])
    pairs = read([first, second.parent], tiny_tokenizer)
    assert as_lists(pairs.anchors) == tokens(tiny_tokenizer, "the bank", "a crane")


@pytest.mark.parametrize("empty", ["", " \t", None, []])
@pytest.mark.parametrize("side", ["anchor", "positive"])
def test_a_pair_with_an_empty_side_is_skipped_and_counted(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path, side: str, empty: Any
) -> None:
    rows = [ROWS[0], {**ROWS[1], side: empty}, ROWS[2]]
    pairs = read(write(tmp_path / "pairs.jsonl", rows), tiny_tokenizer)
    assert as_lists(pairs.anchors) == tokens(tiny_tokenizer, "the bank", "a plant")
    assert as_lists(pairs.negatives) == tokens(tiny_tokenizer, "it makes trains")
    assert pairs.negative_starts.tolist() == [0, 0, 1]
    assert pairs.counts.summary() == "2 pairs; 1 with an empty side skipped"


def test_an_empty_line_is_counted(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.jsonl", ROWS[:1])
    path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert read(path, tiny_tokenizer).counts == PairCounts(pairs=1, skipped_empty=1)


def test_long_texts_are_cut_and_counted(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    row = {"anchor": "bank river", "positive": "the bank of the river", "negative": "the bass in the river"}
    pairs = read(write(tmp_path / "pairs.jsonl", [row]), tiny_tokenizer, max_length=5)
    assert as_lists(pairs.anchors) == tokens(tiny_tokenizer, "bank river")
    assert as_lists(pairs.positives) == tokens(tiny_tokenizer, "the bank of")
    assert as_lists(pairs.negatives) == tokens(tiny_tokenizer, "the bass in")
    assert pairs.counts == PairCounts(pairs=1, cut_texts=2, lost_tokens=4)
    assert pairs.counts.summary() == "1 pairs; 2 texts cut to max_length (4 tokens lost)"


def test_a_cut_text_of_a_skipped_pair_is_not_counted(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    rows = [{"anchor": "bank", "positive": "river"}, {"anchor": "", "positive": "the bank of the river"}]
    pairs = read(write(tmp_path / "pairs.jsonl", rows), tiny_tokenizer, max_length=4)
    assert pairs.counts == PairCounts(pairs=1, skipped_empty=1)


WORDS = st.lists(st.sampled_from(["bank", "river", "the", "plant", "crane"]), max_size=4).map(" ".join)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(WORDS, WORDS, st.lists(WORDS, max_size=3)), min_size=1, max_size=12),
    piece=st.integers(1, 5),
)
def test_pieces_do_not_change_what_is_read(
    tiny_tokenizer: SubwordTokenizer,
    tmp_path: Path,
    rows: list[tuple[str, str, list[str]]],
    piece: int,
) -> None:
    rows = [*rows, ("the bank", "the river", [])]
    path = write(tmp_path / "pairs.jsonl", [{"anchor": a, "positive": p, "negatives": n} for a, p, n in rows])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ctxembed.training.pairs._PIECE", piece)
        pairs = read(path, tiny_tokenizer)
    kept = [row for row in rows if row[0] and row[1]]
    assert as_lists(pairs.anchors) == tokens(tiny_tokenizer, *(row[0] for row in kept))
    assert as_lists(pairs.positives) == tokens(tiny_tokenizer, *(row[1] for row in kept))
    negatives = as_lists(pairs.negatives)
    for number, (_, _, texts) in enumerate(kept):
        first, last = pairs.negative_starts[number : number + 2]
        assert negatives[first:last] == tokens(tiny_tokenizer, *filter(None, texts))
    assert pairs.counts.pairs + pairs.counts.skipped_empty == len(rows)


def test_the_hash_follows_from_the_pairs_alone(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    one = read(write(tmp_path / "a.jsonl", ROWS), tiny_tokenizer)
    same = read([write(tmp_path / "b.jsonl", ROWS[:2]), write(tmp_path / "c.jsonl", ROWS[2:])], tiny_tokenizer)
    others = [
        read(write(tmp_path / "d.jsonl", rows), tiny_tokenizer)
        for rows in (
            ROWS[::-1],
            ROWS[:2],
            [*ROWS[:2], {**ROWS[2], "negative": "it makes cars"}],
            [
                ROWS[0],
                {**ROWS[1], "negatives": ["it lifted cars"]},
                {"anchor": "a plant", "positive": "it grew", "negatives": ["a band", "it makes trains"]},
            ],
        )
    ]
    assert one.sha256 == same.sha256
    assert len({one.sha256, *(other.sha256 for other in others)}) == 5  # the last has other owners of its negatives


def test_texts_are_not_held_in_memory(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    # The word is one token: a text of 2,000 characters leaves 4 tokens, cut.
    row = {"anchor": "bank", "positive": "river " * 330}
    path = write(tmp_path / "pairs.jsonl", [row] * 4000)
    tracemalloc.start()
    try:
        pairs = read(path, tiny_tokenizer, max_length=4)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(pairs) == 4000
    assert peak < path.stat().st_size


# What is refused


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"anchor": "a crane", "positive"', r"pairs\.jsonl:2: not a JSON object"),
        ("[1, 2]", r"pairs\.jsonl:2: not a JSON object \(a list\)"),
        ('"a crane"', r"pairs\.jsonl:2: no column 'positive': the columns are 'anchor'; name the one to use"),
        ('{"anchor": "a crane"}', r"pairs\.jsonl:2: no column 'positive'"),
        ('{"query": "a", "positive": "b"}', r"pairs\.jsonl:2: no column 'anchor': the columns are 'query', 'positive'"),
        (
            '{"anchor": 7, "positive": "b"}',
            r"pairs\.jsonl:2: 'anchor' is 7 \(int\), need a string or a list of strings",
        ),
        ('{"anchor": "a", "positive": {"text": "b"}}', r"pairs\.jsonl:2: 'positive' is {'text': 'b'} \(dict\)"),
        ('{"anchor": "a", "positive": "b", "negatives": [1]}', r"pairs\.jsonl:2: 'negatives' is \[1\] \(list\)"),
        ('{"anchor": "a", "positive": ["b", null]}', r"pairs\.jsonl:2: 'positive' is \['b', None\] \(list\)"),
    ],
)
def test_a_malformed_row_is_named_with_its_line(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path, line: str, message: str
) -> None:
    path = write(tmp_path / "pairs.jsonl", ROWS[:1])
    path.write_text(path.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    with pytest.raises(InvalidInputError, match=message):
        read(path, tiny_tokenizer)


def test_a_named_negative_column_must_be_there(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.jsonl", ROWS[:1])
    with pytest.raises(InvalidInputError, match=r"pairs\.jsonl:1: no column 'wrong'"):
        read(path, tiny_tokenizer, negative_column="wrong")


def test_files_without_pairs_are_refused(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.jsonl", [{"anchor": "", "positive": "b"}])
    with pytest.raises(InvalidInputError, match=r"pairs\.jsonl: no pair to learn from \(1 with an empty side\)"):
        read(path, tiny_tokenizer)


def test_other_formats_are_refused(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    (tmp_path / "pairs.txt").write_text("a\tb\n", encoding="utf-8")
    with pytest.raises(InvalidInputError, match=r"pairs\.txt: pairs are read from \.jsonl, \.csv, \.tsv"):
        read(tmp_path / "pairs.txt", tiny_tokenizer)


def test_stdin_is_refused(tiny_tokenizer: SubwordTokenizer) -> None:
    with pytest.raises(InvalidInputError, match=r"not read from stdin \(-\): name a file"):
        read(Path("-"), tiny_tokenizer)


def test_a_missing_file_is_refused(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"pairs\.jsonl does not exist"):
        read(tmp_path / "pairs.jsonl", tiny_tokenizer)


def test_rows_too_short_for_a_token_are_refused(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="max_length = 2: must be at least 3"):
        read(write(tmp_path / "pairs.jsonl", ROWS), tiny_tokenizer, max_length=2)


def test_one_column_for_both_sides_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="the columns text, text: name a different one for each side"):
        PairOptions(anchor_column="text", positive_column="text")

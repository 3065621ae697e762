from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctxembed.errors import InvalidInputError, MissingInputError
from ctxembed.training.batches import TokenRows
from ctxembed.training.sense_rows import SenseRows, find_form, read_senses

if TYPE_CHECKING:
    from ctxembed.tokenizer import SubwordTokenizer

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".zst": lambda data: zstandard.ZstdCompressor().compress(data),
}


def instance(lemma: str, start: int, end: int, *senses: str, **other: Any) -> dict[str, Any]:
    return {"lemma": lemma, "pos": "NOUN", "start": start, "end": end, "senses": list(senses), **other}


SENTENCE = {
    "id": "one",
    "sentence": "The bank lent money to the bank near the river .",
    "instances": [
        instance("bank", 4, 8, "bank%1:14:00::"),
        instance("bank", 27, 31, "bank%1:17:01::"),
        instance("river", 41, 46, "river%1:17:00::"),
    ],
}
SYNSETS = [
    {"lemma": "bank", "pos": "noun", "synset": "1-n", "gloss": "it lent money", "examples": ["the banks are old"]},
    {"lemma": "bank", "pos": "noun", "synset": "2-n", "gloss": "near the river", "examples": ["a bank of water"]},
    {"lemma": "crane", "pos": "noun", "synset": "3-n", "gloss": "it lifted cars", "examples": []},
]
DEFINITIONS = [
    {"lemma": "Bank", "pos": "n.", "definition": "in the water", "quotations": [{"text": "the bank was cold"}]},
    {"lemma": "Bank", "pos": "n.", "definition": "for money", "quotations": [{"text": "money in the bank"}]},
]
USES = [
    {"text": "The Bank was old.", "start": 4, "end": 8, "label": "money"},
    {"text": "in the banks", "start": 7, "end": 12, "word": "bank", "label": "river"},
    {"text": "on a bank", "start": 5, "end": 9, "lemma": "bank", "word": "shore", "label": 7},
]


def write(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(paths: Path | Sequence[Path], tokenizer: SubwordTokenizer, *, max_length: int = 32) -> SenseRows:
    return read_senses(paths, tokenizer, max_length=max_length)


def spelt(tokenizer: SubwordTokenizer, ids: Sequence[int]) -> str:
    return "".join(tokenizer.token(token).removeprefix("##") for token in ids)


def words(rows: SenseRows, tokenizer: SubwordTokenizer) -> list[str]:
    """The letters of each use, as its tokens spell them."""
    places = zip(rows.rows, rows.starts, rows.ends, strict=True)
    return [spelt(tokenizer, rows.sentences.row(row)[start:end].tolist()) for row, start, end in places]


def as_lists(rows: TokenRows) -> list[list[int]]:
    return [rows.row(number).tolist() for number in range(len(rows))]


def tokens(tokenizer: SubwordTokenizer, *texts: str) -> list[list[int]]:
    return [[tokenizer.cls_id, *ids.tolist(), tokenizer.sep_id] for ids in tokenizer.encode_ids(texts)]


# Shapes


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_sentence_is_kept_once_with_all_its_uses(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path, suffix: str
) -> None:
    plain = write(tmp_path / "plain.jsonl", [SENTENCE]).read_bytes()
    path = tmp_path / f"uses.jsonl{suffix}"
    path.write_bytes(COMPRESS[suffix](plain))
    rows = read(path, tiny_tokenizer)
    assert as_lists(rows.sentences) == tokens(tiny_tokenizer, SENTENCE["sentence"])
    assert rows.rows.tolist() == [0, 0, 0]
    assert words(rows, tiny_tokenizer) == ["bank", "bank", "river"]
    assert rows.lemmas.tolist() == [0, 0, 1]
    assert rows.senses.tolist() == [0, 1, 2]
    assert rows.sense_glosses.tolist() == [-1, -1, -1]
    assert len(rows.glosses) == 0


def test_examples_of_synsets_become_uses_with_glosses(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    rows = read(write(tmp_path / "synsets.jsonl", SYNSETS), tiny_tokenizer)
    assert as_lists(rows.sentences) == tokens(tiny_tokenizer, "the banks are old", "a bank of water")
    assert words(rows, tiny_tokenizer) == ["banks", "bank"]
    assert rows.senses.tolist() == [0, 1]
    assert rows.sense_lemmas.tolist() == [0, 0, 1]
    assert rows.sense_glosses.tolist() == [0, 1, -1]  # a lemma without a use needs no gloss
    assert as_lists(rows.glosses) == tokens(tiny_tokenizer, "it lent money", "near the river")


def test_each_definition_of_a_word_is_a_sense(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    rows = read(write(tmp_path / "definitions.jsonl", DEFINITIONS), tiny_tokenizer)
    assert words(rows, tiny_tokenizer) == ["bank", "bank"]
    assert rows.lemmas.tolist() == [0, 0]
    assert rows.senses.tolist() == [0, 1]
    assert as_lists(rows.glosses) == tokens(tiny_tokenizer, "in the water", "for money")


def test_a_single_use_names_its_lemma_or_is_its_own(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    rows = read(write(tmp_path / "uses.jsonl", USES), tiny_tokenizer)
    assert words(rows, tiny_tokenizer) == ["bank", "banks", "bank"]
    assert rows.lemmas.tolist() == [0, 0, 0]
    assert rows.senses.tolist() == [0, 1, 2]


def test_shapes_may_be_mixed_in_one_file(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    rows = read(write(tmp_path / "all.jsonl", [SENTENCE, *SYNSETS, *DEFINITIONS, *USES]), tiny_tokenizer)
    assert rows.counts.uses == 3 + 2 + 2 + 3
    of_bank = sorted(set(rows.lemmas[[word.startswith("bank") for word in words(rows, tiny_tokenizer)]].tolist()))
    # Sense keys, synsets, and the file's own definitions and labels.
    assert [rows.lemma_words[lemma] for lemma in of_bank] == [0, 0, 0]


def test_a_text_of_several_rows_is_kept_once(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    text = "the bank of the river"
    uses = [
        {"text": text, "start": 4, "end": 8, "label": "a"},
        {"text": text, "start": 16, "end": 21, "label": "b"},
    ]
    rows = read(write(tmp_path / "uses.jsonl", uses), tiny_tokenizer)
    assert len(rows.sentences) == 1
    assert words(rows, tiny_tokenizer) == ["bank", "river"]


def test_synonyms_share_a_gloss(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    synset = {"pos": "noun", "synset": "9-n", "gloss": "it grew"}
    entries = [
        {**synset, "lemma": "plant", "examples": ["a plant"]},
        {**synset, "lemma": "spring", "examples": ["a spring"]},
    ]
    rows = read(write(tmp_path / "synsets.jsonl", entries), tiny_tokenizer)
    assert rows.senses.tolist() == [0, 1]
    assert rows.sense_glosses.tolist() == [0, 0]
    assert len(rows.glosses) == 1


# Inventories


def test_labels_of_two_files_are_of_different_lemmas_of_one_word(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path
) -> None:
    paths = [write(tmp_path / f"{name}.jsonl", USES[:1]) for name in "ab"]
    (tmp_path / "b.jsonl").write_text(json.dumps({**USES[0], "text": "the bank is"}), encoding="utf-8")
    rows = read(paths, tiny_tokenizer)
    assert rows.lemmas.tolist() == [0, 1]
    assert rows.senses.tolist() == [0, 1]
    assert rows.lemma_words.tolist() == [0, 0]


def test_files_that_name_one_inventory_share_its_senses(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    paths = [
        write(tmp_path / f"{name}.jsonl", [{**USES[0], "text": f"the bank {name}", "inventory": "ours"}])
        for name in ("was", "near")
    ]
    rows = read(paths, tiny_tokenizer)
    assert rows.lemmas.tolist() == [0, 0]
    assert rows.senses.tolist() == [0, 0]


def test_sense_keys_of_two_files_are_of_one_inventory(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    other = {"sentence": "a bank", "instances": [instance("bank", 2, 6, "bank%1:17:01::")]}
    rows = read([write(tmp_path / "a.jsonl", [SENTENCE]), write(tmp_path / "b.jsonl", [other])], tiny_tokenizer)
    assert rows.senses.tolist() == [0, 1, 2, 1]


# Places


@pytest.mark.parametrize(
    ("text", "lemma", "found"),
    [
        ("the Bank lent", "bank", "Bank"),
        ("his banks, his bank", "bank", "bank"),
        ("the cities grew", "city", "cities"),
        ("she was running", "run", "running"),
        ("making cars", "make", "making"),
        ("he carried it", "carry", "carried"),
        ("two wolves", "wolf", "wolves"),
        ("three knives", "knife", "knives"),
        ("the women's hats", "woman", "women's"),
        ("two analyses", "analysis", "analyses"),
        ("untying it", "untie", "untying"),
        ("the bank's money", "bank", "bank's"),
        ("he goes on", "go", "goes"),
        ("it was a physical entity", "physical_entity", "physical entity"),
        ("it took part, taking parts", "take part", "taking parts"),
        ("a hard-fought game", "hard-fought", "hard-fought"),
        ("a band played", "bank", None),
        ("for information", "force", None),
        ("people square and chunky", "squat", None),
        ("an inn", "in", None),
        ("we add it", "ad", None),
        ("he sold it", "sell", None),
        ("bank", "bank of the river", None),
        ("a bank", "!", None),
        ("", "bank", None),
    ],
)
def test_a_lemma_is_found_in_its_regular_forms(text: str, lemma: str, found: str | None) -> None:
    place = find_form(text, lemma)
    assert (None if place is None else text[slice(*place)]) == found


@given(
    before=st.integers(0, 60),
    after=st.integers(0, 60),
    max_length=st.integers(4, 20),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_long_text_is_cut_to_a_window_that_holds_the_use(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path, before: int, after: int, max_length: int
) -> None:
    text = "the " * before + "river" + " old" * after
    row = {"text": text, "start": 4 * before, "end": 4 * before + 5, "label": 1}
    rows = read(write(tmp_path / "uses.jsonl", [row]), tiny_tokenizer, max_length=max_length)
    (length,) = rows.sentences.lengths
    whole = len(tiny_tokenizer.encode_ids([text])[0]) + 2
    assert length == min(whole, max_length)
    assert words(rows, tiny_tokenizer) == ["river"]
    assert rows.sentences.row(0)[[0, -1]].tolist() == [tiny_tokenizer.cls_id, tiny_tokenizer.sep_id]
    assert rows.counts.cut_texts == (whole > max_length)
    if whole > max_length:  # the use stands in the middle, as far as the text goes
        left, right = rows.starts[0] - 1, length - 1 - rows.ends[0]
        assert abs(left - right) <= 1 or left == before or right == after


def test_two_uses_far_apart_in_a_long_text_have_windows_of_their_own(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path
) -> None:
    text = "bank " + "the " * 40 + "river"
    ends = [instance("bank", 0, 4, "a"), instance("river", len(text) - 5, len(text), "b")]
    rows = read(write(tmp_path / "uses.jsonl", [{"sentence": text, "instances": ends}]), tiny_tokenizer, max_length=8)
    assert rows.sentences.lengths.tolist() == [8, 8]
    assert words(rows, tiny_tokenizer) == ["bank", "river"]
    assert rows.counts.cut_texts == 1


def test_a_long_gloss_is_cut_at_its_end(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    entry = {**SYNSETS[1], "gloss": "near the old river " * 9}
    rows = read(write(tmp_path / "synsets.jsonl", [entry]), tiny_tokenizer, max_length=9)
    (expected,) = tokens(tiny_tokenizer, entry["gloss"])
    assert as_lists(rows.glosses) == [[*expected[:8], tiny_tokenizer.sep_id]]
    assert rows.counts.cut_glosses == 1


# Counts


def test_what_is_left_out_is_counted(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    sentence = {
        "sentence": "the bank of the river \u3000 and a plant",
        "instances": [
            instance("bank", 4, 8, "x", "y"),
            instance("river", 16, 21),
            instance("group", 0, 8, "group%1:03:00::", pn="group"),
            instance("space", 22, 23, "z"),
            instance("plant", 30, 35, "kept"),
        ],
    }
    entries = [
        {**SYNSETS[0], "examples": ["the band", "banks", "a bank"]},
        {**SYNSETS[1], "gloss_in_eval": True},
        {**SYNSETS[2], "gloss_in_eval": False},
    ]
    uses = [USES[0], USES[0], {**USES[1], "label": ""}, {**USES[1], "label": None}]
    path = write(tmp_path / "all.jsonl", [sentence, *entries, *uses])
    path.write_text("\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    rows = read(path, tiny_tokenizer)
    counts = rows.counts
    assert (counts.uses, counts.lemmas, counts.sentences) == (5, 3, 5)
    assert counts.without_place == 2
    assert counts.several_senses == counts.proper_names == counts.repeated == counts.empty_rows == 1
    assert counts.without_sense == 3
    assert (counts.glosses, counts.glosses_in_eval) == (1, 1)
    assert (counts.single_use_senses, counts.one_sense_lemmas) == (3, 2)
    assert counts.summary() == (
        "5 uses of 3 lemmas in 5 sentences; 1 glosses; 3 senses with one use only; 2 lemmas with one sense only; "
        "1 empty rows skipped; 2 uses without a place in their text left out; 3 uses without a sense left out; "
        "1 uses with several senses left out; 1 proper names that stand for a class left out; "
        "1 repeated uses left out; 1 glosses that are in an evaluation file left out"
    )


def test_a_gloss_that_is_in_an_evaluation_file_is_kept_out_but_its_examples_are_used(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path
) -> None:
    rows = read(write(tmp_path / "a.jsonl", [{**SYNSETS[0], "gloss_in_eval": True}, SYNSETS[1]]), tiny_tokenizer)
    assert words(rows, tiny_tokenizer) == ["banks", "bank"]
    assert rows.sense_glosses.tolist() == [-1, 0]
    assert as_lists(rows.glosses) == tokens(tiny_tokenizer, "near the river")


def test_a_place_with_two_annotations_keeps_the_first(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    rows = read(write(tmp_path / "a.jsonl", [USES[0], {**USES[0], "label": "river"}]), tiny_tokenizer)
    assert rows.senses.tolist() == [0]
    assert rows.counts.repeated == 1


def test_equal_files_give_equal_hashes_and_other_labels_another(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path
) -> None:
    first, same = (read(write(tmp_path / f"{name}.jsonl", [SENTENCE, *SYNSETS]), tiny_tokenizer) for name in "ab")
    relabelled = json.loads(json.dumps(SENTENCE))
    relabelled["instances"][1]["senses"] = relabelled["instances"][0]["senses"]
    others = [
        read(write(tmp_path / "c.jsonl", rows), tiny_tokenizer, max_length=length)
        for rows, length in (
            ([relabelled, *SYNSETS], 32),
            ([SENTENCE, *SYNSETS[:2]], 32),
            ([SENTENCE, {**SYNSETS[0], "gloss": "it lent cars"}, *SYNSETS[1:]], 32),
            ([SENTENCE, *SYNSETS], 8),
        )
    ]
    assert first.sha256 == same.sha256
    assert len({first.sha256, *(other.sha256 for other in others)}) == 5


def test_arrays_do_not_grow_with_what_is_left_out(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    rows = read(write(tmp_path / "a.jsonl", [SENTENCE] * 500), tiny_tokenizer)
    assert (len(rows.senses), len(rows.sentences), rows.counts.repeated) == (3, 1, 3 * 499)
    assert all(part.dtype == np.int64 for part in (rows.rows, rows.starts, rows.ends, rows.lemmas, rows.senses))


# Errors


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a bank", "sentence1": ""}, "the keys 'text', 'sentence1' are no labelled use: need 'sentence' and"),
        ({"sentence": "a bank", "instances": {}}, "'instances' is {}, need a list"),
        ({"sentence": "a bank", "instances": ["bank"]}, "need a list of objects"),
        ({"instances": []}, "'sentence' is missing, need a text"),
        (
            {"sentence": "a bank", "instances": [instance("bank", 2, 7, "x")]},
            "instance 1: characters 2 to 7 of a text of 6: offsets count characters from 0",
        ),
        (
            {"sentence": "a bank", "instances": [instance("bank", 2, 6, "x"), instance("bank", 2, True, "x")]},
            "instance 2: 'end' is True, need a whole number",
        ),
        ({"sentence": "a bank", "instances": [{"lemma": "bank", "end": 2}]}, "'start' is missing, need a whole number"),
        (
            {"sentence": "a bank", "instances": [{**instance("bank", 2, 6), "senses": "x"}]},
            "'senses' is 'x', need a list",
        ),
        ({"sentence": "a bank", "instances": [{**instance("bank", 2, 6), "senses": [1]}]}, "need a list of texts"),
        ({"sentence": "a bank", "instances": [{**instance("bank", 2, 6), "lemma": 3}]}, "'lemma' is 3, need a text"),
        ({"synset": "1-n", "gloss": "a", "examples": []}, "'lemma' is missing, need a text"),
        ({"lemma": "bank", "synset": 1, "gloss": "a"}, "'synset' is 1, need a text"),
        ({"lemma": "bank", "synset": "1-n", "gloss": None}, "'gloss' is None, need a text"),
        ({"lemma": "bank", "synset": "1-n", "gloss": "a", "examples": "bank"}, "'examples' is 'bank', need a list"),
        (
            {"lemma": "bank", "definition": "a", "quotations": [{"author": "x"}]},
            "need a text, or an object with 'text'",
        ),
        ({"text": "a bank", "start": 2, "end": 2, "label": 1}, "characters 2 to 2 of a text of 6"),
        ({"text": "a bank", "start": -4, "end": 6, "label": 1}, "characters -4 to 6 of a text of 6"),
        ({"text": "a bank", "start": 2, "end": 6, "label": True}, "'label' is True, need a text or a whole number"),
        ({"text": "a bank", "start": 2, "end": 6, "label": 1, "word": 1}, "'word' is 1, need a text"),
        ({"text": "a bank", "start": 2, "end": 6, "label": 1, "inventory": 1}, "'inventory' is 1, need a text"),
        ({"start": 2, "end": 6, "label": 1}, "'text' is missing, need a text"),
        ([1], "not a JSON object"),
    ],
)
def test_a_wrong_row_is_named_with_file_and_line(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path, row: Any, message: str
) -> None:
    path = write(tmp_path / "uses.jsonl", [SENTENCE, row])
    with pytest.raises(InvalidInputError) as caught:
        read(path, tiny_tokenizer)
    assert str(caught.value).startswith(f"{path}:2")
    assert message in str(caught.value)


def test_a_file_without_labelled_uses_is_refused_with_its_counts(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path
) -> None:
    path = write(tmp_path / "uses.jsonl", [{**SYNSETS[0], "examples": ["the band"]}])
    with pytest.raises(InvalidInputError, match=r"uses.jsonl: no labelled use .*0 uses .*1 uses without a place"):
        read(path, tiny_tokenizer)


def test_a_missing_file_is_refused(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="nothing.jsonl"):
        read(tmp_path / "nothing.jsonl", tiny_tokenizer)


def test_a_file_of_another_kind_is_refused(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    path = tmp_path / "uses.csv"
    path.write_text("text,label\n", encoding="utf-8")
    with pytest.raises(InvalidInputError, match=r"uses.csv: labelled uses are read from .jsonl"):
        read(path, tiny_tokenizer)


def test_a_file_given_twice_is_refused(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    path = write(tmp_path / "uses.jsonl", USES)
    with pytest.raises(InvalidInputError, match="given 2 times"):
        read([path, path], tiny_tokenizer)


def test_stdin_is_refused(tiny_tokenizer: SubwordTokenizer) -> None:
    with pytest.raises(InvalidInputError, match="not read from stdin"):
        read_senses("-", tiny_tokenizer, max_length=16)


def test_rows_too_short_for_a_token_are_refused(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="max_length = 2: must be at least 3"):
        read(write(tmp_path / "uses.jsonl", USES), tiny_tokenizer, max_length=2)

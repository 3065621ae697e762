from __future__ import annotations

from collections import Counter

import pytest

from ctxembed.errors import InvalidInputError
from ctxembed.meaning.inflections import forms_of, inflected_forms, joined_counts
from ctxembed.meaning.occurrences import count_words, find_uses, given_uses, holds_given_uses, matched_words
from ctxembed.types import Document, Usage

DOCUMENTS = [
    Document("a", "The Bank lent money. We sat on the bank.", {"year": 1900}),
    Document("b", "No such word here.", {"year": 1900}),
    Document("c", "A bank, and banks.", {"year": 2000}),
]


def by_year(document: Document) -> str:
    return str(document.metadata["year"])


def test_uses_stand_in_their_sentence_with_the_place_in_the_document_as_id() -> None:
    found = find_uses(DOCUMENTS, ["bank"], group=by_year)
    first, second = found["bank"]["1900"].occurrences
    assert (first.id, first.usage.text, first.usage.word) == ("a#4-8", "The Bank lent money.", "Bank")
    assert (second.id, second.usage.text, second.usage.word) == ("a#35-39", "We sat on the bank.", "bank")
    assert second.metadata == {"year": 1900}
    assert [o.id for o in found["bank"]["2000"].occurrences] == ["c#2-6"]


def test_documents_without_a_group_are_left_out() -> None:
    found = find_uses(DOCUMENTS, ["bank"], group=lambda document: "new" if document.id == "c" else None)
    assert list(found["bank"]) == ["new"]


def test_sample_is_uniform_and_the_same_whatever_else_is_looked_for() -> None:
    documents = [Document(str(n), f"a bank by the river {n}") for n in range(200)]
    alone = find_uses(documents, ["bank"], group=lambda _: "", most=10, seed=3)["bank"][""]
    beside = find_uses(documents, ["river", "bank"], group=lambda _: "", most=10, seed=3)["bank"][""]
    assert (alone.count, len(alone.occurrences)) == (200, 10)
    assert alone == beside
    assert [int(o.id.split("#")[0]) for o in alone.occurrences] == sorted(
        int(o.id.split("#")[0]) for o in alone.occurrences
    )
    drawn = Counter(
        int(o.id.split("#")[0]) // 50
        for seed in range(80)
        for o in find_uses(documents, ["bank"], group=lambda _: "", most=10, seed=seed)["bank"][""].occurrences
    )
    assert all(150 < drawn[quarter] < 250 for quarter in range(4))


def test_inflections_count_for_their_word() -> None:
    found = find_uses(DOCUMENTS, forms_of(["bank"]), group=lambda _: "")["bank"][""]
    assert [o.usage.word for o in found.occurrences] == ["Bank", "bank", "bank", "banks"]
    assert {o.word for o in found.occurrences} == {"bank"}


GIVEN = [
    Document("1", "The attack began.", {"word": "attack", "start": 4, "end": 10}),
    Document("2", "He attacked.", {"word": "attack", "start": 3, "end": 11}),
]


def test_given_uses_are_taken_as_they_are() -> None:
    assert holds_given_uses(GIVEN)
    assert not holds_given_uses(DOCUMENTS)
    found = given_uses(GIVEN, group=lambda _: "old")["attack"]["old"]
    assert [o.usage.word for o in found.occurrences] == ["attack", "attacked"]
    assert given_uses(GIVEN, ["plane"], group=lambda _: "old") == {}


def test_given_uses_of_a_csv_file_have_their_places_as_text() -> None:
    rows = [Document(each.id, each.text, {k: str(v) for k, v in each.metadata.items()}) for each in GIVEN]
    assert holds_given_uses(rows)
    found = given_uses(rows, group=lambda _: "old")["attack"]["old"]
    assert [o.usage for o in found.occurrences] == [Usage("The attack began.", 4, 10), Usage("He attacked.", 3, 11)]


@pytest.mark.parametrize("value", ["", "4.0", "four", "1850-02-03", 4.0, True, None])
def test_rows_with_other_columns_of_these_names_are_text(value) -> None:
    assert not holds_given_uses([Document("1", "The attack began.", {"start": value, "end": value})])


@pytest.mark.parametrize(
    "metadata, message",
    [
        ({"word": "x", "start": 3, "end": 99}, "row 1 has its word at 3 to 99 of a text of 4"),
        ({"start": "-1", "end": "3"}, "row 1 has its word at -1 to 3 of a text of 4"),
        ({"start": "1", "end": "b"}, "row 1 has start '1' and end 'b', need the place of its word as whole numbers"),
        ({}, "start None"),
    ],
)
def test_given_use_outside_its_text_is_refused(metadata, message) -> None:
    with pytest.raises(InvalidInputError, match=message):
        given_uses([Document("1", "text", metadata)], group=lambda _: "old")


def test_content_words_are_counted_by_group() -> None:
    counts = count_words(DOCUMENTS, group=by_year)
    assert counts["1900"]["bank"] == 2
    assert counts["2000"] == {"bank": 1, "banks": 1}


def test_matched_words_have_the_nearest_frequencies_in_both_groups() -> None:
    counts = {"old": Counter(a=100, b=90, c=3, d=100), "new": Counter(a=10, b=12, c=10, e=10)}
    assert matched_words(counts, {"old": 100, "new": 10}, number=2, without=["a"]) == ["b", "c"]


@pytest.mark.parametrize(
    "base, forms",
    [
        ("bank", "bank banks bank's banked banking"),
        ("plane", "plane planes plane's planed planing"),
        ("attach", "attach attaches attach's attached attaching"),
        ("see", "see sees see's seed seeing saw seen"),
        ("woman", "woman womans woman's womaned womaning women"),
    ],
)
def test_forms_follow_the_rules_of_spelling(base: str, forms: str) -> None:
    assert inflected_forms(base) == forms.split()


def test_forms_are_joined_only_to_bases_that_occur() -> None:
    joined, table = joined_counts({"bank": 5, "banks": 2, "bus": 4, "banking": 1, "stopped": 2})
    assert joined == {"bank": 8, "bus": 4, "stopped": 2}
    assert table["banks"] == "bank"

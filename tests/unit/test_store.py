from __future__ import annotations

import sqlite3

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctxembed.errors import ArtifactError, InvalidInputError, MissingInputError
from ctxembed.store import DocumentStore, StoredRow
from ctxembed.vectors import Row

ROWS = [Row("a", "one", 0, 3, {"n": 1, "x": 0.5, "ok": True, "none": None, "é": "ü"}), Row("b", "two"), Row("c", "")]


@pytest.fixture
def store(tmp_path):
    with DocumentStore.create(tmp_path / "rows.sqlite") as store:
        yield store


def test_rows_come_back_as_they_were(store):
    assert store.add(ROWS, first_number=5).tolist() == [5, 6, 7]
    assert store.get([7, 5]) == [StoredRow(7, ROWS[2]), StoredRow(5, ROWS[0])]
    assert len(store) == 3


def test_rows_survive_closing(tmp_path):
    with DocumentStore.create(tmp_path / "r") as store:
        store.add(ROWS, first_number=0)
    with DocumentStore.open(tmp_path / "r") as store:
        assert [stored.row for stored in store.get(range(3))] == ROWS


def test_content_hash_is_kept(store, tmp_path):
    store.add(ROWS, first_number=0)
    connection = sqlite3.connect(tmp_path / "rows.sqlite")
    hashes = [value for (value,) in connection.execute("SELECT content_hash FROM rows ORDER BY number")]
    connection.close()
    assert hashes == [row.content_hash for row in ROWS]


def test_row_is_found_by_id(store):
    store.add(ROWS, first_number=0)
    assert store.by_id("b") == StoredRow(1, ROWS[1])


def test_unknown_id_is_named(store):
    with pytest.raises(InvalidInputError, match="no row has the id 'nobody'"):
        store.by_id("nobody")


def test_unknown_number_is_named(store):
    store.add(ROWS, first_number=0)
    with pytest.raises(ArtifactError, match="has no row 3"):
        store.get([0, 3])


def test_numpy_numbers_are_accepted(store):
    numbers = store.add(ROWS, first_number=0)
    assert numbers.dtype == np.int64
    assert [stored.number for stored in store.get(numbers)] == [0, 1, 2]


def test_adding_nothing_adds_nothing(store):
    assert store.add([], first_number=0).shape == (0,)
    assert (len(store), store.get([])) == (0, [])


@pytest.mark.parametrize("first", [[], ROWS])
def test_duplicate_id_is_named_and_nothing_is_added(store, first):
    store.add(first, first_number=0)
    with pytest.raises(InvalidInputError, match="id 'b' occurs twice: --on-duplicate skip keeps the first"):
        store.add([Row("new", "x"), Row("b", "1"), Row("b", "2")], first_number=10)
    assert len(store) == len(first)


def test_duplicate_id_is_skipped_and_counted(store):
    store.add(ROWS, first_number=0)
    rows = [Row("new", "x"), Row("b", "other"), Row("new", "y"), Row("last", "z")]
    assert store.add(rows, first_number=10, on_duplicate="skip").tolist() == [10, 13]
    assert store.num_skipped == 2
    assert store.by_id("b").row.text == "two"
    assert store.by_id("new").row.text == "x"


@pytest.mark.parametrize("number", [-1, 0, 2])
def test_number_that_is_taken_or_negative_is_refused(store, number):
    store.add(ROWS, first_number=0)
    with pytest.raises(InvalidInputError, match=f"first_number is {number}, need 3 or more"):
        store.add([Row("d", "x")], first_number=number)


@pytest.mark.parametrize("row", [Row("z", "\ud800"), Row("z", "x", metadata={"k": {1}})])
def test_row_that_cannot_be_stored_is_named_and_nothing_is_added(store, row):
    with pytest.raises(InvalidInputError, match="between 'a' and 'z' cannot be stored"):
        store.add([ROWS[0], row], first_number=0)
    assert len(store) == 0


def test_readonly_store_refuses_rows(store, tmp_path):
    store.add(ROWS, first_number=0)
    with (
        DocumentStore.open(tmp_path / "rows.sqlite") as reader,
        pytest.raises(InvalidInputError, match="cannot be stored"),
    ):
        reader.add([Row("d", "x")], first_number=3)


def test_writable_store_can_grow(tmp_path):
    with DocumentStore.create(tmp_path / "r") as store:
        store.add(ROWS, first_number=0)
    with DocumentStore.open(tmp_path / "r", readonly=False) as store:
        store.add([Row("d", "x")], first_number=3)
        assert len(store) == 4


def test_path_with_special_characters_is_opened(tmp_path):
    path = tmp_path / "50% of? it#é"
    with DocumentStore.create(path) as store:
        store.add(ROWS, first_number=0)
    with DocumentStore.open(path) as store:
        assert len(store) == 3


def test_create_refuses_what_is_there(store, tmp_path):
    with pytest.raises(InvalidInputError, match="exists: delete it"):
        DocumentStore.create(tmp_path / "rows.sqlite")


@pytest.mark.parametrize("make", [DocumentStore.create, DocumentStore.open])
def test_missing_place_is_named(tmp_path, make):
    with pytest.raises(MissingInputError, match=r"nowhere.* does not exist"):
        make(tmp_path / "nowhere" / "r")


def test_another_schema_version_is_refused(tmp_path):
    DocumentStore.create(tmp_path / "r").close()
    connection = sqlite3.connect(tmp_path / "r")
    connection.execute("PRAGMA user_version = 7")
    connection.close()
    with pytest.raises(ArtifactError, match="schema version 7, this ctxembed reads 2"):
        DocumentStore.open(tmp_path / "r")


def test_file_that_is_no_store_is_refused(tmp_path):
    (tmp_path / "r").write_bytes(b"not a database, but long enough to be read as one" * 100)
    with pytest.raises(ArtifactError, match="damaged or no store"):
        DocumentStore.open(tmp_path / "r")


def test_truncated_store_is_refused(tmp_path):
    with DocumentStore.create(tmp_path / "r") as store:
        store.add([Row(str(n), "text " * 50) for n in range(500)], first_number=0)
    (tmp_path / "r").write_bytes((tmp_path / "r").read_bytes()[:5000])
    with pytest.raises(ArtifactError, match="damaged"):
        DocumentStore.open(tmp_path / "r")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=6), max_size=5))
def test_skipping_keeps_the_first_of_every_id(tmp_path_factory, batches):
    with DocumentStore.create(tmp_path_factory.mktemp("s") / "r") as store:
        first: dict[str, str] = {}
        number = 0
        for batch in batches:
            rows = [Row(name, f"text {number + place}") for place, name in enumerate(batch)]
            added = store.add(rows, first_number=number, on_duplicate="skip")
            fresh = [row for row in rows if first.setdefault(row.id, row.text) == row.text]
            assert [rows[place].text for place in added - number] == [row.text for row in fresh]
            number += len(batch)
        assert (len(store), store.num_skipped) == (len(first), number - len(first))

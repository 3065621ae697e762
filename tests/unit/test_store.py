from __future__ import annotations

import sqlite3

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctxembed import store as store_module
from ctxembed.errors import ArtifactError, InvalidInputError, MissingInputError
from ctxembed.filters import parse
from ctxembed.store import DocumentStore, StoredRow, content_hash
from ctxembed.vectors import Row

ROWS = [Row("a", "one", 0, 3, {"n": 1, "x": 0.5, "ok": True, "none": None, "é": "ü"}), Row("b", "two"), Row("c", "")]


@pytest.fixture
def store(tmp_path):
    with DocumentStore.create(tmp_path / "rows.sqlite") as store:
        yield store


def test_rows_come_back_as_they_were(store):
    assert store.add(ROWS).tolist() == [0, 1, 2]
    assert store.get([2, 0]) == [StoredRow(2, ROWS[2]), StoredRow(0, ROWS[0])]
    assert len(store) == 3


def test_rows_survive_closing(tmp_path):
    with DocumentStore.create(tmp_path / "r") as store:
        store.add(ROWS)
    with DocumentStore.open(tmp_path / "r") as store:
        assert [stored.row for stored in store.get(range(3))] == ROWS


def test_content_hash_is_kept(store, tmp_path):
    store.add(ROWS)
    connection = sqlite3.connect(tmp_path / "rows.sqlite")
    hashes = [value for (value,) in connection.execute("SELECT content_hash FROM texts ORDER BY number")]
    connection.close()
    assert hashes == [content_hash(row.text) for row in ROWS]


def test_row_is_found_by_id(store):
    store.add(ROWS)
    assert store.by_id("b") == StoredRow(1, ROWS[1])


def test_unknown_id_is_named(store):
    with pytest.raises(InvalidInputError, match="no row has the id 'nobody'"):
        store.by_id("nobody")


def test_unknown_number_is_named(store):
    store.add(ROWS)
    with pytest.raises(ArtifactError, match="has no row 3"):
        store.get([0, 3])


def test_numpy_numbers_are_accepted(store):
    numbers = store.add(ROWS)
    assert numbers.dtype == np.int64
    assert [stored.number for stored in store.get(numbers)] == [0, 1, 2]


def test_adding_nothing_adds_nothing(store):
    assert store.add([]).shape == (0,)
    assert (len(store), store.get([])) == (0, [])


@pytest.mark.parametrize("first", [[], ROWS])
def test_duplicate_id_is_named_and_nothing_is_added(store, first):
    store.add(first)
    with pytest.raises(InvalidInputError, match="id 'b' occurs twice: leave one out, or let `index"):
        store.add([Row("new", "x"), Row("b", "1"), Row("b", "2")])
    assert len(store) == len(first)


def test_duplicate_id_is_skipped_and_counted(store):
    store.add(ROWS)
    rows = [Row("new", "x"), Row("b", "other"), Row("new", "y"), Row("last", "z")]
    assert store.add(rows, on_duplicate="skip").tolist() == [0, 3]
    assert store.num_skipped == 2
    assert store.by_id("b").row.text == "two"
    assert store.by_id("new").row.text == "x"


@pytest.mark.parametrize("row", [Row("z", "\ud800"), Row("z", "x", metadata={"k": {1}})])
def test_row_that_cannot_be_stored_is_named_and_nothing_is_added(store, row):
    with pytest.raises(InvalidInputError, match="between 'a' and 'z' cannot be stored"):
        store.add([ROWS[0], row])
    assert len(store) == 0


def test_readonly_store_refuses_rows(store, tmp_path):
    store.add(ROWS)
    with (
        DocumentStore.open(tmp_path / "rows.sqlite") as reader,
        pytest.raises(InvalidInputError, match="cannot be stored"),
    ):
        reader.add([Row("d", "x")])


def test_writable_store_can_grow(tmp_path):
    with DocumentStore.create(tmp_path / "r") as store:
        store.add(ROWS)
    with DocumentStore.open(tmp_path / "r", readonly=False) as store:
        store.add([Row("d", "x")])
        assert len(store) == 4


def test_path_with_special_characters_is_opened(tmp_path):
    path = tmp_path / "50% of? it#é"
    with DocumentStore.create(path) as store:
        store.add(ROWS)
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
    with pytest.raises(ArtifactError, match="schema version 7, this ctxembed reads 3"):
        DocumentStore.open(tmp_path / "r")


def test_file_that_is_no_store_is_refused(tmp_path):
    (tmp_path / "r").write_bytes(b"not a database, but long enough to be read as one" * 100)
    with pytest.raises(ArtifactError, match="damaged or no store"):
        DocumentStore.open(tmp_path / "r")


def test_truncated_store_is_refused(tmp_path):
    with DocumentStore.create(tmp_path / "r") as store:
        store.add([Row(str(n), "text " * 50) for n in range(500)])
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
            added = store.add(rows, on_duplicate="skip")
            fresh = [row for row in rows if first.setdefault(row.id, row.text) == row.text]
            assert [rows[place].text for place in added] == [row.text for row in fresh]
            number += len(batch)
        assert (len(store), store.num_skipped) == (len(first), number - len(first))


WORDS = [
    Row("t#0-3", "one two one", 0, 3, {"n": 1}),
    Row("t#4-7", "one two one", 4, 7, {"n": 1}),
    Row("u#0-2", "So", 0, 2),
]


def test_words_share_their_text_and_have_ids_of_their_own(store, tmp_path):
    assert store.add(WORDS).tolist() == [0, 1, 2]
    assert [stored.row for stored in store.get(range(3))] == WORDS
    connection = sqlite3.connect(tmp_path / "rows.sqlite")
    assert connection.execute("SELECT COUNT(*) FROM texts").fetchone() == (2,)
    assert connection.execute("SELECT word FROM items ORDER BY number").fetchall() == [("one",), ("two",), ("so",)]
    connection.close()


@pytest.mark.parametrize(
    "name, numbers",
    [
        ("t", [0, 1]),
        ("t#4-7", [1]),
        ("t#4-8", []),
        ("t#04-7", []),
        ("t#4-99999999999999999999", []),
        ("u", [2]),
        ("#", []),
        ("", []),
    ],
)
def test_numbers_of_a_word_or_of_all_words_of_a_text(store, name, numbers):
    store.add(WORDS)
    assert store.numbers_of(name).tolist() == numbers


def test_word_is_found_by_id(store):
    store.add(WORDS)
    assert store.by_id("t#4-7") == StoredRow(1, WORDS[1])
    with pytest.raises(InvalidInputError, match="no row has the id 't'"):
        store.by_id("t")


def test_text_that_comes_twice_is_a_duplicate_with_all_its_words(store):
    assert store.add([*WORDS, WORDS[0]], on_duplicate="skip").tolist() == [0, 1, 2]
    with pytest.raises(InvalidInputError, match="id 't#0-3' occurs twice"):
        store.add(WORDS[:1])
    assert (len(store), store.num_skipped) == (3, 1)


def test_deleted_rows_are_gone_and_their_numbers_are_not_given_again(store):
    store.add(ROWS)
    assert store.delete(np.array([0, 2, 2, 9])) == 2
    assert (len(store), store.deleted().tolist(), store.next_number()) == (1, [0, 2], 3)
    store.add([ROWS[2]])
    assert store.by_id("c").number == 3


def test_text_goes_with_its_last_word(store, tmp_path):
    store.add(WORDS)
    store.delete(np.array([0]))
    assert store.get([1])[0].row == WORDS[1]
    store.delete(np.array([1]))
    assert store.known_texts(["t", "u"]).keys() == {"u"}


def test_text_of_a_deleted_row_is_not_left_in_the_file(tmp_path):
    with DocumentStore.create(tmp_path / "r") as store:
        store.add([Row("a", "a secret word"), Row("b", "two")])
        store.delete(np.array([0]))
    assert b"a secret word" not in (tmp_path / "r").read_bytes()


def test_compacted_store_has_the_rows_in_order_without_gaps(store, tmp_path):
    store.add([*WORDS, *ROWS])
    store.delete(np.array([1, 3]))
    store.compact_into(tmp_path / "compacted")
    with DocumentStore.open(tmp_path / "compacted") as compacted:
        assert [stored.row for stored in compacted.get(range(4))] == [WORDS[0], WORDS[2], ROWS[1], ROWS[2]]
        assert (len(compacted), len(compacted.deleted()), compacted.next_number()) == (4, 0, 4)


def test_columns_are_those_of_all_rows(store):
    store.add(ROWS)
    assert store.columns() == ["n", "none", "ok", "x", "é"]


def test_metadata_is_replaced(store):
    store.add(ROWS)
    store.set_metadata([('{"n": 2}', "a")])
    assert store.by_id("a").row == Row("a", "one", 0, 3, {"n": 2})


def test_condition_finds_rows(store):
    store.add([*WORDS, *ROWS])
    assert store.select(parse("n = 1")).tolist() == [0, 1, 3]
    assert store.select(parse("word = 'two' or id = 'b'")).tolist() == [1, 4]
    assert store.select(parse("n = 1"), among=[3, 2, 3, 0]).tolist() == [0, 3]  # each once, in order
    assert store.select(parse("id = 'b'"), among=[0, 2]).tolist() == []


@pytest.mark.parametrize(
    "where", ["n = 1", "n = '1'", "n > 0 and x < 1", "é in ('ü', 'u')", "ok = true", "word = 'two'"]
)
def test_rare_condition_is_found_by_an_index(store, where):
    store.add([*WORDS, *ROWS])
    expected = store.select(parse(where)).tolist()
    store.index_columns()
    sql, values = parse(where).sql(store.indexed)
    plan = store._connection.execute(f"EXPLAIN QUERY PLAN SELECT number FROM rows WHERE {sql}", values).fetchall()
    assert "SCAN" not in " ".join(step[-1] for step in plan)
    assert store.select(parse(where)).tolist() == expected != []


def test_indexed_columns_follow_every_change(store, tmp_path):
    store.add([Row("a", "one", metadata={"n": 1}), Row("b", "two", metadata={"n": 2})])
    store.index_columns()
    store.add([Row("c", "three", metadata={"n": 2, "it's": "x"})])
    store.set_metadata([('{"n": 2, "new": true}', "a")])
    store.delete(np.array([1]))
    store.index_columns()
    assert set(store.indexed) == {"n", "it's", "new"}
    for opened in (store, DocumentStore.open(tmp_path / "rows.sqlite")):
        found = [opened.select(parse(each)).tolist() for each in ("n = 2", "\"it's\" = 'x'", "new = true", "n = 1")]
        assert found == [[0, 2], [2], [0], []]
    opened.close()


def test_columns_beyond_the_most_are_found_without_an_index(store, monkeypatch):
    monkeypatch.setattr(store_module, "MAX_COLUMNS", 1)
    store.add([Row("a", "one", metadata={"a": 1, "b": 2, 'c"': 3})])
    store.index_columns()
    assert store.indexed == {"a": 0}
    assert store.select(parse("a = 1 and b = 2")).tolist() == [0]


def test_store_of_the_version_before_is_read_and_brought_up_to_date(store, tmp_path):
    store.add(ROWS)
    store.close()
    path = tmp_path / "rows.sqlite"
    connection = sqlite3.connect(path)
    connection.executescript("DROP TABLE columns; PRAGMA user_version = 2")
    connection.close()
    with DocumentStore.open(path) as old:
        assert (old.indexed, old.select(parse("n = 1")).tolist()) == ({}, [0])
    DocumentStore.open(path, readonly=False).close()
    with DocumentStore.open(path) as new:
        assert set(new.indexed) == {"n", "x", "ok", "none", "é"}
        assert new.select(parse("n = 1")).tolist() == [0]


def test_check_names_a_row_without_its_text(store, tmp_path):
    store.add(ROWS)
    store.check()
    connection = sqlite3.connect(tmp_path / "rows.sqlite")
    connection.execute("DELETE FROM texts WHERE id = 'b'")
    connection.commit()
    connection.close()
    with pytest.raises(ArtifactError, match="has 1 rows without a text"):
        store.check()

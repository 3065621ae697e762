from __future__ import annotations

import json
import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctxembed.errors import InvalidInputError
from ctxembed.filters import OWN_OF_TEXTS, can_be_named, generated_columns, parse

ROWS = {
    "a": {"year": 1990, "source": "x", "ok": True, "a b": 1, "price": 0.5},
    "b": {"year": 2001, "source": "y", "ok": False},
    "c": {"year": "1995", "source": "it's"},
    "d": {"year": "n.d.", "source": None},
    "e": {"é": "ü", "source": "X-ray", "year": "1990.50", "id": "inner"},
}
COLUMNS = {name: number for number, name in enumerate(["year", "source", "ok", "a b", "é", "id", "it's"])}


@pytest.fixture(scope="module")
def rows():
    connection = sqlite3.connect(":memory:")
    connection.execute(
        'CREATE TABLE rows (id TEXT, text TEXT, word TEXT, "start" INTEGER, "end" INTEGER, metadata TEXT)'
    )
    for number, (name, metadata) in enumerate(ROWS.items()):
        record = (name, f"text of {name}", None, number, number + 3, json.dumps(metadata, ensure_ascii=False))
        connection.execute("INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?)", record)
    for name, number in COLUMNS.items():
        for column, expression in generated_columns(name, number).items():
            connection.execute(f"ALTER TABLE rows ADD COLUMN {column} AS ({expression})")
    yield connection
    connection.close()


def found(rows, text, columns=None):
    sql, values = parse(text).sql(columns or {})
    return "".join(name for (name,) in rows.execute(f"SELECT id FROM rows WHERE {sql} ORDER BY id", values))


@pytest.mark.parametrize(
    "text, names",
    [
        ("year = 1990", "a"),
        ("year >= 1990", "abce"),
        ("year < 1995.5 AND year > 1990", "ce"),
        ("year >= 1990 and source = 'x'", "a"),
        ("source = 'x' or source = 'y' and year = 2001", "ab"),
        ("(source = 'x' or source = 'y') and year = 2001", "b"),
        ("not year >= 1990", ""),
        ("not (source = 'x')", "bce"),
        ("not not source = 'x'", "a"),
        ("source != 'x'", "bce"),
        ('source <> "x"', "bce"),
        ("source = 'it''s'", "c"),
        ("source is null", "d"),
        ("source IS NOT NULL", "abce"),
        ("ok is null", "cde"),
        ("ok = true", "a"),
        ("ok != true", "b"),
        ("ok in (true, false)", "ab"),
        ("year in (2001, '1995', 'n.d.')", "bcd"),
        ("year not in (2001, 1995)", "ae"),
        ("year = '2001'", "b"),
        ("source like 'x%'", "ae"),
        ("source not like '%x%'", "bc"),
        ('"a b" = 1', "a"),
        ('é = "ü"', "e"),
        ("id = 'e'", "e"),
        ('"id" = "inner"', "e"),
        ("start >= 2 and end < 7", "cd"),
        ("text like '%of b'", "b"),
        ("price = .5", "a"),
        ("price > -1e3", "a"),
        ("year < 99999999999999999999999", "abce"),
        ("source = '1'' OR 1=1 --'", ""),
    ],
)
def test_condition_finds_what_it_says(rows, text, names):
    assert found(rows, text) == names
    assert found(rows, text, COLUMNS) == names


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "it ends too early, need a name"),
        ("year", "it ends too early, need =, !=, <"),
        ("year >=", "it ends too early, need a number, a string in quotes"),
        ("year >= 1990 source = 'x'", "found \"source = 'x'\" at character 14, need `and`, `or` or the end"),
        ("year = 'open", 'found "\'open" at character 8, need a name, a value'),
        ("year = nobody", "found 'nobody' at character 8, need a number, a string in quotes"),
        ("year = null", "found 'null' at character 8.*`is null`"),
        ("(year = 1", "it ends too early, need `and`, `or` or `\\)`"),
        ("year in ()", "found '\\)' at character 10, need a number"),
        ("year in 5", "found '5' at character 9, need `\\(`"),
        ("year not = 5", "found '= 5' at character 10, need `in` or `like`"),
        ("year like 5", "found '5' at character 11, need a string"),
        ("year is 5", "found '5' at character 9, need `null`"),
        ("1990 = year", "found '1990 = year' at character 1, need a name"),
        ("year = 1; DROP TABLE rows", "found '; DROP TABLE rows' at character 9"),
        ("year = 12abc", "found '12abc' at character 8"),
        ('"a""b" = 1', "column name 'a\"b' cannot be used"),
        ("(" * 60 + "a = 1" + ")" * 60, "nested deeper than 50 levels"),
        (" or ".join(["a = 1"] * 501), "more than 500 comparisons: use `in"),
    ],
)
def test_what_is_no_condition_is_refused_with_its_place(text, message):
    with pytest.raises(InvalidInputError, match=message):
        parse(text)


def test_fields_are_the_metadata_columns_it_names():
    assert parse("year > 1 and (id = 'x' or \"id\" = 'y' or year < 9)").fields == ("year", "id")


def test_names_that_are_not_the_rows_own_are_metadata_columns():
    assert parse("word = 'x' and id = 'y'").fields == ()
    assert parse("word = 'x' and id = 'y' and start > 1", own=OWN_OF_TEXTS).fields == ("word", "start")


def test_longest_condition_that_is_read_runs(rows):
    assert found(rows, " or ".join(["year = 1990"] * 500)) == "a"
    assert found(rows, "(" * 50 + "year = 1990" + ")" * 50) == "a"
    assert found(rows, f"id in ({', '.join(repr(str(n)) for n in range(5000))}, 'a')") == "a"


NAMES = st.sampled_from(["year", "source", "ok"])
VALUES = st.one_of(st.integers(1985, 2005), st.sampled_from(["x", "y", "it's", "' OR 1=1 --", "%"]))


def quoted(value):
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"


def is_number(value):
    try:
        return not isinstance(value, bool) and value is not None and float(value) is not None
    except ValueError:
        return False


def equal(name, value, metadata):
    """The meaning of = in plain Python; None is unknown, as in SQL."""
    kept = metadata.get(name)
    if kept is None:
        return None
    if isinstance(value, int):
        if isinstance(kept, bool):
            return int(kept) == value
        return float(kept) == value if is_number(kept) else None
    return str(int(kept) if isinstance(kept, bool) else kept) == value


def negated(truth):
    return None if truth is None else not truth


def both(left, right):
    return False if left is False or right is False else None if left is None or right is None else True


def either(left, right):
    return negated(both(negated(left), negated(right)))


TESTS = st.tuples(NAMES, VALUES).map(
    lambda t: (f"{t[0]} = {quoted(t[1])}", lambda metadata: equal(t[0], t[1], metadata))
)
CONDITIONS = st.recursive(
    TESTS,
    lambda inner: st.one_of(
        inner.map(lambda c: (f"not ({c[0]})", lambda m: negated(c[1](m)))),
        st.tuples(inner, inner).map(lambda p: (f"({p[0][0]}) and ({p[1][0]})", lambda m: both(p[0][1](m), p[1][1](m)))),
        st.tuples(inner, inner).map(
            lambda p: (f"({p[0][0]}) or ({p[1][0]})", lambda m: either(p[0][1](m), p[1][1](m)))
        ),
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(CONDITIONS)
def test_condition_means_the_same_in_sql_and_in_python(rows, condition):
    text, truth = condition
    expected = "".join(name for name, metadata in ROWS.items() if truth(metadata) is True)
    assert found(rows, text) == expected
    assert found(rows, text, COLUMNS) == expected


@pytest.mark.parametrize("name", ["", 'a"b', "a\\b", "a\nb"])
def test_column_that_no_condition_can_name_is_known(name):
    assert not can_be_named(name)

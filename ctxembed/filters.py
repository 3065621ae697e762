"""Conditions on the rows of an index, such as ``year >= 1990 and source = 'x'``: parsed here, never pasted into SQL.

    condition  = conjunction { "or" conjunction }
    conjunction = negation { "and" negation }
    negation   = "not" negation | "(" condition ")" | test
    test       = name ("=" | "!=" | "<" | "<=" | ">" | ">=") value
               | name ["not"] "in" "(" value { "," value } ")"
               | name ["not"] "like" string
               | name "is" ["not"] "null"

A name is that of a metadata column, in double quotes if it is no plain word; ``id`` and ``text`` without quotes are the
row's own, and where rows are words, so are ``word``, ``start`` and ``end``. A value is a number, a string in quotes,
true or false. A number compares with numbers and with text that is written like one (all columns of a CSV file are
text), a string compares as text. As in SQL, a row that lacks the column is found by ``is null`` only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ctxembed.errors import InvalidInputError

Value: TypeAlias = str | int | float | bool
Sql: TypeAlias = tuple[str, list[str | int | float]]
Columns: TypeAlias = Mapping[str, int]
"""Metadata columns that are indexed, by name: number c is kept as text in ``t{c}``, as number in ``n{c}``, as truth in
``b{c}``, see ``generated_columns``."""

NONE: Columns = {}

OWN = ("id", "text", "word", "start", "end")
"""Names that mean the row itself, not its metadata, where rows are words."""
OWN_OF_TEXTS = ("id", "text")
"""Those of rows that are whole texts."""
KEYWORDS = ("and", "or", "not", "in", "like", "is", "null", "true", "false")
MAX_DEPTH = 50
MAX_TESTS = 500

_TOKEN = re.compile(
    r"\s*(?:(?P<number>[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?(?![\w.]))"
    r"|(?P<string>'(?:[^']|'')*')|(?P<quoted>\"(?:[^\"]|\"\")*\")"
    r"|(?P<word>[^\W\d][\w.-]*)|(?P<symbol><=|>=|!=|<>|==|[=<>(),]))"
)
_BOOLEAN = "CASE {v} WHEN 'true' THEN 1 WHEN 'false' THEN 0 END"
_NUMERIC = (
    "CASE WHEN typeof({v}) IN ('integer', 'real') THEN {v} WHEN json_valid({v}) THEN "
    "CASE WHEN json_type({v}) IN ('integer', 'real') THEN CAST({v} AS NUMERIC) END END"
)


@dataclass(frozen=True, slots=True)
class Field:
    """A name in a condition: one of the row's own, or a metadata column."""

    name: str
    own: bool

    def as_text(self, columns: Columns) -> Sql:
        """Return its value as text."""
        if self.own:
            return (f'"{self.name}"' if self.name in ("id", "text", "word") else f'CAST("{self.name}" AS TEXT)', [])
        if self.name in columns:
            return f"t{columns[self.name]}", []
        return "CAST(json_extract(metadata, ?) AS TEXT)", [json_path(self.name)]

    def as_number(self, columns: Columns) -> Sql:
        """Return its value as a number, NULL for what is not written like one."""
        if self.own:
            return _NUMERIC.format(v=f'"{self.name}"'), []
        if self.name in columns:
            return f"n{columns[self.name]}", []
        return _NUMERIC.format(v="json_extract(metadata, ?)"), [json_path(self.name)] * _NUMERIC.count("{v}")

    def as_boolean(self, columns: Columns) -> Sql:
        """Return 1 for true, 0 for false, NULL for everything else."""
        if self.own:
            return "NULL", []
        if self.name in columns:
            return f"b{columns[self.name]}", []
        return _BOOLEAN.format(v="json_type(metadata, ?)"), [json_path(self.name)]


def json_path(name: str) -> str:
    """Return where a metadata column stands in the JSON of a row."""
    return f'$."{name}"'


def can_be_named(name: str) -> bool:
    """Tell whether a condition can speak of a metadata column."""
    return bool(name) and not any(character in '"\\' or character < " " for character in name)


def generated_columns(name: str, number: int) -> dict[str, str]:
    """Return the columns that SQLite is to derive from the JSON of a row and index: their names and expressions.

    >>> print(generated_columns("year", 3)["t3"])
    CAST(json_extract(metadata, '$."year"') AS TEXT)
    """
    path = "'" + json_path(name).replace("'", "''") + "'"
    value = f"json_extract(metadata, {path})"
    return {
        f"t{number}": f"CAST({value} AS TEXT)",
        f"n{number}": _NUMERIC.format(v=value),
        f"b{number}": _BOOLEAN.format(v=f"json_type(metadata, {path})"),
    }


@dataclass(frozen=True, slots=True)
class Comparison:
    """``field operator value``; the operators are those of SQL, LIKE among them."""

    field: Field
    operator: str
    value: Value

    def sql(self, columns: Columns) -> Sql:
        """Return SQL and its parameters."""
        sql, values = _typed(self.field, self.value, columns)
        return f"{sql} {self.operator} ?", [*values, _bound(self.value)]


@dataclass(frozen=True, slots=True)
class In:
    """Whether the field has one of several values."""

    field: Field
    values: tuple[Value, ...]

    def sql(self, columns: Columns) -> Sql:
        """Return SQL and its parameters: one list for each type of value."""
        parts: list[Sql] = []
        for kind in (bool, str, (int, float)):
            chosen = [v for v in self.values if isinstance(v, kind) and (kind is bool or not isinstance(v, bool))]
            if chosen:
                sql, values = _typed(self.field, chosen[0], columns)
                marks = ", ".join("?" * len(chosen))
                parts.append((f"{sql} IN ({marks})", [*values, *map(_bound, chosen)]))
        return _joined(parts, " OR ")


@dataclass(frozen=True, slots=True)
class IsNull:
    """Whether the row lacks the field, or has null there."""

    field: Field

    def sql(self, columns: Columns) -> Sql:
        """Return SQL and its parameters."""
        sql, values = self.field.as_text(columns)
        return f"{sql} IS NULL", values


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite."""

    of: Node

    def sql(self, columns: Columns) -> Sql:
        """Return SQL and its parameters."""
        sql, values = self.of.sql(columns)
        return f"NOT ({sql})", values


@dataclass(frozen=True, slots=True)
class Several:
    """Conditions joined by AND or OR."""

    operator: str
    of: tuple[Node, ...]

    def sql(self, columns: Columns) -> Sql:
        """Return SQL and its parameters."""
        return _joined([each.sql(columns) for each in self.of], f" {self.operator} ")


Node: TypeAlias = Comparison | In | IsNull | Not | Several


@dataclass(frozen=True, slots=True)
class Filter:
    """A parsed condition; ``fields`` are the metadata columns it names, each once."""

    text: str
    node: Node
    fields: tuple[str, ...]

    def sql(self, columns: Columns = NONE) -> Sql:
        """Return what stands behind WHERE in a query on the view ``rows`` of ``store``, and its parameters.

        Args:
            columns: Those that are indexed; the others are looked for in the JSON of each row.
        """
        return self.node.sql(columns)


def parse(text: str, *, own: Sequence[str] = OWN) -> Filter:
    """Read a condition.

    >>> parse("year >= 1990 and source = 'x'").fields
    ('year', 'source')
    >>> parse("id in ('a', 'b')").sql()
    ('"id" IN (?, ?)', ['a', 'b'])

    Args:
        text: See the grammar at the top of this file; keywords in any case.
        own: Names that mean the row itself when they stand without quotes.

    Raises:
        InvalidInputError: Naming the place where the text stops being a condition, and what could stand there.
    """
    parser = _Parser(text, own)
    node = parser.condition(depth=0)
    parser.expect_end()
    return Filter(text, node, tuple(dict.fromkeys(parser.fields)))


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    place: int

    @property
    def keyword(self) -> str:
        return self.text.lower() if self.kind == "word" and self.text.lower() in KEYWORDS else ""


class _Parser:
    def __init__(self, text: str, own: Sequence[str]) -> None:
        self._text, self._own = text, own
        self._tokens = list(self._scan())
        self._next = 0
        self._num_tests = 0
        self.fields: list[str] = []

    def condition(self, *, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise InvalidInputError(f"the condition is nested deeper than {MAX_DEPTH} levels: make it flatter")
        return self._several("or", lambda: self._several("and", lambda: self._negation(depth)))

    def expect_end(self) -> None:
        if self._token.kind != "end":
            raise self._expected("`and`, `or` or the end")

    def _scan(self) -> Iterator[_Token]:
        place = 0
        while self._text[place:].strip():
            match = _TOKEN.match(self._text, place)
            if match is None:
                start = len(self._text) - len(self._text[place:].lstrip())
                raise _wrong(self._text, start, "a name, a value, a comparison or a parenthesis")
            kind = str(match.lastgroup)
            yield _Token(kind, match[kind], match.start(kind))
            place = match.end()
        yield _Token("end", "", len(self._text))

    @property
    def _token(self) -> _Token:
        return self._tokens[self._next]

    def _expected(self, what: str) -> InvalidInputError:
        return _wrong(self._text, self._token.place, what)

    def _take(self, *wanted: str) -> str | None:
        """Take the next token if it is one of these symbols or keywords."""
        token = self._token
        found = token.keyword or (token.text if token.kind == "symbol" else "")
        if found not in wanted:
            return None
        self._next += 1
        return found

    def _several(self, keyword: str, part: Callable[[], Node]) -> Node:
        parts = [part()]
        while self._take(keyword):
            parts.append(part())
        return parts[0] if len(parts) == 1 else Several(keyword.upper(), tuple(parts))

    def _negation(self, depth: int) -> Node:
        negated = False
        while self._take("not"):
            negated = not negated
        if self._take("("):
            node = self.condition(depth=depth + 1)
            if not self._take(")"):
                raise self._expected("`and`, `or` or `)`")
        else:
            node = self._test()
        return Not(node) if negated else node

    def _test(self) -> Node:
        self._num_tests += 1
        if self._num_tests > MAX_TESTS:
            raise InvalidInputError(f"the condition has more than {MAX_TESTS} comparisons: use `in (...)`")
        field = self._field()
        if self._take("is"):
            negated = self._take("not")
            if not self._take("null"):
                raise self._expected("`null`")
            return Not(IsNull(field)) if negated else IsNull(field)
        negated = self._take("not")
        node: Node
        if self._take("in"):
            node = In(field, self._list())
        elif self._take("like"):
            if self._token.kind not in ("string", "quoted"):
                raise self._expected("a string, such as 'news%'")
            node = Comparison(field, "LIKE", self._value())
        elif negated:
            raise self._expected("`in` or `like`")
        elif operator := self._take("=", "==", "!=", "<>", "<", "<=", ">", ">="):
            node = Comparison(field, {"==": "=", "<>": "!="}.get(operator, operator), self._value())
        else:
            raise self._expected("=, !=, <, <=, >, >=, `in`, `like` or `is`")
        return Not(node) if negated else node

    def _field(self) -> Field:
        token = self._token
        if token.kind not in ("word", "quoted") or token.keyword:
            raise self._expected("a name (in double quotes if it is no plain word)")
        self._next += 1
        if token.kind == "word" and token.text in self._own:
            return Field(token.text, own=True)
        name = _unquoted(token.text) if token.kind == "quoted" else token.text
        if not can_be_named(name):
            raise InvalidInputError(f"the column name {name!r} cannot be used in a condition: rename the column")
        self.fields.append(name)
        return Field(name, own=False)

    def _list(self) -> tuple[Value, ...]:
        if not self._take("("):
            raise self._expected("`(`")
        values = [self._value()]
        while self._take(","):
            values.append(self._value())
        if not self._take(")"):
            raise self._expected("`,` or `)`")
        return tuple(values)

    def _value(self) -> Value:
        token = self._token
        if token.kind == "number":
            self._next += 1
            number = float(token.text)
            whole = not any(character in token.text for character in ".eE") and abs(number) < 2**63
            return int(token.text) if whole else number
        if token.kind in ("string", "quoted"):
            self._next += 1
            return _unquoted(token.text)
        if found := self._take("true", "false"):
            return found == "true"
        raise self._expected("a number, a string in quotes, true or false (for a missing value: `is null`)")


def _unquoted(text: str) -> str:
    quote = text[0]
    return text[1:-1].replace(quote * 2, quote)


def _typed(field: Field, value: Value, columns: Columns) -> Sql:
    if isinstance(value, bool):
        return field.as_boolean(columns)
    return field.as_text(columns) if isinstance(value, str) else field.as_number(columns)


def _bound(value: Value) -> str | int | float:
    return int(value) if isinstance(value, bool) else value


def _joined(parts: Sequence[Sql], operator: str) -> Sql:
    if len(parts) == 1:
        return parts[0]
    return operator.join(f"({sql})" for sql, _ in parts), [value for _, values in parts for value in values]


def _wrong(text: str, place: int, what: str) -> InvalidInputError:
    found = f"found {text[place : place + 20]!r} at character {place + 1}" if text[place:] else "it ends too early"
    return InvalidInputError(f"the condition {text!r} cannot be read: {found}, need {what}")

"""Which group a document belongs to, by a column of its metadata (years, newspapers), and which are compared."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

import regex

from ctxembed.config import check
from ctxembed.errors import InvalidInputError
from ctxembed.types import Document, Scalar

Against: TypeAlias = Literal["next", "first", "rest", "all"]
_NUMBER = regex.compile(r"\s*(-?\d+(?:\.\d+)?)(?![\d.])")


@dataclass
class Periods:
    """Names the group of a document and remembers where each belongs in time."""

    column: str
    """The metadata column."""
    every: float | None = None
    """Width of a period: 50 makes 1800-1849, 1850-1899 and so on of years."""
    cuts: Sequence[float] = ()
    """Where a new period begins, instead of equal widths."""
    num_without: int = 0
    """Documents met without a value: they belong to no group."""
    starts: dict[str, float] = field(default_factory=dict)
    """The number at which each group met so far begins; NaN for one that is no number."""

    def __post_init__(self) -> None:
        check(self.every is None or not self.cuts, "equal widths and cuts contradict each other: give one of them")
        check(self.every is None or self.every > 0, f"a period is {self.every} wide, need more than 0")
        self.cuts = sorted(self.cuts)

    def __call__(self, document: Document) -> str | None:
        """Return the group of a document, None if it has no value.

        Raises:
            InvalidInputError: If no such column is there, or a value that is to be cut in periods is no number.
        """
        if self.column not in document.metadata:
            raise InvalidInputError(
                f"document {document.id} has no column {self.column!r}, it has "
                f"{', '.join(document.metadata) or 'none'}: name one of these"
            )
        value = document.metadata[self.column]
        if value is None or value == "":
            self.num_without += 1
            return None
        name, start = self._placed(value)
        self.starts.setdefault(name, start)
        return name

    def ordered(self, names: Iterable[str]) -> list[str]:
        """Return groups in order of their numbers; by name where one has none."""
        given = sorted(names)
        if any(math.isnan(self.starts.get(name, math.nan)) for name in given):
            return given
        return sorted(given, key=lambda name: self.starts[name])

    def _placed(self, value: Scalar) -> tuple[str, float]:
        number = _number(value)
        if self.every is None and not self.cuts:
            return str(value), number
        if math.isnan(number):
            raise InvalidInputError(f"{self.column} is {value!r}, need a number or date to cut it in periods")
        if self.every is not None:
            first = math.floor(number / self.every) * self.every
            last = first + self.every - (1 if float(self.every).is_integer() else 0)
            return f"{first:g}-{last:g}" if last > first else f"{first:g}", first
        below = [cut for cut in self.cuts if cut <= number]
        if not below:
            return f"before {self.cuts[0]:g}", -math.inf
        following = self.cuts[len(below) :]
        return (f"{below[-1]:g}-{following[0] - 1:g}" if following else f"from {below[-1]:g}"), below[-1]


class Comparison(NamedTuple):
    """An old side and a new side, each of one group or several."""

    old: str
    new: str
    old_groups: tuple[str, ...]
    new_groups: tuple[str, ...]


def comparisons(groups: Sequence[str], *, against: Against = "next") -> list[Comparison]:
    """Return what is compared with what.

    Args:
        groups: At least two names, in order.
        against: Each with the next one (a time line), with the first, with all others together, or all pairs.

    Raises:
        InvalidInputError: If there are fewer than two groups.

    >>> [(c.old, c.new) for c in comparisons(["1800", "1900", "2000"])]
    [('1800', '1900'), ('1900', '2000')]
    """
    check(
        len(groups) >= 2,
        f"{len(groups)} group{'s' * (len(groups) != 1)} ({', '.join(groups) or 'none'}), need at least two to compare",
    )
    if against == "rest":
        return [Comparison("rest", name, tuple(g for g in groups if g != name), (name,)) for name in groups]
    pairs = {
        "next": list(itertools.pairwise(groups)),
        "first": [(groups[0], name) for name in groups[1:]],
        "all": list(itertools.combinations(groups, 2)),
    }[against]
    return [Comparison(old, new, (old,), (new,)) for old, new in pairs]


def _number(value: Scalar) -> float:
    """Return the number that a value is or, as a date does, begins with; NaN if none."""
    if isinstance(value, bool) or value is None:
        return math.nan
    if isinstance(value, int | float):
        return float(value)
    match = _NUMBER.match(value)
    return float(match.group(1)) if match else math.nan

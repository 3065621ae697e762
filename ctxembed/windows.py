"""Texts cut into windows that a model can read, and windows put together into blocks that are computed at once.

Letters: N windows or places.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

OVERLAP = 4
"""A quarter of each window is also in the next, so that every word has context on both sides."""


class Window(NamedTuple):
    """Tokens ``start`` to ``end`` of text number ``text``."""

    text: int
    start: int
    end: int


def cut(length: int, width: int) -> Iterator[tuple[int, int]]:
    """Cut ``length`` tokens into windows of at most ``width``, equal in size and overlapping by a quarter.

    >>> list(cut(5, 8)), list(cut(20, 8)), list(cut(0, 8))
    ([(0, 5)], [(0, 8), (6, 14), (12, 20)], [])
    """
    if length <= width:
        if length:
            yield 0, length
        return
    step = width - width // OVERLAP
    count = -(-(length - width) // step) + 1
    for number in range(count):
        start = round(number * (length - width) / (count - 1))
        yield start, start + width


def held_whole(width: int) -> int:
    """Return how many tokens in a row some window is sure to hold, wherever in a text they begin.

    >>> held_whole(8), list(cut(20, 8))  # 5 to 8 lie in the first, 6 to 9 in the second
    (3, [(0, 8), (6, 14), (12, 20)])
    """
    return width // OVERLAP + 1


def blocks(windows: Sequence[Window], *, most: int) -> Iterator[NDArray[np.int64]]:
    """Yield the numbers of windows that are computed together, long ones first, at most so many tokens at a time."""
    lengths = np.array([window.end - window.start + 2 for window in windows], dtype=np.int64)
    order = np.argsort(-lengths, kind="stable")
    ends = np.cumsum(lengths[order])
    first = 0
    while first < len(order):
        done = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, done + most, side="right")))
        yield order[first:last]
        first = last


def central_windows(windows: Sequence[Window], places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Choose for each place the window of its text that leaves it the most context on its shorter side."""
    of_text: dict[int, list[int]] = defaultdict(list)
    for number, window in enumerate(windows):
        of_text[window.text].append(number)
    chosen = np.empty(len(places), dtype=np.int64)
    for row, (text, start, end, _) in enumerate(places.tolist()):
        candidates = of_text[text]
        chosen[row] = max(candidates, key=lambda i: min(start - windows[i].start, windows[i].end - end))
    return chosen

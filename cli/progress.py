"""The progress bar of commands that go through documents, on stderr."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def document_bar(label: str, *, total: int | None = None, unit: str = "row") -> Iterator[Callable[[int], None]]:
    """Show rate and time left for anything over two seconds; off when stderr is no terminal.

    Yields:
        A function to call with the number of documents done since its last call.
    """
    from tqdm import tqdm

    with tqdm(total=total, desc=label, unit=unit, unit_scale=True, disable=None, delay=2.0, file=sys.stderr) as bar:

        def advance(done: int) -> None:
            bar.update(done)

        yield advance

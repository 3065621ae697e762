"""Where the uses that are compared come from: arguments, stdin, a file, or a corpus searched for a word."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ctxembed.errors import InvalidInputError
from ctxembed.text import find_usage, parse_usage, word_form, word_forms

if TYPE_CHECKING:
    from ctxembed.corpus import ReadOptions
    from ctxembed.types import Document, Usage


def read_usage(use: str, word: str | None) -> Usage:
    """Read a marked use, or find the word in one that does not mark it; other brackets are only text then."""
    if word is None:
        return parse_usage(use)
    is_marked = f"[{word.casefold()}]" in use.casefold()
    is_elsewhere = word_form(word) in word_forms(use)
    return parse_usage(use) if "[" in use and (is_marked or not is_elsewhere) else find_usage(use, word)


def expand_stdin(uses: tuple[str, ...]) -> list[str]:
    """Replace - by the lines of stdin."""
    from ctxembed.corpus import Corpus

    expanded: list[str] = []
    for use in uses:
        expanded += [document.text.strip() for document in Corpus("-")] if use == "-" else [use]
    return expanded


def file_usages(path: Path, word: str | None, reading: ReadOptions) -> list[Usage]:
    """Read the uses of a file: its rows have start and end, or a word, or mark the word in the text.

    Raises:
        InvalidInputError: For the first row that names no word, by its place in the file.
    """
    from ctxembed.corpus import Corpus

    return [_row_usage(document, word) for document in Corpus(path, options=reading)]


def _row_usage(document: Document, word: str | None) -> Usage:
    from ctxembed.meaning.occurrences import given_usage

    named, start, end = (document.metadata.get(name) for name in ("word", "start", "end"))
    if start not in (None, "") and end not in (None, ""):
        return given_usage(document)[0]
    try:
        return read_usage(document.text, str(named) if named not in (None, "") else word)
    except InvalidInputError as error:
        raise InvalidInputError(f"{document.id}: {error}") from error


def corpus_usages(documents: Iterable[Document], word: str, *, most: int, seed: int) -> tuple[list[Usage], int]:
    """Find a word in a corpus, at its first place in each document; of more documents than asked a seeded sample.

    Returns:
        At most ``most`` uses in the order of the corpus, and how many documents have the word.

    Raises:
        InvalidInputError: If it does not occur.
    """
    from ctxembed.corpus import sample_documents

    form, count = word_form(word), 0
    is_plain = form.isascii() and form.isalnum()

    def with_word() -> Iterable[Document]:
        nonlocal count
        for document in documents:
            if is_plain and form not in document.text.casefold():
                continue  # cheaper than finding every word
            if form in word_forms(document.text):
                count += 1
                yield document

    sample = sample_documents(with_word(), size=most, seed=seed)
    if not sample:
        raise InvalidInputError(
            f"the word {word!r} does not occur in the corpus: check its form, as it is written there"
        )
    return [find_usage(document.text, word) for document in sample], count

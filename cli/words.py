"""How commands about words are told which ones."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import click

from ctxembed.errors import InvalidInputError
from ctxembed.text import word_form

from .output import say


def check_plot(_: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
    """Refuse a file that ends in no kind of figure before anything is computed for it."""
    if value is None:
        return None
    from ctxembed.report.meaning_figures import check_kind

    try:
        return check_kind(value)
    except InvalidInputError as error:
        raise click.BadParameter(str(error), param=parameter) from error


inflections_option = click.option(
    "--inflections",
    is_flag=True,
    help="Count the inflected forms of a word (rules and a list, English) as the word; a word is one form by default.",
)


html_option = click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write one offline page: map of the uses, shares, concordance, tree.",
)
plot_option = click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    callback=check_plot,
    help="Write a figure for a paper, .png, .svg or .pdf.",
)


def read_words(given: str) -> list[str]:
    """Read words with commas between them, or those of a file, one a line; each once, as lookup forms.

    Raises:
        InvalidInputError: If there is none, or the file is not UTF-8.
    """
    path = Path(given)
    if "," in given or not path.is_file():
        return split_words(given)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path} is not UTF-8 ({error}): convert it, a list of words has one a line") from error
    words = _forms(lines)
    if not words:
        raise InvalidInputError(f"{path} names no word: write one a line")
    return words


def split_words(given: str) -> list[str]:
    """Split words with commas between them; each once, as lookup forms.

    Raises:
        InvalidInputError: If there is none.
    """
    words = _forms(given.split(","))
    if not words:
        raise InvalidInputError(f"{given!r} names no word: write attack,plane")
    return words


def _forms(parts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(word_form(part.strip()) for part in parts if part.strip()))


def word_table(words: list[str], inflections: bool) -> dict[str, str]:
    """Return a table from every form that counts to its word."""
    from ctxembed.meaning.inflections import forms_of

    return forms_of(words) if inflections else {word: word for word in words}


def say_written(*paths: Path | None) -> None:
    """Say which pictures were written."""
    for path in paths:
        if path is not None:
            say(f"written: {path}")

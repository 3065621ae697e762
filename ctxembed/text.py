"""The one definition of a word and of a sentence, and the marking of a word in its context.

A word is a run of letters, marks and digits; apostrophes and hyphens join when they stand between
two such runs, so "don't" and "re-entered" are one word each. Scripts written without spaces
(Chinese, Japanese, Thai) give one word for each unbroken run. All offsets are Python character
offsets into the text as it was given: nothing here changes a text that it measures.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

import regex

from ctxembed.errors import InvalidInputError
from ctxembed.types import Span, Usage

_WORD = regex.compile(r"[\p{L}\p{N}][\p{L}\p{M}\p{N}]*(?:['’\-‐‑][\p{L}\p{N}][\p{L}\p{M}\p{N}]*)*")
_MARK = regex.compile(r"\[([^\[\]]*[^\[\]\s][^\[\]]*)\]")

# A sentence may end at . ! ? … (or their full-width forms), any closing quotes or brackets included.
_SENTENCE_END = regex.compile(r"(?:[.!?…]+[\"'”’)\]»]*(?=\s)|[。！？]+[」』）]*|\n+)")
_STARTS_SENTENCE = regex.compile(r"\s*[\"'“‘(\[«¿¡]*[\p{Lu}\p{Lt}\p{Lo}\p{N}]")
_ABBREVIATIONS = frozenset(
    "mr mrs ms dr prof sr jr st mt vs etc e.g i.e cf al fig figs eq eqs no nos vol vols pp ed eds gen col capt lt sgt "
    "gov sen rep rev hon dept univ inc ltd co corp approx est jan feb mar apr jun jul aug sep sept oct nov dec u.s u.k "
    "a.m p.m ph.d b.c a.d viz ca".split()
)


def word_spans(text: str) -> list[Span]:
    """Find every word of a text.

    Args:
        text: Any text; empty gives an empty list.

    Returns:
        Spans in reading order, with exact character offsets.

    >>> [span.text for span in word_spans("Don't re-enter the café, 24 times.")]
    ["Don't", 're-enter', 'the', 'café', '24', 'times']
    """
    return [Span(match.start(), match.end(), match.group()) for match in _WORD.finditer(text)]


def word_form(word: str) -> str:
    r"""Return the key under which a word is counted and looked up: case-folded, NFC, straight apostrophe.

    >>> word_form("Cafe\u0301’s")
    "café's"
    """
    folded = unicodedata.normalize("NFC", word).replace("’", "'").replace("‐", "-").replace("‑", "-").casefold()
    return unicodedata.normalize("NFC", folded)  # folding takes some characters apart, such as the Greek ΐ


def word_forms(text: str) -> list[str]:
    """Return the lookup form of every word of a text, in reading order."""
    return [word_form(span.text) for span in word_spans(text)]


def sentence_spans(text: str) -> list[Span]:
    """Split a text into sentences without changing a character.

    A sentence ends at a line break, or at final punctuation that is followed by white space and
    something that can begin a sentence, unless the word before is a known abbreviation or an initial.

    Args:
        text: Any text; empty or blank gives an empty list.

    Returns:
        Spans without surrounding white space, in reading order.

    >>> [span.text for span in sentence_spans('Dr. Lee left at 5 p.m. on Friday. "Why?" asked J. Smith.')]
    ['Dr. Lee left at 5 p.m. on Friday.', '"Why?" asked J. Smith.']
    """
    return list(_sentences(text))


def _sentences(text: str) -> Iterator[Span]:
    start = 0
    for match in _SENTENCE_END.finditer(text):
        end = match.end()
        if match.group()[0] in ".!?…" and not _ends_sentence(text, start, match.start(), end):
            continue
        yield from _stripped(text, start, end)
        start = end
    yield from _stripped(text, start, len(text))


def _ends_sentence(text: str, start: int, stop: int, end: int) -> bool:
    """Tell whether final punctuation at ``stop`` to ``end`` closes the sentence begun at ``start``."""
    if not _STARTS_SENTENCE.match(text, end):
        return False
    if text[stop:end] != ".":
        return True
    last_word = text[max(start, stop - 24) : stop].rsplit(maxsplit=1)[-1:]
    token = last_word[0].lstrip("\"'“‘([«").casefold() if last_word else ""
    is_initial = len(token) == 1 and token.isalpha() and token != "i"
    return not (is_initial or token in _ABBREVIATIONS)


def _stripped(text: str, start: int, end: int) -> Iterator[Span]:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    if start < end:
        yield Span(start, end, text[start:end])


def parse_usage(marked: str) -> Usage:
    """Read a text in which one word is marked with square brackets.

    Args:
        marked: For example ``"the [bank] of the river"``.

    Returns:
        The usage, its text without the brackets.

    Raises:
        InvalidInputError: If not exactly one stretch of text is marked.

    >>> parse_usage("the [bank] of the river")
    Usage(text='the bank of the river', start=4, end=8)
    """
    marks = list(_MARK.finditer(marked))
    if len(marks) != 1:
        raise InvalidInputError(
            f"{len(marks)} words are marked in {marked!r}, need exactly one: "
            'write it as "the [bank] of the river", or name it with --word'
        )
    inner = marks[0].group(1)
    start = marks[0].start()
    text = marked[:start] + inner + marked[marks[0].end() :]
    return Usage(text, start, start + len(inner))


def find_usage(text: str, word: str) -> Usage:
    """Find the first occurrence of a word in a text, compared by lookup form.

    Raises:
        InvalidInputError: If the word does not occur.

    >>> find_usage("The Bank lent money", "bank").start
    4
    """
    form = word_form(word)
    for span in word_spans(text):
        if word_form(span.text) == form:
            return Usage(text, span.start, span.end)
    raise InvalidInputError(f"the word {word!r} does not occur in {text!r}: mark it with [brackets] instead")


FUNCTION_WORDS = frozenset(
    "a about above after again against all also although always am among an and another any anybody anyone anything "
    "are aren't around as at away be became because become been before being below between both but by can can't "
    "cannot could couldn't did didn't do does doesn't doing don't down during each either else enough ever every "
    "everybody everyone everything few for from further get gets getting got had hadn't has hasn't have haven't "
    "having he he'd he'll he's her here hers herself him himself his how however i i'd i'll i'm i've if in instead "
    "into is isn't it it's its itself just least less let like made make makes many may me might mine more most much "
    "must my myself neither never no nobody none nor not nothing now of off often on once one only onto or other "
    "others ought our ours ourselves out over own per perhaps quite rather really same shall she she'd she'll she's "
    "should shouldn't since so some somebody someone something such than that that's the their theirs them themselves "
    "then there there's therefore these they they'd they'll they're they've this those though through thus till to "
    "too toward towards under unless until up upon us very was wasn't we we'd we'll we're we've were weren't what "
    "whatever when where whether which while who whoever whom whose why will with within without won't would wouldn't "
    "yes yet you you'd you'll you're you've your yours yourself".split()
)
"""English words that do grammar's work; everything else counts as a content word."""


def is_content_word(form: str) -> bool:
    """Tell whether a word form carries meaning of its own: no function word, longer than one character, with a letter.

    >>> [form for form in ("the", "river", "1905", "x") if is_content_word(form)]
    ['river']
    """
    return form not in FUNCTION_WORDS and len(form) > 1 and any(character.isalpha() for character in form)

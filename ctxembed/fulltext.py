"""Full text beside the rows: what SQLite's FTS5 keeps, and how a user's words are put to it.

The full-text table reads its text from the table of rows and is kept in step by triggers, so that it costs the inverted
index alone. Words are folded to lower case without accents and stemmed by Porter's rules, which change English words
only. Rows of words and tokens are left out: their text stands in many rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ctxembed.text import is_content_word, word_form, word_spans

TOKENIZER = "porter unicode61 remove_diacritics 2"
SCHEMA = (
    "CREATE VIRTUAL TABLE words USING fts5(text, content = 'rows', content_rowid = 'number', "
    f"tokenize = '{TOKENIZER}')",
    """CREATE TRIGGER words_added AFTER INSERT ON items WHEN new."start" IS NULL BEGIN
        INSERT INTO words (rowid, text) SELECT new.number, text FROM texts WHERE number = new.source;
    END;""",
    """CREATE TRIGGER words_deleted AFTER DELETE ON items WHEN old."start" IS NULL BEGIN
        INSERT INTO words (words, rowid, text) SELECT 'delete', old.number, text FROM texts WHERE number = old.source;
    END;""",
)
OPTIMIZE = "INSERT INTO words (words) VALUES ('optimize')"

MAX_WORDS = 32
"""Words of a query that are looked for: the rarest, if it has more."""
MAX_POSTINGS = 10_000
"""Matches of all words together that are scored: commoner words are left out beyond it, but never the rarest."""


def query_words(query: str) -> list[str]:
    """Return the words of a query that carry meaning, as written, each once; all of them where none does.

    >>> query_words("The bank of the river Bank"), query_words("to be"), query_words("?!")
    (['bank', 'river'], ['to', 'be'], [])
    """
    words: dict[str, str] = {}
    for span in word_spans(query):
        words.setdefault(word_form(span.text), span.text)
    return [word for form, word in words.items() if is_content_word(form)] or list(words.values())


def phrase(word: str) -> str:
    """Quote a word so that FTS5 reads nothing in it as syntax.

    >>> phrase('a"b')
    '"a""b"'
    """
    return '"' + word.replace('"', '""').replace("\0", " ") + '"'


def affordable(counts: Mapping[str, int], *, budget: int = MAX_POSTINGS) -> list[str]:
    """Choose the words of a query that are scored: rarest first, as long as their rows stay within a budget.

    Args:
        counts: In how many rows each word occurs.
        budget: Rows of all chosen words together.

    Returns:
        Words that occur, at least one if any does.

    >>> affordable({"river": 4, "the": 900, "bank": 7, "zyzzyva": 0}, budget=50)
    ['river', 'bank']
    """
    chosen: list[str] = []
    for word, count in sorted(counts.items(), key=lambda item: item[1]):
        if not count:
            continue
        budget -= count
        if chosen and (budget < 0 or len(chosen) == MAX_WORDS):
            break
        chosen.append(word)
    return chosen


def any_of(words: Sequence[str]) -> str:
    """Return the FTS5 expression for rows with any of several words."""
    return " OR ".join(map(phrase, words))

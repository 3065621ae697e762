from __future__ import annotations

import itertools
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ctxembed.errors import InvalidInputError
from ctxembed.text import find_usage, is_content_word, parse_usage, sentence_spans, word_form, word_forms, word_spans
from ctxembed.types import Usage

any_text = st.text(st.characters(exclude_categories=[]), max_size=20)
# Text in which words, abbreviations and sentence ends are frequent.
FRAGMENTS = [*"Dr J etc p.m he She 3 5 日本 é e\u0301 😀".split(), ". ", *".!?…。」()\"'’-[] \t\n\r\u3000\x1c"]
prose = st.lists(st.sampled_from(FRAGMENTS) | st.characters(exclude_categories=[]), max_size=20).map("".join)
unmarked = prose.map(lambda text: text.replace("[", "").replace("]", ""))


def words(text: str) -> list[str]:
    return [span.text for span in word_spans(text)]


def sentences(text: str) -> list[str]:
    return [span.text for span in sentence_spans(text)]


# Words


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", []),
        (" \t\n\u3000", []),
        ("... -- '' ’ - !?", []),
        ("The bank lent money.", ["The", "bank", "lent", "money"]),
        ("don't isn’t rock'n'roll", ["don't", "isn’t", "rock'n'roll"]),
        ("'quoted' dogs' ’tis", ["quoted", "dogs", "tis"]),
        ("re-entered state-of-the-art co‐op", ["re-entered", "state-of-the-art", "co‐op"]),
        ("a--b -c d- e–f g—h", ["a", "b", "c", "d", "e", "f", "g", "h"]),
        ("cafe\u0301 naïve A\u030aland", ["cafe\u0301", "naïve", "A\u030aland"]),
        ("\u0301lone mark", ["lone", "mark"]),
        ("24 times, 3.5 or 1,000 B2B 5th", ["24", "times", "3", "5", "or", "1", "000", "B2B", "5th"]),
        ("٣ Ⅳ x²", ["٣", "Ⅳ", "x²"]),
        ("snake_case e.g. a/b", ["snake", "case", "e", "g", "a", "b"]),
        ("我在銀行。東京タワー、ไทย", ["我在銀行", "東京タワー", "ไทย"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("שלום العَرَبِيَّة", ["שלום", "العَرَبِيَّة"]),
        ("I ❤️ it 😀 👩‍👩‍👧 so", ["I", "it", "so"]),
        ("see https://a-b.org/c?d=1", ["see", "https", "a-b", "org", "c", "d", "1"]),
        ("me@example.com #tag @you", ["me", "example", "com", "tag", "you"]),
        ("bank\u00a0money\u2028river", ["bank", "money", "river"]),
        ("a\ud800b", ["a", "b"]),
    ],
)
def test_words_of(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@settings(deadline=None)
@given(st.one_of(any_text, prose))
@example("e\u0301-'x")
def test_word_spans_slice_back_exactly_in_order_and_apart(text: str) -> None:
    spans = word_spans(text)
    assert [text[span.start : span.end] for span in spans] == [span.text for span in spans]
    assert all(span.start < span.end for span in spans)
    assert all(left.end < right.start or left.end == right.start for left, right in itertools.pairwise(spans))


@settings(deadline=None)
@given(st.one_of(any_text, prose))
def test_every_letter_and_number_is_in_exactly_one_word(text: str) -> None:
    covered = [position for span in word_spans(text) for position in range(span.start, span.end)]
    assert len(covered) == len(set(covered))
    expected = {n for n, character in enumerate(text) if unicodedata.category(character)[0] in "LN"}
    assert expected <= set(covered)


@settings(deadline=None)
@given(st.one_of(any_text, prose))
def test_word_of_a_text_is_one_word_by_itself(text: str) -> None:
    for word in words(text):
        assert words(word) == [word]


@pytest.mark.parametrize(
    "word, form",
    [
        ("Bank", "bank"),
        ("BANK", "bank"),
        ("Cafe\u0301", "café"),
        ("isn’t", "isn't"),
        ("Co‐op", "co-op"),
        ("Straße", "strasse"),
        ("ΟΔΟΣ", "οδοσ"),
        ("Ϊ\u0301", "ΐ"),
        ("24", "24"),
        ("", ""),
    ],
)
def test_form_of_a_word(word: str, form: str) -> None:
    assert word_form(word) == form


@settings(deadline=None)
@given(any_text)
@example("ΐ")
@example("İ")
def test_form_is_stable_normal_and_the_same_for_equivalent_spellings(word: str) -> None:
    form = word_form(word)
    assert word_form(form) == form
    assert unicodedata.normalize("NFC", form) == form
    assert {word_form(unicodedata.normalize(kind, word)) for kind in ("NFC", "NFD")} == {form}


def test_forms_follow_the_words_of_the_text() -> None:
    assert word_forms("The Bank isn’t a RIVER-bank.") == ["the", "bank", "isn't", "a", "river-bank"]


@pytest.mark.parametrize(
    "form, content", [("river", True), ("the", False), ("don't", False), ("1905", False), ("x", False)]
)
def test_content_words_are_neither_function_words_nor_numbers_nor_letters(form: str, content: bool) -> None:
    assert is_content_word(form) is content


# Sentences


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", []),
        (" \n\t ", []),
        ("no end", ["no end"]),
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("  One.  \t Two.  ", ["One.", "Two."]),
        ("a title\nthe text\r\n\r\nmore", ["a title", "the text", "more"]),
        ("It costs 3.5 or 1.000 a day. 24 did.", ["It costs 3.5 or 1.000 a day.", "24 did."]),
        ("Wait... what? Really?! Yes… No.", ["Wait... what?", "Really?!", "Yes…", "No."]),
        ("Dr. Lee and Mrs. Poe of St. Ives left.", ["Dr. Lee and Mrs. Poe of St. Ives left."]),
        ("At 5 p.m. Ann left. In the U.S. Army etc. He", ["At 5 p.m. Ann left.", "In the U.S. Army etc. He"]),
        ("J. R. R. Tolkien wrote. So did I. Then", ["J. R. R. Tolkien wrote.", "So did I.", "Then"]),
        ("(See Fig. 3.) It shows", ["(See Fig. 3.)", "It shows"]),
        ('He said "Stop." She did. "Why?" Because.', ['He said "Stop."', "She did.", '"Why?"', "Because."]),
        ("“Go!” ‘No.’ «Si.» ¿Qué? ¡Ya!", ["“Go!”", "‘No.’", "«Si.»", "¿Qué?", "¡Ya!"]),
        ("It ended. and went on. iPhone too.", ["It ended. and went on. iPhone too."]),
        ("See www.example.com. It works.", ["See www.example.com.", "It works."]),
        ("Yahoo! is a name. V1.2.Next", ["Yahoo! is a name.", "V1.2.Next"]),
        ("Über. Éa. Ünder. 東京. ǅ.", ["Über.", "Éa.", "Ünder.", "東京.", "ǅ."]),
        ("我在銀行。你呢？「好！」他說。", ["我在銀行。", "你呢？", "「好！」", "他說。"]),
        ("Done. 😀 Next.", ["Done. 😀 Next."]),
    ],
)
def test_sentences_of(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


@settings(deadline=None)
@given(st.one_of(any_text, prose))
@example("Dr. A\x1c. B")
def test_sentence_spans_slice_back_exactly_without_space_around(text: str) -> None:
    for span in sentence_spans(text):
        assert text[span.start : span.end] == span.text
        assert span.text == span.text.strip() != ""


@settings(deadline=None)
@given(st.one_of(any_text, prose))
def test_sentences_hold_all_that_is_not_space_in_order_and_apart(text: str) -> None:
    spans = sentence_spans(text)
    assert all(left.end <= right.start for left, right in itertools.pairwise(spans))
    between = [0, *(border for span in spans for border in (span.start, span.end)), len(text)]
    assert all(not text[start:end].strip() for start, end in zip(between[::2], between[1::2], strict=True))


@settings(deadline=None)
@given(prose)
@example("Mr. 3. X. Ab. \nAb")
def test_sentence_is_one_sentence_by_itself(text: str) -> None:
    for sentence in sentences(text):
        assert sentences(sentence) == [sentence]


@settings(deadline=None)
@given(prose)
def test_line_break_ends_every_sentence(text: str) -> None:
    assert not any("\n" in sentence for sentence in sentences(text))


# The marked word


@pytest.mark.parametrize(
    "marked, usage",
    [
        ("the [bank] of the river", Usage("the bank of the river", 4, 8)),
        ("[bank]", Usage("bank", 0, 4)),
        ("a [river bank]", Usage("a river bank", 2, 12)),
        ("l'[État]!", Usage("l'État!", 2, 6)),
        ("[] and [ ] stay, [this] is marked", Usage("[] and [ ] stay, this is marked", 17, 21)),
        ("[[inner]]", Usage("[inner]", 1, 6)),
    ],
)
def test_marked_word_is_read_and_its_brackets_leave_the_text(marked: str, usage: Usage) -> None:
    assert parse_usage(marked) == usage


@pytest.mark.parametrize(
    "marked, number",
    [
        ("the bank", 0),
        ("", 0),
        ("the [] bank", 0),
        ("the [ ] bank", 0),
        ("the [bank", 0),
        ("a] b [", 0),
        ("[a] [b]", 2),
    ],
)
def test_not_exactly_one_marked_word_is_an_error_that_shows_how(marked: str, number: int) -> None:
    with pytest.raises(InvalidInputError, match=rf"^{number} words are marked in .*\[bank\] of the river.*--word$"):
        parse_usage(marked)


@settings(deadline=None)
@given(unmarked, unmarked.filter(str.strip), unmarked)
def test_parse_undoes_marking(before: str, word: str, after: str) -> None:
    usage = parse_usage(f"{before}[{word}]{after}")
    assert usage == Usage(before + word + after, len(before), len(before) + len(word))
    assert usage.word == word


@pytest.mark.parametrize(
    "text, word, start",
    [
        ("The Bank lent money to a bank", "bank", 4),
        ("The bankers of the bank", "BANK", 19),
        ("un cafe\u0301 noir", "CAFÉ", 3),
        ("it isn’t so", "isn't", 3),
        ("a bank-note, a bank", "bank", 15),
    ],
)
def test_first_occurrence_of_a_word_is_found_by_its_form(text: str, word: str, start: int) -> None:
    usage = find_usage(text, word)
    assert (usage.text, usage.start) == (text, start)
    assert word_form(usage.word) == word_form(word)


@pytest.mark.parametrize("word", ["river", "ban", "the bank", ""])
def test_word_that_does_not_occur_is_an_error_naming_both(word: str) -> None:
    with pytest.raises(
        InvalidInputError, match=rf"the word '{word}' does not occur in 'the bank': mark it with \[brack"
    ):
        find_usage("the bank", word)


@settings(deadline=None)
@given(prose)
def test_every_word_of_a_text_can_be_found_in_it(text: str) -> None:
    for span in word_spans(text):
        assert find_usage(text, span.text).start <= span.start

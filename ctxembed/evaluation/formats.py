"""The formats of benchmark rows: by which keys each is recognised, and what a row of it becomes.

docs/formats.md shows an invented row of each. Offsets count characters from 0; an end is the first character after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

from ctxembed.evaluation.jsonl import Row, load_rows, read_rows
from ctxembed.evaluation.records import GradedPair, Kind, SenseUse, TextPair, UsagePair
from ctxembed.text import word_form, word_spans
from ctxembed.types import Usage

Record: TypeAlias = UsagePair | GradedPair | TextPair | SenseUse
Shape: TypeAlias = Literal["usage pairs", "graded pairs", "scored texts", "labelled texts", "sense uses"]
R = TypeVar("R", bound=Record)


@dataclass(frozen=True, slots=True)
class Format:
    """One format: a row of it has all the keys, of "a|b" one, and none of those it must be without."""

    shape: Shape
    keys: tuple[str, ...]
    parse: Callable[[Row], Iterable[Record]]
    without: tuple[str, ...] = ()

    def missing(self, values: Iterable[str]) -> list[str]:
        """Return the keys that a row lacks."""
        present = set(values)
        return [key for key in self.keys if not present & set(key.split("|"))]


def load_records(path: Path, chosen: Format) -> list[Any]:
    """Read a whole file in one format.

    Raises:
        InvalidInputError: If there is no row, or one cannot be used: its file and line, and why.
    """
    return [record for records in load_rows(path, lambda row: list(chosen.parse(row))) for record in records]


def recognise(path: Path, kind: Kind) -> Format | str:
    """Return the format of a file's rows, or why it is none of the kind's."""
    row = next(read_rows(path), None)
    if row is None:
        return "no rows"
    nearest: list[str] | None = None
    for chosen in FORMATS[kind]:
        missing = chosen.missing(row.values)
        foreign = [key for key in chosen.without if key in row.values]
        if not missing and not foreign:
            return chosen
        if nearest is None or len(missing) < len(nearest):
            nearest = missing or [f"the form of {kind} (they have {', '.join(foreign)})"]
    return "rows without " + ", ".join(key.replace("|", " or ") for key in nearest or [])


def usage_of(row: Row, number: int | str = "", *, text: str = "sentence", signs: bool = False) -> Usage:
    """Return the usage that a row's keys with this number mark; ``signs`` takes what has no letter or digit too.

    Raises:
        InvalidInputError: If they mark no word.
    """
    start, end = f"start{number}", f"end{number}"
    usage = Usage(row.text(f"{text}{number}"), row.integer(start), row.integer(end))
    inside = 0 <= usage.start < usage.end <= len(usage.text)
    if not inside or usage.word != usage.word.strip() or not (signs or word_spans(usage.word)):
        raise row.error(
            f"{start} {usage.start} to {end} {usage.end} mark {usage.word!r} in {usage.text!r}, not a word: "
            "offsets count characters from 0, and the end is the first character after the word"
        )
    return usage


def row_id(row: Row) -> str:
    """Return a row's id, or its line."""
    return row.identifier("id") if "id" in row.values else str(row.line)


def _usage_pair(row: Row) -> list[UsagePair]:
    return [UsagePair(row_id(row), row.text("word"), usage_of(row, 1), usage_of(row, 2), row.truth("label"))]


def _definition_pair(row: Row) -> list[UsagePair]:
    return [UsagePair(row_id(row), row.text("word"), usage_of(row), _whole(row, "definition"), row.truth("label"))]


def _graded_pair(row: Row) -> list[GradedPair]:
    return [GradedPair(row_id(row), row.text("word"), usage_of(row, 1), usage_of(row, 2), row.number("score"))]


def _two_words(row: Row) -> list[GradedPair]:
    pair = row.identifier("pair") if "pair" in row.values else None
    words = f"{row.text('word1')} {row.text('word2')}"
    return [GradedPair(row_id(row), words, usage_of(row, 1), usage_of(row, 2), row.number("score"), pair)]


def _words_alone(row: Row) -> list[GradedPair]:
    first, second = _whole(row, "word1"), _whole(row, "word2")
    return [GradedPair(row_id(row), f"{first.text} {second.text}", first, second, row.number("score"))]


def _scored_texts(row: Row) -> list[TextPair]:
    return [TextPair(row_id(row), row.text("sentence1"), row.text("sentence2"), row.number("score"))]


def _labelled_texts(row: Row) -> list[TextPair]:
    return [TextPair(row_id(row), row.text("sentence1"), row.text("sentence2"), float(row.truth("label")))]


def _sense_use(row: Row) -> list[SenseUse]:
    usage = usage_of(row, text=_present(row, "sentence", "text"))
    document = row.identifier("document") if "document" in row.values else None
    sense = row.identifier(_present(row, "sense", "label"))
    lemma = row.text(_present(row, "lemma", "word"))
    return [SenseUse(row_id(row), word_form(lemma), usage, frozenset([sense]), document)]


def _sense_sentence(row: Row) -> list[SenseUse]:
    instances = row.values["instances"]
    if not isinstance(instances, list) or not all(isinstance(each, dict) for each in instances):
        raise row.error(f"'instances' is {instances!r}, need a list of objects")
    # SemCor numbers the sentences of a document: brown1_br-a01.s1.
    document = row.identifier("document") if "document" in row.values else row_id(row).rpartition(".")[0] or None
    uses = []
    for number, instance in enumerate(instances):  # SemCor has senses of signs too, such as | for "lambda"
        part = Row(row.path, row.line, {**instance, "sentence": row.values["sentence"]})
        senses = instance.get("senses")
        if not isinstance(senses, list) or not senses or not all(isinstance(sense, str) for sense in senses):
            raise part.error(f"'senses' is {senses!r}, need a list of strings with at least one")
        name = f"{row_id(row)}.{number}"
        uses.append(
            SenseUse(name, word_form(part.text("lemma")), usage_of(part, signs=True), frozenset(senses), document)
        )
    return uses


def _whole(row: Row, key: str) -> Usage:
    """Mark the whole of a short text."""
    text = row.text(key).strip()
    if not word_spans(text):
        raise row.error(f"{key!r} is {text!r}, need at least one word")
    return Usage(text, 0, len(text))


def _present(row: Row, *keys: str) -> str:
    return next(key for key in keys if key in row.values or key == keys[-1])


_PLACES = ("sentence1", "start1", "end1", "sentence2", "start2", "end2")
USAGE_PAIRS = Format("usage pairs", ("word", *_PLACES, "label"), _usage_pair)
SCORED_TEXTS = Format("scored texts", ("sentence1", "sentence2", "score"), _scored_texts, without=("start1",))
SENSE_USES = Format(
    "sense uses", ("lemma|word", "sentence|text", "start", "end", "sense|label"), _sense_use, without=("definition",)
)
FORMATS: dict[Kind, tuple[Format, ...]] = {
    "words": (
        USAGE_PAIRS,
        Format("graded pairs", ("word", *_PLACES, "score"), _graded_pair),
        Format("graded pairs", ("word1", "word2", *_PLACES, "score"), _two_words),
        Format("usage pairs", ("word", "sentence", "start", "end", "definition", "label"), _definition_pair),
    ),
    "sentences": (
        SCORED_TEXTS,
        Format("labelled texts", ("sentence1", "sentence2", "label"), _labelled_texts, without=("start1", "score")),
    ),
    "similarity": (Format("graded pairs", ("word1", "word2", "score"), _words_alone, without=("start1",)),),
    "senses": (SENSE_USES, Format("sense uses", ("sentence", "instances"), _sense_sentence)),
    "retrieval": (),
}

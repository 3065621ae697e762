"""Uses of words with the senses they have: read from JSON Lines, kept as numbers.

Three shapes of rows, told apart by their keys and free to be mixed:

- sentences (SemCor): ``sentence`` and ``instances``, each with ``lemma``, ``start``, ``end`` (characters), ``senses``;
- dictionaries: ``lemma`` with ``synset``, ``gloss``, ``examples`` (WordNet), or with ``definition``, ``quotations``;
- single uses: ``text``, ``start``, ``end``, ``label``, and ``lemma`` or ``word`` (else the marked word is the lemma).

An inventory is the list of senses that labels are from: WordNet's sense keys are one, its synsets another, each file
of definitions or labels has its own, and the key ``inventory`` in a row names one that files share. What two of them
say about one word cannot be compared, so "lemma" here always means a word under one inventory.

Letters: N sentences, U uses, W words, L lemmas, S senses, G glosses.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from operator import eq
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ctxembed.config import check
from ctxembed.corpus import Corpus
from ctxembed.errors import InvalidInputError
from ctxembed.readers import ReadCounts, Reading, ReadOptions, Source, file_kind, read_rows
from ctxembed.runtime import batched, progress, sha256_text
from ctxembed.text import word_form, word_forms, word_spans
from ctxembed.tokenizer import SubwordTokenizer, token_ranges
from ctxembed.training.batches import TokenRows, with_specials

Marks: TypeAlias = list[tuple[int, int, int]]
"""First character, one past the last, and sense number of each use in a text."""

_ENDINGS = frozenset(
    "/s /es /ed /er /est /en /eth /ing +/ed +/er +/est +/eth +/ing e/es e/ed e/er e/est e/en e/eth e/ing "
    "y/ies y/ied y/ier y/iest y/ieth y/id ie/ying f/ves fe/ves is/es us/i um/a on/a an/en x/ces ex/ices ix/ices".split()
)
"""What English inflection takes from the end of a lemma (+ doubles its last letter), and what it puts there."""


def _counted(what: str) -> Any:
    return field(default=0, metadata={"what": what})


@dataclass
class SenseCounts:
    """What was read, and what was left out and why; ``summary`` says it in words."""

    uses: int = 0
    lemmas: int = 0
    sentences: int = 0
    glosses: int = _counted("glosses")
    single_use_senses: int = _counted("senses with one use only")
    one_sense_lemmas: int = _counted("lemmas with one sense only")
    cut_texts: int = _counted("long texts cut to windows around their uses")
    cut_glosses: int = _counted("long glosses cut at their end")
    empty_rows: int = _counted("empty rows skipped")
    without_place: int = _counted("uses without a place in their text left out")
    without_sense: int = _counted("uses without a sense left out")
    several_senses: int = _counted("uses with several senses left out")
    proper_names: int = _counted("proper names that stand for a class left out")
    repeated: int = _counted("repeated uses left out")
    glosses_in_eval: int = _counted("glosses that are in an evaluation file left out")

    def summary(self) -> str:
        """Return one line with every count that is not zero, for the user to read."""
        said = [f"{self.uses:,} uses of {self.lemmas:,} lemmas in {self.sentences:,} sentences"]
        counts = ((getattr(self, each.name), each.metadata.get("what")) for each in fields(self))
        return "; ".join([*said, *(f"{count:,} {what}" for count, what in counts if what and count)])


@dataclass(frozen=True, slots=True)
class SenseRows:
    """Sentences as token rows, the uses marked in them, and what their senses are described as."""

    sentences: TokenRows
    rows: NDArray[np.int64]
    """(U,), the sentence of each use."""
    starts: NDArray[np.int64]
    """(U,), its first token, special token counted."""
    ends: NDArray[np.int64]
    """(U,), one past its last."""
    lemmas: NDArray[np.int64]
    """(U,)."""
    senses: NDArray[np.int64]
    """(U,); no two lemmas share a sense."""
    sense_lemmas: NDArray[np.int64]
    """(S,), the lemma of each sense; some senses have no use."""
    sense_glosses: NDArray[np.int64]
    """(S,), the gloss of each sense, -1 for none; synonyms may share one."""
    lemma_words: NDArray[np.int64]
    """(L,), the word of each lemma: equal for one word under several inventories."""
    glosses: TokenRows
    """Only those of lemmas that have a use."""
    counts: SenseCounts

    @property
    def sha256(self) -> str:
        """The hash of all but the counts."""
        numbers = (self.rows, self.starts, self.ends, self.senses, self.sense_lemmas, self.sense_glosses)
        hashes = (hashlib.sha256(part.tobytes()).hexdigest() for part in (*numbers, self.lemma_words))
        return sha256_text(self.sentences.sha256, self.glosses.sha256, *hashes)


def read_senses(paths: str | Path | Sequence[str | Path], tokenizer: SubwordTokenizer, *, max_length: int) -> SenseRows:
    """Read labelled uses from .jsonl files (each also .gz and .zst).

    Args:
        paths: Files, or directories of them, read in this order; rows of all shapes may be mixed.
        tokenizer: The model's.
        max_length: Most tokens of a row, special ones included. Of a longer text, a window around each use is kept.

    Returns:
        Equal files in equal order give equal numbers. What is left out is in ``counts``.

    Raises:
        MissingInputError: If a path does not exist.
        InvalidInputError: If a file is of another kind or given twice, a row has none of the shapes or a wrong value
            (with file and line), or no use is left.
    """
    check(max_length >= 3, f"max_length = {max_length}: must be at least 3 (two tokens are special)")
    sources, register = _sources(paths), _Register()
    kept, marked = _Kept(tokenizer, width=max_length - 2, counts=register.counts), _marked_texts(sources, register)
    for batch in batched(marked, 4096):
        kept.add(batch)
    if not kept.uses:
        names = ", ".join(source.name for source in sources)
        raise InvalidInputError(f"{names}: no labelled use to learn from ({register.counts.summary()})")
    return _compact(kept, register)


def find_form(text: str, lemma: str) -> tuple[int, int] | None:
    """Find a lemma of one or more words in a text: its own form if it is there, else the first inflected one.

    A word counts as inflected if it starts as the lemma does, up to the last two letters and for three at least, and
    ends in an English ending. Irregular forms, such as "went", are not found.

    Args:
        text: Any text.
        lemma: Its words stand apart by spaces or underscores.

    Returns:
        First character and one past the last, or None.

    >>> find_form("Banks lend; the bank lent.", "bank"), find_form("The wells are running dry.", "run_dry")
    ((16, 20), (14, 25))
    """
    forms = word_forms(lemma.replace("_", " "))
    spans = word_spans(text)
    words = [word_form(span.text) for span in spans]
    width = len(forms)
    starts = range(len(words) - width + 1) if forms else range(0)
    for is_form in (eq, _is_inflected):
        for start in starts:
            if all(is_form(word, form) for word, form in zip(words[start : start + width], forms, strict=True)):
                return spans[start].start, spans[start + width - 1].end
    return None


def _is_inflected(word: str, form: str) -> bool:
    word = word.removesuffix("'s")
    lengths = range(min(len(form), max(3, len(form) - 2)), len(form) + 1)  # of the common start
    endings = [f"{form[kept:]}/{word[kept:]}" for kept in lengths if word[:kept] == form[:kept]]
    if word.startswith(form + form[-1]):
        endings.append(f"+/{word[len(form) + 1 :]}")
    return word == form or not _ENDINGS.isdisjoint(endings)


# From files to texts with marks


@dataclass(frozen=True, slots=True)
class _Line:
    """One object and where it stands; the methods return a value of the type they are named after."""

    place: str
    fields: Mapping[str, Any]

    def error(self, problem: str) -> InvalidInputError:
        return InvalidInputError(f"{self.place}: {problem}")

    def wrong(self, key: str, need: str) -> InvalidInputError:
        shown = repr(self.fields[key])[:40] if key in self.fields else "missing"
        return self.error(f"{key!r} is {shown}, need {need}")

    def text(self, key: str) -> str:
        if not isinstance(value := self.fields.get(key), str):
            raise self.wrong(key, "a text")
        return value

    def items(self, key: str) -> list[Any]:
        """Return a list; one that is not there is empty."""
        if not isinstance(value := self.fields.get(key), list | None):
            raise self.wrong(key, "a list")
        return value or []

    def inventory(self, default: str) -> str:
        return f"named {self.text('inventory')}" if "inventory" in self.fields else default

    def place_in(self, text: str) -> tuple[int, int]:
        start, end = self.fields.get("start"), self.fields.get("end")
        if type(start) is not int or type(end) is not int:
            raise self.wrong("end" if type(start) is int else "start", "a whole number")
        if not 0 <= start < end <= len(text):
            raise self.error(f"characters {start} to {end} of a text of {len(text)}: offsets count characters from 0")
        return start, end


class _Register:
    """Gives numbers to words, lemmas and senses as they are met, and keeps the glosses."""

    def __init__(self) -> None:
        self.words: dict[str, int] = {}
        self.lemmas: dict[tuple[int, str], int] = {}
        self.senses: dict[tuple[int, str], int] = {}
        self.glosses: dict[int, str] = {}
        self.num_entries: Counter[int] = Counter()
        self.counts = SenseCounts()

    def lemma(self, name: str, inventory: str) -> int:
        form = word_form(name.replace("_", " "))
        word = self.words.setdefault(form, len(self.words))
        return self.lemmas.setdefault((word, inventory), len(self.lemmas))

    def sense(self, lemma: int, key: str) -> int:
        return self.senses.setdefault((lemma, key), len(self.senses))

    def describe(self, sense: int, gloss: str, *, in_eval: bool) -> None:
        self.counts.glosses_in_eval += bool(gloss) and in_eval
        if gloss and not gloss.isspace() and not in_eval:
            self.glosses[sense] = gloss


def _sources(paths: str | Path | Sequence[str | Path]) -> list[Source]:
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    check("-" not in given, "labelled uses are not read from stdin (-): name a file, so that a run can be resumed")
    sources = [Source(Path(name), name, name, *file_kind(Path(name))) for name in Corpus(given).names]
    for source in sources:
        check(source.format == "jsonl", f"{source.name}: labelled uses are read from .jsonl (also .gz and .zst)")
    return sources


def _marked_texts(sources: Iterable[Source], register: _Register) -> Iterator[tuple[str, Marks]]:
    for number, source in enumerate(sources):
        reading = Reading(source, ReadOptions(), ReadCounts())
        for row, values in progress(read_rows(reading), label=source.name):
            if values:
                yield from _marks(_Line(reading.place(row), values), f"file {number}", register)
            else:
                register.counts.empty_rows += 1


def _marks(line: _Line, file: str, register: _Register) -> Iterator[tuple[str, Marks]]:
    """Turn one row into texts with marks; ``file`` names the inventory of labels that mean nothing elsewhere."""
    if "instances" in line.fields:
        yield from _sentence(line, register)
    elif "synset" in line.fields or "definition" in line.fields:
        yield from _dictionary_entry(line, file, register)
    elif "label" in line.fields:
        yield from _single_use(line, file, register)
    else:
        raise line.error(
            f"the keys {', '.join(map(repr, line.fields))} are no labelled use: need 'sentence' and 'instances', "
            "or 'lemma' and 'synset' or 'definition', or 'text', 'start', 'end' and 'label'"
        )


def _sentence(line: _Line, register: _Register) -> Iterator[tuple[str, Marks]]:
    text, marks = line.text("sentence"), []
    for number, values in enumerate(line.items("instances"), 1):
        if not isinstance(values, dict):
            raise line.wrong("instances", "a list of objects")
        use = _Line(f"{line.place}, instance {number}", values)
        start, end = use.place_in(text)
        lemma, keys = use.text("lemma"), use.items("senses")
        if len(keys) != 1:
            register.counts.several_senses += len(keys) > 1
            register.counts.without_sense += not keys
        elif "pn" in values:  # "Fulton County Grand Jury" as a use of "group"
            register.counts.proper_names += 1
        elif not isinstance(keys[0], str):
            raise use.wrong("senses", "a list of texts")
        else:
            marks.append((start, end, register.sense(register.lemma(lemma, line.inventory("sense keys")), keys[0])))
    if marks:
        yield text, marks


def _dictionary_entry(line: _Line, file: str, register: _Register) -> Iterator[tuple[str, Marks]]:
    name, is_synset = line.text("lemma"), "synset" in line.fields
    lemma = register.lemma(name, line.inventory("synsets" if is_synset else file))
    register.num_entries[lemma] += 1
    sense = register.sense(lemma, line.text("synset") if is_synset else str(register.num_entries[lemma]))
    gloss = line.text("gloss" if is_synset else "definition")
    register.describe(sense, gloss, in_eval=bool(line.fields.get("gloss_in_eval")))
    for example in line.items("examples" if is_synset else "quotations"):
        text = example.get("text") if isinstance(example, dict) else example
        if not isinstance(text, str):
            raise line.error(f"an example is {str(example)[:40]!r}, need a text, or an object with 'text'")
        if place := find_form(text, name):
            yield text, [(*place, sense)]
        else:
            register.counts.without_place += 1


def _single_use(line: _Line, file: str, register: _Register) -> Iterator[tuple[str, Marks]]:
    text, label = line.text("text"), line.fields["label"]
    start, end = line.place_in(text)
    if label is None or label == "":
        register.counts.without_sense += 1
    elif type(label) is str or type(label) is int:
        key = next((key for key in ("lemma", "word") if key in line.fields), None)
        lemma = register.lemma(line.text(key) if key else text[start:end], line.inventory(file))
        yield text, [(start, end, register.sense(lemma, str(label)))]
    else:
        raise line.wrong("label", "a text or a whole number")


class _Kept:
    """Token rows of the texts read so far, and the uses in them."""

    def __init__(self, tokenizer: SubwordTokenizer, *, width: int, counts: SenseCounts) -> None:
        self.tokenizer = tokenizer
        self.width = width
        self.counts = counts
        self.sentences: list[NDArray[np.int32]] = []
        self.uses = array("q")
        """Row, first token, one past the last, sense; of all uses end to end."""
        self._row_of: dict[tuple[str, int], int] = {}

    def add(self, batch: Sequence[tuple[str, Marks]]) -> None:
        encoded = self.tokenizer.encode_batch([text for text, _ in batch])
        for (text, marks), ids, offsets in zip(batch, encoded.ids, encoded.offsets, strict=True):
            starts, ends, senses = zip(*marks, strict=True)
            first, last = token_ranges(offsets, starts, ends)
            self.counts.cut_texts += len(ids) > self.width
            for start, end, sense in zip(first.tolist(), last.tolist(), senses, strict=True):
                if 0 < end - start <= self.width:
                    begin = max(0, min((start + end - self.width) // 2, len(ids) - self.width))
                    shift = 1 - begin  # one for the special token in front
                    self.uses.extend((self._row(text, ids, begin), start + shift, end + shift, sense))
                else:
                    self.counts.without_place += 1

    def _row(self, text: str, ids: NDArray[np.int32], begin: int) -> int:
        row = self._row_of.setdefault((text, begin), len(self.sentences))
        if row == len(self.sentences):
            self.sentences.append(with_specials(ids[begin : begin + self.width], self.tokenizer))
        return row

    def glosses(self, texts: Sequence[str]) -> TokenRows:
        """Return the token rows of glosses, long ones cut at their end."""
        encoded = self.tokenizer.encode_ids(texts)
        self.counts.cut_glosses = sum(len(ids) > self.width for ids in encoded)
        return TokenRows.from_lists([with_specials(ids[: self.width], self.tokenizer) for ids in encoded])


def _compact(kept: _Kept, register: _Register) -> SenseRows:
    sense_lemmas = np.array([lemma for lemma, _ in register.senses], dtype=np.int64)
    table = np.frombuffer(kept.uses, dtype=np.int64).reshape(-1, 4)
    # One place has one sense of a lemma: another annotation of the same place would repel a vector from itself.
    places = np.column_stack((table[:, :3], sense_lemmas[table[:, 3]]))
    first = np.sort(np.unique(places, axis=0, return_index=True)[1])
    rows, starts, ends, senses = np.ascontiguousarray(table[first].T)
    lemmas = sense_lemmas[senses]
    glosses: dict[str, int] = {}
    sense_glosses = np.full(len(sense_lemmas), -1, dtype=np.int64)
    used = np.zeros(len(register.lemmas), dtype=np.bool_)
    used[lemmas] = True
    for sense, gloss in register.glosses.items():
        if used[sense_lemmas[sense]]:
            sense_glosses[sense] = glosses.setdefault(gloss, len(glosses))
    per_sense = np.bincount(senses, minlength=len(sense_lemmas))
    senses_of_lemma = np.bincount(sense_lemmas[per_sense > 0])
    counts = register.counts
    counts.uses, counts.sentences, counts.repeated = len(first), len(kept.sentences), len(table) - len(first)
    counts.lemmas, counts.one_sense_lemmas = int(used.sum()), int((senses_of_lemma == 1).sum())
    counts.glosses, counts.single_use_senses = len(glosses), int((per_sense == 1).sum())
    return SenseRows(
        sentences=TokenRows.from_lists(kept.sentences),
        rows=rows,
        starts=starts,
        ends=ends,
        lemmas=lemmas,
        senses=senses,
        sense_lemmas=sense_lemmas,
        sense_glosses=sense_glosses,
        lemma_words=np.array([word for word, _ in register.lemmas], dtype=np.int64),
        glosses=kept.glosses(list(glosses)),
        counts=counts,
    )

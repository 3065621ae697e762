"""Benchmark data: pairs of word usages, pairs of texts, retrieval sets; how they are read and found in a folder.

Three kinds of data set, each in JSON Lines (.jsonl or .jsonl.gz, UTF-8, one object a line):

- words: ``word``, ``sentence1``, ``start1``, ``end1``, ``sentence2``, ``start2``, ``end2`` (character offsets)
  and ``label`` (1: the word means the same in both);
- sentences: ``sentence1``, ``sentence2`` and ``score`` (higher is more alike);
- retrieval: a folder of ``corpus.jsonl`` (``id``, ``text``, optionally ``title``), ``queries.jsonl`` (``id``,
  ``text``) and ``qrels.tsv`` (query-id, corpus-id, score, with that header line; 0 is not relevant).

The reading is strict, because a benchmark that drops rows measures something else: the first wrong row is an
error with its file and line. Only a whole file that holds other rows is passed over, and the suite says which.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from ctxembed.errors import InvalidInputError
from ctxembed.evaluation.jsonl import SUFFIXES, Row, load_rows, read_rows
from ctxembed.runtime import data_directory, existing
from ctxembed.text import word_form, word_spans
from ctxembed.types import Document, Usage

Kind: TypeAlias = Literal["words", "sentences", "retrieval"]
Judgements: TypeAlias = Mapping[str, Mapping[str, int]]

SPLITS = ("train", "dev", "test")
QRELS_HEADER = "query-id\tcorpus-id\tscore"
USAGE_KEYS = ("word", "sentence1", "start1", "end1", "sentence2", "start2", "end2", "label")
TEXT_KEYS = ("sentence1", "sentence2", "score")


@dataclass(frozen=True, slots=True)
class UsagePair:
    """One word in two contexts; the label is true when it means the same in both."""

    id: str
    word: str
    first: Usage
    second: Usage
    label: bool


@dataclass(frozen=True, slots=True)
class TextPair:
    """Two texts and how alike people found them; the unit of the score is the data set's own."""

    id: str
    first: str
    second: str
    score: float


@dataclass(frozen=True, slots=True)
class UsageSet:
    """Pairs to score, and the pairs on which the threshold is tuned; both are never empty."""

    name: str
    split: str
    pairs: Sequence[UsagePair]
    threshold_pairs: Sequence[UsagePair]
    threshold_from: str
    files: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class TextSet:
    """Scored pairs of texts."""

    name: str
    split: str
    pairs: Sequence[TextPair]
    files: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class RetrievalSet:
    """Documents, queries, and for a query id the judgement (1 or more: relevant) of document ids."""

    name: str
    corpus: Sequence[Document]
    queries: Sequence[Document]
    judgements: Judgements
    files: tuple[Path, ...] = ()

    @property
    def judged_queries(self) -> list[Document]:
        """The queries with at least one relevant document: the others cannot be scored."""
        return [query for query in self.queries if any(self.judgements.get(query.id, {}).values())]


BenchmarkSet: TypeAlias = UsageSet | TextSet | RetrievalSet


@dataclass(frozen=True, slots=True)
class Suite:
    """The data sets of one kind that a folder holds, and why each other file or folder in it was passed over."""

    kind: Kind
    root: Path
    sets: Sequence[BenchmarkSet]
    skipped: Mapping[str, str] = field(default_factory=dict)


def load_suite(kind: Kind, directory: Path | None = None, *, seed: int = 1) -> Suite:
    """Load every data set of one kind.

    Words and sentences: the files ``train``, ``dev`` and ``test`` of a folder are the splits of one task. Scored is
    ``test`` where there is one, else ``dev``; a file of any other name is a task of its own. The threshold of a words
    task comes from ``train``, else from ``dev`` where ``test`` is scored, else from half of the scored file.

    Args:
        kind: Which kind of data set.
        directory: A folder, searched with its subfolders, or (not for retrieval) one file; None takes the sets that
            ship with the package.
        seed: Deals the words where half of a file has to serve for the threshold.

    Returns:
        The data sets by name, with at least one set.

    Raises:
        MissingInputError: If the directory does not exist.
        InvalidInputError: If it holds no set of this kind, or a row cannot be used.
    """
    if directory is None:
        return _shipped_suite(kind, seed=seed)
    directory = existing(directory)
    skipped: dict[str, str] = {}
    sets: list[BenchmarkSet] = []
    if kind == "retrieval":
        sets += _find_retrieval(directory, skipped)
    else:
        keys = USAGE_KEYS if kind == "words" else TEXT_KEYS
        for name, splits in sorted(_find_splits(directory, keys, skipped).items()):
            if set(splits) == {"train"}:
                skipped[_relative(splits["train"], directory)] = "only a train split, nothing to score"
            else:
                sets.append(_usage_set(name, splits, seed=seed) if kind == "words" else _text_set(name, splits))
    if not sets:
        reasons = "; ".join(sorted(set(skipped.values()))) or "no .jsonl file at all"
        raise InvalidInputError(
            f"{directory} holds no data for {kind} ({reasons}): the formats are in `ctxembed bench {kind} --help`"
        )
    return Suite(kind, directory, sets, skipped)


def load_usage_pairs(path: Path) -> list[UsagePair]:
    """Read word-in-context pairs.

    Raises:
        InvalidInputError: If there is no row, or one cannot be used: its file and line, and why.
    """
    return load_rows(path, _usage_pair)


def load_text_pairs(path: Path) -> list[TextPair]:
    """Read scored sentence pairs.

    Raises:
        InvalidInputError: If there is no row, or one cannot be used: its file and line, and why.
    """
    return load_rows(path, _text_pair)


def load_retrieval(name: str, *, corpus: Path, queries: Path, qrels: Path) -> RetrievalSet:
    """Read a retrieval set; a title is put before the text of its document.

    Raises:
        InvalidInputError: If a row cannot be used, an id occurs twice or is judged and missing, or no query has a
            relevant document.
    """
    documents, questions = (_unique(load_rows(path, _document), path) for path in (corpus, queries))
    judgements = _load_judgements(qrels, queries=set(questions), documents=set(documents))
    data = RetrievalSet(
        name, list(documents.values()), list(questions.values()), judgements, files=(corpus, queries, qrels)
    )
    if not data.judged_queries:
        raise InvalidInputError(f"{qrels} names no relevant document: at least one query needs a score of 1 or more")
    return data


def word_disjoint_halves(pairs: Sequence[UsagePair], *, seed: int) -> tuple[list[UsagePair], list[UsagePair]]:
    """Deal the words at random into two halves, and each pair to the half of its word.

    Args:
        pairs: Pairs of at least two different words.
        seed: Equal seeds deal equally, whatever the order of the pairs.

    Returns:
        Two lists that share no word, in the order given.

    Raises:
        InvalidInputError: If there are fewer than two words.
    """
    words = sorted({word_form(pair.word) for pair in pairs})
    if len(words) < 2:
        raise InvalidInputError(
            f"the pairs are of {len(words)} word and cannot be dealt into halves: put a file named train beside them"
        )
    random.Random(seed).shuffle(words)
    tuning = set(words[::2])
    halves: tuple[list[UsagePair], list[UsagePair]] = ([], [])
    for pair in pairs:
        halves[word_form(pair.word) not in tuning].append(pair)
    return halves


def _shipped_suite(kind: Kind, *, seed: int) -> Suite:
    root = data_directory()
    if kind == "sentences":
        raise InvalidInputError("no set of sentence pairs ships with ctxembed: name a folder of your own with --data")
    if kind == "words":
        folder = root / "benchmarks" / "word_in_context"
        splits = {split: existing(folder / f"{split}.jsonl") for split in ("dev", "test")}
        return Suite(kind, root, [_usage_set(folder.name, splits, seed=seed)])
    folder = root / "benchmarks" / "retrieval"
    corpus, queries, qrels = root / "corpora" / "sample.jsonl", folder / "queries.jsonl", folder / "qrels.tsv"
    files = {"corpus": existing(corpus), "queries": existing(queries), "qrels": existing(qrels)}
    return Suite(kind, root, [load_retrieval(folder.name, **files)])


def _find_splits(root: Path, keys: Iterable[str], skipped: dict[str, str]) -> dict[str, dict[str, Path]]:
    """Group the files whose rows have the keys by task and split; a file with a name of its own has the split "all"."""
    tasks: dict[str, dict[str, Path]] = {}
    for path in _data_files(root):
        if reason := _other_rows(path, keys):
            skipped[_relative(path, root)] = reason
            continue
        split = _stem(path.name) if _stem(path.name) in SPLITS else "all"
        name = _stem(_relative(path, root)) if split == "all" else _folder_name(path.parent, root)
        task = tasks.setdefault(name, {})
        if split in task or (task and "all" in (split, *task)):
            other = next(iter(task.values()))
            raise InvalidInputError(f"{other} and {path} would both be the task {name!r}: rename or remove one")
        task[split] = path
    return tasks


def _find_retrieval(root: Path, skipped: dict[str, str]) -> list[RetrievalSet]:
    folders: dict[Path, dict[str, Path]] = {}
    for path in _data_files(root, also=("qrels.tsv",)):
        part = "qrels" if path.name == "qrels.tsv" else _stem(path.name)
        other = folders.setdefault(path.parent, {}).setdefault(part, path)
        if other != path:
            raise InvalidInputError(f"{other} and {path} are the same part of a data set: keep one of the two")
    sets = []
    for folder, parts in sorted(folders.items()):
        missing = [part for part in ("corpus", "queries", "qrels") if part not in parts]
        if missing:
            skipped[_folder_name(folder, root)] = "no " + ", ".join(missing)
        else:
            wanted = {part: parts[part] for part in ("corpus", "queries", "qrels")}
            sets.append(load_retrieval(_folder_name(folder, root), **wanted))
    return sets


def _data_files(root: Path, *, also: tuple[str, ...] = ()) -> list[Path]:
    """Return the data files of a folder and its subfolders, or the one file, sorted; hidden ones are left out."""
    if root.is_file():
        if not root.name.endswith((*SUFFIXES, *also)):
            raise InvalidInputError(f"{root} is neither a folder nor a file in {' or '.join(SUFFIXES)}")
        return [root]
    paths = sorted(path for path in root.rglob("*") if path.name.endswith((*SUFFIXES, *also)) and path.is_file())
    return [path for path in paths if not any(part.startswith(".") for part in path.relative_to(root).parts)]


def _relative(path: Path, root: Path) -> str:
    return path.name if root.is_file() else path.relative_to(root).as_posix()


def _folder_name(folder: Path, root: Path) -> str:
    return folder.relative_to(root).as_posix() if root in folder.parents else folder.resolve().name


def _stem(name: str) -> str:
    return name.removesuffix(".gz").removesuffix(".jsonl")


def _other_rows(path: Path, keys: Iterable[str]) -> str | None:
    """Say what the first row of a file lacks; None if it has every key."""
    row = next(read_rows(path), None)
    if row is None:
        return "no rows"
    missing = [key for key in keys if key not in row.values]
    return "rows without " + ", ".join(missing) if missing else None


def _usage_set(name: str, splits: Mapping[str, Path], *, seed: int) -> UsageSet:
    scored = next(split for split in ("test", "dev", "all") if split in splits)
    pairs = load_usage_pairs(splits[scored])
    other = next((split for split in ("train", "dev") if split in splits and split != scored), None)
    if other and scored != "all":
        files = (splits[scored], splits[other])
        return UsageSet(name, scored, pairs, load_usage_pairs(splits[other]), other, files)
    tuning, rest = word_disjoint_halves(pairs, seed=seed)
    return UsageSet(name, f"{scored}, half 2", rest, tuning, f"{scored}, half 1", (splits[scored],))


def _text_set(name: str, splits: Mapping[str, Path]) -> TextSet:
    scored = next(split for split in ("test", "dev", "all") if split in splits)
    return TextSet(name, scored, load_text_pairs(splits[scored]), (splits[scored],))


def _usage_pair(row: Row) -> UsagePair:
    return UsagePair(_pair_id(row), row.text("word"), _usage(row, 1), _usage(row, 2), row.truth("label"))


def _usage(row: Row, number: int) -> Usage:
    text = row.text(f"sentence{number}")
    usage = Usage(text, row.integer(f"start{number}"), row.integer(f"end{number}"))
    inside = 0 <= usage.start < usage.end <= len(text)
    if not inside or usage.word != usage.word.strip() or not word_spans(usage.word):
        raise row.error(
            f"start{number} {usage.start} to end{number} {usage.end} mark {usage.word!r} in {text!r}, not a word: "
            "offsets count characters from 0, and the end is the first character after the word"
        )
    return usage


def _text_pair(row: Row) -> TextPair:
    return TextPair(_pair_id(row), row.text("sentence1"), row.text("sentence2"), row.number("score"))


def _pair_id(row: Row) -> str:
    return row.identifier("id") if "id" in row.values else str(row.line)


def _document(row: Row) -> Document:
    title = row.text("title") if "title" in row.values else ""
    return Document(row.identifier("id"), f"{title} {row.text('text')}".strip())


def _unique(documents: Iterable[Document], path: Path) -> dict[str, Document]:
    found: dict[str, Document] = {}
    for document in documents:
        if document.id in found:
            raise InvalidInputError(f"{path}: the id {document.id!r} occurs twice, and judgements need one of each")
        found[document.id] = document
    return found


def _load_judgements(path: Path, *, queries: set[str], documents: set[str]) -> Judgements:
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip("\n").split("\n")
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path} is not UTF-8 ({error}): convert it") from error
    if lines[0] != QRELS_HEADER:
        raise InvalidInputError(f"{path}:1: the header is {lines[0]!r}, need {QRELS_HEADER!r}")
    judgements: dict[str, dict[str, int]] = {}
    for number, line in enumerate(lines[1:], start=2):
        fields = line.split("\t")
        if len(fields) != 3 or not fields[2].isdecimal():
            raise InvalidInputError(f"{path}:{number}: {line!r}, need query-id, corpus-id and a score of 0 or more")
        query, document, score = fields
        if query not in queries or document not in documents:
            unknown = f"query {query!r}" if query not in queries else f"document {document!r}"
            raise InvalidInputError(f"{path}:{number}: the {unknown} is judged but not there: add it or drop the line")
        if document in judgements.setdefault(query, {}):
            raise InvalidInputError(f"{path}:{number}: {query!r} and {document!r} are judged twice: keep one line")
        judgements[query][document] = int(score)
    return judgements

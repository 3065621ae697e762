"""Benchmark data: how data sets are found in a folder, split, and read.

``formats.py`` has the formats of rows (JSON Lines, .jsonl or .jsonl.gz, UTF-8, one object a line); a retrieval set is
a folder of ``corpus.jsonl`` (``id``, ``text``, optionally ``title``), ``queries.jsonl`` (``id``, ``text``) and
``qrels.tsv`` (query-id, corpus-id, score, with that header line; 0 is not relevant).

The reading is strict, because a benchmark that drops rows measures something else: the first wrong row is an
error with its file and line. Only a whole file that holds other rows is passed over, and the suite says which.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ctxembed.errors import InvalidInputError
from ctxembed.evaluation.formats import SENSE_USES, USAGE_PAIRS, Format, load_records, recognise
from ctxembed.evaluation.jsonl import SUFFIXES, Row, load_rows
from ctxembed.evaluation.records import (
    BenchmarkSet,
    GradedSet,
    Judgements,
    Kind,
    RetrievalSet,
    SenseSet,
    SenseUse,
    Suite,
    TextSet,
    UsagePair,
    UsageSet,
)
from ctxembed.runtime import data_directory, existing
from ctxembed.text import word_form, word_forms
from ctxembed.types import Document

SPLITS = ("train", "dev", "test")
QRELS_HEADER = "query-id\tcorpus-id\tscore"
SHIPPED = ("words", "senses", "retrieval")
"""The kinds of which a set ships with the package."""


class _Part(NamedTuple):
    """A file of a task, and the format of its rows."""

    path: Path
    format: Format


def load_suite(kind: Kind, directory: Path | None = None, *, seed: int = 1) -> Suite:
    """Load every data set of one kind.

    The files ``train``, ``dev`` and ``test`` of a folder are the splits of one task. Scored is ``test`` where there is
    one, else ``dev``, else ``train``; a file of any other name is a task of its own. The threshold of a words task, and
    the uses of known sense, come from ``train``, else from ``dev`` where ``test`` is scored, else from half of the
    scored file.

    Args:
        kind: Which kind of data set.
        directory: A folder, searched with its subfolders, or (not for retrieval) one file; None takes the sets that
            ship with the package.
        seed: Deals words, documents or uses where a file has to be halved.

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
        for name, splits in sorted(_find_splits(directory, kind, skipped).items()):
            scored = next(split for split in ("test", "dev", "all", "train") if split in splits)
            for split in [split for split in splits if splits[split].format.shape != splits[scored].format.shape]:
                other = splits.pop(split).path
                skipped[_relative(other, directory)] = f"rows of another format than {splits[scored].path.name}"
            sets.append(_make_set(name, scored, splits, seed=seed))
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
    return load_records(path, USAGE_PAIRS)


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


def halves_of_uses(uses: Sequence[SenseUse], *, seed: int) -> tuple[list[SenseUse], list[SenseUse]]:
    """Deal uses at random into two halves: whole documents where they are named, else the uses of each sense.

    Args:
        uses: Uses with different ids.
        seed: Equal seeds deal equally, whatever the order of the uses.

    Returns:
        Two lists that share no document (or no use), in the order given.
    """
    generator = random.Random(seed)
    groups: dict[str, set[str]] = defaultdict(set)
    for use in uses:
        groups[_stratum(use)].add(use.document or use.id)
    first: set[tuple[str, str]] = set()
    for group in sorted(groups):
        members = sorted(groups[group])
        generator.shuffle(members)
        first |= {(group, member) for member in members[::2]}
    halves: tuple[list[SenseUse], list[SenseUse]] = ([], [])
    for use in uses:
        halves[(_stratum(use), use.document or use.id) not in first].append(use)
    if not halves[1]:
        raise InvalidInputError("the uses are of one document and cannot be halved: put a file named train beside them")
    return halves


def frequency_halves(suite: Suite, counts: Mapping[str, int]) -> Suite:
    """Part every set of word pairs in two: the pairs with the rarer words, and the others.

    Args:
        suite: Of graded pairs.
        counts: Occurrences of lookup forms; a pair is as rare as its rarest word, and a word that is missing is rarest.

    Returns:
        The same files, with two sets for each of two pairs or more.
    """
    halves: list[BenchmarkSet] = []
    for data in suite.sets:
        if not isinstance(data, GradedSet) or len(data.pairs) < 2:
            halves.append(data)
            continue
        words = [word_forms(f"{pair.first.word} {pair.second.word}") for pair in data.pairs]
        rarest = [min(counts.get(form, 0) for form in forms) for forms in words]
        order = sorted(range(len(rarest)), key=rarest.__getitem__)
        middle = len(order) // 2
        for name, places in (("rarer half", order[:middle]), ("commoner half", order[middle:])):
            pairs = [data.pairs[place] for place in sorted(places)]
            halves.append(replace(data, name=f"{data.name}, {name}", pairs=pairs))
    return replace(suite, sets=halves)


def _stratum(use: SenseUse) -> str:
    """Name what is dealt evenly: all documents together, or the uses of one sense of one word."""
    return "" if use.document else "\n".join([use.lemma, *sorted(use.senses)])


def _shipped_suite(kind: Kind, *, seed: int) -> Suite:
    root = data_directory()
    words = root / "benchmarks" / "word_in_context"
    if kind not in SHIPPED:
        what = "sentence pairs" if kind == "sentences" else "word pairs"
        raise InvalidInputError(f"no set of {what} ships with ctxembed: name a folder of your own with --data")
    if kind == "words":
        splits = {split: _Part(existing(words / f"{split}.jsonl"), USAGE_PAIRS) for split in ("dev", "test")}
        return Suite(kind, root, [_make_set(words.name, "test", splits, seed=seed)])
    if kind == "senses":
        uses = _Part(existing(words / "uses.jsonl"), SENSE_USES)
        return Suite(kind, root, [_make_set(words.name, "all", {"all": uses}, seed=seed)])
    folder = root / "benchmarks" / "retrieval"
    corpus, queries, qrels = root / "corpora" / "sample.jsonl", folder / "queries.jsonl", folder / "qrels.tsv"
    files = {"corpus": existing(corpus), "queries": existing(queries), "qrels": existing(qrels)}
    return Suite(kind, root, [load_retrieval(folder.name, **files)])


def _find_splits(root: Path, kind: Kind, skipped: dict[str, str]) -> dict[str, dict[str, _Part]]:
    """Group the files of one kind by task and split; a file with a name of its own has the split "all"."""
    tasks: dict[str, dict[str, _Part]] = {}
    for path in _data_files(root):
        chosen = recognise(path, kind)
        if isinstance(chosen, str):
            skipped[_relative(path, root)] = chosen
            continue
        split = _stem(path.name) if _stem(path.name) in SPLITS else "all"
        name = _stem(_relative(path, root)) if split == "all" else _folder_name(path.parent, root)
        task = tasks.setdefault(name, {})
        if split in task or (task and "all" in (split, *task)):
            other = next(iter(task.values())).path
            raise InvalidInputError(f"{other} and {path} would both be the task {name!r}: rename or remove one")
        task[split] = _Part(path, chosen)
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


def _make_set(name: str, scored: str, splits: Mapping[str, _Part], *, seed: int) -> BenchmarkSet:
    """Read what is scored, and what a threshold or the known senses come from."""
    part = splits[scored]
    records, shape = load_records(*part), part.format.shape
    if shape in ("scored texts", "labelled texts"):
        return TextSet(name, scored, records, (part.path,), is_binary=shape == "labelled texts")
    if shape == "graded pairs":
        return GradedSet(name, scored, records, (part.path,))
    make: Callable[..., BenchmarkSet] = UsageSet if shape == "usage pairs" else SenseSet
    halve: Callable[..., tuple[list[Any], list[Any]]] = (
        word_disjoint_halves if shape == "usage pairs" else halves_of_uses
    )
    other = next((split for split in ("train", "dev") if split in splits and split != scored), None)
    if other is None or scored == "all":
        tuning, rest = halve(records, seed=seed)
        return make(name, f"{scored}, half 2", rest, tuning, f"{scored}, half 1", (part.path,))
    files = (part.path, splits[other].path)
    return make(name, scored, records, load_records(*splits[other]), other, files)


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

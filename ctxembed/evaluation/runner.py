"""Runs systems over a suite, and turns the results into rows, comparisons, or a file that can be checked later."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ctxembed.errors import InvalidInputError
from ctxembed.evaluation.records import BenchmarkSet, GradedSet, RetrievalSet, SenseSet, Suite, TextSet, UsageSet
from ctxembed.evaluation.significance import (
    CONFIDENCE,
    RESAMPLES,
    PairedTest,
    bootstrap,
    holm,
    interval,
    paired_test,
)
from ctxembed.evaluation.tasks import (
    Ranker,
    TaskResult,
    evaluate_graded,
    evaluate_retrieval,
    evaluate_senses,
    evaluate_sentences,
    evaluate_words,
)
from ctxembed.runtime import environment, progress, sha256_file, write_json
from ctxembed.types import Scalar, TextEncoder, UsageEncoder

if TYPE_CHECKING:
    import pandas as pd

System: TypeAlias = TextEncoder | UsageEncoder | Ranker

FORMAT, VERSION = "ctxembed-bench", 2
BY_LAYER = ("words", "similarity", "senses")
"""The kinds whose vectors are those of words, which every layer has."""


@dataclass(frozen=True, slots=True)
class SystemResult:
    """One figure of one system; ``layer`` is None where the encoder chose."""

    system: str
    fingerprint: str
    layer: int | None
    result: TaskResult
    samples: NDArray[np.float64] = field(repr=False, compare=False)
    """The figure on resamples of the rows, (B,); those of two systems on one task are paired."""
    words: int | None = None
    """Words of the data set, each occurrence counted; None for a system that has no list of words."""
    unknown_words: int | None = None
    """How many of them the system has no vector for."""

    @property
    def label(self) -> str:
        """The system, and the layer where it was asked for."""
        return self.system if self.layer is None else f"{self.system} layer {self.layer}"

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % bootstrap interval of the figure."""
        return interval(self.samples)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One system against another on one figure; ``p_holm`` is corrected for all comparisons of the run."""

    task: str
    metric: str
    system: str
    against: str
    test: PairedTest
    p_holm: float


def run_suite(
    suite: Suite,
    systems: Sequence[System],
    *,
    layers: Sequence[int | None] = (None,),
    seed: int = 1,
    on_task: Callable[[SystemResult], None] | None = None,
) -> list[SystemResult]:
    """Evaluate every system on every data set.

    Args:
        suite: The data sets, of one kind.
        systems: Encoders, and for retrieval rankers; those that share a name are told apart by their fingerprint.
        layers: For words, similarity and senses: the layers to score, None being the encoder's own choice.
        seed: Decides the bootstrap resamples.
        on_task: Called with each result as soon as it is there.

    Returns:
        Results by system, data set and layer, in the order given.

    Raises:
        InvalidInputError: If there is no system, one is given twice or does not suit the kind, or layers are
            named for whole texts.
    """
    if suite.kind not in BY_LAYER and tuple(layers) != (None,):
        raise InvalidInputError(f"layers {list(layers)} are asked for {suite.kind}: only words are scored by layer")
    named = zip(system_names(systems), systems, strict=True)
    runs = [(name, system, data) for name, system in named for data in suite.sets]
    results = []
    for name, system, data in progress(runs, total=len(runs), label="bench", unit="task"):
        words, unknown = _unknown_words(system, data)
        for layer, result in _evaluate(system, data, layers):
            samples = bootstrap(result.outcomes, seed=seed)
            scored = SystemResult(name, system.fingerprint, layer, result, samples, words, unknown)
            results.append(scored)
            if on_task is not None:
                on_task(scored)
    return results


def compare_systems(results: Sequence[SystemResult], *, leading: int, seed: int = 1) -> list[Comparison]:
    """Test every leading system against all that come after it, figure by figure.

    Args:
        results: What ``run_suite`` returned.
        leading: How many of the systems, from the first on, are compared with others; baselines are not among them.
        seed: Decides the permutations.

    Returns:
        Comparisons with p-values corrected for their number by Holm's method.
    """
    labels = list(dict.fromkeys(each.label for each in results))
    leaders = list(dict.fromkeys(each.system for each in results))[:leading]
    figures: dict[tuple[str, str], dict[str, SystemResult]] = {}
    for each in results:
        figures.setdefault((each.result.task, each.result.metric), {})[each.label] = each
    found: list[tuple[SystemResult, SystemResult, PairedTest]] = []
    for by_label in figures.values():
        for place, label in enumerate(labels):
            for other in labels[place + 1 :]:
                if label in by_label and other in by_label and by_label[label].system in leaders:
                    pair = by_label[label], by_label[other]
                    found.append((*pair, _paired(*pair, seed=seed)))
    corrected = holm([test.p for _, _, test in found])
    return [
        Comparison(first.result.task, first.result.metric, first.label, second.label, test, p)
        for (first, second, test), p in zip(found, corrected, strict=True)
    ]


def result_rows(results: Sequence[SystemResult]) -> list[dict[str, Scalar]]:
    """Return one flat record for each figure: what a program reads on stdout."""
    rows: list[dict[str, Scalar]] = []
    for each in results:
        low, high = each.interval
        figure = {"system": each.label, "task": each.result.task, "metric": each.result.metric}
        numbers = {"value": each.result.value, "low": low, "high": high, "rows": each.result.rows}
        rows.append({**figure, **numbers, "coverage": each.result.coverage})
    return rows


def result_frame(results: Sequence[SystemResult]) -> pd.DataFrame:
    """Return a table of values: a row for each system and layer, a column for each data set and metric, in order."""
    import pandas as pd

    rows: dict[str, dict[str, float]] = {}
    for each in results:
        rows.setdefault(each.label, {})[f"{each.result.task} {each.result.metric}"] = each.result.value
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame.index.name = "system"
    return frame


def system_table(results: Sequence[SystemResult], metric: str) -> list[dict[str, str]]:
    """Return a metric's table as text: a row for each system, a column for each task.

    A cell is the value, its interval, and the share of words that the system has no vector for, where there are any.
    """
    chosen = [each for each in results if each.result.metric == metric]
    tasks = list(dict.fromkeys(each.result.task for each in chosen))
    table: dict[str, dict[str, str]] = {}
    for each in chosen:
        low, high = each.interval
        unknown = f" {each.unknown_words / each.words:.1%} unknown" if each.unknown_words and each.words else ""
        row = table.setdefault(each.label, {"system": each.label} | dict.fromkeys(tasks, ""))
        row[each.result.task] = f"{each.result.value:.3f} [{low:.3f}, {high:.3f}]{unknown}"
    return list(table.values())


def task_notes(results: Sequence[SystemResult]) -> list[str]:
    """Say of each figure which rows it is of, where its threshold comes from, and what the intervals draw."""
    notes: dict[str, dict[str, None]] = {}
    for result in (each.result for each in results):
        origin = "" if result.threshold_from is None else f", known senses from {result.threshold_from}"
        if result.threshold is not None:
            origin = f", threshold from {result.threshold_from}"
        said = f"{result.rows} rows of {result.split}{origin}; intervals draw each {result.outcomes.unit}"
        notes.setdefault(f"{result.task}: {said}", {})[result.metric] = None
    return [f"{', '.join(metrics)} of {note}" for note, metrics in notes.items()]


def write_results(
    path: Path,
    results: Sequence[SystemResult],
    *,
    suite: Suite,
    seed: int,
    comparisons: Sequence[Comparison] = (),
    conditions: Mapping[str, Mapping[str, Scalar]] | None = None,
) -> None:
    """Write results as JSON, with what is needed to repeat them: versions, seed, fingerprints, hashes of the data.

    Args:
        path: The file; it is replaced in one step.
        results: What ``run_suite`` returned.
        suite: What it ran on; files are named relative to its root.
        seed: The seed with which the suite was loaded.
        comparisons: What ``compare_systems`` returned.
        conditions: Number format and other settings of a system, by its name.
    """
    content: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "kind": suite.kind,
        "seed": seed,
        "resamples": RESAMPLES,
        "confidence": CONFIDENCE,
        "environment": environment(),
        "systems": {each.system: each.fingerprint for each in results},
        "conditions": conditions or {},
        "data": {
            data.name: {_inside(file, suite.root): sha256_file(file) for file in data.files} for data in suite.sets
        },
        "skipped": dict(suite.skipped),
        "results": [{**row, **_provenance(each)} for row, each in zip(result_rows(results), results, strict=True)],
        "comparisons": [comparison_row(each) for each in comparisons],
    }
    write_json(path, content)


def comparison_row(each: Comparison) -> dict[str, Scalar]:
    """Return a comparison as one flat record."""
    names = {"task": each.task, "metric": each.metric, "system": each.system, "against": each.against}
    return {**names, **asdict(each.test), "p_holm": each.p_holm}


def _provenance(each: SystemResult) -> dict[str, Scalar]:
    """Return what a figure rests on beside its value."""
    return {
        "layer": each.layer,
        "split": each.result.split,
        "threshold": each.result.threshold,
        "threshold_from": each.result.threshold_from,
        "resampled_by": each.result.outcomes.unit,
        "words": each.words,
        "unknown_words": each.unknown_words,
    }


def _paired(first: SystemResult, second: SystemResult, *, seed: int) -> PairedTest:
    return paired_test(
        first.result.outcomes,
        second.result.outcomes,
        (first.samples, second.samples),
        difference=first.result.value - second.result.value,
        seed=seed,
    )


def _evaluate(
    system: System, data: BenchmarkSet, layers: Sequence[int | None]
) -> Iterator[tuple[int | None, TaskResult]]:
    if isinstance(data, RetrievalSet) and isinstance(system, Ranker):
        for result in evaluate_retrieval(system, data):
            yield None, result
    elif isinstance(system, Ranker):
        raise InvalidInputError(f"{system.name} ranks documents for queries: name it for `bench retrieval` only")
    elif isinstance(data, UsageSet | GradedSet | SenseSet):
        if not isinstance(system, UsageEncoder):
            raise InvalidInputError(f"{system.name} gives no vectors of words in context, which {data.name!r} needs")
        for layer in layers:
            for result in _evaluate_usages(system, data, layer):
                yield layer, result
    elif not isinstance(system, TextEncoder):
        raise InvalidInputError(f"{system.name} gives no vectors of texts, which {data.name!r} needs")
    elif isinstance(data, TextSet):
        yield None, evaluate_sentences(system, data)
    else:
        for result in evaluate_retrieval(system, data):
            yield None, result


def _evaluate_usages(
    encoder: UsageEncoder, data: UsageSet | GradedSet | SenseSet, layer: int | None
) -> Sequence[TaskResult]:
    if isinstance(data, UsageSet):
        return [evaluate_words(encoder, data, layer=layer)]
    if isinstance(data, GradedSet):
        return evaluate_graded(encoder, data, layer=layer)
    return [evaluate_senses(encoder, data, layer=layer)]


def _unknown_words(system: System, data: BenchmarkSet) -> tuple[int | None, int | None]:
    """Count the words of a data set, and those of them that a system with a list of words does not have."""
    count = getattr(system, "coverage", None)  # encoders read any word
    if count is None:
        return None, None
    found = count(data.words())
    return found.known + found.unknown, found.unknown


def system_names(encoders: Sequence[System]) -> list[str]:
    """Name every system differently: by its name, and where that is shared by its fingerprint too."""
    if not encoders:
        raise InvalidInputError("no model is named: give at least one with --model")
    shared = Counter(encoder.name for encoder in encoders)
    names = [
        encoder.name if shared[encoder.name] == 1 else f"{encoder.name}@{encoder.fingerprint[:8]}"
        for encoder in encoders
    ]
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise InvalidInputError(f"the model {twice} is given twice: name each once")
    return names


def _inside(file: Path, root: Path) -> str:
    return file.name if root.is_file() else file.relative_to(root).as_posix()

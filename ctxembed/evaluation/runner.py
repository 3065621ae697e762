"""Runs encoders over a suite, and turns the results into rows, a table, or a file that can be checked later."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ctxembed.errors import InvalidInputError
from ctxembed.evaluation.datasets import BenchmarkSet, RetrievalSet, Suite, TextSet, UsageSet
from ctxembed.evaluation.tasks import TaskResult, evaluate_retrieval, evaluate_sentences, evaluate_words
from ctxembed.runtime import environment, progress, sha256_file, write_json
from ctxembed.types import Scalar, TextEncoder, UsageEncoder

if TYPE_CHECKING:
    import pandas as pd

AnyEncoder: TypeAlias = TextEncoder | UsageEncoder


@dataclass(frozen=True, slots=True)
class SystemResult:
    """One figure of one system; ``layer`` is None where the encoder chose."""

    system: str
    fingerprint: str
    layer: int | None
    result: TaskResult


def run_suite(
    suite: Suite,
    encoders: Sequence[AnyEncoder],
    *,
    layers: Sequence[int | None] = (None,),
    on_task: Callable[[SystemResult], None] | None = None,
) -> list[SystemResult]:
    """Evaluate every encoder on every data set.

    Args:
        suite: The data sets, of one kind.
        encoders: The systems; those that share a name are told apart by their fingerprint.
        layers: For words: the layers to score, None being the encoder's own choice.
        on_task: Called with each result as soon as it is there.

    Returns:
        Results by system, data set and layer, in the order given.

    Raises:
        InvalidInputError: If there is no encoder, one is given twice or does not suit the kind, or layers are
            named for anything but words.
    """
    if suite.kind != "words" and tuple(layers) != (None,):
        raise InvalidInputError(f"layers {list(layers)} are asked for {suite.kind}: only words are scored by layer")
    named = zip(_system_names(encoders), encoders, strict=True)
    runs = [(system, encoder, data) for system, encoder in named for data in suite.sets]
    results = []
    for system, encoder, data in progress(runs, total=len(runs), label="bench", unit="task"):
        for layer, result in _evaluate(encoder, data, layers):
            scored = SystemResult(system, encoder.fingerprint, layer, result)
            results.append(scored)
            if on_task is not None:
                on_task(scored)
    return results


def result_rows(results: Sequence[SystemResult]) -> list[dict[str, Scalar]]:
    """Return one flat record for each result: system, layer, and the fields of its TaskResult."""
    return [{"system": each.system, "layer": each.layer, **asdict(each.result)} for each in results]


def result_frame(results: Sequence[SystemResult]) -> pd.DataFrame:
    """Return a table of values: a row for each system and layer, a column for each data set and metric, in order."""
    import pandas as pd

    rows: dict[str, dict[str, float]] = {}
    for each in results:
        label = each.system if each.layer is None else f"{each.system} layer {each.layer}"
        rows.setdefault(label, {})[f"{each.result.task} {each.result.metric}"] = each.result.value
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame.index.name = "system"
    return frame


def write_results(path: Path, results: Sequence[SystemResult], *, suite: Suite, seed: int) -> None:
    """Write results as JSON, with what is needed to repeat them: versions, seed, fingerprints, hashes of the data.

    Args:
        path: The file; it is replaced in one step.
        results: What ``run_suite`` returned.
        suite: What it ran on; files are named relative to its root.
        seed: The seed with which the suite was loaded.
    """
    content: dict[str, Any] = {
        "format": "ctxembed-bench",
        "version": 1,
        "kind": suite.kind,
        "seed": seed,
        "environment": environment(),
        "systems": {each.system: each.fingerprint for each in results},
        "data": {
            data.name: {_inside(file, suite.root): sha256_file(file) for file in data.files} for data in suite.sets
        },
        "skipped": dict(suite.skipped),
        "results": result_rows(results),
    }
    write_json(path, content)


def _evaluate(
    encoder: AnyEncoder, data: BenchmarkSet, layers: Sequence[int | None]
) -> Iterator[tuple[int | None, TaskResult]]:
    if isinstance(data, UsageSet):
        if not isinstance(encoder, UsageEncoder):
            raise InvalidInputError(f"{encoder.name} gives no vectors of words in context, which {data.name!r} needs")
        for layer in layers:
            yield layer, evaluate_words(encoder, data, layer=layer)
        return
    if not isinstance(encoder, TextEncoder):
        raise InvalidInputError(f"{encoder.name} gives no vectors of texts, which {data.name!r} needs")
    if isinstance(data, TextSet):
        yield None, evaluate_sentences(encoder, data)
    elif isinstance(data, RetrievalSet):
        for result in evaluate_retrieval(encoder, data):
            yield None, result


def _system_names(encoders: Sequence[AnyEncoder]) -> list[str]:
    """Name every encoder differently: by its name, and where that is shared by its fingerprint too."""
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

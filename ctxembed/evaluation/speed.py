"""How fast text becomes sentence vectors, beside other libraries with the same weights, in one run and in turns.

Letters: N texts, C calls (one for all texts, or one for each text), R rounds, D width.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from ctxembed.config import check
from ctxembed.embedder import Embedder, OnLong
from ctxembed.errors import ArtifactError
from ctxembed.evaluation.peers import Contender, peer_versions
from ctxembed.evaluation.utilisation import Utilisation, cpu_capability, measure_utilisation
from ctxembed.evaluation.workloads import AS_THEY_ARE, Workload, shortened, workload_texts
from ctxembed.runtime import environment, write_json
from ctxembed.types import Scalar, Vectors

if TYPE_CHECKING:
    from ctxembed.model.checkpoint import Checkpoint

Seconds: TypeAlias = NDArray[np.float64]
FLOAT32, COMPILED = "ctxembed-float32", "ctxembed-compiled"
OTHER_WAYS = (FLOAT32, COMPILED)
"""Other ways to run the first model: our engine in float32, and the plain encoder through torch.compile."""
CHECKED = 64
"""Titles on which contenders must agree before anything is timed."""
AGREEMENT = {"float32": 0.999}
"""Lowest mean cosine with our float32 vectors at which weights are taken to be the same, by precision."""
ROUGH_AGREEMENT = 0.9


@dataclass(frozen=True, kw_only=True)
class SpeedTrial:
    """What every contender does."""

    workloads: tuple[Workload, ...] = ("mixed", "query")
    """Kinds of texts."""
    rows: int = 1000
    """Texts of mixed, titles and texts; a hundredth of that are documents, a twentieth queries."""
    repeats: int = 3
    """Timed rounds, after one to warm up; in each, everybody has a turn, and another one begins."""
    seed: int = 1
    """Decides lengths and order of the texts."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.workloads if name not in get_args(Workload)]
        check(not unknown, f"workload {unknown}: choose from {', '.join(get_args(Workload))}")
        check(self.rows >= 1, f"rows = {self.rows}: must be at least 1")
        check(self.repeats >= 1, f"repeats = {self.repeats}: must be at least 1")


@dataclass(frozen=True, slots=True)
class EncodingSpeed:
    """One contender's figures on one workload."""

    workload: str
    system: str
    model: str
    precision: str
    texts: int
    tokens_read: float
    """Of a text, on average, special tokens included, as our tokenizer counts them; padding and overlap are not."""
    sentences_per_second: float
    """Median over rounds."""
    lowest: float
    highest: float
    tokens_per_second: float
    """Median over rounds."""
    ratio: float
    """How many times as fast the first model's own run is: median over rounds of the two times of a round."""
    cores: float
    """How many were kept busy, the least of the rounds: few where something else ran on the machine."""
    min_cosine: float | None
    """With the float32 vectors of our own engine, over all texts; None where others are cut at another length."""
    mean_cosine: float | None
    latency_ms: float | None
    """Median over all calls of one text; None where texts come together."""
    latency_p95_ms: float | None
    utilisation: Utilisation | None
    """Of our own engine."""


@dataclass(frozen=True, slots=True)
class Timing:
    """What a contender did: its vectors, and the time of each call."""

    vectors: Vectors
    """float32 (N, D)."""
    seconds: Seconds
    """(R, C)."""
    cpu_seconds: Seconds
    """Of all threads of this process, (R, C)."""

    @property
    def rounds(self) -> Seconds:
        """The time of each round, (R,)."""
        total: Seconds = self.seconds.sum(axis=1)
        return total


# Statistics


def turns(count: int, round_number: int) -> list[int]:
    """Return who runs when in a round: everybody once, in a fixed order that another one begins each time.

    >>> turns(3, 0), turns(3, 1)
    ([0, 1, 2], [1, 2, 0])
    """
    return [(round_number + place) % count for place in range(count)]


def times_as_fast(own: Seconds, other: Seconds) -> float:
    """Return the median over rounds (R,) of the other's time by our own.

    >>> times_as_fast(np.array([1.0, 1.0, 2.0]), np.array([3.0, 2.0, 8.0]))
    3.0
    """
    return float(np.median(other / own))


def row_cosines(left: Vectors, right: Vectors) -> NDArray[np.float64]:
    """Return the cosine of each row with its counterpart, (N,) in [-1, 1]; of two zero rows 1, of one 0.

    >>> row_cosines(np.array([[2, 0], [0, 0]]), np.array([[1, 0], [0, 0]])).tolist()
    [1.0, 1.0]
    """
    a, b = (np.asarray(each, dtype=np.float64) for each in (left, right))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines: NDArray[np.float64] = np.equal(a.any(axis=1), b.any(axis=1)).astype(np.float64)
    np.divide((a * b).sum(axis=1), norms, out=cosines, where=norms > 0)
    return cosines


# Runs


def calls_of(workload: Workload, texts: Sequence[str]) -> list[list[str]]:
    """Return what is handed over at a time: all texts together, or each query alone."""
    return [[text] for text in texts] if workload == "query" else [list(texts)]


def race(
    contenders: Sequence[Contender],
    calls: Sequence[Sequence[str]],
    *,
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
    cpu_clock: Callable[[], float] = time.process_time,
) -> list[Timing]:
    """Let every contender encode the texts once to warm up, then in turns, and take the times.

    Args:
        contenders: At least one.
        calls: The texts of each of C calls.
        repeats: R rounds.
        clock: Tells seconds.
        cpu_clock: Tells seconds that the process has computed.

    Returns:
        What each did, in the order given; vectors are those of the warm-up.
    """
    alone = len(calls) > 1
    runs = [(each.encode_query or each.encode) if alone else each.encode for each in contenders]
    vectors = [np.concatenate([run(call) for call in calls]) for run in runs]
    seconds, cpu_seconds = np.zeros((2, len(runs), repeats, len(calls)))
    for number in range(repeats):
        for turn in turns(len(runs), number):
            for place, call in enumerate(calls):
                start, cpu_start = clock(), cpu_clock()
                runs[turn](call)
                seconds[turn, number, place] = clock() - start
                cpu_seconds[turn, number, place] = cpu_clock() - cpu_start
    return [Timing(*each) for each in zip(vectors, seconds, cpu_seconds, strict=True)]


def check_agreement(contender: Contender, reference: Vectors, texts: Sequence[str]) -> None:
    """Refuse a contender that runs another model.

    Args:
        contender: Who is checked.
        reference: Our float32 vectors (N, D) of the texts.
        texts: Short ones, so that nobody cuts them.

    Raises:
        ArtifactError: If the mean cosine is too low for its precision, or the width is another.
    """
    vectors = contender.encode(texts)
    if vectors.shape != reference.shape:
        raise ArtifactError(
            f"{contender.system} gives {vectors.shape[1]} dimensions with the weights of {contender.model}, "
            f"our model {reference.shape[1]}: give --weights with the folder that the model was imported from"
        )
    mean, need = float(row_cosines(vectors, reference).mean()), AGREEMENT.get(contender.precision, ROUGH_AGREEMENT)
    if not mean >= need:
        raise ArtifactError(
            f"{contender.system} with the weights of {contender.model} has a mean cosine of {mean:.4f} with our "
            f"vectors, the same model has at least {need}: give --weights with the folder that it was imported from"
        )


class OwnModel:
    """A model of ours in the number formats and ways of reading that are compared."""

    def __init__(self, checkpoint: Checkpoint, label: str) -> None:
        self.checkpoint, self.label = checkpoint, label
        self._embedders: dict[tuple[str, OnLong], Embedder] = {}

    def embedder(self, dtype: str, on_long: OnLong) -> Embedder:
        """Return the embedder, made when it is first asked for."""
        key = dtype, on_long
        if key not in self._embedders:
            self._embedders[key] = Embedder(self.checkpoint, device="cpu", dtype=dtype, on_long=on_long)
        return self._embedders[key]

    def contender(self, system: str, dtype: str = "auto", on_long: OnLong = "window") -> Contender:
        """Return the contender of one way to run it."""
        import torch

        from ctxembed.model.device import choose_dtype

        number_format = choose_dtype(dtype, torch.device("cpu"))
        return Contender(
            system=system,
            model=self.label,
            precision=str(number_format).removeprefix("torch."),
            encode=self.embedder(dtype, on_long).encode,
            limit=self.checkpoint.encoder.config.max_length,
            whole=on_long == "window",
            own=True,
        )

    def compiled(self) -> Contender:
        """Return the plain encoder as torch.compile makes it, in the number format of ``auto``."""
        import torch

        from ctxembed.evaluation.compiled import compiled_encode
        from ctxembed.model.device import choose_dtype

        dtype = choose_dtype("auto", torch.device("cpu"))
        return Contender(
            system=COMPILED,
            model=self.label,
            precision=str(dtype).removeprefix("torch."),
            encode=compiled_encode(self.checkpoint, dtype),
            limit=self.checkpoint.encoder.config.max_length,
        )

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """Count the tokens of each text, special tokens included."""
        return [len(ids) + 2 for ids in self.checkpoint.tokenizer.encode_ids(texts)]


def own_models(checkpoints: Sequence[Checkpoint]) -> list[OwnModel]:
    """Name models differently: by their names, and where these are shared by their fingerprints too."""
    shared = Counter(each.name for each in checkpoints)
    names = [each.name if shared[each.name] == 1 else f"{each.name}@{each.fingerprint[:8]}" for each in checkpoints]
    twice = [name for name, count in Counter(names).items() if count > 1]
    check(not twice, f"the model {', '.join(twice)} is given twice: name each once")
    return [OwnModel(each, name) for each, name in zip(checkpoints, names, strict=True)]


def compare_speed(
    models: Sequence[OwnModel],
    peers: Sequence[Contender],
    sentences: Sequence[str],
    *,
    trial: SpeedTrial,
    ways: Sequence[str] = (),
    tell: Callable[[str], None],
) -> Iterator[EncodingSpeed]:
    """Time everybody on each workload.

    Args:
        models: Ours; the first is what others are compared with.
        peers: With the weights of the first.
        sentences: What texts are cut from, or the texts themselves.
        trial: What is done.
        ways: Some of ``OTHER_WAYS``.
        tell: Called with a line when a workload begins.

    Raises:
        ArtifactError: Before anything is timed, if a peer runs another model.
        MissingLibraryError: If the plain encoder is to be compiled and there is no C++ compiler.
    """
    first = models[0]
    if COMPILED in ways:
        peers = [first.compiled(), *peers]
    titles = workload_texts("titles", sentences, rows=CHECKED, seed=trial.seed)
    expected = first.embedder("float32", "window").encode(titles)
    for peer in peers:
        check_agreement(peer, expected, titles)
    own = [(model, model.contender("ctxembed")) for model in models]
    if FLOAT32 in ways:
        own.insert(1, (first, first.contender(FLOAT32, "float32")))
    for workload in trial.workloads:
        texts = workload_texts(workload, sentences, rows=trial.rows, seed=trial.seed)
        entered = list(own)
        if workload in AS_THEY_ARE:
            cut = [(model, model.contender("ctxembed-truncated", on_long="truncate")) for model in models]
            entered += cut
        elif peers:
            texts = shortened(texts, first.token_counts, min(peer.limit for peer in peers))
        entered += [(first, peer) for peer in peers]
        tell(f"{workload}: {len(texts):,} texts, {len(entered)} systems, {1 + trial.repeats} rounds")
        yield from _compare(workload, texts, entered, trial)


def _compare(
    workload: Workload, texts: Sequence[str], entered: Sequence[tuple[OwnModel, Contender]], trial: SpeedTrial
) -> Iterator[EncodingSpeed]:
    contenders = [contender for _, contender in entered]
    calls = calls_of(workload, texts)
    timings = race(contenders, calls, repeats=trial.repeats)
    references: dict[tuple[str, OnLong], Vectors] = {}
    for (model, contender), timing in zip(entered, timings, strict=True):
        lengths = np.array(model.token_counts(texts))
        whole = contender.whole or bool((lengths <= contender.limit).all())
        cosines = None
        if whole or contender.limit == model.checkpoint.encoder.config.max_length:
            key: tuple[str, OnLong] = (model.label, "window" if whole else "truncate")
            if key not in references:
                references[key] = model.embedder("float32", key[1]).encode(texts)
            cosines = row_cosines(timing.vectors, references[key])
        # Who cuts is compared with our own run that cuts, where there is one.
        base = next((n for n, each in enumerate(contenders) if each.own and each.whole == contender.whole), 0)
        yield _speed(
            workload,
            contender,
            timing,
            tokens_read=(lengths if whole else np.minimum(lengths, contender.limit)).mean(),
            ratio=times_as_fast(timings[base].rounds, timing.rounds),
            cosines=cosines,
            utilisation=measure_utilisation(model.checkpoint, contender, calls, timing.rounds)
            if contender.own
            else None,
        )


def _speed(
    workload: Workload,
    contender: Contender,
    timing: Timing,
    *,
    tokens_read: float,
    ratio: float,
    cosines: NDArray[np.float64] | None,
    utilisation: Utilisation | None,
) -> EncodingSpeed:
    speed = len(timing.vectors) / timing.rounds
    latencies = timing.seconds * 1e3 if workload == "query" else None
    return EncodingSpeed(
        workload=workload,
        system=contender.system,
        model=contender.model,
        precision=contender.precision,
        texts=len(timing.vectors),
        tokens_read=float(tokens_read),
        sentences_per_second=float(np.median(speed)),
        lowest=float(speed.min()),
        highest=float(speed.max()),
        tokens_per_second=float(np.median(speed)) * float(tokens_read),
        ratio=ratio,
        cores=float((timing.cpu_seconds.sum(axis=1) / timing.rounds).min()),
        min_cosine=None if cosines is None else float(cosines.min()),
        mean_cosine=None if cosines is None else float(cosines.mean()),
        latency_ms=None if latencies is None else float(np.median(latencies)),
        latency_p95_ms=None if latencies is None else float(np.quantile(latencies, 0.95)),
        utilisation=utilisation,
    )


def speed_rows(results: Sequence[EncodingSpeed]) -> list[dict[str, Scalar]]:
    """Return one flat record for each result, without the profile."""
    rows = []
    for each in results:
        row = asdict(each)
        used: dict[str, Any] = row.pop("utilisation") or {}
        names = ("tokenization_share", "gigaflops", "machine_gigaflops")
        rows.append({**row, **{name: used.get(name) for name in names}})
    return rows


def write_speed(
    path: Path,
    results: Sequence[EncodingSpeed],
    *,
    models: Sequence[OwnModel],
    trial: SpeedTrial,
    inputs: Sequence[str],
) -> None:
    """Write results as JSON, with what is needed to repeat them: versions, seed, fingerprints, the processor."""
    content: dict[str, Any] = {
        "format": "ctxembed-bench-speed",
        "version": 1,
        "trial": asdict(trial),
        "inputs": list(inputs),
        "models": {each.label: each.checkpoint.fingerprint for each in models},
        "environment": environment(),
        "cpu": cpu_capability(),
        "libraries": peer_versions(),
        "results": [asdict(each) for each in results],
    }
    write_json(path, content)

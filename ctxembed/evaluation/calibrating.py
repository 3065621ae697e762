"""The calibration of an encoder: its curve from the shipped benchmark's dev half, reliability from the test half.

The curve, and the mean cosine of words of one sense, are computed once for a model, layer and dev half, and kept in the
cache folder; where that cannot be written they are computed each time.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ctxembed import runtime
from ctxembed.calibration import (
    Calibration,
    ReliabilityBin,
    expected_calibration_error,
    random_similarities,
    reliability,
)
from ctxembed.errors import InvalidInputError
from ctxembed.evaluation.datasets import load_usage_pairs
from ctxembed.evaluation.records import UsagePair
from ctxembed.evaluation.tasks import pair_similarity
from ctxembed.meaning.clusters import mean_cosine
from ctxembed.runtime import cache_directory, existing, sha256_file, sha256_text, write_json
from ctxembed.types import Usage, UsageEncoder, Vectors

T = TypeVar("T")

FITTED_ON = "word_in_context dev"
MEASURED_ON = "word_in_context test"


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """How far the probabilities of one encoder can be trusted."""

    system: str
    fingerprint: str
    layer: int | None
    """The layer that was read; None for the encoder's own choice."""
    fitted_on: str
    measured_on: str
    pairs: int
    """Measured pairs that have vectors."""
    coverage: float
    """Their share of all pairs, in [0, 1]."""
    slope: float
    intercept: float
    threshold: float | None
    """The similarity from which on the same sense is the likelier one; None if similarity tells nothing."""
    accuracy: float
    """Share of measured pairs on the right side of the threshold, in [0, 1]; an even probability counts as one half."""
    brier: float
    """Mean squared distance of probability and truth, in [0, 1]; .25 for somebody who always says one half."""
    expected_calibration_error: float
    bins: tuple[ReliabilityBin, ...]


def calibrate(encoder: UsageEncoder, *, layer: int | None = None, background: Vectors | None = None) -> Calibration:
    """Return the scale of an encoder's similarities between uses of a word.

    Args:
        encoder: Makes the vectors.
        layer: Where they are read; the encoder's choice by default.
        background: float32 (M, D), L2-normalised: uses whose random pairs give the percentiles; none without.

    Returns:
        The curve of the shipped dev half with the quantiles of the background.

    Raises:
        InvalidInputError: If the encoder knows none of the words.
    """
    dev = existing(_half("dev"))

    def fit() -> Calibration:
        similarities, same, _ = _scored(encoder, load_usage_pairs(dev), layer=layer)
        return Calibration.fit(similarities, same, fitted_on=FITTED_ON)

    path = _place("calibration 1", encoder, layer, dev)
    curve = _kept(path, fit, read=Calibration.from_record, write=Calibration.record)
    if background is None:
        return curve
    return replace(curve, quantiles=Calibration.of_background(random_similarities(background)).quantiles)


def one_sense_cosine(encoder: UsageEncoder, *, layer: int | None = None) -> float | None:
    """Return the mean cosine of a word's uses that tells words of one sense from words of two.

    The uses of each sense of the dev half's words are taken as a word of one sense, and all uses of each as a word of
    two. The value is right about both kinds most often, each kind weighing as much.

    Args:
        encoder: Makes the vectors.
        layer: Where they are read; the encoder's choice by default.

    Returns:
        A cosine between two observed ones; None if none tells the kinds apart better than chance.
    """
    uses = existing(_half("uses"))
    dev = {pair.word for pair in load_usage_pairs(existing(_half("dev")))}

    def find() -> float | None:
        rows = [row for row in map(json.loads, uses.read_text(encoding="utf-8").splitlines()) if row["word"] in dev]
        vectors = encoder.encode_usages([Usage(row["text"], row["start"], row["end"]) for row in rows], layer=layer)
        known = np.flatnonzero(vectors.any(axis=1))
        senses, words = ([rows[n][name] for n in known] for name in ("sense", "word"))
        return _between(*(_mean_cosines(vectors[known], groups) for groups in (words, senses)))

    path = _place("one sense 1", encoder, layer, uses, existing(_half("dev")))
    return _kept(path, find, read=_read_cosine, write=lambda cosine: {"cosine": cosine})


def measure_reliability(encoder: UsageEncoder, *, layer: int | None = None, num_bins: int = 10) -> Reliability:
    """Measure on the shipped test half what the curve of the dev half is worth; the halves share no word.

    Args:
        encoder: Makes the vectors.
        layer: Where they are read; the encoder's choice by default.
        num_bins: Bins of equal width over the probabilities.
    """
    curve = calibrate(encoder, layer=layer)
    similarities, same, coverage = _scored(encoder, load_usage_pairs(existing(_half("test"))), layer=layer)
    probability = curve.probability(similarities)
    bins = reliability(probability, same, num_bins=num_bins)
    right = np.where(probability == 0.5, 0.5, (probability > 0.5) == same)
    return Reliability(
        system=encoder.name,
        fingerprint=encoder.fingerprint,
        layer=layer,
        fitted_on=FITTED_ON,
        measured_on=MEASURED_ON,
        pairs=len(same),
        coverage=coverage,
        slope=curve.slope or 0.0,
        intercept=curve.intercept or 0.0,
        threshold=curve.threshold,
        accuracy=float(right.mean()),
        brier=float(np.mean((probability - same) ** 2)),
        expected_calibration_error=expected_calibration_error(bins),
        bins=tuple(bins),
    )


def _half(name: str) -> Path:
    return runtime.data_directory() / "benchmarks" / "word_in_context" / f"{name}.jsonl"


def _place(what: str, encoder: UsageEncoder, layer: int | None, *data: Path) -> Path:
    """Return the file of the cache for something that was found about an encoder on some data."""
    key = sha256_text(what, encoder.fingerprint, str(layer), *map(sha256_file, data))
    return cache_directory() / "calibration" / f"{key[:32]}.json"


def _kept(path: Path, find: Callable[[], T], *, read: Callable[[Any], T], write: Callable[[T], Mapping[str, Any]]) -> T:
    """Read what the cache has; find it, and keep it, if it is not there or not whole."""
    with contextlib.suppress(OSError, ValueError):
        return read(json.loads(path.read_text(encoding="utf-8")))
    found = find()
    with contextlib.suppress(OSError):  # a cache that cannot be written is done without
        write_json(path, dict(write(found)))
    return found


def _read_cosine(record: Any) -> float | None:
    if not isinstance(record, dict) or not isinstance(record.get("cosine"), float | None):
        raise InvalidInputError(f"{record!r} has no cosine")
    cosine: float | None = record["cosine"]
    return cosine


def _mean_cosines(vectors: Vectors, groups: Sequence[str]) -> NDArray[np.float64]:
    """Return the mean cosine of the pairs within each group of two or more, of unit vectors (N, D) in groups (N,)."""
    names, numbers, sizes = np.unique(np.asarray(groups, dtype=str), return_inverse=True, return_counts=True)
    return np.array([mean_cosine(vectors[numbers == number]) for number in range(len(names)) if sizes[number] > 1])


def _between(low: NDArray[np.float64], high: NDArray[np.float64]) -> float | None:
    """Return the value that parts two samples with the fewest mistakes, each sample weighing as much.

    >>> _between(np.array([0.1, 0.2, 0.6]), np.array([0.4, 0.7, 0.8])).__round__(2)
    0.3
    """
    values = np.unique(np.concatenate([low, high]).round(6))
    cuts = (values[1:] + values[:-1]) / 2
    right = [(low < cut).mean() + (high >= cut).mean() for cut in cuts] if len(low) and len(high) else []
    if not right or max(right) <= 1:
        return None
    return float(cuts[int(np.argmax(right))])


def _scored(
    encoder: UsageEncoder, pairs: Sequence[UsagePair], *, layer: int | None
) -> tuple[NDArray[np.float64], NDArray[np.bool_], float]:
    """Return cosine and label of each pair that has vectors, and the share of those."""
    cosines, known = pair_similarity(
        [pair.first for pair in pairs],
        [pair.second for pair in pairs],
        encode=lambda usages: encoder.encode_usages(list(usages), layer=layer),
    )
    if not known.any():
        raise InvalidInputError(f"{encoder.name} has no vectors for the words of the benchmark: leave calibration out")
    return cosines[known].clip(-1, 1), np.array([pair.label for pair in pairs], dtype=bool)[known], float(known.mean())

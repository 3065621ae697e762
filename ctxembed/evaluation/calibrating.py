"""The calibration of an encoder: its curve from the shipped benchmark's dev half, reliability from the test half.

The curve is computed once for a model, layer and dev half, and kept in the cache folder; where that cannot be
written it is computed each time.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

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
from ctxembed.runtime import cache_directory, existing, sha256_file, sha256_text, write_json
from ctxembed.types import UsageEncoder, Vectors

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
    key = sha256_text("calibration 1", encoder.fingerprint, str(layer), sha256_file(dev))
    path = cache_directory() / "calibration" / f"{key[:32]}.json"
    curve = _kept(path)
    if curve is None:
        similarities, same, _ = _scored(encoder, load_usage_pairs(dev), layer=layer)
        curve = Calibration.fit(similarities, same, fitted_on=FITTED_ON)
        with contextlib.suppress(OSError):  # a cache that cannot be written is done without
            write_json(path, curve.record())
    if background is None:
        return curve
    return replace(curve, quantiles=Calibration.of_background(random_similarities(background)).quantiles)


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


def _kept(path: Path) -> Calibration | None:
    """Read a curve of the cache; None if it is not there or not whole, which is only worth computing again."""
    try:
        return Calibration.from_record(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def _scored(
    encoder: UsageEncoder, pairs: Sequence[UsagePair], *, layer: int | None
) -> tuple[NDArray[np.float64], NDArray[np.bool_], float]:
    """Return cosine and label of each pair that has vectors, and the share of those."""
    sides = [pair.first for pair in pairs], [pair.second for pair in pairs]
    places = {usage: place for place, usage in enumerate(dict.fromkeys(sides[0] + sides[1]))}
    vectors = encoder.encode_usages(list(places), layer=layer)
    first, second = (vectors[[places[usage] for usage in side]] for side in sides)
    known = first.any(axis=1) & second.any(axis=1)
    if not known.any():
        raise InvalidInputError(f"{encoder.name} has no vectors for the words of the benchmark: leave calibration out")
    cosines = np.einsum("nd,nd->n", first[known], second[known]).astype(np.float64).clip(-1, 1).round(6)
    return cosines, np.array([pair.label for pair in pairs], dtype=bool)[known], float(known.mean())

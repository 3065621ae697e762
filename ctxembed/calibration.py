"""What a similarity is worth: its percentile among random pairs, and the probability that a word means the same.

Cosines of two models, or of two layers of one, are not on one scale: what is near in one is common in another.
Letters: N similarities, B bins, M vectors, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ctxembed.config import check
from ctxembed.errors import InvalidInputError
from ctxembed.types import Vectors

NUM_QUANTILES = 1001
"""The similarities of random pairs are kept as so many quantiles: a tenth of a percent apart."""
NUM_PAIRS = 100_000
"""Random pairs that are drawn by default."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A scale for the similarities of one model and layer; plain numbers, written to JSON by ``record``."""

    slope: float | None = None
    """Of the logistic curve, in log-odds for a similarity of 1; 0 if similarity tells nothing, None if unknown."""
    intercept: float | None = None
    """Log-odds of the same sense at similarity 0."""
    quantiles: tuple[float, ...] = ()
    """Similarities of random pairs from the lowest to the highest, evenly spaced in rank; empty if unknown."""
    fitted_on: str | None = None
    """The pairs that the curve was fitted on, for tables."""

    @classmethod
    def fit(
        cls,
        similarities: ArrayLike,
        same: ArrayLike,
        *,
        background: ArrayLike = (),
        fitted_on: str | None = None,
    ) -> Calibration:
        """Fit P(same sense) to labelled pairs, and take the quantiles of random ones.

        The curve is 1 / (1 + exp(-(slope * similarity + intercept))), fitted by maximum likelihood to the softened
        targets of Platt, "Probabilistic outputs for support vector machines" (1999), which keep it finite where a
        threshold parts the pairs without a mistake. A curve that would fall is made flat.

        Args:
            similarities: Of labelled pairs, (N,), finite.
            same: Whether the word means the same in both, (N,); both answers must occur.
            background: Similarities of random pairs, any number.
            fitted_on: A name for the labelled pairs.

        Raises:
            InvalidInputError: If the lengths differ, a value is not finite, or all labels are equal.
        """
        values, labels = np.asarray(similarities, dtype=np.float64), np.asarray(same, dtype=bool)
        check(
            values.ndim == 1 and values.shape == labels.shape,
            f"similarities of shape {values.shape} and labels of shape {labels.shape}: need one label for each",
        )
        check(bool(np.isfinite(values).all()), "a similarity is not finite: leave out pairs without vectors")
        check(
            0 < labels.sum() < len(labels),
            f"{labels.sum()} of {len(labels)} pairs have the same sense: both answers must occur",
        )
        slope, intercept = _fit_logistic(values, labels)
        return cls(slope=slope, intercept=intercept, quantiles=_quantiles(background), fitted_on=fitted_on)

    @classmethod
    def of_background(cls, similarities: ArrayLike) -> Calibration:
        """Take the quantiles of random pairs alone: percentiles, and no probabilities."""
        return cls(quantiles=_quantiles(similarities))

    def probability(self, similarity: ArrayLike) -> NDArray[np.float64]:
        """Return the probability of the same sense, in [0, 1], in the shape given; NaN stays NaN.

        Raises:
            InvalidInputError: If no curve was fitted.
        """
        slope, intercept = self._curve()
        from scipy.special import expit

        probability: NDArray[np.float64] = expit(slope * np.asarray(similarity, dtype=np.float64) + intercept)
        return probability

    def percentile(self, similarity: ArrayLike) -> NDArray[np.float64]:
        """Return the share of random pairs that are less alike, in [0, 100], in the shape given; NaN stays NaN.

        Raises:
            InvalidInputError: If no random pairs are known.
        """
        self._check_background()
        ranks = np.linspace(0.0, 100.0, len(self.quantiles))
        return np.asarray(np.interp(np.asarray(similarity, dtype=np.float64), self.quantiles, ranks))

    @property
    def threshold(self) -> float | None:
        """The similarity from which on the same sense is the likelier one; None if similarity tells nothing."""
        return None if self._curve()[0] == 0 else self.at_probability(0.5)

    def at_probability(self, probability: float) -> float:
        """Return the similarity that has a probability; it may lie outside [-1, 1].

        Raises:
            InvalidInputError: If the probability is not inside (0, 1), or no similarity has it.
        """
        slope, intercept = self._curve()
        check(0 < probability < 1, f"probability = {probability}: must be above 0 and below 1")
        check(slope != 0, "similarity tells nothing about the sense here: no similarity has another probability")
        return float((np.log(probability / (1 - probability)) - intercept) / slope)

    def at_percentile(self, percentile: float) -> float:
        """Return the similarity that has a percentile in [0, 100] among random pairs.

        Raises:
            InvalidInputError: If it is outside, or no random pairs are known.
        """
        self._check_background()
        check(0 <= percentile <= 100, f"percentile = {percentile}: must be in [0, 100]")
        return float(np.interp(percentile, np.linspace(0.0, 100.0, len(self.quantiles)), self.quantiles))

    def record(self) -> dict[str, Any]:
        """Return the calibration as JSON can hold it; ``from_record`` reads it back."""
        return asdict(self) | {"quantiles": list(self.quantiles)}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Calibration:
        """Read what ``record`` wrote.

        Raises:
            InvalidInputError: If a value is missing or of another kind.
        """
        try:
            slope, intercept = record["slope"], record["intercept"]
            return cls(
                slope=None if slope is None else float(slope),
                intercept=None if intercept is None else float(intercept),
                quantiles=tuple(float(value) for value in record["quantiles"]),
                fitted_on=record["fitted_on"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInputError(f"this is no calibration ({error!r}): fit it anew") from error

    def _curve(self) -> tuple[float, float]:
        if self.slope is None or self.intercept is None:
            raise InvalidInputError("no labelled pairs were given: a probability needs Calibration.fit")
        return self.slope, self.intercept

    def _check_background(self) -> None:
        check(len(self.quantiles) > 0, "no random pairs were given: a percentile needs background=...")


@dataclass(frozen=True)
class ReliabilityBin:
    """The pairs whose probability is between two bounds: what was predicted, and what was true."""

    low: float
    high: float
    pairs: int
    predicted: float
    """Mean probability, in [low, high]."""
    observed: float
    """Share of pairs with the same sense, in [0, 1]."""


def reliability(probabilities: ArrayLike, same: ArrayLike, *, num_bins: int = 10) -> list[ReliabilityBin]:
    """Set predicted probabilities beside what was true, in bins of equal width; empty bins are left out.

    Args:
        probabilities: In [0, 1], (N,), N at least 1.
        same: What was true, (N,).
        num_bins: B, at least 1.

    Raises:
        InvalidInputError: If the lengths differ, nothing is given, or a probability is outside [0, 1].

    >>> [(each.pairs, each.observed) for each in reliability([0.1, 0.2, 0.9], [False, True, True], num_bins=2)]
    [(2, 0.5), (1, 1.0)]
    """
    values, labels = np.asarray(probabilities, dtype=np.float64), np.asarray(same, dtype=bool)
    check(
        values.ndim == 1 and values.shape == labels.shape and len(values) > 0,
        f"probabilities of shape {values.shape} and labels of shape {labels.shape}: need one label for each",
    )
    check(bool(((values >= 0) & (values <= 1)).all()), "a probability is outside [0, 1]")
    check(num_bins >= 1, f"num_bins = {num_bins}: must be at least 1")
    numbers = np.minimum((values * num_bins).astype(int), num_bins - 1)
    found = []
    for number in np.unique(numbers).tolist():
        inside = numbers == number
        bounds = number / num_bins, (number + 1) / num_bins
        predicted, observed = float(values[inside].mean()), float(labels[inside].mean())
        found.append(ReliabilityBin(*bounds, int(inside.sum()), predicted, observed))
    return found


def expected_calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """Return the mean distance of predicted and observed over all pairs, in [0, 1] (Guo et al. 2017, equation 5).

    >>> expected_calibration_error([ReliabilityBin(0.0, 0.5, 2, 0.25, 0.5), ReliabilityBin(0.5, 1.0, 2, 0.75, 0.75)])
    0.125
    """
    total = sum(each.pairs for each in bins)
    return float(sum(each.pairs * abs(each.predicted - each.observed) for each in bins) / total)


def random_similarities(vectors: Vectors, *, num_pairs: int = NUM_PAIRS, seed: int = 1) -> NDArray[np.float64]:
    """Return the cosines of random pairs of different rows.

    Args:
        vectors: float32 (M, D), L2-normalised; zero rows stand for nothing and are left out.
        num_pairs: Pairs to draw, with replacement.
        seed: Equal seeds draw equal pairs.

    Returns:
        (num_pairs,), or empty where there are fewer than two rows.
    """
    rows = np.flatnonzero(vectors.any(axis=1))
    if len(rows) < 2:
        return np.empty(0)
    generator = np.random.default_rng(seed)
    first = generator.integers(len(rows), size=num_pairs)
    second = (first + generator.integers(1, len(rows), size=num_pairs)) % len(rows)
    blocks = (slice(start, start + 4096) for start in range(0, num_pairs, 4096))
    cosines = [np.einsum("nd,nd->n", vectors[rows[first[block]]], vectors[rows[second[block]]]) for block in blocks]
    return np.concatenate([np.empty(0), *cosines])


def _quantiles(similarities: ArrayLike) -> tuple[float, ...]:
    values = np.asarray(similarities, dtype=np.float64)
    check(bool(np.isfinite(values).all()), "a similarity of a random pair is not finite: leave it out")
    if len(values) == 0:
        return ()
    # Rounded, so that no two of them are too near each other to be divided by.
    return tuple(np.quantile(values, np.linspace(0.0, 1.0, NUM_QUANTILES)).round(9).tolist())


def _fit_logistic(values: NDArray[np.float64], labels: NDArray[np.bool_]) -> tuple[float, float]:
    """Return slope and intercept of greatest likelihood, by Newton's method on values of mean 0 and deviation 1."""
    positives, negatives = int(labels.sum()), int((~labels).sum())
    targets = np.where(labels, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    mean, deviation = float(values.mean()), float(values.std())
    base = float(np.log(targets.mean() / (1 - targets.mean())))
    if deviation < 1e-6 or np.cov(values, targets)[0, 1] <= 0:  # nothing to tell by, or a curve that would fall
        return 0.0, base
    from scipy.optimize import minimize
    from scipy.special import expit

    scaled = (values - mean) / deviation

    def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        scores = parameters[0] * scaled + parameters[1]
        error = expit(scores) - targets
        return float(np.mean(np.logaddexp(0, scores) - targets * scores)), np.array(
            [np.mean(error * scaled), error.mean()]
        )

    def curvature(parameters: NDArray[np.float64]) -> NDArray[np.float64]:
        probability = expit(parameters[0] * scaled + parameters[1])
        weights, columns = probability * (1 - probability), np.stack([scaled, np.ones_like(scaled)])
        return np.asarray((columns * weights) @ columns.T / len(scaled))

    found = minimize(loss, [0.0, base], jac=True, hess=curvature, method="trust-exact", options={"gtol": 1e-10})
    slope, intercept = (float(value) for value in found.x)
    return slope / deviation, intercept - slope * mean / deviation

"""How sure a figure is: bootstrap intervals, paired tests between systems, and Holm's correction.

N is the number of items (pairs, queries, uses), U the number of units that are drawn together, B that of resamples.
Items of one unit, such as the pairs of one word, are not independent: drawn one by one they would make an interval
too narrow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ctxembed.errors import InvalidInputError

Statistic: TypeAlias = Literal["mean", "spearman", "average precision"]

RESAMPLES = 2000
FLIPS = 10_000
CONFIDENCE = 0.95
_BLOCK = 100_000  # numbers held at once: what fits a cache is several times as fast


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What a figure is made of, item by item, so that it can be computed again on a resample."""

    statistic: Statistic
    values: NDArray[np.float64]
    """(N,): for a mean the outcome of each item, else its similarity."""
    gold: NDArray[np.float64] | None = None
    """(N,): what people said, or 1 for a pair that belongs together; None for a mean."""
    units: NDArray[np.intp] | None = None
    """(N,): items of one number, from 0, are drawn together; None draws each item by itself."""
    unit: str = "row"
    """What is drawn, in a word."""

    @property
    def num_units(self) -> int:
        """How many units there are to draw from."""
        return len(self.values) if self.units is None else int(self.units.max()) + 1


@dataclass(frozen=True, slots=True)
class PairedTest:
    """The difference of two systems on the same items; ``p`` is two-sided and not corrected."""

    difference: float
    low: float
    high: float
    p: float
    method: str


def units_of(names: Sequence[str], *, name: str, fewest: int = 20) -> tuple[NDArray[np.intp] | None, str]:
    """Number the units by their names; with few of them, or one item each, items are drawn by themselves.

    Args:
        names: The unit of each item, (N,).
        name: What a unit is, in a word.
        fewest: With fewer units than this a resample of units says nothing.

    Returns:
        The numbers (N,) or None, and what is drawn.
    """
    found, numbers = np.unique(np.asarray(names), return_inverse=True)
    if fewest <= len(found) < len(names):
        return numbers.astype(np.intp), name
    return None, "row"


def bootstrap(outcomes: Outcomes, *, seed: int, resamples: int = RESAMPLES) -> NDArray[np.float64]:
    """Compute a figure anew on resamples of its units (Efron 1979).

    Equal seeds draw equal units, so that the resamples of two systems on the same items are paired.

    Args:
        outcomes: What the figure is made of.
        seed: Decides what is drawn.
        resamples: B.

    Returns:
        The figure on each resample, (B,).
    """
    if outcomes.statistic == "mean":
        sums = np.bincount(_units(outcomes), outcomes.values)
        sizes = np.bincount(_units(outcomes)).astype(np.float64)
        blocks = _draws(outcomes, seed=seed, resamples=resamples, width=outcomes.num_units)
        return np.concatenate([counts @ sums / (counts @ sizes) for counts in blocks])
    if outcomes.gold is None:
        raise InvalidInputError(f"{outcomes.statistic} needs what people said of each item: give gold")
    measure = (_rank_correlations if outcomes.statistic == "spearman" else _average_precisions)(
        outcomes.values, outcomes.gold
    )
    blocks = _draws(outcomes, seed=seed, resamples=resamples, width=len(outcomes.values))
    return np.concatenate([measure(counts[:, _units(outcomes)]) for counts in blocks])


def interval(samples: ArrayLike, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the percentile interval of bootstrap samples (B,): it holds ``confidence`` of them."""
    tail = (1 - confidence) / 2 * 100
    low, high = np.percentile(np.asarray(samples, dtype=np.float64), [tail, 100 - tail])
    return float(low), float(high)


def paired_test(
    first: Outcomes,
    second: Outcomes,
    samples: tuple[NDArray[np.float64], NDArray[np.float64]],
    *,
    difference: float,
    seed: int,
) -> PairedTest:
    """Test whether two systems differ on the same items.

    Permutation tests exchange the two systems' answers to each unit at random (Fisher 1935; Smucker, Allan and
    Carterette, CIKM 2007). Of a mean (accuracy, nDCG) that flips the sign of the unit's difference; of a rank
    correlation it exchanges ranks, which unlike similarities are of one scale in both systems. Average precision is
    tested by twice the share of paired bootstrap resamples in which the difference changes its sign (Efron and
    Tibshirani 1993, chapter 15).

    Args:
        first: Outcomes of one system.
        second: Of the other, for the same items in the same order.
        samples: The bootstrap samples of both, drawn with the same seed, (B,) each.
        difference: The figure of the first system minus that of the second.
        seed: Decides the random signs.
    """
    if len(first.values) != len(second.values) or first.statistic != second.statistic:
        raise InvalidInputError("the two systems were not measured on the same items: measure them in one run")
    changes = samples[0] - samples[1]
    low, high = interval(changes)
    if first.statistic == "mean":
        units = np.bincount(_units(first), first.values - second.values).astype(np.float64)
        return PairedTest(difference, low, high, _sign_flips(units, seed=seed), f"permutation by {first.unit}")
    if first.statistic == "spearman":
        return PairedTest(
            difference, low, high, _rank_exchanges(first, second, seed=seed), f"permutation by {first.unit}"
        )
    opposite = min(np.count_nonzero(changes <= 0), np.count_nonzero(changes >= 0))
    p = min(1.0, 2 * (1 + opposite) / (1 + len(changes)))
    return PairedTest(difference, low, high, p, f"bootstrap by {first.unit}")


def holm(values: Sequence[float]) -> list[float]:
    """Correct p-values of several comparisons (Holm 1979); the order is kept.

    >>> [round(value, 3) for value in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    corrected = [0.0] * len(values)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        highest = max(highest, min(1.0, (len(values) - rank) * values[place]))
        corrected[place] = highest
    return corrected


def _units(outcomes: Outcomes) -> NDArray[np.intp]:
    return np.arange(len(outcomes.values)) if outcomes.units is None else outcomes.units


def _draws(outcomes: Outcomes, *, seed: int, resamples: int, width: int) -> Iterator[NDArray[np.float64]]:
    """Yield how often each unit is drawn, (b, U), in blocks that hold no more than ``_BLOCK`` numbers of the width."""
    generator, num_units = np.random.default_rng(seed), outcomes.num_units
    size = max(1, _BLOCK // width)
    for start in range(0, resamples, size):
        number = min(size, resamples - start)
        drawn = generator.integers(0, num_units, (number, num_units))
        drawn += np.arange(number)[:, None] * num_units
        counts = np.bincount(drawn.ravel(), minlength=number * num_units)
        yield counts.reshape(number, num_units).astype(np.float64)


def _sign_flips(differences: NDArray[np.float64], *, seed: int) -> float:
    """Return how often random signs of the differences (U,) bring their sum as far from 0 as it is."""
    changed = differences[differences != 0]
    if not len(changed):
        return 1.0
    observed, reached = abs(float(changed.sum())), 0
    for exchanged in _exchanges(len(changed), seed=seed):
        reached += int(np.count_nonzero(np.abs((1 - 2 * exchanged) @ changed) >= observed - 1e-9))
    return (1 + reached) / (1 + FLIPS)


def _rank_exchanges(first: Outcomes, second: Outcomes, *, seed: int) -> float:
    """Return how often exchanging the ranks of units brings two correlations as far apart as they are.

    What an exchange does to the sums behind a correlation is a sum over units, so that a product with the exchanges
    gives all of them at once.
    """
    from scipy.stats import rankdata

    middle = (len(first.values) + 1) / 2
    ranks = rankdata(first.values) - middle, rankdata(second.values) - middle
    gold = rankdata(first.gold) - middle
    moments = [np.stack([each * gold, each, each**2]) for each in ranks]
    step = np.stack([np.bincount(_units(first), row) for row in moments[1] - moments[0]])
    totals = [each.sum(axis=1) for each in moments]
    if not step.any():
        return 1.0

    def apart(moved: NDArray[np.float64]) -> NDArray[np.float64]:
        sides = totals[0] + moved, totals[1] - moved
        variances = (each[:, 2] - each[:, 1] ** 2 / len(gold) for each in sides)
        values = [_shares(each[:, 0], np.sqrt(np.maximum(v, 0))) for each, v in zip(sides, variances, strict=True)]
        return np.abs(values[0] - values[1])

    observed, reached = float(apart(np.zeros((1, 3)))[0]), 0
    for exchanged in _exchanges(step.shape[1], seed=seed):
        reached += int(np.count_nonzero(apart(exchanged @ step.T) >= observed - 1e-9))
    return (1 + reached) / (1 + FLIPS)


def _exchanges(num_units: int, *, seed: int) -> Iterator[NDArray[np.float64]]:
    """Yield which units are exchanged, (b, U) of 0 and 1, ``FLIPS`` rows in all."""
    generator = np.random.default_rng(seed)
    size = max(1, _BLOCK // num_units)
    for start in range(0, FLIPS, size):
        yield generator.integers(0, 2, (min(size, FLIPS - start), num_units), dtype=np.int8).astype(np.float64)


def _rank_correlations(
    values: NDArray[np.float64], gold: NDArray[np.float64]
) -> Callable[[NDArray[Any]], NDArray[np.float64]]:
    """Return a function of counts (b, N) that gives Spearman's correlation of the items drawn so often, (b,).

    The rank of an item in a resample is the number of drawn items below it and half of those equal to it, which one
    sort of the whole list gives for all resamples.
    """
    groups = [_Groups(values), _Groups(gold)]

    def measure(counts: NDArray[Any]) -> NDArray[np.float64]:
        middle = (counts.sum(axis=1, keepdims=True) + 1) / 2
        deviations, variances = [], []
        for group in groups:
            sizes = group.sums(counts)
            ranks = np.cumsum(sizes, axis=1) - sizes / 2 + 0.5 - middle
            deviations.append(ranks[:, group.of_item])
            variances.append(np.einsum("bg,bg,bg->b", sizes, ranks, ranks))
        together = np.einsum("bn,bn,bn->b", counts, *deviations)
        scale = np.sqrt(variances[0] * variances[1])
        return _shares(together, scale)

    return measure


def _average_precisions(
    values: NDArray[np.float64], gold: NDArray[np.float64]
) -> Callable[[NDArray[Any]], NDArray[np.float64]]:
    """Return a function of counts (b, N) that gives the average precision of the items drawn so often, (b,)."""
    groups = _Groups(-values)

    def measure(counts: NDArray[Any]) -> NDArray[np.float64]:
        right, drawn = groups.sums(counts * (gold > 0)), groups.sums(counts)
        found, seen = np.cumsum(right, axis=1), np.cumsum(drawn, axis=1)
        precision = _shares(found, seen)
        total = found[:, -1]
        return _shares((right * precision).sum(axis=1), total)

    return measure


def _shares(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide, and give 0 where there is nothing to divide by."""
    shares: NDArray[np.float64] = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
    return shares


class _Groups:
    """Equal values in rising order."""

    def __init__(self, values: NDArray[np.float64]) -> None:
        self._order = np.argsort(values, kind="stable")
        found, self._starts = np.unique(values[self._order], return_index=True)
        self.of_item = np.searchsorted(found, values)

    def sums(self, counts: NDArray[Any]) -> NDArray[np.float64]:
        """Add up counts (b, N) inside each group, (b, G)."""
        return np.asarray(np.add.reduceat(counts[:, self._order], self._starts, axis=1))


def pooled_precision(values: ArrayLike, labels: ArrayLike) -> float:
    """Return the average precision of one list of similarities against labels, equal similarities taken together.

    Args:
        values: Similarities, (N,), N at least 1.
        labels: 1 for a pair that belongs together, (N,).

    Returns:
        In [0, 1]; 0.0 where no pair belongs together.

    >>> pooled_precision([0.9, 0.8, 0.7], [1, 0, 1])
    0.8333333333333333
    """
    scores, truth = np.asarray(values, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    return float(_average_precisions(scores, truth)(np.ones((1, len(scores))))[0])

"""How far apart two sets of uses of a word are, and how sure one can be of it: all on arrays.

The measures are those of Kutuzov and Giulianelli (2020): average pairwise distance, distance of prototypes, and
Jensen-Shannon divergence of sense shares. Of unit vectors the first two need only the sum of each side, so no table of
pairs is ever made, and a permutation costs one row of a matrix product. Letters: N uses of the old side, M of the new
one, U of both, D width, K senses, R resamplings.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ctxembed.config import check
from ctxembed.types import Vectors

Floats = NDArray[np.float64]
BLOCK = 2**21
"""Numbers of a block of resamplings: bounds the memory beside the vectors."""
_TIES = 1e-6
"""Share of an observed value by which a permuted one may lie below it and still count as equal."""


def average_pairwise_distance(old: Vectors, new: Vectors) -> float:
    """Return the mean of 1 - cosine over all pairs of an old and a new use.

    Args:
        old: Unit vectors (N, D), at least one.
        new: Unit vectors (M, D), at least one.

    >>> average_pairwise_distance(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32))
    0.5
    """
    return float(1 - old.mean(axis=0, dtype=np.float64) @ new.mean(axis=0, dtype=np.float64))


def prototype_distance(old: Vectors, new: Vectors) -> float:
    """Return 1 - the cosine of the mean vectors of (N, D) old and (M, D) new uses.

    >>> prototype_distance(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32)[:1]).__round__(4)
    0.2929
    """
    first, second = old.mean(axis=0, dtype=np.float64), new.mean(axis=0, dtype=np.float64)
    return float(1 - first @ second / np.sqrt((first @ first) * (second @ second)))


def sense_divergence(old: NDArray[np.floating] | Floats, new: NDArray[np.floating] | Floats) -> Floats:
    """Return the Jensen-Shannon divergence of sense counts or shares (..., K), in bits: 0 when equal, 1 when disjoint.

    >>> float(sense_divergence(np.array([5.0, 5.0, 0.0]), np.array([0.0, 0.0, 3.0])))
    1.0
    """
    first, second = (side / side.sum(axis=-1, keepdims=True) for side in (np.asarray(old), np.asarray(new)))
    middle = (first + second) / 2

    def relative_entropy(shares: Floats) -> Floats:
        ratio = np.divide(shares, middle, out=np.ones_like(shares), where=shares > 0)
        entropy: Floats = (shares * np.log2(ratio)).sum(axis=-1)
        return entropy

    divergence: Floats = np.maximum((relative_entropy(first) + relative_entropy(second)) / 2, 0.0)
    return divergence


class Measures(NamedTuple):
    """The measures of one comparison, or of R resamplings: arrays of shape (R,)."""

    apd: Floats
    """Average pairwise distance between the sides, in [0, 2]."""
    excess: Floats
    """That beyond the mean distance of two uses of the same side: 0 is expected where nothing shifted."""
    prt: Floats
    """1 - cosine of the mean vectors, in [0, 2]."""
    jsd: Floats
    """Jensen-Shannon divergence of the sense shares, in [0, 1]."""


@dataclass(frozen=True)
class ShiftTest:
    """What was measured between two sides, and what chance alone would give."""

    apd: float
    excess: float
    prt: float
    jsd: float
    p: float
    """Of ``excess``: how often two random sides of these sizes differ as much."""
    p_prt: float
    p_jsd: float
    low: float
    """Lower end of the 95 % bootstrap interval of ``apd``."""
    high: float
    noise: float
    """Split-half noise floor of ``apd``: the mean between random halves of the same side; likewise the next two."""
    noise_prt: float
    noise_jsd: float


def shift_test(
    old: Vectors,
    new: Vectors,
    *,
    old_senses: NDArray[np.int64] | None = None,
    new_senses: NDArray[np.int64] | None = None,
    permutations: int = 1000,
    seed: int = 1,
) -> ShiftTest:
    """Measure a shift, test it by permuting which use belongs to which side, and bootstrap its interval.

    Args:
        old: Unit vectors (N, D), at least two.
        new: Unit vectors (M, D), at least two.
        old_senses: The sense of each old use, (N,), numbered from 0; found without regard to the sides, or the
            test of ``jsd`` means nothing.
        new_senses: The sense of each new use, (M,).
        permutations: How many, at least 1; the smallest possible p is 1 / (permutations + 1). The interval takes
            as many resamplings, the noise floor a tenth.
        seed: Decides every random choice.

    Returns:
        The measures; without senses ``jsd`` is 0 with p 1.

    Raises:
        InvalidInputError: If a side has fewer than two uses.
    """
    num_old, num_new = len(old), len(new)
    check(min(num_old, num_new) >= 2, f"{num_old} old and {num_new} new uses, need at least two of each")
    check(permutations >= 1, f"permutations = {permutations}: must be at least 1")
    senses = _one_hot(num_old, num_new, old_senses, new_senses)
    vectors = np.concatenate([old, new])
    rng = np.random.default_rng(seed)
    is_new = np.repeat([False, True], [num_old, num_new])
    observed = _resampled(vectors, senses, is_new, rng=None, rounds=1)
    chance = _resampled(vectors, senses, is_new, rng=rng, rounds=permutations)
    low, high = bootstrap_interval(old, new, rounds=permutations, rng=rng)
    halves = [
        _resampled(vectors[side], senses[side], _half(int(side.sum())), rng=rng, rounds=max(1, permutations // 10))
        for side in (~is_new, is_new)
        if side.sum() >= 4  # a half of one use has no distance inside
    ]
    noise = [float(np.mean([np.mean(half[n]) for half in halves])) if halves else float("nan") for n in (0, 2, 3)]
    apd, excess, prt, jsd = (float(values[0]) for values in observed)
    p, p_prt, p_jsd = (_p_value(observed[n], chance[n]) for n in (1, 2, 3))
    return ShiftTest(apd, excess, prt, jsd, p, p_prt, p_jsd, low, high, *noise)


def bootstrap_interval(
    old: Vectors, new: Vectors, *, rounds: int, rng: np.random.Generator, coverage: float = 0.95
) -> tuple[float, float]:
    """Return the percentile interval of the average pairwise distance, both sides drawn anew with replacement."""
    values = np.empty(rounds, dtype=np.float64)
    done = 0
    for size in _blocks(rounds, len(old) + len(new)):
        means = [
            rng.multinomial(len(side), np.full(len(side), 1 / len(side)), size=size).astype(np.float32)
            @ side
            / np.float32(len(side))
            for side in (old, new)
        ]
        values[done : done + size] = 1 - np.einsum("rd,rd->r", means[0], means[1], dtype=np.float64)
        done += size
    low, high = np.quantile(values, [(1 - coverage) / 2, (1 + coverage) / 2])
    return float(low), float(high)


def adjusted_p_values(p_values: NDArray[np.float64] | list[float]) -> Floats:
    """Return Benjamini-Hochberg q values over words: the false discovery rate at which each would be reported.

    A NaN, which stands for a word that could not be tested, stays NaN and counts for nothing.
    """
    from scipy.stats import false_discovery_control

    values = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(len(values), np.nan)
    tested = ~np.isnan(values)
    if tested.any():
        adjusted[tested] = false_discovery_control(values[tested])
    return adjusted


def _one_hot(
    num_old: int, num_new: int, old: NDArray[np.int64] | None, new: NDArray[np.int64] | None
) -> NDArray[np.float32]:
    """Return the senses of old and new uses as 0 and 1, (U, K)."""
    if old is None or new is None:
        return np.ones((num_old + num_new, 1), dtype=np.float32)
    senses = np.concatenate([old, new])
    check(
        (len(old), len(new)) == (num_old, num_new),
        f"{len(old)} and {len(new)} senses came with {num_old} and {num_new} uses: give one for each",
    )
    table: NDArray[np.float32] = np.eye(int(senses.max()) + 1, dtype=np.float32)[senses]
    return table


def _half(size: int) -> NDArray[np.bool_]:
    return np.arange(size) < size // 2


def _blocks(rounds: int, width: int) -> Iterator[int]:
    """Cut a number of resamplings of so many uses into pieces that memory can hold."""
    most = max(1, BLOCK // width)
    for first in range(0, rounds, most):
        yield min(most, rounds - first)


def _resampled(
    vectors: Vectors,
    senses: NDArray[np.float32],
    is_new: NDArray[np.bool_],
    *,
    rng: np.random.Generator | None,
    rounds: int,
) -> Measures:
    """Measure after each of R random exchanges of the sides; without a generator, as they are.

    Sums are taken of vectors less their common mean: they stay small, and so does what float32 rounds away.
    """
    mean = vectors.mean(axis=0, dtype=np.float64)
    table = np.concatenate([vectors - mean.astype(np.float32), senses], axis=1)  # (U, D + K)
    base = is_new.astype(np.float32)
    parts = []
    for size in _blocks(rounds, len(vectors)):
        chosen = np.broadcast_to(base, (size, len(base)))
        if rng is not None:
            chosen = rng.permuted(chosen, axis=1)
        parts.append((chosen @ table).astype(np.float64))  # (size, D + K)
    sums = np.concatenate(parts)
    return _measures(sums, mean, senses.sum(axis=0, dtype=np.float64), num_new=int(is_new.sum()), num_uses=len(vectors))


def _measures(sums: Floats, mean: Floats, totals: Floats, *, num_new: int, num_uses: int) -> Measures:
    """Return the measures from the centred sums and sense counts of the new side, (R, D + K)."""
    width, num_old = len(mean), num_uses - num_new
    centred, counts = sums[:, :width], np.rint(sums[:, width:])
    along, square, mean_square = centred @ mean, np.einsum("rd,rd->r", centred, centred), float(mean @ mean)
    # new = centred + M mean, old = N mean - centred
    between = num_old * num_new * mean_square + (num_old - num_new) * along - square
    new_square = square + 2 * num_new * along + num_new**2 * mean_square
    old_square = square - 2 * num_old * along + num_old**2 * mean_square
    apd = 1 - between / (num_old * num_new)
    within = 1 - (_mean_inside(new_square, num_new) + _mean_inside(old_square, num_old)) / 2
    lengths = np.sqrt(np.maximum(new_square * old_square, 1e-30))
    return Measures(apd, apd - within, 1 - between / lengths, sense_divergence(totals - counts, counts))


def _mean_inside(square: Floats, number: int) -> Floats:
    """Return the mean cosine of two different uses of a side, from the squared length of its sum of unit vectors."""
    return (square - number) / (number * (number - 1)) if number > 1 else np.ones_like(square)


def _p_value(observed: Floats, chance: Floats) -> float:
    """Return the share of permutations, the observed one among them, with a value at least as large."""
    reached = chance >= observed - _TIES * np.abs(observed) - 1e-9
    return float((1 + reached.sum()) / (1 + len(chance)))

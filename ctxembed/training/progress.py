"""Where a run stands, how fast it learns there, and whether it goes wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ctxembed.config import TrainingConfig
from ctxembed.errors import InvalidInputError

PROBE_STEPS = 40
"""Most steps after which a budget's forecast is made, from the later half of them: the first prepare their kernels."""
PROBE_LEAST, PROBE_FRACTION = 10, 0.05
"""A forecast needs so many steps, and comes then when so much of the budget has gone by."""
SMOOTHING = 0.98
"""Of the running mean of the loss by which divergence is told."""


class DivergedError(InvalidInputError):
    """The loss left the finite numbers, or rose far above where it had been."""


@dataclass
class Progress:
    """Where a run stands."""

    step: int = 0
    """Optimiser steps done."""
    tokens: int = 0
    """Real tokens seen, padding excluded."""
    seconds: float = 0.0
    """Time spent, over all resumed pieces."""
    prepared: float = 0.0
    """Of these, what was spent before the first step."""
    smooth_loss: float | None = None
    """Running mean of the loss."""
    best_loss: float = math.inf
    """Lowest running mean so far."""

    def watch(self, loss: float, norm: float, *, learning_rate: float) -> None:
        """Note the loss of the step that is being made, and stop a run that has gone wrong.

        Args:
            loss: Of the step.
            norm: Of its gradient.
            learning_rate: The highest of the run, named in the advice.

        Raises:
            DivergedError: If either is no finite number, or the running mean of the loss rose far above its lowest.
        """
        where = f"at step {self.step + 1}: lower learning_rate ({learning_rate})"
        if not math.isfinite(loss):
            raise DivergedError(f"the loss became {loss} {where}")
        if not math.isfinite(norm):
            raise DivergedError(f"the gradient's norm became {norm} {where}")
        smooth = loss if self.smooth_loss is None else SMOOTHING * self.smooth_loss + (1 - SMOOTHING) * loss
        self.smooth_loss, self.best_loss = smooth, min(self.best_loss, smooth)
        if smooth > 1 + 1.5 * self.best_loss:
            raise DivergedError(f"the loss rose from {self.best_loss:.3g} to {smooth:.3g} (running means) {where}")

    def done(self, config: TrainingConfig) -> float:
        """Return which part of the training is done; 1 or more when it is over."""
        if config.budget is not None:
            return (self.seconds - self.prepared) / (config.budget - self.prepared)
        return self.step / config.max_steps

    def forecast(self, probe: Sequence[tuple[float, int]], budget: float) -> tuple[int, int] | None:
        """Return the steps and tokens that a budget allows, once enough steps have been timed.

        Args:
            probe: Seconds and tokens before the first step of this piece of the run, and after each step.
            budget: Seconds of the whole run.
        """
        steps = len(probe) - 1
        if steps < PROBE_LEAST or (steps < PROBE_STEPS and probe[-1][0] - probe[0][0] < PROBE_FRACTION * budget):
            return None
        middle = probe[steps // 2]
        seconds, tokens = probe[-1][0] - middle[0], probe[-1][1] - middle[1]
        rest = (budget - probe[-1][0]) / max(seconds, 1e-9)
        return round(self.step + rest * (steps - steps // 2)), round(self.tokens + rest * tokens)


def learning_rate_at(done: float, config: TrainingConfig) -> float:
    """Return the learning rate when a part of the run is done: linear warm-up, then half a cosine down to 0.

    >>> config = TrainingConfig(learning_rate=1.0, warmup_fraction=0.1)
    >>> [round(learning_rate_at(done, config), 3) for done in (0.05, 0.1, 0.55, 1.0)]
    [0.5, 1.0, 0.5, 0.0]
    """
    warmup = config.warmup_fraction
    if done < warmup:
        return config.learning_rate * done / warmup
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, (done - warmup) / (1 - warmup))))

"""What long commands show on stderr while they work."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from .output import say

if TYPE_CHECKING:
    from ctxembed.config import TrainingConfig

SECONDS_BETWEEN_LINES = 20


@contextlib.contextmanager
def document_bar(label: str, *, total: int | None = None, unit: str = "row") -> Iterator[Callable[[int], None]]:
    """Show rate and time left for anything over two seconds; off when stderr is no terminal.

    Yields:
        A function to call with the number of documents done since its last call.
    """
    from tqdm import tqdm

    with tqdm(total=total, desc=label, unit=unit, unit_scale=True, disable=None, delay=2.0, file=sys.stderr) as bar:

        def advance(done: int) -> None:
            bar.update(done)

        yield advance


@contextlib.contextmanager
def training_line(config: TrainingConfig) -> Iterator[Callable[[Mapping[str, float]], None]]:
    """Show loss, speed and the time left: a bar on a terminal, a line now and then elsewhere.

    Yields:
        A function to call with the metrics of each step.
    """
    from tqdm import tqdm

    total = config.max_steps if config.budget is None else None
    with tqdm(total=total, unit="step", disable=None, file=sys.stderr) as bar:
        begun: tuple[float, float] | None = None  # when, and how much was done by then: a resumed run is not at 0
        shown = 0.0

        def report(metrics: Mapping[str, float]) -> None:
            nonlocal begun, shown
            step, now, done = int(metrics["step"]), time.monotonic(), metrics["done"]
            if begun is None:
                begun, shown, bar.n, bar.initial = (now, done), now, step, step
            bar.set_postfix_str(f"loss {metrics['loss']:.3f}", refresh=False)
            bar.update(step - bar.n)
            if bar.disable and (now - shown > SECONDS_BETWEEN_LINES or done >= 1):
                shown = now
                left = (now - begun[0]) * (1 - done) / max(done - begun[1], 1e-9)
                say(f"step {step}: loss {metrics['loss']:.3f}, {done:.0%} done, {max(left, 0) / 60:.0f} min left")

        yield report

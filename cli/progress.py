"""What long commands show on stderr while they work."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping

from .output import say

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
def training_line(num_steps: int) -> Iterator[Callable[[Mapping[str, float]], None]]:
    """Show loss, tokens a second and the time left: a bar on a terminal, a line now and then elsewhere.

    Yields:
        A function to call with the metrics of each step.
    """
    from tqdm import tqdm

    with tqdm(total=num_steps, unit="step", disable=None, file=sys.stderr) as bar:
        started = shown = 0.0
        first: int | None = None  # a resumed run does not begin at 1

        def report(metrics: Mapping[str, float]) -> None:
            nonlocal first, shown, started
            step, now = int(metrics["step"]), time.monotonic()
            if first is None:
                first = bar.n = bar.initial = step  # what came before the first report was preparation
                started = shown = now
            text = f"loss {metrics['loss']:.3f}, {metrics['tokens_per_second']:,.0f} tokens/s"
            bar.set_postfix_str(text, refresh=False)
            bar.update(step - bar.n)
            if bar.disable and (now - shown > SECONDS_BETWEEN_LINES or step == num_steps):
                shown = now
                left = (now - started) / max(1, step - first) * (num_steps - step)
                say(f"step {step}/{num_steps}: {text}, {left / 60:.0f} min left")

        yield report

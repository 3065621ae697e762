"""Why Transformer: the recurrent encoder-decoder with attention beside the Transformer of the same size, measured.

Both learn to write sentences of which words were deleted (the denoising task) from the same rows in the same order, in
float32 on the CPU, by Adam at one learning rate. A budget of seconds is dealt out among the parts, and every figure is
what its share of the clock allowed.

Letters: N rows, T tokens of a row, B rows of a batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from ctxembed.config import check
from ctxembed.evaluation.scaling_memory import kept_for_gradient, peak_of
from ctxembed.evaluation.scaling_models import (
    Seq2Seq,
    denoising_loss,
    make_pair,
    num_parameters,
    sequential_steps,
)
from ctxembed.tokenizer import SubwordTokenizer, TokenizerConfig
from ctxembed.training.batches import TokenRows
from ctxembed.training.objectives.denoise import DenoiseBatch, Denoising

SHARES = {"length": 0.17, "batch": 0.1, "learning": 0.24, "growth": 0.38, "inference": 0.06, "memory": 0.05}
"""Of the budget; what preparation takes is left out of it."""
TOKENIZER_TEXTS = 20_000
HELD_OUT = 128
EVALUATIONS = 6


@dataclass(frozen=True, kw_only=True)
class ScalingTrial:
    """What is measured, and for how long."""

    budget: float = 270.0
    """Seconds for all parts together."""
    width: int = 64
    """D of both models."""
    num_layers: int = 2
    """Of the Transformer's encoder and of its decoder."""
    vocab_size: int = 1000
    """Of the tokenizer that is trained on the text."""
    row_tokens: int = 32
    """T, where it is not what is varied."""
    batch_tokens: int = 1024
    """B x T, where it is not what is varied."""
    lengths: tuple[int, ...] = (16, 32, 64, 128, 256)
    """T, for speed against length."""
    batches: tuple[int, ...] = (1, 4, 16, 64)
    """B, for speed against batch."""
    growth: tuple[int, ...] = (1, 2, 4, 8)
    """How many times ``growth_rows``."""
    growth_rows: int | None = 128
    """The least data: few rows, so that a short run meets them often; None is what makes the largest all of them."""
    writing: tuple[int, ...] = (16, 64)
    """T, for inference."""
    memory: tuple[int, ...] = (256, 1024, 4096)
    """T, for memory."""
    learning_rate: float = 3e-3
    """Of both, with a rise over the first steps; of 0.001, 0.003 and 0.01 it was the best for each of them."""
    seed: int = 1
    """Of weights, order and deleted words."""

    def __post_init__(self) -> None:
        check(self.budget > 0, f"budget = {self.budget}: must be above 0 seconds")
        check(self.width % 32 == 0, f"width = {self.width}: must be a multiple of 32, the width of a head")


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of one system."""

    part: str
    """One of SHARES."""
    system: str
    """transformer or recurrent."""
    name: str
    """What was measured, with its unit."""
    at: float
    """The length, batch, share of the data, seconds or tokens that it was measured at."""
    of: str
    """What ``at`` counts."""
    value: float | None
    """None where this system does not tell."""


@dataclass(slots=True)
class ScalingResult:
    """Everything that was measured."""

    parameters: dict[str, int]
    """Of each system."""
    rows: int
    """Training rows of ``row_tokens`` tokens."""
    figures: list[Figure] = field(default_factory=list)

    def values(self, part: str, name: str) -> dict[str, list[tuple[float, float]]]:
        """Return (at, value) of each system, in the order measured."""
        found: dict[str, list[tuple[float, float]]] = {system: [] for system in self.parameters}
        for each in self.figures:
            if (each.part, each.name) == (part, name) and each.value is not None:
                found[each.system].append((each.at, each.value))
        return found


class Task:
    """The text as rows of any length, with some held out."""

    def __init__(self, texts: Sequence[str], trial: ScalingTrial) -> None:
        """Train a tokenizer on the texts and lay their tokens end to end.

        Raises:
            InvalidInputError: If there is too little text.
        """
        settings = TokenizerConfig(vocab_size=trial.vocab_size)
        self.tokenizer = SubwordTokenizer.train(texts[:TOKENIZER_TEXTS], config=settings)
        self._ids = np.concatenate([*self.tokenizer.encode_ids(texts), np.zeros(0, dtype=np.int32)])
        self._trial = trial
        self._objectives: dict[int, Denoising] = {}
        rows = len(self._cut(trial.row_tokens))
        check(rows >= 64, f"the text gives {rows} rows of {trial.row_tokens} tokens, a trial needs 64: give more text")

    def _cut(self, width: int) -> NDArray[np.int32]:
        count = len(self._ids) // (width - 2)
        rows = np.empty((count, width), dtype=np.int32)
        rows[:, 0], rows[:, -1] = self.tokenizer.cls_id, self.tokenizer.sep_id
        rows[:, 1:-1] = self._ids[: count * (width - 2)].reshape(count, width - 2)
        return rows

    def objective(self, width: int) -> Denoising:
        """Return the denoising of all rows of some length."""
        if width not in self._objectives:
            self._objectives[width] = Denoising(TokenRows.from_lists(list(self._cut(width))), self.tokenizer)
        return self._objectives[width]

    def split(self) -> tuple[Denoising, NDArray[np.int64], NDArray[np.int64]]:
        """Return the rows of ``row_tokens`` with the numbers of those to learn from and of those held out."""
        objective = self.objective(self._trial.row_tokens)
        order = np.random.default_rng(self._trial.seed).permutation(len(objective.rows))
        held_out = min(HELD_OUT, len(order) // 8)
        return objective, order[held_out:], order[:held_out]

    def any_batch(self, width: int, rows: int, *, seed: int = 0) -> DenoiseBatch:
        """Return a batch of rows of some length; a short text gives the same row more than once."""
        objective = self.objective(width)
        check(len(objective.rows) > 0, f"the text has not even one row of {width} tokens: give more text")
        return objective.prepare(np.arange(rows) % len(objective.rows), seed=[self._trial.seed, seed])


class Learner:
    """A model in training."""

    def __init__(self, model: Seq2Seq, trial: ScalingTrial) -> None:
        self.model, self._trial, self._steps = model.train(), trial, 0
        self._adam = torch.optim.Adam(model.parameters(), lr=trial.learning_rate, betas=(0.9, 0.98))

    def step(self, batch: DenoiseBatch) -> int:
        """Learn from a batch; return the tokens that were written."""
        self._steps += 1
        for group in self._adam.param_groups:
            group["lr"] = self._trial.learning_rate * min(1.0, self._steps / 20)
        loss, count = denoising_loss(self.model, batch)
        self._adam.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self._adam.step()
        return count


def run_scaling(
    texts: Sequence[str], *, trial: ScalingTrial | None = None, tell: Callable[[str], None] = lambda _: None
) -> ScalingResult:
    """Measure both models in every part.

    Args:
        texts: What is learned from.
        trial: What is measured.
        tell: Called with a line before each part.

    Raises:
        InvalidInputError: If there is too little text.
    """
    trial = trial or ScalingTrial()
    task = Task(texts, trial)
    _, training, _ = task.split()
    result = ScalingResult({name: num_parameters(model) for name, model in _pair(task, trial).items()}, len(training))
    parts: dict[str, Callable[[Task, ScalingTrial, float], Iterator[Figure]]] = {
        "length": _speed_by_length,
        "batch": _speed_by_batch,
        "learning": _learning,
        "growth": _growth,
        "inference": _inference,
        "memory": _memory,
    }
    end, left = time.monotonic() + trial.budget, dict(SHARES)
    for part, measure in parts.items():
        seconds = max(0.0, end - time.monotonic()) * left[part] / sum(left.values())  # what one overdraws all give
        del left[part]
        tell(f"{part}: {seconds:.0f} s")
        result.figures += measure(task, trial, seconds)
    return result


def _pair(task: Task, trial: ScalingTrial) -> dict[str, Seq2Seq]:
    longest = max(*trial.lengths, *trial.memory, *trial.writing, trial.row_tokens)
    return make_pair(
        vocab_size=len(task.tokenizer),
        width=trial.width,
        num_layers=trial.num_layers,
        max_length=longest,
        seed=trial.seed,
    )


def _speed(learner: Learner, batch: DenoiseBatch, seconds: float) -> float:
    """Return the tokens written in a second of training; the first step warms up, at least one more is timed."""
    learner.step(batch)
    begun, tokens = time.perf_counter(), 0
    while not tokens or time.perf_counter() - begun < seconds:
        tokens += learner.step(batch)
    return tokens / (time.perf_counter() - begun)


def _speed_by_length(task: Task, trial: ScalingTrial, seconds: float) -> Iterator[Figure]:
    learners = {name: Learner(model, trial) for name, model in _pair(task, trial).items()}
    for width in trial.lengths:
        batch = task.any_batch(width, max(1, trial.batch_tokens // width))
        read = int(batch.lengths.max())
        for name, learner in learners.items():
            speed = _speed(learner, batch, 0.6 * seconds / len(trial.lengths) / len(learners))
            steps = sequential_steps(learner.model, read=read, written=width - 1)
            yield Figure("length", name, "training tokens a second", width, "tokens of a row", speed)
            yield Figure("length", name, "sequential steps", width, "tokens of a row", steps)


def _speed_by_batch(task: Task, trial: ScalingTrial, seconds: float) -> Iterator[Figure]:
    learners = {name: Learner(model, trial) for name, model in _pair(task, trial).items()}
    for rows in trial.batches:
        batch = task.any_batch(trial.row_tokens, rows)
        for name, learner in learners.items():
            speed = _speed(learner, batch, 0.7 * seconds / len(trial.batches) / len(learners))
            yield Figure("batch", name, "training tokens a second", rows, "rows of a batch", speed)


@dataclass(frozen=True, slots=True)
class _Curve:
    """Held-out loss while a model learns."""

    seconds: list[float]
    tokens: list[float]
    losses: list[float]


def _learn(
    model: Seq2Seq, task: Task, trial: ScalingTrial, *, rows: NDArray[np.int64] | None = None, seconds: float
) -> _Curve:
    """Train for some seconds, and look at the held-out loss now and then; looking does not count."""
    objective, training, held_out = task.split()
    rows = training if rows is None else rows
    learner, curve, size = Learner(model, trial), _Curve([], [], []), max(1, trial.batch_tokens // trial.row_tokens)
    used, tokens, step = 0.0, 0, 0
    while used < seconds or not curve.losses:
        begun = time.perf_counter()
        order = np.random.default_rng([trial.seed, step * size // len(rows)]).permutation(rows)
        items = order[np.arange(step * size, (step + 1) * size) % len(rows)]
        tokens += learner.step(objective.prepare(items, seed=[trial.seed, step]))
        step += 1
        used += time.perf_counter() - begun
        if used >= seconds * (len(curve.losses) + 1) / EVALUATIONS:
            curve.seconds.append(used)
            curve.tokens.append(tokens)
            curve.losses.append(_held_out_loss(model, objective, held_out, trial))
    return curve


def _held_out_loss(model: Seq2Seq, objective: Denoising, held_out: NDArray[np.int64], trial: ScalingTrial) -> float:
    """Return the mean loss in nats a token, on the same rows with the same words deleted each time."""
    model.eval()
    with torch.no_grad():
        loss, _ = denoising_loss(model, objective.prepare(held_out, seed=[trial.seed, 0x4E1D]))
    model.train()
    return loss.item()


def _learning(task: Task, trial: ScalingTrial, seconds: float) -> Iterator[Figure]:
    pair = _pair(task, trial)
    curves = {name: _learn(model, task, trial, seconds=0.9 * seconds / len(pair)) for name, model in pair.items()}
    fewest = min(curve.tokens[-1] for curve in curves.values())
    for name, curve in curves.items():
        for used, tokens, loss in zip(curve.seconds, curve.tokens, curve.losses, strict=True):
            yield Figure("learning", name, "held-out loss by time", used, "seconds", loss)
            yield Figure("learning", name, "held-out loss by tokens", tokens, "tokens", loss)
        yield Figure(
            "learning", name, "loss after equal time", round(0.9 * seconds / len(pair), 1), "seconds", curve.losses[-1]
        )
        equal = float(np.interp(fewest, curve.tokens, curve.losses))
        yield Figure("learning", name, "loss after equal tokens", fewest, "tokens", equal)


def _growth(task: Task, trial: ScalingTrial, seconds: float) -> Iterator[Figure]:
    """Give both more of the same data, each time from new weights for the same time; the lowest loss counts."""
    _, training, _ = task.split()
    each = 0.9 * seconds / len(trial.growth) / 2
    least = min(trial.growth_rows or len(training), len(training) // max(trial.growth))
    for times in trial.growth:
        rows = training[: max(1, least * times)]
        for name, model in _pair(task, trial).items():
            loss = min(_learn(model, task, trial, rows=rows, seconds=each).losses)
            yield Figure("growth", name, "lowest held-out loss", times, "times the data", loss)


def _inference(task: Task, trial: ScalingTrial, seconds: float) -> Iterator[Figure]:
    """Time one sentence at a time: reading it, and writing as many tokens again."""
    pair = _pair(task, trial)
    for width in trial.writing:
        batch = task.any_batch(width, 1)
        for name, model in pair.items():
            share = 0.4 * seconds / len(trial.writing) / len(pair)
            ids, lengths, start = batch.target_ids, batch.target_lengths, task.tokenizer.cls_id
            with torch.inference_mode():
                read = _milliseconds(partial(model.eval().encode, ids, lengths), share)
                write = _milliseconds(partial(model.write, ids, lengths, start=start, count=width), share)
            yield Figure("inference", name, "reading, ms a sentence", width, "tokens of a row", read)
            yield Figure("inference", name, "writing, ms a sentence", width, "tokens of a row", write)


def _milliseconds(call: Callable[[], object], seconds: float) -> float:
    """Return the median time of a call; the first warms up, at least three more are timed."""
    call()
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return 1000 * float(np.median(times))


def _memory(task: Task, trial: ScalingTrial, seconds: float) -> Iterator[Figure]:
    """Measure what reading one long row needs, and what a training step on a short one keeps for its gradient."""
    del seconds  # one pass each
    for name, model in _pair(task, trial).items():
        ids = torch.from_numpy(np.resize(np.arange(5, len(task.tokenizer)), max(trial.memory)))[None]
        for width in trial.memory:
            row, length = ids[:, :width], torch.tensor([width])
            peak = peak_of(partial(model.eval().encode, row, length))
            yield Figure("memory", name, "reading one row, MiB", width, "tokens of a row", peak)
        for width in trial.lengths[-3:]:
            kept = kept_for_gradient(model.train(), task.any_batch(width, 1))
            yield Figure("memory", name, "kept for the gradient, MiB", width, "tokens of a row", kept)

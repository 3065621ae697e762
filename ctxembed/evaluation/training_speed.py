"""How fast masked-language training is, beside transformers' Trainer on the same rows; the only peer of training.

Letters: N rows, T tokens of a row, V vocabulary.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ctxembed.config import (
    NEW_ENCODER,
    NEW_MASKING,
    PRESETS,
    EncoderConfig,
    PoolingConfig,
    TrainingConfig,
    check,
    from_mapping,
)
from ctxembed.model.checkpoint import Checkpoint
from ctxembed.model.device import choose_dtype
from ctxembed.model.encoder import MaskedWordHead, TransformerEncoder
from ctxembed.runtime import require
from ctxembed.tokenizer import SubwordTokenizer
from ctxembed.training.batches import TokenRows
from ctxembed.training.objectives.mlm import MaskedLanguageModelling, MaskingConfig
from ctxembed.training.trainer import Part, Trainer

MASK_FRACTION = 0.15
"""Of Devlin et al. 2019, and what the peer's collator hides."""
HELD_OUT_ROWS = 512
PROFILED_FROM, PROFILED_STEPS, PROFILED_OPERATIONS = 10, 3, 15

Rows = NDArray[np.int32]
Peer = Literal["transformers-eager", "transformers-sdpa", "ctxembed-all-tokens"]
"""The last one is our own, every token through every layer."""


@dataclass(frozen=True, kw_only=True)
class TrainingTrial:
    """What every contender does."""

    preset: str = "small"
    """Layers, width, heads and inner width."""
    steps: int = 100
    """Optimiser steps of a run; the first tenth warms up and is not timed."""
    batch_tokens: int = 8192
    """Tokens of a step."""
    learning_rate: float = 1e-3
    """Peak, for both."""
    repeats: int = 3
    """Runs of each contender, in turns, each with another seed."""
    seed: int = 1
    """Of the first run."""
    profile: bool = False
    """Profile the last steps; their time means nothing then."""

    def __post_init__(self) -> None:
        check(self.preset in PRESETS, f"preset = {self.preset!r}: must be one of {', '.join(PRESETS)}")
        check(self.steps >= 10, f"steps = {self.steps}: must be at least 10, the first tenth is not timed")
        check(self.repeats >= 1, f"repeats = {self.repeats}: must be at least 1")


@dataclass(frozen=True, slots=True)
class TrainingSpeed:
    """One contender's figures over all runs."""

    system: str
    precision: str
    """bfloat16 or float32: that of our Trainer on this machine, for all."""
    row_tokens: int
    tokens_per_second: float
    """Median over runs."""
    lowest: float
    highest: float
    validation_loss: float
    """Median over runs: masked-word loss in nats on held-out rows, the same rows and masks for all."""
    parameters: int
    tokens: int
    """Seen in each run."""
    profile: tuple[tuple[str, float], ...]
    """Where the time of a few more steps went: operations and their shares, the largest first."""


def full_rows(store: TokenRows, tokenizer: SubwordTokenizer, *, width: int) -> Rows:
    """Lay a store's rows end to end and cut them into rows of exactly ``width`` tokens: nothing to pad for anybody.

    Returns:
        int32 (N, T), special tokens first and last in each row.

    Raises:
        InvalidInputError: If there are too few for a trial.
    """
    special = np.isin(store.ids, (tokenizer.cls_id, tokenizer.sep_id))
    ids = np.asarray(store.ids)[~special]
    count = len(ids) // (width - 2)
    check(
        count >= 2 * HELD_OUT_ROWS,
        f"the text gives {count} rows of {width} tokens, a trial needs {2 * HELD_OUT_ROWS}: give more text",
    )
    rows = np.empty((count, width), dtype=np.int32)
    rows[:, 0], rows[:, -1] = tokenizer.cls_id, tokenizer.sep_id
    rows[:, 1:-1] = ids[: count * (width - 2)].reshape(count, width - 2)
    return rows


def compare_training(
    rows: Rows, tokenizer: SubwordTokenizer, *, trial: TrainingTrial, peers: Sequence[Peer], tell: Callable[[str], None]
) -> Iterator[TrainingSpeed]:
    """Train each contender in turns, as often as the trial says, and give its figures.

    Args:
        rows: int32 (N, T), all full.
        tokenizer: Of the rows.
        trial: What is done.
        peers: Beside our Trainer with its defaults.
        tell: Called with a line after each run.

    Raises:
        MissingLibraryError: Without transformers or accelerate.
    """
    order = np.random.default_rng(trial.seed).permutation(len(rows))
    held_out, training = rows[order[:HELD_OUT_ROWS]], rows[order[HELD_OUT_ROWS:]]
    contenders: dict[str, Callable[[TrainingTrial], _RunFigures]] = {
        "ctxembed": partial(_ours, NEW_MASKING, training, held_out, tokenizer)
    }
    for peer in peers:
        if peer == "ctxembed-all-tokens":
            contenders[peer] = partial(_ours, {}, training, held_out, tokenizer)
        else:
            contenders[peer] = partial(_theirs, peer, training, held_out, tokenizer)
    seen: dict[str, list[_RunFigures]] = {name: [] for name in contenders}
    for repeat in range(trial.repeats):
        for name, contend in contenders.items():
            figures = contend(replace(trial, seed=trial.seed + repeat))
            seen[name].append(figures)
            tell(f"{name}, run {repeat + 1}: {figures.speed:,.0f} tokens/s, held-out loss {figures.loss:.3f}")
    precision = _precision()
    short = replace(trial, steps=PROFILED_FROM + PROFILED_STEPS, profile=True)
    for name, runs in seen.items():
        speeds = [figures.speed for figures in runs]
        yield TrainingSpeed(
            system=name,
            precision=precision,
            row_tokens=rows.shape[1],
            tokens_per_second=statistics.median(speeds),
            lowest=min(speeds),
            highest=max(speeds),
            validation_loss=statistics.median(figures.loss for figures in runs),
            parameters=runs[0].parameters,
            tokens=trial.steps * (trial.batch_tokens // rows.shape[1]) * rows.shape[1],
            profile=contenders[name](short).profile,
        )


@dataclass(frozen=True, slots=True)
class _RunFigures:
    speed: float
    loss: float
    parameters: int
    profile: tuple[tuple[str, float], ...]


def _precision() -> str:
    """Return the number format that our Trainer computes in on this machine."""
    import torch

    return str(choose_dtype("auto", torch.device("cpu"))).removeprefix("torch.")


def _shape(trial: TrainingTrial, tokenizer: SubwordTokenizer, width: int) -> EncoderConfig:
    fields = {"vocab_size": len(tokenizer), "max_length": max(width, 128)}
    return from_mapping(EncoderConfig, {**fields, **NEW_ENCODER, **PRESETS[trial.preset]})


def _ours(
    dropping: dict[str, Any], training: Rows, held_out: Rows, tokenizer: SubwordTokenizer, trial: TrainingTrial
) -> _RunFigures:
    """Run our Trainer once."""
    import torch

    torch.manual_seed(trial.seed)
    shape = _shape(trial, tokenizer, training.shape[1])
    model = Checkpoint(
        name="trial",
        encoder=TransformerEncoder(shape),
        tokenizer=tokenizer,
        pooling=PoolingConfig(),
        head=MaskedWordHead(shape),
    )
    clock = _Clock(trial)
    config = TrainingConfig(
        max_steps=trial.steps,
        batch_tokens=trial.batch_tokens,
        learning_rate=trial.learning_rate,
        seed=trial.seed,
        eval_every=10**9,
        save_every=10**9,
        max_length=training.shape[1],
    )
    with tempfile.TemporaryDirectory() as folder:
        masking = MaskingConfig(mask_fraction=MASK_FRACTION, **dropping)
        objective = MaskedLanguageModelling(TokenRows.from_lists(list(training)), tokenizer, config=masking)
        trainer = Trainer(model, [Part(objective)], config=config, folder=Path(folder))
        trainer.fit(report=lambda metrics: clock.tick(int(metrics["step"])))
        trainer.finish()

    def scores(ids: Any, positions: Any) -> Any:
        hidden = model.encoder(ids).last[positions]
        return model.head(hidden, model.encoder.embedding.tokens.weight) if model.head else None

    parameters = sum(
        weight.numel() for module in (model.encoder, model.head) if module for weight in module.parameters()
    )
    return clock.figures(training.shape[1], _held_out_loss(scores, held_out, tokenizer), parameters)


def _theirs(
    peer: Peer, training: Rows, held_out: Rows, tokenizer: SubwordTokenizer, trial: TrainingTrial
) -> _RunFigures:
    """Run transformers' Trainer once, with BertForMaskedLM, in bfloat16 autocast where our Trainer has it."""
    import torch

    transformers = require("transformers", "interop")
    require("accelerate", "dev")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    transformers.utils.logging.set_verbosity_error()
    transformers.set_seed(trial.seed)
    shape = _shape(trial, tokenizer, training.shape[1])
    config = transformers.BertConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        intermediate_size=shape.intermediate_size,
        max_position_embeddings=shape.max_length,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attn_implementation=peer.removeprefix("transformers-"),
        pad_token_id=tokenizer.pad_id,
    )
    model = transformers.BertForMaskedLM(config)
    clock = _Clock(trial)

    class Ticking(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            clock.tick(state.global_step)

    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder,
            max_steps=trial.steps,
            per_device_train_batch_size=trial.batch_tokens // training.shape[1],
            learning_rate=trial.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=max(1, trial.steps // 20),
            weight_decay=0.01,
            adam_beta2=0.98,
            adam_epsilon=1e-6,
            bf16=_precision() == "bfloat16",
            use_cpu=True,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            seed=trial.seed,
        )
        data = [{"input_ids": torch.from_numpy(row.astype(np.int64))} for row in training]
        trainer = transformers.Trainer(
            model=model,
            args=arguments,
            train_dataset=data,
            data_collator=_Collator(tokenizer, trial.seed),
            callbacks=[Ticking()],
        )
        trainer.remove_callback(transformers.PrinterCallback)  # stdout is for the figures
        trainer.train()
    model.float().eval()

    def scores(ids: Any, positions: Any) -> Any:
        return model(input_ids=ids).logits[positions]

    parameters = sum(weight.numel() for weight in model.parameters())
    return clock.figures(training.shape[1], _held_out_loss(scores, held_out, tokenizer), parameters)


class _Collator:
    """What transformers' DataCollatorForLanguageModeling does, for a tokenizer of ours."""

    def __init__(self, tokenizer: SubwordTokenizer, seed: int) -> None:
        self._tokenizer, self._chance = tokenizer, np.random.default_rng([seed, 0xC0])

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        import torch

        ids = np.stack([row["input_ids"].numpy() for row in rows])
        masked, hidden = _mask(ids, self._tokenizer, self._chance)
        return {
            "input_ids": torch.from_numpy(masked),
            "labels": torch.from_numpy(np.where(hidden, ids, -100)),
            "attention_mask": torch.ones(ids.shape, dtype=torch.int64),
        }


def _mask(
    ids: NDArray[np.int64], tokenizer: SubwordTokenizer, chance: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    hidden = chance.random(ids.shape) < MASK_FRACTION
    hidden[:, [0, -1]] = False
    fate = chance.random(ids.shape)
    changed = np.where(hidden & (fate >= 0.1), tokenizer.mask_id, ids)
    return np.where(hidden & (fate >= 0.9), chance.integers(0, len(tokenizer), ids.shape), changed), hidden


def _held_out_loss(scores: Callable[[Any, Any], Any], held_out: Rows, tokenizer: SubwordTokenizer) -> float:
    """Return the mean masked-word loss in nats, in float32, with masks that are the same for every contender."""
    import torch
    from torch.nn import functional

    ids = held_out.astype(np.int64)
    masked, hidden = _mask(ids, tokenizer, np.random.default_rng(0x4E1D))
    total, count = 0.0, 0
    with torch.inference_mode():
        for start in range(0, len(ids), 32):
            rows = slice(start, start + 32)
            positions = torch.from_numpy(hidden[rows])
            logits = scores(torch.from_numpy(masked[rows]), positions)
            targets = torch.from_numpy(ids[rows][hidden[rows]])
            total += functional.cross_entropy(logits, targets, reduction="sum").item()
            count += len(targets)
    return total / count


class _Clock:
    """Times the steps after the first tenth, or profiles a few."""

    def __init__(self, trial: TrainingTrial) -> None:
        self._trial, self._first = trial, trial.steps // 10
        self._times: list[float] = []
        self._profiler: Any = None

    def tick(self, step: int) -> None:
        """Note that a step is done."""
        if step in (self._first, self._trial.steps):
            self._times.append(time.perf_counter())
        if self._trial.profile and step == PROFILED_FROM:
            from torch.profiler import ProfilerActivity, profile

            self._profiler = profile(activities=[ProfilerActivity.CPU])
            self._profiler.start()
        if self._profiler is not None and step == self._trial.steps:
            self._profiler.stop()

    def figures(self, width: int, loss: float, parameters: int) -> _RunFigures:
        """Put a run's figures together; ``width`` is the tokens of a row."""
        tokens = (self._trial.steps - self._first) * (self._trial.batch_tokens // width) * width
        return _RunFigures(tokens / (self._times[1] - self._times[0]), loss, parameters, self._profile())

    def _profile(self) -> tuple[tuple[str, float], ...]:
        if self._profiler is None:
            return ()
        times = {event.key: event.self_cpu_time_total for event in self._profiler.key_averages()}
        largest = sorted(times, key=times.__getitem__, reverse=True)[:PROFILED_OPERATIONS]
        return tuple((name, round(times[name] / sum(times.values()), 4)) for name in largest)

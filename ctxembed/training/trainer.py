"""The one training loop: any objective, seeded batches, checkpoints that a killed run continues from.

All chance of a step follows from the seed and the step number, so a resumed run does what an
uninterrupted one does.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ctxembed.config import TrainingConfig, to_mapping
from ctxembed.errors import ArtifactError, InvalidInputError
from ctxembed.model.device import is_bfloat16_fast
from ctxembed.runtime import atomic_path
from ctxembed.training.batches import TokenRowBatch, TokenRows, collate, micro_batches, plan_epoch, split_rows

STATE_FILE, METRICS_FILE = "state.safetensors", "metrics.jsonl"
HELD_OUT_FRACTION, HELD_OUT_MOST = 0.01, 1000

Report = Callable[[Mapping[str, float]], None]


@dataclass
class Progress:
    """Where a run stands."""

    step: int = 0
    """Optimiser steps done."""
    tokens: int = 0
    """Real tokens seen, padding excluded."""


def learning_rate_at(step: int, config: TrainingConfig) -> float:
    """Return the learning rate of a step counted from 0: linear warm-up, then half a cosine down to 0.

    >>> config = TrainingConfig(max_steps=100, learning_rate=1.0, warmup_fraction=0.1)
    >>> [round(learning_rate_at(step, config), 3) for step in (0, 9, 10, 55, 99)]
    [0.1, 1.0, 1.0, 0.5, 0.0]
    """
    warmup = round(config.max_steps * config.warmup_fraction)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, config.max_steps - warmup)))


class Trainer:
    """Runs an objective over a store of rows; everything about the run lies in one folder."""

    def __init__(
        self,
        objective: nn.Module,
        store: TokenRows,
        *,
        config: TrainingConfig,
        folder: Path,
        pad_id: int,
        settings: Mapping[str, Any] | None = None,
        device: torch.device | None = None,
    ) -> None:
        """Prepare a run.

        Args:
            objective: A module that satisfies ``Objective``.
            store: The rows; a seeded hundredth (at most a thousand rows) is held out for evaluation.
            config: How long and how fast.
            folder: Where state.safetensors and metrics.jsonl go.
            pad_id: The token that fills short rows.
            settings: What else decides the run (data, objective); a resumed run must have the same.
            device: Where to compute; the CPU by default.
        """
        self.objective = objective
        self.store = store
        self.config = config
        self.folder = folder
        self.pad_id = pad_id
        self.device = device or torch.device("cpu")
        self.objective.to(self.device)
        self.settings = json.loads(json.dumps({**to_mapping(config), **(settings or {})}))
        self.rows, self.held_out = split_rows(
            len(store), fraction=HELD_OUT_FRACTION, most=HELD_OUT_MOST, seed=config.seed
        )
        self.parameters = [parameter for parameter in objective.parameters() if parameter.requires_grad]
        matrices = [parameter for parameter in self.parameters if parameter.ndim >= 2]
        others = [parameter for parameter in self.parameters if parameter.ndim < 2]
        self.optimiser = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=config.learning_rate,
            betas=(0.9, 0.98),
            eps=1e-6,
            fused=True,
        )
        self.progress = Progress()
        self._autocast = is_bfloat16_fast(self.device)

    def fit(
        self, *, report: Report | None = None, evaluate: Callable[[], Mapping[str, float]] | None = None
    ) -> Progress:
        """Train up to ``max_steps``, from where the run stands.

        Args:
            report: Called after every step with loss, tokens_per_second, step and the objective's metrics.
            evaluate: Measures something else at every evaluation; its figures join metrics.jsonl.

        Returns:
            Where the run stands now.
        """
        config = self.config
        self.folder.mkdir(parents=True, exist_ok=True)
        batches = self._batches()
        window: list[Mapping[str, float]] = []
        while self.progress.step < config.max_steps:
            metrics = self._step(batches)
            window.append(metrics)
            step = self.progress.step
            last = step == config.max_steps
            if report is not None:
                report({**metrics, "step": float(step)})
            if step % config.log_every == 0 or last:
                self._log(_means(window))
                window.clear()
            if step % config.eval_every == 0 or last:
                self._log({**self.evaluate(), **(evaluate() if evaluate else {})})
            if step % config.save_every == 0 or last:
                self.save()
        self.objective.eval()
        return self.progress

    def evaluate(self) -> dict[str, float]:
        """Return the objective's mean loss and metrics over the held-out rows, named ``eval_...``."""
        config = self.config
        batches = plan_epoch(
            self.store.lengths,
            self.held_out,
            batch_tokens=config.batch_tokens // config.accumulation,
            seed=config.seed,
            epoch=0,
        )
        generator = torch.Generator().manual_seed(config.seed)
        self.objective.eval()
        results = []
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
            for rows in batches:
                loss = self.objective(self._batch(rows), generator)
                results.append({"loss": loss.value.item(), **loss.metrics})
        return {f"eval_{name}": value for name, value in _means(results).items()}

    def save(self) -> None:
        """Write all that is needed to go on, in one file that appears whole or not at all."""
        from safetensors.torch import save_file

        tensors = {f"model.{name}": value.contiguous() for name, value in self.objective.state_dict().items()}
        for number, parameter in enumerate(self.parameters):
            state = self.optimiser.state[parameter]
            if state:
                tensors[f"first.{number}"], tensors[f"second.{number}"] = state["exp_avg"], state["exp_avg_sq"]
        metadata = {"progress": json.dumps(vars(self.progress)), "settings": json.dumps(self.settings)}
        with atomic_path(self.folder / STATE_FILE) as temporary:
            save_file(tensors, str(temporary), metadata=metadata)

    def resume(self) -> bool:
        """Take up the run that the folder holds; false if there is none yet.

        Raises:
            InvalidInputError: If the run was started with other settings.
            ArtifactError: If its state cannot be read.
        """
        from safetensors import SafetensorError, safe_open

        file = self.folder / STATE_FILE
        if not file.exists():
            self._forget_later_metrics()
            return False
        try:
            with safe_open(str(file), framework="pt") as state:
                metadata = state.metadata()
                tensors = {name: state.get_tensor(name) for name in state.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ArtifactError(f"{file} cannot be read ({error}): delete {self.folder} and start anew") from error
        _refuse_other_settings(json.loads(metadata["settings"]), self.settings)
        self._restore(tensors, Progress(**json.loads(metadata["progress"])))
        self._forget_later_metrics()
        return True

    def _restore(self, tensors: dict[str, Tensor], progress: Progress) -> None:
        self.progress = progress
        model = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
        self.objective.load_state_dict(model)
        for number, parameter in enumerate(self.parameters):
            if f"first.{number}" in tensors:
                self.optimiser.state[parameter] = {
                    "step": torch.tensor(float(progress.step), device=self.device),
                    "exp_avg": tensors[f"first.{number}"].to(self.device),
                    "exp_avg_sq": tensors[f"second.{number}"].to(self.device),
                }

    def _batches(self) -> Iterator[NDArray[np.int64]]:
        config = self.config
        return micro_batches(
            self.store.lengths,
            self.rows,
            batch_tokens=config.batch_tokens // config.accumulation,
            seed=config.seed,
            skip=self.progress.step * config.accumulation,
        )

    def _step(self, batches: Iterator[NDArray[np.int64]]) -> dict[str, float]:
        config, started = self.config, time.perf_counter()
        step = self.progress.step
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        torch.manual_seed(config.seed * 1_000_003 + step)  # dropout draws from the global generator
        self.objective.train()
        self.optimiser.zero_grad(set_to_none=True)
        tokens, results = 0, []
        for _ in range(config.accumulation):
            batch = self._batch(next(batches))
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
                loss = self.objective(batch, generator)
            (loss.value / config.accumulation).backward()
            tokens += batch.num_tokens
            results.append({"loss": loss.value.item(), **loss.metrics})
        for parameter in self.parameters:
            if parameter.grad is None:  # its part had no target: it steps all the same, as a resumed run assumes
                parameter.grad = torch.zeros_like(parameter)
        metrics = _means(results)
        if not math.isfinite(metrics["loss"]):
            raise InvalidInputError(
                f"the loss became {metrics['loss']} at step {step + 1}: lower learning_rate ({config.learning_rate})"
            )
        norm = nn.utils.clip_grad_norm_(self.parameters, config.clip_norm)
        rate = learning_rate_at(step, config)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        self.progress.step += 1
        self.progress.tokens += tokens
        speed = tokens / (time.perf_counter() - started)
        return {**metrics, "gradient_norm": norm.item(), "learning_rate": rate, "tokens_per_second": speed}

    def _batch(self, rows: NDArray[np.int64]) -> TokenRowBatch:
        batch = collate(self.store, rows, pad_id=self.pad_id)
        return TokenRowBatch(batch.rows, batch.ids.to(self.device), batch.lengths.to(self.device))

    def _log(self, metrics: Mapping[str, float]) -> None:
        line: dict[str, float] = {"step": self.progress.step, "tokens": self.progress.tokens}
        line |= {name: float(f"{value:.6g}") for name, value in metrics.items()}
        with (self.folder / METRICS_FILE).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")

    def _forget_later_metrics(self) -> None:
        """Drop lines that the killed run wrote after its last checkpoint: those steps are done again."""
        file = self.folder / METRICS_FILE
        if not file.exists():
            return
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= self.progress.step]
        with atomic_path(file) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")


def _means(results: list[Any]) -> dict[str, float]:
    """Average each metric over the results that have it."""
    names = dict.fromkeys(name for result in results for name in result)
    return {name: float(np.mean([result[name] for result in results if name in result])) for name in names}


def _refuse_other_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            raise InvalidInputError(
                f"the run was started with {name} = {before.get(name)!r}, now it is {now.get(name)!r}: "
                "resume with the same settings, or start another run elsewhere"
            )

"""The one training loop: a mixture of objectives, seeded batches, checkpoints that a killed run continues from.

All chance of a step follows from the seed and the step number, so a resumed run does what an
uninterrupted one does. Where bfloat16 is fast the networks compute in it, and the weights that are
adjusted are kept beside them in float32.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ctxembed.config import TrainingConfig, check, to_mapping
from ctxembed.model.checkpoint import Checkpoint, checkpoint_modules
from ctxembed.model.device import is_bfloat16_fast
from ctxembed.runtime import keep_memory
from ctxembed.training import distributed
from ctxembed.training.batches import micro_batches, plan_epoch, split_rows
from ctxembed.training.objectives.base import Objective
from ctxembed.training.progress import Progress, learning_rate_at
from ctxembed.training.state import METRICS_FILE, append_metrics, forget_later_metrics, read_state, write_state

HELD_OUT_FRACTION, HELD_OUT_MOST = 0.01, 1000

Report = Callable[[Mapping[str, float]], None]


@dataclass(frozen=True, slots=True)
class Part:
    """An objective in a mixture."""

    objective: Objective[Any]
    share: float = 1.0
    """Of the tokens of each step."""
    weight: float = 1.0
    """Of its loss in the sum."""


@dataclass(frozen=True, slots=True)
class _BatchLoss:
    """What a batch says about an objective."""

    own_part: Tensor
    """A scalar: this process's part of the mean loss, to descend."""
    metrics: dict[str, float]
    """Means over the terms of all processes, ``loss`` among them."""
    count: float
    """The terms of all processes."""
    num_tokens: int
    """Of all processes."""


class Trainer:
    """Trains a model on a mixture of objectives; all that a run needs to go on lies in one folder."""

    def __init__(
        self,
        model: Checkpoint,
        parts: Sequence[Part],
        *,
        config: TrainingConfig,
        folder: Path,
        metrics: Path | None = None,
        settings: Mapping[str, Any] | None = None,
        device: torch.device | None = None,
        started: float | None = None,
    ) -> None:
        """Prepare a run.

        Args:
            model: Trained in place; ``finish`` leaves it in float32 on the CPU.
            parts: The mixture; of each objective's items a seeded hundredth (at most a thousand) is held out.
            config: How long and how fast.
            folder: Where state.safetensors goes.
            metrics: The file of the loss curve; metrics.jsonl in ``folder`` by default.
            settings: What else decides the run; a resumed run must have the same.
            device: Where to compute; the CPU by default.
            started: When a budget's clock began (``time.perf_counter``); now by default.

        Raises:
            InvalidInputError: If a share or weight is not positive.
        """
        for part in parts:
            check(part.share > 0, f"share = {part.share} of {part.objective.kind}: must be above 0")
            check(part.weight > 0, f"weight = {part.weight} of {part.objective.kind}: must be above 0")
        self.model, self.parts, self.config, self.folder = model, parts, config, folder
        self.metrics_file = metrics or folder / METRICS_FILE
        self.device = device or torch.device("cpu")
        self.progress = Progress()
        self.held_out: dict[str, float] = {}
        """What ``evaluate`` last returned in ``fit``; the last step is always evaluated."""
        self.settings = json.loads(json.dumps({**to_mapping(config), **(settings or {})}))
        self._shares = [part.share / sum(each.share for each in parts) for part in parts]
        self._marks = _marks([part.objective.kind for part in parts])
        self._dealt = [
            split_rows(len(part.objective.costs), fraction=HELD_OUT_FRACTION, most=HELD_OUT_MOST, seed=config.seed)
            for part in parts
        ]
        objectives = nn.ModuleList(part.objective for part in parts)
        self._modules = nn.ModuleDict({"model": checkpoint_modules(model), "objectives": objectives}).to(self.device)
        self._networks = {name: weight for name, weight in self._modules.named_parameters() if weight.requires_grad}
        self._low_precision = is_bfloat16_fast(self.device)
        self._weights = {name: nn.Parameter(weight.detach().clone()) for name, weight in self._networks.items()}
        if self._low_precision:  # the model alone: what objectives add to it is small
            for weight in self._modules["model"].parameters():  # fixed positions are no parameter: they stay exact
                weight.data = weight.data.to(torch.bfloat16)
        self._optimiser = self._make_optimiser()
        self._started = time.perf_counter() if started is None else started

    def fit(self, *, report: Report | None = None, tell: Callable[[str], None] | None = None) -> Progress:
        """Train from where the run stands until its steps are done or its time is up.

        Args:
            report: Called after every step with its line of metrics.jsonl and ``done``, the part of the run behind it.
            tell: Called with a budget's forecast, and with what became of it.

        Returns:
            Where the run stands now.

        Raises:
            InvalidInputError: If nothing of the budget is left for the first step.
            DivergedError: If the loss is no number any more, or far above its lowest.
        """
        keep_memory()
        if distributed.rank() == 0:
            self.metrics_file.parent.mkdir(parents=True, exist_ok=True)
        config, streams = self.config, self._streams()
        before, forecast = self.progress.seconds, None
        self._tell_time(before)
        if self.progress.step == 0:
            self.progress.prepared = self.progress.seconds
            check(
                config.budget is None or self.progress.prepared < config.budget,
                f"budget = {config.budget}: preparing took {self.progress.prepared:.1f} seconds, raise it",
            )
        probe = [(self.progress.seconds, self.progress.tokens)]
        done = self.progress.done(config)
        while done < 1:
            metrics = self._step(streams, done)
            self._tell_time(before)
            step, done = self.progress.step, self.progress.done(config)
            self._log(metrics)
            if report is not None:
                report({**metrics, "step": float(step), "done": done})
            if config.budget is not None and forecast is None:
                probe.append((self.progress.seconds, self.progress.tokens))
                forecast = self.progress.forecast(probe, config.budget)
                if forecast and tell:
                    tell(f"forecast: {forecast[0]:,} steps and {forecast[1]:,} tokens in {config.budget:,.0f} s")
            if step % config.eval_every == 0 or done >= 1:
                self.held_out = self.evaluate()
                self._log(self.held_out)
            if step % config.save_every == 0 or done >= 1:
                self.save()
        if forecast and tell:
            tell(
                f"forecast {forecast[0]:,} steps, {forecast[1]:,} tokens; done {self.progress.step:,} steps, "
                f"{self.progress.tokens:,} tokens in {self.progress.seconds:,.0f} s"
            )
        return self.progress

    def evaluate(self) -> dict[str, float]:
        """Return each objective's mean metrics over its held-out items, named ``eval_...``."""
        self._modules.eval()
        figures: dict[str, float] = {}
        with torch.no_grad():
            for number, part in enumerate(self.parts):
                batches = plan_epoch(
                    part.objective.costs,
                    self._dealt[number][1],
                    batch_tokens=self._micro_tokens(number),
                    seed=self.config.seed,
                    epoch=0,
                )
                losses = [self._loss(part, items, seed=(self.config.seed, 0xE7A1, number)) for items in batches]
                means = distributed.weighted_means([loss.metrics for loss in losses], [loss.count for loss in losses])
                figures["eval_loss"] = figures.get("eval_loss", 0.0) + part.weight * means.pop("loss")
                figures |= {f"eval_{name}{self._marks[number]}": value for name, value in means.items()}
        return figures

    def finish(self) -> None:
        """Leave the trained weights in the model: float32, on the CPU, in evaluation mode."""
        self._modules.to("cpu", torch.float32).eval()
        with torch.no_grad():
            for name, weight in self._weights.items():
                self._networks[name].copy_(weight)

    def save(self) -> None:
        """Write all that is needed to go on into the folder."""
        if distributed.rank() != 0:
            return
        tensors = {f"weight.{name}": weight.detach() for name, weight in self._weights.items()}
        for name, weight in self._weights.items():
            state = self._optimiser.state[weight]
            tensors[f"first.{name}"], tensors[f"second.{name}"] = state["exp_avg"], state["exp_avg_sq"]
        write_state(self.folder, tensors, self.progress, self.settings)

    def resume(self) -> bool:
        """Take up the run that the folder holds; false if nothing was saved yet.

        Raises:
            InvalidInputError: If the run was started with other settings.
            ArtifactError: If its state cannot be read.
        """
        state = read_state(self.folder, self.settings)
        if state is not None:
            self._restore(*state)
        if distributed.rank() == 0:
            forget_later_metrics(self.metrics_file, self.progress.step)
        return state is not None

    def _restore(self, tensors: Mapping[str, Tensor], progress: Progress) -> None:
        self.progress = progress
        with torch.no_grad():
            for name, weight in self._weights.items():
                weight.copy_(tensors[f"weight.{name}"])
                self._optimiser.state[weight] = {
                    "step": torch.tensor(float(progress.step), device=self.device),
                    "exp_avg": tensors[f"first.{name}"].to(self.device),
                    "exp_avg_sq": tensors[f"second.{name}"].to(self.device),
                }
                self._networks[name].copy_(weight)

    def _make_optimiser(self) -> torch.optim.Optimizer:
        matrices = [weight for weight in self._weights.values() if weight.ndim >= 2]
        others = [weight for weight in self._weights.values() if weight.ndim < 2]
        return torch.optim.AdamW(
            [{"params": matrices, "weight_decay": self.config.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=self.config.learning_rate,
            betas=(0.9, 0.98),
            eps=1e-6,
            fused=True,
        )

    def _micro_tokens(self, number: int) -> int:
        """Tokens of one batch of an objective, at least one row's."""
        tokens = int(self.config.batch_tokens * self._shares[number])
        return max(self.config.max_length, tokens // self._pieces(number))

    def _pieces(self, number: int) -> int:
        return 1 if self.parts[number].objective.compares_rows else self.config.accumulation

    def _streams(self) -> list[Iterator[NDArray[np.int64]]]:
        """Return for each objective its batches from here on."""
        return [
            micro_batches(
                part.objective.costs,
                self._dealt[number][0],
                batch_tokens=self._micro_tokens(number),
                seed=self.config.seed,
                skip=self.progress.step * self._pieces(number),
            )
            for number, part in enumerate(self.parts)
        ]

    def _step(self, streams: Sequence[Iterator[NDArray[np.int64]]], done: float) -> dict[str, float]:
        config, step = self.config, self.progress.step
        torch.manual_seed(config.seed * 1_000_003 + step)  # dropout draws from the global generator
        self._modules.train()
        metrics: dict[str, float] = {"loss": 0.0}
        for number, part in enumerate(self.parts):
            batches = [next(streams[number]) for _ in range(self._pieces(number))]
            costs = [float(part.objective.costs[items].sum()) for items in batches]
            results = []
            for piece, items in enumerate(batches):
                loss = self._loss(part, items, seed=(config.seed, step, number, piece))
                torch.autograd.backward(loss.own_part * (part.weight * costs[piece] / sum(costs)))
                self.progress.tokens += loss.num_tokens
                results.append(loss.metrics)
            means = distributed.weighted_means(results, costs)
            metrics["loss"] += part.weight * means.pop("loss")
            metrics |= {f"{name}{self._marks[number]}": value for name, value in means.items()}
        norm = self._gradients()
        self.progress.watch(metrics["loss"], norm, learning_rate=config.learning_rate)
        first = 1 / config.max_steps if config.budget is None else 0.0
        rate = learning_rate_at(done + 0.5 * (done / step if step else first), config)  # at the middle of the step
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        self._optimiser.step()
        with torch.no_grad():
            torch._foreach_copy_(list(self._networks.values()), list(self._weights.values()))
        self.progress.step += 1
        return {**metrics, "gradient_norm": norm, "learning_rate": rate}

    def _loss(self, part: Part, items: NDArray[np.int64], *, seed: tuple[int, ...]) -> _BatchLoss:
        """Compute this process's part of a batch, and what all processes have together."""
        own = np.resize(items, max(len(items), distributed.world_size()))[
            distributed.rank() :: distributed.world_size()
        ]
        batch = part.objective.prepare(own, seed=seed).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._low_precision):
            loss = part.objective(self.model, batch)
        count = distributed.total(loss.count, self.device)
        metrics = {"loss": loss.value.item(), **loss.metrics}
        tokens = int(distributed.total(batch.num_tokens, self.device))
        own_part = loss.value * (loss.count / max(count, 1))
        return _BatchLoss(own_part, distributed.mean_metrics(metrics, loss.count), count, tokens)

    def _gradients(self) -> float:
        """Move gradients from the networks to the weights, summed over processes and clipped; return their norm."""
        for name, weight in self._weights.items():
            gradient = self._networks[name].grad
            self._networks[name].grad = None
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
            if gradient is None:  # its objective had nothing to say: it steps all the same, as a resumed run assumes
                weight.grad.zero_()
            else:
                weight.grad.copy_(gradient)
        distributed.add_gradients(self._weights.values())
        return nn.utils.clip_grad_norm_(self._weights.values(), self.config.clip_norm).item()

    def _tell_time(self, before: float) -> None:
        """Note the time spent, in all pieces of the run and by the first process's clock."""
        self.progress.seconds = distributed.from_first(before + time.perf_counter() - self._started, self.device)

    def _log(self, metrics: Mapping[str, float]) -> None:
        if distributed.rank() == 0:
            append_metrics(self.metrics_file, metrics, self.progress)


def _marks(kinds: Sequence[str]) -> list[str]:
    """Return what is put after the names of each objective's metrics: a number where a kind comes more than once.

    >>> _marks(["mlm", "senses", "mlm"])
    ['_1', '', '_2']
    """
    return [f"_{kinds[: n + 1].count(kind)}" if kinds.count(kind) > 1 else "" for n, kind in enumerate(kinds)]

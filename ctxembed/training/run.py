"""One training run, from a starting point and a mixture of objectives to a model folder.

While a run goes on, its folder holds ``metrics.jsonl`` and ``.run/`` (tokenizer, token rows, state); the
model's own files appear when it is done.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ctxembed.config import TrainingConfig, check, to_mapping
from ctxembed.errors import CtxEmbedError, InvalidInputError
from ctxembed.model.checkpoint import CONFIG_FILE, Checkpoint, load_checkpoint, save_checkpoint
from ctxembed.runtime import environment
from ctxembed.training import distributed
from ctxembed.training.batches import padded_width
from ctxembed.training.plans import Plan, Preparation
from ctxembed.training.progress import DivergedError
from ctxembed.training.start import Start
from ctxembed.training.state import METRICS_FILE, STATE_FILE
from ctxembed.training.trainer import Part, Report, Trainer

RUN_FOLDER = ".run"
LAST_GOOD = "last-good"


@dataclass(frozen=True, kw_only=True)
class Run:
    """What every training run has, whatever its objectives."""

    folder: Path
    """Where the model goes."""
    training: TrainingConfig
    """How long and how fast."""
    resume: bool = False
    """Take up an unfinished run."""
    device: torch.device | None = None
    """Where to compute; None is the CPU."""
    report: Report | None = None
    """Called after every step."""
    tell: Callable[[str], None] | None = None
    """Called with a line about what was prepared, and about a budget."""
    notes: Mapping[str, Any] | None = None
    """What to keep in training.json beside the settings (the names of the inputs, say)."""
    started: float = field(default_factory=time.perf_counter)
    """When the clock of a budget began to run."""

    @contextlib.contextmanager
    def opened(self) -> Iterator[Path]:
        """Make the run folder; a mistake before anything was saved leaves nothing that is in the way of its correction.

        Raises:
            InvalidInputError: If a model or another run is in the way, or there is nothing to resume.
        """
        if (self.folder / CONFIG_FILE).exists():
            raise InvalidInputError(f"{self.folder} already holds a model: choose another output, or delete it")
        run = self.folder / RUN_FOLDER
        if run.exists() and not self.resume:
            raise InvalidInputError(f"{self.folder} holds an unfinished run: --resume it, or delete the folder")
        if self.resume and not run.exists():
            raise InvalidInputError(f"{self.folder} holds no run to resume: leave out --resume")
        distributed.barrier()
        if distributed.rank() == 0:
            if not (run / STATE_FILE).exists():  # what a run that saved nothing had prepared may be out of date
                shutil.rmtree(run, ignore_errors=True)
            run.mkdir(parents=True, exist_ok=True)
        distributed.barrier()
        try:
            yield run
        except CtxEmbedError:
            if not self.resume and not (run / STATE_FILE).exists():
                self._clear(run)
            raise

    def _clear(self, run: Path) -> None:
        shutil.rmtree(run, ignore_errors=True)
        (self.folder / METRICS_FILE).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # the folder may hold something of the user's
            self.folder.rmdir()


def train(start: Start, plans: Sequence[Plan], *, run: Run) -> Checkpoint:
    """Train a model.

    Started by torchrun, several processes share every batch and only the first writes.

    Args:
        start: The model to begin with.
        plans: The objectives, mixed by their shares and weights.
        run: Where, how long, how fast.

    Returns:
        The trained model, which is also in the folder.

    Raises:
        InvalidInputError: If the data hold nothing to learn from, the settings do not fit together, the folder is
            taken, or the training diverged (the model of its last checkpoint is then in ``last-good``).
    """
    check(bool(plans), "a run needs at least one objective")
    with distributed.processes(run.device or torch.device("cpu")), run.opened() as folder:
        if distributed.rank() != 0:  # one process speaks for all
            run = replace(run, report=None, tell=None)
        torch.manual_seed(run.training.seed)
        model, origin = start.model(run.folder.name, folder=folder, training=run.training, tell=run.tell)
        longest, limit = run.training.max_length, model.encoder.config.max_length
        width = int(padded_width(np.array(longest)))
        check(
            width <= limit,
            f"rows of max_length = {longest} tokens{f', padded to {width},' if width != longest else ','} but the "
            f"encoder's is {limit}: lower the first or raise the second",
        )
        parts = []
        for number, plan in enumerate(plans):
            prepared = Preparation(
                model, max_length=run.training.max_length, path=folder / f"rows-{number}", tell=run.tell
            )
            parts.append(Part(plan.build(prepared), share=plan.share, weight=plan.weight))
        settings = {
            **origin,
            "encoder": to_mapping(model.encoder.config),
            "decoder": None if model.decoder is None else to_mapping(model.decoder.config),
            "pooling": to_mapping(model.pooling),
            "tokenizer": model.tokenizer.fingerprint,
            "objectives": [{**_described(part), **plan.source} for part, plan in zip(parts, plans, strict=True)],
        }
        return _fit(model, parts, settings, folder=folder, run=run)


def _described(part: Part) -> dict[str, Any]:
    objective = part.objective
    return {
        "kind": objective.kind,
        "share": part.share,
        "weight": part.weight,
        "items": len(objective.costs),
        "tokens": int(objective.costs.sum()),
        **objective.settings,
    }


def _fit(
    model: Checkpoint, parts: Sequence[Part], settings: Mapping[str, Any], *, folder: Path, run: Run
) -> Checkpoint:
    trainer = Trainer(
        model,
        parts,
        config=run.training,
        folder=folder,
        metrics=run.folder / METRICS_FILE,
        settings=settings,
        device=run.device,
        started=run.started,
    )
    if run.resume:
        trainer.resume()
    try:
        progress = trainer.fit(report=run.report, tell=run.tell)
    except DivergedError as error:
        raise InvalidInputError(f"{error}; {_keep_last_good(trainer, model, folder, run)}") from error
    held_out = trainer.held_out or trainer.evaluate()  # a run that was killed after its last step takes none
    trainer.finish()
    training = {
        **trainer.settings,
        "steps": progress.step,
        "tokens_seen": progress.tokens,
        "processes": distributed.world_size(),
        "held_out": held_out,
        **(run.notes or {}),
        "environment": environment(),
    }
    if distributed.rank() == 0:
        save_checkpoint(run.folder, model, training=training, card=model_card(model, training))
        shutil.rmtree(folder)
    distributed.barrier()
    return load_checkpoint(run.folder)


def _keep_last_good(trainer: Trainer, model: Checkpoint, folder: Path, run: Run) -> str:
    """Save the model of the last checkpoint; return what to tell of it."""
    if not (folder / STATE_FILE).exists():
        return "nothing had been saved yet"
    trainer.resume()
    trainer.finish()
    place = run.folder / LAST_GOOD
    if distributed.rank() == 0:
        save_checkpoint(place, replace(model, name=LAST_GOOD), training={**trainer.settings, **vars(trainer.progress)})
    return f"the model of step {trainer.progress.step} is in {place}: go on --from it"


def model_card(model: Checkpoint, training: Mapping[str, Any]) -> str:
    """Write the README.md of a model folder from what is known about its training."""
    shape = model.encoder.config
    parameters = sum(parameter.numel() for parameter in model.encoder.parameters())
    lines = [
        f"# {model.name}",
        "",
        f"A ctxembed encoder: {shape.num_layers} layers, {shape.hidden_size} wide, {shape.num_heads} heads, "
        f"{shape.vocab_size:,} tokens of vocabulary, {parameters / 1e6:.1f} M parameters.",
        "",
        *(
            f"- objective: {each['kind']}, share {each['share']:g}, weight {each['weight']:g}, {each['items']:,} items"
            for each in training["objectives"]
        ),
        *_sources(training),
        f"- seed {training['seed']}, {training['steps']:,} steps, {training['tokens_seen']:,} tokens seen",
        *(f"- {name}: {value:.4g}" for name, value in training["held_out"].items()),
        "",
        "All settings are in training.json, the course of the training in metrics.jsonl.",
    ]
    return "\n".join(lines) + "\n"


def _sources(training: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the card about what the notes say was learned from."""
    if initial := training.get("initial_name"):
        yield f"- continued from: {initial}"
    if inputs := training.get("inputs"):
        yield f"- inputs: {', '.join(inputs)}"
    for teacher in training.get("teachers", ()):
        yield f"- teacher: {teacher}"

"""From a corpus to a model folder: the steps around the training loop, the same from Python and the command line.

While a run goes on, its folder holds ``.run/`` (tokenizer, state, metrics); the model's own files
appear when it is done.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import itertools
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ctxembed.config import EncoderConfig, PoolingConfig, TrainingConfig, check, from_mapping, to_mapping
from ctxembed.corpus import require_restartable, sample_documents
from ctxembed.errors import CtxEmbedError, InvalidInputError
from ctxembed.model.checkpoint import CONFIG_FILE, Checkpoint, load_checkpoint, save_checkpoint
from ctxembed.model.encoder import MaskedWordHead, TransformerEncoder
from ctxembed.runtime import environment
from ctxembed.tokenizer import SubwordTokenizer, TokenizerConfig
from ctxembed.training.batches import TokenRows, chunk_texts
from ctxembed.training.objectives import (
    Distillation,
    DistillationConfig,
    MaskedLanguageModelling,
    MaskingConfig,
)
from ctxembed.training.targets import VectorTargets
from ctxembed.training.trainer import METRICS_FILE, STATE_FILE, Report, Trainer
from ctxembed.types import Document

RUN_FOLDER = ".run"
TOKENIZER_SAMPLE = 200_000


@dataclass(frozen=True, kw_only=True)
class Run:
    """What every training run has, whatever its objective."""

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
    """Called with a line about what was prepared, before the first step."""
    evaluate: Callable[[Checkpoint], Mapping[str, float]] | None = None
    """Measures the model at every evaluation."""
    notes: Mapping[str, Any] | None = None
    """What to keep in training.json beside the settings (the names of the inputs, say)."""

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
        run.mkdir(parents=True, exist_ok=True)
        try:
            yield run
        except CtxEmbedError:
            if not self.resume and not (run / STATE_FILE).exists():
                shutil.rmtree(run)
                with contextlib.suppress(OSError):  # the folder may hold something of the user's
                    self.folder.rmdir()
            raise


def prepare_documents(documents: Iterable[Document], *, most: int | None, seed: int) -> Iterable[Document]:
    """Return the documents, or a seeded sample of ``most`` of them, held in memory."""
    require_restartable(documents)
    return documents if most is None else sample_documents(documents, size=most, seed=seed)


def train_mlm(
    documents: Iterable[Document],
    *,
    run: Run,
    shape: Mapping[str, Any],
    tokenizer: SubwordTokenizer | TokenizerConfig,
    masking: MaskingConfig | None = None,
) -> Checkpoint:
    """Train an encoder from nothing by masked-language modelling.

    Args:
        documents: Restartable.
        run: Where, how long, how fast.
        shape: Fields of ``EncoderConfig`` other than ``vocab_size``; a preset, say.
        tokenizer: A trained one, or how to train one on (a sample of) the documents.
        masking: Which tokens are hidden.

    Returns:
        The trained model, which is also in the folder.

    Raises:
        InvalidInputError: If the corpus is empty, the shape is impossible, or the folder is taken.
    """
    check(
        "vocab_size" not in shape,
        "vocab_size is not the encoder's to choose: it follows from the tokenizer, set it there",
    )
    config = from_mapping(EncoderConfig, {**shape, "vocab_size": 1})  # until the tokenizer is known
    row_length = _row_length(run, config)
    with run.opened() as folder:
        masking = masking or MaskingConfig()
        own = _run_tokenizer(documents, tokenizer, folder, seed=run.training.seed)
        config = replace(config, vocab_size=len(own))
        counter = itertools.count()
        texts = (document.text for document, _ in zip(documents, counter, strict=False))
        store = chunk_texts(texts, own, max_length=row_length)
        origin = _tokenizer_origin(tokenizer, num_documents=next(counter), tell=run.tell)
        torch.manual_seed(run.training.seed)
        encoder, head = TransformerEncoder(config), MaskedWordHead(config)
        objective = MaskedLanguageModelling(encoder, head, own, config=masking)
        checkpoint = Checkpoint(
            name=run.folder.name, encoder=encoder, tokenizer=own, pooling=PoolingConfig(), head=head
        )
        settings = {"objective": "mlm", "encoder": to_mapping(config), "masking": to_mapping(masking), **origin}
        return _fit(objective, store, checkpoint, run=run, settings=settings)


def distill(
    targets: VectorTargets,
    *,
    run: Run,
    initial: Checkpoint,
    config: DistillationConfig | None = None,
    masking: MaskingConfig | None = None,
    pooling: PoolingConfig | None = None,
) -> Checkpoint:
    """Train a model further to follow a teacher's vectors.

    Args:
        targets: The teacher's vectors, aligned with the tokenizer of ``initial``.
        run: Where, how long, how fast.
        initial: The model to start from, left as it is; it must have a masked-word head.
        config: How much each part counts.
        masking: For the masked-language modelling beside it.
        pooling: How the trained model pools; as ``initial`` does by default.

    Returns:
        The trained model, which is also in the folder.

    Raises:
        InvalidInputError: If the initial model has no masked-word head or no such layer, or the folder is taken.
    """
    config, masking = config or DistillationConfig(), masking or MaskingConfig()
    if initial.head is None:
        raise InvalidInputError(f"the model {initial.name} has no masked-word head: start from one made by train mlm")
    torch.manual_seed(run.training.seed)
    encoder, head = copy.deepcopy((initial.encoder, initial.head))
    own = pooling or initial.pooling
    checkpoint = replace(initial, name=run.folder.name, encoder=encoder, head=head, pooling=own, fingerprint="")
    masked = MaskedLanguageModelling(encoder, head, initial.tokenizer, config=masking)
    objective = Distillation(masked, targets, config=config, pooling=own)
    settings = {
        "objective": "distill",
        "initial": initial.fingerprint,
        "teachers": targets.teachers,
        "encoder": to_mapping(initial.encoder.config),
        "pooling": to_mapping(own),
        "distillation": to_mapping(config),
        "masking": to_mapping(masking),
    }
    with run.opened():
        return _fit(objective, targets.store, checkpoint, run=run, settings=settings)


def _fit(
    objective: torch.nn.Module, store: TokenRows, checkpoint: Checkpoint, *, run: Run, settings: Mapping[str, Any]
) -> Checkpoint:
    folder = run.folder / RUN_FOLDER
    settings = {
        **settings,
        "rows": len(store),
        "row_tokens": len(store.ids),
        "texts_sha256": hashlib.sha256(store.ids.tobytes()).hexdigest(),
        "tokenizer": checkpoint.tokenizer.fingerprint,
    }
    trainer = Trainer(
        objective,
        store,
        config=run.training,
        folder=folder,
        pad_id=checkpoint.tokenizer.pad_id,
        settings=settings,
        device=run.device,
    )
    if run.resume:
        trainer.resume()
    evaluate = None if run.evaluate is None else (lambda measure=run.evaluate: measure(checkpoint))
    progress = trainer.fit(report=run.report, evaluate=evaluate)
    figures = trainer.evaluate()
    objective.to("cpu")
    training = {
        **trainer.settings,
        "steps": progress.step,
        "tokens_seen": progress.tokens,
        "held_out": figures,
        **(run.notes or {}),
        "environment": environment(),
    }
    shutil.copyfile(folder / METRICS_FILE, run.folder / METRICS_FILE)
    save_checkpoint(run.folder, checkpoint, training=training, card=model_card(checkpoint, training))
    shutil.rmtree(folder)
    return load_checkpoint(run.folder)


def model_card(checkpoint: Checkpoint, training: Mapping[str, Any]) -> str:
    """Write the README.md of a model folder from what is known about its training."""
    shape = checkpoint.encoder.config
    parameters = sum(parameter.numel() for parameter in checkpoint.encoder.parameters())
    lines = [
        f"# {checkpoint.name}",
        "",
        f"A ctxembed encoder: {shape.num_layers} layers, {shape.hidden_size} wide, {shape.num_heads} heads, "
        f"{shape.vocab_size:,} tokens of vocabulary, {parameters / 1e6:.1f} M parameters.",
        "",
        f"- objective: {training['objective']}",
        *_sources(training),
        f"- seed {training['seed']}, {training['steps']:,} steps, {training['tokens_seen']:,} tokens seen",
        *(f"- {name}: {value:.4g}" for name, value in training["held_out"].items()),
        "",
        "All settings are in training.json, the course of the training in metrics.jsonl.",
    ]
    return "\n".join(lines) + "\n"


def _sources(training: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the card about what the notes say was learned from."""
    if inputs := training.get("inputs"):
        yield f"- inputs: {', '.join(inputs)}"
    for folder in training.get("teacher_folders", ()):
        layer = "" if folder["layer"] is None else f" of layer {folder['layer']}"
        yield f"- teacher: {folder['model']}, {folder['vectors']:,} {folder['unit']} vectors{layer}"


def _run_tokenizer(
    documents: Iterable[Document], given: SubwordTokenizer | TokenizerConfig, folder: Path, *, seed: int
) -> SubwordTokenizer:
    """Return the tokenizer of the run: the one it was saved with, the one given, or a new one."""
    if (folder / STATE_FILE).exists():
        return SubwordTokenizer.load(folder)
    if isinstance(given, TokenizerConfig):
        sample = sample_documents(documents, size=TOKENIZER_SAMPLE, seed=seed)
        given = SubwordTokenizer.train((document.text for document in sample), config=given)
    given.save(folder)
    return given


def _tokenizer_origin(
    given: SubwordTokenizer | TokenizerConfig, *, num_documents: int, tell: Callable[[str], None] | None
) -> dict[str, Any]:
    """Return where the tokenizer comes from; of one trained here, tell and return how many documents it saw."""
    if isinstance(given, SubwordTokenizer):
        return {"given_tokenizer": given.fingerprint}
    size = min(num_documents, TOKENIZER_SAMPLE)
    if tell is not None:
        tell(f"the tokenizer learned from {size:,} documents (a seeded sample of at most {TOKENIZER_SAMPLE:,})")
    return {"given_tokenizer": to_mapping(given), "tokenizer_documents": size}


def _row_length(run: Run, config: EncoderConfig) -> int:
    if run.training.max_length > config.max_length:
        raise InvalidInputError(
            f"rows of max_length = {run.training.max_length} tokens, but the encoder's is {config.max_length}: "
            "lower the first or raise the second"
        )
    return run.training.max_length

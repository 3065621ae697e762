"""A folder of Hugging Face or sentence-transformers, of the BERT family, made into a model of ours.

Only safetensors and JSON are read: nothing is executed, and neither transformers nor sentence-transformers is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ctxembed._version import __version__
from ctxembed.config import Pooling, PoolingConfig, check
from ctxembed.errors import ArtifactError
from ctxembed.interop.bert import read_networks, read_shape
from ctxembed.interop.files import weight_files
from ctxembed.interop.sentences import read_sentence_settings
from ctxembed.interop.wordpieces import read_tokenizer
from ctxembed.model.checkpoint import Checkpoint, save_checkpoint
from ctxembed.runtime import environment, existing, sha256_file


@dataclass(frozen=True, kw_only=True)
class ImportedModel:
    """A model in memory, with what is to be told of where it came from."""

    checkpoint: Checkpoint
    notes: tuple[str, ...]
    """Lines that the user should read: what was left out, what was chosen for want of a setting."""
    origin: Mapping[str, Any]
    """Name and weight files, with their sha256."""
    card: str
    """The original's own model card."""


def import_model(
    path: str | Path, *, name: str | None = None, pooling: Pooling | None = None, max_length: int | None = None
) -> ImportedModel:
    """Read a local folder.

    Args:
        path: The folder, with config.json, model.safetensors and tokenizer.json or vocab.txt; or with modules.json.
        name: Of the model; the folder's by default.
        pooling: Instead of what the folder says.
        max_length: Most tokens of one window, special ones included, instead of what the folder says.

    Raises:
        MissingInputError: If there is no such folder.
        InvalidInputError: If the model is not one that can be computed here exactly.
        ArtifactError: If a file or weight is missing, damaged, or does not fit the others.
    """
    folder = existing(path)
    check(folder.is_dir(), f"{folder} is a file: name the folder that it is in")
    settings = read_sentence_settings(folder, pooling=pooling)
    inner = settings.transformer
    shape = read_shape(inner)
    found = read_tokenizer(inner, lowercase=settings.lowercase)
    tokens = max(found.tokenizer.vocabulary().values()) + 1
    if tokens > shape.vocab_size:
        raise ArtifactError(
            f"{folder}: the tokenizer has {tokens} tokens, the weights {shape.vocab_size}: they do not belong together"
        )
    check(
        max_length is None or 3 <= max_length <= shape.max_length,
        f"max_length = {max_length}: the model has {shape.max_length} positions, choose 3 to {shape.max_length}",
    )
    said = max_length or settings.max_length or found.max_length or shape.max_length
    window = min(said, shape.max_length)
    networks = read_networks(inner, shape, max_length=window)
    notes = [*settings.notes, *found.notes, *networks.notes]
    if said > window:
        notes.append(f"the folder speaks of texts of {said} tokens, the model has {window} positions: these are taken")
    checkpoint = Checkpoint(
        name=name or folder.absolute().name,
        encoder=networks.encoder.eval(),
        head=networks.head,
        tokenizer=found.tokenizer,
        pooling=PoolingConfig(sentence=settings.pooling),
        prompts=settings.prompts,
        default_prompt=settings.default_prompt,
    )
    files = {str(file.relative_to(folder)): sha256_file(file) for file in weight_files(inner)}
    card = folder / "README.md"
    return ImportedModel(
        checkpoint=checkpoint,
        notes=tuple(notes),
        origin={"name": checkpoint.name, "weights": files},
        card=card.read_text(encoding="utf-8", errors="replace") if card.is_file() else "",
    )


def save_imported(path: str | Path, model: ImportedModel, *, dtype: torch.dtype = torch.float32) -> None:
    """Write the model folder, with the notes in training.json and the original's card in README.md.

    Raises:
        InvalidInputError: If a weight is not finite, or too large for ``dtype``.
    """
    name = model.checkpoint.name
    notes = "".join(f"- {note}\n" for note in model.notes)
    card = f"# {name}\n\nImported by ctxembed {__version__}; makers and licence are those of the original.\n\n{notes}"
    if model.card:
        card += f"\n## The card of the original\n\n{model.card}"
    training = {"imported": dict(model.origin), "notes": list(model.notes), "environment": environment()}
    save_checkpoint(path, model.checkpoint, training=training, card=card, dtype=dtype)

"""A model as a folder: config.json, tokenizer.json, model.safetensors, training.json, README.md.

No file can execute code. ``config.json`` is written last and lists size and sha256 of the parts that
decide vectors, so a folder without it is unfinished and one that does not match it is damaged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any

import torch
from torch import nn

from ctxembed.config import DecoderConfig, EncoderConfig, PoolingConfig, from_mapping, to_mapping
from ctxembed.errors import ArtifactError, InvalidInputError
from ctxembed.model.decoder import TransformerDecoder
from ctxembed.model.encoder import MaskedWordHead, TransformerEncoder
from ctxembed.runtime import atomic_path, existing, sha256_file, sha256_text, write_json
from ctxembed.tokenizer import FILE_NAME as TOKENIZER_FILE
from ctxembed.tokenizer import SubwordTokenizer

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
FORMAT, VERSION = "ctxembed-model", 1
_ENTRIES: dict[str, type | UnionType] = {
    "name": str,
    "encoder": dict,
    "pooling": dict,
    "prompts": dict,
    "masked_word_head": bool,
    "default_prompt": str | None,
    "decoder": dict | None,
    "files": dict,
}


@dataclass(frozen=True)
class Checkpoint:
    """A model in memory, with all that its folder holds beside training notes."""

    name: str
    encoder: TransformerEncoder
    tokenizer: SubwordTokenizer
    pooling: PoolingConfig
    head: MaskedWordHead | None = None
    decoder: TransformerDecoder | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    """The name of the prompt that stands before every whole text unless another is asked for."""
    fingerprint: str = ""


def save_checkpoint(
    path: str | Path,
    checkpoint: Checkpoint,
    *,
    training: Mapping[str, Any] | None = None,
    card: str = "",
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write a model folder, over the model it may hold; the weights in half precision by default.

    Args:
        path: The folder; made if missing.
        checkpoint: The model.
        training: What to write as training.json (data, seeds, steps, versions).
        card: What to write as README.md.
        dtype: How weights are stored; they are computed with as ``Embedder`` decides.

    Raises:
        InvalidInputError: If a weight is not finite, or too large for ``dtype``.
    """
    from safetensors.torch import save_file

    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: value.detach().to("cpu", dtype).contiguous()
        for name, value in checkpoint_modules(checkpoint).state_dict().items()
    }
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise InvalidInputError(
                f"{name} holds values that are not finite in {dtype}: the training diverged, or use float32"
            )
    (path / CONFIG_FILE).unlink(missing_ok=True)  # of a model that was here: killed from now on, this is unfinished
    with atomic_path(path / WEIGHTS_FILE) as temporary:
        save_file(tensors, str(temporary))
    checkpoint.tokenizer.save(path)
    write_json(path / "training.json", dict(training or {}))
    with atomic_path(path / "README.md") as temporary:
        temporary.write_text(card or f"# {checkpoint.name}\n\nA ctxembed model.\n", encoding="utf-8")
    write_json(
        path / CONFIG_FILE,
        {
            "format": FORMAT,
            "version": VERSION,
            "name": checkpoint.name,
            "encoder": to_mapping(checkpoint.encoder.config),
            "pooling": to_mapping(checkpoint.pooling),
            "prompts": dict(checkpoint.prompts),
            "default_prompt": checkpoint.default_prompt,
            "masked_word_head": checkpoint.head is not None,
            "decoder": None if checkpoint.decoder is None else to_mapping(checkpoint.decoder.config),
            "files": {name: _file_record(path / name) for name in (WEIGHTS_FILE, TOKENIZER_FILE)},
        },
    )


def read_config(path: str | Path) -> dict[str, Any]:
    """Read and check the config.json of a model folder, without its weights.

    Raises:
        MissingInputError: If there is no such folder.
        ArtifactError: If it is no model folder, unfinished, or of another version.
    """
    path = existing(path)
    file = path / CONFIG_FILE
    if not file.is_file():
        state = "its training is unfinished: --resume it" if (path / ".run").exists() else f"it has no {CONFIG_FILE}"
        raise ArtifactError(f"{path} is not a ctxembed model: {state}")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtifactError(f"{file} is damaged ({error}): copy the model anew") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise ArtifactError(
            f"{path} is not a ctxembed model (its {CONFIG_FILE} has no format {FORMAT!r}): `ctxembed train` makes one"
        )
    if config.get("version") != VERSION:
        raise ArtifactError(
            f"{path} has format version {config.get('version')}, this ctxembed reads {VERSION}: upgrade ctxembed"
        )
    for entry in ("decoder", "default_prompt"):  # models made before there were any do not speak of them
        config.setdefault(entry, None)
    if wrong := [name for name, kind in _ENTRIES.items() if not isinstance(config.get(name), kind)]:
        raise ArtifactError(f"{file} is damaged (no usable {', '.join(wrong)}): copy the model anew")
    return config


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Load a model folder, in float32 on the CPU and in evaluation mode.

    Raises:
        MissingInputError: If there is no such folder.
        ArtifactError: If a part is missing or damaged, or does not fit the others.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    config = read_config(path)
    _verify(path, config["files"])
    try:
        encoder_config = from_mapping(EncoderConfig, config["encoder"])
        pooling = from_mapping(PoolingConfig, config["pooling"])
        decoder_config = None if config["decoder"] is None else from_mapping(DecoderConfig, config["decoder"])
    except InvalidInputError as error:
        raise ArtifactError(f"{path / CONFIG_FILE} is damaged ({error}): copy the model anew") from error
    tokenizer = SubwordTokenizer.load(path)
    if len(tokenizer) > encoder_config.vocab_size:
        raise ArtifactError(
            f"{path}: the tokenizer has {len(tokenizer)} tokens, the encoder {encoder_config.vocab_size}: "
            "they do not belong together"
        )
    checkpoint = Checkpoint(
        name=config["name"],
        encoder=TransformerEncoder(encoder_config),
        head=MaskedWordHead(encoder_config) if config["masked_word_head"] else None,
        decoder=None if decoder_config is None else TransformerDecoder(encoder_config, decoder_config),
        tokenizer=tokenizer,
        pooling=pooling,
        prompts=config["prompts"],
        default_prompt=config["default_prompt"],
        fingerprint=_fingerprint(config),
    )
    try:
        tensors = load_file(str(path / WEIGHTS_FILE))
        checkpoint_modules(checkpoint).load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    except (SafetensorError, RuntimeError) as error:
        raise ArtifactError(f"{path / WEIGHTS_FILE} does not fit its {CONFIG_FILE}: {error}") from error
    checkpoint_modules(checkpoint).eval()
    return checkpoint


def checkpoint_modules(checkpoint: Checkpoint) -> nn.ModuleDict:
    """Return the networks of a model, by name."""
    modules: dict[str, nn.Module] = {"encoder": checkpoint.encoder}
    if checkpoint.head is not None:
        modules["head"] = checkpoint.head
    if checkpoint.decoder is not None:
        modules["decoder"] = checkpoint.decoder
    return nn.ModuleDict(modules)


def _file_record(file: Path) -> dict[str, Any]:
    return {"bytes": file.stat().st_size, "sha256": sha256_file(file)}


def _verify(path: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    for name in (WEIGHTS_FILE, TOKENIZER_FILE):
        file = path / name
        if not file.is_file():
            raise ArtifactError(f"{file} is missing: copy the model anew")
        if files.get(name) != _file_record(file):
            raise ArtifactError(
                f"{file} is damaged or of another model (its sha256 is not the one in {CONFIG_FILE}): "
                "copy the model anew"
            )


def _fingerprint(config: Mapping[str, Any]) -> str:
    parts = [json.dumps(config[key], sort_keys=True) for key in ("encoder", "pooling", "prompts")]
    if config["default_prompt"] is not None:
        parts.append(config["default_prompt"])
    return sha256_text(*parts, *(config["files"][name]["sha256"] for name in (WEIGHTS_FILE, TOKENIZER_FILE)))

"""BERT's shape and weights as Hugging Face writes them, read into our encoder and masked-word head.

Letters: V vocabulary, D hidden width.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ctxembed.config import EncoderConfig, check, from_mapping
from ctxembed.errors import ArtifactError, InvalidInputError
from ctxembed.interop.files import INDEX, read_json, weight_files
from ctxembed.model.encoder import MaskedWordHead, TransformerEncoder

_SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "max_length": "max_position_embeddings",
}
_ENCODER_NAMES = {
    "embedding.tokens": "embeddings.word_embeddings",
    "embedding.positions": "embeddings.position_embeddings",
    "embedding.types": "embeddings.token_type_embeddings",
    "embedding.norm": "embeddings.LayerNorm",
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "feed_forward.inner": "intermediate.dense",
    "feed_forward.outer": "output.dense",
    "feed_forward_norm": "output.LayerNorm",
}
_POSITIONS = "embeddings.position_embeddings.weight"
_HEAD = "cls.predictions."
_HEAD_NAMES = {"dense": f"{_HEAD}transform.dense", "norm": f"{_HEAD}transform.LayerNorm"}
_LACKING = {
    "modernbert": "attention to a neighbourhood in two layers of three, rotary positions of two other bases, "
    "layers without bias",
}
_OLD_NORMS = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


class Networks(NamedTuple):
    """The networks of a folder."""

    encoder: TransformerEncoder
    head: MaskedWordHead | None
    notes: list[str]


def read_shape(folder: Path) -> EncoderConfig:
    """Read config.json; ``max_length`` is the number of positions.

    Raises:
        InvalidInputError: If the network is not BERT as our encoder computes it.
        ArtifactError: If the file is missing or damaged.
    """
    config = read_json(folder / "config.json", dict)
    _check_architecture(folder, config)
    missing = [theirs for theirs in _SIZES.values() if theirs not in config]
    if missing:
        raise ArtifactError(f"{folder / 'config.json'} does not say {', '.join(missing)}: copy the model anew")
    values = {ours: config[theirs] for ours, theirs in _SIZES.items()} | {
        "num_token_types": config.get("type_vocab_size", 2),
        "layer_norm_eps": config.get("layer_norm_eps", 1e-12),
        "dropout": config.get("hidden_dropout_prob", 0.1),
        "positions": "learned",
        "norm": "post",
        "feed_forward": "gelu",
    }
    try:
        return from_mapping(EncoderConfig, values)
    except InvalidInputError as error:
        raise ArtifactError(f"{folder / 'config.json'} is damaged ({error}): copy the model anew") from error


def _check_architecture(folder: Path, config: Mapping[str, Any]) -> None:
    kind, makers = config.get("model_type"), config.get("architectures") or []
    way_out = "use it as it is, as a teacher or in comparisons, with -m hf:FOLDER"
    if kind != "bert":
        lacking = f"; the encoder here lacks {_LACKING[kind]}" if kind in _LACKING else ""
        raise InvalidInputError(f"{folder} is of the type {kind!r}, import takes 'bert'{lacking}: {way_out}")
    for maker in makers:
        check(maker.startswith("Bert"), f"{folder} is a {maker}, import takes BERT's own classes: {way_out}")
    wanted = {"hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False}
    for setting, value in (wanted | {"add_cross_attention": False}).items():
        found = config.get(setting, value)
        check(found == value, f"{folder} has {setting} = {found!r}, import takes {value!r}: {way_out}")


def read_networks(folder: Path, shape: EncoderConfig, *, max_length: int) -> Networks:
    """Read the weights, in float32.

    Args:
        folder: Where they are, in one file or several.
        shape: As config.json says it.
        max_length: Positions to keep.

    Raises:
        InvalidInputError: If there are only pickled weights.
        ArtifactError: If weights are missing, damaged, or of another shape; it names them.
    """
    tensors = _renamed(read_tensors(folder))
    table = tensors.get(_POSITIONS)
    if table is not None and len(table) == shape.max_length:
        tensors[_POSITIONS], shape = table[:max_length].clone(), replace(shape, max_length=max_length)
    with torch.device("meta"):  # shapes alone: no weights are drawn
        encoder, head = TransformerEncoder(shape), MaskedWordHead(shape)
    used = _fill(encoder, tensors, folder, {name: bert_name(name) for name in encoder.state_dict()})
    notes = []
    kept: MaskedWordHead | None = None
    if any(name.startswith(f"{_HEAD}transform.") for name in tensors):
        decoder = tensors.get(f"{_HEAD}decoder.weight")
        if decoder is None or torch.equal(decoder, encoder.embedding.tokens.weight):
            bias = f"{_HEAD}bias" if f"{_HEAD}bias" in tensors else f"{_HEAD}decoder.bias"
            names = {name: bias if name == "bias" else _moved(name, _HEAD_NAMES) for name in head.state_dict()}
            used |= _fill(head, tensors, folder, names) | {f"{_HEAD}decoder.weight", f"{_HEAD}decoder.bias"}
            kept = head
        else:
            notes.append("the masked-word head has a matrix of its own, not the embedding table: it is left out")
    if unused := sorted(name for name in tensors if name not in used and not name.endswith("position_ids")):
        notes.append(f"left out {len(unused)} weights that no vector needs: {_listed(unused)}")
    return Networks(encoder, kept, notes)


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Read all tensors of a folder's safetensors files.

    Raises:
        InvalidInputError: If there are only pickled weights.
        ArtifactError: If there are none, or a file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    tensors: dict[str, Tensor] = {}
    for file in weight_files(folder):
        if not file.is_file():
            raise ArtifactError(f"{file} is missing, which {INDEX} names: copy the model anew")
        try:
            tensors |= load_file(str(file))
        except SafetensorError as error:
            raise ArtifactError(f"{file} is damaged ({error}): copy the model anew") from error
    return tensors


def _renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take off the prefix of models with a head, and give norms of early checkpoints their later names."""
    renamed = {}
    for name, tensor in tensors.items():
        new = name.removeprefix("bert.")
        for old, later in _OLD_NORMS.items():
            new = new.replace(old, later)
        renamed[new] = tensor
    return renamed


def bert_name(name: str) -> str:
    """Return the name in BERT of a weight of our encoder.

    >>> bert_name("layers.3.attention.query.bias"), bert_name("embedding.norm.weight")
    ('encoder.layer.3.attention.self.query.bias', 'embeddings.LayerNorm.weight')
    """
    if layer := re.fullmatch(r"layers\.(\d+)\.(.+)", name):
        return f"encoder.layer.{layer[1]}.{_moved(layer[2], _ENCODER_NAMES)}"
    return _moved(name, _ENCODER_NAMES)


def _moved(name: str, names: Mapping[str, str]) -> str:
    part, _, kind = name.rpartition(".")
    return f"{names[part]}.{kind}"


def _fill(module: nn.Module, tensors: Mapping[str, Tensor], folder: Path, names: Mapping[str, str]) -> set[str]:
    """Give a module its weights, found by ``names`` (ours to theirs); return theirs."""
    own = module.state_dict()
    if missing := [theirs for theirs in names.values() if theirs not in tensors]:
        raise ArtifactError(f"{folder} lacks {len(missing)} weights: {_listed(missing)}: copy the model anew")
    wrong = [
        f"{theirs} is {tuple(tensors[theirs].shape)}, need {tuple(own[ours].shape)}"
        for ours, theirs in names.items()
        if tensors[theirs].shape != own[ours].shape
    ]
    if wrong:
        raise ArtifactError(f"{folder}: weights do not fit config.json: {_listed(wrong)}: copy the model anew")
    if whole := [theirs for theirs in names.values() if not tensors[theirs].is_floating_point()]:
        kind = str(tensors[whole[0]].dtype).removeprefix("torch.")
        raise InvalidInputError(
            f"{folder} has quantised weights ({whole[0]} is {kind}): import the model as it was before"
        )
    module.load_state_dict({ours: tensors[theirs].float() for ours, theirs in names.items()}, assign=True)
    return set(names.values())


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

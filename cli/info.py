"""`ctxembed info`: what a folder holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ctxembed.errors import ArtifactError
from ctxembed.runtime import default_model, environment, existing

from .output import emit, format_option

SHOWN = (
    "name",
    "format",
    "version",
    "complete",
    "dimension",
    "rows",
    "documents",
    "words",
    "unit",
    "metric",
    "dtype",
    "generation",
)


@click.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@format_option
def info(folder: Path | None, output_format: str) -> None:
    """Say what FOLDER holds, checking that it is intact.

    That is a model, static vectors, a tokenizer, vectors, an index, senses, or an index of vectors alone.

    Without FOLDER: the versions in use and the models that ship.

    \b
    Example:
      ctxembed info idx/
    """
    facts = installation() if folder is None else describe(existing(folder))
    if output_format in ("json", "jsonl"):
        emit([facts], output_format)
    else:
        emit(
            [
                {"what": name, "value": value if not isinstance(value, float) else f"{value:g}"}
                for name, value in facts.items()
            ],
            output_format,
        )


def installation() -> dict[str, Any]:
    """Describe the installed package and its models."""
    found = environment()
    facts: dict[str, Any] = {**found.pop("versions"), **found}
    for kind in ("encoder", "static"):
        try:
            facts[f"{kind} model"] = describe(default_model(kind))["name"]
        except FileNotFoundError:
            facts[f"{kind} model"] = "none ships with this installation"
    return facts


def describe(folder: Path) -> dict[str, Any]:
    """Open a folder with the part of ctxembed that wrote it, and return the facts that matter.

    Raises:
        ArtifactError: If nothing of ours is there, or it is damaged.
    """
    if (folder / "config.json").exists() or (folder / ".run").exists():
        return describe_model(folder)
    manifest = folder / "manifest.json"
    if not manifest.exists():
        return describe_rest(folder)
    try:
        record = json.loads(manifest.read_text(encoding="utf-8"))
        kind = record["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{manifest} is damaged ({error}): make the folder again") from error
    check_folder(folder, kind)
    facts = {name: record[name] for name in SHOWN if name in record}
    settings = record.get("settings") or {}
    if kind == "ctxembed-senses":
        facts["words"] = len(record["words"])
        settings = {name: record[name] for name in ("model", "fingerprint", "layer")}
    if kind == "ctxembed-vector-index":
        settings = {name: record[name] for name in ("kind", "factory")}
    if kind == "ctxembed-index":
        maker = record["model"] or {"name": "unknown", "fingerprint": None}
        settings = {"model": maker["name"], "fingerprint": maker["fingerprint"]}
    return facts | {name: value for name, value in settings.items() if name not in facts}


def describe_rest(folder: Path) -> dict[str, Any]:
    """Describe a folder that has neither a model nor a manifest: perhaps a tokenizer.

    Raises:
        ArtifactError: If it holds a build that was interrupted, or nothing of ours.
    """
    from ctxembed.index.manifest import BUILDING
    from ctxembed.tokenizer import FILE_NAME, SubwordTokenizer

    if (folder / BUILDING).exists():
        raise ArtifactError(
            f"{folder} is an index whose build is unfinished: continue it with `ctxembed index build --resume`, "
            "or start again with --overwrite"
        )
    if not (folder / FILE_NAME).exists():
        raise ArtifactError(f"{folder} holds no model, vectors or index of ctxembed: check the path")
    tokenizer = SubwordTokenizer.load(folder)
    return {"format": "tokenizer", "vocabulary": len(tokenizer), "fingerprint": tokenizer.fingerprint}


def describe_model(folder: Path) -> dict[str, Any]:
    """Load an encoder and return its facts."""
    from ctxembed.model.checkpoint import load_checkpoint, read_config

    checkpoint = load_checkpoint(folder)
    shape = checkpoint.encoder.config
    parameters = sum(parameter.numel() for parameter in checkpoint.encoder.parameters())
    size = sum(entry["bytes"] for entry in read_config(folder)["files"].values())
    return {
        "name": checkpoint.name,
        "format": "ctxembed-model",
        "parameters": parameters,
        "bytes": size,
        "layers": shape.num_layers,
        "width": shape.hidden_size,
        "heads": shape.num_heads,
        "vocabulary": shape.vocab_size,
        "max_length": shape.max_length,
        "decoder_layers": 0 if checkpoint.decoder is None else checkpoint.decoder.config.num_layers,
        "positions": shape.positions,
        "usage_layer": checkpoint.pooling.usage_layer,
        "fingerprint": checkpoint.fingerprint,
    }


def check_folder(folder: Path, kind: str) -> None:
    """Open a folder so that damage is found."""
    from ctxembed.index import VectorIndex
    from ctxembed.meaning.sense_folder import SenseFolder
    from ctxembed.search import SemanticSearch
    from ctxembed.static import StaticVectors
    from ctxembed.vectors import VectorFolder

    if kind == "ctxembed-index":
        SemanticSearch.open(folder).close()
    elif kind == "ctxembed-vectors":
        VectorFolder.open(folder)
    elif kind == "ctxembed-static":
        StaticVectors.load(folder)
    elif kind == "ctxembed-senses":
        SenseFolder.open(folder, layer=...)
    elif kind == "ctxembed-vector-index":
        VectorIndex.open(folder, verify=True)
    else:
        raise ArtifactError(f"{folder} is of format {kind!r}, which this ctxembed does not know: upgrade it")

"""The files of a Hugging Face folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from ctxembed.config import check
from ctxembed.errors import ArtifactError

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")

T = TypeVar("T")


def read_json(file: Path, kind: type[T], *, default: T | None = None) -> T:
    """Read a JSON file whose outermost value is of a known kind.

    Args:
        file: The file.
        kind: dict or list.
        default: What a file that is not there stands for; without it the file must be there.

    Raises:
        ArtifactError: If it is missing, no JSON, or holds something else.
    """
    if not file.is_file():
        if default is None:
            raise ArtifactError(f"{file.parent} has no {file.name}: name the folder of a Hugging Face model, complete")
        return default
    try:
        value: Any = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtifactError(f"{file} is damaged ({error}): copy the model anew") from error
    if not isinstance(value, kind):
        raise ArtifactError(f"{file} is damaged (it holds no {kind.__name__}): copy the model anew")
    return value


def weight_files(folder: Path) -> list[Path]:
    """Return the files that hold the weights: one, or those that an index names.

    Raises:
        InvalidInputError: If there are only pickled weights.
        ArtifactError: If there are none, or the index is damaged.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        names = read_json(folder / INDEX, dict).get("weight_map")
        if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
            raise ArtifactError(f"{folder / INDEX} is damaged (weight_map): copy the model anew")
        return [folder / Path(name).name for name in sorted(set(names.values()))]
    for name in PICKLES:
        check(
            not (folder / name).is_file(),
            f"{folder} holds its weights only as {name}, a pickle, which can run code when it is opened: take the "
            "model's safetensors file, or if you trust it let transformers write one: "
            "AutoModel.from_pretrained(FOLDER).save_pretrained(FOLDER)",
        )
    raise ArtifactError(f"{folder} has no {WEIGHTS} (nor {INDEX}): name the folder of a Hugging Face model, complete")

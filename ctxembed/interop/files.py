"""Reading the JSON files of a Hugging Face folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from ctxembed.errors import ArtifactError

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

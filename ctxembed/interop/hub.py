"""Fetching a model from the Hugging Face hub: the one place that reaches the network, when it is told to."""

from __future__ import annotations

from pathlib import Path

from ctxembed.errors import MissingInputError
from ctxembed.runtime import require

NEEDED = ("*.json", "*.safetensors", "vocab.txt", "README.md")
NOT_NEEDED = ("onnx/*", "openvino/*")


def fetch(model_id: str) -> Path:
    """Fetch the files of a model that an import reads, and return their folder in the library's own cache.

    Raises:
        MissingLibraryError: Without huggingface_hub.
        MissingInputError: If the hub does not give them.
    """
    hub = require("huggingface_hub", "interop")
    try:
        return Path(hub.snapshot_download(model_id, allow_patterns=list(NEEDED), ignore_patterns=list(NOT_NEEDED)))
    except (OSError, ValueError) as error:  # its own errors are one or the other
        reason = str(error).strip().partition("\n")[0]
        raise MissingInputError(
            f"{model_id} could not be fetched from the Hugging Face hub ({reason}): check the id"
        ) from error

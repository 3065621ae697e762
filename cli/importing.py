"""`ctxembed import`: a model of Hugging Face or sentence-transformers, made into one of ours."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import refuse_idle, require_free
from .output import say

if TYPE_CHECKING:
    from ctxembed.config import Pooling


@click.command("import")
@click.argument("model", metavar="FOLDER_OR_ID")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Where the model goes.",
)
@click.option("--name", help="Of the model; the folder's by default.")
@click.option("--pooling", type=click.Choice(["mean", "cls", "max"]), help="Instead of what the folder says.")
@click.option("--max-length", type=int, help="Most tokens of one window, instead of what the folder says.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="How weights are stored; float16 takes half the room.",
)
@click.option("--download", is_flag=True, help="Fetch an id that is no folder here from the Hugging Face hub.")
def import_(
    model: str,
    output: Path,
    name: str | None,
    pooling: Pooling | None,
    max_length: int | None,
    dtype: str,
    download: bool,
) -> None:
    """Make a BERT-like model of Hugging Face or sentence-transformers into a ctxembed model.

    The family is BERT with its own attention and positions: BERT, MiniLM, BGE, E5, GTE and their like. Weights,
    tokenizer, pooling, prompts and longest text are kept. Only safetensors are read, and nothing is executed.

    \b
    Example:
      ctxembed import all-MiniLM-L6-v2/ -o model/
      ctxembed import BAAI/bge-small-en-v1.5 -o bge/ --download
    """
    import torch

    from ctxembed.interop.importing import import_model, save_imported

    require_free(output)
    folder = _folder(model, download=download)
    name = name or (None if Path(model).exists() else model.rpartition("/")[2])
    imported = import_model(folder, name=name, pooling=pooling, max_length=max_length)
    save_imported(output, imported, dtype=getattr(torch, dtype))
    for note in imported.notes:
        say(note)
    say(f"the model is in {output}: {_facts(imported.checkpoint)}")


def _folder(model: str, *, download: bool) -> Path:
    """Return the folder that is meant, fetched if that was asked for."""
    from ctxembed.errors import MissingInputError

    if Path(model).exists():
        refuse_idle(("download",), "with a folder that is here")
        return Path(model)
    if not download:
        raise MissingInputError(
            f"{model} does not exist here: check the spelling, or if it is an id of the Hugging Face hub, "
            "fetch it with --download"
        )
    from ctxembed.interop.hub import fetch

    return fetch(model)


def _facts(checkpoint: Any) -> str:
    shape = checkpoint.encoder.config
    head = "with" if checkpoint.head else "without"
    prompts = ", ".join(checkpoint.prompts) or "none"
    return (
        f"{shape.num_layers} layers, {shape.hidden_size} wide, windows of {shape.max_length} tokens, "
        f"{checkpoint.pooling.sentence} pooling, {head} masked-word head, prompts: {prompts}"
    )

"""Options that mean the same in every command, and the loading that follows from them."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ctxembed.errors import InvalidInputError

from .output import say

if TYPE_CHECKING:
    from ctxembed.corpus import Corpus, ReadOptions
    from ctxembed.embedder import Embedder
    from ctxembed.static import StaticVectors
    from ctxembed.types import Encoder, Layer

F = TypeVar("F", bound=Callable[..., Any])


def stacked(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Combine option decorators into one; they show in help in the order given."""

    def decorate(command: F) -> F:
        return functools.reduce(lambda inner, option: option(inner), reversed(options), command)

    return decorate


PRECISION = "ctxembed.precision"
"""Where the choice of --precision waits in click's context."""


def refuse_idle(options: Sequence[str], because: str) -> None:
    """Refuse options that were given on the command line but would do nothing here.

    Raises:
        UsageError: Naming the first of them.
    """
    for flag in given_options(options):
        raise click.UsageError(f"{flag} does nothing {because}: leave it out")


def given_options(names: Sequence[str]) -> list[str]:
    """Return those of some options that were given on the command line, as they are written there."""
    context = click.get_current_context()
    flags = {parameter.name: max(parameter.opts, key=len) for parameter in context.command.params}
    return [flags[n] for n in names if context.get_parameter_source(n) is click.core.ParameterSource.COMMANDLINE]


READING = (
    "text_column",
    "id_column",
    "metadata_columns",
    "document",
    "split_sentences",
    "encoding_errors",
    "stdin_format",
)
"""The names of the reading options, as commands know them."""

inputs_argument = click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
model_option = click.option(
    "-m",
    "--model",
    envvar="CTXEMBED_MODEL",
    metavar="FOLDER",
    help="Model folder, or hf:FOLDER for a Hugging Face one; the one that ships by default, or as `default`. [env: "
    "CTXEMBED_MODEL]",
)
seed_option = click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=1,
    show_default=True,
    help="Decides everything that chance decides.",
)
long_option = click.option(
    "--on-long",
    type=click.Choice(["window", "truncate", "error"]),
    default="window",
    show_default=True,
    help="What to do with texts longer than the model's window; window loses nothing.",
)
resume_option = click.option("--resume", is_flag=True, help="Continue what was interrupted.")


def tokenizer_threads(_: click.Context, __: click.Parameter, value: int | None) -> int | None:
    """Set the threads of the tokenizers library, which reads their number when it begins its first work."""
    if value is not None:
        os.environ["RAYON_NUM_THREADS"] = str(value)
    return value


threads_option = click.option(
    "--threads",
    type=click.IntRange(min=1),
    callback=tokenizer_threads,
    help="Threads of the network and of its tokenizer; all cores by default.",
)


def tokenizer_options(command: F) -> F:
    """Add --threads to a command that has a tokenizer and no network."""

    @functools.wraps(command)
    def run(*args: Any, threads: int | None, **kwargs: Any) -> Any:
        return command(*args, **kwargs)

    return threads_option(run)  # type: ignore[return-value]


def hardware_options(command: F) -> F:
    """Add --device and --threads; the number of threads is set before the command runs."""

    @functools.wraps(command)
    def run(*args: Any, threads: int | None, **kwargs: Any) -> Any:
        if threads is not None:
            import torch

            torch.set_num_threads(threads)
        return command(*args, **kwargs)

    return stacked(
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps."),
        threads_option,
    )(run)  # type: ignore[return-value]


def runtime_options(command: F) -> F:
    """Add --device, --threads and --precision; the last waits in click's context, where ``load_embedder`` finds it."""

    @functools.wraps(command)
    def run(*args: Any, precision: str, **kwargs: Any) -> Any:
        click.get_current_context().meta[PRECISION] = precision
        return command(*args, **kwargs)

    return stacked(
        hardware_options,
        click.option(
            "--precision",
            type=click.Choice(["auto", "bfloat16", "float32"]),
            default="auto",
            show_default=True,
            help="Number format the network computes in; auto is bfloat16 where this machine is fast in it.",
        ),
    )(run)  # type: ignore[return-value]


def chosen_precision() -> str:
    """Return what --precision says, auto for a command without it."""
    context = click.get_current_context(silent=True)
    return str(context.meta.get(PRECISION, "auto")) if context else "auto"


def reading_options(command: F) -> F:
    """Add the options of corpus reading; the command receives them as one ``reading: ReadOptions``."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        from ctxembed.corpus import ReadOptions

        values = {name: kwargs.pop(name) for name in READING}
        columns = values["metadata_columns"]
        values["metadata_columns"] = tuple(map(str.strip, columns.split(","))) if columns else None
        return command(*args, reading=ReadOptions(**values), **kwargs)

    return stacked(
        click.option("--text-column", default="text", show_default=True, help="Column or key that holds the text."),
        click.option("--id-column", help='Column or key of the ids; by default "id", else FILE:LINE.'),
        click.option("--metadata-columns", metavar="A,B", help="Columns to keep; all others by default."),
        click.option(
            "--document",
            type=click.Choice(["line", "paragraph"]),
            default="line",
            show_default=True,
            help="What one document of a txt file is.",
        ),
        click.option("--split-sentences", is_flag=True, help="Make each sentence a document of its own."),
        click.option(
            "--encoding-errors",
            type=click.Choice(["strict", "replace"]),
            default="strict",
            show_default=True,
            help="What to do with bytes that are not UTF-8.",
        ),
        click.option(
            "--stdin-format",
            type=click.Choice(["txt", "jsonl"]),
            default="txt",
            show_default=True,
            help="Format of the input -.",
        ),
    )(run)  # type: ignore[return-value]


def vector_input(inputs: tuple[str, ...]) -> Path | None:
    """Return the input if it is vectors, not text.

    Raises:
        InvalidInputError: If vectors are mixed with other inputs.
    """
    vectors = [Path(name) for name in inputs if name.endswith(".npy") or (Path(name) / "manifest.json").is_file()]
    if not vectors:
        return None
    if len(inputs) > 1:
        raise InvalidInputError(f"{vectors[0]} holds vectors and must be the only input: build one index from it alone")
    return vectors[0]


def parse_bytes(_: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """Read a size: a number of bytes, or one with K, M or G behind it (of 1024 each)."""
    if value is None:
        return None
    factor = {"K": 2**10, "M": 2**20, "G": 2**30}.get(value[-1:].upper())
    try:
        return int(float(value[:-1]) * factor) if factor else int(value)
    except (ValueError, OverflowError) as error:
        raise click.BadParameter(f"{value!r} is no size: write 500M or 2G", param=parameter) from error


def kind_options(command: F) -> F:
    """Add the options of vector indexes; the command receives them as one ``options: IndexOptions``."""

    @functools.wraps(command)
    def run(*args: Any, kind: str, min_recall: float, max_memory: int | None, storage: Any, **kwargs: Any) -> Any:
        from ctxembed.index.kinds import IndexOptions

        chosen = IndexOptions(kind=kind, min_recall=min_recall, max_memory=max_memory, storage=storage)
        return command(*args, options=chosen, **kwargs)

    return stacked(
        click.option(
            "--kind",
            default="auto",
            show_default=True,
            help="auto, flat, hnsw, ivf-sq8, ivf-pq, or a FAISS factory string such as IVF4096,SQ8.",
        ),
        click.option(
            "--min-recall",
            type=click.FloatRange(0, 1, min_open=True),
            default=0.95,
            show_default=True,
            help="Share of the ten nearest rows to find.",
        ),
        click.option(
            "--max-memory", callback=parse_bytes, metavar="SIZE", help="What searching may keep in memory: 500M, 2G."
        ),
        click.option(
            "--storage",
            type=click.Choice(["float32", "float16"]),
            default="float32",
            show_default=True,
            help="How exact vectors are kept.",
        ),
    )(run)  # type: ignore[return-value]


def require_free(path: Path) -> None:
    """Refuse an output that would replace something; an empty folder is free.

    Raises:
        InvalidInputError: Before any work is done.
    """
    if path.exists() and (path.is_file() or any(path.iterdir())):
        raise InvalidInputError(f"{path} exists already: choose another -o, or delete it")


def open_corpus(inputs: Sequence[str], reading: ReadOptions) -> Corpus:
    """Open the inputs of a command as a restartable stream."""
    from ctxembed.corpus import Corpus

    return Corpus(list(inputs), options=reading)


def load_embedder(model: str | None, *, device: str = "auto", on_long: str = "window") -> Embedder:
    """Load the encoder that --model names, or the one that ships."""
    from ctxembed.embedder import Embedder

    return Embedder.load(model, device=device, dtype=chosen_precision(), on_long=on_long)  # type: ignore[arg-type]


def parse_layers(_: click.Context, parameter: click.Parameter, value: str | None) -> Layer | None:
    """Read a layer by its number, or several with commas between them, whose vectors are averaged."""
    if value is None:
        return None
    try:
        layers = tuple(int(part) for part in value.split(","))
    except ValueError as error:
        raise click.BadParameter(
            f"{value!r} is no layer: write a number, such as -1, or several, such as 3,4,5", param=parameter
        ) from error
    return layers if len(layers) > 1 else layers[0]


layer_option = click.option(
    "--layer",
    metavar="N[,N...]",
    callback=parse_layers,
    help="Layer for words and tokens: 0 is the embedding, -1 the last, 3,4,5 the mean of three; by default the model's "
    "choice.",
)


def load_static(path: str | None) -> StaticVectors:
    """Load the static vectors that --static names, or those that ship."""
    from ctxembed.runtime import model_folder
    from ctxembed.static import StaticVectors

    return StaticVectors.load(model_folder(path, "static"))


def load_any(model: str | None, *, device: str = "auto", on_long: str = "window") -> Encoder:
    """Load what -m names: an encoder, static vectors, or ``hf:FOLDER`` for a local Hugging Face model."""
    is_foreign = model is not None and model.startswith("hf:")
    is_static = model is not None and (Path(model).is_file() or (Path(model) / "words.txt").exists())
    if (is_foreign or is_static) and chosen_precision() != "auto":
        say(f"--precision does nothing with {model}")
    if model is not None and is_foreign:
        from ctxembed.interop.teacher import TransformersEncoder

        folder, fate = model.removeprefix("hf:"), "error" if on_long == "error" else "truncate"
        return TransformersEncoder(folder, device=device, on_long=fate)  # type: ignore[arg-type]
    if is_static:
        return load_static(model)
    return load_embedder(model, device=device, on_long=on_long)


def report_encoder(encoder: object) -> None:
    """Tell once what a run was computed with, and what it met."""
    from ctxembed.embedder import Embedder

    if isinstance(encoder, Embedder):  # static vectors are looked up
        import torch

        threads = f", {torch.get_num_threads()} threads" if encoder.device == "cpu" else ""
        say(f"computed by {encoder.name} on {encoder.device} in {encoder.precision}{threads}")
    report_long(encoder)


def report_long(encoder: object) -> None:
    """Tell how many texts did not fit the model's window, and whether anything was lost."""
    long = getattr(encoder, "long_texts", None)  # static vectors have no window
    if long is not None and long.texts:
        fate = f"cut, {long.lost_tokens:,} tokens lost" if long.lost_tokens else "windowed, no token lost"
        name = getattr(encoder, "name", "the model")
        say(f"{long.texts:,} texts were longer than the window of {name}: {fate}")

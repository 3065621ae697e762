"""What sentence-transformers writes beside a network: pooling, longest text, prompts. Its folders, old and new."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from ctxembed.config import Pooling
from ctxembed.errors import ArtifactError, InvalidInputError
from ctxembed.interop.files import read_json

_NOT_OURS = "use it as it is, as a teacher or in comparisons, with -m hf:FOLDER"
_OLD_NAMES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True, kw_only=True)
class SentenceSettings:
    """How a folder turns the tokens of a text into its vector."""

    transformer: Path
    """The folder of the network itself, often the same."""
    pooling: Pooling = "mean"
    max_length: int | None = None
    """Most tokens of a text, special ones included, if the folder says."""
    lowercase: bool = False
    """Whether text is made lower case before the tokenizer sees it."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    """The name of the prompt that stands before every text unless another is asked for."""
    notes: tuple[str, ...] = ()
    """Lines that the user should read."""


def read_sentence_settings(folder: Path, *, pooling: Pooling | None = None) -> SentenceSettings:
    """Read modules.json and what it names.

    A folder without it is a plain Hugging Face model: its sentence vectors are the mean, as sentence-transformers
    takes it too.

    Args:
        folder: The folder of the whole model.
        pooling: Wanted instead of what the folder says.

    Raises:
        InvalidInputError: If a module or pooling is not among those that are computed here.
        ArtifactError: If a file is missing or damaged.
    """
    modules = _modules(folder)
    transformer = folder / modules.get("Transformer", "")
    own = read_json(transformer / "sentence_bert_config.json", dict, default={})
    wide = read_json(folder / "config_sentence_transformers.json", dict, default={})
    notes = []
    if pooling is None and modules:
        pooling, note = _pooling(folder / modules["Pooling"] / "config.json")
        notes += [note] if note else []
    elif pooling is None:
        notes.append(
            "no modules.json of sentence-transformers: a sentence's vector is the mean of its tokens (--pooling)"
        )
    if modules and "Normalize" not in modules:
        notes.append("no Normalize module: sentence vectors have length one here all the same, with the same cosines")
    prompts, default = wide.get("prompts") or {}, wide.get("default_prompt_name")
    known = isinstance(prompts, dict) and all(isinstance(prompt, str) for prompt in prompts.values())
    if not known or default not in (None, *prompts):
        raise ArtifactError(f"{folder / 'config_sentence_transformers.json'} is damaged (prompts): copy the model anew")
    longest = own.get("max_seq_length")
    if not isinstance(longest, int | None):
        raise ArtifactError(
            f"{transformer / 'sentence_bert_config.json'} has max_seq_length = {longest!r}: need a number"
        )
    return SentenceSettings(
        transformer=transformer,
        pooling=pooling or "mean",
        max_length=longest,
        lowercase=bool(own.get("do_lower_case")),
        prompts=prompts,
        default_prompt=default,
        notes=tuple(notes),
    )


def _modules(folder: Path) -> dict[str, str]:
    """Return the kinds of modules with their folders, in order; none for a plain Hugging Face folder."""
    entries: list[Any] = read_json(folder / "modules.json", list, default=[])
    try:
        modules = {str(entry["type"]).rpartition(".")[2]: str(entry["path"]) for entry in entries}
    except (TypeError, KeyError) as error:
        raise ArtifactError(f"{folder / 'modules.json'} is damaged ({error}): copy the model anew") from error
    for kind in modules:
        if kind not in ("Transformer", "Pooling", "Normalize"):
            raise InvalidInputError(
                f"{folder} has a {kind} module, which ctxembed does not compute (only Transformer, Pooling and "
                f"Normalize): {_NOT_OURS}, whose vectors are the mean of its tokens, without this module"
            )
    if entries and list(modules)[:2] != ["Transformer", "Pooling"]:
        raise InvalidInputError(
            f"{folder} has the modules {', '.join(modules)}, need Transformer and Pooling: {_NOT_OURS}"
        )
    return modules


def _pooling(file: Path) -> tuple[Pooling, str | None]:
    """Return the pooling that a config says in its old or its new words, and a line about it."""
    config = read_json(file, dict)
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [new for old, new in _OLD_NAMES.items() if config.get(old)] or ["mean"]
    modes = [modes] if isinstance(modes, str) else list(modes)
    if not config.get("include_prompt", True):
        raise InvalidInputError(f"{file} leaves prompts out of the pooling, which ctxembed does not: {_NOT_OURS}")
    if modes == ["mean_sqrt_len_tokens"]:
        return "mean", "pooling mean_sqrt_len_tokens is imported as mean: at length one the vectors are the same"
    for known in get_args(Pooling):
        if modes == [known]:
            return known, None
    raise InvalidInputError(
        f"{file} pools by {' and '.join(map(str, modes))}, ctxembed by one of {', '.join(get_args(Pooling))}: "
        f"{_NOT_OURS}, or choose with --pooling"
    )

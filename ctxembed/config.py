"""Settings as frozen dataclasses: TOML or JSON in, and a misspelt name is answered with the right one."""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ctxembed.errors import InvalidInputError

C = TypeVar("C")

Positions = Literal["learned", "sinusoidal", "rotary"]
NormPlacement = Literal["pre", "post"]
FeedForward = Literal["gelu", "geglu", "swiglu"]
Pooling = Literal["mean", "cls", "max"]


def check(condition: bool, message: str) -> None:
    """Refuse a setting: raise InvalidInputError with the message unless the condition holds."""
    if not condition:
        raise InvalidInputError(message)


def check_choices(config: Any) -> None:
    """Refuse a config in which a field that must be one of a few words is another; for ``__post_init__``.

    Raises:
        InvalidInputError: With the field, its value and the words.
    """
    for name, hint in get_type_hints(type(config)).items():
        if get_origin(hint) is Literal:
            _check_type(type(config).__name__, name, getattr(config, name), hint)


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """The shape of a Transformer encoder."""

    vocab_size: int
    """Rows V of the embedding table."""
    hidden_size: int = 256
    """Width D of every token's vector; a multiple of num_heads."""
    num_layers: int = 6
    """Encoder layers, each self-attention and feed-forward."""
    num_heads: int = 4
    """Attention heads H; each is hidden_size / num_heads wide."""
    intermediate_size: int = 1024
    """Inner width of the feed-forward part."""
    max_length: int = 256
    """Most tokens of one window, special tokens included."""
    positions: Positions = "learned"
    """Where order comes from: a learned table, sinusoids (Vaswani et al. 2017), or rotated Q and K (Su et al. 2021)."""
    norm: NormPlacement = "post"
    """Layer normalisation after each residual sum (BERT) or before each part (more stable at depth)."""
    feed_forward: FeedForward = "gelu"
    """Plain GELU, or a gated form (Shazeer 2020)."""
    dropout: float = 0.1
    """Probability that a unit is dropped in training."""
    layer_norm_eps: float = 1e-12
    """Added to the variance in layer normalisation."""
    num_token_types: int = 0
    """Rows of the segment table of BERT checkpoints; 0 for none."""

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("vocab_size", "hidden_size", "num_layers", "num_heads", "intermediate_size"):
            check(getattr(self, name) >= 1, f"{name} = {getattr(self, name)}: must be at least 1")
        check(self.max_length >= 3, f"max_length = {self.max_length}: must be at least 3 (two tokens are special)")
        check(
            self.hidden_size % self.num_heads == 0,
            f"hidden_size = {self.hidden_size} is not a multiple of num_heads = {self.num_heads}: change one",
        )
        check(0.0 <= self.dropout < 1.0, f"dropout = {self.dropout}: must be in [0, 1)")
        check(self.layer_norm_eps > 0, f"layer_norm_eps = {self.layer_norm_eps}: must be above 0")
        check(self.num_token_types >= 0, f"num_token_types = {self.num_token_types}: must be at least 0")
        if self.positions == "rotary":
            width = self.hidden_size // self.num_heads
            check(width % 2 == 0, f"head width {width} is odd: rotary positions turn pairs, choose another num_heads")


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The shape of a Transformer decoder, where it is not that of its encoder.

    Width, heads, vocabulary, longest row, positions, placement of the norms and kind of feed-forward are the encoder's.
    """

    num_layers: int = 2
    """Decoder layers, each masked self-attention, encoder-decoder attention and feed-forward."""
    intermediate_size: int | None = None
    """Inner width of the feed-forward part; the encoder's when None."""
    dropout: float | None = None
    """Probability that a unit of a layer is dropped in training; the encoder's when None."""

    def __post_init__(self) -> None:
        check(self.num_layers >= 1, f"num_layers = {self.num_layers}: must be at least 1")
        size, dropout = self.intermediate_size, self.dropout
        check(size is None or size >= 1, f"intermediate_size = {size}: must be at least 1, or left out")
        check(dropout is None or 0.0 <= dropout < 1.0, f"dropout = {dropout}: must be in [0, 1), or left out")


@dataclass(frozen=True, kw_only=True)
class PoolingConfig:
    """How token vectors become sentence and word vectors."""

    sentence: Pooling = "mean"
    """Mean over the tokens (special ones included, as sentence-transformers does), the first token, or the maximum."""
    usage_layer: int = -1
    """The layer that word-in-context vectors are read from: 0 is the embedding layer, -1 the last."""

    def __post_init__(self) -> None:
        check_choices(self)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """One training run: how long, how fast, how often saved."""

    max_steps: int = 1000
    """Optimiser steps; with a budget they follow from the clock."""
    budget: float | None = None
    """Seconds that the whole run may take, preparation included, in place of max_steps."""
    batch_tokens: int = 8192
    """Tokens of one optimiser step, padding included: rows of like length are batched up to it."""
    accumulation: int = 1
    """Micro-batches of one optimiser step; each holds batch_tokens / accumulation tokens."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    warmup_fraction: float = 0.05
    """Part of the run over which the learning rate rises from 0."""
    weight_decay: float = 0.01
    """AdamW decay, on matrices only."""
    clip_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    max_length: int = 128
    """Longer rows are cut in training (never when embedding)."""
    seed: int = 1
    """Decides initial weights, batches, masks and dropout."""
    eval_every: int = 500
    """Steps between evaluations on the held-out items."""
    save_every: int = 500
    """Steps between checkpoints that --resume continues from."""

    def __post_init__(self) -> None:
        for name in ("max_steps", "batch_tokens", "accumulation", "eval_every", "save_every"):
            check(getattr(self, name) >= 1, f"{name} = {getattr(self, name)}: must be at least 1")
        check(self.budget is None or self.budget > 0, f"budget = {self.budget}: must be above 0 seconds")
        check(self.learning_rate > 0, f"learning_rate = {self.learning_rate}: must be above 0")
        check(0 <= self.warmup_fraction < 1, f"warmup_fraction = {self.warmup_fraction}: must be in [0, 1)")
        check(self.weight_decay >= 0, f"weight_decay = {self.weight_decay}: must be at least 0")
        check(self.clip_norm > 0, f"clip_norm = {self.clip_norm}: must be above 0")
        check(self.max_length >= 3, f"max_length = {self.max_length}: must be at least 3 (two tokens are special)")
        check(0 <= self.seed < 2**32, f"seed = {self.seed}: must be from 0 to {2**32 - 1}")
        check(
            self.batch_tokens // self.accumulation >= self.max_length,
            f"batch_tokens / accumulation = {self.batch_tokens // self.accumulation} is less than one row of "
            f"max_length = {self.max_length}: raise batch_tokens",
        )


NEW_ENCODER: dict[str, Any] = {"positions": "rotary", "norm": "pre", "dropout": 0.0}
"""What a new encoder is unless it is told otherwise. The defaults of EncoderConfig are BERT's, for models that are
imported; a small one that begins with nothing learns far more slowly with them."""
NEW_MASKING: dict[str, Any] = {"drop_fraction": 0.5}
"""How a new encoder learns masked words unless it is told otherwise: it learns more in the same time. An encoder that
was trained with all tokens and goes on does not (docs/training.md)."""
PRESETS: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 64, "num_layers": 2, "num_heads": 2, "intermediate_size": 256},
    "mini": {"hidden_size": 192, "num_layers": 4, "num_heads": 4, "intermediate_size": 768},
    "small": {"hidden_size": 256, "num_layers": 6, "num_heads": 4, "intermediate_size": 1024},
    "base": {"hidden_size": 768, "num_layers": 12, "num_heads": 12, "intermediate_size": 3072},
}


def from_mapping(kind: type[C], values: Mapping[str, Any]) -> C:
    """Build a config from a mapping, strictly.

    Raises:
        InvalidInputError: For an unknown key (with the nearest known one), a value of the wrong type, or a missing key.
    """
    hints = get_type_hints(kind)
    for key, value in values.items():
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1)
            advice = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(hints)}"
            raise InvalidInputError(f"unknown setting {key!r} for {kind.__name__}: {advice}")
        _check_type(kind.__name__, key, value, hints[key])
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    needed = [each.name for each in fields if each.default is each.default_factory is dataclasses.MISSING]
    missing = [name for name in needed if name not in values]
    check(not missing, f"{kind.__name__} needs {', '.join(missing)}: add it")
    return kind(**values)


def _check_type(owner: str, key: str, value: Any, hint: Any) -> None:
    if get_origin(hint) is Literal:
        choices = ", ".join(map(str, get_args(hint)))
        check(value in get_args(hint), f"{owner}.{key} = {value!r}: must be one of {choices}")
    check(_fits(value, hint), f"{owner}.{key} = {value!r}: must be a {_described(hint)}")


def _fits(value: Any, hint: Any) -> bool:
    kind = get_origin(hint) or hint
    if kind is Literal:
        return value in get_args(hint)
    if kind in (Union, UnionType):
        return any(_fits(value, member) for member in get_args(hint))
    if kind in (tuple, list):
        return isinstance(value, kind) and all(_fits(each, get_args(hint)[0]) for each in value)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _described(hint: Any) -> str:
    kind = get_origin(hint) or hint
    if kind in (Union, UnionType):
        return " or ".join(map(_described, get_args(hint)))
    return f"list of {_described(get_args(hint)[0])}" if kind in (tuple, list) else str(kind.__name__)


def to_mapping(config: Any) -> dict[str, Any]:
    """Return a config as a plain dictionary, in the order of its fields."""
    return dataclasses.asdict(config)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file of settings.

    Raises:
        InvalidInputError: If it is not valid TOML, with the line.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{path} is not valid TOML: {error}") from error

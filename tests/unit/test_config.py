from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from ctxembed.config import (
    PRESETS,
    EncoderConfig,
    PoolingConfig,
    TrainingConfig,
    check,
    from_mapping,
    read_toml,
    to_mapping,
)
from ctxembed.errors import InvalidInputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kinds:
    """A field of each kind that settings have."""

    whole: int = 1
    share: float = 0.5
    flag: bool = False
    name: str = "x"
    most: int | None = None
    widths: tuple[int, ...] = ()
    paths: list[str] = dataclasses.field(default_factory=list)
    more: dict[str, Any] = dataclasses.field(default_factory=dict)


# Building from mappings


def test_mapping_sets_the_fields_and_the_rest_keep_their_defaults() -> None:
    config = from_mapping(EncoderConfig, {"vocab_size": 100, "positions": "rotary", "dropout": 0})
    assert config == EncoderConfig(vocab_size=100, positions="rotary", dropout=0)
    assert (config.hidden_size, config.num_layers, config.norm) == (256, 6, "post")


@pytest.mark.parametrize("config", [EncoderConfig(vocab_size=9, norm="pre"), PoolingConfig(), TrainingConfig(seed=7)])
def test_config_comes_back_from_its_mapping(config: Any) -> None:
    mapping = to_mapping(config)
    assert list(mapping) == [field.name for field in dataclasses.fields(config)]
    assert from_mapping(type(config), mapping) == config


@pytest.mark.parametrize(
    "key, advice",
    [
        ("num_layer", "did you mean 'num_layers'"),
        ("hiddensize", "did you mean 'hidden_size'"),
        ("positons", "did you mean 'positions'"),
        ("zzz", "known are vocab_size, hidden_size, .*, num_token_types"),
    ],
)
def test_unknown_key_is_refused_with_the_nearest_known_one(key: str, advice: str) -> None:
    with pytest.raises(InvalidInputError, match=rf"unknown setting '{key}' for EncoderConfig: {advice}"):
        from_mapping(EncoderConfig, {"vocab_size": 100, key: 3})


def test_missing_key_is_refused_by_name() -> None:
    with pytest.raises(InvalidInputError, match="EncoderConfig needs vocab_size: add it"):
        from_mapping(EncoderConfig, {})


@pytest.mark.parametrize(
    "key, value, need",
    [
        ("whole", "3", "a int"),
        ("whole", 3.0, "a int"),
        ("whole", True, "a int"),
        ("whole", None, "a int"),
        ("share", "0.5", "a float"),
        ("share", False, "a float"),
        ("flag", 1, "a bool"),
        ("name", 1, "a str"),
        ("name", ["x"], "a str"),
        ("most", "all", "a int or NoneType"),
        ("most", True, "a int or NoneType"),
        ("widths", 8, "a list of int"),
        ("widths", ("8",), "a list of int"),
        ("widths", (8, True), "a list of int"),
        ("paths", "a.txt", "a list of str"),
        ("paths", ["a.txt", 3], "a list of str"),
        ("more", [1], "a dict"),
    ],
)
def test_value_of_the_wrong_type_is_refused_with_the_right_type(key: str, value: Any, need: str) -> None:
    with pytest.raises(InvalidInputError) as raised:
        from_mapping(Kinds, {key: value})
    assert str(raised.value) == f"Kinds.{key} = {value!r}: must be {need}"


@pytest.mark.parametrize(
    "values",
    [
        {"share": 1},
        {"most": None},
        {"most": 3},
        {"flag": True},
        {"name": ""},
        {"widths": ()},
        {"widths": (8, 16)},
        {"paths": ["a.txt"]},
        {"more": {"a": [1]}},
        {},
    ],
)
def test_value_of_the_right_type_is_kept(values: dict[str, Any]) -> None:
    assert from_mapping(Kinds, values) == Kinds(**values)


@pytest.mark.parametrize("value", ["middle", "Post", "", None, 1, ["post"]])
def test_word_that_is_no_choice_is_refused_with_the_choices(value: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"EncoderConfig\.norm = .*: must be one of pre, post"):
        from_mapping(EncoderConfig, {"vocab_size": 100, "norm": value})


# Limits


@pytest.mark.parametrize(
    "kind, values",
    [(EncoderConfig, {"vocab_size": 9, "feed_forward": "relu"}), (PoolingConfig, {"sentence": "sum"})],
)
def test_word_that_is_no_choice_is_refused_without_a_mapping_too(kind: Any, values: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match=rf"{kind.__name__}\..*: must be one of "):
        kind(**values)


@pytest.mark.parametrize(
    "name, value, limit",
    [
        ("vocab_size", 0, "at least 1"),
        ("hidden_size", 0, "at least 1"),
        ("num_layers", -1, "at least 1"),
        ("num_heads", 0, "at least 1"),
        ("intermediate_size", 0, "at least 1"),
        ("max_length", 2, "at least 3"),
        ("dropout", 1.0, r"in \[0, 1\)"),
        ("dropout", -0.1, r"in \[0, 1\)"),
        ("dropout", math.nan, r"in \[0, 1\)"),
        ("layer_norm_eps", 0.0, "above 0"),
        ("num_token_types", -1, "at least 0"),
        ("num_heads", 5, "is not a multiple of num_heads = 5: change one"),
    ],
)
def test_encoder_setting_outside_its_limit_is_refused(name: str, value: float, limit: str) -> None:
    with pytest.raises(InvalidInputError, match=rf"{name} = {value}: must be {limit}$|{limit}"):
        EncoderConfig(**{"vocab_size": 100, name: value})  # type: ignore[arg-type]


def test_rotary_positions_need_heads_of_even_width() -> None:
    with pytest.raises(InvalidInputError, match="head width 5 is odd: rotary positions turn pairs"):
        EncoderConfig(vocab_size=100, hidden_size=10, num_heads=2, positions="rotary")
    assert EncoderConfig(vocab_size=100, hidden_size=10, num_heads=2).positions == "learned"


@pytest.mark.parametrize(
    "name, value, limit",
    [
        ("max_steps", 0, "at least 1"),
        ("batch_tokens", 0, "at least 1"),
        ("accumulation", 0, "at least 1"),
        ("eval_every", 0, "at least 1"),
        ("save_every", 0, "at least 1"),
        ("learning_rate", 0.0, "above 0"),
        ("learning_rate", math.nan, "above 0"),
        ("warmup_fraction", 1.0, r"in \[0, 1\)"),
        ("weight_decay", -0.1, "at least 0"),
        ("clip_norm", 0.0, "above 0"),
        ("clip_norm", -1.0, "above 0"),
        ("max_length", 2, "at least 3"),
        ("budget", 0.0, "above 0 seconds"),
        ("budget", math.nan, "above 0 seconds"),
        ("seed", -1, "from 0 to 4294967295"),
        ("seed", 2**32, "from 0 to 4294967295"),
    ],
)
def test_training_setting_outside_its_limit_is_refused(name: str, value: float, limit: str) -> None:
    with pytest.raises(InvalidInputError, match=rf"^{name} = {value}: must be {limit}"):
        TrainingConfig(**{name: value})  # type: ignore[arg-type]


def test_micro_batch_shorter_than_one_row_is_refused() -> None:
    with pytest.raises(
        InvalidInputError, match=r"batch_tokens / accumulation = 127 is less .* max_length = 128: raise"
    ):
        TrainingConfig(batch_tokens=511, accumulation=4, max_length=128)
    assert TrainingConfig(batch_tokens=512, accumulation=4, max_length=128).batch_tokens == 512


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_a_config(preset: str) -> None:
    config = from_mapping(EncoderConfig, {"vocab_size": 100, "positions": "rotary", **PRESETS[preset]})
    assert config.hidden_size == PRESETS[preset]["hidden_size"]


def test_config_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        PoolingConfig().sentence = "max"  # type: ignore[misc]


def test_check_raises_its_message_only_when_the_condition_fails() -> None:
    check(True, "not raised")
    with pytest.raises(InvalidInputError, match="^x = 0: raise it$"):
        check(False, "x = 0: raise it")


# TOML


def test_toml_file_is_read_as_tables(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('[encoder]\nnorm = "pre"\ndropout = 0\n[training]\nseed = 3\n', encoding="utf-8")
    assert read_toml(file) == {"encoder": {"norm": "pre", "dropout": 0}, "training": {"seed": 3}}


@pytest.mark.parametrize(
    "content, place", [(b"a = 1\nb = = 2\n", "line 2"), (b"a = '\xff'", "byte 0xff"), (b"a=1\na=2", "")]
)
def test_invalid_toml_is_an_error_naming_file_and_place(tmp_path: Path, content: bytes, place: str) -> None:
    file = tmp_path / "run.toml"
    file.write_bytes(content)
    with pytest.raises(InvalidInputError, match=rf"run\.toml is not valid TOML: .*{place}"):
        read_toml(file)

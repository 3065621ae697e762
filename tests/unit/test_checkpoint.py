from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ctxembed.config import DecoderConfig, PoolingConfig
from ctxembed.errors import ArtifactError, InvalidInputError, MissingInputError
from ctxembed.model.checkpoint import Checkpoint, load_checkpoint, read_config, save_checkpoint
from ctxembed.model.decoder import TransformerDecoder
from ctxembed.tokenizer import SubwordTokenizer, TokenizerConfig

FILES = ("README.md", "config.json", "model.safetensors", "tokenizer.json", "training.json")


@pytest.fixture
def checkpoint(tiny_model: Path) -> Checkpoint:
    return load_checkpoint(tiny_model)


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may damage."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


@pytest.fixture
def with_decoder(checkpoint: Checkpoint) -> Checkpoint:
    torch.manual_seed(2)
    config = DecoderConfig(num_layers=1, intermediate_size=40, dropout=0.25)
    return replace(checkpoint, decoder=TransformerDecoder(checkpoint.encoder.config, config))


def states(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    parts = {"": checkpoint.encoder, "head.": checkpoint.head, "decoder.": checkpoint.decoder}
    return {
        prefix + name: value
        for prefix, part in parts.items()
        if part is not None
        for name, value in part.state_dict().items()
    }


def fingerprint_of(checkpoint: Checkpoint, folder: Path, **options: Any) -> str:
    save_checkpoint(folder, checkpoint, **options)
    return load_checkpoint(folder).fingerprint


def change_config(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    config = read_config(folder)
    change(config)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


# Round trips


def test_float32_comes_back_bit_for_bit(checkpoint: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "again", checkpoint, dtype=torch.float32)
    again = load_checkpoint(tmp_path / "again")
    before, after = states(checkpoint), states(again)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert again.encoder.config == checkpoint.encoder.config
    assert (again.name, again.pooling, again.prompts) == (checkpoint.name, checkpoint.pooling, checkpoint.prompts)
    assert again.tokenizer.fingerprint == checkpoint.tokenizer.fingerprint


@pytest.mark.parametrize(("dtype", "precision"), [(torch.float16, 2**-11), (torch.bfloat16, 2**-8)])
def test_half_precision_comes_back_close_and_in_float32(
    checkpoint: Checkpoint, tmp_path: Path, dtype: torch.dtype, precision: float
) -> None:
    save_checkpoint(tmp_path / "half", checkpoint, dtype=dtype)
    after = states(load_checkpoint(tmp_path / "half"))
    for name, value in states(checkpoint).items():
        assert after[name].dtype == torch.float32
        torch.testing.assert_close(after[name], value, rtol=precision, atol=1e-7)


def test_weights_are_stored_in_half_precision_by_default(checkpoint: Checkpoint, folder: Path, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "half", checkpoint)
    full, half = ((path / "model.safetensors").stat().st_size for path in (folder, tmp_path / "half"))
    assert half < 0.6 * full


def test_saving_leaves_the_model_in_memory_as_it_was(checkpoint: Checkpoint, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in states(checkpoint).items()}
    save_checkpoint(tmp_path / "half", checkpoint)
    assert all(torch.equal(value, before[name]) for name, value in states(checkpoint).items())


def test_a_loaded_model_is_in_evaluation_mode(checkpoint: Checkpoint) -> None:
    assert checkpoint.head is not None
    modules = [*checkpoint.encoder.modules(), *checkpoint.head.modules()]
    assert not any(module.training for module in modules)


def test_a_model_without_masked_word_head_comes_back_without_one(checkpoint: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "bare", replace(checkpoint, head=None))
    assert load_checkpoint(tmp_path / "bare").head is None


def test_a_folder_holds_five_files_and_what_was_given_for_them(checkpoint: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "m", checkpoint, training={"seed": 3}, card="# A card\n")
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == sorted(FILES)
    assert json.loads((tmp_path / "m" / "training.json").read_text(encoding="utf-8")) == {"seed": 3}
    assert (tmp_path / "m" / "README.md").read_text(encoding="utf-8") == "# A card\n"


def test_a_kill_while_a_model_is_written_over_another_leaves_an_unfinished_one(
    checkpoint: Checkpoint, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(SubwordTokenizer, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(folder, checkpoint)
    with pytest.raises(ArtifactError, match=r"is not a ctxembed model: it has no config.json"):
        load_checkpoint(folder)


def test_a_model_that_cannot_be_written_leaves_the_one_before_it(checkpoint: Checkpoint, folder: Path) -> None:
    with torch.no_grad():
        checkpoint.encoder.layers[1].attention.key.weight[0, 0] = float("nan")
    with pytest.raises(InvalidInputError, match="the training diverged"):
        save_checkpoint(folder, checkpoint)
    assert load_checkpoint(folder).fingerprint == checkpoint.fingerprint


def test_two_saves_of_one_model_are_equal_byte_for_byte(checkpoint: Checkpoint, tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_checkpoint(tmp_path / name, checkpoint)
    assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes() for file in FILES)


# The decoder


def test_a_decoder_comes_back_bit_for_bit(with_decoder: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "m", with_decoder, dtype=torch.float32)
    again = load_checkpoint(tmp_path / "m")
    assert again.decoder is not None
    assert with_decoder.decoder is not None
    assert again.decoder.config == with_decoder.decoder.config
    before, after = states(with_decoder), states(again)
    assert before.keys() == after.keys()
    assert any(name.startswith("decoder.") for name in before)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(module.training for module in again.decoder.modules())


def test_a_model_without_decoder_says_so(checkpoint: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "m", checkpoint)
    assert read_config(tmp_path / "m")["decoder"] is None
    assert load_checkpoint(tmp_path / "m").decoder is None


def test_a_folder_from_before_there_were_decoders_loads_with_its_fingerprint(
    checkpoint: Checkpoint, folder: Path
) -> None:
    change_config(folder, lambda config: config.pop("decoder"))
    assert "decoder" not in json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert load_checkpoint(folder).decoder is None
    assert load_checkpoint(folder).fingerprint == checkpoint.fingerprint


def test_fingerprint_does_not_change_with_the_shape_of_the_decoder(with_decoder: Checkpoint, tmp_path: Path) -> None:
    before = fingerprint_of(with_decoder, tmp_path / "m")
    change_config(tmp_path / "m", lambda config: config["decoder"].update(dropout=0.5))
    after = load_checkpoint(tmp_path / "m")
    assert after.decoder is not None
    assert after.decoder.config.dropout == 0.5
    assert after.fingerprint == before


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (True, r"no usable decoder"),
        ({"num_layers": 0}, "num_layers = 0: must be at least 1"),
        ({"layers": 2}, "unknown setting 'layers' for DecoderConfig"),
    ],
)
def test_an_impossible_decoder_is_refused(folder: Path, entry: Any, message: str) -> None:
    change_config(folder, lambda config: config.update(decoder=entry))
    with pytest.raises(ArtifactError, match=rf"config.json is damaged \(.*{message}"):
        load_checkpoint(folder)


def test_a_decoder_without_weights_is_refused(folder: Path) -> None:
    change_config(folder, lambda config: config.update(decoder={"num_layers": 1}))
    with pytest.raises(ArtifactError, match=r"(?s)does not fit its config.json: .*Missing key.*decoder"):
        load_checkpoint(folder)


def test_weights_of_a_decoder_that_the_config_denies_are_refused(with_decoder: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "m", with_decoder)
    change_config(tmp_path / "m", lambda config: config.update(decoder=None))
    with pytest.raises(ArtifactError, match=r"(?s)does not fit its config.json: .*Unexpected key.*decoder"):
        load_checkpoint(tmp_path / "m")


# Fingerprint


def test_fingerprint_is_a_sha256_that_follows_from_the_model(checkpoint: Checkpoint, tmp_path: Path) -> None:
    assert len(checkpoint.fingerprint) == 64
    assert fingerprint_of(checkpoint, tmp_path / "a", dtype=torch.float32) == checkpoint.fingerprint


def test_fingerprint_changes_with_any_weight(checkpoint: Checkpoint, tmp_path: Path) -> None:
    seen = [checkpoint.fingerprint]
    parameters = dict(checkpoint.encoder.named_parameters())
    for name in parameters:
        with torch.no_grad():
            parameters[name].view(-1)[-1].add_(0.25)
        seen.append(fingerprint_of(checkpoint, tmp_path / name, dtype=torch.float32))
    assert len(seen) > 30
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize(
    "other",
    [
        {"pooling": PoolingConfig(sentence="cls")},
        {"pooling": PoolingConfig(usage_layer=1)},
        {"prompts": {"query": "other "}},
        {"prompts": {}},
        {"default_prompt": "query"},
    ],
)
def test_fingerprint_changes_with_pooling_and_prompts(
    checkpoint: Checkpoint, tmp_path: Path, other: dict[str, Any]
) -> None:
    changed = fingerprint_of(replace(checkpoint, **other), tmp_path / "a", dtype=torch.float32)
    assert changed != checkpoint.fingerprint


def test_fingerprint_changes_with_the_tokenizer(checkpoint: Checkpoint, tmp_path: Path) -> None:
    other = SubwordTokenizer.train(["a bank by a river"], config=TokenizerConfig(vocab_size=40, min_frequency=1))
    changed = fingerprint_of(replace(checkpoint, tokenizer=other), tmp_path / "a", dtype=torch.float32)
    assert changed != checkpoint.fingerprint


def test_fingerprint_does_not_change_with_the_name_the_card_and_the_notes(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    renamed = replace(checkpoint, name="other")
    same = fingerprint_of(renamed, tmp_path / "a", dtype=torch.float32, card="other", training={"seed": 9})
    assert same == checkpoint.fingerprint


# Damage


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_missing_part_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name} is missing: copy the model anew"):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_truncated_part_is_refused(folder: Path, name: str) -> None:
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(ArtifactError, match=rf"{name} is damaged or of another model \(its sha256"):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_single_changed_byte_is_noticed(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[-3] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(ArtifactError, match=f"{name} is damaged or of another model"):
        load_checkpoint(folder)


def test_weights_of_another_model_are_refused(checkpoint: Checkpoint, folder: Path, tmp_path: Path) -> None:
    with torch.no_grad():
        checkpoint.encoder.embedding.tokens.weight.mul_(2)
    save_checkpoint(tmp_path / "other", checkpoint, dtype=torch.float32)
    shutil.copy(tmp_path / "other" / "model.safetensors", folder)
    with pytest.raises(ArtifactError, match="model.safetensors is damaged or of another model"):
        load_checkpoint(folder)


def test_a_tokenizer_with_more_tokens_than_the_encoder_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    words = " ".join(f"word{number}" for number in range(300))
    large = SubwordTokenizer.train([words], config=TokenizerConfig(vocab_size=300, min_frequency=1))
    save_checkpoint(tmp_path / "m", replace(checkpoint, tokenizer=large))
    with pytest.raises(
        ArtifactError, match=f"{len(large)} tokens, the encoder {len(checkpoint.tokenizer)}: they do not belong"
    ):
        load_checkpoint(tmp_path / "m")


def test_weights_of_another_shape_are_refused(folder: Path) -> None:
    change_config(folder, lambda config: config["encoder"].update(intermediate_size=48))
    with pytest.raises(ArtifactError, match=r"(?s)model.safetensors does not fit its config.json: .*size mismatch"):
        load_checkpoint(folder)


def test_a_head_without_weights_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "m", replace(checkpoint, head=None))
    change_config(tmp_path / "m", lambda config: config.update(masked_word_head=True))
    with pytest.raises(ArtifactError, match=r"(?s)does not fit its config.json: .*Missing key"):
        load_checkpoint(tmp_path / "m")


@pytest.mark.parametrize("text", ["{", "\x00", '{"format": "ctxembed-model", '])
def test_a_config_that_is_no_json_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"config.json is damaged \(.*: copy the model anew"):
        load_checkpoint(folder)


@pytest.mark.parametrize("text", ["[]", "{}", '{"model_type": "bert"}', '{"format": "ctxembed-vectors", "version": 1}'])
def test_a_config_of_another_format_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ArtifactError, match="is not a ctxembed model .* has no format 'ctxembed-model'"):
        load_checkpoint(folder)


@pytest.mark.parametrize("version", [2, None, "1"])
def test_another_version_is_refused(folder: Path, version: Any) -> None:
    change_config(folder, lambda config: config.update(version=version))
    with pytest.raises(ArtifactError, match=f"has format version {version}, this ctxembed reads 1: upgrade ctxembed"):
        read_config(folder)


@pytest.mark.parametrize("entry", ["name", "encoder", "pooling", "prompts", "masked_word_head", "files"])
def test_a_config_that_lacks_an_entry_is_refused(folder: Path, entry: str) -> None:
    change_config(folder, lambda config: config.pop(entry))
    with pytest.raises(ArtifactError, match=rf"config.json is damaged \(no usable {entry}\)"):
        load_checkpoint(folder)


def test_a_config_that_does_not_list_the_weights_is_refused(folder: Path) -> None:
    change_config(folder, lambda config: config["files"].pop("model.safetensors"))
    with pytest.raises(ArtifactError, match="model.safetensors is damaged or of another model"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hiden_size": 32}, "did you mean 'hidden_size'"),
        ({"num_heads": 5}, "not a multiple of num_heads = 5"),
        ({"norm": "middle"}, "must be one of pre, post"),
    ],
)
def test_a_config_with_an_impossible_shape_is_refused(folder: Path, change: dict[str, Any], message: str) -> None:
    change_config(folder, lambda config: config["encoder"].update(change))
    with pytest.raises(ArtifactError, match=rf"config.json is damaged \(.*{message}"):
        load_checkpoint(folder)


def test_a_folder_whose_training_is_unfinished_says_so(tmp_path: Path) -> None:
    (tmp_path / "m" / ".run").mkdir(parents=True)
    with pytest.raises(ArtifactError, match="is not a ctxembed model: its training is unfinished: --resume it"):
        load_checkpoint(tmp_path / "m")


def test_a_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"is not a ctxembed model: it has no config.json"):
        load_checkpoint(tmp_path)


def test_a_path_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="nowhere does not exist"):
        load_checkpoint(tmp_path / "nowhere")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_weights_that_float16_cannot_hold_are_refused(checkpoint: Checkpoint, tmp_path: Path, value: float) -> None:
    with torch.no_grad():
        checkpoint.encoder.layers[1].attention.key.weight[0, 0] = value
    with pytest.raises(
        InvalidInputError, match=r"encoder.layers.1.attention.key.weight holds values that are not finite in torch"
    ):
        save_checkpoint(tmp_path / "m", checkpoint)
    assert not (tmp_path / "m" / "config.json").exists()


def test_a_large_weight_is_stored_in_float32(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with torch.no_grad():
        checkpoint.encoder.layers[1].attention.key.weight[0, 0] = 1e6
    save_checkpoint(tmp_path / "m", checkpoint, dtype=torch.float32)
    assert load_checkpoint(tmp_path / "m").encoder.layers[1].attention.key.weight[0, 0] == 1e6

"""What an import refuses, what it leaves out, and what it tells."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ctxembed.errors import ArtifactError, InvalidInputError, MissingInputError
from ctxembed.interop.importing import import_model, save_imported
from ctxembed.model.checkpoint import load_checkpoint
from ctxembed.runtime import write_json

HF = "-m hf:FOLDER"


@pytest.fixture
def folder(tmp_path: Path, bert_folder: Path) -> Path:
    return shutil.copytree(bert_folder, tmp_path / "little-bert")


def change(file: Path, **values: Any) -> None:
    """Set entries of a JSON file, which may be new."""
    before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    write_json(file, before | values)


def change_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")


# Architectures


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "roberta"}, "is of the type 'roberta', import takes 'bert'"),
        ({"model_type": "mpnet"}, "'mpnet'"),
        ({"model_type": "xlm-roberta"}, "'xlm-roberta'"),
        ({"model_type": "t5"}, "'t5'"),
        ({"model_type": "modernbert"}, "the encoder here lacks attention to a neighbourhood in two layers of three"),
        ({"architectures": ["JinaBertForMaskedLM"]}, "is a JinaBertForMaskedLM, import takes BERT's own classes"),
        ({"position_embedding_type": "alibi"}, "position_embedding_type = 'alibi', import takes 'absolute'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type = 'relative_key'"),
        ({"hidden_act": "gelu_new"}, "hidden_act = 'gelu_new', import takes 'gelu'"),
        ({"hidden_act": "relu"}, "hidden_act = 'relu'"),
        ({"is_decoder": True}, "is_decoder = True"),
    ],
)
def test_another_architecture_is_refused_by_name_with_the_way_out(
    folder: Path, values: dict[str, Any], message: str
) -> None:
    change(folder / "config.json", **values)
    with pytest.raises(InvalidInputError) as refused:
        import_model(folder)
    assert message in str(refused.value)
    assert HF in str(refused.value)


def test_a_config_without_a_size_or_with_an_impossible_one_is_damaged(folder: Path) -> None:
    change(folder / "config.json", hidden_size=33)
    with pytest.raises(ArtifactError, match=r"hidden_size = 33 is not a multiple of num_heads = 4"):
        import_model(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    del config["hidden_size"]
    write_json(folder / "config.json", config)
    with pytest.raises(ArtifactError, match=r"config.json does not say hidden_size"):
        import_model(folder)


# Weights


def test_a_pickle_alone_is_refused_with_the_way_out(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InvalidInputError, match=r"only as pytorch_model.bin, a pickle, .*save_pretrained\(FOLDER\)"):
        import_model(folder)


def test_a_pickle_beside_safetensors_is_not_opened(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"no pickle")
    assert import_model(folder).checkpoint.name == "little-bert"


def test_no_weights_at_all_are_missed(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"has no model.safetensors \(nor model.safetensors.index.json\)"):
        import_model(folder)


def test_missing_weights_are_named(folder: Path) -> None:
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if name.startswith("encoder.layer.2.")]:
            del tensors[name]

    change_weights(folder, edit)
    with pytest.raises(
        ArtifactError, match=r"lacks 16 weights: encoder.layer.2.attention.self.query.weight, .* 13 more"
    ):
        import_model(folder)


def test_a_weight_of_another_shape_is_named(folder: Path) -> None:
    change_weights(folder, lambda tensors: tensors.update({"encoder.layer.1.output.dense.weight": torch.zeros(32, 47)}))
    with pytest.raises(ArtifactError, match=r"encoder.layer.1.output.dense.weight is \(32, 47\), need \(32, 48\)"):
        import_model(folder)


def test_positions_of_another_number_than_the_config_says_are_named(folder: Path) -> None:
    change(folder / "config.json", max_position_embeddings=60)
    with pytest.raises(ArtifactError, match=r"position_embeddings.weight is \(40, 32\), need \(60, 32\)"):
        import_model(folder)


def test_quantised_weights_are_refused(folder: Path) -> None:
    name = "encoder.layer.0.output.dense.weight"
    change_weights(folder, lambda tensors: tensors.update({name: torch.zeros(32, 48, dtype=torch.int8)}))
    with pytest.raises(InvalidInputError, match=r"quantised weights \(encoder.layer.0.output.dense.weight is int8\)"):
        import_model(folder)


def test_a_damaged_file_and_a_missing_part_are_damage(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.rename(folder / "part.safetensors")
    write_json(folder / "model.safetensors.index.json", {"weight_map": {"a": "part.safetensors", "b": "b.safetensors"}})
    with pytest.raises(ArtifactError, match=r"b.safetensors is missing, which model.safetensors.index.json names"):
        import_model(folder)
    weights.write_bytes(b"nothing of the kind")
    with pytest.raises(ArtifactError, match=r"model.safetensors is damaged"):
        import_model(folder)


def test_weights_of_a_classifier_are_left_out_and_counted(folder: Path) -> None:
    classifier = {"classifier.weight": torch.zeros(2, 32), "classifier.bias": torch.zeros(2)}
    change_weights(folder, lambda tensors: tensors.update(classifier))
    (note,) = import_model(folder).notes
    assert note == (
        "left out 4 weights that no vector needs: classifier.bias, classifier.weight, pooler.dense.bias and 1 more"
    )


def test_a_model_without_pooler_needs_no_note(folder: Path) -> None:
    change_weights(folder, lambda tensors: [tensors.pop(f"pooler.dense.{part}") for part in ("weight", "bias")])
    assert import_model(folder).notes == ()


def test_names_of_the_first_checkpoints_are_understood(folder: Path) -> None:
    expected = import_model(folder).checkpoint.encoder.state_dict()

    def edit(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            tensors[f"bert.{old}"] = tensors.pop(name)
        tensors["bert.embeddings.position_ids"] = torch.arange(40)

    change_weights(folder, edit)
    again = import_model(folder)
    torch.testing.assert_close(dict(again.checkpoint.encoder.state_dict()), dict(expected), atol=0, rtol=0)
    assert "position_ids" not in " ".join(again.notes)


def test_a_head_with_a_matrix_of_its_own_is_left_out(tmp_path: Path, bert: Callable[..., Path]) -> None:
    folder = bert(tmp_path / "mlm", kind="BertForMaskedLM", pooling={"pooling_mode": "mean"})
    assert import_model(folder).checkpoint.head is not None

    def untie(tensors: dict[str, torch.Tensor]) -> None:
        table = tensors["bert.embeddings.word_embeddings.weight"]
        tensors["cls.predictions.decoder.weight"] = table + 1

    change_weights(folder, untie)
    imported = import_model(folder)
    assert imported.checkpoint.head is None
    assert imported.notes[0] == "the masked-word head has a matrix of its own, not the embedding table: it is left out"


# Sentence settings


@pytest.mark.parametrize(
    "pooling",
    [
        {"pooling_mode_mean_tokens": False, "pooling_mode_weightedmean_tokens": True},
        {"pooling_mode_mean_tokens": False, "pooling_mode_lasttoken": True},
        {"pooling_mode": "weightedmean"},
        {"pooling_mode": "lasttoken"},
        {"pooling_mode": ["cls", "mean"]},
    ],
)
def test_a_pooling_that_is_not_ours_is_refused_by_name(folder: Path, pooling: dict[str, Any]) -> None:
    write_json(folder / "1_Pooling" / "config.json", pooling)
    with pytest.raises(InvalidInputError, match=r"pools by (weightedmean|lasttoken|cls and mean), ctxembed by one of"):
        import_model(folder)
    assert import_model(folder, pooling="max").checkpoint.pooling.sentence == "max"


def test_prompts_outside_the_pooling_are_refused(folder: Path) -> None:
    change(folder / "1_Pooling" / "config.json", include_prompt=False)
    with pytest.raises(InvalidInputError, match=r"leaves prompts out of the pooling"):
        import_model(folder)


def test_a_dense_module_is_refused_by_name(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    modules.append({"idx": 3, "name": "3", "path": "3_Dense", "type": "sentence_transformers.models.Dense"})
    write_json(folder / "modules.json", modules)
    with pytest.raises(InvalidInputError, match=r"has a Dense module, which ctxembed does not compute"):
        import_model(folder)


def test_a_folder_without_normalize_says_that_vectors_have_length_one(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    write_json(folder / "modules.json", modules[:2])
    assert import_model(folder).notes[0] == (
        "no Normalize module: sentence vectors have length one here all the same, with the same cosines"
    )


def test_a_folder_without_pooling_module_is_refused(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    write_json(folder / "modules.json", modules[:1])
    with pytest.raises(InvalidInputError, match=r"has the modules Transformer, need Transformer and Pooling"):
        import_model(folder)


def test_a_plain_folder_says_that_it_takes_the_mean(folder: Path) -> None:
    (folder / "modules.json").unlink()
    imported = import_model(folder)
    assert imported.notes[0].startswith("no modules.json of sentence-transformers: a sentence's vector is the mean")
    assert imported.checkpoint.pooling.sentence == "mean"


def test_the_network_may_lie_in_a_folder_of_its_own(folder: Path) -> None:
    inner = folder / "0_Transformer"
    inner.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).rename(inner / name)
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    modules[0]["path"] = "0_Transformer"
    write_json(folder / "modules.json", modules)
    write_json(inner / "sentence_bert_config.json", {"max_seq_length": 12})
    imported = import_model(folder)
    assert list(imported.origin["weights"]) == ["0_Transformer/model.safetensors"]
    assert imported.checkpoint.encoder.config.max_length == 12


@pytest.mark.parametrize(
    ("said", "limit", "expected"), [(24, 30, 24), (None, 30, 30), (None, 10**30, 40), (None, None, 40), (512, None, 40)]
)
def test_the_window_is_what_the_folder_says_and_the_positions_allow(
    folder: Path, said: int | None, limit: int | None, expected: int
) -> None:
    change(folder / "sentence_bert_config.json", max_seq_length=said)
    change(folder / "tokenizer_config.json", model_max_length=limit)
    imported = import_model(folder)
    assert imported.checkpoint.encoder.config.max_length == expected
    told = "the folder speaks of texts of 512 tokens, the model has 40 positions: these are taken"
    assert (told in imported.notes) == (said == 512)


@pytest.mark.parametrize("length", [2, 41])
def test_a_window_beyond_the_positions_is_refused(folder: Path, length: int) -> None:
    with pytest.raises(InvalidInputError, match=rf"max_length = {length}: the model has 40 positions, choose 3 to 40"):
        import_model(folder, max_length=length)


def test_prompts_and_the_default_one_are_kept(folder: Path, tmp_path: Path) -> None:
    prompts = {"query": "find: ", "document": ""}
    write_json(folder / "config_sentence_transformers.json", {"prompts": prompts, "default_prompt_name": "query"})
    save_imported(tmp_path / "model", import_model(folder))
    again = load_checkpoint(tmp_path / "model")
    assert (again.prompts, again.default_prompt) == (prompts, "query")


@pytest.mark.parametrize("values", [{"prompts": ["a"]}, {"prompts": {"a": 1}}, {"default_prompt_name": "none such"}])
def test_prompts_that_make_no_sense_are_damage(folder: Path, values: dict[str, Any]) -> None:
    write_json(folder / "config_sentence_transformers.json", values)
    with pytest.raises(ArtifactError, match=r"config_sentence_transformers.json is damaged \(prompts\)"):
        import_model(folder)


# Tokenizers


def token_count(folder: Path, text: str) -> int:
    return len(import_model(folder).checkpoint.tokenizer.encode_ids([text])[0])


def test_truncation_and_padding_of_the_file_do_not_survive(folder: Path, tmp_path: Path) -> None:
    truncation = {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
    padding = {"strategy": {"Fixed": 30}, "direction": "Right", "pad_to_multiple_of": None}
    padding |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}
    change(folder / "tokenizer.json", truncation=truncation, padding=padding)
    assert (token_count(folder, "the bank " * 10), token_count(folder, "the")) == (20, 1)
    save_imported(tmp_path / "model", import_model(folder))
    state = json.loads((tmp_path / "model" / "tokenizer.json").read_text(encoding="utf-8"))
    assert (state["truncation"], state["padding"]) == (None, None)


def test_lower_case_that_only_the_sentence_settings_ask_for_is_applied(folder: Path) -> None:
    change(folder / "tokenizer_config.json", do_lower_case=False)
    encode = import_model(folder).checkpoint.tokenizer.encode_ids
    bank, small = (ids.tolist() for ids in encode(["Bank", "bank"]))
    assert bank != small
    write_json(folder / "sentence_bert_config.json", {"do_lower_case": True})
    assert import_model(folder).checkpoint.tokenizer.encode_ids(["Bank"])[0].tolist() == small


def test_a_tokenizer_that_frames_a_text_otherwise_is_refused(folder: Path) -> None:
    change(folder / "tokenizer.json", post_processor=None)
    assert token_count(folder, "the") == 1  # it says nothing: BERT's own way
    single = [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "[SEP]", "type_id": 0}}]
    special = {"[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]}}
    processor = {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": special}
    processor["pair"] = [*single, {"Sequence": {"id": "B", "type_id": 1}}]
    change(folder / "tokenizer.json", post_processor=processor)
    with pytest.raises(InvalidInputError, match=r"makes \['a', '\[SEP\]'\] of 'a', import takes one token before"):
        import_model(folder)


def test_a_folder_without_tokenizer_or_with_a_broken_one_is_damaged(folder: Path) -> None:
    change(folder / "tokenizer.json", model=None)
    with pytest.raises(ArtifactError, match=r"the tokenizer of .* cannot be used here"):
        import_model(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ArtifactError, match=r"has neither tokenizer.json nor vocab.txt"):
        import_model(folder)
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nthe\n", encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"vocab.txt has no \[MASK\]"):
        import_model(folder)


def test_added_tokens_beside_a_vocabulary_are_refused_with_the_way_out(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\n", encoding="utf-8")
    write_json(folder / "added_tokens.json", {"the": 5})
    assert token_count(folder, "the") == 1
    write_json(folder / "added_tokens.json", {"[ENT]": 6})
    with pytest.raises(InvalidInputError, match=r"added tokens \(\[ENT\]\) beside vocab.txt: let transformers"):
        import_model(folder)


def test_a_tokenizer_larger_than_the_weights_does_not_belong_to_them(folder: Path) -> None:
    state = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    state["model"]["vocab"]["one more"] = 500
    write_json(folder / "tokenizer.json", state)
    with pytest.raises(
        ArtifactError, match=r"the tokenizer has 501 tokens, the weights \d+: they do not belong together"
    ):
        import_model(folder)


# The result


def test_the_model_is_stored_in_float32_unless_told_otherwise(folder: Path, tmp_path: Path) -> None:
    imported = import_model(folder)
    for name, dtype in (("whole", torch.float32), ("half", torch.float16)):
        save_imported(tmp_path / name, imported, **({} if name == "whole" else {"dtype": dtype}))
        assert {each.dtype for each in load_file(tmp_path / name / "model.safetensors").values()} == {dtype}


def test_the_card_and_the_notes_say_where_the_model_is_from(folder: Path, tmp_path: Path) -> None:
    (folder / "README.md").write_text("licence: of the original", encoding="utf-8")
    save_imported(tmp_path / "model", import_model(folder))
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("# little-bert\n\nImported by ctxembed")
    assert "left out 2 weights" in card
    assert card.endswith("licence: of the original")
    training = json.loads((tmp_path / "model" / "training.json").read_text(encoding="utf-8"))
    assert list(training["imported"]["weights"]) == ["model.safetensors"]


def test_equal_imports_give_equal_models(folder: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_imported(tmp_path / name, import_model(folder))
    prints = {load_checkpoint(tmp_path / name).fingerprint for name in ("one", "two")}
    assert len(prints) == 1


def test_nothing_and_a_file_are_no_folder(folder: Path) -> None:
    with pytest.raises(MissingInputError, match="does not exist"):
        import_model(folder / "none")
    with pytest.raises(InvalidInputError, match=r"config.json is a file: name the folder that it is in"):
        import_model(folder / "config.json")


def test_import_needs_no_transformers(folder: Path) -> None:
    code = (
        "import sys; from ctxembed.interop.importing import import_model as load; "
        "print(load(sys.argv[1]).checkpoint.name); "
        "print({'transformers', 'sentence_transformers', 'huggingface_hub'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.splitlines() == ["little-bert", "set()"]

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from ctxembed.errors import ArtifactError, InvalidInputError, MissingInputError
from ctxembed.interop.teacher import TransformersEncoder
from ctxembed.text import parse_usage
from ctxembed.types import Encoder, Usage

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "bank", "##s", "of", "river", "lent", "money", "a"]


SHAPE = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
CONFIGS = {
    "bert": lambda: transformers.BertConfig(vocab_size=len(WORDS), **SHAPE),
    "roberta": lambda: transformers.RobertaConfig(vocab_size=len(WORDS), pad_token_id=0, **SHAPE),
    "mpnet": lambda: transformers.MPNetConfig(vocab_size=len(WORDS), pad_token_id=0, **SHAPE),
    "distilbert": lambda: transformers.DistilBertConfig(
        vocab_size=len(WORDS), dim=16, n_layers=3, n_heads=2, hidden_dim=32
    ),
    "modernbert": lambda: transformers.ModernBertConfig(
        vocab_size=len(WORDS), pad_token_id=0, bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3,
        norm_eps=1e-2,  # large, so that a layer with and without the final norm differ
        **SHAPE,
    ),
    "albert": lambda: transformers.AlbertConfig(vocab_size=len(WORDS), embedding_size=8, **SHAPE),  # layers are shared
}  # fmt: skip


def write_model(path: Path, config: transformers.PretrainedConfig) -> Path:
    """A tiny random model as Hugging Face writes it."""
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(path)
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():  # far enough from zero that every layer changes every vector
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("bert"), CONFIGS["bert"]())


@pytest.fixture(scope="module", params=list(CONFIGS))
def any_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp(request.param), CONFIGS[request.param]())


@pytest.fixture(autouse=True)
def _float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctxembed.model.device.is_bfloat16_fast", lambda device: False)


def hidden_states(folder: Path, text: str) -> list[np.ndarray]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    tokens = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        output = model(**tokens, output_hidden_states=True)
    return [state[0].numpy() for state in output.hidden_states]


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def test_sentence_vectors_are_the_mean_of_the_last_layer(any_folder: Path) -> None:
    encoder = TransformersEncoder(any_folder)
    texts = ["the bank of the river", "", "a bank lent money", "the"]
    vectors = encoder.encode(texts)
    assert isinstance(encoder, Encoder)
    assert vectors.shape == (4, encoder.dimension)
    assert not vectors[1].any()
    for number in (0, 2, 3):
        expected = unit(hidden_states(any_folder, texts[number])[-1].mean(axis=0))
        np.testing.assert_allclose(vectors[number], expected, atol=1e-5)


@pytest.mark.parametrize("layer", [0, 1, 2, 3, -2, None])
def test_word_vectors_are_the_mean_of_their_tokens_at_every_layer(any_folder: Path, layer: int | None) -> None:
    usages = [parse_usage("the [banks] of the river"), parse_usage("the banks of the [river]"), parse_usage("[a] bank")]
    vectors = TransformersEncoder(any_folder).encode_usages(usages, layer=layer)
    states = hidden_states(any_folder, usages[0].text)[-1 if layer is None else layer]
    np.testing.assert_allclose(vectors[0], unit(states[2:4].mean(axis=0)), atol=1e-5)  # bank, ##s
    np.testing.assert_allclose(vectors[1], unit(states[6]), atol=1e-5)
    other = hidden_states(any_folder, usages[2].text)[-1 if layer is None else layer]
    np.testing.assert_allclose(vectors[2], unit(other[1]), atol=1e-5)


def test_later_layers_are_not_computed(any_folder: Path) -> None:
    encoder = TransformersEncoder(any_folder)
    if encoder._layers is None:
        assert any_folder.name.startswith("albert")
        return
    ran: list[int] = []
    for number, layer in enumerate(encoder._layers):
        layer.register_forward_hook(lambda *_, number=number: ran.append(number))
    encoder.encode_usages([parse_usage("the [bank]")], layer=2)
    assert ran == [0, 1]


def test_a_layer_the_model_lacks_is_refused(folder: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"layer = 4: bert\d+ has layers 0 \(embedding\) to 3"):
        TransformersEncoder(folder).encode_usages([parse_usage("the [bank]")], layer=4)


def test_a_word_beyond_the_cut_or_without_token_is_a_zero_row(folder: Path) -> None:
    usages = [parse_usage("the bank of the [river]"), parse_usage("[the] bank of the river"), Usage("the bank", 3, 4)]
    vectors = TransformersEncoder(folder, max_length=5).encode_usages(usages)
    assert vectors.any(axis=1).tolist() == [False, True, False]


def test_nothing_gives_empty_arrays(folder: Path) -> None:
    encoder = TransformersEncoder(folder)
    assert encoder.encode([]).shape == encoder.encode_usages([]).shape == (0, 16)


def test_vectors_do_not_depend_on_the_batch(any_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["the bank of the river lent money", "a", "the bank", "a river", "of the bank"]
    encoder = TransformersEncoder(any_folder)
    together = encoder.encode(texts)
    monkeypatch.setattr("ctxembed.interop.teacher.BATCH_TOKENS", 1)
    np.testing.assert_allclose(encoder.encode(texts), together, atol=1e-5)


def test_a_model_with_a_decoder_is_refused(tmp_path: Path) -> None:
    config = transformers.T5Config(vocab_size=len(WORDS), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    write_model(tmp_path, config)
    with pytest.raises(ArtifactError, match="is a T5Model, encoder and decoder: use an encoder alone"):
        TransformersEncoder(tmp_path)


def test_the_encoder_is_whole_again_after_a_lower_layer_was_read(folder: Path) -> None:
    encoder = TransformersEncoder(folder)
    before = encoder.encode(["the bank"])
    encoder.encode_usages([parse_usage("the [bank]")], layer=1)
    np.testing.assert_array_equal(encoder.encode(["the bank"]), before)


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is no transformers model with safetensors weights"):
        TransformersEncoder(tmp_path)
    with pytest.raises(MissingInputError, match="does not exist"):
        TransformersEncoder(tmp_path / "nowhere")


def test_texts_past_the_cut_are_counted(folder: Path) -> None:
    encoder = TransformersEncoder(folder, max_length=6)
    encoder.encode(["the bank of the river lent money", "the bank"])  # seven tokens, four fit
    assert (encoder.long_texts.texts, encoder.long_texts.lost_tokens) == (1, 3)


def test_long_texts_are_refused_when_asked(folder: Path) -> None:
    encoder = TransformersEncoder(folder, device="cpu", max_length=4, on_long="error")
    assert encoder.encode(["river bank"]).any()
    with pytest.raises(InvalidInputError, match="a text has 1 tokens more than the 4 that .* is given: .* truncate"):
        encoder.encode(["the river bank"])


def test_everything_that_changes_a_vector_changes_the_fingerprint(folder: Path, tmp_path: Path) -> None:
    encoder = TransformersEncoder(folder, device="cpu")
    before = encoder.fingerprint
    encoder.encode(["river bank"])
    assert before == TransformersEncoder(folder, device="cpu").fingerprint
    others = {TransformersEncoder(folder, device="cpu", max_length=9).fingerprint}
    for name, old, new in (
        ("tokenizer.json", '"river": 9', '"rival": 9'),
        ("config.json", '"hidden_act": "gelu"', '"hidden_act": "relu"'),
    ):
        copy = Path(shutil.copytree(folder, tmp_path / name))
        text = (copy / name).read_text(encoding="utf-8")
        assert old in text
        (copy / name).write_text(text.replace(old, new), encoding="utf-8")
        others.add(TransformersEncoder(copy, device="cpu").fingerprint)
    assert len({before, *others}) == 4
    assert encoder.conditions == {"precision": "float32", "on_long": "truncate"}


def test_weights_in_several_files_have_a_fingerprint(folder: Path, tmp_path: Path) -> None:
    whole = TransformersEncoder(folder, device="cpu")
    parts = Path(shutil.copytree(folder, tmp_path / "parts"))
    (parts / "model.safetensors").unlink()
    transformers.AutoModel.from_pretrained(folder).save_pretrained(parts, max_shard_size="20KB")
    assert len(list(parts.glob("*.safetensors"))) > 1
    encoder = TransformersEncoder(parts, device="cpu")
    assert encoder.fingerprint != whole.fingerprint
    np.testing.assert_array_equal(encoder.encode(["river bank"]), whole.encode(["river bank"]))

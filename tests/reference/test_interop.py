from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from ctxembed.errors import ArtifactError, MissingInputError
from ctxembed.interop import TransformersEncoder
from ctxembed.text import parse_usage
from ctxembed.types import Encoder

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "bank", "##s", "of", "river", "lent", "money", "a"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random BERT as Hugging Face writes it."""
    path = tmp_path_factory.mktemp("bert")
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(path)
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(WORDS), **shape)).save_pretrained(path)
    return path


@pytest.fixture(autouse=True)
def _float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctxembed.model.device.is_bfloat16_fast", lambda device: False)


def hidden_states(folder: Path, text: str) -> list[np.ndarray]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = BertModel.from_pretrained(folder).eval()
    with torch.no_grad():
        output = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
    return [state[0].numpy() for state in output.hidden_states]


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def test_sentence_vectors_are_the_mean_of_the_last_layer(folder: Path) -> None:
    encoder = TransformersEncoder(folder)
    texts = ["the bank of the river", "", "a bank lent money", "the"]
    vectors = encoder.encode(texts)
    assert isinstance(encoder, Encoder)
    assert vectors.shape == (4, encoder.dimension)
    assert not vectors[1].any()
    for number in (0, 2, 3):
        expected = unit(hidden_states(folder, texts[number])[-1].mean(axis=0))
        np.testing.assert_allclose(vectors[number], expected, atol=1e-5)


@pytest.mark.parametrize("layer", [0, 1, 2, 3, None])
def test_word_vectors_are_the_mean_of_their_tokens_at_every_layer(folder: Path, layer: int | None) -> None:
    usages = [parse_usage("the [banks] of the river"), parse_usage("the banks of the [river]"), parse_usage("[a] bank")]
    vectors = TransformersEncoder(folder).encode_usages(usages, layer=layer)
    states = hidden_states(folder, usages[0].text)[-1 if layer is None else layer]
    np.testing.assert_allclose(vectors[0], unit(states[2:4].mean(axis=0)), atol=1e-5)  # bank, ##s
    np.testing.assert_allclose(vectors[1], unit(states[6]), atol=1e-5)


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

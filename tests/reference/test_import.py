"""Imported models against transformers, and against sentence-transformers where that is installed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoModel, AutoTokenizer

from ctxembed.embedder import Embedder
from ctxembed.interop.importing import ImportedModel, import_model, save_imported
from ctxembed.interop.wordpieces import read_tokenizer
from ctxembed.types import Usage

TOKENS, SENTENCES = 1e-5, 1e-6
TEXTS = [
    "The Bank lent money of the river.",
    "a",
    "CAFÉ, café and cafe\u0301; ΟΔΟΣ",
    "中文 (bank) 😀!",
    "zero\u200bwidth \ufeffmark soft\u00adhyphen no\u00a0break",
    "tab\tline\nbreak nul\x00bell\x07 \u2028 end",
    "x" * 101 + " " + "x" * 100 + " the",
    "unknown: ☃ 한국어 \u202etrick",
    "don't re-entered 3.14",
]
LONG = "the bank of the river lent money " * 12

BertMaker = Callable[..., Path]


@pytest.fixture(params=["BertModel", "BertForMaskedLM", "BertForPreTraining", "BertForSequenceClassification"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, bert: BertMaker) -> Path:
    return bert(tmp_path / "original", kind=request.param)


def save(model: ImportedModel, path: Path) -> Path:
    save_imported(path, model)
    return path


def theirs(folder: Path, text: str) -> tuple[list[int], list[torch.Tensor]]:
    """Token ids of a text, and the states (T, D) of every layer."""
    tokens = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt", truncation=True, max_length=40)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        states = model(**tokens, output_hidden_states=True).hidden_states
    return tokens.input_ids[0].tolist(), [state[0] for state in states]


def test_states_of_every_layer_equal_those_of_transformers(folder: Path) -> None:
    checkpoint = import_model(folder).checkpoint
    for text in TEXTS:
        ids, expected = theirs(folder, text)
        with torch.no_grad():
            found = checkpoint.encoder(torch.tensor([ids])).hidden_states
        assert len(found) == len(expected) == 4
        for own, other in zip(found, expected, strict=True):
            torch.testing.assert_close(own[0], other, atol=TOKENS, rtol=0)


@pytest.mark.parametrize("settings", [{}, {"do_lower_case": False}, {"strip_accents": False}])
@pytest.mark.parametrize("source", ["tokenizer.json", "vocab.txt"])
def test_token_ids_equal_those_of_transformers(
    tmp_path: Path, bert: BertMaker, settings: dict[str, Any], source: str
) -> None:
    folder = bert(tmp_path / "original", settings=settings)
    reference = AutoTokenizer.from_pretrained(folder)
    if source == "vocab.txt":
        vocabulary = sorted(reference.get_vocab(), key=reference.get_vocab().__getitem__)
        (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
        (folder / "tokenizer.json").unlink()
        reference = AutoTokenizer.from_pretrained(folder)
    tokenizer, _, notes = read_tokenizer(folder)
    found = [[tokenizer.cls_id, *ids, tokenizer.sep_id] for ids in tokenizer.encode_ids([*TEXTS, LONG])]
    assert found == [reference(text).input_ids for text in [*TEXTS, LONG]]
    assert notes == []
    assert len({tuple(row) for row in found}) == len(found)


def test_case_is_that_of_the_settings_where_they_contradict_the_tokenizer(tmp_path: Path, bert: BertMaker) -> None:
    folder = bert(tmp_path / "original")
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"do_lower_case": False}), encoding="utf-8")
    tokenizer, _, notes = read_tokenizer(folder)
    expected = AutoTokenizer.from_pretrained(folder)(TEXTS, add_special_tokens=False).input_ids
    assert [ids.tolist() for ids in tokenizer.encode_ids(TEXTS)] == expected
    assert notes == ["tokenizer_config.json overrules tokenizer.json, as in transformers: lowercase = False"]


def test_markers_that_were_added_to_a_tokenizer_are_known_in_a_text(tmp_path: Path, bert: BertMaker) -> None:
    folder = bert(tmp_path / "original", vocab_size=150)
    reference = AutoTokenizer.from_pretrained(folder)
    reference.add_special_tokens({"additional_special_tokens": ["[ENT]"]})
    reference.add_tokens(["riverbank"])
    reference.save_pretrained(folder)
    texts = ["the [ENT] bank", "the riverbank"]
    expected = AutoTokenizer.from_pretrained(folder)(texts, add_special_tokens=False).input_ids
    assert [ids.tolist() for ids in read_tokenizer(folder).tokenizer.encode_ids(texts)] == expected
    assert [len(ids) for ids in expected] == [3, 2]


def test_a_multilingual_model_with_pieces_of_unigram_equals_transformers(tmp_path: Path, bert: BertMaker) -> None:
    """Multilingual E5 and MiniLM are BERT with the tokenizer of XLM-R."""
    folder = bert(tmp_path / "original")
    words = ["<s>", "<pad>", "</s>", "<unk>", "▁the", "▁bank", "▁", "a", "b", "n", "k", "中", "文", "<mask>"]
    tokenizer = Tokenizer(models.Unigram([(word, -float(n)) for n, word in enumerate(words)], unk_id=3))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    names |= {"cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    embedder = Embedder.load(save(import_model(folder), tmp_path / "m"), dtype="float32")
    for text in ["the bank", "中文 bank  a", "the bankx"]:
        ids, states = theirs(folder, text)
        assert [embedder.tokenizer.cls_id, *embedder.tokenizer.encode_ids([text])[0], embedder.tokenizer.sep_id] == ids
        mean = states[-1].mean(dim=0).numpy()
        assert embedder.encode([text])[0] @ (mean / np.linalg.norm(mean)) > 1 - SENTENCES


@pytest.mark.parametrize(
    ("pooling", "pool"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, lambda states: states.mean(dim=0)),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, lambda states: states.mean(dim=0)),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, lambda states: states[0]),
        ({"pooling_mode": "cls"}, lambda states: states[0]),
        ({"pooling_mode": ["max"], "embedding_dimension": 32}, lambda states: states.amax(dim=0)),
    ],
)
def test_sentence_vectors_are_pooled_as_the_folder_says(
    tmp_path: Path, bert: BertMaker, pooling: dict[str, Any], pool: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    folder = bert(tmp_path / "original", pooling=pooling)
    embedder = Embedder.load(save(import_model(folder), tmp_path / "m"), dtype="float32", on_long="truncate")
    for text, vector in zip(TEXTS, embedder.encode(TEXTS), strict=True):
        expected = pool(theirs(folder, text)[1][-1]).numpy()
        np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), atol=TOKENS)


@pytest.mark.parametrize("mode", ["mean", "cls", "max"])
@pytest.mark.filterwarnings("ignore")
def test_sentence_vectors_equal_those_of_sentence_transformers(tmp_path: Path, bert: BertMaker, mode: str) -> None:
    library = pytest.importorskip("sentence_transformers")
    folder = bert(tmp_path / "original", pooling={"pooling_mode": mode})
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 24}', encoding="utf-8")
    prompts = {"query": "the river: ", "passage": ""}
    text = json.dumps({"prompts": prompts, "default_prompt_name": "query", "model_type": "SentenceTransformer"})
    (folder / "config_sentence_transformers.json").write_text(text, encoding="utf-8")
    reference = library.SentenceTransformer(str(folder), device="cpu")
    embedder = Embedder.load(save(import_model(folder), tmp_path / "m"), dtype="float32", on_long="truncate")
    texts = [*TEXTS, LONG]
    assert reference.max_seq_length == embedder.max_length == 24
    for name in (None, "query", "passage"):
        expected = reference.encode(texts, prompt_name=name)
        cosines = (embedder.encode(texts, prompt=name) * expected).sum(axis=1)
        np.testing.assert_allclose(cosines, 1, atol=SENTENCES)
    assert not np.allclose(embedder.encode(texts), embedder.encode(texts, prompt=""), atol=0.01)
    assert embedder.long_texts.lost_tokens > 0


def test_a_text_in_one_window_has_the_vector_of_the_plain_model_and_a_longer_one_loses_nothing(
    tmp_path: Path, bert: BertMaker
) -> None:
    folder = bert(tmp_path / "original")
    embedder = Embedder.load(save(import_model(folder, max_length=20), tmp_path / "m"), dtype="float32")
    ids, states = theirs(folder, TEXTS[0])
    assert len(ids) <= embedder.max_length == 20
    mean = states[-1].mean(dim=0).numpy()
    np.testing.assert_allclose(embedder.encode(TEXTS[:1])[0], mean / np.linalg.norm(mean), atol=TOKENS)
    embedder.encode([LONG])
    assert (embedder.long_texts.texts, embedder.long_texts.lost_tokens) == (1, 0)


def test_the_word_in_its_context_is_the_mean_of_its_tokens(tmp_path: Path, bert: BertMaker) -> None:
    folder = bert(tmp_path / "original")
    text = "the money of the river"
    vector = Embedder.load(save(import_model(folder), tmp_path / "m"), dtype="float32").encode_usages(
        [Usage(text, 4, 9)]
    )
    expected = theirs(folder, text)[1][-1][2].numpy()  # after [CLS] and "the"
    np.testing.assert_allclose(vector[0], expected / np.linalg.norm(expected), atol=TOKENS)


@pytest.mark.parametrize("kind", ["BertForMaskedLM", "BertForPreTraining"])
def test_masked_word_head_equals_that_of_transformers(tmp_path: Path, bert: BertMaker, kind: str) -> None:
    folder = bert(tmp_path / "original", kind=kind)
    checkpoint = import_model(folder).checkpoint
    ids = torch.randint(5, 60, (2, 7), generator=torch.Generator().manual_seed(1))
    assert checkpoint.head is not None
    with torch.no_grad():
        found = checkpoint.head(checkpoint.encoder(ids).last, checkpoint.encoder.embedding.tokens.weight)
        output = getattr(transformers, kind).from_pretrained(folder).eval()(ids)
    expected = output.logits if kind == "BertForMaskedLM" else output.prediction_logits
    torch.testing.assert_close(found, expected, atol=TOKENS, rtol=0)


def test_weights_in_half_precision_and_in_several_files_are_read(tmp_path: Path, bert: BertMaker) -> None:
    folder = bert(tmp_path / "original")
    whole = AutoModel.from_pretrained(folder).half()
    whole.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, tmp_path / "shards")
    files = sorted((tmp_path / "shards").glob("model-*.safetensors"))
    assert len(files) > 1
    imported = import_model(tmp_path / "shards")
    assert set(imported.origin["weights"]) == {file.name for file in files}
    ids, expected = theirs(tmp_path / "shards", TEXTS[0])
    with torch.no_grad():
        found = imported.checkpoint.encoder(torch.tensor([ids])).last[0]
    torch.testing.assert_close(found, expected[-1], atol=TOKENS, rtol=0)

"""Where a run begins: new models, models that exist, and embedding layers that begin with word vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ctxembed.training.start
from ctxembed.config import DecoderConfig, PoolingConfig, TrainingConfig
from ctxembed.errors import InvalidInputError
from ctxembed.model.checkpoint import Checkpoint, checkpoint_modules, load_checkpoint
from ctxembed.model.decoder import TransformerDecoder
from ctxembed.model.encoder import MaskedWordHead
from ctxembed.tokenizer import TokenizerConfig
from ctxembed.training.start import ExistingModel, NewModel, Start, WordTable, begin_with_words
from ctxembed.types import Document

if TYPE_CHECKING:
    from ctxembed.tokenizer import SubwordTokenizer

SHAPE = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "intermediate_size": 24, "max_length": 24}
TRAINING = TrainingConfig(seed=3)
DOCUMENTS = [Document(str(number), f"the bank of river {number} near the old plant") for number in range(20)]
SPECIAL = ("pad_id", "unknown_id", "cls_id", "sep_id", "mask_id")


@pytest.fixture
def initial(tiny_model: Path) -> Checkpoint:
    return load_checkpoint(tiny_model)


def begun(
    start: Start, folder: Path, *, seed: int = 3, said: list[str] | None = None
) -> tuple[Checkpoint, dict[str, Any]]:
    return start.model(
        "m", folder=folder, training=replace(TRAINING, seed=seed), tell=None if said is None else said.append
    )


def weights(model: Checkpoint) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in checkpoint_modules(model).state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# A new model


def test_a_new_model_has_the_shape_asked_for_and_the_size_of_its_tokenizer(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path
) -> None:
    pooling, decoder = PoolingConfig(sentence="cls"), DecoderConfig(num_layers=1)
    start = NewModel(shape=SHAPE, tokenizer=tiny_tokenizer, pooling=pooling, decoder=decoder)
    model, origin = begun(start, tmp_path)
    config = model.encoder.config
    assert {name: getattr(config, name) for name in SHAPE} == SHAPE
    assert config.vocab_size == len(tiny_tokenizer)
    assert (model.name, model.pooling, model.fingerprint) == ("m", pooling, "")
    assert model.head is not None
    assert model.decoder is not None
    assert model.decoder.config == decoder
    assert origin == {"given_tokenizer": tiny_tokenizer.fingerprint}


def test_the_seed_decides_the_weights_of_a_new_model(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    start = NewModel(shape=SHAPE, tokenizer=tiny_tokenizer, decoder=DecoderConfig(num_layers=1))
    one, again, other = (weights(begun(start, tmp_path, seed=seed)[0]) for seed in (3, 3, 4))
    assert same(one, again)
    assert not same(one, other)


def test_a_new_tokenizer_learns_from_the_documents_and_is_kept_in_the_folder(tmp_path: Path) -> None:
    config, said = TokenizerConfig(vocab_size=90, min_frequency=1), []
    start = NewModel(shape=SHAPE, tokenizer=config, documents=DOCUMENTS)
    model, origin = begun(start, tmp_path, said=said)
    assert said == ["the tokenizer learned from 20 documents (a seeded sample of at most 200,000)"]
    assert origin["given_tokenizer"]["vocab_size"] == 90
    assert len(model.tokenizer.encode_ids(["river"])[0]) == 1
    # Resumed: it is not learned again, whatever the documents are now.
    other = replace(start, documents=[Document("0", "something else altogether")])
    again, _ = begun(other, tmp_path, said=said)
    assert again.tokenizer.fingerprint == model.tokenizer.fingerprint
    assert len(said) == 1


def test_a_new_tokenizer_learns_from_a_sample_of_many_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctxembed.training.start, "TOKENIZER_SAMPLE", 5)
    start, said = NewModel(shape=SHAPE, tokenizer=TokenizerConfig(vocab_size=60), documents=DOCUMENTS), []
    begun(start, tmp_path, said=said)
    assert said == ["the tokenizer learned from 5 documents (a seeded sample of at most 5)"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hiden_size": 16}, "unknown setting 'hiden_size' for EncoderConfig: did you mean 'hidden_size'"),
        ({"num_heads": 3}, "hidden_size = 16 is not a multiple of num_heads = 3"),
        ({"vocab_size": 50}, "vocab_size is not the encoder's to choose: it follows from the tokenizer"),
    ],
)
def test_an_impossible_shape_is_refused_at_once(
    tiny_tokenizer: SubwordTokenizer, change: dict[str, int], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        NewModel(shape={**SHAPE, **change}, tokenizer=tiny_tokenizer)


def test_documents_that_can_be_read_once_only_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="is a one-shot iterator, and several passes are needed"):
        NewModel(shape=SHAPE, tokenizer=TokenizerConfig(), documents=iter(DOCUMENTS))


# A model that exists


def test_a_model_to_go_on_from_is_copied_and_stays_as_it_is(initial: Checkpoint, tmp_path: Path) -> None:
    before, fingerprint = weights(initial), initial.fingerprint
    model, origin = begun(ExistingModel(checkpoint=initial), tmp_path)
    assert same(weights(model), before)
    with torch.no_grad():
        for parameter in checkpoint_modules(model).parameters():
            parameter.add_(1.0)
    assert same(weights(initial), before)
    assert (initial.fingerprint, initial.name) == (fingerprint, "tiny")
    assert (model.fingerprint, model.name) == ("", "m")  # what is cached for the initial model is not its
    assert (model.pooling, model.prompts, model.tokenizer) == (initial.pooling, initial.prompts, initial.tokenizer)
    assert origin == {"initial": fingerprint, "initial_name": "tiny"}


def test_a_model_without_a_head_gets_one_by_the_seed(initial: Checkpoint, tmp_path: Path) -> None:
    bare = replace(initial, head=None)
    one, again, other = (begun(ExistingModel(checkpoint=bare), tmp_path, seed=seed)[0].head for seed in (3, 3, 4))
    assert bare.head is None
    assert isinstance(one, MaskedWordHead)
    assert again is not None
    assert other is not None
    assert same(one.state_dict(), again.state_dict())
    assert not same(one.state_dict(), other.state_dict())


def test_a_decoder_is_added_when_asked_for_and_kept_when_there_is_one(initial: Checkpoint, tmp_path: Path) -> None:
    asked = DecoderConfig(num_layers=1)
    without, _ = begun(ExistingModel(checkpoint=initial), tmp_path)
    added, _ = begun(ExistingModel(checkpoint=initial, decoder=asked), tmp_path)
    assert without.decoder is None
    assert initial.decoder is None
    assert isinstance(added.decoder, TransformerDecoder)
    assert added.decoder.config == asked
    kept, _ = begun(ExistingModel(checkpoint=added, decoder=DecoderConfig(num_layers=3)), tmp_path)
    assert kept.decoder is not None
    assert kept.decoder is not added.decoder
    assert same(kept.decoder.state_dict(), added.decoder.state_dict())


@pytest.mark.parametrize("pooling", [None, PoolingConfig(sentence="cls", usage_layer=1)])
def test_a_model_to_go_on_from_pools_as_asked_or_as_before(
    initial: Checkpoint, tmp_path: Path, pooling: PoolingConfig | None
) -> None:
    before = replace(initial, pooling=PoolingConfig(sentence="max"))
    model, _ = begun(ExistingModel(checkpoint=before, pooling=pooling), tmp_path)
    assert model.pooling == (pooling or before.pooling)


# Word vectors


def table_of(words: Sequence[str], width: int, *, seed: int = 5) -> WordTable:
    vectors = np.random.default_rng(seed).standard_normal((len(words), width)).astype(np.float32)
    return WordTable(words=words, vectors=vectors, name="static")


def whole_words(tokenizer: SubwordTokenizer, words: Sequence[str]) -> dict[str, int]:
    found = zip(words, tokenizer.encode_ids(list(words)), strict=True)
    return {word: int(ids[0]) for word, ids in found if len(ids) == 1}


def cosines(rows: Any) -> Any:
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit @ unit.T


def layer_of(model: Checkpoint) -> Any:
    return model.encoder.embedding.tokens.weight.detach().numpy().copy()


WORDS = ("bank", "river", "plant", "the", "old", "cars", "bass", "spring", "cold", "water")


@pytest.mark.parametrize("width", [8, 31, 32])
def test_tokens_that_are_words_take_turned_vectors(initial: Checkpoint, width: int) -> None:
    table, before = table_of(WORDS, width), layer_of(initial)
    begin_with_words(initial, table, seed=1)
    tokens = whole_words(initial.tokenizer, WORDS)
    assert len(tokens) >= 8
    after = layer_of(initial)[list(tokens.values())]
    of_words = table.vectors[[WORDS.index(word) for word in tokens]]
    np.testing.assert_allclose(cosines(after), cosines(of_words), atol=1e-5)
    lengths, originals = np.linalg.norm(after, axis=1), np.linalg.norm(of_words, axis=1)
    np.testing.assert_allclose(lengths / originals, lengths[0] / originals[0], rtol=1e-5)
    assert lengths.mean() == pytest.approx(np.linalg.norm(before, axis=1).mean(), rel=0.2)


def test_wider_vectors_keep_most_of_their_angles(initial: Checkpoint) -> None:
    table = table_of(WORDS, 48)
    begin_with_words(initial, table, seed=1)
    tokens = whole_words(initial.tokenizer, WORDS)
    of_words = table.vectors[[WORDS.index(word) for word in tokens]]
    upper = np.triu_indices(len(tokens), 1)
    after = cosines(layer_of(initial)[list(tokens.values())])[upper]
    assert np.corrcoef(after, cosines(of_words)[upper])[0, 1] > 0.6


def test_a_piece_takes_the_mean_of_the_words_it_is_a_part_of(initial: Checkpoint) -> None:
    words = ("bank", "river", "plant", "unbank", "unriver")
    pieces = [set(ids.tolist()) for ids in initial.tokenizer.encode_ids(list(words))]
    shared = (pieces[3] & pieces[4]) - set.union(*pieces[:3])
    only = pieces[4] - pieces[3] - set.union(*pieces[:3])
    assert shared
    assert only
    table = table_of(words, 32)
    begin_with_words(initial, table, seed=1)
    # In the space of the layer: what the whole words became shows how vectors were turned and scaled.
    anchors = layer_of(initial)[[int(next(iter(ids))) for ids in pieces[:3]]]
    known = table.vectors[:3]
    mean = (table.vectors[3] + table.vectors[4]) / 2
    scale = np.linalg.norm(anchors[0]) / np.linalg.norm(known[0])
    for token, expected in [(next(iter(shared)), mean), (next(iter(only)), table.vectors[4])]:
        found = layer_of(initial)[token]
        np.testing.assert_allclose(anchors @ found, scale**2 * (known @ expected), rtol=1e-3, atol=1e-4)
        assert np.linalg.norm(found) == pytest.approx(scale * np.linalg.norm(expected), rel=1e-4)


def test_a_token_that_is_a_word_is_that_word_alone_though_others_hold_it(tiny_model: Path) -> None:
    vectors = table_of(("bank", "river", "bank-river"), 8).vectors
    layers = []
    for words in (("bank", "river", "bank-river"), ("bank-river", "river", "bank")):
        model = load_checkpoint(tiny_model)
        bank, river, both = model.tokenizer.encode_ids(["bank", "river", "bank-river"])
        assert {bank[0], river[0]} < set(both.tolist())
        table = WordTable(words=words, vectors=vectors if words[0] == "bank" else vectors[::-1], name="static")
        begin_with_words(model, table, seed=1)
        layers.append(layer_of(model)[[bank[0], river[0]]])
        np.testing.assert_allclose(cosines(layers[-1])[0, 1], cosines(vectors)[0, 1], atol=1e-5)
    np.testing.assert_allclose(layers[0], layers[1], rtol=1e-5)


def test_special_tokens_and_tokens_in_no_word_stay_as_they_were(initial: Checkpoint) -> None:
    words = ("bank", "river", "日本", "ban日k")  # the last two hold what the tokenizer does not know
    before = layer_of(initial)
    begin_with_words(initial, table_of(words, 16), seed=1)
    after = layer_of(initial)
    met = {int(token) for ids in initial.tokenizer.encode_ids(list(words)) for token in ids}
    assert initial.tokenizer.unknown_id in met
    special = {getattr(initial.tokenizer, name) for name in SPECIAL}
    changed = set(np.flatnonzero((before != after).any(axis=1)).tolist())
    assert changed == met - special != set()


def test_the_turn_follows_from_the_seed(tiny_model: Path) -> None:
    layers = []
    for seed in (1, 1, 2):
        model = load_checkpoint(tiny_model)
        begin_with_words(model, table_of(WORDS, 16), seed=seed)
        layers.append(layer_of(model))
    np.testing.assert_array_equal(layers[0], layers[1])
    assert not np.allclose(layers[0], layers[2])


def test_vectors_of_no_known_word_are_refused(initial: Checkpoint) -> None:
    for words in ((), ("日本",)):
        with pytest.raises(InvalidInputError, match="static has no word that this tokenizer knows a piece of"):
            begin_with_words(initial, table_of(words, 16), seed=1)


@pytest.mark.parametrize("existing", [True, False])
def test_a_start_with_word_vectors_says_so_and_keeps_their_name(
    initial: Checkpoint, tmp_path: Path, existing: bool
) -> None:
    table, said = table_of(WORDS, 8), []
    start: Start = NewModel(shape=SHAPE, tokenizer=initial.tokenizer, embeddings=table)
    if existing:
        start = ExistingModel(checkpoint=initial, embeddings=table)
    before = layer_of(initial)
    model, origin = begun(start, tmp_path, said=said)
    assert origin["initial_embeddings"] == "static"
    assert said[0].startswith("the embedding layer begins with static: ")
    assert said[0].endswith(f" of {len(initial.tokenizer)} tokens")
    np.testing.assert_array_equal(layer_of(initial), before)
    tokens = whole_words(model.tokenizer, WORDS)
    of_words = table.vectors[[WORDS.index(word) for word in tokens]]
    np.testing.assert_allclose(cosines(layer_of(model)[list(tokens.values())]), cosines(of_words), atol=1e-5)

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import ctxembed.reconstruction
from ctxembed.config import DecoderConfig
from ctxembed.embedder import Embedder
from ctxembed.errors import ArtifactError, InvalidInputError, MissingInputError
from ctxembed.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from ctxembed.model.decoder import TransformerDecoder
from ctxembed.reconstruction import Hypothesis, NextToken, Reconstructor, beam_search, token_overlap

TEXTS = ["the bank lent money", "a crane stood in the water", "she read"]
START, END, VOCABULARY = 0, 1, 5
id_lists = st.lists(st.integers(0, 4), max_size=9)


# Search, on tables of chance instead of a network


def table(seed: int, *, sharpness: float = 1.0) -> NextToken:
    """Log-probabilities that depend on the row and on the whole prefix."""

    def next_token(prefixes: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        scores = []
        for prefix, row in zip(prefixes.tolist(), rows.tolist(), strict=True):
            drawn = sharpness * np.random.default_rng([seed, row, *prefix]).standard_normal(VOCABULARY)
            drawn[START] = -np.inf
            scores.append(drawn - np.log(np.exp(drawn).sum()))
        return np.array(scores, dtype=np.float32)

    return next_token


def search(next_token: NextToken, *, beam: int, num_rows: int = 1, max_length: int = 3) -> list[list[Hypothesis]]:
    return beam_search(next_token, num_rows=num_rows, start=START, end=END, beam=beam, max_length=max_length)


def log_probability(next_token: NextToken, ids: tuple[int, ...], row: int) -> float:
    whole = (START, *ids, END)
    return sum(
        float(next_token(np.array([whole[:place]]), np.array([row]))[0, whole[place]]) for place in range(1, len(whole))
    )


def every_row(max_length: int) -> list[tuple[int, ...]]:
    ordinary = [token for token in range(VOCABULARY) if token not in (START, END)]
    return [ids for length in range(max_length + 1) for ids in itertools.product(ordinary, repeat=length)]


@pytest.mark.parametrize("seed", range(5))
def test_a_beam_wide_enough_finds_all_rows_in_order(seed: int) -> None:
    next_token = table(seed)
    wanted = [Hypothesis(ids, log_probability(next_token, ids, 0)) for ids in every_row(3)]
    wanted.sort(key=lambda hypothesis: -hypothesis.score)
    [found] = search(next_token, beam=1000)
    assert [hypothesis.ids for hypothesis in found] == [hypothesis.ids for hypothesis in wanted]
    np.testing.assert_allclose([h.log_probability for h in found], [h.log_probability for h in wanted], atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_a_beam_of_one_takes_the_most_probable_token_each_time(seed: int) -> None:
    next_token, prefix = table(seed), [START]
    while len(prefix) <= 6:
        prefix.append(int(next_token(np.array([prefix]), np.array([0])).argmax()))
        if prefix[-1] == END:
            break
    [[found]] = search(next_token, beam=1, max_length=6)
    assert found.ids == tuple(token for token in prefix[1:] if token != END)
    assert found.log_probability == pytest.approx(log_probability(next_token, found.ids, 0), abs=1e-5)


@pytest.mark.parametrize("beam", [1, 2, 5])
def test_log_probabilities_are_those_of_the_rows_and_rows_differ(beam: int) -> None:
    next_token = table(1)
    for row, found in enumerate(search(next_token, beam=beam, num_rows=4, max_length=5)):
        assert len(found) == len({hypothesis.ids for hypothesis in found}) == beam
        for hypothesis in found:
            assert len(hypothesis.ids) <= 5
            wanted = log_probability(next_token, hypothesis.ids, row)
            assert hypothesis.log_probability == pytest.approx(wanted, abs=1e-5)
        scores = [hypothesis.score for hypothesis in found]
        assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("beam", [1, 3])
def test_a_row_does_not_depend_on_the_others(beam: int) -> None:
    next_token = table(2)
    together = search(next_token, beam=beam, num_rows=4)
    for row in range(4):
        [alone] = search(lambda prefixes, rows, row=row: next_token(prefixes, rows + row), beam=beam)  # type: ignore[misc]
        assert alone == together[row]


def test_wider_beams_find_better_rows_on_the_whole() -> None:
    best = {
        beam: [search(table(seed, sharpness=2.0), beam=beam, max_length=4)[0][0].score for seed in range(30)]
        for beam in (1, 3, 30)
    }
    assert np.mean(best[1]) < np.mean(best[3]) < np.mean(best[30])


def test_long_rows_are_not_held_against_short_ones() -> None:
    def next_token(prefixes: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        first = np.log([1e-9, 0.4, 0.5, 0.1, 1e-9]) if prefixes.shape[1] == 1 else None
        later = np.log([1e-9, 0.1 if prefixes.shape[1] < 4 else 0.9, 0.8, 0.1, 1e-9])
        return np.tile((later if first is None else first).astype(np.float32), (len(prefixes), 1))

    best, *_ = search(next_token, beam=2, max_length=4)[0]
    assert best.ids == (2, 2, 2)
    assert best.log_probability == pytest.approx(np.log(0.5 * 0.8 * 0.8 * 0.9), abs=1e-5)
    assert best.log_probability < np.log(0.4)  # of the empty row, which is more probable as a whole


def test_no_rows_need_no_search() -> None:
    assert search(table(1), beam=3, num_rows=0) == []


# Overlap


@pytest.mark.parametrize(
    ("first", "second", "wanted"),
    [([], [], 1.0), ([1], [], 0.0), ([1, 2], [2, 1], 1.0), ([1, 1], [1], 2 / 3), ([1, 2, 3], [4, 5], 0.0)],
)
def test_overlap_counts_common_tokens_in_any_order(first: list[int], second: list[int], wanted: float) -> None:
    assert token_overlap(first, second) == pytest.approx(wanted)


@given(id_lists, id_lists)
def test_overlap_is_a_share_that_is_one_for_the_same_tokens_only(first: list[int], second: list[int]) -> None:
    overlap = token_overlap(first, second)
    assert 0 <= overlap <= 1
    assert overlap == token_overlap(second, first)
    assert (overlap == 1) == (sorted(first) == sorted(second))


# Sentences


@pytest.fixture(scope="module")
def checkpoint(tiny_model: Path) -> Checkpoint:
    """The tiny model with a decoder of random weights."""
    model = load_checkpoint(tiny_model)
    torch.manual_seed(5)
    decoder = TransformerDecoder(model.encoder.config, DecoderConfig(num_layers=2)).eval()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.15)
    return replace(model, decoder=decoder)


@pytest.fixture(scope="module")
def reconstructor(checkpoint: Checkpoint) -> Reconstructor:
    return Reconstructor(checkpoint, dtype="float32")


def test_embedder_is_that_of_the_model(reconstructor: Reconstructor, checkpoint: Checkpoint) -> None:
    assert reconstructor.embedder.fingerprint == checkpoint.fingerprint
    wanted = Embedder(checkpoint, dtype="float32").encode(TEXTS)
    np.testing.assert_array_equal(reconstructor.embedder.encode(TEXTS), wanted)


def test_greedy_sentence_equals_a_loop_over_the_network(reconstructor: Reconstructor, checkpoint: Checkpoint) -> None:
    decoder, embedding, tokenizer = checkpoint.decoder, checkpoint.encoder.embedding, checkpoint.tokenizer
    assert decoder is not None
    vectors = reconstructor.embedder.encode(TEXTS)
    found = reconstructor.reconstruct(TEXTS, max_length=8)
    for vector, [one] in zip(vectors, found, strict=True):
        memory = torch.from_numpy(vector)[None, None] * 32**0.5
        ids, total = [tokenizer.cls_id], 0.0
        while ids[-1] != tokenizer.sep_id:
            hidden = decoder(torch.tensor([ids]), memory, embedding=embedding).hidden[0, -1]
            scores = hidden @ embedding.tokens.weight.T + decoder.bias
            scores[[tokenizer.pad_id, tokenizer.cls_id, tokenizer.mask_id]] = -torch.inf
            log_probabilities = scores.log_softmax(dim=0)
            ids.append(int(log_probabilities.argmax()) if len(ids) <= 8 else tokenizer.sep_id)
            total += log_probabilities[ids[-1]].item()
        assert one.text == tokenizer.decode(ids)
        assert one.log_probability == pytest.approx(total, abs=1e-4)


def test_texts_and_their_vectors_give_the_same(reconstructor: Reconstructor) -> None:
    vectors = reconstructor.embedder.encode(TEXTS)
    from_texts, from_vectors = reconstructor.reconstruct(TEXTS), reconstructor.reconstruct_vectors(vectors)
    assert from_texts == from_vectors
    assert len({candidates[0].text for candidates in from_texts}) > 1


def test_only_the_direction_of_a_vector_counts(reconstructor: Reconstructor) -> None:
    vectors = reconstructor.embedder.encode(TEXTS)
    scaled = vectors * np.array([[0.01], [3.0], [500.0]], dtype=np.float32)
    for one, other in zip(
        reconstructor.reconstruct_vectors(vectors), reconstructor.reconstruct_vectors(scaled), strict=True
    ):
        assert one[0].text == other[0].text
        assert one[0].log_probability == pytest.approx(other[0].log_probability, abs=1e-3)


def test_candidates_are_different_sentences_at_most_as_many_as_the_beam(reconstructor: Reconstructor) -> None:
    for candidates in reconstructor.reconstruct(TEXTS, beam=4, max_length=6):
        texts = [one.text for one in candidates]
        assert 1 <= len(texts) == len(set(texts)) <= 4
        assert all(one.log_probability <= 0 for one in candidates)


def test_many_vectors_are_written_part_by_part(reconstructor: Reconstructor, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(1).standard_normal((7, 32)).astype(np.float32)
    whole = reconstructor.reconstruct_vectors(vectors, beam=2, max_length=5)
    monkeypatch.setattr(ctxembed.reconstruction, "BATCH_PREFIXES", 4)
    parts = reconstructor.reconstruct_vectors(vectors, beam=2, max_length=5)
    assert [[one.text for one in candidates] for candidates in parts] == [
        [one.text for one in candidates] for candidates in whole
    ]


def test_special_tokens_and_rows_without_a_token_are_never_written(checkpoint: Checkpoint) -> None:
    tokenizer, config = checkpoint.tokenizer, checkpoint.encoder.config
    larger = replace(config, vocab_size=config.vocab_size + 3)
    model = replace(
        checkpoint, encoder=type(checkpoint.encoder)(larger), decoder=TransformerDecoder(larger, DecoderConfig())
    )
    assert model.decoder is not None
    with torch.no_grad():
        model.decoder.bias[[tokenizer.pad_id, tokenizer.cls_id, tokenizer.mask_id, -1, -2, -3]] = 50.0
        model.decoder.bias[tokenizer.unknown_id] = 20.0
    [[one]] = Reconstructor(model).reconstruct_vectors(np.ones((1, 32), dtype=np.float32), max_length=3)
    assert one.text == "[UNK] [UNK] [UNK]"


def test_nothing_to_rebuild_gives_nothing(reconstructor: Reconstructor) -> None:
    assert reconstructor.reconstruct([]) == []
    assert reconstructor.reconstruct_vectors(np.zeros((0, 32), dtype=np.float32)) == []


def test_a_model_that_ends_at_once_writes_an_empty_sentence(checkpoint: Checkpoint) -> None:
    decoder = TransformerDecoder(checkpoint.encoder.config, DecoderConfig(num_layers=1))
    with torch.no_grad():
        decoder.bias[checkpoint.tokenizer.sep_id] = 50.0
    [[one]] = Reconstructor(replace(checkpoint, decoder=decoder)).reconstruct(["the bank"])
    assert one == ("", pytest.approx(0, abs=1e-4))


def test_rebuilding_leaves_the_model_as_it_was(checkpoint: Checkpoint) -> None:
    assert checkpoint.decoder is not None
    before = {name: value.clone() for name, value in checkpoint.decoder.state_dict().items()}
    Reconstructor(replace(checkpoint, decoder=checkpoint.decoder.train())).reconstruct(TEXTS[:1])
    assert checkpoint.decoder.training
    assert all(torch.equal(value, before[name]) for name, value in checkpoint.decoder.state_dict().items())
    checkpoint.decoder.eval()


# Loading, and what is refused


def test_a_saved_model_rebuilds_as_the_one_in_memory(
    checkpoint: Checkpoint, reconstructor: Reconstructor, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "m", checkpoint, dtype=torch.float32)
    loaded = Reconstructor.load(tmp_path / "m", dtype="float32")
    assert loaded.reconstruct(TEXTS, beam=2) == reconstructor.reconstruct(TEXTS, beam=2)


def test_a_model_without_decoder_is_refused_with_the_way_out(tiny_model: Path) -> None:
    with pytest.raises(InvalidInputError, match="the model tiny has no decoder.*`ctxembed train denoise` makes one"):
        Reconstructor.load(tiny_model)


def test_without_a_path_the_denoiser_that_ships_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: Checkpoint
) -> None:
    monkeypatch.setattr(ctxembed.runtime, "data_directory", lambda: tmp_path)
    with pytest.raises(MissingInputError, match="this installation ships no denoiser model: train one, and name"):
        Reconstructor.load()
    save_checkpoint(tmp_path / "models" / "denoiser", checkpoint)
    assert Reconstructor.load().embedder.name == "tiny"


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is not a ctxembed model"):
        Reconstructor.load(tmp_path)


def mistakes() -> dict[str, tuple[Callable[[Reconstructor], Any], str]]:
    vector = np.ones((2, 32), dtype=np.float32)
    return {
        "empty text": (lambda r: r.reconstruct(["the bank", " "]), r"text number 1 \(' '\) has no token: leave it out"),
        "one string": (lambda r: r.reconstruct("the bank"), "takes a list of texts, not one string"),
        "zero vector": (
            lambda r: r.reconstruct_vectors(vector * [[1], [0]]),
            "vector number 1 is zero or not finite: it has no direction",
        ),
        "not a number": (lambda r: r.reconstruct_vectors(vector * np.nan), "vector number 0 is zero or not finite"),
        "other width": (
            lambda r: r.reconstruct_vectors(vector[:, :8]),
            r"vectors of shape \(2, 8\), need \(N, 32\): those of tiny, one a row",
        ),
        "one vector": (lambda r: r.reconstruct_vectors(vector[0]), r"vectors of shape \(32,\), need \(N, 32\)"),
        "beam": (lambda r: r.reconstruct(TEXTS, beam=0), "beam = 0: must be at least 1"),
        "too long": (lambda r: r.reconstruct(TEXTS, max_length=31), "max_length = 31: must be from 1 to 30, what the"),
        "too short": (lambda r: r.reconstruct(TEXTS, max_length=0), "max_length = 0: must be from 1 to 30"),
    }


@pytest.mark.parametrize(("act", "message"), mistakes().values(), ids=list(mistakes()))
def test_mistakes_are_refused(reconstructor: Reconstructor, act: Callable[[Reconstructor], Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        act(reconstructor)

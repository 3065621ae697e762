"""The stage of the recipe in which both teachers read along, against transformers and brute force."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

FOLDER = Path(__file__).parents[2] / "data" / "models" / "recipe" / "gpu"


@pytest.fixture
def recipe(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import chunks
    import follow
    import teachers
    import tokens

    yield {"chunks": chunks, "follow": follow, "teachers": teachers, "tokens": tokens}
    for name in ("chunks", "follow", "teachers", "tokens"):
        del sys.modules[name]


def tiny(kind):
    import transformers

    sizes = {
        "vocab_size": 140,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.3,
    }
    torch.manual_seed(3)
    if kind == "bert":
        return transformers.BertModel(transformers.BertConfig(**sizes, layer_norm_eps=1e-12)).eval()
    return transformers.MPNetModel(transformers.MPNetConfig(**sizes, layer_norm_eps=1e-5)).eval()


@pytest.mark.parametrize("kind", ["bert", "mpnet"])
def test_teacher_gives_what_transformers_gives(recipe, tmp_path, kind):
    teachers, model = recipe["teachers"], tiny(kind)
    model.save_pretrained(tmp_path)
    shape = teachers.Shape(num_layers=2, num_heads=4, norm_eps=1e-12 if kind == "bert" else 1e-5)
    teacher = teachers.Teacher(tmp_path, shape, device=torch.device("cpu"), dtype=torch.float32)
    ids, lengths = torch.randint(5, 100, (3, 40)), torch.tensor([40, 7, 23])
    ids[:, 0] = 101
    theirs = ids if kind == "bert" else torch.where(ids == 101, 0, ids + 4)
    mask = torch.arange(40) < lengths[:, None]
    with torch.no_grad():
        expected = model(theirs, attention_mask=mask.long(), output_hidden_states=True).hidden_states
    states = teacher(ids, lengths)
    assert len(states) == 3
    for number, state in enumerate(states):
        assert (state - expected[number])[mask].abs().max() < 2e-5
    assert len(teacher(ids, lengths, num_layers=1)) == 2


def test_rounded_matrices_stay_near(recipe):
    matrix = torch.randn(400, 300)
    rounded = recipe["teachers"].round_rows(matrix)
    assert not torch.equal(rounded, matrix)
    assert functional.cosine_similarity(rounded, matrix).min() > 0.999


def test_relation_is_the_mean_over_neighbours_of_one_form(recipe):
    own, goal, forms = torch.randn(30, 5), torch.randn(30, 8), torch.randint(0, 6, (30,))
    cosines = [functional.cosine_similarity(rows[:, None], rows, dim=-1) for rows in (own, goal)]
    groups = [torch.argsort(forms)[forms.sort().values == form].tolist() for form in range(6)]
    gaps = [
        (cosines[0][group[i], group[j]] - cosines[1][group[i], group[j]]).square()
        for group in groups
        for i, j in itertools.combinations(range(len(group)), 2)
        if j - i <= 3
    ]
    assert len(gaps) > 20
    found = recipe["follow"].relation_distance(own, goal, forms, neighbours=3)
    torch.testing.assert_close(found, torch.stack(gaps).mean())


def test_divergence_is_that_of_the_library(recipe):
    from ctxembed.training.objectives.distill import similarity_divergence

    own, goal = torch.randn(9, 5), torch.randn(9, 8)
    expected = similarity_divergence(own, goal, temperature=recipe["follow"].TEMPERATURE)
    torch.testing.assert_close(recipe["follow"].divergence(own, goal), expected)


def test_means_of_stretches_are_those_of_the_library(recipe):
    from ctxembed.model.pooling import pool_spans

    hidden, rows = torch.randn(3, 9, 4), torch.tensor([0, 2, 2])
    first, end = torch.tensor([0, 3, 8]), torch.tensor([9, 5, 9])
    found = recipe["follow"].span_means(hidden, rows, first, end)
    torch.testing.assert_close(found, pool_spans(hidden, rows, first, end))


def test_texts_that_share_a_form_stand_together(recipe, tmp_path):
    generator = np.random.default_rng(1)
    forms = generator.permutation(np.repeat(np.arange(20, dtype=np.int32), 10))  # a word a text, ten texts a form
    many = np.full(200, 6, dtype=np.int32)
    arrays = {"ids": np.zeros(1200, np.uint16), "lengths": many, "teacher_ids": np.zeros(1200, np.uint16)}
    arrays |= {"teacher_lengths": many, "counts": np.ones(200, np.int32), "places": np.ones((200, 4), np.uint8)}
    np.savez(tmp_path / "short.npz", **arrays, forms=forms)
    texts = recipe["chunks"].Texts(tmp_path / "short.npz", torch.device("cpu"))
    dealt = texts.chunks(60, seed=1, by_form=True)
    epoch = [next(dealt) for _ in range(20)]
    assert sorted(np.concatenate(epoch).tolist()) == list(range(200))
    assert all(len(set(forms[chunk].tolist())) == 1 for chunk in epoch)
    assert all(len(set(forms[next(texts.chunks(60, seed=seed))].tolist())) > 1 for seed in range(5))


def test_cloze_takes_one_sentence_out(recipe):
    text = "Rain fell. The river rose quickly. Nobody slept that night."
    sentence, rest = recipe["tokens"].cloze(text)
    assert sentence in text
    assert sentence not in rest
    assert len(sentence) + len(rest) + 1 == len(text)
    assert recipe["tokens"].cloze("Rain fell. The river rose.") is None


def test_tokens_of_pairs_stand_row_by_row(recipe, tiny_tokenizer, tmp_path, monkeypatch):
    from tokenizers import Tokenizer

    tokens = recipe["tokens"]
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    tiny_tokenizer.save(tmp_path)
    file = str(tmp_path / "tokenizer.json")
    tokens.start(file, file)
    lines = ["the old farmer\tThe bank lent money.", "x\tA plant grew.", "Rain fell."]
    anchors, positives = tokens.read_pairs(lines)
    assert len(anchors["lengths"]) == len(positives["lengths"]) == 1  # "x" is too short, the last is no pair
    vocabulary = Tokenizer.from_file(file)
    assert vocabulary.decode(anchors["ids"].tolist()).replace(" ##", "") == "the old farmer"
    assert vocabulary.decode(positives["ids"].tolist()).replace(" ##", "").startswith("the bank lent money")
    assert [len(side["lengths"]) for side in tokens.read_pairs(["Rain fell."])] == [0, 0]


def test_what_the_context_adds_is_the_difference_from_the_mean_of_the_form(recipe):
    means = recipe["follow"].Means(4, torch.device("cpu"))
    vectors, forms = torch.randn(20, 4), torch.tensor([3] * 8 + [7] * 12)
    centred, residual, common = means(vectors, forms)
    torch.testing.assert_close(centred, vectors - vectors.mean(dim=0))
    torch.testing.assert_close(residual[:8], vectors[:8] - vectors[:8].mean(dim=0))
    assert common.all()
    assert not means(torch.randn(1, 4), torch.tensor([9]))[2].any()


def test_places_of_words_are_their_own_tokens_for_both_kinds(recipe, tiny_tokenizer, tmp_path, monkeypatch):
    from tokenizers import Tokenizer

    tokens = recipe["tokens"]
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")  # put back afterwards: a process of the script sets it
    tiny_tokenizer.save(tmp_path)
    file = str(tmp_path / "tokenizer.json")
    tokens.start(file, file)
    texts = ["The bank lent money to the old farmer.", "x", "A plant grew in the window of the bank."]
    read = tokens.read((texts, 128))
    lengths, forms = read["lengths"], read["forms"]
    assert lengths.tolist() == read["teacher_lengths"].tolist()
    assert len(lengths) == 2  # "x" is too short
    assert read["counts"].tolist() == [5, 4]
    vocabulary = Tokenizer.from_file(file)
    starts = np.repeat(np.cumsum(lengths) - lengths, read["counts"])
    for column, numbers in ((0, read["ids"]), (2, read["teacher_ids"])):
        places = zip(starts, read["places"][:, column : column + 2].tolist(), strict=True)
        found = [
            vocabulary.decode(numbers[start + first : start + last].tolist()).replace(" ##", "")
            for start, (first, last) in places
        ]
        assert found == ["bank", "lent", "money", "old", "farmer", "plant", "grew", "window", "bank"]
    assert forms[0] == forms[-1] != forms[1]


def test_hidden_tokens_are_those_whose_places_are_given(recipe, tiny_model):
    from ctxembed.model.checkpoint import load_checkpoint

    model = load_checkpoint(tiny_model)
    torch.manual_seed(1)
    ids = torch.randint(5, 100, (200, 12))
    words = (torch.arange(200), torch.full((200,), 3), torch.full((200,), 5))
    hidden, places = recipe["follow"].mask(ids, words, model)
    changed = (hidden != ids).flatten().nonzero()[:, 0]
    assert set(changed.tolist()) <= set(places.tolist())
    together = torch.isin(torch.arange(200) * 12 + 3, places), torch.isin(torch.arange(200) * 12 + 4, places)
    assert 0.25 < together[0].float().mean() < 0.5  # three in ten words, and single tokens by themselves
    assert (together[0] & together[1]).float().mean() > 0.25
    assert not torch.isin(torch.arange(200) * 12, places).any()

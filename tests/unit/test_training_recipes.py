"""Recipes are checked whole before anything is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import ctxembed.training.recipes
from ctxembed.config import NEW_ENCODER, PRESETS, DecoderConfig, PoolingConfig, TrainingConfig
from ctxembed.corpus import Corpus, ReadOptions
from ctxembed.errors import CtxEmbedError, InvalidInputError, MissingInputError
from ctxembed.model.checkpoint import load_checkpoint
from ctxembed.model.decoder import TransformerDecoder
from ctxembed.tokenizer import TokenizerConfig
from ctxembed.training import plans
from ctxembed.training.objectives.mlm import MaskingConfig
from ctxembed.training.recipes import Recipe, Surroundings, read_recipe, recipe_from_mapping
from ctxembed.training.start import ExistingModel, NewModel, WordTable

if TYPE_CHECKING:
    from ctxembed.tokenizer import SubwordTokenizer

MLM = {"kind": "mlm", "inputs": ["a.txt"]}
PAIRS = {"kind": "contrastive", "inputs": ["pairs.jsonl"]}
DENOISE = {"kind": "denoise", "inputs": ["a.txt"]}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A folder with inputs of every kind; none is read to the end unless a sample is drawn."""
    (tmp_path / "a.txt").write_text("the bank\nthe river\nthe plant\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("the spring\n", encoding="utf-8")
    for name in ("pairs.jsonl", "senses.jsonl"):
        (tmp_path / name).write_text("{}\n", encoding="utf-8")
    return tmp_path


def made(base: Path, *objectives: Mapping[str, Any], **sections: Any) -> Recipe:
    return recipe_from_mapping({"objective": list(objectives or [MLM]), **sections}, around=Surroundings(base))


def texts_of(start: Any) -> list[str]:
    return [document.text for document in start.documents]


# What a recipe becomes


def test_a_recipe_with_one_objective_makes_a_new_small_model_from_its_text(base: Path) -> None:
    recipe = made(base)
    start = recipe.start
    assert isinstance(start, NewModel)
    assert start.shape == {"max_length": 128, **NEW_ENCODER, **PRESETS["small"]}
    assert start.tokenizer == TokenizerConfig()
    assert texts_of(start) == ["the bank", "the river", "the plant"]
    assert (start.pooling, start.decoder, start.embeddings) == (PoolingConfig(), None, None)
    assert (recipe.training, recipe.inputs, recipe.teachers) == (TrainingConfig(), ("a.txt",), ())
    assert [(plan.share, plan.weight) for plan in recipe.plans] == [(1.0, 1.0)]


def test_sections_and_shares_are_those_written_down(base: Path) -> None:
    recipe = made(
        base,
        {**MLM, "share": 3, "weight": 0.5, "config": {"mask_fraction": 0.4}},
        {**MLM, "inputs": ["b.txt", "a.txt"], "max_documents": 2, "reading": {"document": "paragraph"}},
        model={"preset": "tiny", "hidden_size": 32, "positions": "rotary"},
        tokenizer={"vocab_size": 500},
        pooling={"sentence": "cls"},
        training={"seed": 7},
    )
    start = recipe.start
    assert isinstance(start, NewModel)
    assert start.shape == {
        "max_length": 128,
        **NEW_ENCODER,
        **PRESETS["tiny"],
        "hidden_size": 32,
        "positions": "rotary",
    }
    assert start.tokenizer == TokenizerConfig(vocab_size=500)
    assert start.pooling == PoolingConfig(sentence="cls")
    assert recipe.training == TrainingConfig(seed=7)
    assert [(plan.share, plan.weight) for plan in recipe.plans] == [(3, 0.5), (1.0, 1.0)]
    assert recipe.plans[0].source == {"inputs": ["a.txt"], "max_documents": None, "reading": {}}
    assert recipe.plans[1].source == {
        "inputs": ["b.txt", "a.txt"],
        "max_documents": 2,
        "reading": {"document": "paragraph"},
    }
    assert recipe.inputs == ("a.txt", "b.txt")


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("given", [{}, {"drop_fraction": 0.2}])
def test_tokens_are_dropped_in_a_new_encoder_unless_it_is_told_otherwise(
    base: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, float], new: bool
) -> None:
    seen: list[MaskingConfig] = []
    monkeypatch.setattr(plans, "mlm", lambda _, config: seen.append(config))
    made(base, {**MLM, "config": {"mask_fraction": 0.3, **given}}, model={} if new else {"from": str(tiny_model)})
    expected = {"drop_fraction": 0.5 if new else 0.0, **given}
    assert seen == [MaskingConfig(mask_fraction=0.3, **expected)]


@pytest.mark.parametrize("kind", ["mlm", "simcse", "denoise"])
def test_the_tokenizer_learns_from_the_first_objective_that_reads_text(base: Path, kind: str) -> None:
    start = made(base, PAIRS, {"kind": kind, "inputs": ["b.txt"]}, MLM).start
    assert isinstance(start, NewModel)
    assert texts_of(start) == ["the spring"]


def test_the_tokenizer_learns_from_the_sample_that_is_learned_from(base: Path) -> None:
    start = made(base, {**MLM, "max_documents": 2}, training={"seed": 5}).start
    assert isinstance(start, NewModel)
    assert len(texts_of(start)) == 2
    assert set(texts_of(start)) < {"the bank", "the river", "the plant"}


def test_a_tokenizer_can_be_one_that_was_trained(base: Path, tiny_tokenizer: SubwordTokenizer) -> None:
    tiny_tokenizer.save(base / "tok")
    start = made(base, PAIRS, tokenizer={"path": "tok"}).start
    assert isinstance(start, NewModel)
    assert start.tokenizer.fingerprint == tiny_tokenizer.fingerprint  # type: ignore[union-attr]


def test_a_decoder_comes_with_denoising_only(base: Path) -> None:
    without, plain, shaped = (
        made(base, *objectives, **sections).start
        for objectives, sections in [([MLM], {}), ([MLM, DENOISE], {}), ([DENOISE], {"decoder": {"num_layers": 3}})]
    )
    found = [start.decoder for start in (without, plain, shaped) if isinstance(start, NewModel)]
    assert found == [None, DecoderConfig(), DecoderConfig(num_layers=3)]


def test_a_model_to_go_on_from_is_loaded(base: Path, tiny_model: Path) -> None:
    start = made(base, PAIRS, model={"from": str(tiny_model)}, pooling={"sentence": "max"}).start
    assert isinstance(start, ExistingModel)
    assert start.checkpoint.fingerprint == load_checkpoint(tiny_model).fingerprint
    assert (start.pooling, start.decoder) == (PoolingConfig(sentence="max"), None)
    assert made(base, PAIRS, model={"from": str(tiny_model)}).start.pooling is None  # type: ignore[attr-defined]


def test_default_stands_for_the_model_that_ships(base: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctxembed.runtime.default_model", lambda kind: {"encoder": tiny_model}[kind])
    start = made(base, model={"from": "default"}).start
    assert isinstance(start, ExistingModel)
    assert start.checkpoint.name == "tiny"


# Paths


def test_paths_are_relative_to_the_recipe_and_variables_are_filled_in(
    base: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (base / "deep").mkdir()
    (base / "deep" / "c.txt").write_text("the crane\n", encoding="utf-8")
    (base / "model").symlink_to(tiny_model)
    monkeypatch.setenv("CORPORA", str(base / "deep"))
    monkeypatch.chdir(base.parent)
    file = base / "run.toml"
    file.write_text(
        '[[objective]]\nkind = "mlm"\ninputs = ["a.txt", "$CORPORA/c.txt", "${CORPORA}/../b.txt"]\n', encoding="utf-8"
    )
    recipe = read_recipe(file, overrides={}, around=Surroundings(base))
    assert isinstance(recipe.start, NewModel)
    assert texts_of(recipe.start) == ["the bank", "the river", "the plant", "the crane", "the spring"]
    assert recipe.inputs == ("a.txt", "c.txt", "b.txt")
    further = made(base, model={"from": "model"}).start
    assert isinstance(further, ExistingModel)


def test_standard_input_is_no_file_of_the_folder(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Sequence[str]] = []

    def corpus(paths: Sequence[str], *, options: ReadOptions) -> Corpus:
        given.append(paths)
        return Corpus(str(base / "a.txt"), options=options)

    monkeypatch.setattr(ctxembed.training.recipes, "Corpus", corpus)
    made(base, {**MLM, "inputs": ["-"]})
    assert given == [["-"]]


def test_overrides_win_over_the_training_of_the_file(base: Path) -> None:
    file = base / "run.toml"
    file.write_text(
        '[training]\nseed = 2\nmax_steps = 7\n[[objective]]\nkind = "mlm"\ninputs = ["a.txt"]\n', encoding="utf-8"
    )
    recipe = read_recipe(file, overrides={"seed": 9, "budget": 60.0}, around=Surroundings(base))
    assert recipe.training == TrainingConfig(seed=9, max_steps=7, budget=60.0)


# What lives above


def test_a_distillation_is_handed_to_who_can_load_its_teacher(base: Path) -> None:
    (base / "words").mkdir()
    asked: list[tuple[Any, ...]] = []

    def plan(*given: Any) -> Callable[[Any], Any]:
        asked.append(given)
        return lambda _: None

    entry = {
        "kind": "distill",
        "inputs": ["a.txt"],
        "reading": {"text_column": "body"},
        "max_documents": 2,
        "teacher": {"word_model": "words", "cache": "answers"},
    }
    recipe_from_mapping(
        {"objective": [entry, MLM], "training": {"seed": 4}}, around=Surroundings(base, teacher_plan=plan)
    )
    ((table, paths, reading, training, most),) = asked
    assert table == {"word_model": str(base / "words"), "cache": str(base / "answers")}
    assert paths == [str(base / "a.txt")]
    assert (reading, training, most) == (ReadOptions(text_column="body"), TrainingConfig(seed=4), 2)


def test_word_vectors_are_loaded_by_who_can(base: Path) -> None:
    (base / "static").mkdir()
    table = WordTable(words=["bank"], vectors=np.ones((1, 4), dtype=np.float32), name="static")
    asked: list[str] = []

    def load(name: str) -> WordTable:
        asked.append(name)
        return table

    mapping = {"objective": [MLM], "model": {"init_embeddings": "static", "preset": "tiny"}}
    start = recipe_from_mapping(mapping, around=Surroundings(base, word_table=load)).start
    assert isinstance(start, NewModel)
    assert start.embeddings is table
    assert asked == [str(base / "static")]


# What is refused


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"modle": {}}, "unknown section 'modle': known are model, tokenizer, pooling, decoder, training, objective"),
        ({"model": 3}, "model = 3 is no section: write [model]"),
        ({"training": [1]}, "training = [1] is no section: write [training]"),
        ({"objective": MLM}, "is no section: write [[objective]]"),
        ({"objective": []}, "a recipe needs at least one [[objective]]"),
        ({"objective": ["mlm"]}, "a recipe needs at least one [[objective]]"),
        ({"training": {"sede": 1}}, "unknown setting 'sede' for TrainingConfig: did you mean 'seed'"),
        ({"training": {"seed": "one"}}, "TrainingConfig.seed = 'one': must be a int"),
        ({"training": {"log_every": 5}}, "unknown setting 'log_every' for TrainingConfig: did you mean"),
        ({"model": {"preset": "huge"}}, "preset = 'huge': must be one of tiny, mini, small, base"),
        ({"model": {"preset": ["tiny"]}}, "preset = ['tiny']: must be one of tiny, mini, small, base"),
        ({"model": {"hiden_size": 8}}, "unknown setting 'hiden_size' for EncoderConfig: did you mean 'hidden_size'"),
        ({"model": {"num_heads": 3}}, "hidden_size = 256 is not a multiple of num_heads = 3"),
        ({"model": {"hidden_size": "wide"}}, "EncoderConfig.hidden_size = 'wide': must be a int"),
        ({"model": {"vocab_size": 5}}, "vocab_size is not the encoder's to choose: it follows from the tokenizer"),
        ({"model": {"from": 3}}, "3 is no path: write it as a string"),
        ({"tokenizer": {"kind": "word"}}, "TokenizerConfig.kind = 'word': must be one of wordpiece, bpe, unigram"),
        ({"tokenizer": {"vocabsize": 9}}, "unknown setting 'vocabsize' for TokenizerConfig: did you mean"),
        ({"pooling": {"sentence": "sum"}}, "PoolingConfig.sentence = 'sum': must be one of mean, cls, max"),
        ({"decoder": {"num_layers": 1}}, "[decoder] does nothing without a denoise objective"),
        ({"model": {"init_embeddings": "x"}}, "init_embeddings needs somebody to load the vectors"),
    ],
)
def test_a_section_that_cannot_be_is_refused(base: Path, sections: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError) as raised:
        recipe_from_mapping({"objective": [MLM], **sections}, around=Surroundings(base))
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"inputs": ["a.txt"]}, "ObjectiveTable needs kind: add it"),
        (
            {**MLM, "kind": "masked"},
            "kind = 'masked': must be one of mlm, contrastive, simcse, distill, denoise, senses",
        ),
        ({**MLM, "input": ["a.txt"]}, "unknown setting 'input' for ObjectiveTable: did you mean 'inputs'"),
        ({**MLM, "inputs": "a.txt"}, "ObjectiveTable.inputs = 'a.txt': must be a list of str"),
        ({**MLM, "inputs": [3]}, "ObjectiveTable.inputs = [3]: must be a list of str"),
        ({**MLM, "inputs": []}, "mlm needs inputs: name files to learn from"),
        ({**MLM, "share": 0}, "share and weight of mlm must be above 0"),
        ({**MLM, "weight": -1.0}, "share and weight of mlm must be above 0"),
        ({**MLM, "config": {"mask_fracton": 0.1}}, "unknown setting 'mask_fracton' for MaskingConfig: did you mean"),
        ({**MLM, "config": {"mask_fraction": 1.5}}, "mask_fraction = 1.5: must be between 0 and 1"),
        ({**MLM, "config": {"whole_words": 1}}, "MaskingConfig.whole_words = 1: must be a bool"),
        ({**MLM, "reading": {"txt_column": "x"}}, "unknown setting 'txt_column' for ReadOptions: did you mean"),
        ({**MLM, "reading": {"document": "page"}}, "ReadOptions.document = 'page': must be one of line, paragraph"),
        ({**MLM, "max_documents": 0}, "max_documents = 0: must be at least 1, or left out"),
        ({**MLM, "inputs": ["pairs.bin"]}, "pairs.bin is of no supported kind"),
        ({**MLM, "teacher": {"cache": "x"}}, "teacher does nothing for mlm"),
        ({**PAIRS, "max_documents": 5}, "max_documents does nothing for contrastive"),
        ({**PAIRS, "reading": {"text_column": "x"}}, "unknown setting 'text_column' for PairOptions"),
        (
            {**PAIRS, "config": {"matryoshka": [8, "x"]}},
            "ContrastiveConfig.matryoshka = (8, 'x'): must be a list of int",
        ),
        (
            {"kind": "senses", "inputs": ["senses.jsonl"], "reading": {"text_column": "x"}},
            "reading does nothing for senses",
        ),
        ({"kind": "distill"}, "distill needs somebody to load the teacher: use the command line"),
    ],
)
def test_an_objective_that_cannot_be_is_refused(base: Path, entry: dict[str, Any], message: str) -> None:
    (base / "pairs.bin").write_bytes(b"")
    with pytest.raises(InvalidInputError) as raised:
        made(base, entry)
    assert message in str(raised.value)


@pytest.mark.parametrize("objectives", [[MLM, {**MLM, "kind": "x"}], [{**MLM, "kind": "x"}, MLM]])
def test_every_objective_is_checked(base: Path, objectives: list[dict[str, Any]]) -> None:
    with pytest.raises(InvalidInputError, match="kind = 'x': must be one of"):
        made(base, *objectives)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"model": {"preset": "tiny"}}, "preset cannot be changed in a model to go on from: leave it out"),
        (
            {"model": {"num_layers": 3, "dropout": 0.0}},
            "num_layers, dropout cannot be changed in a model to go on from",
        ),
        ({"tokenizer": {"vocab_size": 90}}, r"\[tokenizer\] does nothing with a model to go on from: its own is kept"),
    ],
)
def test_what_contradicts_a_model_to_go_on_from_is_refused(
    base: Path, tiny_model: Path, sections: dict[str, Any], message: str
) -> None:
    model = {"from": str(tiny_model), **sections.get("model", {})}
    with pytest.raises(InvalidInputError, match=message):
        made(base, **{**sections, "model": model})


def test_another_decoder_for_a_model_that_has_one_is_refused(
    base: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = load_checkpoint(tiny_model)
    decoder = TransformerDecoder(bare.encoder.config, DecoderConfig(num_layers=1))
    monkeypatch.setattr(ctxembed.training.recipes, "load_checkpoint", lambda _: replace(bare, decoder=decoder))
    model = {"from": str(tiny_model)}
    with pytest.raises(InvalidInputError, match=r"\[decoder\] does nothing with tiny: it has a decoder, which is kept"):
        made(base, DENOISE, model=model, decoder={"num_layers": 2})
    start = made(base, DENOISE, model=model).start
    assert isinstance(start, ExistingModel)
    assert start.checkpoint.decoder is decoder


def test_a_new_model_without_text_for_its_tokenizer_is_refused(base: Path) -> None:
    with pytest.raises(InvalidInputError, match="a new model needs text for its tokenizer: go on from a model"):
        made(base, PAIRS)


def test_a_trained_tokenizer_takes_no_settings(base: Path, tiny_tokenizer: SubwordTokenizer) -> None:
    tiny_tokenizer.save(base / "tok")
    with pytest.raises(InvalidInputError, match=r"\[tokenizer\] with a path takes nothing else: it is trained already"):
        made(base, tokenizer={"path": "tok", "lowercase": False})


@pytest.mark.parametrize(
    "sections",
    [
        {"objective": [{**MLM, "inputs": ["missing.txt"]}]},
        {"objective": [{**MLM, "inputs": ["$NO_SUCH_VARIABLE/missing.txt"]}]},
        {"objective": [MLM, {**PAIRS, "inputs": ["missing.txt"]}]},
        {"model": {"from": "missing.txt"}},
        {"tokenizer": {"path": "missing.txt"}},
    ],
)
def test_a_missing_file_is_refused_by_name(
    base: Path, sections: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_SUCH_VARIABLE", raising=False)
    with pytest.raises(MissingInputError, match=r"missing\.txt does not exist: check the spelling"):
        recipe_from_mapping({"objective": [MLM], **sections}, around=Surroundings(base))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[objective]]\nkind = "mlm"\ninputs = ["a.txt"]\nshare = 0.0\n', "share and weight of mlm must be above 0"),
        ('[[objective]]\nkind = "mlm"\ninputs = ["missing.txt"]\n', r".*missing\.txt does not exist"),
        ('[objective]\nkind = "mlm"\ninputs = ["a.txt"]\n', r"objective = .* is no section: write \[\[objective\]\]"),
        ("training = 3\n", r"training = 3 is no section: write \[training\]"),
        ("", r"a recipe needs at least one \[\[objective\]\]"),
    ],
)
def test_a_mistake_in_a_file_is_told_with_its_name(base: Path, text: str, message: str) -> None:
    file = base / "run.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(CtxEmbedError, match=rf"^{file}: {message}"):
        read_recipe(file, overrides={"seed": 2}, around=Surroundings(base))


def test_a_recipe_that_is_no_toml_or_not_there_is_refused(base: Path) -> None:
    (base / "run.toml").write_text("[model\n", encoding="utf-8")
    with pytest.raises(InvalidInputError, match=r"run\.toml is not valid TOML"):
        read_recipe(base / "run.toml", overrides={}, around=Surroundings(base))
    with pytest.raises(MissingInputError, match=r"other\.toml does not exist"):
        read_recipe(base / "other.toml", overrides={}, around=Surroundings(base))


def test_nothing_is_written_by_checking(base: Path, tiny_model: Path) -> None:
    before = sorted(base.rglob("*"))
    made(base, MLM, PAIRS, DENOISE)
    made(base, PAIRS, model={"from": str(tiny_model)})
    assert sorted(base.rglob("*")) == before

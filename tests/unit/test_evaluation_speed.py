"""How speed is taken: texts, turns, ratios, agreement, utilisation; fake contenders with a clock of their own."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from ctxembed.errors import ArtifactError, InvalidInputError, MissingInputError, MissingLibraryError
from ctxembed.evaluation.peers import PEERS, Contender, open_peers, read_limit, write_weights
from ctxembed.evaluation.speed import (
    COMPILED,
    FLOAT32,
    EncodingSpeed,
    SpeedTrial,
    check_agreement,
    compare_speed,
    own_models,
    race,
    row_cosines,
    speed_rows,
    times_as_fast,
    turns,
)
from ctxembed.evaluation.utilisation import encoder_flops, machine_gigaflops, shares, window_lengths
from ctxembed.evaluation.workloads import shortened, workload_texts
from ctxembed.model.checkpoint import Checkpoint, load_checkpoint
from ctxembed.types import Vectors
from ctxembed.windows import cut

SENTENCES = ("The bank lent money to the old farmer.", "A plant grew in the window.", "She sat on the bank.")


class Fake:
    """A contender that moves a clock by a fixed time a call and writes down that it ran."""

    def __init__(self, log: list[str]) -> None:
        self.log, self.now = log, 0.0

    def clock(self) -> float:
        return self.now

    def contender(self, name: str, seconds: float) -> Contender:
        def encode(texts: Sequence[str]) -> Vectors:
            self.log.append(name)
            self.now += seconds
            return np.array([[len(text), 1] for text in texts], dtype=np.float32)

        return Contender(system=name, model="m", precision="float32", encode=encode, limit=256)


@pytest.fixture
def checkpoint(tiny_model: Path) -> Checkpoint:
    return load_checkpoint(tiny_model)


# Texts


def test_mixed_texts_have_five_to_two_hundred_words_and_more_short_ones() -> None:
    lengths = [len(text.split()) for text in workload_texts("mixed", SENTENCES, rows=2000, seed=1)]
    assert (min(lengths), max(lengths)) == (5, 200)
    assert 28 < np.median(lengths) < 36  # the geometric mean of 5 and 200 is 31.6


@pytest.mark.parametrize(
    ("workload", "count", "words"), [("titles", 200, 10), ("documents", 2, 2000), ("query", 10, 10)]
)
def test_texts_of_one_length_have_it(workload: str, count: int, words: int) -> None:
    texts = workload_texts(workload, SENTENCES, rows=200, seed=1)  # type: ignore[arg-type]
    assert [len(text.split()) for text in texts] == [words] * count


def test_texts_are_the_same_for_one_seed_and_others_for_another() -> None:
    first, again, other = (workload_texts("mixed", SENTENCES, rows=20, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_texts_as_they_are_leave_out_empty_ones() -> None:
    assert workload_texts("texts", ["a", " ", "b", "c"], rows=2, seed=1) == ["a", "b"]


def test_input_without_a_word_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="holds no word"):
        workload_texts("mixed", ["", " "], rows=2, seed=1)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=5), st.integers(4, 20))
def test_shortened_texts_fit_and_keep_their_beginning(lengths: list[int], most: int) -> None:
    texts = [" ".join(map(str, range(length))) for length in lengths]

    def count(texts: Sequence[str]) -> list[int]:
        return [len(text.split()) * 2 + 2 for text in texts]

    cut = shortened(texts, count, most)
    assert max(count(cut)) <= most
    assert all(before.startswith(after) for before, after in zip(texts, cut, strict=True))
    assert all(b == a for b, a, n in zip(texts, cut, count(texts), strict=True) if n <= most)


# Statistics


def test_every_round_has_everybody_once_and_begins_with_another() -> None:
    rounds = [turns(3, number) for number in range(4)]
    assert all(sorted(each) == [0, 1, 2] for each in rounds)
    assert [each[0] for each in rounds] == [0, 1, 2, 0]


def test_ratio_is_the_median_of_the_rounds_and_not_of_the_times() -> None:
    own, other = np.array([1.0, 10.0, 2.0]), np.array([3.0, 10.0, 8.0])
    assert times_as_fast(own, other) == 3.0  # the ratios are 3, 1 and 4; the medians 2 and 8


def test_cosines_do_not_depend_on_length_and_know_empty_texts() -> None:
    left = np.array([[3, 4], [1, 0], [0, 0], [0, 0]], dtype=np.float32)
    right = np.array([[6, 8], [0, 2], [0, 0], [1, 0]], dtype=np.float32)
    assert row_cosines(left, right) == pytest.approx([1.0, 0.0, 1.0, 0.0])


# Runs


def test_race_warms_everybody_up_and_then_alternates() -> None:
    log: list[str] = []
    fake = Fake(log)
    timings = race([fake.contender("a", 1), fake.contender("b", 3)], [["x", "yy"]], repeats=2, clock=fake.clock)
    assert log == ["a", "b", "a", "b", "b", "a"]
    assert [timing.rounds.tolist() for timing in timings] == [[1, 1], [3, 3]]
    assert timings[0].vectors.tolist() == [[1, 1], [2, 1]]
    assert times_as_fast(timings[0].rounds, timings[1].rounds) == 3


def test_race_takes_the_time_of_the_processor_too() -> None:
    fake = Fake([])
    [timing] = race([fake.contender("a", 3)], [["x"]], repeats=2, clock=fake.clock, cpu_clock=lambda: 2 * fake.clock())
    assert timing.cpu_seconds.tolist() == [[6], [6]]


def test_race_times_each_query_and_uses_the_set_up_for_queries() -> None:
    log: list[str] = []
    fake = Fake(log)
    special = replace(fake.contender("a", 1), encode_query=fake.contender("a alone", 2).encode)
    [timing] = race([special], [["x"], ["yy"], ["zzz"]], repeats=2, clock=fake.clock)
    assert set(log) == {"a alone"}
    assert timing.seconds.tolist() == [[2, 2, 2]] * 2
    assert timing.vectors[:, 0].tolist() == [1, 2, 3]


@pytest.mark.parametrize(("precision", "turn", "agrees"), [("float32", 0.02, True), ("float32", 0.2, False)])
@pytest.mark.parametrize("scale", [1.0, 7.0])
def test_weights_are_taken_to_be_the_same_by_the_angle(precision: str, turn: float, agrees: bool, scale: float) -> None:
    vectors = np.array([[np.cos(turn), np.sin(turn)]], dtype=np.float32) * scale
    contender = Contender(system="x", model="w", precision=precision, encode=lambda _: vectors, limit=9)
    reference = np.array([[1, 0]], dtype=np.float32)
    if agrees:
        check_agreement(contender, reference, ["a"])
    else:
        with pytest.raises(ArtifactError, match=r"x with the weights of w has a mean cosine of 0\.9801 .* 0\.999"):
            check_agreement(contender, reference, ["a"])
        check_agreement(replace(contender, precision="int8"), reference, ["a"])


def test_wrong_model_is_refused_before_anything_is_timed(checkpoint: Checkpoint) -> None:
    told: list[str] = []

    def encode(texts: Sequence[str]) -> Vectors:
        return np.random.default_rng(0).standard_normal((len(texts), 32)).astype(np.float32)

    wrong = Contender(system="peer", model="other", precision="int8", encode=encode, limit=32)
    with pytest.raises(ArtifactError, match=r"peer with the weights of other has a mean cosine of .* --weights"):
        list(compare_speed(own_models([checkpoint]), [wrong], SENTENCES, trial=SpeedTrial(), tell=told.append))
    assert told == []


def test_model_of_another_width_is_refused(checkpoint: Checkpoint) -> None:
    fake = Fake([]).contender("peer", 1)
    with pytest.raises(ArtifactError, match="peer gives 2 dimensions with the weights of m, our model 32"):
        list(compare_speed(own_models([checkpoint]), [fake], SENTENCES, trial=SpeedTrial(), tell=lambda _: None))


@pytest.fixture(scope="module")
def results(tiny_model: Path) -> list[EncodingSpeed]:
    """A peer with our own vectors, cut at the model's length, beside two ways of running ours."""
    models = own_models([load_checkpoint(tiny_model)])
    peer = Contender(
        system="peer", model="w", precision="float32", encode=models[0].embedder("float32", "truncate").encode, limit=32
    )
    trial = SpeedTrial(workloads=("mixed", "documents", "query"), rows=20, repeats=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ctxembed.evaluation.utilisation.SECONDS", 0.001)
        return list(compare_speed(models, [peer], SENTENCES, trial=trial, ways=[FLOAT32], tell=lambda _: None))


def test_everybody_is_in_every_workload_and_documents_are_read_in_both_ways(results: list[EncodingSpeed]) -> None:
    short = ["ctxembed", "ctxembed-float32", "peer"]
    long = ["ctxembed", "ctxembed-float32", "ctxembed-truncated", "peer"]
    assert [row.system for row in results] == [*short, *long, *short]
    tokens = {(row.workload, row.system): row.tokens_read for row in results}
    assert tokens["mixed", "peer"] == tokens["mixed", "ctxembed"] <= 32
    assert tokens["documents", "peer"] == tokens["documents", "ctxembed-truncated"] == 32
    assert tokens["documents", "ctxembed"] > 2000


def test_figures_of_a_result_agree_with_each_other(results: list[EncodingSpeed]) -> None:
    for row in results:
        assert row.lowest <= row.sentences_per_second <= row.highest
        assert row.tokens_per_second == pytest.approx(row.sentences_per_second * row.tokens_read)
        assert row.min_cosine is not None
        assert row.cores > 0
        assert (row.latency_ms is None) == (row.workload != "query")
        assert (row.utilisation is None) == (row.system == "peer")
    own = [row for row in results if row.system in ("ctxembed", "ctxembed-truncated")]
    assert [row.ratio for row in own] == [1.0] * 4
    exact = [row.min_cosine for row in results if row.precision == "float32"]
    assert exact == pytest.approx([1.0] * len(exact), abs=1e-5)
    assert speed_rows(results)[0]["gigaflops"] == results[0].utilisation.gigaflops  # type: ignore[union-attr]


def test_model_given_twice_is_refused_and_a_shared_name_is_told_apart(checkpoint: Checkpoint) -> None:
    other = replace(checkpoint, fingerprint="0123456789")
    assert [each.label for each in own_models([checkpoint, other])] == [
        f"tiny@{checkpoint.fingerprint[:8]}",
        "tiny@01234567",
    ]
    with pytest.raises(InvalidInputError, match="is given twice"):
        own_models([checkpoint, checkpoint])


@pytest.mark.parametrize(("field", "value"), [("rows", 0), ("repeats", 0), ("workloads", ("long",))])
def test_trial_without_sense_is_refused(field: str, value: object) -> None:
    with pytest.raises(InvalidInputError, match=field.rstrip("s")):
        SpeedTrial(**{field: value})  # type: ignore[arg-type]


# Utilisation


@given(st.lists(st.integers(0, 300), max_size=8), st.integers(4, 64))
def test_windows_are_those_that_the_embedder_cuts(lengths: list[int], width: int) -> None:
    windows = [end - start + 2 for length in lengths for start, end in cut(length, width)]
    assert window_lengths(lengths, width, whole=True).tolist() == windows
    assert window_lengths(lengths, width, whole=False).tolist() == [min(n, width) + 2 for n in lengths if n]


def test_operations_are_those_that_torch_counts(checkpoint: Checkpoint) -> None:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        checkpoint.encoder(torch.ones(3, 17, dtype=torch.int64), need_weights=True)
    assert counter.get_total_flops() > 0
    assert encoder_flops(checkpoint.encoder, np.array([17] * 3)) == counter.get_total_flops()


def test_machine_has_a_rate() -> None:
    assert machine_gigaflops([(16, 16)], torch.float32) > 0


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 9), max_size=6), st.floats(0.1, 99))
def test_shares_add_up_to_one(times: dict[str, float], total: float) -> None:
    found = shares(times, total, most=3)
    assert sum(share for _, share in found) == pytest.approx(1, abs=1e-3)


# Peers


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.filterwarnings("ignore")  # of other libraries
def test_peer_gives_our_vectors_from_the_weights_that_we_write(checkpoint: Checkpoint, name: str) -> None:
    library = name.removesuffix("-bf16").removesuffix("-int8").replace("-", "_")
    for needed in ("onnx", library, "transformers"):
        pytest.importorskip(needed, reason=f"{needed} is not installed: pip install '.[peers]'")
    [model] = own_models([checkpoint])
    texts = [*SENTENCES, "bank " * 50]
    expected = model.embedder("float32", "truncate").encode(texts)
    with open_peers([name], checkpoint, None) as [peer]:
        vectors = peer.encode(texts)
        alone = (peer.encode_query or peer.encode)(texts[:1])
    assert (peer.system, peer.model, peer.limit) == (name, "tiny", 32)
    lowest = {"float32": 0.99999, "int8": 0.9}.get(peer.precision, 0.99)
    assert row_cosines(vectors, expected).min() > lowest
    assert row_cosines(alone, expected[:1]).min() > lowest


@pytest.mark.filterwarnings("ignore")  # of the compiler
def test_compiled_encoder_gives_our_vectors(checkpoint: Checkpoint) -> None:
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler: install g++")
    [model] = own_models([checkpoint])
    texts = [*SENTENCES, "bank " * 50]
    compiled = model.compiled()
    assert (compiled.system, compiled.model, compiled.limit) == (COMPILED, "tiny", 32)
    expected = model.embedder("float32", "truncate").encode(texts)
    lowest = 0.99999 if compiled.precision == "float32" else 0.99
    assert row_cosines(compiled.encode(texts), expected).min() > lowest
    assert next(checkpoint.encoder.parameters()).dtype == torch.float32  # the model itself stays as it was


def test_compiling_without_a_compiler_says_what_is_missing(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("No working C++ compiler found\nmore")

    monkeypatch.setattr("torch.compile", lambda *_, **__: broken)
    [model] = own_models([checkpoint])
    with pytest.raises(MissingLibraryError, match=r"\(No working C\+\+ compiler found\): install a C\+\+ compiler"):
        model.compiled()


def test_missing_library_says_how_to_install_it(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[interop]'")
    monkeypatch.setitem(__import__("sys").modules, "sentence_transformers", None)
    with (
        pytest.raises(MissingLibraryError, match=r"sentence_transformers is not installed: pip install '\.\[peers\]'"),
        open_peers(["sentence-transformers"], checkpoint, None),
    ):
        pass


def test_missing_weights_are_named(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with (
        pytest.raises(MissingInputError, match="nowhere does not exist"),
        open_peers(["openvino"], checkpoint, tmp_path / "nowhere"),
    ):
        pass


def test_model_that_peers_have_no_code_for_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    encoder = checkpoint.encoder
    encoder.config = replace(encoder.config, norm="pre")
    with pytest.raises(InvalidInputError, match="pre-norm, gelu and mean pooling, which the peers have no code for"):
        write_weights(checkpoint, tmp_path)


def test_limit_is_that_of_sentence_transformers_or_else_the_positions(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="does not say how many tokens"):
        read_limit(tmp_path)
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 512}')
    assert read_limit(tmp_path) == 512
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 256}')
    assert read_limit(tmp_path) == 256

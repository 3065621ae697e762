"""The curve of an encoder: computed once, from the dev half, and measured on the other half."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from ctxembed.calibration import Calibration
from ctxembed.errors import InvalidInputError
from ctxembed.evaluation.calibrating import calibrate, measure_reliability, one_sense_cosine
from ctxembed.runtime import data_directory
from ctxembed.types import Usage, Vectors

WORDS = data_directory() / "benchmarks" / "word_in_context"
SENSES = {
    (use["text"], use["start"]): use["sense"]
    for use in map(json.loads, (WORDS / "uses.jsonl").read_text(encoding="utf-8").splitlines())
}


class Use(NamedTuple):
    usage: Usage
    sense: str


DEV_WORDS = {json.loads(line)["word"] for line in (WORDS / "dev.jsonl").read_text(encoding="utf-8").splitlines()}
DEV_USES = [
    Use(Usage(use["text"], use["start"], use["end"]), use["sense"])
    for use in map(json.loads, (WORDS / "uses.jsonl").read_text(encoding="utf-8").splitlines())
    if use["word"] in DEV_WORDS
]


class SenseEncoder:
    """Knows the sense of each use of the benchmark, and blurs it."""

    dimension = 32

    def __init__(self, noise: float, *, name: str = "sense") -> None:
        self.noise, self.name, self.fingerprint, self.texts = noise, name, f"{name} {noise}", list[str]()

    def encode_usages(self, usages: Sequence[Usage], *, layer: int | None = None) -> Vectors:
        self.texts += [usage.text for usage in usages]
        rows = []
        for number, usage in enumerate(usages):
            sense = sorted(set(SENSES.values())).index(SENSES[usage.text, usage.start])
            pure = np.random.default_rng(sense).standard_normal(self.dimension)
            rows.append(pure + self.noise * np.random.default_rng((1, number)).standard_normal(self.dimension))
        vectors = np.array(rows, dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class ConstantEncoder(SenseEncoder):
    def encode_usages(self, usages: Sequence[Usage], *, layer: int | None = None) -> Vectors:
        return np.tile(np.array([0.6, 0.8], dtype=np.float32), (len(usages), 1))


def texts_of(path: Path) -> set[str]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {row[f"sentence{number}"] for row in rows for number in (1, 2)}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CTXEMBED_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "calibration"


def test_curve_is_fitted_on_the_dev_half_alone() -> None:
    encoder = SenseEncoder(1.0)
    calibrate(encoder)
    dev, test = (texts_of(WORDS / f"{half}.jsonl") for half in ("dev", "test"))
    assert set(encoder.texts) == dev
    assert not set(encoder.texts) & test


def test_curve_is_computed_once_for_a_model_and_layer(cache: Path) -> None:
    first, again = SenseEncoder(1.0), SenseEncoder(1.0)
    assert calibrate(first) == calibrate(again)
    assert (len(first.texts) > 400, again.texts) == (True, [])
    calibrate(again, layer=3)
    assert again.texts
    assert len(list(cache.iterdir())) == 2


def test_damaged_curve_is_computed_again(cache: Path) -> None:
    found = calibrate(SenseEncoder(1.0))
    (kept,) = cache.iterdir()
    kept.write_text('{"slope": 1')
    assert calibrate(SenseEncoder(1.0)) == found
    assert Calibration.from_record(json.loads(kept.read_text())) == found


def test_cache_that_cannot_be_written_is_done_without(cache: Path) -> None:
    cache.parent.touch()
    assert calibrate(SenseEncoder(1.0)).slope


def test_background_gives_the_percentiles() -> None:
    found = calibrate(SenseEncoder(1.0), background=np.eye(40, dtype=np.float32))
    assert found.percentile([-0.1, 0.1]).tolist() == [0, 100]


def test_encoder_that_knows_the_senses_is_right_and_its_probabilities_are_honest() -> None:
    measured = measure_reliability(SenseEncoder(1.0))
    assert measured.accuracy > 0.9
    assert measured.brier < 0.1
    assert measured.expected_calibration_error < 0.06
    assert (measured.pairs, measured.coverage) == (864, 1.0)
    assert sum(each.pairs for each in measured.bins) == 864


def test_encoder_that_cannot_tell_has_even_probabilities_and_is_right_by_half() -> None:
    measured = measure_reliability(ConstantEncoder(0.0, name="constant"))
    assert (measured.accuracy, measured.brier, measured.threshold) == (0.5, pytest.approx(0.25), None)
    assert measured.expected_calibration_error == pytest.approx(0)


def test_encoder_without_any_of_the_words_is_refused() -> None:
    class Empty(ConstantEncoder):
        def encode_usages(self, usages: Sequence[Usage], *, layer: int | None = None) -> Vectors:
            return np.zeros((len(usages), 2), dtype=np.float32)

    with pytest.raises(InvalidInputError, match="empty has no vectors for the words of the benchmark"):
        calibrate(Empty(0.0, name="empty"))


def test_mean_cosine_of_one_sense_lies_between_words_of_one_and_of_two(cache: Path) -> None:
    encoder = SenseEncoder(0.5)
    cosine = one_sense_cosine(encoder)
    assert cosine is not None
    senses = sorted({use.sense for use in DEV_USES if use.usage.word.lower() == "bark"})
    one, other = ([use for use in DEV_USES if use.sense == sense] for sense in senses)
    for uses, alike in ((one, True), (other, True), (one + other, False)):
        vectors = encoder.encode_usages([use.usage for use in uses])
        similarities = vectors @ vectors.T
        assert (similarities[np.triu_indices(len(vectors), 1)].mean() > cosine) == alike
    assert set(encoder.texts) <= {use.usage.text for use in DEV_USES}
    again = SenseEncoder(0.5)
    assert (one_sense_cosine(again), again.texts) == (cosine, [])
    (kept,) = cache.iterdir()
    kept.write_text('{"cosine": "high"}')
    assert one_sense_cosine(again) == cosine


def test_encoder_that_knows_no_sense_has_no_mean_cosine_of_one() -> None:
    assert one_sense_cosine(ConstantEncoder(0.0)) is None

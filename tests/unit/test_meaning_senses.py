from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from markupsafe import Markup
from sklearn.metrics import adjusted_rand_score

from ctxembed.errors import ArtifactError, InvalidInputError
from ctxembed.meaning.occurrences import Occurrence
from ctxembed.meaning.sense_folder import SenseFolder
from ctxembed.meaning.senses import WordSenses, find_senses, read_inventory, with_glosses
from ctxembed.overview.projection import project
from ctxembed.report.meaning import senses_page
from ctxembed.report.meaning_figures import sense_figure
from ctxembed.runtime import sha256_file
from ctxembed.types import Usage


class Encoder:
    name, dimension, fingerprint = "fake", 16, "f" * 64

    def encode_usages(self, usages, *, layer=None):
        raise NotImplementedError


def uses(per_sense: list[int], *, seed: int = 0, word: str = "bank") -> tuple[list[Occurrence], np.ndarray]:
    """Uses of a word, sense by sense: sense n lies along axis n and speaks of topic n."""
    rng, occurrences, rows = np.random.default_rng(seed), [], []
    for sense, number in enumerate(per_sense):
        for n in range(number):
            text = f"The {word} has topic{sense} in line {n}."
            occurrences.append(Occurrence(f"{sense}-{n}", Usage(text, 4, 4 + len(word)), word))
            vector = rng.normal(0, 0.05, 16) + np.eye(16)[15] + np.eye(16)[sense]
            rows.append(vector / np.linalg.norm(vector))
    return occurrences, np.array(rows, dtype=np.float32)


@pytest.fixture(scope="module")
def result() -> WordSenses:
    return find_senses("bank", *uses([30, 12]))


def test_senses_have_shares_words_and_typical_uses(result) -> None:
    first, second = result.senses
    assert (first.id, first.uses, second.id, second.uses) == ("bank#1", 30, "bank#2", 12)
    assert first.share == pytest.approx(30 / 42)
    assert first.words[0] == "topic0"
    assert second.words[0] == "topic1"
    assert all("topic1" in each.usage.text for each in second.typical)
    assert len(first.typical) == 3
    assert result.ids() == ["bank#1"] * 30 + ["bank#2"] * 12
    assert result.silhouette
    assert result.silhouette > 0.8
    assert result.stability == pytest.approx(1.0)
    assert result.unclear == 0


def test_sentences_help_to_tell_senses_that_the_words_alone_do_not() -> None:
    rng = np.random.default_rng(3)
    occurrences, vectors = uses([40, 40])
    blurred = vectors + rng.normal(0, 0.5, vectors.shape).astype(np.float32)
    contexts = np.repeat(np.eye(4, dtype=np.float32)[:2], 40, axis=0) + rng.normal(0, 0.1, (80, 4)).astype(np.float32)
    gold = np.repeat([0, 1], 40)
    found = [
        adjusted_rand_score(
            gold, find_senses("bank", occurrences, blurred, contexts=c, k=2, with_stability=False).clusters.labels
        )
        for c in (None, contexts)
    ]
    assert found[1] > 0.9 > found[0]
    whole = find_senses("bank", *uses([60]), contexts=contexts[20:], with_stability=False)
    assert len(whole.senses) == 1  # the number comes from the words


def test_names_last_when_senses_are_found_again(tmp_path: Path, result) -> None:
    folder = SenseFolder.begin(tmp_path / "s", encoder=Encoder(), layer=None)
    folder.add(result)
    folder.save(tmp_path / "s")
    again = SenseFolder.begin(tmp_path / "s", encoder=Encoder(), layer=None)
    later = again.add(find_senses("bank", *uses([8, 30, 20], seed=4), with_stability=False))
    assert [sense.id for sense in later.senses] == ["bank#2", "bank#3", "bank#1"]
    assert later.senses[1].words[0] == "topic2"
    again.save(tmp_path / "s")
    names, centres = SenseFolder.open(tmp_path / "s", layer=None).centres_of("bank") or ((), None)
    assert names == ("bank#2", "bank#3", "bank#1")
    assert centres is not None
    assert centres.argmax(axis=1).tolist() != [0, 0, 0]


def test_number_of_a_lost_sense_is_not_given_again(result) -> None:
    folder = SenseFolder("f", "fake", None)
    folder.add(result)
    folder.add(find_senses("bank", *uses([30]), with_stability=False))
    third = folder.add(find_senses("bank", *uses([30, 0, 0, 12]), with_stability=False))
    assert [sense.id for sense in third.senses] == ["bank#1", "bank#3"]


def test_centre_of_a_sense_is_of_unit_length_and_among_its_uses(result) -> None:
    folder = SenseFolder("f", "fake", None)
    folder.add(result)
    folder.add(find_senses("plane", *uses([10], word="plane"), with_stability=False))
    centre = folder.centre("bank#2")
    assert np.linalg.norm(centre) == pytest.approx(1, abs=1e-6)
    assert (result.vectors @ centre).argmax() >= 30
    with pytest.raises(InvalidInputError, match="no sense 'bank#9' is kept, there is bank#1, bank#2"):
        folder.centre("bank#9")


def test_damaged_or_foreign_folder_is_refused(tmp_path: Path, result) -> None:
    folder = SenseFolder.begin(tmp_path / "s", encoder=Encoder(), layer=None)
    folder.add(result)
    folder.save(tmp_path / "s")
    other = Encoder()
    other.fingerprint = "0" * 64
    with pytest.raises(ArtifactError, match="was made with fake"):
        SenseFolder.open(tmp_path / "s", layer=None, encoder=other)
    with pytest.raises(ArtifactError, match="was made with layer None, not 3"):
        SenseFolder.begin(tmp_path / "s", encoder=Encoder(), layer=3)
    data = bytearray((tmp_path / "s/centres.1.npy").read_bytes())
    data[-1] ^= 1
    (tmp_path / "s/centres.1.npy").write_bytes(bytes(data))
    with pytest.raises(ArtifactError, match="sha256 differs"):
        SenseFolder.open(tmp_path / "s", layer=None)
    record = json.loads((tmp_path / "s/manifest.json").read_text())
    record["format"] = "other"
    (tmp_path / "s/manifest.json").write_text(json.dumps(record))
    with pytest.raises(ArtifactError, match="has format 'other'"):
        SenseFolder.open(tmp_path / "s", layer=None)


def test_layer_of_a_folder_is_checked_unless_any_will_do(tmp_path: Path, result) -> None:
    folder = SenseFolder.begin(tmp_path / "s", encoder=Encoder(), layer=[1, 2])
    folder.add(result)
    folder.save(tmp_path / "s")
    assert SenseFolder.open(tmp_path / "s", layer=[1, 2]).layer == [1, 2]
    assert SenseFolder.open(tmp_path / "s", layer=...).layer == [1, 2]
    with pytest.raises(ArtifactError, match=r"was made with layer \[1, 2\], not None"):
        SenseFolder.open(tmp_path / "s", layer=None)


def test_folder_of_something_else_is_not_overwritten(tmp_path: Path, result) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    folder = SenseFolder("f", "fake", None)
    folder.add(result)
    with pytest.raises(InvalidInputError, match=r"holds 'notes\.txt' and is no folder of senses"):
        folder.save(tmp_path)
    with pytest.raises(InvalidInputError, match=r"holds 'notes\.txt' and is no folder of senses"):
        SenseFolder.begin(tmp_path, encoder=Encoder(), layer=None)


# Changes and those beside them


def plane() -> WordSenses:
    return find_senses("plane", *uses([10], word="plane"), with_stability=False)


def keep(path: Path, result: WordSenses) -> None:
    with SenseFolder.changing(path, encoder=Encoder(), layer=None) as folder:
        folder.add(result)


def kept_words(path: Path) -> list[str]:
    folder = SenseFolder.open(path, layer=None)
    return [word for word in folder.words if np.linalg.norm(folder.centre(f"{word}#1")) > 0]


def test_change_that_is_killed_leaves_the_senses_of_before(tmp_path: Path, result, monkeypatch) -> None:
    keep(tmp_path / "s", result)

    def killed(path: Path, value: object) -> None:
        (path.parent / f".{path.name}.99.tmp").write_text("{", encoding="utf-8")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("ctxembed.meaning.sense_folder.write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            keep(tmp_path / "s", plane())
    assert len(list((tmp_path / "s").iterdir())) == 4
    assert kept_words(tmp_path / "s") == ["bank"]
    keep(tmp_path / "s", plane())
    assert kept_words(tmp_path / "s") == ["bank", "plane"]
    assert sorted(entry.name for entry in (tmp_path / "s").iterdir()) == ["centres.2.npy", "manifest.json"]


def test_folder_from_before_generations_is_read_and_becomes_one_with_them(tmp_path: Path, result) -> None:
    keep(tmp_path / "s", result)
    record = json.loads((tmp_path / "s/manifest.json").read_text())
    del record["generation"]
    (tmp_path / "s/manifest.json").write_text(json.dumps(record))
    (tmp_path / "s/centres.1.npy").rename(tmp_path / "s/centres.npy")
    assert kept_words(tmp_path / "s") == ["bank"]
    keep(tmp_path / "s", plane())
    assert kept_words(tmp_path / "s") == ["bank", "plane"]
    assert sorted(entry.name for entry in (tmp_path / "s").iterdir()) == ["centres.1.npy", "manifest.json"]


def test_second_writer_waits_and_neither_loses_its_words(tmp_path: Path, result) -> None:
    with ThreadPoolExecutor(1) as pool:
        with SenseFolder.changing(tmp_path / "s", encoder=Encoder(), layer=None) as folder:
            second = pool.submit(keep, tmp_path / "s", plane())
            with pytest.raises(TimeoutError):
                second.result(timeout=0.2)
            folder.add(result)
        second.result(timeout=30)
    assert kept_words(tmp_path / "s") == ["bank", "plane"]


def test_folder_that_is_replaced_while_it_is_opened_is_the_new_one(tmp_path: Path, result, monkeypatch) -> None:
    keep(tmp_path / "s", result)

    def replaced(path: Path) -> str:
        monkeypatch.undo()
        keep(tmp_path / "s", plane())
        return sha256_file(path)

    monkeypatch.setattr("ctxembed.meaning.sense_folder.sha256_file", replaced)
    assert kept_words(tmp_path / "s") == ["bank", "plane"]


def test_error_inside_a_change_saves_nothing(tmp_path: Path, result) -> None:
    keep(tmp_path / "s", result)
    wrong = replace(result, clusters=replace(result.clusters, centres=np.eye(8, dtype=np.float32)[:2]))
    with pytest.raises(ValueError):
        keep(tmp_path / "s", wrong)
    assert kept_words(tmp_path / "s") == ["bank"]


# Glosses


def test_senses_get_the_nearest_gloss(result) -> None:
    glosses = np.stack([np.eye(16)[15] + np.eye(16)[1], np.eye(16)[15] + np.eye(16)[0]]).astype(np.float32)
    labelled = with_glosses(result, ["second", "first"], glosses)
    assert [sense.gloss for sense in labelled.senses] == ["first", "second"]
    assert all(sense.gloss_score for sense in labelled.senses)
    assert with_glosses(result, [], glosses[:0]) is result


def test_one_sense_gets_the_gloss_that_is_nearest_not_the_first() -> None:
    axes = np.eye(16, dtype=np.float32)
    for occurrences, vectors in (uses([30]), uses([30, 12])):
        whole = find_senses("bank", occurrences, vectors, k=1, with_stability=False)
        glosses = np.stack([axes[15] + axes[1], axes[15] + axes[0]])
        (sense,) = with_glosses(whole, ["second", "first"], glosses).senses
        assert sense.gloss == "first"
        assert sense.gloss_score
        assert sense.gloss_score > 0.05


def test_the_only_gloss_has_nothing_to_be_nearer_than(result) -> None:
    labelled = with_glosses(result, ["only"], np.eye(16, dtype=np.float32)[:1])
    assert [(sense.gloss, sense.gloss_score) for sense in labelled.senses] == [("only", None)] * 2


def test_inventory_is_read_by_lemma() -> None:
    rows = [
        {"lemma": "Bank", "gloss": "a slope", "examples": ["the bank of the river"]},
        {"lemma": "tank", "gloss": "x"},
    ]
    assert read_inventory(rows, "bank") == [("a slope", ["the bank of the river"])]


def test_page_shows_every_sense_and_asks_nothing_of_a_network(result) -> None:
    page = senses_page([replace(result, senses=result.senses)])
    assert "Concordance of bank#2" in page
    assert page.count("<svg") == 3  # shares, map and tree
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")


def test_map_shows_principal_components(result, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr("ctxembed.report.charts.scatter", lambda points, **_: drawn.append(points) or Markup(""))
    senses_page([result])
    np.testing.assert_array_equal(drawn[0], project(result.vectors).points)


@pytest.mark.parametrize(
    ("settings", "said", "unsaid"),
    [
        ({}, "no gap parts the uses of a word, and they are less alike", "was given"),
        ({"method": "agglomerative"}, "was decided by agglomerative clustering.", "k-means"),
        ({"k": 2}, "The number of senses (2) was given.", "A group of uses is split"),
        ({"method": "hdbscan"}, "HDBSCAN decided how many senses there are", "A group of uses is split"),
    ],
)
def test_page_says_how_the_senses_were_found(result, settings, said: str, unsaid: str) -> None:
    page = senses_page([result], **settings)
    assert said in page
    assert unsaid not in page


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_figure_is_the_same_file_twice(tmp_path: Path, result, kind: str) -> None:
    for name in "ab":
        sense_figure([result], tmp_path / f"{name}.{kind}")
    first, second = ((tmp_path / f"{name}.{kind}").read_bytes() for name in "ab")
    assert len(first) > 1000
    assert first == second
    with pytest.raises(InvalidInputError, match="ends in '.doc', need one of .png"):
        sense_figure([result], tmp_path / "a.doc")

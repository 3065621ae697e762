from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import ctxembed.static
from ctxembed.errors import ArtifactError, InvalidInputError, MissingInputError
from ctxembed.runtime import sha256_file
from ctxembed.static import Coverage, StaticVectors
from ctxembed.text import find_usage
from ctxembed.types import TextEncoder, Usage, UsageEncoder

WORDS = ("ice", "cream", "café", "don't", "bank")
VECTORS = np.array([[3, 0, 0], [0, 4, 0], [0, 0, 2], [-1, -1, 0], [0.5, 0.5, 0]], np.float32)
COUNTS = np.array([9, 7, 7, 2, 1])


@pytest.fixture
def small() -> StaticVectors:
    return StaticVectors(WORDS, VECTORS, COUNTS, name="small")


@pytest.fixture
def folder(small: StaticVectors, tmp_path: Path) -> Path:
    small.save(tmp_path / "vectors", dtype="float32")
    return tmp_path / "vectors"


# Encoding


def test_static_vectors_offer_both_protocols(small: StaticVectors) -> None:
    assert isinstance(small, TextEncoder)
    assert isinstance(small, UsageEncoder)
    assert (small.name, small.dimension, len(small)) == ("small", 3, 5)


def test_encode_is_the_unit_mean_of_the_known_words(small: StaticVectors) -> None:
    mean = (2 * VECTORS[0] + VECTORS[1] + VECTORS[2]) / 4
    encoded = small.encode(["Ice, ice cream in the CAFÉ!"])
    assert encoded.dtype == np.float32
    np.testing.assert_allclose(encoded, [mean / np.linalg.norm(mean)], rtol=1e-6)


def test_encode_keeps_the_order_and_gives_zero_rows_for_texts_without_a_known_word(small: StaticVectors) -> None:
    encoded = small.encode(["bank", "", "nothing here", "?!", "ice"])
    np.testing.assert_allclose(encoded[[0, 4]], [[0.5**0.5, 0.5**0.5, 0], [1, 0, 0]], rtol=1e-6)
    assert not encoded[1:4].any()


def test_encode_of_opposite_words_is_a_zero_row() -> None:
    vectors = StaticVectors(["up", "down"], np.array([[1, 2], [-1, -2]], np.float32), np.array([1, 1]))
    assert not vectors.encode(["up down"]).any()


def test_encode_without_texts_has_no_rows(small: StaticVectors) -> None:
    assert small.encode([]).shape == (0, 3)


def test_encode_refuses_a_single_string(small: StaticVectors) -> None:
    with pytest.raises(InvalidInputError, match=r"texts is the string 'ice cream'.*pass a list"):
        small.encode("ice cream")


def test_prompt_counts_as_words_before_every_known_text(small: StaticVectors) -> None:
    encoded = small.encode(["cream", "unheard"], prompt="ice: ")
    np.testing.assert_array_equal(encoded[0], small.encode(["ice cream"])[0])
    assert not encoded[1].any()


@given(st.lists(st.sampled_from([*WORDS, "unheard"]), max_size=12), st.randoms())
def test_encode_is_a_unit_or_zero_row_and_knows_no_order(words: list[str], random: Any) -> None:
    vectors = StaticVectors(WORDS, np.abs(VECTORS), COUNTS)  # without signs no two cancel
    shuffled = random.sample(words, len(words))
    together = vectors.encode([" ".join(words), " ".join(shuffled)])
    alone = vectors.encode([" ".join(words)])
    assert together.tolist() == [*alone.tolist(), *alone.tolist()]
    assert np.linalg.norm(alone[0]) == pytest.approx(1 if any(word in vectors for word in words) else 0, abs=1e-6)


def test_usage_has_the_vector_of_its_word_in_every_context(small: StaticVectors) -> None:
    usages = [find_usage("The Bank lent money", "bank"), find_usage("on the bank of a river", "bank")]
    encoded = small.encode_usages(usages, layer=0)
    np.testing.assert_allclose(encoded, [[0.5**0.5, 0.5**0.5, 0]] * 2, rtol=1e-6)


@pytest.mark.parametrize("word, expected", [("Ice Cream", [0.6, 0.8, 0]), ("ice floe", [1, 0, 0]), ("floe", [0, 0, 0])])
def test_usage_of_several_words_is_the_mean_of_the_known(
    small: StaticVectors, word: str, expected: list[float]
) -> None:
    usage = Usage(f"an {word} here", 3, 3 + len(word))
    np.testing.assert_allclose(small.encode_usages([usage]), [expected], rtol=1e-6)


def test_usage_of_a_word_with_a_space_that_has_its_own_vector_is_that_vector() -> None:
    vectors = StaticVectors(["ice", "ice cream"], np.array([[1, 0], [0, 1]], np.float32), np.array([2, 1]))
    assert vectors.encode_usages([Usage("Ice cream", 0, 9)]).tolist() == [[0, 1]]


def test_no_usages_give_no_rows(small: StaticVectors) -> None:
    assert small.encode_usages([]).shape == (0, 3)


@pytest.mark.parametrize("layer", [-1, 1, 6])
def test_usage_of_another_layer_is_refused(small: StaticVectors, layer: int) -> None:
    with pytest.raises(InvalidInputError, match=f"layer = {layer}: static vectors have no layers"):
        small.encode_usages([Usage("ice", 0, 3)], layer=layer)


@pytest.mark.parametrize("start, end", [(-3, 3), (2, 2), (3, 1), (0, 4)])
def test_usage_outside_its_text_is_refused(small: StaticVectors, start: int, end: int) -> None:
    with pytest.raises(InvalidInputError, match=f"usage 1 marks characters {start} to {end} of a text of 3"):
        small.encode_usages([Usage("ice", 0, 3), Usage("ice", start, end)])


# Looking up


def test_vector_is_as_trained_and_found_by_any_writing_of_the_word(small: StaticVectors) -> None:
    assert small.vector("Cafe\u0301").tolist() == [0, 0, 2]
    assert small.vector("DON’T").tolist() == [-1, -1, 0]
    assert small.vector("ice").dtype == np.float32


def test_vector_that_is_changed_leaves_the_others(small: StaticVectors) -> None:
    small.vector("ice")[:] = 0
    assert small.vector("ice").tolist() == [3, 0, 0]
    with pytest.raises(ValueError, match="read-only"):
        small.vectors[0] = 0


@pytest.mark.parametrize(
    "word, advice",
    [("bnak", "5 that have a vector: did you mean 'bank'"), ("zzzzzz", "train on more text, or lower min_count")],
)
def test_unknown_word_is_refused_with_the_nearest_spellings(small: StaticVectors, word: str, advice: str) -> None:
    with pytest.raises(InvalidInputError, match=f"the word '{word}' is none of the .*{advice}"):
        small.vector(word)


def test_in_compares_lookup_forms(small: StaticVectors) -> None:
    assert "CAFÉ" in small
    assert "coffee" not in small
    assert 3 not in small


def test_coverage_counts_every_occurrence(small: StaticVectors) -> None:
    assert small.coverage(["ice", "Ice", "floe"]) == Coverage(known=2, unknown=1)
    assert small.coverage([]) == Coverage(known=0, unknown=0)


def test_nearest_gives_all_others_where_k_is_larger(small: StaticVectors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctxembed.static, "_BLOCK_ROWS", 2)  # the last block is not full
    found = small.nearest("bank", k=99)
    assert [word for word, _ in found] == ["ice", "cream", "café", "don't"]
    np.testing.assert_allclose([score for _, score in found], [0.5**0.5, 0.5**0.5, 0, -1], atol=1e-12)


def test_nearest_puts_the_more_frequent_first_among_equals() -> None:
    words = [f"w{number}" for number in range(200)]
    vectors = StaticVectors(words, np.ones((200, 2), np.float32), np.arange(200, 0, -1))
    assert [word for word, _ in vectors.nearest("w7", k=199)] == words[:7] + words[8:]


def test_nearest_refuses_k_below_one(small: StaticVectors) -> None:
    with pytest.raises(InvalidInputError, match="k = 0: must be at least 1"):
        small.nearest("ice", k=0)


# Construction


@pytest.mark.parametrize(
    "words, vectors, counts, message",
    [
        (["a", "b"], np.ones((3, 2), np.float32), [1, 1], r"2 words, vectors of shape \(3, 2\)"),
        (["a", "b"], np.ones((2, 2), np.float32), [1], r"counts of shape \(1,\)"),
        (["a"], np.ones(1, np.float32), [1], r"need one vector \(V, D\)"),
        ([], np.ones((0, 2), np.float32), [], "at least one word"),
        (["a"], np.ones((1, 0), np.float32), [1], r"shape \(1, 0\)"),
        (["a"], np.ones((1, 2)), [1], "the vectors are float64, need float32 or float16"),
        (["a"], np.array([[1, np.nan]], np.float32), [1], "NaN or infinity"),
        (["a"], np.array([[1, -np.inf]], np.float16), [1], "NaN or infinity"),
        (["a", "a"], np.ones((2, 2), np.float32), [1, 1], "the word 'a' stands 2 times"),
        (["a", ""], np.ones((2, 2), np.float32), [1, 1], "1 words are empty or hold a line break"),
        (["a\nb"], np.ones((1, 2), np.float32), [1], r"hold a line break, as \['a\\nb'\]"),
        (["a", "b"], np.ones((2, 2), np.float32), [1, 2], "most frequent first"),
        (["a"], np.ones((1, 2), np.float32), [1.5], "the counts are no integers"),
    ],
)
def test_parts_that_do_not_fit_are_refused(words: list[str], vectors: NDArray[Any], counts: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        StaticVectors(words, vectors, np.array(counts))


# Formats on disk


def test_equal_vectors_give_equal_files(small: StaticVectors, tmp_path: Path) -> None:
    for place in ("one", "two"):
        small.save(tmp_path / place / "v")
    files = sorted(path.name for path in (tmp_path / "one" / "v").iterdir())
    assert files == ["counts.npy", "manifest.json", "vectors.npy", "words.txt"]
    for file in files:
        assert (tmp_path / "one" / "v" / file).read_bytes() == (tmp_path / "two" / "v" / file).read_bytes()


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n"), min_size=1), min_size=1, unique=True))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_words_of_any_characters_come_back(tmp_path: Path, words: list[str]) -> None:
    StaticVectors(words, np.ones((len(words), 1), np.float32), np.ones(len(words), np.int64)).save(tmp_path / "v")
    assert StaticVectors.load(tmp_path / "v").words == tuple(words)


def test_name_is_the_folder_or_the_one_given(folder: Path) -> None:
    assert StaticVectors.load(folder).name == "vectors"
    assert StaticVectors.load(folder, name="w2v").name == "w2v"


def test_fingerprint_changes_with_a_word_and_with_a_value(small: StaticVectors) -> None:
    other_word = StaticVectors([*WORDS[:4], "shore"], VECTORS, COUNTS)
    other_value = StaticVectors(WORDS, VECTORS + np.float32(1e-6), COUNTS)
    prints = {vectors.fingerprint for vectors in (small, other_word, other_value)}
    assert len(prints) == 3
    assert StaticVectors(WORDS, VECTORS.copy(), COUNTS, name="other").fingerprint in prints


def test_save_replaces_the_folder_it_was_loaded_from(folder: Path) -> None:
    loaded = StaticVectors.load(folder)
    loaded.save(folder, dtype="float16")
    assert StaticVectors.load(folder).vectors.tolist() == loaded.vectors.tolist() == VECTORS.tolist()


def test_save_refuses_a_folder_that_holds_anything_else(small: StaticVectors, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InvalidInputError, match=r"holds thesis.tex and is no folder of static vectors"):
        small.save(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_save_refuses_the_place_of_a_file(small: StaticVectors, tmp_path: Path) -> None:
    (tmp_path / "v").write_text("")
    with pytest.raises(InvalidInputError, match="is a file, need a folder"):
        small.save(tmp_path / "v")


def test_save_refuses_a_value_beyond_float16(tmp_path: Path) -> None:
    large = StaticVectors(["a"], np.array([[-70_000, 1]], np.float32), np.array([1]))
    with pytest.raises(InvalidInputError, match="the value 70000, float16 ends at 65504: save as float32"):
        large.save(tmp_path / "v")
    large.save(tmp_path / "v", dtype="float32")
    assert StaticVectors.load(tmp_path / "v").vector("a").tolist() == [-70_000, 1]


def test_save_refuses_an_unknown_type(small: StaticVectors, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="dtype = 'int8': must be one of float16, float32"):
        small.save(tmp_path / "v", dtype="int8")  # type: ignore[arg-type]


def test_load_without_a_folder_or_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="nowhere does not exist"):
        StaticVectors.load(tmp_path / "nowhere")
    with pytest.raises(MissingInputError, match=r"manifest\.json does not exist"):
        StaticVectors.load(tmp_path)


@pytest.mark.parametrize("part", ["vectors.npy", "words.txt", "counts.npy"])
def test_damaged_part_is_refused_by_name(folder: Path, part: str) -> None:
    data = bytearray((folder / part).read_bytes())
    data[-2] ^= 1
    (folder / part).write_bytes(data)
    with pytest.raises(ArtifactError, match=rf"{part} is damaged \(its sha256 differs\)"):
        StaticVectors.load(folder)


@pytest.mark.parametrize("part", ["vectors.npy", "words.txt", "counts.npy"])
def test_missing_part_is_refused_by_name(folder: Path, part: str) -> None:
    (folder / part).unlink()
    with pytest.raises(ArtifactError, match=f"{part} is missing"):
        StaticVectors.load(folder)


def rewrite(folder: Path, **changes: Any) -> None:
    """Change the manifest, with hashes that fit the parts as they now are; None takes an entry out."""
    record = json.loads((folder / "manifest.json").read_text())
    record["sha256"] = {part: sha256_file(folder / part) for part in record["sha256"]}
    record |= changes
    (folder / "manifest.json").write_text(json.dumps({k: v for k, v in record.items() if v is not None}))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"format": "ctxembed-vectors"}, "has format 'ctxembed-vectors', need 'ctxembed-static'"),
        ({"version": 2}, "has version 2, this ctxembed reads 1"),
        ({"words": 4}, r"vectors.npy is float32 \(5, 3\), the manifest says float32 \(4, 3\)"),
        ({"dimension": 2}, "vectors.npy is float32"),
        ({"dtype": "float16"}, "the manifest says float16"),
        ({"dimension": None}, r"does not fit its manifest.json \(KeyError\('dimension'\)"),
        ({"sha256": "none"}, "does not fit its manifest.json"),
        ({"sha256": {}}, "does not fit its manifest.json"),
        ({"training": 3}, "does not fit its manifest.json"),
    ],
)
def test_manifest_that_does_not_fit_is_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    rewrite(folder, **changes)
    with pytest.raises(ArtifactError, match=message):
        StaticVectors.load(folder)


def test_manifest_that_is_no_json_is_refused(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"manifest\.json is damaged"):
        StaticVectors.load(folder)


@pytest.mark.parametrize(
    "part, data, message",
    [
        ("words.txt", b"one\ntwo\n", r"2 words, vectors of shape \(5, 3\)"),
        ("words.txt", b"a\na\nb\nc\nd\n", "the word 'a' stands 2 times"),
        ("words.txt", b"\xff\n", "UnicodeDecodeError"),
        ("vectors.npy", b"no array", r"vectors\.npy is damaged"),
        ("vectors.npy", b"", r"vectors\.npy is damaged"),
    ],
)
def test_part_with_a_fitting_hash_but_unusable_content_is_refused(
    folder: Path, part: str, data: bytes, message: str
) -> None:
    (folder / part).write_bytes(data)
    rewrite(folder)
    with pytest.raises(ArtifactError, match=message):
        StaticVectors.load(folder)


def test_pickled_array_is_refused(folder: Path) -> None:
    np.save(folder / "counts.npy", np.array([{}], object), allow_pickle=True)
    rewrite(folder)
    with pytest.raises(ArtifactError, match=r"counts\.npy is damaged"):
        StaticVectors.load(folder)


def test_loaded_vectors_stay_on_disk(folder: Path) -> None:
    base = StaticVectors.load(folder).vectors
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        assert base.base is not None
        base = base.base
    assert isinstance(base, np.memmap)


def test_copied_folder_loads_under_its_new_name(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    copy = StaticVectors.load(tmp_path / "copy")
    assert copy.name == "copy"
    assert copy.fingerprint == StaticVectors.load(folder).fingerprint

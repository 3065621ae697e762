from __future__ import annotations

import dataclasses

import pytest

from ctxembed.types import Document, Encoder, Hit, Span, TextEncoder, Usage, UsageEncoder


class Named:
    name = "named"
    dimension = 3
    fingerprint = "0"


class Texts(Named):
    def encode(self, texts: object, *, prompt: str | None = None) -> None: ...


class Usages(Named):
    def encode_usages(self, usages: object, *, layer: int | None = None) -> None: ...


class Both(Texts, Usages):
    pass


def test_usage_knows_its_word() -> None:
    assert Usage("the bank of the river", 4, 8).word == "bank"
    assert Usage("čaj 😀 茶", 6, 7).word == "茶"


def test_metadata_is_empty_and_not_shared_by_default() -> None:
    assert Document("1", "x").metadata == Hit("1", 0.5, "x").metadata == {}
    assert Document("1", "x").metadata is not Document("1", "x").metadata


@pytest.mark.parametrize("record", [Document("1", "x"), Span(0, 1, "x"), Usage("x", 0, 1), Hit("1", 0.5, "x")])
def test_records_cannot_be_changed_and_equal_by_value(record: object) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.text = "y"  # type: ignore[attr-defined]
    assert record == dataclasses.replace(record)  # type: ignore[type-var]


@pytest.mark.parametrize(
    "kind, kept",
    [(Named, set()), (Texts, {TextEncoder}), (Usages, {UsageEncoder}), (Both, {TextEncoder, UsageEncoder, Encoder})],
)
def test_protocols_recognise_what_offers_their_methods(kind: type, kept: set[type]) -> None:
    assert {protocol for protocol in (TextEncoder, UsageEncoder, Encoder) if isinstance(kind(), protocol)} == kept

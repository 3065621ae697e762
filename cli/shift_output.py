"""What `ctxembed shift` prints of a word: its numbers, those that fit a terminal, and the evidence."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ctxembed.meaning.shift import WordShift


def shift_row(each: WordShift, *, is_timeline: bool) -> dict[str, Any]:
    """Return the numbers of a shift as they are printed; None where the word could not be tested."""
    test = each.test
    row: dict[str, Any] = {"word": each.word}
    if is_timeline:
        row |= {"old": each.old, "new": each.new}
    row |= {"uses_old": each.uses_old, "uses_new": each.uses_new}
    names = ("apd", "prt", "jsd", "p")
    row |= {name: rounded(getattr(test, name)) if test else None for name in names}
    row |= {"q": rounded(each.q)}
    rest = ("low", "high", "excess", "p_prt", "p_jsd", "noise", "noise_prt", "noise_jsd")
    row |= {name: rounded(getattr(test, name)) if test else None for name in rest}
    row |= {"q_prt": rounded(each.q_prt), "q_jsd": rounded(each.q_jsd), "control": rounded(each.control)}
    return row | {"found_old": each.found_old, "found_new": each.found_new}


def short_row(row: dict[str, Any], each: WordShift) -> dict[str, Any]:
    """Return the columns that fit a terminal, with what moved."""
    names = (
        "word",
        "old",
        "new",
        "uses_old",
        "uses_new",
        "apd",
        "excess",
        "prt",
        "jsd",
        "p",
        "q",
        "low",
        "high",
        "static",
    )
    short = {name: row[name] for name in names if name in row}
    moved = each.senses[0] if each.senses and each.is_clear else None
    grown = (
        ""
        if moved is None
        else f"{moved.id} {moved.share_old:.0%} to {moved.share_new:.0%}: {', '.join(moved.words[:3])}"
    )
    return short | {"what moved": grown}


def evidence(each: WordShift) -> dict[str, Any]:
    """Return what shows a shift: senses, uses, controls."""
    return {
        "senses": [
            {
                "id": sense.id,
                "words": list(sense.words),
                "uses_old": sense.uses_old,
                "uses_new": sense.uses_new,
                "share_old": rounded(sense.share_old),
                "share_new": rounded(sense.share_new),
            }
            for sense in each.senses
        ],
        "senses_stand_apart": each.is_clear,
        **{
            side: [
                {
                    "id": o.id,
                    "text": o.usage.text,
                    "start": o.usage.start,
                    "end": o.usage.end,
                    "metadata": dict(o.metadata),
                }
                for o in uses
            ]
            for side, uses in (("before", each.before), ("after", each.after))
        },
        "controls": [{"word": c.word, "excess": rounded(c.excess)} for c in each.controls],
    }


def rounded(value: float | None) -> float | None:
    """Return six decimals of a number that is one, and None for any other."""
    return None if value is None or math.isnan(value) else round(float(value), 6)

"""``ctxembed compare``: where the uses come from: a file, or a corpus."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from .test_compare import compared

if TYPE_CHECKING:
    from .conftest import Run


def test_uses_of_a_file_are_read_by_place_by_word_or_by_mark(run: Run, tmp_path: Path, model: Path) -> None:
    rows = [
        {"text": "a bank by a bank", "start": 12, "end": 16},
        {"text": "the cell divides", "word": "cell"},
        {"text": "the [bank] lent money"},
    ]
    (tmp_path / "uses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "uses.csv").write_text("text,word,start,end\na bank by a bank,,12,16\nthe cell divides,cell,,\n")
    (tmp_path / "uses.txt").write_text("a bank by a [bank]\nthe [cell] divides\n")
    wanted = [("bank", 12), ("cell", 4), ("bank", 4)]
    for name, number in (("uses.jsonl", 3), ("uses.csv", 2), ("uses.txt", 2)):
        record = compared(run, "--file", name, "-m", model, "--no-static", "--format", "json").json
        assert [(use["word"], use["start"]) for use in record["uses"]] == wanted[:number]


def test_row_of_a_file_that_names_no_word_is_refused_by_its_place(run: Run, tmp_path: Path, model: Path) -> None:
    (tmp_path / "uses.txt").write_text("the [bank]\nno mark\n")
    assert "error: uses:2: 0 words are marked" in compared(run, "--file", "uses.txt", "-m", model, code=1).stderr
    (tmp_path / "uses.jsonl").write_text('{"text": "a bank", "start": 2, "end": 9}\n')
    message = "row uses:1 has its word at 2 to 9 of a text of 6 characters: count characters from 0, the end exclusive"
    assert message in compared(run, "--file", "uses.jsonl", "-m", model, code=1).stderr


def test_uses_are_found_in_a_corpus_and_sampled_by_seed(run: Run, sample: Path, model: Path) -> None:
    def found(*options: str) -> tuple[list[str], str]:
        arguments = ["--corpus", sample, "--word", "Bank", *options, "-m", model, "--no-static", "--format", "json"]
        outcome = compared(run, *arguments)
        for use in outcome.json["uses"]:
            assert use["word"].casefold() == "bank"
        return [use["text"] for use in outcome.json["uses"]], outcome.stderr

    (few, said), (again, _), (other, _) = (found("--max-uses", "3", *more) for more in ([], [], ["--seed", "5"]))
    assert len(few) == 3
    assert few == again != other
    assert re.match(r"3 of the \d+ documents with 'Bank', drawn with seed 1\n", said)
    everything, _ = found("--max-uses", "500")
    assert set(few) | set(other) <= set(everything)


def test_word_that_the_corpus_has_not_is_refused(run: Run, sample: Path, model: Path) -> None:
    outcome = compared(run, "--corpus", sample, "--word", "quagga", "-m", model, "--no-static", code=1)
    assert "the word 'quagga' does not occur in the corpus" in outcome.stderr
    assert "nothing to compare: give uses" in run("compare", "-m", model, code=2).stderr

"""Writes the texts of vector folders (arguments), each once, as rows of jsonl: what one teacher has read, for another."""

import json
import sys
from pathlib import Path

import pyarrow.parquet

seen = set()
for folder in sys.argv[1:]:
    for part in sorted(Path(folder).glob("*.parquet")):
        for text in pyarrow.parquet.read_table(part, columns=["text"])["text"].to_pylist():
            if text not in seen:
                seen.add(text)
                print(json.dumps({"text": text}))

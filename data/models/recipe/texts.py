"""Writes the texts of vector folders (arguments), each once, as rows of jsonl: what one teacher read, for another."""

import json
import sys
from pathlib import Path

import pyarrow.parquet

parts = [part for folder in sys.argv[1:] for part in sorted(Path(folder).glob("*.parquet"))]
texts = (text for part in parts for text in pyarrow.parquet.read_table(part, columns=["text"])["text"].to_pylist())
sys.stdout.writelines(json.dumps({"text": text}) + "\n" for text in dict.fromkeys(texts))

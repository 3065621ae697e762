"""Writes the mean of the weights of two models of one shape, with the second's notes: average.py FIRST SECOND OUT."""

import json
import sys
from dataclasses import replace
from pathlib import Path

from ctxembed.model.checkpoint import checkpoint_modules, load_checkpoint, save_checkpoint

first, second = map(load_checkpoint, sys.argv[1:3])
mine, theirs = (checkpoint_modules(each).state_dict() for each in (first, second))
checkpoint_modules(first).load_state_dict({name: (mine[name] + theirs[name]) / 2 for name in mine})
notes = json.loads((Path(sys.argv[2]) / "training.json").read_text(encoding="utf-8"))
notes = {"mean_of": [first.fingerprint, second.fingerprint], **notes}
save_checkpoint(sys.argv[3], replace(first, name=Path(sys.argv[3]).name), training=notes)

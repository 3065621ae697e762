"""Write a model folder with the weights of its encoder drawn anew: what the shape and the tokenizer give by themselves.

untrained.py MODEL OUT
"""

import sys
from dataclasses import replace

import torch

from ctxembed.model.checkpoint import load_checkpoint, save_checkpoint
from ctxembed.model.encoder import TransformerEncoder

model, out = sys.argv[1:]
checkpoint = load_checkpoint(model)
torch.manual_seed(1)
encoder = TransformerEncoder(checkpoint.encoder.config).eval()
save_checkpoint(out, replace(checkpoint, name="untrained", encoder=encoder, head=None))

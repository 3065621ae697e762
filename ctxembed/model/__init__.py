"""The network: tensors only, no files and no text (checkpoint.py excepted)."""

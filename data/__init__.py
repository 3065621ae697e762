"""Sample corpora, benchmarks and default models that ship with ctxembed (see README.md in this folder)."""

"""Benchmarks: data sets, metrics, tasks and the runner that makes one result of them."""

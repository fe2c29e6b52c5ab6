"""Benchmarks, one question each: `python -m benchmark.bench_NAME` in the repository root."""

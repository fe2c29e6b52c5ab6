"""The `sglang-lsm` command; the only place that prints."""

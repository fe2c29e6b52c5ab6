"""Disk tier for LLM prefix caches: an LSM index over an append-only tensor log.

The public API is `Store` (probe, put_batch, get_batch) with the value types of `pages` and the
settings of `config`. Nothing here imports sglang; the adapter lives in `sglang_lsm_patch`.
"""

__version__ = "0.1.0"

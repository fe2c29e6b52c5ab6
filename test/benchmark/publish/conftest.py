"""Reports as the benchmarks write them, small and with known ratios."""

import pytest


def engine_report(speeds: dict[str, float], *, page_bytes: int = 65536) -> dict:
    """One point, two rounds; a rival's speed counts for every figure, and the rest is 1."""
    figures = ("put", "put_durable", "hot_get", "cold_get")
    cells = [
        {
            "rival": rival,
            "page_bytes": page_bytes,
            "batch_pages": 32,
            "memory_limit_bytes": 0,
            "round_number": number,
            "figures": {**dict.fromkeys(figures, speed), "put_durable_cpu": 0.1, "cold_cpu": 0.5},
        }
        for rival, speed in speeds.items()
        for number in range(2)
    ]
    return {
        "benchmark": "engine",
        "machine": {"command": "scripts/bench engine", "commit": "abc"},
        "rivals": dict.fromkeys(speeds, "a rival"),
        "not_measured": [{"rival": "sst", "point": None, "reason": "not installed"}],
        "cells": cells,
    }


@pytest.fixture
def report():
    return engine_report

"""The tier's figures as Prometheus shows them: totals grow, speeds are told once they are known."""

import pytest
from prometheus_client import CollectorRegistry
from sglang_lsm.load_gate import GateFigures

from sglang_lsm_patch.eviction_figures import EvictionFigures
from sglang_lsm_patch.metrics import COUNTERS, GAUGES, INTERVAL_S, PREFIX, TierMetrics
from sglang_lsm_patch.storage import TierFigures

LABELS = {"tp_rank": 1, "storage_backend": "dynamic"}


def figures(**changes):
    values = {
        "read_bytes_per_second": None,
        "prefill_tokens_per_second": None,
        "bytes": 4096,
        "quota_bytes": 8192,
        "gate": None,
        "failures": {},
    }
    return TierFigures(**{**values, **changes})


@pytest.fixture
def registry():
    return CollectorRegistry()


@pytest.fixture
def sample(registry):
    def get(name, **more):
        labels = {**{key: str(value) for key, value in LABELS.items()}, **more}
        return registry.get_sample_value(PREFIX + name, labels)

    return get


def test_speeds_and_sizes_are_told_once_they_are_known(registry, sample):
    metrics = TierMetrics(LABELS, lambda: 0.0, registry)
    metrics.tell(figures(), None)
    assert sample("bytes") == 4096
    assert sample("read_bytes_per_second") is None
    metrics.tell(figures(read_bytes_per_second=2e9, prefill_tokens_per_second=100.0), None)
    assert sample("read_bytes_per_second") == 2e9
    assert sample("prefill_tokens_per_second") == 100.0


def test_totals_grow_and_go_on_after_the_tier_was_attached_anew(registry, sample):
    metrics = TierMetrics(LABELS, lambda: 0.0, registry)
    for gate in (GateFigures(10, 4, 1, 2), GateFigures(15, 4, 1, 2)):
        metrics.tell(figures(gate=gate, failures={"UnavailableError": 5}), None)
    metrics.restart("gate_pages", "gate_attempts")
    # Higher than before, and all of it new.
    metrics.tell(figures(gate=GateFigures(23, 1, 0, 0), failures={"UnavailableError": 5}), None)
    assert sample("gate_pages_total", decision="granted") == 11 + 22
    assert sample("gate_pages_total", decision="declined") == 4 + 1
    assert sample("gate_pages_total", decision="cut") == 1
    assert sample("gate_attempts_total") == 2
    assert sample("failures_total", reason="UnavailableError") == 5


def test_each_outcome_of_a_write_is_counted(registry, sample):
    metrics = TierMetrics(LABELS, lambda: 0.0, registry)
    metrics.tell(
        figures(), EvictionFigures(pages_stored=7, pages_refused=3, device_pages_dropped=2)
    )
    outcomes = ("stored", "withdrawn", "failed", "dropped", "device_dropped", "refused")
    found = [sample("write_pages_total", outcome=outcome) for outcome in outcomes]
    assert found == [7, 0, 0, 0, 2, 3]


def test_figures_are_told_at_most_once_an_interval(registry):
    seconds = [10.0]
    metrics = TierMetrics(LABELS, lambda: seconds[0], registry)
    assert metrics.is_due()
    assert not metrics.is_due()
    seconds[0] += INTERVAL_S
    assert metrics.is_due()


def test_every_metric_is_documented(request):
    text = (request.config.rootpath / "docs" / "operations.md").read_text()
    names = [*GAUGES, *(f"{name}_total" for name in COUNTERS)]
    assert [name for name in names if f"`{PREFIX}{name}" not in text] == []

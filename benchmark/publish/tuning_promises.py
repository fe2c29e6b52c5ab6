"""What was promised of tuning, of its cost model and of its overhead, beside what results say."""

from collections.abc import Iterator, Mapping

from benchmark.harness import Summary, summarize
from benchmark.model_error import Pair, errors, ranking
from benchmark.publish.controller import outcome_of
from benchmark.publish.promise import Promise
from benchmark.publish.reports import Report

_DEFAULT, _ORACLE, _BEST = "default settings", "oracle of tuning", "best static settings"
_MEASURED, _UNWATCHED = "measured cost", "untuned store"


def tuning_promises(reports: Mapping[str, Report]) -> Iterator[Promise]:
    """Yield the promises about each workload that shifts, the model's errors, and the overhead."""
    yield from _costs(reports.get("controller"))
    yield from _model(reports.get("model"))
    yield from _overhead(reports.get("overhead"))


def _costs(report: Report | None) -> Iterator[Promise]:
    found = [outcome_of(result) for result in report["results"]] if report else []
    for one in found:
        yield Promise(
            _DEFAULT, f"cost tuned, {one.workload}", 1.02, False, one.against_default, "x"
        )
        yield Promise(_ORACLE, f"cost tuned, {one.workload}", 1.05, False, one.against_oracle, "x")
    if not found:
        yield Promise(_DEFAULT, "cost tuned", 1.02, False, None, "x")
        yield Promise(_ORACLE, "cost tuned", 1.05, False, None, "x")
    gains = [one.against_best for one in found if one.against_best is not None]
    least = min(gains, key=lambda gain: gain.median, default=None)
    yield Promise(_BEST, "cost tuned, the best workload", 0.85, False, least, "x")


def _model(report: Report | None) -> Iterator[Promise]:
    pairs = [Pair(**row) for row in report["rows"]] if report else []
    found, ranked = errors(pairs), ranking(pairs, steady=True)
    yield Promise(_MEASURED, "error of the model, median", 0.2, False, _one(found and found.median))
    yield Promise(
        _MEASURED, "error of the model, 90th percentile", 0.4, False, _one(found and found.p90)
    )
    share = ranked.num_right / ranked.num if ranked.num else None
    what = "settings ranked right where all rounds agree"
    yield Promise(_MEASURED, what, 1.0, True, _one(share))


def _overhead(report: Report | None) -> Iterator[Promise]:
    share = report["core_share"] if report else None
    yield Promise(_UNWATCHED, "share of a core that tuning takes", 0.01, False, _one(share))
    rows = {(row["call"], row["share"]): row for row in report["rows"]} if report else {}
    for call in ("put", "get"):
        row = rows.get((call, 0.99))
        added = row and row["tuned"] / ((row["off"] + row["off again"]) / 2) - 1.0
        yield Promise(_UNWATCHED, f"what tuning adds to p99 of {call}", 0.01, False, _one(added))


def _one(value: float | None) -> Summary | None:
    return None if value is None else summarize([value])

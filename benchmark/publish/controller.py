"""Does tuning pay, on the page: against the default, each static setting, an oracle."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmark.harness import Summary, round_ratios, short, table
from benchmark.publish.reports import Report, Section

TUNED, OBSERVED = "tuned", "observe"
_MOVES = ("changed", "rolled back", "taken back")
"""Events of the decision log after which settings differ from before."""

Rounds = Mapping[object, Sequence[Mapping[str, object]]]
"""Phases of one arm, by round, as `shifting.as_rows` makes them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One workload. Costs are ratios, taken inside a round."""

    workload: str
    against_default: Summary | None
    observe: Summary | None
    """Watching alone, over the default."""
    against_oracle: Summary | None
    against_best: Summary | None
    best: str
    """The static arm that costs least over all phases."""
    end_to_end: Summary | None
    """Waiting and computing, over the default: what clients see."""
    adapt_s: float | None
    """Median over the phases in which settings moved: from the shift to the last move."""
    adapt_requests: float | None


def outcome_of(result: Mapping[str, object]) -> Outcome:
    """Return what one workload showed; an entry of `results` in the report."""
    arms: Mapping[str, Rounds] = result["arms"]
    static = {name: arms[name] for name in result["static"] if arms[name]}
    default = _totals(arms[result["default"]])
    tuned = _totals(arms[TUNED])
    totals = {name: _totals(rounds) for name, rounds in static.items()}
    best = min(totals, key=lambda name: statistics.median(totals[name].values()))
    moves = list(_last_moves(arms[TUNED].values()))
    return Outcome(
        workload=result["workload"],
        against_default=round_ratios(tuned, default),
        observe=round_ratios(_totals(arms[OBSERVED]), default),
        against_oracle=round_ratios(tuned, oracle_of(static.values())),
        against_best=round_ratios(tuned, totals[best]),
        best=best,
        end_to_end=round_ratios(
            _totals(arms[TUNED], "wait_s", "recompute_s"),
            _totals(arms[result["default"]], "wait_s", "recompute_s"),
        ),
        adapt_s=statistics.median(at for at, _ in moves) if moves else None,
        adapt_requests=statistics.median(number for _, number in moves) if moves else None,
    )


def oracle_of(arms: Iterable[Rounds]) -> dict[int, float]:
    """Return by round what the cheapest static arm of each phase costs in all."""
    arms = list(arms)
    rounds = set.intersection(*({int(number) for number in arm} for arm in arms))
    by_number = [{int(number): phases for number, phases in arm.items()} for arm in arms]
    return {
        number: sum(
            min(phase["total_s"] for phase in phases)
            for phases in zip(*(arm[number] for arm in by_number), strict=True)
        )
        for number in rounds
    }


def summary_table(results: Sequence[Mapping[str, object]]) -> str:
    """Return a row a workload."""
    rows = []
    for one in map(outcome_of, results):
        adapt = "no move"
        if one.adapt_s is not None and one.adapt_requests is not None:
            adapt = f"{short(one.adapt_s)} s, {one.adapt_requests:.0f} requests"
        rows.append([
            one.workload, str(one.against_default), str(one.end_to_end), str(one.against_oracle),
            f"{one.against_best} ({one.best})", str(one.observe), adapt,
        ])  # fmt: skip
    head = ["workload", "tuned / default", "end to end", "/ oracle", "/ best static",
            "observe / default", "time to adapt"]  # fmt: skip
    return table(head, rows)


def body(report: Report) -> str:
    """Return the summary, and the costs of every arm."""
    results: Sequence[Mapping[str, object]] = report["results"]
    if not results:
        return "Nothing was measured.\n"
    note = (
        "Cost: seconds of waiting, making durable, CPU, and computing what was missed. `oracle`: "
        "of each phase the cheapest static arm. Time to adapt: from a shift to the last change of "
        "settings in that phase, the median; the controller looked every "
        f"{report['settings']['interval_s']} s.\n"
    )
    return "\n".join([note, summary_table(results), *(result["text"] for result in results), ""])


def _totals(rounds: Rounds, *fields: str) -> dict[int, float]:
    names = fields or ("total_s",)
    return {
        int(number): sum(phase[name] for phase in phases for name in names)
        for number, phases in rounds.items()
    }


def _last_moves(rounds: Iterable[Sequence[Mapping[str, object]]]) -> Iterable[tuple[float, int]]:
    for phases in rounds:
        for phase in phases:
            moves = [(at, num) for at, num, text in phase["changes"] if text.startswith(_MOVES)]
            if moves:
                yield moves[-1]


SECTION = Section(
    file="controller",
    title="Tuning on workloads that shift",
    command="scripts/bench controller --json benchmark/results/controller.json",
    body=body,
)

"""Does tuning pay, on the page: against the default, each static setting, an oracle."""

import itertools
import math
import statistics
from collections import Counter
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
    against_reachable: Summary | None
    """Over the oracle that hits no page which another arm stored."""
    against_best: Summary | None
    best: str
    """The static arm that costs least over all phases."""
    best_against_reachable: Summary | None
    """What there is to gain over the best static arm, whoever tunes."""
    end_to_end: Summary | None
    """Waiting and computing, over the default: what clients see."""
    adapt_s: float | None
    """Median over the phases in which settings moved: from the shift to the last move."""
    adapt_requests: float | None
    adapt_share: float
    """Of the time of all phases, what passed before the last move of each."""
    noise: float
    """Median difference of a phase of a static arm from itself in another round; NaN of one."""
    bias: Summary | None
    """The oracle that takes the least of each round, over the one that is charged elsewhere."""


def outcome_of(result: Mapping[str, object]) -> Outcome:
    """Return what one workload showed; an entry of `results` in the report."""
    arms: Mapping[str, Rounds] = result["arms"]
    static = {name: arms[name] for name in result["static"] if arms[name]}
    default, tuned = _totals(arms[result["default"]]), _totals(arms[TUNED])
    totals = {name: _totals(rounds) for name, rounds in static.items()}
    best = min(totals, key=lambda name: statistics.median(totals[name].values()))
    oracle, reachable = _cost_of(static, choices(static)), reachable_of(static, result["stores"])
    moves = list(_last_moves(arms[TUNED].values()))
    seconds = sum(phase["seconds"] for phases in arms[TUNED].values() for phase in phases)
    return Outcome(
        workload=result["workload"],
        against_default=round_ratios(tuned, default),
        observe=round_ratios(_totals(arms[OBSERVED]), default),
        against_oracle=round_ratios(tuned, oracle),
        against_reachable=round_ratios(tuned, reachable),
        against_best=round_ratios(tuned, totals[best]),
        best=best,
        best_against_reachable=round_ratios(totals[best], reachable),
        end_to_end=round_ratios(
            _totals(arms[TUNED], "wait_s", "recompute_s"),
            _totals(arms[result["default"]], "wait_s", "recompute_s"),
        ),
        adapt_s=statistics.median(at for at, _ in moves) if moves else None,
        adapt_requests=statistics.median(number for _, number in moves) if moves else None,
        adapt_share=sum(at for at, _ in moves) / seconds,
        noise=_noise(static.values()),
        bias=round_ratios(_cost_of(static, choices(static, elsewhere=False)), oracle),
    )


def choices(arms: Mapping[str, Rounds], *, elsewhere: bool = True) -> dict[int, list[str]]:
    """Return by round the cheapest arm of each phase.

    The least of several noisy costs is too low: whoever chooses by the costs that he is charged is
    paid for noise. So an arm is chosen by its mean cost in the other rounds, where there are any.

    Args:
        elsewhere: choose so; else by the round itself.
    """
    by_arm = {arm: _by_number(rounds) for arm, rounds in arms.items()}
    numbers = set.intersection(*(set(rounds) for rounds in by_arm.values()))
    chosen: dict[int, list[str]] = {}
    for number in sorted(numbers):
        judges = (numbers - {number} if elsewhere else set()) or {number}
        num_phases = len(next(iter(by_arm.values()))[number])
        chosen[number] = [
            min(by_arm, key=lambda arm: sum(by_arm[arm][n][at]["total_s"] for n in judges))
            for at in range(num_phases)
        ]
    return chosen


def oracle_of(arms: Mapping[str, Rounds]) -> dict[int, float]:
    """Return by round what the cheapest static arm of each phase costs in all, see `choices`."""
    return _cost_of(arms, choices(arms))


def reachable_of(arms: Mapping[str, Rounds], stores: Mapping[str, str]) -> dict[int, float]:
    """Return by round what the oracle costs that stays with one policy of admission.

    An oracle that changes it takes the hits of an arm that stored a page and pays for one that
    refused it. Of the policies, the one that is cheaper in the other rounds, where there are any.

    Args:
        stores: the policy of each arm.
    """
    costs = [
        _cost_of(mine, choices(mine))
        for policy in sorted(set(stores.values()))
        if (mine := {arm: rounds for arm, rounds in arms.items() if stores[arm] == policy})
    ]
    numbers = set.intersection(*(set(cost) for cost in costs))
    found = {}
    for number in numbers:
        judges = numbers - {number} or {number}
        found[number] = min(costs, key=lambda cost: sum(cost[n] for n in judges))[number]
    return found


def _cost_of(arms: Mapping[str, Rounds], chosen: Mapping[int, Sequence[str]]) -> dict[int, float]:
    by_arm = {arm: _by_number(rounds) for arm, rounds in arms.items()}
    return {
        number: sum(by_arm[arm][number][at]["total_s"] for at, arm in enumerate(names))
        for number, names in chosen.items()
    }


def _by_number(rounds: Rounds) -> dict[int, Sequence[Mapping[str, object]]]:
    return {int(number): phases for number, phases in rounds.items()}


def _noise(arms: Iterable[Rounds]) -> float:
    found = [
        abs(one["total_s"] / other["total_s"] - 1.0)
        for rounds in arms
        for phases in zip(*rounds.values(), strict=True)
        for one, other in itertools.permutations(phases, 2)
    ]
    return statistics.median(found) if found else math.nan


def summary_table(results: Sequence[Mapping[str, object]]) -> str:
    """Return a row a workload, and what the oracle is worth on it."""
    rows, oracles = [], []
    for one in map(outcome_of, results):
        adapt = "no move"
        if one.adapt_s is not None and one.adapt_requests is not None:
            adapt = (
                f"{short(one.adapt_s)} s, {one.adapt_requests:.0f} requests, {one.adapt_share:.0%}"
            )
        rows.append([
            one.workload, str(one.against_default), str(one.end_to_end), str(one.against_oracle),
            str(one.against_reachable), f"{one.against_best} ({one.best})", str(one.observe), adapt,
        ])  # fmt: skip
        oracles.append([
            one.workload, "-" if math.isnan(one.noise) else f"{one.noise:.0%}", str(one.bias),
            str(one.best_against_reachable),
        ])  # fmt: skip
    head = ["workload", "tuned / default", "end to end", "/ oracle", "/ reachable oracle",
            "/ best static", "observe / default", "time to adapt"]  # fmt: skip
    other = ["workload", "a phase differs from itself by", "least of each round / oracle",
             "best static / reachable oracle"]  # fmt: skip
    return f"{table(head, rows)}\n\n{table(other, oracles)}"


def decisions_table(result: Mapping[str, object]) -> str:
    """Return a row a phase: what the controller ended with, and what the oracle chose."""
    arms: Mapping[str, Rounds] = result["arms"]
    static = {name: arms[name] for name in result["static"] if arms[name]}
    by_arm = {arm: _by_number(rounds) for arm, rounds in static.items()}
    chosen, tuned = choices(static), _by_number(arms[TUNED])
    rows = []
    for at, phase in enumerate(next(iter(tuned.values()), ())):
        names = [chosen[number][at] for number in chosen]
        costs = [by_arm[chosen[n][at]][n][at]["total_s"] for n in chosen]
        rows.append([
            f"{at + 1} {phase['name']}", _counted(p[at]["settings"] for p in tuned.values()),
            short(statistics.median(p[at]["total_s"] for p in tuned.values())),
            _counted(names), short(statistics.median(costs)),
        ])  # fmt: skip
    return table(["phase", "tuned ends with", "s", "oracle", "s"], rows)


def _counted(names: Iterable[str]) -> str:
    """Return each name once, with how often it occurs where not all are the same."""
    found = Counter(names)
    if len(found) == 1:
        return next(iter(found))
    return ", ".join(f"{num} x {name}" for name, num in found.most_common())


def body(report: Report) -> str:
    """Return the summary, and the costs of every arm."""
    results: Sequence[Mapping[str, object]] = report["results"]
    if not results:
        return "Nothing was measured.\n"
    note = (
        "Cost: seconds of waiting, making durable, CPU, and computing what was missed. `oracle`: "
        "of each phase the static arm that was cheapest in the other rounds, charged in this one, "
        "since the least of noisy costs is too low (by how much: `least of each round`). It may "
        "take the hits of an arm that stored a page and the puts of one that refused it; the "
        "`reachable` one may not. Time to adapt: from a shift to the last change of settings in "
        "that phase, the median, and the share of all time that was; the controller looked every "
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
    file="controller*",
    title="Tuning on workloads that shift",
    command="scripts/bench controller --json benchmark/results/controller.json",
    body=body,
)

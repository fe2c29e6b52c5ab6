"""How far the cost model is from what was measured, and whether it ranks settings right. Pure.

Prompts that nobody stored are computed under any setting, and the model predicts what a setting
adds to that. So the time to compute what even the default arm missed is taken from what was
measured. The default arm admits first offers.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmark.harness import percentile

Rows = Mapping[object, Sequence[Mapping[str, object]]]
"""Phases of one arm, by round, as `shifting.as_rows` makes them."""
_CLEAR = 0.1
"""Costs that differ by less have no order worth getting right."""
_LEAST_S = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One phase of one arm."""

    workload: str
    phase: str
    """With its place in the workload: names repeat."""
    round_number: int
    arm: str
    measured_s: float
    own_s: float
    """Predicted from what the arm itself saw: the model alone."""
    default_s: float
    """Predicted from what the default arm saw: what the controller has before it changes."""
    is_default: bool = False
    """Of which the default arm has measured what it costs: no prediction."""


@dataclass(frozen=True, slots=True)
class Errors:
    """Of several pairs."""

    median: float
    p90: float
    num: int


@dataclass(frozen=True, slots=True)
class Ranking:
    """Of two arms in one phase whose measured costs differ by more than a tenth."""

    num_right: int
    num: int


def pairs_of(workload: str, arms: Mapping[str, Rows], default: str) -> Iterator[Pair]:
    """Yield a pair for each phase, round and static arm of one workload.

    Args:
        arms: by name; those without predictions, which have a controller, are left out.
        default: the arm of the default configuration.
    """
    for arm, rounds in arms.items():
        for number, phases in rounds.items():
            base = arms[default].get(number, ())
            for place, (phase, plain) in enumerate(zip(phases, base, strict=False)):
                if arm not in phase["predicted"]:
                    continue
                measured_s = phase["total_s"] - plain["recompute_s"]
                if measured_s < _LEAST_S:
                    continue
                yield Pair(
                    workload=workload,
                    phase=f"{place + 1} {phase['name']}",
                    round_number=int(number),
                    arm=arm,
                    measured_s=measured_s,
                    own_s=phase["own_s"],
                    is_default=arm == default,
                    default_s=plain["predicted"][arm],
                )


def errors(pairs: Iterable[Pair], *, from_default: bool = False) -> Errors | None:
    """Return the relative errors of the predictions; None without pairs."""
    found = [
        abs((one.default_s if from_default else one.own_s) / one.measured_s - 1.0)
        for one in pairs
        if not (from_default and one.is_default)
    ]
    if not found:
        return None
    return Errors(percentile(found, 0.5), percentile(found, 0.9), len(found))


def noise(pairs: Iterable[Pair]) -> Errors | None:
    """Return how far the same phase of the same arm is from itself in another round.

    No model can come closer. None of one round.
    """
    costs: dict[tuple[str, str, str], list[float]] = {}
    for one in pairs:
        costs.setdefault((one.workload, one.phase, one.arm), []).append(one.measured_s)
    found = [
        abs(one / other - 1.0)
        for same in costs.values()
        for one, other in itertools.permutations(same, 2)
    ]
    if not found:
        return None
    return Errors(percentile(found, 0.5), percentile(found, 0.9), len(found))


def ranking(pairs: Iterable[Pair], *, steady: bool = False) -> Ranking:
    """Return how often the arm predicted cheaper by the default's view was; a tie is wrong.

    Args:
        steady: count only two arms of which the same one was cheaper, and clearly, in every round.
    """
    found: dict[tuple[str, str, str, str], list[tuple[bool, bool]]] = {}
    for _, group in itertools.groupby(sorted(pairs, key=_place), key=_place):
        for one, other in itertools.combinations(sorted(group, key=lambda p: p.arm), 2):
            cheap, dear = sorted((one, other), key=lambda pair: pair.measured_s)
            order = found.setdefault((one.workload, one.phase, one.arm, other.arm), [])
            if dear.measured_s > cheap.measured_s * (1.0 + _CLEAR):
                order.append((cheap is one, cheap.default_s < dear.default_s))
            elif steady:
                # Neither first nor second: never the same in every round.
                order += [(True, False), (False, False)]
    counted = [
        is_right
        for order in found.values()
        if not steady or len({first for first, _ in order}) == 1
        for _, is_right in order
    ]
    return Ranking(sum(counted), len(counted))


def _place(pair: Pair) -> tuple[str, str, int]:
    return pair.workload, pair.phase, pair.round_number

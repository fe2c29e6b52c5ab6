"""What the device can do: speed by kind of transfer, bytes a call and calls under way. Pure.

A profile is a grid of measured points, and two factors a kind that live I/O corrects: of the time
that transfers take, and of their CPU.
"""

import json
import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Literal, NamedTuple, TypeAlias, get_args

from sglang_lsm.errors import CorruptionError

Kind = Literal["read_direct", "read_cold", "read_hot", "write_direct", "write_buffered"]
"""`read_cold` and `read_hot` go through the page cache, where the page is not or is."""
KINDS: tuple[Kind, ...] = get_args(Kind)
PROFILE_VERSION = 5

_MAX_FACTOR = 16.0
_LEARNING = 0.3
_MAX_ASKED = 1024
_FORGETTING = 0.99
"""A factor that nothing speaks for any more goes back to 1, half the way in 69 windows."""


_SENSELESS = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What reading a file of garbage raises."""


class Speed(NamedTuple):
    """Seconds a byte: of waiting, and of CPU."""

    s_per_byte: float
    cpu_s_per_byte: float


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement."""

    kind: Kind
    io_bytes: int
    depth: int
    """Calls under way at once."""
    bytes_per_s: float
    cpu_s_per_byte: float


_Rows: TypeAlias = tuple[tuple[int, ...], Mapping[int, Sequence[Point]]]
"""Sizes in order, and the points of each, by depth."""


class _Grid:
    """Speeds between the points of a profile. Of one thread: it remembers what it was asked.

    The settings that a decision compares differ in one of them, so most of what it asks for one it
    has asked for another.
    """

    def __init__(self, points: tuple[Point, ...]) -> None:
        self.points = points
        rows: dict[str, dict[int, list[Point]]] = {}
        for point in sorted(points, key=lambda point: (point.io_bytes, point.depth)):
            rows.setdefault(point.kind, {}).setdefault(point.io_bytes, []).append(point)
        self._rows: dict[str, _Rows] = {
            kind: (tuple(by_size), by_size) for kind, by_size in rows.items()
        }
        self._asked: dict[tuple[str, float, float], Speed] = {}

    def speed(self, kind: Kind, io_bytes: float, depth: float) -> Speed:
        """See `DeviceProfile.idle_speed`."""
        key = kind, io_bytes, depth
        found = self._asked.get(key)
        if found is None:
            if len(self._asked) >= _MAX_ASKED:
                self._asked.clear()
            found = self._asked[key] = self._between(kind, io_bytes, depth)
        return found

    def _between(self, kind: Kind, io_bytes: float, depth: float) -> Speed:
        sizes, rows = self._rows[kind]
        x = min(max(io_bytes, sizes[0]), sizes[-1])
        low, high = sizes[bisect_right(sizes, x) - 1], sizes[bisect_left(sizes, x)]
        share = math.log(x / low) / math.log(high / low) if high > low else 0.0
        a = _at_depth(rows[low], depth)
        b = _at_depth(rows[high], depth) if high > low else a
        s_per_byte = a.s_per_byte ** (1 - share) * b.s_per_byte**share
        cpu = a.cpu_s_per_byte + (b.cpu_s_per_byte - a.cpu_s_per_byte) * share
        smaller = max(1.0, sizes[0] / max(io_bytes, 1.0))
        return Speed(s_per_byte * smaller, cpu * smaller)


_NO_GRID = _Grid(())


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """Speeds of one device."""

    points: tuple[Point, ...]
    sync_s: float = 0.0
    """Time of one sync with little to write."""
    handover_s: float = 0.0
    """CPU of giving one job to another thread and taking what it found."""
    factors: Mapping[str, float] = field(default_factory=dict)
    """By kind: how many times longer live transfers take than the points say."""
    cpu_factors: Mapping[str, float] = field(default_factory=dict)
    """By kind: how many times more CPU they take."""
    _grid: _Grid = field(default=_NO_GRID, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Sort the points, once for all profiles that are made of this one."""
        if self._grid.points is not self.points:
            object.__setattr__(self, "_grid", _Grid(self.points))

    def speed(self, kind: Kind, io_bytes: float, depth: float) -> Speed:
        """Return the speed of live transfers of `io_bytes`, `depth` of them under way.

        Interpolated between the points in the logarithms of size and depth. Below the smallest
        size a call costs as much as one of that size.
        """
        speed = self.idle_speed(kind, io_bytes, depth)
        factor, cpu_factor = self.factors.get(kind, 1.0), self.cpu_factors.get(kind, 1.0)
        return Speed(speed.s_per_byte * factor, speed.cpu_s_per_byte * cpu_factor)

    def idle_speed(self, kind: Kind, io_bytes: float, depth: float) -> Speed:
        """Return the speed as it was measured, with nobody else about.

        The kernel writes back at it: it waits for no lock and no processor of ours.
        """
        return self._grid.speed(kind, io_bytes, depth)

    def refreshed(
        self,
        measured: Mapping[Kind, float],
        measured_cpu: Mapping[Kind, float] = MappingProxyType({}),
    ) -> "DeviceProfile":
        """Return the profile after live transfers of some kinds took `measured` times as long as it
        says, and `measured_cpu` times as much CPU; factors of other kinds fade."""
        return replace(
            self,
            factors=_learned(self.factors, measured),
            cpu_factors=_learned(self.cpu_factors, measured_cpu),
        )


def _learned(known: Mapping[str, float], measured: Mapping[Kind, float]) -> dict[str, float]:
    limit = math.log(_MAX_FACTOR)
    factors: dict[str, float] = {}
    for kind in KINDS:
        log = math.log(known.get(kind, 1.0))
        if kind in measured:
            log += _LEARNING * math.log(max(measured[kind], 1e-9))
        else:
            log *= _FORGETTING
        factors[kind] = math.exp(min(max(log, -limit), limit))
    return factors


def encode_profile(profile: DeviceProfile) -> bytes:
    """Return the small file that holds a profile."""
    values: dict[str, object] = {
        "version": PROFILE_VERSION,
        "points": [asdict(point) for point in profile.points],
        "sync_s": profile.sync_s,
        "handover_s": profile.handover_s,
        "factors": dict(profile.factors),
        "cpu_factors": dict(profile.cpu_factors),
    }
    return json.dumps(values).encode()


def decode_profile(content: bytes) -> DeviceProfile:
    """Return the profile in a file.

    Raises:
        CorruptionError: it is not one of this version; it can be measured again.
    """
    try:
        values = json.loads(content)
        if values["version"] != PROFILE_VERSION:
            raise CorruptionError(f"a device profile of another version. found={values['version']}")
        points = tuple(
            Point(p["kind"], int(p["io_bytes"]), int(p["depth"]), float(p["bytes_per_s"]),
                  float(p["cpu_s_per_byte"]))
            for p in values["points"]
        )  # fmt: skip
        factors, cpu_factors = (
            {str(kind): float(value) for kind, value in values[name].items()}
            for name in ("factors", "cpu_factors")
        )
        profile = DeviceProfile(
            points, float(values["sync_s"]), float(values["handover_s"]), factors, cpu_factors
        )
    except _SENSELESS as error:
        raise CorruptionError(f"not a device profile. reason={error}") from error
    _check(profile)
    return profile


def _check(profile: DeviceProfile) -> None:
    kinds = {point.kind for point in profile.points}
    factors = [*profile.factors.values(), *profile.cpu_factors.values()]
    numbers = [profile.sync_s, profile.handover_s, *factors]
    for point in profile.points:
        numbers += [point.bytes_per_s, point.cpu_s_per_byte]
    is_sane = all(math.isfinite(number) and number >= 0 for number in numbers)
    are_positive = all(
        point.bytes_per_s > 0 and point.io_bytes > 0 and point.depth > 0 for point in profile.points
    )
    if not is_sane or not are_positive or kinds != set(KINDS) or 0.0 in factors:
        raise CorruptionError("a device profile with points missing or senseless")


def _at_depth(row: Sequence[Point], depth: float) -> Speed:
    x = min(max(depth, row[0].depth), row[-1].depth)
    at = next(i for i, point in enumerate(row) if point.depth >= x)
    high = row[at]
    if high.depth == x:
        return Speed(1.0 / high.bytes_per_s, high.cpu_s_per_byte)
    low = row[at - 1]
    share = math.log(x / low.depth) / math.log(high.depth / low.depth)
    bytes_per_s = low.bytes_per_s ** (1 - share) * high.bytes_per_s**share
    cpu = low.cpu_s_per_byte + (high.cpu_s_per_byte - low.cpu_s_per_byte) * share
    return Speed(1.0 / bytes_per_s, cpu)

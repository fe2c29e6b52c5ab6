"""Which setting matters, on the page: a table a device, and the settings that matter nowhere."""

from collections.abc import Mapping, Sequence

from benchmark.harness import table
from benchmark.publish.reports import Report, Section

_LITTLE = 0.02
"""Of the cost: a setting whose best and worst value lie closer does not matter there."""


def body(report: Report) -> str:
    """Return for each device what a setting's worst value costs over its best, by workload."""
    rows: Sequence[Mapping[str, object]] = report["rows"]
    devices, workloads, settings = (
        list(dict.fromkeys(row[name] for row in rows)) for name in ("device", "workload", "setting")
    )
    found = {(row["device"], row["workload"], row["setting"]): row for row in rows}
    parts = [
        "By the cost model. A cell: how much more the worst value costs than the best one, and the "
        "best one with what it saves of the default's cost, where it is not the default. A dot: "
        "less than 2 %. Devices other than `measured` are nominal.\n"
    ]
    for device in devices:
        lines = [
            [setting, *(_cell(found[device, workload, setting]) for workload in workloads)]
            for setting in settings
        ]
        parts.append(f"#### {device}\n\n{table(['setting', *workloads], lines)}\n")
    idle = [
        setting
        for setting in settings
        if all(_spread(row) < _LITTLE for row in rows if row["setting"] == setting)
    ]
    parts.append(f"Less than 2 % everywhere: {', '.join(idle) or 'none'}.\n")
    return "\n".join(parts)


def _spread(row: Mapping[str, object]) -> float:
    return row["worst_s"] / row["best_s"] - 1.0 if row["best_s"] > 0 else 0.0


def _cell(row: Mapping[str, object]) -> str:
    spread = _spread(row)
    if spread < _LITTLE:
        return "·"
    saved = 1.0 - row["best_s"] / row["default_s"]
    best = f"; {_value(row['best'])} saves {saved:.0%}" if saved >= _LITTLE else ""
    return f"{spread:.0%}{best}"


def _value(value: object) -> str:
    if isinstance(value, int) and value >= 1 << 10:
        return f"{value >> 20} MiB" if value >= 1 << 20 else f"{value >> 10} KiB"
    return str(value)


SECTION = Section(
    file="knobs",
    title="Settings: which one matters where",
    command="scripts/bench knobs --json benchmark/results/knobs.json",
    body=body,
)

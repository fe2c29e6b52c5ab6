"""The paper's table on the page: hit rate and TTFT a stage, and the two headline ratios."""

from collections.abc import Sequence
from pathlib import Path

from benchmark.harness import percentile, short, table
from benchmark.publish.draw import canvas, curve
from benchmark.publish.reports import Loss, Report, Section

OURS, PAPERS_FILE = "lsm, page 64", "file, page 1"
PAPERS_HITS, PAPERS_TTFT = "+143 %", "-24 %"


def body(report: Report) -> str:
    """Return, a prompt length, hit rates and TTFT by stage, and both ratios over all stages."""
    parts = []
    for length in _lengths(report):
        stages = sorted({row["stage"] for row in report["rows"]})
        head = ["row", *(_stage_title(report, length, stage) for stage in stages), "all"]
        for title, cell, total in (
            ("Hit rate, % (offered: what an unlimited cache finds)", _hit_cell, _hits),
            ("TTFT, mean s (p99)", _ttft_cell, _ttft),
        ):
            rows = [
                [
                    name,
                    *(cell(_at(report, length, name, stage)) for stage in stages),
                    total(_of(report, length, name)),
                ]
                for name in _names(report)
            ]
            parts.append(f"#### {length} prompt tokens: {title}\n\n{table(head, rows)}\n")
        parts += [_against(report, length), _costs(report, length)]
    return "\n".join(parts)


def losses(report: Report) -> list[Loss]:
    """Return the stages in which another row finds more or answers sooner."""
    found = []
    for length in _lengths(report):
        ours = {row["stage"]: row for row in _of(report, length, OURS)}
        for name in _names(report):
            if name == OURS:
                continue
            theirs = [row for row in _of(report, length, name) if row["stage"] in ours]
            hits = [row for row in theirs if row["hit_rate"] > ours[row["stage"]]["hit_rate"]]
            slow = [row for row in theirs if row["ttft_mean_s"] < ours[row["stage"]]["ttft_mean_s"]]
            for what, rows, figure in (
                ("hit rate", hits, "hit_rate"),
                ("TTFT", slow, "ttft_mean_s"),
            ):
                if rows:
                    text = "; ".join(
                        f"stage {row['stage'] + 1}: {short(ours[row['stage']][figure])}, "
                        f"theirs {short(row[figure])}"
                        for row in rows
                    )
                    found.append(Loss(f"paper's stages, {length} tokens: {what}", name, text))
    return found


def plots(report: Report, stem: Path) -> list[Path]:
    """Draw hit rate and TTFT over the stages, a picture a prompt length."""
    files = []
    for length in _lengths(report):
        path = stem.with_name(f"{stem.name}-{length}.png")
        with canvas(path, f"The paper's stages, {length} prompt tokens", panels=2) as axes:
            panels = (
                ("hit_rate", "prompt tokens found, %", 100),
                ("ttft_mean_s", "mean TTFT, s", 1),
            )
            for one, (figure, title, scale) in zip(axes, panels, strict=True):
                for number, name in enumerate(_names(report)):
                    points = {
                        row["stage"] + 1.0: row[figure] * scale for row in _of(report, length, name)
                    }
                    curve(one, points, name, number, bold=name == OURS)
                one.set_xlabel("stage")
                one.set_xticks(sorted({row["stage"] + 1 for row in report["rows"]}))
                one.set_ylabel(title)
            offered = {
                row["stage"] + 1.0: row["offered"] * 100 for row in _of(report, length, OURS)
            }
            axes[0].plot(offered.keys(), offered.values(), "k:", label="offered")
        files.append(path)
    return files


def _against(report: Report, length: int) -> str:
    ours = _of(report, length, OURS)
    lines = []
    for name in _names(report):
        theirs = _of(report, length, name)
        if name == OURS or not ours or not theirs:
            continue
        hits = _rate(ours) / _rate(theirs) - 1 if _rate(theirs) else float("nan")
        ttft = _mean(ours) / _mean(theirs) - 1
        best = max(
            (
                a["hit_rate"] / b["hit_rate"] - 1
                for a, b in zip(ours, theirs, strict=False)
                if b["hit_rate"]
            ),
            default=float("nan"),
        )
        least = min(
            a["ttft_mean_s"] / b["ttft_mean_s"] - 1 for a, b in zip(ours, theirs, strict=False)
        )
        equal = sum(
            x == y
            for a, b in zip(ours, theirs, strict=False)
            for x, y in zip(a["first_tokens"], b["first_tokens"], strict=True)
        )
        num_asked = sum(len(row["first_tokens"]) for row in ours)
        lines.append(
            [
                name,
                f"{hits:+.0%}",
                f"{best:+.0%}",
                f"{ttft:+.0%}",
                f"{least:+.0%}",
                f"{equal} of {num_asked}",
            ]
        )
    if not lines:
        return ""
    lines.append(
        ["the paper, over its file backend", "", PAPERS_HITS, "", PAPERS_TTFT, "not shown"]
    )
    head = ["ours over", "hits, all", "best stage", "TTFT, all", "best stage", "same first token"]
    return f"{table(head, lines)}\n"


def _costs(report: Report, length: int) -> str:
    """Return what each row used: what explains the difference, beside the hits by tier."""
    rows = []
    for name in _names(report):
        found = _of(report, length, name)
        tiers = [sum(row[f"{tier}_tokens"] for row in found) for tier in ("device", "host", "disk")]
        last = max(found, key=lambda row: row["stage"])
        rows.append(
            [
                name,
                "/".join(str(tokens) for tokens in tiers),
                f"{sum(row['cpu_s'] for row in found):.0f}" if "cpu_s" in last else "-",
                f"{last['disk_bytes'] / 2**20:.0f} of {last['budget_bytes'] / 2**20:.0f}",
                str(last.get("disk_files", "-")),
            ]
        )
    head = ["row", "hit tokens device/host/disk, all stages", "server's CPU s"]
    return f"{table([*head, 'MiB on disk, of the budget', 'files'], rows)}\n"


def _rate(rows: Sequence[Report]) -> float:
    cached = sum(row["device_tokens"] + row["host_tokens"] + row["disk_tokens"] for row in rows)
    return cached / sum(row["asked_tokens"] for row in rows)


def _mean(rows: Sequence[Report]) -> float:
    times = [one for row in rows for one in row["ttft_s"]]
    return sum(times) / len(times)


def _hits(rows: Sequence[Report]) -> str:
    return f"{_rate(rows):.1%}" if rows else "-"


def _ttft(rows: Sequence[Report]) -> str:
    times = [one for row in rows for one in row["ttft_s"]]
    return f"{short(_mean(rows))} ({short(percentile(times, 0.99))})" if rows else "-"


def _hit_cell(row: Report | None) -> str:
    if row is None:
        return "-"
    asked = row["asked_tokens"]
    tiers = "/".join(f"{row[f'{t}_tokens'] / asked:.0%}"[:-1] for t in ("device", "host", "disk"))
    return f"{row['hit_rate']:.1%} ({tiers})"


def _ttft_cell(row: Report | None) -> str:
    return "-" if row is None else f"{short(row['ttft_mean_s'])} ({short(row['ttft_p99_s'])})"


def _stage_title(report: Report, length: int, stage: int) -> str:
    row = next(r for r in report["rows"] if (r["prompt_tokens"], r["stage"]) == (length, stage))
    return f"{row['target']} ({row['offered']:.0%})"


def _of(report: Report, length: int, name: str) -> list[Report]:
    return [r for r in report["rows"] if (r["prompt_tokens"], r["row"]) == (length, name)]


def _at(report: Report, length: int, name: str, stage: int) -> Report | None:
    return next((row for row in _of(report, length, name) if row["stage"] == stage), None)


def _lengths(report: Report) -> list[int]:
    return sorted({row["prompt_tokens"] for row in report["rows"]})


def _names(report: Report) -> Sequence[str]:
    """Return the rows in the order of the settings: stages rotate it."""
    measured = {row["row"] for row in report["rows"]}
    return [name for name in report["settings"]["rows"] if name in measured]


SECTION = Section(
    file="paper*",
    title="The paper's stages rebuilt",
    command="scripts/bench paper --json benchmark/results/paper.json",
    body=body,
    losses=losses,
    plots=plots,
)

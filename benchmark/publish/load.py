"""Several clients at once on the page: TTFT, load time, and throughput by tier."""

from collections.abc import Sequence
from pathlib import Path

from benchmark.harness import percentile, short, summarize, table
from benchmark.publish.draw import canvas, curve, plain_log
from benchmark.publish.reports import Loss, Report, Section
from benchmark.ttft_report import COLD, DEVICE, DISK_COLD, DISK_HOT, HOST_HIT

OURS, RIVALS, BOUND = "lsm", ("file", "file tuned"), "sim"
RESTART = "disk hit, after a restart"
PHASES = (COLD, DEVICE, HOST_HIT, DISK_COLD, DISK_HOT, RESTART)


def ttft(report: Report, row: str, phase: str, clients: int) -> dict[tuple[int, int], float]:
    """Return seconds to the first token by round and prompt."""
    return {
        (sample["round_number"], sample["prompt"]): sample["ttft_s"]
        for sample in report["samples"]
        if (sample["row"], sample["phase"], sample["clients"]) == (row, phase, clients)
    }


def load_times(report: Report, row: str, phase: str, clients: int) -> list[float]:
    """Return disk hit minus device hit of the same prompt, in seconds."""
    device = ttft(report, row, DEVICE, clients)
    found = ttft(report, row, phase, clients)
    return [seconds - device[place] for place, seconds in found.items() if place in device]


def body(report: Report) -> str:
    """Return a table a number of clients, load times against both file rows, and what it cost."""
    tokens = report["settings"]["prompt_tokens"]
    parts = [f"{tokens} tokens a prompt. Of fewer than 100 requests p99 is the slowest.\n"]
    for clients in _clients(report):
        rows = []
        for row, phase in _rows(report):
            seconds = list(ttft(report, row, phase, clients).values())
            if not seconds:
                continue
            tails = [short(percentile(seconds, share) * 1e3) for share in (0.5, 0.9, 0.99)]
            rates = _rates(report, row, phase, clients)
            speed = summarize(one["prompt_tokens_per_s"] for one in rates)
            cpu = summarize(one["cpu_s"] for one in rates if "cpu_s" in one)
            hits = _tokens(report, row, phase, clients)
            name = f"{row}: {phase}"
            rows.append([name, str(len(seconds)), *tails, str(speed), hits, str(cpu or "-")])
        head = ["row", "requests", "p50 ms", "p90 ms", "p99 ms", "prompt tokens/s"]
        head += ["hit device/host/disk, %", "server's CPU s"]
        title = f"#### {clients} client{'s' if clients > 1 else ''}\n"
        parts.append(f"{title}\n{table(head, rows)}\n")
    parts.append(f"#### Load time: disk hit minus device hit\n\n{_load_table(report)}\n")
    parts += _totals(report)
    differ, compared = _answers(report)
    bound = f" Disk hits of `{BOUND}`, which loads no bytes, are not compared."
    told = f"First tokens that differ from the first row's: {differ} of {compared}."
    has_bound = any(sample["row"] == BOUND for sample in report["samples"])
    parts.append(f"{told}{bound if has_bound else ''}\n")
    left = report.get("left_out", {})
    parts += [f"Left out: {what}: {why}.\n" for what, why in left.items()]
    return "\n".join(parts)


def _totals(report: Report) -> list[str]:
    """Return what each row has on disk at its end, and its time on the scheduler thread."""
    rows = []
    for one in report.get("totals", ()):
        told = [f"{name} {short(value)}" for name, value in one["scheduler_ms"].items()]
        number = one.get("round_number", "-")
        size = f"{one['disk_bytes'] / 2**20:.0f}"
        rows.append([one["row"], str(number), size, ", ".join(told) or "-"])
    if not rows:
        return []
    head = [
        "row",
        "last round",
        "MiB on disk at its end",
        "our time on the scheduler thread, ms a request",
    ]
    return [f"#### Disk and scheduler thread\n\n{table(head, rows)}\n"]


def _rates(report: Report, row: str, phase: str, clients: int) -> list[Report]:
    return [
        one
        for one in report["rates"]
        if (one["row"], one["phase"], one["clients"]) == (row, phase, clients)
    ]


def losses(report: Report) -> list[Loss]:
    """Return where a file row loads sooner, or recomputing answers sooner."""
    found = []
    for clients in _clients(report):
        for phase in (DISK_COLD, DISK_HOT):
            tokens = report["settings"]["prompt_tokens"]
            where = f"{tokens} tokens, {clients} clients, {phase}"
            for rival in RIVALS:
                for share in (0.5, 0.99):
                    ratio = load_ratio(report, rival, phase, clients, share)
                    if ratio is not None and ratio > 1:
                        text = f"{short(ratio)}x of theirs"
                        found.append(Loss(f"load time p{share * 100:.0f}: {where}", rival, text))
            ours = list(ttft(report, OURS, phase, clients).values())
            cold = list(ttft(report, "recompute", COLD, clients).values())
            if ours and cold and percentile(ours, 0.5) > percentile(cold, 0.5):
                text = f"{short(percentile(ours, 0.5))} s, {short(percentile(cold, 0.5))} s"
                found.append(Loss(f"TTFT p50: {where}", "recompute", text))
    return found


def plots(report: Report, stem: Path) -> list[Path]:
    """Draw TTFT p50 and p99 by clients, a panel a tail; cold and device hits of one row each."""
    path = stem.with_name(f"{stem.name}.png")
    title = f"TTFT by clients at once, prompts of {report['settings']['prompt_tokens']} tokens"
    with canvas(path, title, panels=2) as axes:
        for one, share in zip(axes, (0.5, 0.99), strict=True):
            for number, (row, phase) in enumerate(_drawn(report)):
                points = {
                    float(clients): percentile(seconds, share)
                    for clients in _clients(report)
                    if (seconds := list(ttft(report, row, phase, clients).values()))
                }
                curve(one, points, f"{row}: {phase}", number, bold=row == OURS)
            plain_log(one.yaxis)
            one.set_xticks(_clients(report))
            one.set_xlabel("clients in a closed loop")
            one.set_ylabel(f"TTFT p{share * 100:.0f}, s (log)")
    return [path]


def _drawn(report: Report) -> list[tuple[str, str]]:
    """Return the lines of the plot: computing and device hits are every row's alike."""
    rows = _rows(report)
    first = next((row for row, phase in rows if phase == COLD), "")
    kept = {(first, COLD), (OURS, DEVICE)}
    return [one for one in rows if one in kept or one[1] not in (COLD, DEVICE)]


def _load_table(report: Report) -> str:
    rows = []
    for clients in _clients(report):
        for phase in (DISK_COLD, DISK_HOT):
            cells = []
            for row in (*RIVALS, OURS):
                seconds = load_times(report, row, phase, clients)
                tails = [short(percentile(seconds, share) * 1e3) for share in (0.5, 0.99)]
                cells.append(" / ".join(tails) if seconds else "-")
            for rival in RIVALS:
                ratios = [load_ratio(report, rival, phase, clients, s) for s in (0.5, 0.99)]
                cells.append(" / ".join("-" if r is None else short(r) for r in ratios))
            rows.append([f"{clients}, {phase}", *cells])
    head = ["clients, phase", *(f"{row} ms p50 / p99" for row in (*RIVALS, OURS))]
    return table([*head, *(f"lsm / {rival}" for rival in RIVALS)], rows)


def load_ratio(report: Report, rival: str, phase: str, clients: int, share: float) -> float | None:
    """Return our load time over a rival's, the same percentile of both; None of nothing."""
    ours = load_times(report, OURS, phase, clients)
    theirs = load_times(report, rival, phase, clients)
    if not ours or not theirs or percentile(theirs, share) <= 0:
        return None
    return percentile(ours, share) / percentile(theirs, share)


def _tokens(report: Report, row: str, phase: str, clients: int) -> str:
    here = [
        sample
        for sample in report["samples"]
        if (sample["row"], sample["phase"], sample["clients"]) == (row, phase, clients)
    ]
    asked = len(here) * report["settings"]["prompt_tokens"]
    tiers = ("device", "host", "disk")
    return "/".join(f"{sum(s[f'{t}_tokens'] for s in here) / asked:.0%}"[:-1] for t in tiers)


def _answers(report: Report) -> tuple[int, int]:
    """Return how many answers differ from the first one to the same prompt, and of how many."""
    first: dict[tuple[int, int, int], object] = {}
    differ = compared = 0
    for sample in report["samples"]:
        if sample["row"] == BOUND and sample["phase"] in (DISK_COLD, DISK_HOT):
            continue
        if report["settings"].get("computes_once"):
            place = (0, 0, sample["prompt"])
        else:
            place = (sample["clients"], sample["round_number"], sample["prompt"])
        compared += place in first
        differ += first.setdefault(place, sample["output_ids"]) != sample["output_ids"]
    return differ, compared


def _rows(report: Report) -> Sequence[tuple[str, str]]:
    measured = {(sample["row"], sample["phase"]) for sample in report["samples"]}
    names = ("recompute", "host", *RIVALS, OURS, BOUND)
    return [(row, phase) for phase in PHASES for row in names if (row, phase) in measured]


def _clients(report: Report) -> list[int]:
    return sorted({sample["clients"] for sample in report["samples"]})


SECTION = Section(
    file="load*",
    title="Several clients at once",
    command="scripts/bench load --json benchmark/results/load.json",
    body=body,
    losses=losses,
    plots=plots,
)

"""Time to first token on the page."""

from pathlib import Path

from benchmark.harness import round_ratios, short, summarize
from benchmark.publish.reports import Loss, Report, Section
from benchmark.ttft_report import (
    COLD,
    DISK_COLD,
    DISK_HOT,
    Sample,
    bounds_table,
    by_round,
    load_by_round,
    load_table,
    plot_model,
    summary_table,
    ttft_table,
)


def samples_of(report: Report) -> list[Sample]:
    """Return the samples of a report."""
    return [Sample(**{**s, "output_ids": tuple(s["output_ids"])}) for s in report["samples"]]


def body(report: Report) -> str:
    """Return the summary, the load times, and a table a model and length."""
    samples = samples_of(report)
    parts = [
        "Median TTFT in seconds of a prompt seen before, by where it comes back from.\n",
        summary_table(samples),
        "\n#### Load time: disk hit minus device hit\n",
        load_table(samples),
        "\n#### Against bounds\n",
        bounds_table(samples),
    ]
    for model, length in sorted({(s.model, s.prompt_tokens) for s in samples}):
        here = [s for s in samples if (s.model, s.prompt_tokens) == (model, length)]
        parts.append(f"\n#### {model}, {length} prompt tokens\n\n{ttft_table(here)}")
    return "\n".join(parts)


def losses(report: Report) -> list[Loss]:
    """Return where recompute, or `file`, is faster than we are."""
    samples = samples_of(report)
    found = []
    for model, length in sorted({(s.model, s.prompt_tokens) for s in samples}):
        here = [s for s in samples if (s.model, s.prompt_tokens) == (model, length)]
        for phase in (DISK_COLD, DISK_HOT):
            where = f"TTFT: {model}, {length} tokens, {phase}"
            ours = by_round(here, "lsm", phase)
            for rival, theirs in (
                ("recompute", by_round(here, "recompute", COLD)),
                ("file", by_round(here, "file", phase)),
            ):
                ratio = round_ratios(ours, theirs)
                if ratio and ratio.median > 1:
                    medians = [summarize(v.values()) for v in (ours, theirs)]
                    text = ", theirs ".join(f"{short(m.median)} s" for m in medians if m)
                    found.append(Loss(where, rival, f"{text} ({ratio} of theirs)"))
            ratio = round_ratios(
                load_by_round(here, "lsm", phase), load_by_round(here, "file", phase)
            )
            if ratio and ratio.median > 1:
                found.append(Loss(where.replace("TTFT", "load time"), "file", f"{ratio} of theirs"))
    return found


def plots(report: Report, stem: Path) -> list[Path]:
    """Draw one picture a model."""
    samples = samples_of(report)
    files = []
    for model in sorted({s.model for s in samples}):
        files.append(stem.with_name(f"{stem.name}-{model}.png"))
        plot_model([s for s in samples if s.model == model], files[-1])
    return files


SECTION = Section(
    file="ttft",
    title="Time to first token, end to end",
    command="scripts/bench ttft --json benchmark/results/ttft.json",
    body=body,
    losses=losses,
    plots=plots,
)
QUICK = Section(
    file="ttft-quick",
    title="Time to first token, the quick form",
    command="scripts/bench ttft --quick --json benchmark/results/ttft-quick.json",
    body=body,
    losses=losses,
    plots=lambda report, stem: (),
)

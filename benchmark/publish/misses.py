"""What the disk tier costs requests that it cannot help, on the page."""

from collections.abc import Sequence

from benchmark.misses import Miss, misses_table
from benchmark.publish.reports import Report, Section


def misses_of(report: Report) -> dict[str, list[Miss]]:
    """Return what was measured, by model."""
    found: dict[str, list[Miss]] = {}
    for kept in report["misses"]:
        values = {name: value for name, value in kept.items() if name != "model"}
        found.setdefault(kept["model"], []).append(Miss(**values))
    return found


def body(report: Report) -> str:
    """Return a table a model."""
    return "\n".join(
        f"#### {model}\n\n{misses_table(misses)}\n" for model, misses in misses_of(report).items()
    )


def models_and_lengths(report: Report) -> Sequence[tuple[str, int, list[Miss]]]:
    """Return the misses of each model and prompt length."""
    return [
        (model, length, [miss for miss in misses if miss.prompt_tokens == length])
        for model, misses in misses_of(report).items()
        for length in sorted({miss.prompt_tokens for miss in misses})
    ]


SECTION = Section(
    file="misses",
    title="What a miss costs",
    command="scripts/bench ttft --misses --model kv-heavy --json benchmark/results/misses.json",
    body=body,
)

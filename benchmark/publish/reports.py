"""The JSON files of a results folder, and what every section of the page is made of."""

import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from benchmark.harness import PACKAGES

Report = Mapping[str, object]

NOTES_NAME = "notes.toml"
_HARDWARE = ("cpu", "num_cpus", "memory_gib", "disk")
_MACHINE = (*_HARDWARE, "kernel", "file_system", "load_average_1m", "python")


class Loss(NamedTuple):
    """One comparison that we lose."""

    what: str
    """The figure, and the points where it is lost."""
    against: str
    by: str
    """Ours beside theirs, as text."""


class Notes(NamedTuple):
    """What people wrote: the only part of the page that is not computed."""

    causes: Mapping[str, str]
    """Why a promise is missed, by the promise's key."""
    sections: Mapping[str, str]
    """A remark below the head of a section, by the section's file name."""


@dataclass(frozen=True, slots=True)
class Section:
    """One benchmark's part of the page."""

    file: str
    """Stem of its JSON file; one that ends in `*` stands for every file that begins so."""
    title: str
    command: str
    """What makes the file, printed where it is missing."""
    body: Callable[[Report], str]
    """Tables, from the file's content."""
    losses: Callable[[Report], Sequence[Loss]] = lambda report: ()
    plots: Callable[[Report, Path], Sequence[Path]] = lambda report, stem: ()
    """Draws into files that begin with the path given, and returns them."""


def load(folder: Path) -> dict[str, Report]:
    """Return every JSON file of the folder by its stem."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def load_notes(folder: Path) -> Notes:
    """Return what people wrote beside the figures; nothing where there is no such file."""
    place = folder / NOTES_NAME
    content = tomllib.loads(place.read_text()) if place.exists() else {}
    return Notes(content.get("causes", {}), content.get("sections", {}))


def stems_of(section: Section, reports: Mapping[str, Report]) -> list[str]:
    """Return the files that a section is made of."""
    if not section.file.endswith("*"):
        return [section.file] if section.file in reports else []
    return [stem for stem in reports if stem.startswith(section.file[:-1])]


def origin(report: Report, command: str) -> str:
    """Return where figures come from, as a paragraph: command, commit, machine, settings."""
    machine = report.get("machine")
    facts = machine if isinstance(machine, Mapping) else {}
    lines = [
        f"`{facts.get('command', command)}` at commit {facts.get('commit', 'unknown')}",
        _listed({name: facts[name] for name in _MACHINE if name in facts}),
        _listed({name: facts[name] for name in PACKAGES if name in facts}),
    ]
    for name in ("settings", "plan", "cell"):
        found = report.get(name)
        if isinstance(found, Mapping):
            kept = {k: v for k, v in found.items() if not isinstance(v, list | dict)}
            lines.append(f"{name}: {_listed(kept)}")
    if report.get("ended_early"):
        lines.append(f"**Ended early, so figures are missing: {report['ended_early']}**")
    return "  \n".join(line for line in lines if line)


def _listed(facts: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items())

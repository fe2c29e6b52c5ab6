"""What the controller decided and why: JSON lines in the store's directory, bounded.

When `DECISIONS` is full it becomes `DECISIONS.old`, and what was there before is gone. A line that
cannot be read, the last one of a process that died, is left out.
"""

import json
import logging
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from sglang_lsm.errors import UnavailableError
from sglang_lsm.fs import File, FileSystem

logger = logging.getLogger(__name__)

DECISIONS_NAME = "DECISIONS"
OLD_NAME = "DECISIONS.old"

_LAST_MS = 10**14

Entry = Mapping[str, object]


class DecisionLog:
    """Appends decisions. Thread-safe."""

    def __init__(self, fs: FileSystem, directory: Path, *, max_bytes: int = 256 << 10) -> None:
        """Go on behind what is there. `max_bytes` holds for each of the two files."""
        self._fs, self._directory, self._max_bytes = fs, directory, max_bytes
        self._lock = threading.Lock()

    def append(self, entry: Entry) -> None:
        """Write one decision. A disk that fails costs the line, not the caller."""
        line = json.dumps(entry).encode() + b"\n"
        with self._lock:
            try:
                self._append(line)
            except UnavailableError as error:
                logger.warning("a decision was not logged. reason=%s", error)

    def _append(self, line: bytes) -> None:
        path = self._directory / DECISIONS_NAME
        content = self._fs.read(path)
        if content is None or len(content) + len(line) > self._max_bytes:
            if content is not None:
                self._fs.replace(self._directory / OLD_NAME, content)
            self._fs.replace(path, line)
            return
        # A line that a dead process left unfinished must not swallow this one.
        start = b"" if content.endswith(b"\n") or not content else b"\n"
        file: File = self._fs.open(path)
        try:
            file.pwritev([start + line], len(content))
        finally:
            file.close()


def read_decisions(fs: FileSystem, directory: Path) -> list[dict[str, object]]:
    """Return the decisions kept, oldest first. Raises UnavailableError."""
    entries = []
    for name in (OLD_NAME, DECISIONS_NAME):
        for line in (fs.read(directory / name) or b"").splitlines():
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(entry, dict):
                entries.append(entry)
    return entries


def decision_line(entry: Entry) -> str:
    """Return one decision as a line for a person; what is missing in it is a question mark."""
    time_ms = entry.get("time_ms")
    when = "?"
    if isinstance(time_ms, int | float) and 0 <= time_ms < _LAST_MS:
        when = f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d %H:%M:%S}"
    event, setting = entry.get("event", "?"), entry.get("setting", "?")
    line = f"{when}  {event}  {setting} {entry.get('old', '?')} -> {entry.get('new', '?')}"
    predicted = entry.get("predicted")
    if isinstance(predicted, dict):
        before, after = (_field(predicted.get(name), "total_s") for name in ("before", "after"))
        line += f"  predicted {before} -> {after} s/s"
    line += f"  waiting {entry.get('measured_wait_s', '?')} s/s"
    if "without_the_change_wait_s" in entry:
        line += f", {entry['without_the_change_wait_s']} without the change"
    return line


def _field(values: object, name: str) -> object:
    return values.get(name, "?") if isinstance(values, dict) else "?"

"""The `sglang-lsm` command: parses, calls, prints; exits 0 fine, 1 found a problem, 2 misuse."""

import argparse
import faulthandler
import json
import os
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from sglang_lsm import __version__
from sglang_lsm.cli.torture import torture
from sglang_lsm.cli.torture_kill import torture_by_kill
from sglang_lsm.controller.decision_log import decision_line, read_decisions
from sglang_lsm.errors import ConfigError, StoreError
from sglang_lsm.fs import LocalFileSystem
from sglang_lsm.holds import encode_holds, read_holds
from sglang_lsm.survey import StoreSurvey, Verification, find_stores, survey, verify

_FOUND_A_PROBLEM, _MISUSE = 1, 2
_TORTURE_ROLES = ("read", "write", "delete", "tend")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "torture":
            return _torture(options)
        stores = find_stores(options.directory)
        if options.command == "stats":
            _print_stats([survey(store) for store in stores], as_json=options.json)
            return 0
        if options.command == "holds":
            for store in stores:
                _print_holds(store, as_json=options.json)
            return 0
        if options.command == "decisions":
            _print_decisions({store: _decisions(store) for store in stores}, as_json=options.json)
            return 0
        reports = {str(store): verify(store) for store in stores}
        _print_verification(reports, as_json=options.json)
        return _FOUND_A_PROBLEM if any(report.damaged for report in reports.values()) else 0
    except ConfigError as error:
        print(f"sglang-lsm: {error}", file=sys.stderr)
        return _MISUSE
    except StoreError as error:
        print(f"sglang-lsm: {error}", file=sys.stderr)
        return _FOUND_A_PROBLEM


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sglang-lsm", description="Look into the disk tier of SGLang's prefix cache."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("stats", "what a store holds; also while a server uses it"),
        ("holds", "which prefixes are pinned, of a priority, or to expire"),
        ("decisions", "what the controller changed and why, newest last"),
        ("verify", "read every page back and check it; exit code 1 if one is damaged"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("directory", type=Path, help="as given to --kv-storage-path")
        command.add_argument("--json", action="store_true", help="print one JSON object")
    text = "use a new store as hard as can be and check every page; exit code 1 on any fault"
    command = commands.add_parser("torture", help=text, description=text)
    command.add_argument("directory", type=Path, help="empty, or not there yet; is left as it ends")
    command.add_argument("--seconds", type=float, default=60, help="how long")
    command.add_argument("--kill", type=int, metavar="N", help="kill a writer N times instead")
    command.add_argument("--seed", type=int, help="of the random choices; drawn if not given")
    return parser


def _torture(options: argparse.Namespace) -> int:
    seed = random.SystemRandom().randrange(1 << 32) if options.seed is None else options.seed
    if options.kill is not None:
        killed = torture_by_kill(options.directory, num_kills=options.kill, seed=seed)
        print(f"{killed.num_kills} kills, {killed.num_acknowledged} pages acknowledged, "
              f"{killed.num_lost} lost, {killed.num_wrong} wrong, seed {seed}")  # fmt: skip
        _print_problems(killed.problems)
        return 0 if killed.is_sound else _FOUND_A_PROBLEM
    report = torture(options.directory, seconds=options.seconds, seed=seed)
    counts, store = report.counts, report.store
    print(f"{counts['checked']} pages checked, {counts['wrong']} wrong, seed {seed}")
    print("steps: " + ", ".join(f"{name} {counts[name]}" for name in _TORTURE_ROLES))
    print(f"memory: {_size(report.early_bytes)} after a quarter, {_size(report.final_bytes)} at "
          f"the end; {report.num_threads} threads")  # fmt: skip
    if store:
        print("store: " + ", ".join(
            f"{name} {store[name]:.0f}"
            for name in ("pages_put", "pages_evicted", "pages_expired", "bytes_merged")
        ))  # fmt: skip
    _print_problems(report.problems)
    if report.is_growing:
        print("  problem: memory grew")
    if report.stuck:
        _print_problems([f"no progress: {name}" for name in report.stuck])
        faulthandler.dump_traceback()
        sys.stdout.flush()
        # Closing the store, as the interpreter's end does, would wait for its threads for ever.
        os._exit(_FOUND_A_PROBLEM)
    return 0 if report.is_sound else _FOUND_A_PROBLEM


def _print_problems(problems: Sequence[str]) -> None:
    for problem in problems:
        print(f"  problem: {problem}")


def _print_stats(surveys: Sequence[StoreSurvey], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([asdict(found) for found in surveys], default=str, indent=2))
        return
    for found in surveys:
        print(f"{found.directory}")
        print(f"  {found.num_segments} segments, {_size(found.allocated_bytes)} on disk")
        for name, entry in found.namespaces.items():
            facts = json.loads(entry.fingerprint) if entry.fingerprint else {}
            shape = " ".join(
                f"{key}={facts[key]}"
                for key in ("model", "kv_dtype", "layout", "page_size", "num_layers", "pool")
                if key in facts
            )
            print(
                f"  namespace {name}: {entry.num_pages} pages, {_size(entry.num_bytes)}, "
                f"{entry.num_roots} beginnings, {entry.num_encoded} encoded\n    {shape}"
            )


def _print_holds(store: Path, *, as_json: bool) -> None:
    holds = read_holds(LocalFileSystem(), store)
    if as_json:
        print(encode_holds(holds).splitlines()[0].decode())
        return
    print(f"{store}\n  {len(holds)} held")
    for hold in holds:
        wishes = ["pinned"] * hold.pinned + [f"priority {hold.priority}"] * (hold.priority > 0)
        if hold.expires_at_ms is not None:
            at = datetime.fromtimestamp(hold.expires_at_ms / 1000, UTC)
            wishes.append(f"until {at.isoformat(timespec='seconds')}")
        print(f"  namespace {hold.namespace.hex()}: {hold.num_pages} pages to "
              f"{hold.digests[-8:].hex()}: {', '.join(wishes)}")  # fmt: skip


Decision = dict[str, object]


def _decisions(store: Path) -> list[Decision]:
    return read_decisions(LocalFileSystem(), store)


def _print_decisions(decisions: dict[Path, list[Decision]], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({str(store): found for store, found in decisions.items()}, indent=2))
        return
    for store, found in decisions.items():
        print(f"{store}\n  {len(found)} decisions")
        for entry in found:
            print(f"  {decision_line(entry)}")


def _print_verification(reports: dict[str, Verification], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({store: asdict(report) for store, report in reports.items()}, indent=2))
        return
    for store, report in reports.items():
        print(f"{store}\n  {report.num_pages} pages, {_size(report.num_bytes)} read")
        for line in report.damaged:
            print(f"  damaged: {line}")
        print(f"  {len(report.damaged)} damaged")


def _size(num_bytes: int) -> str:
    if num_bytes < 10**6:
        return f"{num_bytes / 10**3:.1f} kB"
    return f"{num_bytes / 10**6:.1f} MB" if num_bytes < 10**9 else f"{num_bytes / 10**9:.2f} GB"


if __name__ == "__main__":
    sys.exit(main())

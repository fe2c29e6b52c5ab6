"""The `--kv-storage*` flags on SGLang's parsers, and what the operator wrote down.

SGLang hands `from_cli_args` a namespace in which a default and a value equal to it look the same.
So each parser that gets our flags also notes, at parse time, which of the fields we may change were
given.
"""

import argparse
import functools
from collections.abc import Callable, Sequence

from sglang_lsm.config import LogConfig

from sglang_lsm_patch.options import (
    BACKENDS,
    CODECS,
    DEFAULT_SIZE,
    DEFAULT_TUNE,
    DEFAULT_WRITE_POLICY,
    GATES,
    HOSTS,
    TUNINGS,
    WRITE_POLICIES,
    WriteConfig,
)

FIELDS = ("kv_storage", "kv_storage_path", "kv_storage_size", "kv_storage_config")
FURTHER_FIELDS = {
    "kv_storage_write": "write",
    "kv_storage_write_delay": "write-delay",
    "kv_storage_flush_writes": "flush-writes",
    "kv_storage_gate": "gate",
    "kv_storage_host": "host",
    "kv_storage_tune": "tune",
    "kv_storage_codec": "codec",
}
"""All other fields, and what `options.parse_options` calls them."""
WATCHED = ("hicache_io_backend", "hicache_mem_layout", "hicache_write_policy")
EXPLICIT = "_kv_storage_explicit"
"""Attribute of the parsed namespace: the watched fields that were given."""

_UNSET = object()

ParseKnownArgs = Callable[..., tuple[argparse.Namespace, list[str]]]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags to `parser`, once."""
    if "--kv-storage" in parser._option_string_actions:
        return
    group = parser.add_argument_group("disk tier (sglang-lsm)")
    group.add_argument(
        "--kv-storage",
        choices=BACKENDS,
        default=None,
        help="Keep the KV cache of computed prefixes on local disk, so that they are read back "
        "after eviction and after a restart instead of being computed again.",
    )
    group.add_argument(
        "--kv-storage-path",
        metavar="DIR",
        default=None,
        help="Directory of the disk tier. Default: sglang-lsm in $XDG_CACHE_HOME or ~/.cache.",
    )
    group.add_argument(
        "--kv-storage-size",
        metavar="SIZE",
        default=None,
        help="Most bytes the disk tier may take on this node: 200GB, 512MiB, or a share of the "
        f"disk space available to it, like 30%%. Default: {DEFAULT_SIZE}%.",
    )
    group.add_argument(
        "--kv-storage-config",
        metavar="JSON|@FILE",
        default=None,
        help="Further settings of the disk tier, a JSON object or @file; for example "
        '\'{"min_free": "10%%", "log": {"io_mode": "buffered"}}\'.',
    )
    _add_write_flags(group)
    _add_read_flags(group)
    group.add_argument(
        "--kv-storage-codec",
        choices=CODECS,
        default=None,
        help="Make pages that wait on a nearly full disk smaller, without loss, when the tier is "
        "idle (idle), or never (off): more pages fit, and reading one of them takes CPU. "
        f"Default: {LogConfig().codec}, unless --kv-storage-tune auto finds that it pays.",
    )
    group.add_argument(
        "--kv-storage-tune",
        choices=TUNINGS,
        default=None,
        help="Tune what --kv-storage-config leaves open to the workload (auto), or only write down "
        f"what would be changed (observe); see sglang-lsm decisions. Default: {DEFAULT_TUNE}.",
    )
    parser.parse_known_args = functools.partial(  # type: ignore[method-assign]
        _parse_and_note, parser, parser.parse_known_args
    )


def _add_write_flags(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--kv-storage-write",
        choices=tuple(WRITE_POLICIES),
        default=None,
        help="When pages are written to disk: when they leave host memory (evict), as soon as they "
        f"are computed (through), or on their second hit (selective). Default: "
        f"{DEFAULT_WRITE_POLICY}.",
    )
    group.add_argument(
        "--kv-storage-write-delay",
        metavar="SECONDS",
        type=float,
        default=None,
        help="With --kv-storage-write evict: age at which pages worth it are written although they "
        f"could stay in host memory; what is younger is lost if the server is killed. Default: "
        f"{WriteConfig().delay_s:g}.",
    )
    group.add_argument(
        "--kv-storage-flush-writes",
        action="store_true",
        default=None,
        help="With --kv-storage-write evict: write what is in host memory to disk before "
        "/flush_cache empties it.",
    )


def _add_read_flags(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--kv-storage-gate",
        choices=GATES,
        default=None,
        help="Load of a hit on disk only what is faster than computing it, by measured speeds "
        "(auto), or all of it (off). Default: auto.",
    )
    group.add_argument(
        "--kv-storage-host",
        choices=HOSTS,
        default=None,
        help="off: device and disk only; pages pass through host memory, whose size "
        "--hicache-ratio and --hicache-size set, and stay nowhere in it. Default: on.",
    )


def _parse_and_note(
    parser: argparse.ArgumentParser,
    parse: ParseKnownArgs,
    args: Sequence[str] | None = None,
    namespace: argparse.Namespace | None = None,
) -> tuple[argparse.Namespace, list[str]]:
    """Parse as always; argparse leaves a field alone that already has a value, here a marker."""
    namespace = argparse.Namespace() if namespace is None else namespace
    noted = [name for name in WATCHED if not hasattr(namespace, name)]
    for name in noted:
        setattr(namespace, name, _UNSET)
    namespace, rest = parse(args, namespace)
    explicit = set(WATCHED) - set(noted)
    for name in noted:
        if getattr(namespace, name) is _UNSET:
            setattr(namespace, name, parser.get_default(name))
        else:
            explicit.add(name)
    setattr(namespace, EXPLICIT, frozenset(explicit))
    return namespace, rest

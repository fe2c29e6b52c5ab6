"""Checks that need the disk, done by the launcher before a model loads.

A worker that finds its store locked or newer would die after minutes of loading; here it is one
message.
"""

import dataclasses
import os
import shutil
import tempfile
from pathlib import Path

from sglang_lsm.config import MIB, LogConfig, parse_size
from sglang_lsm.directory import check_directory
from sglang_lsm.errors import ConfigError

from sglang_lsm_patch.options import ModelSource, TierOptions, TierSettings

RANK_DIRS = "tp*-pp*"
"""The folders of the ranks below the tier's path; `storage.rank_directory` names them."""

MIN_SEGMENTS = 8
"""Of a quota: whole segments are what the store gives back, so few of them would forget much."""
MAX_SEGMENTS = 8192
"""Of a quota: each may hold two descriptors, of the 65,535 that SGLang asks for."""
_MOST_SEGMENT_BYTES = 15 << 30


def settings(options: TierOptions, *, model: ModelSource, num_ranks: int) -> TierSettings:
    """Create the tier's directory and size each rank's store to the disk it lies on.

    Raises:
        ConfigError: the path cannot be written, or a size is not one or exceeds the disk.
    """
    _require_writable(options.path)
    disk = shutil.disk_usage(options.path)
    total_bytes = parse_size(options.size, of_bytes=disk.free + _used_bytes(options.path))
    if total_bytes > disk.total:
        raise ConfigError(
            f"--kv-storage-size is larger than the disk. size={options.size} "
            f"disk_bytes={disk.total} path={options.path}"
        )
    quota_bytes = total_bytes // num_ranks
    return TierSettings(
        path=str(options.path),
        quota_bytes=quota_bytes,
        min_free_bytes=parse_size(options.config.min_free, of_bytes=disk.total),
        log=_fitting(options, quota_bytes),
        index=options.config.index,
        eviction=options.config.eviction,
        gate=options.config.gate,
        host=options.host,
        admission=options.config.admission,
        tune=options.config.tune,
        operator_set=options.operator_set,
        model=model,
        write_policy=options.write_policy,
        write=options.config.write,
    )


def require_openable(tier: TierSettings) -> None:
    """Check each rank's store that exists, changing nothing, so that a refusal comes now.

    Raises:
        ConfigError: another process uses one of them, or a setting cannot work.
        FormatVersionError: one was written by a newer format; it is left as it is.
        UnavailableError: the disk does not answer.
    """
    tier.store_config()
    for directory in sorted(Path(tier.path).glob(RANK_DIRS)):
        check_directory(directory)


def _require_writable(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ConfigError(f"cannot write to --kv-storage-path: {error}") from None


def _fitting(options: TierOptions, quota_bytes: int) -> LogConfig:
    log = options.config.log
    least, most = quota_bytes // MAX_SEGMENTS, quota_bytes // MIN_SEGMENTS
    if options.segment_bytes_given or least <= log.segment_bytes <= most:
        return log
    segment_bytes = most // MIB * MIB if log.segment_bytes > most else -(-least // MIB) * MIB
    segment_bytes = min(max(MIB, segment_bytes), _MOST_SEGMENT_BYTES)
    return dataclasses.replace(log, segment_bytes=segment_bytes)


def _used_bytes(path: Path) -> int:
    """Bytes the tier has allocated already: a share of the disk must not shrink at each restart."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512  # noqa: PTH118
            except FileNotFoundError:
                continue
    return total

"""Settings: frozen, checked, each saying what growing it buys and costs."""

import dataclasses
import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from sglang_lsm.errors import ConfigError

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

IoMode = Literal["auto", "buffered", "direct"]
Durability = Literal["none", "interval", "batch"]
Eviction = Literal["reuse", "lru"]
MergePolicy = Literal["tiered", "leveled", "off"]
Admission = Literal["first", "second"]
Codec = Literal["off", "idle"]
Tuning = Literal["auto", "off", "observe"]

_SIZE_UNITS = {
    "": 1, "B": 1,
    "K": KIB, "KB": 10**3, "KIB": KIB,
    "M": MIB, "MB": 10**6, "MIB": MIB,
    "G": GIB, "GB": 10**9, "GIB": GIB,
    "T": 1 << 40, "TB": 10**12, "TIB": 1 << 40,
}  # fmt: skip
_SIZE = re.compile(r"\s*([+-]?\d{1,30}(?:\.\d{1,30})?)\s*([A-Za-z]*|%)\s*")

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """The tensor log: how page bytes are laid on the disk and moved."""

    segment_bytes: int = 256 * MIB
    """Size of one file. Larger: fewer files; smaller: space comes back in smaller steps."""
    io_mode: IoMode = "auto"
    """`direct` leaves the page cache alone and needs 4 KiB-aligned memory; `buffered` lets the page
    cache serve as one more tier. `auto` writes direct; it reads from the page cache what is there,
    fills it with what is read again and again, and goes around it for the rest, and for everything
    once the log holds twice the memory that is available."""
    io_bytes: int = 4 * MIB
    """Bytes of one system call. Larger saves calls until the device is busy; 4 MiB is enough."""
    reader_threads: int = 4
    """Parallel reads of one batch. More reach the device's limit, and cost CPU beyond it."""
    merge_policy: MergePolicy = "tiered"
    """When a prefix that is read is copied together. `leveled` at once, so that it lies in one run:
    fewest reads; `tiered` when it lies in too many: fewest writes; `off` never."""
    merge_max_runs: int = 4
    """How many runs `tiered` lets be; of a long prefix, half as many for each call that its bytes
    take. More copies less, and leaves more calls to a read."""
    merge_bytes_per_s: int = 64 * MIB
    """How fast scattered prefixes that were read are copied together; 0 is never. More restores
    adjacency sooner, and writes more while others read."""
    codec: Codec = "off"
    """Whether pages that wait are made smaller without loss. `idle` encodes what was not used for a
    while, when no call is under way and less than a quarter of the quota is free: bfloat16 KV takes
    0.68 of its room, so more pages fit; each such page is written twice, and decoded when read. The
    controller may choose it, see `controller.codec_choice`."""
    codec_bytes_per_s: int = 32 * MIB
    """How fast pages are read to be encoded. More keeps up with faster puts, and takes more of the
    disk and of a core: 2 s of CPU a GB."""
    durability: Durability = "none"
    """What a power cut may lose; kill -9 loses nothing acknowledged in any mode. `batch` syncs each
    put (about half the speed), `interval` every `sync_interval_s`."""
    sync_interval_s: float = 5.0
    unsafe_skip_checksums: bool = False
    """For measuring what verification costs, never for serving: pages are handed out as they are
    read, damaged ones and those evicted during the read included. Writing goes on as usual, and the
    index still tells one page from another."""

    def __post_init__(self) -> None:
        """Raise ConfigError for a value that cannot work."""
        _require(
            self.segment_bytes >= MIB, "segment_bytes must be at least 1 MiB", self.segment_bytes
        )
        _require(
            self.segment_bytes % 4096 == 0,
            "segment_bytes must be a multiple of 4096",
            self.segment_bytes,
        )
        _require(
            self.segment_bytes < 16 * GIB, "segment_bytes must be below 16 GiB", self.segment_bytes
        )
        _require(self.io_bytes >= 4096, "io_bytes must be at least 4096", self.io_bytes)
        _require(
            1 <= self.reader_threads <= 64, "reader_threads must be 1 to 64", self.reader_threads
        )
        _require(self.merge_max_runs >= 1, "merge_max_runs must be at least 1", self.merge_max_runs)
        _require(
            self.merge_bytes_per_s >= 0,
            "merge_bytes_per_s must not be negative",
            self.merge_bytes_per_s,
        )
        _require(
            self.codec_bytes_per_s > 0, "codec_bytes_per_s must be positive", self.codec_bytes_per_s
        )
        _require(self.sync_interval_s > 0, "sync_interval_s must be positive", self.sync_interval_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexConfig:
    """The LSM index: RocksDB's knobs for about 45 bytes of disk a page."""

    memtable_bytes: int = 16 * MIB
    """Sorted write buffer. Larger: fewer flushes, more to replay after kill -9."""
    block_cache_bytes: int = 64 * MIB
    """Memory for index blocks. Larger: fewer index reads once the index outgrows it."""
    bloom_bits_per_key: int = 10
    """More bits: fewer wasted table reads on a miss, more memory."""
    size_ratio: int = 10
    """Capacity of a level over the one above. Larger: fewer levels, more bytes rewritten."""
    level0_trigger: int = 4
    """Flushed tables before compaction. More: fewer rewrites, more tables to probe."""

    def __post_init__(self) -> None:
        """Raise ConfigError for a value that cannot work."""
        _require(
            self.memtable_bytes >= 64 * KIB,
            "memtable_bytes must be at least 64 KiB",
            self.memtable_bytes,
        )
        _require(
            self.block_cache_bytes >= 0,
            "block_cache_bytes must not be negative",
            self.block_cache_bytes,
        )
        _require(
            self.bloom_bits_per_key >= 0,
            "bloom_bits_per_key must not be negative",
            self.bloom_bits_per_key,
        )
        _require(self.size_ratio >= 2, "size_ratio must be at least 2", self.size_ratio)
        _require(self.level0_trigger >= 1, "level0_trigger must be at least 1", self.level0_trigger)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreConfig:
    """One store directory."""

    quota_bytes: int
    """Bytes of page data on disk, preallocation included, never exceeded."""
    min_free_bytes: int = 0
    """Free space left on the file system; the store shrinks rather than go below."""
    eviction: Eviction = "reuse"
    """`reuse` learns which pages come back, and lets those go that are worth least for their room;
    `lru` goes by the last use alone. Both let a page go only after what extends it."""
    admission: Admission = "first"
    """When a page offered is stored. `second` writes it when it is offered again: nothing for what
    nobody asks for twice, and each page that is asked for again is computed once more."""
    pinned_share: float = 0.5
    """Of the quota, what pinned pages may take. More keeps more for sure, and leaves less to what
    is used."""
    log: LogConfig = field(default_factory=LogConfig)
    index: IndexConfig = field(default_factory=IndexConfig)

    def __post_init__(self) -> None:
        """Raise ConfigError for a value that cannot work."""
        _require(self.quota_bytes > 0, "quota_bytes must be positive", self.quota_bytes)
        _require(
            self.min_free_bytes >= 0, "min_free_bytes must not be negative", self.min_free_bytes
        )
        # The newest segment takes a quarter at most, and pages need room to come and go.
        _require(0 <= self.pinned_share <= 0.7, "pinned_share must be 0 to 0.7", self.pinned_share)
        # The newest segment is preallocated whole: with few of them, much of the quota stays empty.
        _require(
            self.quota_bytes >= 4 * self.log.segment_bytes,
            f"quota_bytes must hold at least 4 segments of {self.log.segment_bytes} bytes",
            self.quota_bytes,
        )


LIVE_LOG_SETTINGS = (
    "io_mode", "io_bytes", "reader_threads", "merge_bytes_per_s", "merge_policy", "merge_max_runs",
    "codec", "codec_bytes_per_s",
)  # fmt: skip
LIVE_INDEX_SETTINGS = ("memtable_bytes", "block_cache_bytes", "size_ratio", "level0_trigger")
"""Settings that an open store can change; of `StoreConfig` itself, `admission`."""


def require_live(old: StoreConfig, new: StoreConfig) -> None:
    """Raise ConfigError if `new` differs from `old` in a setting that needs a restart."""
    log = {name: getattr(old.log, name) for name in LIVE_LOG_SETTINGS}
    index = {name: getattr(old.index, name) for name in LIVE_INDEX_SETTINGS}
    rest = dataclasses.replace(
        new,
        admission=old.admission,
        log=dataclasses.replace(new.log, **log),
        index=dataclasses.replace(new.index, **index),
    )
    _require(rest == old, "a setting that differs cannot change while the store is open", rest)


def parse_size(text: str, *, of_bytes: int) -> int:
    """Return the bytes meant by `text`: `200GB` (10^9), `64MiB` (2^20), or `30%` of `of_bytes`.

    Raises:
        ConfigError: not a size, zero, negative, or more than 100 %.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ConfigError(f"not a size; write it like 200GB, 512MiB or 30%. size={text!r}")
    number, unit = Fraction(match[1]), match[2].upper()
    if unit == "%":
        if number > 100:
            raise ConfigError(f"a share of the disk must be at most 100%. size={text!r}")
        size = int(of_bytes * number / 100)
    elif unit in _SIZE_UNITS:
        size = int(number * _SIZE_UNITS[unit])
    else:
        raise ConfigError(
            f"unknown unit; use KB, MB, GB, TB, KiB, MiB, GiB, TiB or %. size={text!r}"
        )
    if size <= 0:
        raise ConfigError(f"a size must be larger than zero. size={text!r}")
    return size


def from_mapping(cls: type[T], values: Mapping[str, object], *, where: str = "") -> T:
    """Build the settings class `cls` from parsed JSON, checking names and types.

    Nested settings are nested objects. `where` is the dotted place of `values`, for messages.

    Raises:
        ConfigError: an unknown name (the nearest valid one is named), a wrong type, a bad value.
    """
    hints = get_type_hints(cls)
    known = {f.name: hints[f.name] for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    arguments: dict[str, object] = {}
    for name, value in values.items():
        place = f"{where}.{name}" if where else name
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            raise ConfigError(
                f"unknown setting; the nearest valid one is {close[0]!r}. setting={place!r}"
            )
        arguments[name] = _checked(known[name], value, place)
    try:
        return cls(**arguments)
    except TypeError as error:
        raise ConfigError(f"a required setting is missing: {error}") from None


def _checked(hint: Any, value: object, place: str) -> object:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise ConfigError(f"must be an object. setting={place!r} value={value!r}")
        return from_mapping(hint, value, where=place)
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ConfigError(
                f"must be one of {', '.join(get_args(hint))}. setting={place!r} value={value!r}"
            )
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"must be of type {hint.__name__}. setting={place!r} value={value!r}")
    return value


def _require(holds: bool, rule: str, value: object) -> None:
    if not holds:
        raise ConfigError(f"{rule}. value={value}")

"""What encoding pages that wait costs and brings: seconds a second of workload. Pure.

Room that is short is worth the pages that come back and have left. With M bytes a second of those
that would be hits in more room (`hit_curve`), W bytes put, and per byte: c to compute, g to
get, p to put, e of CPU to encode, d to decode, as they were measured:

    room    1 / (1 - s * (1 - r)) times as much; r = what a page takes encoded, of its room; s =
            share of what is put for which the encoder finds time, by its rate and by the CPU that
            is idle
    brings  M * (c + p - g): hits instead of pages computed and written anew
    costs   s * W * (e + reading and writing it), and 2 * d (waiting, and CPU) a byte that is read
            encoded: M, and what was read after as many others as make a page wait (`encodable`)

Once pages lie encoded, what is predicted is what would be without it: M are the hits that there
were, beyond those that the store had of pages as far apart before; the CPU of encoding is that of
the counters, and reads decode what they decoded.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

from sglang_lsm.config import StoreConfig
from sglang_lsm.controller.cost_model import Cost, predict, read_transfers, write_transfers
from sglang_lsm.controller.profile import DeviceProfile
from sglang_lsm.controller.window import Window
from sglang_lsm.encoding import SCARCE_SHARE

_LARGE = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecFigures:
    """What encoding does to the pages of a store, as measured."""

    room_share: float
    """What a page takes encoded, of its room."""
    encode_cpu_s: float
    """A byte; so is `decode_cpu_s`."""
    decode_cpu_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What pages may take on the disk, and what they take."""

    num_bytes: float
    allocated_bytes: float
    page_bytes: float
    """Mean, plain, in whole blocks; 0 if it is not known."""

    def is_scarce(self, config: StoreConfig) -> bool:
        """Return whether pages are encoded at all, as `PageEncoder` decides it."""
        return self.num_bytes - self.allocated_bytes < SCARCE_SHARE * config.quota_bytes


class Choice(NamedTuple):
    """What a window cost, or would have cost, either way."""

    plain: Cost
    encoded: Cost


class _Moved(NamedTuple):
    """Seconds a second."""

    wait_s: float
    background_s: float
    cpu_s: float


def times_room(figures: CodecFigures, share: float) -> float:
    """Return how many times as many pages fit where such a share of them is encoded."""
    return 1.0 / (1.0 - share * (1.0 - figures.room_share))


def encoded_share(put_bytes: float, idle_cpus: float, figures: CodecFigures, rate: float) -> float:
    """Return the share of what is put that can be encoded.

    Args:
        put_bytes: a second, on average.
        idle_cpus: CPU that nobody uses, on average.
        rate: `LogConfig.codec_bytes_per_s`.
    """
    if put_bytes <= 0:
        return 1.0 if idle_cpus > 0 else 0.0
    by_cpu = idle_cpus / max(put_bytes * figures.encode_cpu_s, 1e-12)
    return min(1.0, rate / put_bytes, by_cpu)


def price_s(room: Room, figures: CodecFigures, profile: DeviceProfile) -> float:
    """Return the one-off price of encoding all that the room holds."""
    a_byte = figures.encode_cpu_s + _copy_s(figures, profile)
    return room.num_bytes * a_byte


def if_encoded(
    config: StoreConfig,
    window: Window,
    profile: DeviceProfile,
    figures: CodecFigures,
    page_bytes: float,
    share: float,
) -> Choice:
    """Predict what encoding `share` of what is put would have made of a window without it.

    Args:
        page_bytes: see `Room`.
        share: see `encoded_share`; the window's `encoded_hits` are those in the room that there
            then is.
    """
    # A sample may tell of more than there were.
    missed = min(window.around.encoded_hits, window.pages_put) * page_bytes
    waited = min(window.around.encoded_reads, window.pages_got) * page_bytes
    base = predict(config, config, window, profile)
    lost_s = missed * window.around.recompute_s_per_byte
    get, put = _get(config, window, profile, missed, figures), _put(config, window, profile, missed)
    decode_s = (missed + waited) * figures.decode_cpu_s
    encoded = share * window.bytes_put
    after = replace(
        base,
        read_s=base.read_s + get.wait_s + decode_s,
        write_s=max(0.0, base.write_s - put.wait_s),
        background_s=max(0.0, base.background_s - put.background_s)
        + encoded * _copy_s(figures, profile),
        cpu_s=max(0.0, base.cpu_s - put.cpu_s)
        + get.cpu_s
        + decode_s
        + encoded * figures.encode_cpu_s,
    )
    return Choice(replace(base, recompute_s=base.recompute_s + lost_s), after)


def if_plain(
    config: StoreConfig,
    window: Window,
    profile: DeviceProfile,
    figures: CodecFigures,
    page_bytes: float,
) -> Choice:
    """Tell what a window with encoding cost, and predict what it would have cost without."""
    brought = min(max(0.0, window.around.encoded_hits), window.pages_got) * page_bytes
    base = predict(config, config, window, profile)
    encoded = replace(
        base,
        background_s=base.background_s + window.bytes_to_encode * _copy_s(figures, profile),
        cpu_s=base.cpu_s + window.encode_cpu_s,
    )
    get = _get(config, window, profile, brought, figures)
    put = _put(config, window, profile, brought)
    decode_s = window.pages_decoded * page_bytes * figures.decode_cpu_s
    plain = replace(
        base,
        read_s=max(0.0, base.read_s - get.wait_s - decode_s),
        write_s=base.write_s + put.wait_s,
        background_s=base.background_s + put.background_s,
        cpu_s=max(0.0, base.cpu_s - get.cpu_s - decode_s) + put.cpu_s,
        recompute_s=base.recompute_s + brought * window.around.recompute_s_per_byte,
    )
    return Choice(plain, encoded)


def _copy_s(figures: CodecFigures, profile: DeviceProfile) -> float:
    """Return the device's time to read a byte and write it at its new size."""
    read, write = profile.speed("read_cold", _LARGE, 1), profile.speed("write_direct", _LARGE, 1)
    return read.s_per_byte + figures.room_share * write.s_per_byte


def _get(
    config: StoreConfig, window: Window, profile: DeviceProfile, rate: float, figures: CodecFigures
) -> _Moved:
    """Return what reading `rate` bytes a second costs that lie encoded, without decoding."""
    flow = read_transfers(config, config, window, profile, rate * figures.room_share)
    own_s = rate * (_per(window.read_own_s, window.bytes_got) or _put_own_s(window))
    return _Moved(flow.wait_s + own_s, flow.background_s, flow.cpu_s + own_s)


def _put(config: StoreConfig, window: Window, profile: DeviceProfile, rate: float) -> _Moved:
    flow = write_transfers(config, window, profile, rate)
    own_s = rate * _put_own_s(window)
    return _Moved(flow.wait_s + own_s, flow.background_s, flow.cpu_s + own_s)


def _put_own_s(window: Window) -> float:
    return _per(max(0.0, window.write_own_s - window.ask_s), window.bytes_put)


def _per(amount: float, num: float) -> float:
    return amount / num if num > 0 else 0.0

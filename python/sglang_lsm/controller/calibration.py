"""What live transfers teach of the device: how far its profile is from what a window saw. Pure."""

from sglang_lsm.config import StoreConfig
from sglang_lsm.controller.cost_model import read_kinds, read_transfers, write_transfers
from sglang_lsm.controller.profile import DeviceProfile, Kind
from sglang_lsm.controller.window import Window

_CLEAR = 0.7
"""Of the time of reads, the share that one kind has to take for it to be told apart."""


def calibrated(profile: DeviceProfile, config: StoreConfig, window: Window) -> DeviceProfile:
    """Return the profile after a window that `config` served; kinds it did not see fade."""
    seconds: dict[Kind, float] = {}
    cpu: dict[Kind, float] = {}
    read = read_transfers(config, config, window, profile, window.bytes_got)
    main = _main_kind(config, window, profile)
    if main is not None and window.read_io_s > 0 and read.wait_s > 0:
        seconds[main] = window.read_io_s / read.wait_s
        if window.read_transfer_cpu_s > 0 and read.cpu_s > 0:
            cpu[main] = window.read_transfer_cpu_s / read.cpu_s
    write = write_transfers(config, window, profile, window.bytes_put)
    kind: Kind = "write_buffered" if config.log.io_mode == "buffered" else "write_direct"
    if window.write_io_s > 0 and write.wait_s > 0:
        seconds[kind] = window.write_io_s / write.wait_s
        if window.write_transfer_cpu_s > 0 and write.cpu_s > 0:
            cpu[kind] = window.write_transfer_cpu_s / write.cpu_s
    return profile.refreshed(seconds, cpu)


def _main_kind(config: StoreConfig, window: Window, profile: DeviceProfile) -> Kind | None:
    """Return the kind of transfer that reads spent their time on, where that is clear."""
    times = {
        kind: share * profile.speed(kind, 1 << 20, 2).s_per_byte
        for kind, share in read_kinds(config, window).items()
    }
    main = max(times, key=lambda kind: times[kind])
    return main if times[main] >= _CLEAR * sum(times.values()) else None

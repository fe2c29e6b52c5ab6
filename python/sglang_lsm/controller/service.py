"""The thread that tunes a store: brings the device's profile, then steps once a second."""

import logging
import threading
from collections.abc import Callable, Collection
from typing import Literal

from sglang_lsm.controller.decision_log import DecisionLog
from sglang_lsm.controller.profile import DeviceProfile
from sglang_lsm.controller.profiler import (
    ProfilerConfig,
    keep_profile,
    load_profile,
    measure_profile,
)
from sglang_lsm.controller.senses import IdleCpus, Senses
from sglang_lsm.controller.tuner import Tuner
from sglang_lsm.errors import UnavailableError
from sglang_lsm.fs import LocalFileSystem, available_memory_bytes
from sglang_lsm.periodic import Periodic
from sglang_lsm.store import Store

logger = logging.getLogger(__name__)

_KEEP_EVERY = 300
"""Steps between two times that the corrected profile is kept."""


class TunerService:
    """Tunes a store until it is stopped. Stop it before the store is closed."""

    def __init__(
        self,
        store: Store,
        *,
        mode: Literal["auto", "observe"],
        fixed: Collection[str] = (),
        interval_s: float = 1.0,
        recompute_s_per_byte: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """Start the thread; the device is measured on it, unless the store keeps a profile.

        Args:
            fixed: settings that the operator has set, see `policy.free_settings`.
            recompute_s_per_byte: time to compute a byte of KV; 0 where it is not known.
        """
        self._store, self._mode, self._fixed = store, mode, fixed
        self._fs = LocalFileSystem()
        self._senses = Senses(
            note=DecisionLog(self._fs, store.directory).append,
            cache_bytes=lambda: float(available_memory_bytes()),
            recompute_s_per_byte=recompute_s_per_byte,
            free_bytes=lambda: float(self._fs.free_bytes(store.directory)),
            idle_cpus=IdleCpus(),
        )
        self._tuner: Tuner | None = None
        self._num_steps = 0
        self._stopping = threading.Event()
        self._thread = Periodic("kv-storage-tune", interval_s, self._step)

    def stop(self) -> None:
        """End the thread, wait for it, and keep what was learned of the device."""
        self._stopping.set()
        self._thread.stop()
        if self._tuner is not None:
            self._tuner.close()
            self._keep(self._tuner.profile)

    def _step(self) -> None:
        if self._tuner is None:
            self._tuner = Tuner(
                self._store, self._profile(), self._senses, mode=self._mode, fixed=self._fixed
            )
            return
        self._tuner.step()
        self._num_steps += 1
        if self._num_steps % _KEEP_EVERY == 0:
            self._keep(self._tuner.profile)

    def _profile(self) -> DeviceProfile:
        directory = self._store.directory
        kept = load_profile(self._fs, directory)
        if kept is not None:
            return kept
        config = ProfilerConfig()
        # The quota counts the log alone, so the scratch file must leave the floor untouched.
        floor_bytes = self._store.config.min_free_bytes + 4 * config.scratch_bytes
        if self._fs.free_bytes(directory) < floor_bytes:
            raise UnavailableError("no room to measure the device; tried again in a moment")
        profile = measure_profile(self._fs, directory, config, should_stop=self._stopping.is_set)
        self._keep(profile)
        logger.info("the device was measured. path=%s", directory)
        return profile

    def _keep(self, profile: DeviceProfile) -> None:
        try:
            keep_profile(self._fs, self._store.directory, profile)
        except UnavailableError as error:
            logger.warning("the device profile was not kept. reason=%s", error)

"""Asks a store what encoding would do to its pages, weighs it each window, and switches it."""

import math
from collections.abc import Collection
from typing import Literal, Protocol

from sglang_lsm import format
from sglang_lsm.config import StoreConfig
from sglang_lsm.controller.codec_choice import CODEC, ENOUGH_BYTES, CodecChoice
from sglang_lsm.controller.codec_cost import CodecFigures, Room
from sglang_lsm.controller.policy import Change, PolicyConfig
from sglang_lsm.controller.profile import DeviceProfile
from sglang_lsm.controller.reuse import ReuseCurve
from sglang_lsm.controller.senses import Senses
from sglang_lsm.controller.window import Window
from sglang_lsm.copying import Shrinkage
from sglang_lsm.observability.counters import StoreStats

_ASK_EVERY_S, _ASK_AGAIN_S = 300.0, 10.0
"""Figures are asked for anew after the one; after the other, where no page waited."""


class Encoding(Protocol):
    """The part of a store that is needed here."""

    config: StoreConfig

    def tune(self, config: StoreConfig) -> None:
        """See `Store.tune`."""

    def try_encoding(self, max_bytes: int) -> Shrinkage:
        """See `Store.try_encoding`."""


class CodecTuner:
    """Switches the codec of one store. Owned by one thread."""

    def __init__(
        self,
        store: Encoding,
        senses: Senses,
        *,
        mode: Literal["auto", "observe"],
        fixed: Collection[str],
        policy: PolicyConfig,
    ) -> None:
        """Leave alone what the operator has set, see `policy.free_settings`; pages encoded from the
        start are that, too."""
        self._store, self._senses, self._mode = store, senses, mode
        self._choice = CodecChoice(policy)
        self._is_free = not {CODEC, "log"} & set(fixed) and store.config.log.codec == "off"
        self._ask_at_s = -math.inf
        self._is_said = False
        """Of a mode that does nothing: once is enough, as long as it would be done."""

    def step(
        self,
        window: Window,
        stats: StoreStats,
        profile: DeviceProfile,
        curve: ReuseCurve,
        *,
        may_begin: bool,
        may_end: bool,
    ) -> tuple[str, Change, Window] | None:
        """Take one more window; return what is to be written down, if anything.

        Args:
            stats: as of its end.
            curve: that has learned from it, and of nothing after it.
            may_begin: whether a change may be made that has still to earn its price.
            may_end: whether any change may be made.

        Raises:
            UnavailableError, CorruptionError, ClosedError: nothing was changed.
        """
        if not self._is_free or window.around.recompute_s_per_byte <= 0:
            return None
        config, idle_cpus = self._store.config, self._senses.idle_cpus()
        room = self._room(stats)
        is_plain = config.log.codec == "off"
        if is_plain:
            self._ask(room, curve)
        seen = self._choice.see(config, window, curve.returned, idle_cpus)
        found = self._choice.weigh(config, seen, profile, room) if room.page_bytes > 0 else None
        self._is_said = self._is_said and not self._choice.is_settled
        if found is None or self._is_said:
            return None
        event, change = found
        if event == "kept":
            return "kept", change, seen
        if not (may_begin if event == "begin" else may_end):
            return None
        return self._act(change, begins=event == "begin"), change, seen

    def _act(self, change: Change, *, begins: bool) -> str:
        if self._mode == "observe":
            self._is_said = True
            return "would change"
        self._store.tune(change.config)
        if begins:
            self._choice.begun()
            return "changed"
        self._choice.ended()
        return "rolled back"

    def _room(self, stats: StoreStats) -> Room:
        config = self._store.config
        free_bytes = self._senses.free_bytes() - config.min_free_bytes
        page_bytes = format.padded(stats.bytes_put // max(1, stats.pages_put))
        return Room(
            num_bytes=min(config.quota_bytes, stats.allocated_bytes + max(0.0, free_bytes)),
            allocated_bytes=stats.allocated_bytes,
            page_bytes=page_bytes,
        )

    def _ask(self, room: Room, curve: ReuseCurve) -> None:
        """Have some pages tried, if room is short and pages come back that it did not hold."""
        now_s = self._senses.clock()
        if now_s < self._ask_at_s or not room.is_scarce(self._store.config):
            return
        if room.page_bytes <= 0 or not curve.returned[1].any():
            return
        self._ask_at_s = now_s + _ASK_AGAIN_S
        found = self._store.try_encoding(ENOUGH_BYTES)
        if not found.num_bytes:
            return
        self._ask_at_s = now_s + _ASK_EVERY_S
        self._choice.figures = CodecFigures(
            room_share=1.0 - found.saved_bytes / found.num_bytes,
            encode_cpu_s=found.encode_cpu_s / found.num_bytes,
            decode_cpu_s=found.decode_cpu_s / max(1, found.decoded_bytes),
        )

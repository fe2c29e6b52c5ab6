"""Whether pages that wait are encoded: chosen late, given up late, each by what it cost so far.

Encoding pays only after it has gone through much of the store, so no trial of some seconds can
judge it. Its price is known: encoding all that the room holds. So while pages are plain, what
encoding would have saved, beyond the margin that any change needs, is added up, never below zero;
once that exceeds the price, it begins. While pages are encoded, what that cost beyond what it
brought is added up likewise; once it exceeds twice the price (one to encode what there is, one
until the room that this makes has filled), or pages turn out not to shrink, it ends, and twice as
much has to speak for it before it begins again. So where it was wrong it costs two prices, however
the workload goes, and it changes only as often as they have been spent.

Pure but for its sums; needs no clock.
"""

from dataclasses import dataclass, replace
from typing import Literal

from sglang_lsm.codec import LEAST_SAVING
from sglang_lsm.config import Codec, StoreConfig
from sglang_lsm.controller.codec_cost import (
    Choice,
    CodecFigures,
    Room,
    encoded_share,
    if_encoded,
    if_plain,
    price_s,
    times_room,
)
from sglang_lsm.controller.hit_curve import Counts, HitCurve, distance_bin
from sglang_lsm.controller.policy import Change, PolicyConfig, with_value
from sglang_lsm.controller.profile import DeviceProfile
from sglang_lsm.controller.window import Window
from sglang_lsm.eviction.encodable import WAITING_SHARE

CODEC = "log.codec"
ENOUGH_BYTES = 16 << 20
"""Encoded, they tell how pages shrink."""
_HALF_LIFE_S = 600.0
"""Of what is averaged: longer than a burst of requests, shorter than a shift of the day."""
_STAKED_PRICES = 2.0
_MAX_PATIENCE = 64.0

Event = Literal["begin", "kept", "end"]


@dataclass(slots=True)
class _Lately:
    """Sums that fade."""

    seconds: float = 0.0
    bytes_put: float = 0.0
    idle_cpu_s: float = 0.0


class CodecChoice:
    """Decides for one store. Owned by one thread."""

    def __init__(self, policy: PolicyConfig) -> None:
        """Begin with nothing that speaks for either."""
        self._policy = policy
        self.figures: CodecFigures | None = None
        self._lately = _Lately()
        self._plain = HitCurve()
        """Of the store while no page is encoded."""
        self._against_s = 0.0
        """What speaks against the value that is set."""
        self._earned_s = 0.0
        self._patience = 1.0
        self._is_kept = False
        self._tried_bytes = self._saved_bytes = self._cpu_s = 0.0
        """Of encoding, since it began."""

    def see(
        self, config: StoreConfig, window: Window, returned: Counts, idle_cpus: float
    ) -> Window:
        """Take the newest window into the averages; return it with what encoding has to do with it.

        Args:
            config: as the window was served.
            window: the newest.
            returned: pages that came back in it.
            idle_cpus: that nobody used in it.
        """
        late, kept = self._lately, 0.5 ** (window.seconds / _HALF_LIFE_S)
        late.seconds = kept * late.seconds + window.seconds
        late.bytes_put = kept * late.bytes_put + window.bytes_put * window.seconds
        late.idle_cpu_s = kept * late.idle_cpu_s + idle_cpus * window.seconds
        if config.log.codec == "off":
            self._plain.enter(returned, kept_share=kept)
            hits = self._plain.least_gain(returned, times_room=self._times_room(config))
        else:
            # The curve is still that of the store as it was before.
            hits = float(returned[0].sum()) - self._plain.most_hits(returned)
        waits_from = distance_bin(window.num_pages / WAITING_SHARE)
        around = replace(
            window.around,
            encoded_hits=hits / window.seconds,
            encoded_reads=float(returned[0, waits_from:].sum()) / window.seconds,
        )
        return replace(window, around=around)

    def _times_room(self, config: StoreConfig) -> float:
        return times_room(self.figures, self.share(config)) if self.figures else 1.0

    def share(self, config: StoreConfig) -> float:
        """Return the share of what is put that the encoder would have had time for lately."""
        late = self._lately
        if self.figures is None or late.seconds <= 0:
            return 0.0
        return encoded_share(
            late.bytes_put / late.seconds, late.idle_cpu_s / late.seconds, self.figures,
            config.log.codec_bytes_per_s,
        )  # fmt: skip

    def weigh(
        self, config: StoreConfig, window: Window, profile: DeviceProfile, room: Room
    ) -> tuple[Event, Change] | None:
        """Take one more window; return what is to be done now, if anything.

        Args:
            window: as `see` returned it.
        """
        if self.figures is None:
            return None
        if config.log.codec == "off":
            return self._weigh_beginning(config, window, profile, room)
        return self._weigh_ending(config, window, profile, room)

    def begun(self) -> None:
        """Note that pages are encoded from now on."""
        self._against_s = self._earned_s = 0.0
        self._is_kept = False
        self._tried_bytes = self._saved_bytes = self._cpu_s = 0.0

    @property
    def is_settled(self) -> bool:
        """Whether nothing speaks against the value that is set."""
        return self._against_s == 0.0

    def ended(self) -> None:
        """Note that no more pages are encoded."""
        self._against_s = 0.0
        self._patience = min(2.0 * self._patience, _MAX_PATIENCE)

    def _weigh_beginning(
        self, config: StoreConfig, window: Window, profile: DeviceProfile, room: Room
    ) -> tuple[Event, Change] | None:
        assert self.figures is not None, "asked before"
        if not room.is_scarce(config):
            self._against_s = 0.0
            return None
        choice = if_encoded(
            config, window, profile, self.figures, room.page_bytes, self.share(config)
        )
        plain_s = choice.plain.total_s
        least_s = max(self._policy.min_gain_share * plain_s, self._policy.min_gain_s)
        surplus_s = plain_s - choice.encoded.total_s - least_s
        limit_s = self._patience * price_s(room, self.figures, profile)
        against_s = max(0.0, self._against_s + surplus_s * window.seconds)
        self._against_s = min(against_s, 2.0 * limit_s)
        if against_s <= limit_s:
            return None
        return "begin", _change(config, "off", "idle", choice)

    def _weigh_ending(
        self, config: StoreConfig, window: Window, profile: DeviceProfile, room: Room
    ) -> tuple[Event, Change] | None:
        self._learn(window)
        assert self.figures is not None, "asked before"
        choice = if_plain(config, window, profile, self.figures, room.page_bytes)
        gain_s = (choice.plain.total_s - choice.encoded.total_s) * window.seconds
        self._against_s = max(0.0, self._against_s - gain_s)
        self._earned_s += gain_s
        price = price_s(room, self.figures, profile)
        do_not_shrink = (
            self._tried_bytes >= ENOUGH_BYTES
            and self._saved_bytes * LEAST_SAVING < self._tried_bytes
        )
        if do_not_shrink or self._against_s > _STAKED_PRICES * price:
            return "end", _change(config, "idle", "off", choice)
        if not self._is_kept and self._earned_s > price:
            self._is_kept, self._patience = True, 1.0
            return "kept", _change(config, "off", "idle", choice)
        return None

    def _learn(self, window: Window) -> None:
        """Take from a window what encoding did to pages."""
        self._tried_bytes += window.bytes_to_encode * window.seconds
        self._saved_bytes += window.bytes_saved * window.seconds
        self._cpu_s += window.encode_cpu_s * window.seconds
        if self._tried_bytes >= ENOUGH_BYTES and self.figures is not None:
            self.figures = replace(
                self.figures,
                room_share=1.0 - min(self._saved_bytes / self._tried_bytes, 0.99),
                encode_cpu_s=self._cpu_s / self._tried_bytes,
            )


def _change(config: StoreConfig, old: Codec, new: Codec, choice: Choice) -> Change:
    costs = {"off": choice.plain, "idle": choice.encoded}
    return Change(
        setting=CODEC, old=old, new=new, config=with_value(config, CODEC, new),
        cost_now=costs[old], cost_then=costs[new],
    )  # fmt: skip

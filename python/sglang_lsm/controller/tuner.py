"""Looks, decides, acts, and checks: one change at a time, taken back when it made things worse.

A change needs the same wish in two windows of one workload, unless it cannot lose or was kept the
last time that a workload like this one wished for it. After it, one window is left to settle, more
where the page cache has to be filled first, and two are measured; then it is kept or taken back.
While the workload stays the same, no setting returns to a value that it had before, so that noise
cannot make it swing, and where four windows in a row wished for nothing, each fourth is asked from
then on; after a change that did not help, the setting rests, twice as long each time. Second-use
admission cannot be taken back: it is only advised, in the decision log, unless refusing a page
cannot lose anything. Once all of it has cost more than it earned (`Ledger`), the settings of the
start come back. The codec has a slower judge of its own (`codec_choice`), which stands aside while
something else is tried.
"""

import logging
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Literal, Protocol

from sglang_lsm.config import StoreConfig
from sglang_lsm.controller.calibration import calibrated
from sglang_lsm.controller.codec_choice import CODEC
from sglang_lsm.controller.codec_tuner import CodecTuner
from sglang_lsm.controller.cost_model import Cost, predict
from sglang_lsm.controller.ledger import Ledger
from sglang_lsm.controller.policy import (
    Change,
    PolicyConfig,
    Value,
    Verdict,
    bytes_to_fill,
    choose,
    free_settings,
    judge,
    refusing_is_safe,
    value_of,
    with_value,
)
from sglang_lsm.controller.profile import DeviceProfile
from sglang_lsm.controller.reuse import ReuseCurve
from sglang_lsm.controller.senses import Senses
from sglang_lsm.controller.window import Surroundings, Window, is_shift, window_between
from sglang_lsm.copying import Shrinkage
from sglang_lsm.observability.access_trace import AccessTrace
from sglang_lsm.observability.counters import StoreStats

logger = logging.getLogger(__name__)

_NUM_WISHES = 2
_CALM = 4
_NUM_SETTLING, _NUM_MEASURED = 1, 2
_MAX_SETTLING = 10
"""Windows after which a change is judged, though the page cache is not filled."""
_FIRST_REST, _MAX_REST = 4, 256
_MIN_CALLS = 8
_ADMISSION = "admission"
_MAX_WINDOWS_WITHOUT_WORK = 20
_NUM_REMEMBERED = 32
_SEEN_BY_CODEC = ("encoded_hits", "encoded_reads")


class Tunable(Protocol):
    """The part of a store that is needed here."""

    config: StoreConfig

    def stats(self) -> StoreStats:
        """See `Store.stats`."""

    def tune(self, config: StoreConfig) -> None:
        """See `Store.tune`."""

    def watch(self, trace: AccessTrace | None) -> None:
        """See `Store.watch`."""

    def try_encoding(self, max_bytes: int) -> Shrinkage:
        """See `Store.try_encoding`."""


@dataclass(slots=True)
class _Trial:
    change: Change
    before: StoreConfig
    profile: DeviceProfile
    wished_in: Window
    bias: float
    """Measured over predicted waiting time before the change."""
    bytes_to_fill: float
    """What has to be read before it can be judged."""
    num_windows: int = 0
    num_settled: int = 0
    """Of those, what it was given to settle."""
    bytes_got: float = 0.0
    started: tuple[float, StoreStats] | None = None
    """Where the measured part begins."""


@dataclass(slots=True)
class _Phase:
    """A stretch in which the workload stays what it is."""

    window: Window
    started_s: float
    used: dict[str, set[Value]] = field(default_factory=dict)
    """Values that each setting has had."""
    wishes: dict[bool, tuple[str, Value, int]] = field(default_factory=dict)
    """By whether it is advice only: setting, value, and for how many windows in a row."""
    num_calm: int = 0
    """Windows in a row in which nothing was wished."""

    @property
    def is_looked_at(self) -> bool:
        """Whether the next window is to be asked for a wish: of calm ones each fourth."""
        return self.num_calm < _CALM or self.num_calm % _CALM == 0

    def wants(self, change: Change | None, *, is_advice: bool) -> bool:
        """Take the wish of one more window; return whether it was wished often enough.

        Refusing pages cannot lose where it is not advice alone, so it is begun at the first wish.
        """
        if change is None:
            self.wishes.pop(is_advice, None)
            return False
        setting, value, num = self.wishes.get(is_advice, ("", 0, 0))
        num = num + 1 if (setting, value) == (change.setting, change.new) else 1
        self.wishes[is_advice] = (change.setting, change.new, num)
        is_safe = change.setting == _ADMISSION and not is_advice
        return num >= _NUM_WISHES or is_safe


class Tuner:
    """Tunes one store. Owned by one thread, which calls `step` now and then."""

    def __init__(
        self,
        store: Tunable,
        profile: DeviceProfile,
        senses: Senses,
        *,
        mode: Literal["auto", "observe"],
        fixed: Collection[str] = (),
        policy: PolicyConfig = PolicyConfig(),  # noqa: B008 - frozen
    ) -> None:
        """Begin to watch the store.

        Args:
            mode: `observe` decides and changes nothing.
            fixed: settings that the operator has set, see `policy.free_settings`.
        """
        self._store, self.profile, self._senses = store, profile, senses
        self._mode, self._policy = mode, policy
        self._opened, self._ledger = store.config, Ledger()
        self._free = free_settings(store.config, fixed)
        self._trace, self._reuse = AccessTrace(), ReuseCurve()
        self._codec = CodecTuner(store, senses, mode=mode, fixed=fixed, policy=policy)
        self._before = (senses.clock(), store.stats())
        self._phase: _Phase | None = None
        self._trial: _Trial | None = None
        self._rest: dict[str, int] = {}
        self._resting: dict[str, int] = {}
        """Windows for which a setting is left alone."""
        self._past: deque[tuple[str, Value, Window, bool]] = deque(maxlen=_NUM_REMEMBERED)
        """Setting and value of changes that were judged, in which workload, and whether kept."""
        store.watch(self._trace)

    def step(self) -> None:
        """Look at what happened since the last step that had enough to look at, and act.

        Raises:
            UnavailableError, ClosedError: the store did not take a change; nothing was changed.
        """
        now_s, stats = self._senses.clock(), self._store.stats()
        before_s, before = self._before
        has_work = _amount(before, stats) >= _MIN_CALLS
        if now_s <= before_s or not (has_work or self._trial):
            return
        self._reuse.enter(self._trace.drain())
        window = self._window(before, stats, now_s - before_s)
        self._before = (now_s, stats)
        if self._may_go_on(window):
            if self._trial is not None:
                self._check(self._trial, window, now_s, stats)
            else:
                self._decide(window, now_s)
        self._weigh_codec(window, stats)

    def close(self) -> None:
        """Watch no more; the settings stay."""
        self._store.watch(None)

    def _weigh_codec(self, window: Window, stats: StoreStats) -> None:
        is_calm = self._trial is None
        done = self._codec.step(
            window, stats, self.profile, self._reuse,
            may_begin=is_calm and self._ledger.may_stake, may_end=is_calm,
        )  # fmt: skip
        if done is not None:
            self._note(*done)

    def _window(self, before: StoreStats, after: StoreStats, seconds: float) -> Window:
        cache_bytes = self._senses.cache_bytes()
        around = Surroundings(
            cache_bytes=cache_bytes,
            reuse=self._reuse.summary(cache_bytes),
            recompute_s_per_byte=self._senses.recompute_s_per_byte(),
        )
        return window_between(before, after, seconds, around)

    def _may_go_on(self, window: Window) -> bool:
        """Enter what the window cost; go back to the settings of the start if it was too much."""
        config = self._store.config
        opened = with_value(self._opened, CODEC, value_of(config, CODEC))
        now = predict(config, config, window, self.profile)
        then = now if config == opened else predict(opened, config, window, self.profile)
        self._ledger.enter(
            spent_s=now.total_s * window.seconds, would_s=then.total_s * window.seconds
        )
        if self._ledger.may_stake:
            return True
        if config != opened:
            self._store.tune(opened)
            self._trial = None
            for name in self._free:
                old, new = value_of(config, name), value_of(opened, name)
                if old != new:
                    change = Change(
                        setting=name, old=old, new=new, config=opened, cost_now=now, cost_then=then
                    )
                    self._note("taken back", change, window)
        return False

    def _decide(self, window: Window, now_s: float) -> None:
        phase = self._phase_of(window, now_s)
        config = self._store.config
        self._resting = {name: n - 1 for name, n in self._resting.items() if n > 1}
        cost = predict(config, config, window, self.profile)
        bias = window.wait_s / cost.wait_s if cost.wait_s > 0 and window.wait_s > 0 else 1.0
        # What live transfers took goes into the profile, so that the model stays near the truth.
        self.profile = calibrated(self.profile, config, window)
        is_safe = self._stops_refusing_in_time(window, cost)
        config = self._store.config
        is_asked = phase.is_looked_at
        phase.num_calm += 1
        if not is_asked:
            return
        for is_advice in (False, True):
            free = {name: values for name, values in self._allowed(phase, window).items()
                    if (name == _ADMISSION and not is_safe) == is_advice}  # fmt: skip
            change = choose(
                config, window, self.profile, free,
                age_s=now_s - phase.started_s, policy=self._policy,
            )  # fmt: skip
            is_due = phase.wants(change, is_advice=is_advice)
            if change is None:
                continue
            phase.num_calm = 0
            if not is_due and (is_advice or not self._has_proved(change, window)):
                continue
            if is_advice:
                self._note("advised", change, window)
            else:
                self._act(change, window, bias)
            phase.used.setdefault(change.setting, set()).update((change.old, change.new))

    def _has_proved(self, change: Change, window: Window) -> bool:
        """Return whether this change was kept the last time that a workload like this one wished
        for it."""
        for setting, value, seen, was_kept in reversed(self._past):
            if (setting, value) == (change.setting, change.new) and not is_shift(seen, window):
                return was_kept
        return False

    def _stops_refusing_in_time(self, window: Window, cost: Cost) -> bool:
        """Return whether pages may be refused; no longer do it where they may not."""
        config, own = self._store.config, self._opened.admission
        is_refusing = config.admission == "second" != own
        if refusing_is_safe(config, window, self.profile, is_refusing=is_refusing):
            return True
        if is_refusing:
            other = with_value(config, _ADMISSION, own)
            then = predict(other, config, window, self.profile)
            change = Change(
                setting=_ADMISSION, old="second", new=own, config=other, cost_now=cost,
                cost_then=then,
            )  # fmt: skip
            self._store.tune(other)
            self._note("taken back", change, window)
        return False

    def _act(self, change: Change, window: Window, bias: float) -> None:
        if self._mode == "observe":
            self._note("would change", change, window)
            return
        bias = min(max(bias, 0.25), 4.0)
        config = self._store.config
        to_fill = bytes_to_fill(change, config, window)
        trial = _Trial(change, config, self.profile, window, bias, to_fill)
        # Unless the store takes it, the setting rests, so that it is not asked each second.
        self._resting[change.setting] = _FIRST_REST
        self._store.tune(change.config)
        del self._resting[change.setting]
        self._trial = trial
        self._note("changed", change, window)

    def _phase_of(self, window: Window, now_s: float) -> _Phase:
        if self._phase is None or is_shift(self._phase.window, window):
            self._phase = _Phase(window, now_s)
        return self._phase

    def _allowed(self, phase: _Phase, window: Window) -> dict[str, list[Value]]:
        allowed = {
            name: [value for value in values if value not in phase.used.get(name, ())]
            for name, values in self._free.items()
            if name not in self._resting
        }
        # Only what is refused from now on can be a hit instead: what was, does not come back.
        if self._store.config.admission != self._opened.admission and (
            2 * window.bytes_refused < window.bytes_put
        ):
            allowed.pop(_ADMISSION, None)
        if "log.io_mode" in allowed:
            modes = allowed["log.io_mode"]
            allowed["log.io_mode"] = [mode for mode in modes if self._pays_unrefused(mode, window)]
        return allowed

    def _pays_unrefused(self, mode: Value, window: Window) -> bool:
        """Return whether an I/O mode does not end that pages are refused, or pays even so."""
        config, own = self._store.config, self._opened.admission
        other = with_value(config, "log.io_mode", mode)
        if config.admission == own or refusing_is_safe(
            other, window, self.profile, is_refusing=True
        ):
            return True
        both = with_value(other, _ADMISSION, own)
        now, then = (predict(c, config, window, self.profile).total_s for c in (config, both))
        return then <= now * (1.0 - self._policy.min_gain_share)

    def _check(self, trial: _Trial, last: Window, now_s: float, stats: StoreStats) -> None:
        trial.num_windows += 1
        if trial.started is None:
            trial.bytes_got += last.bytes_got * last.seconds
            is_filled = trial.bytes_got >= trial.bytes_to_fill
            if trial.num_windows >= (_NUM_SETTLING if is_filled else _MAX_SETTLING):
                trial.started, trial.num_settled = (now_s, stats), trial.num_windows
            return
        began_s, began = trial.started
        num_calls = _amount(began, stats)
        is_over = trial.num_windows >= trial.num_settled + _NUM_MEASURED
        if num_calls < _MIN_CALLS and trial.num_windows < _MAX_WINDOWS_WITHOUT_WORK:
            return
        if not is_over:
            return
        window = self._window(began, stats, now_s - began_s)
        verdict: Verdict = "unclear"
        if num_calls >= _MIN_CALLS:
            verdict = judge(
                trial.change,
                window,
                lambda seen: predict(trial.before, trial.change.config, seen, trial.profile),
                trial.bias,
                self._policy,
            )
        self._settle(trial, window, verdict)

    def _settle(self, trial: _Trial, window: Window, verdict: Verdict) -> None:
        name, config = trial.change.setting, self._store.config
        rest = self._rest.get(name, _FIRST_REST)
        if verdict == "kept":
            self._rest[name] = max(_FIRST_REST, rest // 2)
        else:
            self._store.tune(trial.before)
            self._resting[name] = rest
            self._rest[name] = min(_MAX_REST, rest * 2)
        self._trial = None
        self._past.append((name, trial.change.new, trial.wished_in, verdict == "kept"))
        if self._phase is not None:
            # The change alone may have altered what a window looks like.
            self._phase.window = window
        served = trial.change.config if verdict == "kept" else config
        would = predict(trial.before, served, window, trial.profile).wait_s * trial.bias
        self._note(verdict, trial.change, window, would_wait_s=would)

    def _note(
        self, event: str, change: Change, window: Window, *, would_wait_s: float | None = None
    ) -> None:
        entry: dict[str, object] = {
            "time_ms": self._senses.wall_ms(),
            "event": event,
            "setting": change.setting,
            "old": change.old,
            "new": change.new,
            "seen": _rounded(asdict(replace(window, around=Surroundings())))
            | _rounded(asdict(window.around.reuse))
            | _rounded({name: getattr(window.around, name) for name in _SEEN_BY_CODEC}),
            "predicted": {"before": _cost(change.cost_now), "after": _cost(change.cost_then)},
            "measured_wait_s": _digits(window.wait_s),
        }
        if would_wait_s is not None:
            entry["without_the_change_wait_s"] = _digits(would_wait_s)
        self._senses.note(entry)
        logger.info(
            "tuner: %s. setting=%s old=%s new=%s", event, change.setting, change.old, change.new
        )


def _amount(before: StoreStats, after: StoreStats) -> int:
    """Return the calls between two looks; of calls that were refused, the pages."""
    calls = after.gets + after.puts - before.gets - before.puts
    return calls + after.pages_refused - before.pages_refused


def _cost(cost: Cost) -> dict[str, object]:
    return _rounded({**asdict(cost), "total_s": cost.total_s})


def _rounded(values: Mapping[str, object]) -> dict[str, object]:
    return {
        name: _digits(value)
        for name, value in values.items()
        if isinstance(value, int | float) and value
    }


def _digits(value: float) -> float:
    return float(f"{value:.3g}")

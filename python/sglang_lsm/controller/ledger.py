"""What tuning has cost so far beside what the settings of the start would have cost. Pure.

Each change is a bet that the workload lasts, and a workload that turns around right after each
change loses every bet. So only what was earned is staked, and a small share of all costs.
"""

_LIMIT, _ENOUGH = 0.01, 0.005
"""Above the one, tuning stops; below the other, it goes on. A promise of 2 % leaves room for the
windows in which a shift is not seen yet."""


class Ledger:
    """Predicted seconds, with the tuned settings and with those of the start. Of one thread."""

    def __init__(self) -> None:
        self._spent_s = self._would_s = 0.0
        self._is_closed = False

    def enter(self, *, spent_s: float, would_s: float) -> None:
        """Take what one window cost, and what it would have cost with the settings of the start."""
        self._spent_s += spent_s
        self._would_s += would_s
        limit = _ENOUGH if self._is_closed else _LIMIT
        self._is_closed = self._spent_s > self._would_s * (1.0 + limit)

    @property
    def may_stake(self) -> bool:
        """Whether settings other than those of the start may be used."""
        return not self._is_closed

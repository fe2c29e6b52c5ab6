"""How long work takes, learned from the work itself: pages read, tokens computed.

Each learner weighs by amount of work, not by time: a stretch of hits, in which next to nothing is
computed, does not make it forget how fast computing is.
"""


class Rate:
    """Seconds a unit of work, over about the last `window` units. Owned by one thread, or locked.

    Fixed costs are in it, so it suits work whose amounts are alike.
    """

    def __init__(self, *, window: float) -> None:
        """Larger windows see through hiccups, and notice later that the pace has changed."""
        self._window = window
        self._units = self._seconds = 0.0

    def observe(self, units: float, seconds: float) -> None:
        """Note that `units` of work took `seconds`."""
        if units <= 0 or seconds < 0:
            return
        kept = max(0.0, 1.0 - units / self._window)
        self._units = self._units * kept + units
        self._seconds = self._seconds * kept + seconds

    def forget(self) -> None:
        """Start anew."""
        self._units = self._seconds = 0.0

    @property
    def seconds_per_unit(self) -> float | None:
        """None until something was observed."""
        return self._seconds / self._units if self._units else None


class MarginalRate:
    """Seconds that one more unit of work takes, apart from what each piece of work costs anyway.

    The slope of a line fitted by least squares through (units, seconds), over about the last
    `window` units. Owned by one thread, or locked.
    """

    def __init__(self, *, window: float, enough: float) -> None:
        """Say nothing before `enough` units were observed."""
        self._window, self._enough = window, enough
        self._total = 0.0
        # Sums of weight, units, seconds, units squared, and units times seconds.
        self._sums = [0.0] * 5

    def observe(self, units: float, seconds: float) -> None:
        """Note that a piece of work of `units` took `seconds`."""
        if units <= 0 or seconds < 0:
            return
        kept = max(0.0, 1.0 - units / self._window)
        new = (1.0, units, seconds, units * units, units * seconds)
        self._sums = [old * kept + amount for old, amount in zip(self._sums, new, strict=True)]
        self._total += units

    @property
    def seconds_per_unit(self) -> float | None:
        """None until enough was observed.

        Where the pieces were too alike to tell the slope from the fixed cost, or where noise would
        make one of the two negative, all of the time counts as slope.
        """
        if self._total < self._enough:
            return None
        weight, units, seconds, squares, products = self._sums
        spread = weight * squares - units * units
        average = seconds / units
        if spread <= 0.01 * units * units:
            return average
        slope = (weight * products - units * seconds) / spread
        return slope if 0.0 < slope <= average else average

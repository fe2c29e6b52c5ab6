"""One promised figure."""

from dataclasses import dataclass

from benchmark.harness import Summary


@dataclass(frozen=True, slots=True)
class Promise:
    """One figure that was promised, and what was seen of it."""

    against: str
    what: str
    target: float
    at_least: bool
    """Whether the figure has to reach the target, or must not exceed it."""
    seen: Summary | None
    """None where it was not measured."""
    unit: str = ""

    @property
    def key(self) -> str:
        """What its cause is filed under."""
        return f"{self.against} | {self.what}"

    @property
    def verdict(self) -> str:
        """One of `met`, `MISSED` and `not run`, by the median."""
        if self.seen is None:
            return "not run"
        good = self.seen.median >= self.target if self.at_least else self.seen.median <= self.target
        return "met" if good else "MISSED"

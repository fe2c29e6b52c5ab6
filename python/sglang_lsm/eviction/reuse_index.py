"""How much is a page worth at its age? From counts of what such pages did. Pure.

Of each class of pages and each age is counted how many were used again at that age, and how many
got that far. That gives the share `hazard` that is used again within the age's bin. Worth is the
best rate of hits for room: with the horizon that serves the page best,

    worth(class, age) = max over horizons of P(used again within it) / E(time to that or its end)

which is the Gittins index of the page, taken as a job that may be dropped for good. A chat whose
next turn is likely keeps a high worth until the usual pause is over; then it falls below that of
newer ones. Where nothing is known yet, worth falls with age alone, which is LRU.

Counts of small classes are noisy, and pages come in runs that share one fate. So a class is taken
as proportional to all classes together, and departs from that as its own counts grow.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

NUM_BINS = 64
EDGES = np.unique(np.ceil(2.0 ** (np.arange(-1, NUM_BINS + 2) / 2)).astype(np.int64))[:NUM_BINS]
"""First age of each bin: two bins for each doubling. Integers, so that all machines agree."""
EDGES[0] = 0

WIDTHS = np.append(np.diff(EDGES), EDGES[-1]).astype(np.float64)

_PRIOR_HAZARD = 0.02
_PRIOR_PAGES = 1.0
_CLASS_PAGES = 200.0
_BIN_PAGES = 1000.0
_MAX_HAZARD = 0.95


def age_bin(age: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return the bin of each age."""
    return np.searchsorted(EDGES, age, "right").astype(np.int64) - 1


def hazards(reused: Floats, ended: Floats) -> Floats:
    """Return the share of pages used again within each bin, of those that came into it.

    Args:
        reused: `[classes, bins]` pages used again at that age.
        ended: `[classes, bins]` pages last seen at that age, those used again included.
    """
    # A page last seen in a bin spent half of it there, on average.
    at_risk = ended[:, ::-1].cumsum(1)[:, ::-1] - 0.5 * ended
    prior = _PRIOR_HAZARD * _PRIOR_PAGES
    of_all = (reused.sum(0) + prior) / (at_risk.sum(0) + _PRIOR_PAGES)
    expected = (at_risk * of_all).sum(1, keepdims=True)
    factor = (reused.sum(1, keepdims=True) + _CLASS_PAGES) / (expected + _CLASS_PAGES)
    of_class = np.clip(of_all * factor, 0, _MAX_HAZARD)
    own = (reused + _BIN_PAGES * of_class) / (at_risk + _BIN_PAGES)
    return np.asarray(np.clip(own, 0, _MAX_HAZARD), np.float64)


def worth(hazard: Floats) -> Floats:
    """Return the index of each class at the begin of each bin, `[classes, bins]`."""
    num_classes, num_bins = hazard.shape
    start = np.ones((num_classes, 1))
    unused = np.hstack([start, np.cumprod(1 - hazard, 1)])
    spent = np.hstack([0 * start, np.cumsum(unused[:, :-1] * WIDTHS * (1 - hazard / 2), 1)])
    best = np.empty_like(hazard)
    for i in range(num_bins):
        hits = unused[:, i : i + 1] - unused[:, i + 1 :]
        best[:, i] = (hits / np.maximum(spent[:, i + 1 :] - spent[:, i : i + 1], 1e-300)).max(1)
    return best


def ranks(values: Floats) -> NDArray[np.int64]:
    """Return the place of each value among all of them, from 0 for the least."""
    return np.unique(values, return_inverse=True)[1].reshape(values.shape).astype(np.int64)

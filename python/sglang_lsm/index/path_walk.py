"""How much of a path an index holds, with the fewest calls of the binding.

Pages of a path lie one behind the other in the index, up to the end of their group or to where a
sibling's subtree lies between. So only the first page of such a run is looked up by its key; what
follows is taken from an iterator without keys and held against the hashes of the path. The iterator
is bounded by what extends the first page, so all of it is of this namespace and below this page,
and 64 bits of the hash agree. Bytes are read only with a checksum that is seeded with the key.
"""

from itertools import islice

from rocksdict import Rdict, ReadOptions

from sglang_lsm.format import value_tails
from sglang_lsm.keycodec import GROUP_PAGES, hash_tails, key_of, range_end
from sglang_lsm.pages import PagePath

_FIRST_TAKEN = 16


def walk_path(db: Rdict, path: PagePath) -> list[bytes]:
    """Return the values of the leading pages of a call that are stored.

    Raises what the binding raises.

    Cost: one look-up for a path that is not stored at all (a Bloom filter answers), else one and an
    iterator for a run, and 0.3 us a page.
    """
    found: list[bytes] = []
    at, end = path.start, len(path.hashes)
    while at < end:
        group_end = at - at % GROUP_PAGES + GROUP_PAGES
        run = _run(db, path, at, min(group_end, end))
        if not run:
            break
        found += run
        at += len(run)
    return found


def _run(db: Rdict, path: PagePath, start: int, end: int) -> list[bytes]:
    """Return the values of pages from `start` on that lie one behind the other, up to `end`."""
    first = key_of(path, start)
    if db.get(first) is None:
        return []
    # Kept until the iterator is gone: the binding does not copy the bound out of it.
    options = ReadOptions()
    if (bound := range_end(first)) is not None:
        options.set_iterate_upper_bound(bound)
    values = iter(db.values(from_key=first, read_opt=options))
    tails = hash_tails(path.hashes[start:end])
    run = list(islice(values, _FIRST_TAKEN))
    same = _num_same(value_tails(run), tails)
    if same == _FIRST_TAKEN < len(tails):
        # A path that goes on for so long mostly goes on to the end of its group.
        run += islice(values, len(tails) - same)
        same = _num_same(value_tails(run), tails)
    return run[:same]


def _num_same(found: list[bytes], wanted: list[bytes]) -> int:
    """Return how many leading items are equal."""
    num = min(len(found), len(wanted))
    if found[:num] == wanted[:num]:
        return num
    return next(i for i in range(num) if found[i] != wanted[i])

"""One life of a store, ended at every single change it makes to the disk.

The model tests end processes at moments drawn at random; here none is left out. After each, the
store opens again, everything acknowledged before is found, and nothing wrong is read.
"""

import pytest
from support.store_model import LARGE_PAGES, SMALL_PAGES, StoreModel


def first_steps(model):
    """Create a store, delete, sync, fill it beyond its quota, clear, and close it."""
    model.open()
    model.put(SMALL_PAGES, (0,) * 62 + (1, 2, 3), 0)
    model.delete_subtree(SMALL_PAGES, (0,) * 62)
    model.put(SMALL_PAGES, (0,) * 63 + (3, 3), 40)
    model.sync()
    for first in (100, 200, 300, 400, 500):
        model.put(LARGE_PAGES, tuple(range(first, first + 14)), 0)
    model.sync()
    model.clear(SMALL_PAGES)
    model.put(SMALL_PAGES, (1, 1), 0)
    model.store.close()


def new_model():
    model = StoreModel(opened=False)
    model.disk.make_dir(model.directory)
    return model


def num_changes_of_a_life():
    model = new_model()
    first_steps(model)
    return model.disk.num_changes


NUM_CHANGES = num_changes_of_a_life()


def live_until(num_changes):
    """Run the life up to a change; return the model and how many evictions nobody counted."""
    model = new_model()
    return model, model.until_crash(num_changes, lambda: first_steps(model))


@pytest.mark.parametrize("num_changes", range(NUM_CHANGES))
def test_killed(num_changes):
    model, num_uncounted = live_until(num_changes)
    model.kill()
    model.check(num_uncounted=num_uncounted)
    model.read_all()
    first_put_works(model)


@pytest.mark.parametrize("num_changes", range(NUM_CHANGES))
def test_power_lost(num_changes):
    for seed in range(3):
        model, num_uncounted = live_until(num_changes)
        model.lose_power(seed)
        model.check(num_uncounted=num_uncounted)
        model.read_all()
        first_put_works(model)


@pytest.mark.parametrize("num_changes", range(0, NUM_CHANGES, 3))
def test_killed_and_the_index_lost(num_changes):
    model, num_uncounted = live_until(num_changes)
    model.disk.kill()
    model.index_disk.wipe()
    model.open()
    model.check(num_uncounted=num_uncounted)
    model.read_all()
    first_put_works(model)


def first_put_works(model):
    """A store that came back takes pages and gives them back, and closes."""
    model.put(LARGE_PAGES, (7, 8, 9), 0)
    model.get(LARGE_PAGES, (7, 8, 9), 0, faulty=False)
    model.check_quota()
    model.store.close()


def test_a_life_has_an_eviction_in_it():
    """Without one, the points above would leave the most delicate steps out."""
    _, num_evicted = live_until(NUM_CHANGES)
    assert num_evicted > 14
    assert NUM_CHANGES > 30

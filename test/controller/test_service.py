"""The thread on a real store: it measures, steps, and ends."""

import threading

from sglang_lsm.controller.profile import DeviceProfile
from sglang_lsm.controller.profiler import PROFILE_NAME, SCRATCH_NAME, keep_profile, load_profile
from sglang_lsm.controller.service import TunerService
from sglang_lsm.fs import LocalFileSystem
from sglang_lsm.store import Store
from support.devices import device
from support.page_maker import empty_pages, fingerprint, pages_of, path_of, small_config

PIECES = (4096,)


class Noticed(TunerService):
    """Tells when it has stepped."""

    def __init__(self, *args, **options):
        self.stepped = threading.Semaphore(0)
        super().__init__(*args, **options)

    def _step(self):
        super()._step()
        self.stepped.release()


def test_a_store_that_is_tuned_serves_the_same_pages(tmp_path):
    store = Store.open(tmp_path / "store", small_config(8))
    keep_profile(LocalFileSystem(), store.directory, device())
    service = Noticed(store, mode="auto", interval_s=0.001)
    namespace = store.register(fingerprint())
    for number in range(30):
        path = path_of(namespace, [number, *range(20)])
        store.put_batch(path, pages_of(path, PIECES))
        out = empty_pages(path.num_pages, PIECES)
        assert store.get_batch(path, out) == path.num_pages
        assert service.stepped.acquire(timeout=60)
    service.stop()
    store.close()
    assert load_profile(LocalFileSystem(), store.directory) is not None


def test_stopping_before_the_device_is_known_leaves_nothing_behind(tmp_path):
    store = Store.open(tmp_path / "store", small_config(8))
    service = TunerService(store, mode="observe", interval_s=0.001)
    service.stop()
    store.close()
    assert not (store.directory / SCRATCH_NAME).exists()


def test_a_profile_that_is_kept_is_not_measured_again(tmp_path, monkeypatch):
    def measure(*args, **options) -> DeviceProfile:
        raise AssertionError("measured again")

    monkeypatch.setattr("sglang_lsm.controller.service.measure_profile", measure)
    store = Store.open(tmp_path / "store", small_config(8))
    keep_profile(LocalFileSystem(), store.directory, device())
    service = Noticed(store, mode="observe", interval_s=0.001)
    for _ in range(3):
        assert service.stepped.acquire(timeout=60)
    service.stop()
    store.close()
    assert (store.directory / PROFILE_NAME).exists()


def test_an_unknown_device_is_measured_once_and_kept(tmp_path, monkeypatch):
    measured = []

    def measure(*args, **options) -> DeviceProfile:
        measured.append(args)
        return device()

    monkeypatch.setattr("sglang_lsm.controller.service.measure_profile", measure)
    store = Store.open(tmp_path / "store", small_config(8))
    service = Noticed(store, mode="auto", interval_s=0.001)
    for _ in range(3):
        assert service.stepped.acquire(timeout=60)
    service.stop()
    store.close()
    assert len(measured) == 1
    assert load_profile(LocalFileSystem(), store.directory) is not None

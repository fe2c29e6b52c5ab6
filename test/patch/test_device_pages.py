"""A page copied from the device has the bytes that SGLang's host pool would hold, on real pools."""

import pytest
import torch
from sglang_lsm.errors import UnavailableError
from sglang_lsm.kernels.paged_pool import PagedPool
from sglang_pools import (
    NUM_PAGES,
    V_HEAD_DIM,
    fill,
    host_buffers,
    host_pool_of,
    mha_device_pool,
    mla_device_pool,
    slots,
)
from support.page_maker import joined

from sglang_lsm_patch.device_pages import BATCH_BYTES, MIN_PAGES, DevicePages, plain_pool
from sglang_lsm_patch.host_pages import host_pages

DEVICE_POOLS = {
    "mha": mha_device_pool,
    "mha-bf16": lambda: mha_device_pool(dtype=torch.bfloat16),
    "mha-asymmetric": lambda: mha_device_pool(v_head_dim=V_HEAD_DIM),
    "mla": mla_device_pool,
    "mla-bf16-page-of-8": lambda: mla_device_pool(dtype=torch.bfloat16, page_size=8),
}


def device_buffers(device):
    """K of all layers and V of all layers, or the one kind of buffer of MLA."""
    if hasattr(device, "kv_lora_rank"):
        return (device.kv_buffer,)
    return device.k_buffer, device.v_buffer


@pytest.fixture(params=sorted(DEVICE_POOLS))
def device(request):
    pool = DEVICE_POOLS[request.param]()
    for number, layer in enumerate(layer for kind in device_buffers(pool) for layer in kind):
        fill(layer, seed=number)
    return pool


def copier(device, layout, staging_bytes=0):
    host = host_pool_of(device, layout)
    paged = plain_pool(device, host)
    assert paged is not None and paged.page_bytes == host_pages(host).page_bytes
    return DevicePages(paged, layout=layout, staging_bytes=staging_bytes), host


def put_into_host_pool(device, host, device_page, host_page):
    """What a copy to the host tier leaves there, by the shapes of the host pool's buffers."""
    size = device.page_size
    from_slots = slots([device_page], size)
    to_slots = slots([host_page], size)
    for layers, buffer in zip(device_buffers(device), host_buffers(host), strict=True):
        for number, layer in enumerate(layers):
            if host.layout == "page_first":
                buffer[to_slots, number] = layer[from_slots]
            else:
                buffer[host_page, number] = layer[from_slots]


@pytest.mark.parametrize("layout", ["page_first", "page_first_direct"])
def test_the_bytes_are_those_of_the_host_pool(device, layout):
    pages, host = copier(device, layout)
    taken = [3, 0, NUM_PAGES - 1, 1]
    copied = pages.take(slots(taken, device.page_size))
    copied.wait()
    for host_page, device_page in enumerate(taken):
        put_into_host_pool(device, host, device_page, host_page)
    expected = host_pages(host).buffers(slots(range(len(taken)), device.page_size), len(taken))
    assert [joined(page) for page in copied.pages] == [joined(page) for page in expected]
    assert len({joined(page) for page in copied.pages}) == len(taken)


def test_the_bytes_are_those_that_sglangs_own_copy_leaves():
    device = mha_device_pool()
    for number, layer in enumerate((*device.k_buffer, *device.v_buffer)):
        fill(layer, seed=number)
    pages, host = copier(device, "page_first_direct")
    taken = [4, 2, 5]
    copied = pages.take(slots(taken))
    copied.wait()
    host.backup_from_device_all_layer(device, slots([0, 1, 2]), slots(taken), "direct")
    expected = host_pages(host).buffers(slots([0, 1, 2]), 3)
    assert [joined(page) for page in copied.pages] == [joined(page) for page in expected]


def test_a_place_is_filled_again_only_when_it_was_given_back(device):
    pages, _ = copier(device, "page_first")
    all_taken = [pages.take(slots([i % NUM_PAGES], device.page_size)) for i in range(MIN_PAGES)]
    contents = [joined(copied.pages[0]) for copied in all_taken]
    assert pages.take(slots([0], device.page_size)) is None
    for layer in (layer for kind in device_buffers(device) for layer in kind):
        layer.zero_()
    assert [joined(copied.pages[0]) for copied in all_taken] == contents

    all_taken[1].give_back()
    again = pages.take(slots([0], device.page_size))
    assert joined(again.pages[0]) == bytes(pages.page_bytes)
    assert pages.take(slots([0], device.page_size)) is None
    kept = [i for i in range(MIN_PAGES) if i != 1]
    assert [joined(all_taken[i].pages[0]) for i in kept] == [contents[i] for i in kept]


def test_the_staging_memory_is_bounded():
    device = mha_device_pool()
    host = host_pool_of(device)
    paged = plain_pool(device, host)
    pages = DevicePages(paged, layout=host.layout, staging_bytes=64 << 20)
    assert pages.num_pages * pages.page_bytes <= 64 << 20
    assert pages.batch_pages * pages.page_bytes <= BATCH_BYTES


def test_it_takes_as_many_pages_as_places_are_free_from_the_first_on():
    device = mha_device_pool()
    for number, layer in enumerate((*device.k_buffer, *device.v_buffer)):
        fill(layer, seed=number)
    pages, _ = copier(device, "page_first_direct")
    one_by_one = [joined(pages.take(slots([page])).pages[0]) for page in (5, 1, 4, 2)]
    assert pages.take(slots([0])) is None
    pages, _ = copier(device, "page_first_direct")
    first = pages.take(slots([0]))
    some = pages.take(slots([5, 1, 4, 2]))
    assert [joined(page) for page in some.pages] == one_by_one[:3]
    first.give_back()
    assert [joined(page) for page in pages.take(slots([2])).pages] == one_by_one[3:]


def test_places_that_do_not_lie_side_by_side_are_filled_right():
    device = mha_device_pool()
    for number, layer in enumerate((*device.k_buffer, *device.v_buffer)):
        fill(layer, seed=number)
    pages, _ = copier(device, "page_first")
    taken = [pages.take(slots([page])) for page in range(MIN_PAGES)]
    contents = [joined(copied.pages[0]) for copied in taken]
    for number in (3, 0, 1):
        taken[number].give_back()
    again = pages.take(slots([2, 3, 0]))
    assert [joined(page) for page in again.pages] == [contents[2], contents[3], contents[0]]
    assert joined(taken[2].pages[0]) == contents[2]


def test_one_gather_is_bounded(monkeypatch):
    device = mha_device_pool()
    pages, _ = copier(device, "page_first_direct")
    monkeypatch.setattr("sglang_lsm_patch.device_pages.BATCH_BYTES", 2 * pages.page_bytes)
    pages, _ = copier(device, "page_first_direct", staging_bytes=1 << 20)
    assert len(pages.take(slots([0, 1, 2])).pages) == 2


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), ImportError("no triton")])
def test_a_copy_that_fails_takes_no_place(monkeypatch, error):
    device = mha_device_pool()
    pages, _ = copier(device, "page_first_direct")

    def fail(*_):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr("sglang_lsm_patch.device_pages.gather_pages_reference", fail)
        for _ in range(3):
            with pytest.raises(type(error)):
                pages.take(slots([0, 1]))
    assert len(pages.take(slots([0, 1, 2, 3])).pages) == MIN_PAGES


def test_memory_that_cannot_be_had_is_a_failure_of_the_store():
    """Pinned memory is short on a machine whose host pool takes most of it."""
    device = mha_device_pool()
    with pytest.raises(UnavailableError, match="staging_bytes"):
        copier(device, "page_first_direct", staging_bytes=1 << 60)


def test_a_pool_on_a_device_without_a_gather_is_left_alone():
    """On an Intel GPU each copy failed, and the scheduler with it."""
    device, host = mha_device_pool(), host_pool_of(mha_device_pool())
    device.k_buffer = [layer.to("meta") for layer in device.k_buffer]
    device.v_buffer = [layer.to("meta") for layer in device.v_buffer]
    assert plain_pool(device, host) is None


class OtherPool:
    """A device pool of a kind nobody knows."""


def test_other_pools_are_left_alone():
    device = mha_device_pool()
    for host in (host_pool_of(device, "layer_first"), host_pool_of(device, "page_head")):
        assert plain_pool(device, host) is None
    host = host_pool_of(device)
    assert isinstance(plain_pool(device, host), PagedPool)
    for other in (None, OtherPool(), mla_device_pool()):
        assert plain_pool(other, host) is None
    # A subclass may keep more than K and V for a token.
    device.__class__ = type("Subclass", (type(device),), {})
    assert plain_pool(device, host) is None


def test_a_host_pool_that_holds_more_layers_is_left_alone():
    """SGLang packs the layers of a draft model behind those of the model."""
    device, host = mha_device_pool(), host_pool_of(mha_device_pool())
    host.layer_num += 1
    assert plain_pool(device, host) is None

"""Victims copied aside on a real forward stream: it may hold old work, and new work follows."""

import pytest
import torch
from sglang_lsm.kernels.reference import gather_pages_reference

from benchmark.gpu_copies import Geometry, poisoned
from benchmark.gpu_path import drain
from sglang_lsm_patch.device_pages import MIN_PAGES, DevicePages

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
NUM_PAGES = 16
GEOMETRY = Geometry(
    name="", dtype=torch.bfloat16, num_layers=4, num_heads=2, k_dim=64, v_dim=64, page_size=16
)
LONG_CYCLES = 200_000_000
"""About a tenth of a second of a GPU that does nothing else."""


def slots(pages, page_size, device):
    in_page = torch.arange(page_size, device=device)
    starts = torch.tensor(pages, device=device)[:, None] * page_size
    return (starts + in_page).flatten()


def in_host(copied):
    copied.wait()
    return torch.stack([torch.frombuffer(page[0], dtype=torch.uint8) for page in copied.pages])


@pytest.fixture
def pool(device):
    return GEOMETRY.make_pool(NUM_PAGES, device, seed=9)


def test_what_the_forward_stream_still_writes_is_copied_and_what_it_writes_later_is_not(
    pool, device
):
    forward = torch.cuda.Stream(device)
    copier = DevicePages(pool, layout="page_first_direct", staging_bytes=0, stream=lambda: forward)
    victims = slots([3, 11], pool.page_size, device)
    drain(device)
    with torch.cuda.stream(forward):
        torch.cuda._sleep(LONG_CYCLES)
        for buffer in pool.buffers:
            buffer.fill_(7)
    copied = copier.take(victims)
    with torch.cuda.stream(forward):
        for buffer in pool.buffers:
            buffer.fill_(8)
    assert bool((in_host(copied) == 7).all())
    forward.synchronize()
    assert all(bool((buffer == 8).all()) for buffer in pool.buffers)


def test_slots_made_on_the_current_stream_are_read_after_it(pool, device):
    forward = torch.cuda.Stream(device)
    copier = DevicePages(pool, layout="page_first_direct", staging_bytes=0, stream=lambda: forward)
    expected = poisoned(2, pool)
    gather_pages_reference(pool, torch.tensor([5, 2], device=device), expected)
    wanted = slots([5, 2], pool.page_size, device)
    late = torch.zeros_like(wanted)
    drain(device)
    torch.cuda._sleep(LONG_CYCLES)
    late.copy_(wanted)
    copied = copier.take(late)
    # What torch may reuse for the next tensor of the current stream.
    del late
    torch.zeros_like(wanted)
    assert torch.equal(in_host(copied), expected.cpu())


def test_taking_does_not_wait_for_the_gpu(pool, device):
    copier = DevicePages(pool, layout="page_first", staging_bytes=0)
    copier.take(slots([0], pool.page_size, device)).wait()
    victims = slots([1], pool.page_size, device)
    drain(device)
    torch.cuda._sleep(LONG_CYCLES)
    busy = torch.cuda.Event()
    busy.record()
    copied = copier.take(victims)
    assert not busy.query()
    copied.wait()
    assert busy.query()


@pytest.mark.parametrize("layout", ["page_first", "page_first_direct"])
def test_places_are_pinned_bounded_and_filled_again(pool, device, layout):
    copier = DevicePages(pool, layout=layout, staging_bytes=0)
    taken = [copier.take(slots([page], pool.page_size, device)) for page in range(MIN_PAGES)]
    assert None not in taken
    assert copier.take(slots([9], pool.page_size, device)) is None
    place = torch.frombuffer(taken[0].pages[0][0], dtype=torch.uint8)
    assert place.is_pinned()
    taken[0].wait()
    taken[0].give_back()
    again = copier.take(slots([9, 10], pool.page_size, device))
    assert len(again.pages) == 1
    expected = poisoned(1, pool)
    gather_pages_reference(pool, torch.tensor([9], device=device), expected)
    copied = in_host(again)
    assert sorted(copied.flatten().tolist()) == sorted(expected.flatten().tolist())
    assert torch.equal(place, copied[0]), "the same memory"


def test_places_that_do_not_lie_side_by_side_are_filled_right(pool, device):
    copier = DevicePages(pool, layout="page_first_direct", staging_bytes=8 * pool.page_bytes)
    taken = [copier.take(slots([page], pool.page_size, device)) for page in range(8)]
    for number in (6, 1, 2, 0, 5):
        taken[number].wait()
        taken[number].give_back()
    ids = [12, 3, 15, 8, 9]
    expected = poisoned(5, pool)
    gather_pages_reference(pool, torch.tensor(ids, device=device), expected)
    assert torch.equal(in_host(copier.take(slots(ids, pool.page_size, device))), expected.cpu())

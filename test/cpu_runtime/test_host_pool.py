"""KV pages survive the way from a real device pool to a real HiCache host pool and back."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the CPU runtime is for CPUs")

LAYERS, HEADS, HEAD_DIM, NUM_PAGES = 3, 2, 8, 6


def make_pools(*, layout, page_size, dtype):
    from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool
    from sglang.srt.mem_cache.pool_host.base import host_memory_budget_scope
    from sglang.srt.mem_cache.pool_host.mha import MHATokenToKVPoolHost

    device = MHATokenToKVPool(
        size=NUM_PAGES * page_size,
        page_size=page_size,
        dtype=dtype,
        head_num=HEADS,
        head_dim=HEAD_DIM,
        layer_num=LAYERS,
        device="cpu",
        enable_memory_saver=False,
    )
    with host_memory_budget_scope(1 << 30):
        host = MHATokenToKVPoolHost(
            device.get_device_pool_infos()[0].buffer_info,
            host_to_device_ratio=2.0,
            host_size=0,
            page_size=page_size,
            layout=layout,
            device_capacity_tokens=device.size,
            start_layer=0,
            end_layer=LAYERS - 1,
        )
    return device, host


def slots(pages, page_size):
    starts = torch.tensor(pages, dtype=torch.int64) * page_size
    return (starts[:, None] + torch.arange(page_size)).flatten()


def device_layers(device):
    return [*device.k_buffer, *device.v_buffer]


@pytest.mark.parametrize("layout", ["page_first_direct", "layer_first"])
@pytest.mark.parametrize("page_size", [1, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@settings(deadline=None, max_examples=20)
@given(
    pages=st.permutations(range(1, NUM_PAGES + 1)),
    host_pages=st.permutations(range(NUM_PAGES)),
    targets=st.permutations(range(1, NUM_PAGES + 1)),
    num_pages=st.integers(1, NUM_PAGES),
)
def test_round_trip(plugins, layout, page_size, dtype, pages, host_pages, targets, num_pages):
    device, host = make_pools(layout=layout, page_size=page_size, dtype=dtype)
    for layer in device_layers(device):
        layer.copy_(torch.randn(layer.shape, generator=torch.Generator().manual_seed(0)))
    before = [layer.clone() for layer in device_layers(device)]
    source, kept, target = (slots(p[:num_pages], page_size) for p in (pages, host_pages, targets))

    host.backup_from_device_all_layer(device, kept, source, "direct")
    for layer in device_layers(device):
        layer.fill_(torch.nan)
    for layer_id in range(LAYERS):
        host.load_to_device_per_layer(device, kept, target, layer_id, "direct")

    untouched = torch.ones(len(before[0]), dtype=torch.bool)
    untouched[target] = False
    for old, new in zip(before, device_layers(device), strict=True):
        assert torch.equal(new[target], old[source])
        assert new[untouched].isnan().all()


def test_page_of_the_host_pool_is_one_block_in_storage_order(plugins):
    """What the disk tier writes: for K and V, `[L, S, H, D]` of one page, contiguous."""
    device, host = make_pools(layout="page_first_direct", page_size=4, dtype=torch.float32)
    for i, layer in enumerate(device_layers(device)):
        layer.copy_(torch.arange(layer.numel()).view(layer.shape) + 10_000 * i)
    host.backup_from_device_all_layer(device, slots([2], 4), slots([3], 4), "direct")
    page = host.get_data_page(8, flat=False)[:, 0]
    for kv, buffer in enumerate((device.k_buffer, device.v_buffer)):
        assert page[kv].is_contiguous()
        assert torch.equal(page[kv], torch.stack([layer[12:16] for layer in buffer]))


def test_host_memory_is_not_pinned(plugins):
    _, host = make_pools(layout="page_first_direct", page_size=4, dtype=torch.float32)
    assert host.pin_memory is False
    assert not host.k_buffer.is_pinned()


def test_a_host_pool_fits_a_machine_with_little_memory(plugins, monkeypatch):
    """SGLang reserves 10 GiB, so that no server with a host tier started on a small machine."""
    from sglang.srt.mem_cache.pool_host import base

    monkeypatch.setattr(base, "available_host_memory_bytes", lambda **_: 3 << 30)
    assert base.host_memory_budget_bytes() == 2 << 30

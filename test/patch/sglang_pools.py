"""Real SGLang host pools and storage configs, small."""

import dataclasses
import hashlib

import torch

LAYERS, HEADS, HEAD_DIM, V_HEAD_DIM, PAGE_SIZE, NUM_PAGES = 3, 2, 8, 16, 4, 6


def make_storage_config(settings, **changes):
    from sglang.srt.mem_cache.hicache_storage import HiCacheStorageConfig

    config = HiCacheStorageConfig(
        tp_rank=0,
        tp_size=1,
        pp_rank=0,
        pp_size=1,
        attn_cp_rank=0,
        attn_cp_size=1,
        is_mla_model=False,
        enable_storage_metrics=True,
        is_page_first_layout=False,
        model_name="m",
        extra_config={"kv_storage": settings.to_mapping()},
    )
    return dataclasses.replace(config, **changes)


def mha_pool(
    layout="page_first_direct", *, dtype=torch.float32, v_head_dim=HEAD_DIM, page_size=PAGE_SIZE
):
    """A real MHA host pool, filled with noise; `v_head_dim` makes it the asymmetric class."""
    from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool
    from sglang.srt.mem_cache.pool_host.base import host_memory_budget_scope
    from sglang.srt.mem_cache.pool_host.mha import get_mha_host_pool_cls

    device = MHATokenToKVPool(
        size=NUM_PAGES * page_size,
        page_size=page_size,
        dtype=dtype,
        head_num=HEADS,
        head_dim=HEAD_DIM,
        v_head_dim=v_head_dim,
        layer_num=LAYERS,
        device="cpu",
        enable_memory_saver=False,
    )
    info = device.get_device_pool_infos()[0].buffer_info
    with host_memory_budget_scope(1 << 30):
        host = get_mha_host_pool_cls(info)(
            info,
            host_to_device_ratio=2.0,
            host_size=0,
            page_size=page_size,
            layout=layout,
            device_capacity_tokens=device.size,
            start_layer=0,
            end_layer=LAYERS - 1,
        )
    for buffer in (host.k_buffer, host.v_buffer):
        _fill(buffer)
    return host


def mla_pool(layout="page_first_direct", *, dtype=torch.float32, page_size=PAGE_SIZE):
    """A real MLA host pool, filled with noise."""
    from sglang.srt.mem_cache.memory_pool import MLATokenToKVPool
    from sglang.srt.mem_cache.pool_host.base import host_memory_budget_scope
    from sglang.srt.mem_cache.pool_host.mla import MLATokenToKVPoolHost

    device = MLATokenToKVPool(
        size=NUM_PAGES * page_size,
        page_size=page_size,
        dtype=dtype,
        kv_lora_rank=16,
        qk_rope_head_dim=8,
        layer_num=LAYERS,
        device="cpu",
        enable_memory_saver=False,
    )
    with host_memory_budget_scope(1 << 30):
        host = MLATokenToKVPoolHost(
            device.get_device_pool_infos()[0].buffer_info,
            host_to_device_ratio=2.0,
            host_size=0,
            page_size=page_size,
            layout=layout,
            device_capacity_tokens=device.size,
            start_layer=0,
            end_layer=LAYERS - 1,
            target_layer_num=LAYERS,
        )
    _fill(host.kv_buffer)
    return host


def slots(pages, page_size=PAGE_SIZE):
    """Token slots of host pages, in order."""
    starts = torch.tensor(pages, dtype=torch.int64) * page_size
    return (starts[:, None] + torch.arange(page_size)).flatten()


def chain(num_pages, seed=0):
    """A chain of page hashes as SGLang spells them."""
    keys, last = [], b""
    for i in range(num_pages):
        last = hashlib.sha256(last + f"{seed}/{i}".encode()).digest()
        keys.append(last.hex())
    return keys


def _fill(buffer):
    raw = torch.randint(0, 256, (buffer.nbytes,), generator=torch.Generator().manual_seed(1))
    buffer.view(-1).view(torch.uint8).copy_(raw.to(torch.uint8))

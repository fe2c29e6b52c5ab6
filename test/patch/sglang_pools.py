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


def mha_pool(layout="page_first_direct", **options):
    """A real MHA host pool, filled with noise; see `mha_device_pool`."""
    return host_pool_of(mha_device_pool(**options), layout)


def mla_pool(layout="page_first_direct", **options):
    """A real MLA host pool, filled with noise; see `mla_device_pool`."""
    return host_pool_of(mla_device_pool(**options), layout)


def mha_device_pool(*, dtype=torch.float32, v_head_dim=HEAD_DIM, page_size=PAGE_SIZE):
    """A real MHA device pool, in memory; `v_head_dim` makes its host pool the asymmetric class."""
    from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool

    return MHATokenToKVPool(
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


def mla_device_pool(*, dtype=torch.float32, page_size=PAGE_SIZE):
    """A real MLA device pool, in memory."""
    from sglang.srt.mem_cache.memory_pool import MLATokenToKVPool

    return MLATokenToKVPool(
        size=NUM_PAGES * page_size,
        page_size=page_size,
        dtype=dtype,
        kv_lora_rank=16,
        qk_rope_head_dim=8,
        layer_num=LAYERS,
        device="cpu",
        enable_memory_saver=False,
    )


def host_pool_of(device, layout="page_first_direct"):
    """The real host pool of twice that size, filled with noise."""
    from sglang.srt.mem_cache.pool_host.base import host_memory_budget_scope
    from sglang.srt.mem_cache.pool_host.mha import get_mha_host_pool_cls
    from sglang.srt.mem_cache.pool_host.mla import MLATokenToKVPoolHost

    info = device.get_device_pool_infos()[0].buffer_info
    options = {
        "host_to_device_ratio": 2.0,
        "host_size": 0,
        "page_size": device.page_size,
        "layout": layout,
        "device_capacity_tokens": device.size,
        "start_layer": 0,
        "end_layer": device.layer_num - 1,
    }
    with host_memory_budget_scope(1 << 30):
        if hasattr(device, "kv_lora_rank"):
            host = MLATokenToKVPoolHost(info, target_layer_num=device.layer_num, **options)
        else:
            host = get_mha_host_pool_cls(info)(info, **options)
    for buffer in host_buffers(host):
        fill(buffer)
    return host


def mamba_pool(*, conv_width=3, dtype=torch.float32, side_state=False, num_states=8):
    """A real host pool of recurrent states, one a checkpoint, filled with noise."""
    from sglang.srt.mem_cache.device_pool_info import MambaStateBufferInfo
    from sglang.srt.mem_cache.pool_host.base import host_memory_budget_scope
    from sglang.srt.mem_cache.pool_host.mamba import MambaPoolHost

    info = MambaStateBufferInfo(
        temporal=torch.zeros(LAYERS, num_states, 2, 4, 5, dtype=dtype),
        conv=(torch.zeros(LAYERS, num_states, 6, conv_width, dtype=torch.bfloat16),),
        extra_checkpoint_buffers=(torch.zeros(num_states, 3),) if side_state else (),
    )
    with host_memory_budget_scope(1 << 30):
        host = MambaPoolHost(info, 2.0, 0, device_capacity=num_states, layout="page_first")
    for i, buffer in enumerate(host.kv_buffer):
        fill(buffer, seed=i)
    return host


def host_buffers(host):
    """The buffers of a host pool in storage order."""
    return (host.k_buffer, host.v_buffer) if hasattr(host, "v_buffer") else (host.kv_buffer,)


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


def fill(buffer, seed=1):
    """Fill a tensor with noise, the same each time."""
    source = torch.Generator().manual_seed(seed)
    raw = torch.randint(0, 256, (buffer.nbytes,), generator=source)
    buffer.view(-1).view(torch.uint8).copy_(raw.to(torch.uint8))

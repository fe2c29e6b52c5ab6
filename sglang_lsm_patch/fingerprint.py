"""Which bytes a page holds: read off the host pool and this process's ranks."""

from pathlib import Path
from typing import Any

from sglang_lsm.pages import Fingerprint

from sglang_lsm_patch.identity import model_identity
from sglang_lsm_patch.options import TierSettings


def fingerprint_of(pool: Any, storage_config: Any, settings: TierSettings) -> Fingerprint:
    """Return the fingerprint of the KV pages of `pool` in this process.

    Args:
        pool: SGLang's host pool (`HostKVCache`).
        storage_config: SGLang's `HiCacheStorageConfig`.
        settings: of the launch.
    """
    is_mla = hasattr(pool, "kv_cache_dim")
    layout = pool.layout
    if pool.storage_format_tag:
        layout = f"{layout}+{pool.storage_format_tag}"
    return Fingerprint(
        model=model_identity(settings.model),
        kv_dtype=str(pool.dtype).removeprefix("torch."),
        layout=layout,
        page_size=pool.page_size,
        num_layers=pool.layer_num,
        num_kv_heads=1 if is_mla else pool.head_num,
        head_dim=pool.kv_cache_dim if is_mla else pool.head_dim,
        v_head_dim=0 if is_mla else pool.v_head_dim,
        tp_rank=storage_config.tp_rank,
        tp_size=storage_config.tp_size,
        pp_rank=storage_config.pp_rank,
        pp_size=storage_config.pp_size,
        cp_rank=storage_config.attn_cp_rank,
        cp_size=storage_config.attn_cp_size,
        # The class and the layers: equal shapes of different layers, or of a pool with pieces of
        # its own, are different pages.
        pool=f"kv:{type(pool).__name__}:{pool.start_layer}-{pool.end_layer}",
    )


def rank_directory(settings: TierSettings, storage_config: Any, replica: int) -> Path:
    """Return where this rank's store lies: one writer process a store, so one folder a rank."""
    name = f"tp{storage_config.tp_rank}-pp{storage_config.pp_rank}"
    if storage_config.attn_cp_size > 1:
        name += f"-cp{storage_config.attn_cp_rank}"
    if storage_config.dp_rank:
        # Groups of data-parallel attention count their ranks from 0 each.
        name += f"-attn{storage_config.dp_rank}"
    if replica:
        name += f"-dp{replica}"
    return Path(settings.path) / name

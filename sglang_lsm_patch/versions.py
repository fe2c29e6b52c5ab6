"""The SGLang releases this package was tested with, and the upstream symbols it leans on.

A method is recorded by its parameter names in order, a class by the fields it declares. `compat`
compares them with the installed sources before a model loads.
"""

TESTED_SGLANG = ("0.5.23",)

METHODS: dict[str, tuple[str, ...]] = {
    "srt/server_args.py:ServerArgs.add_cli_args": ("parser",),
    "srt/server_args.py:ServerArgs.from_cli_args": ("cls", "args"),
    "srt/entrypoints/engine.py:Engine.__init__": ("self", "**kwargs"),
    "srt/plugins/hook_registry.py:HookRegistry.register": (
        "cls", "target", "hook", "hook_type", "source",
    ),
    "srt/managers/scheduler_components/weight_updater.py:SchedulerWeightUpdaterManager"
    ".update_weights_from_disk": ("self", "recv_req"),
    "srt/managers/scheduler_components/weight_updater.py:SchedulerWeightUpdaterManager"
    ".update_weights_from_ipc": ("self", "recv_req"),
    "srt/managers/scheduler_components/weight_updater.py:SchedulerWeightUpdaterManager"
    ".begin_weight_update": ("self", "recv_req"),
    "srt/managers/scheduler_components/weight_updater.py:SchedulerWeightUpdaterManager"
    ".end_weight_update": ("self", "recv_req"),
    "srt/managers/scheduler.py:Scheduler.is_fully_idle": (
        "self", "for_health_check", "ignore_waiting",
    ),
    "srt/managers/scheduler.py:Scheduler._record_step_counters": ("self", "batch", "result"),
    "srt/mem_cache/registry.py:register_radix_cache_backend": ("name", "factory"),
    "srt/mem_cache/registry.py:create_unified_radix_cache": ("ctx", "cache_class"),
    "srt/mem_cache/unified_radix_cache.py:UnifiedRadixCache.prefetch_from_storage": (
        "self", "request", "last_host_node_id", "new_input_tokens", "last_hash", "prefix_keys",
        "matched_prefix_tokens", "extra_key", "cache_salt", "storage_hit_end",
    ),
    "srt/mem_cache/unified_radix_cache.py:UnifiedRadixCache.query_storage_hit_length": (
        "self", "last_host_node_id", "new_input_tokens", "last_hash", "prefix_keys", "extra_key",
        "cache_salt",
    ),
    "srt/mem_cache/unified_radix_cache.py:UnifiedRadixCache.init_hicache": (
        "self", "server_args", "params",
    ),
    "srt/mem_cache/unified_radix_cache.py:UnifiedRadixCache.write_backup_storage": (
        "self", "node_id",
    ),
    "srt/mem_cache/unified_radix_cache.py:UnifiedRadixCache._handle_prefetch_result": (
        "self", "operation",
    ),
    "srt/mem_cache/unified_radix_cache.py:UnifiedRadixCache._trim_buffer_prefetch_full_head": (
        "self", "request", "info", "operation", "full_match_len", "hit_tokens",
    ),
    "srt/mem_cache/unified_radix_cache.py:UnifiedRadixCache._match_tree": ("self", "params"),
    "srt/mem_cache/unified_radix_cache.py:UnifiedRadixCache._drain_host_frees": (
        "self", "host_frees",
    ),
    "srt/mem_cache/unified_radix_cache.py:UnifiedRadixCache._evict_device_leaf": (
        "self", "node_id", "tracker",
    ),
    "srt/mem_cache/unified_radix_cache.py:UnifiedRadixCache.check_hicache_events": ("self",),
    "srt/mem_cache/unified_radix_cache.py:UnifiedRadixCache._reset_full": ("self",),
    "srt/mem_cache/unified_radix_cache.py:UnifiedRadixCache.total_size": ("self",),
    "srt/mem_cache/unified_radix_cache.py:UnifiedRadixCache.release_host_resources": ("self",),
    "srt/mem_cache/unified_radix_cache.py:UnifiedRadixCache.shutdown": ("self",),
    "srt/mem_cache/unified_radix_cache.py:UnifiedRadixCache.attach_storage_backend": (
        "self", "storage_backend", "storage_backend_extra_config_json", "served_model_name",
        "hicache_storage_prefetch_policy", "hicache_write_policy",
    ),
    "srt/mem_cache/unified_radix_cache.py:UnifiedRadixCache.detach_storage_backend": ("self",),
    "srt/mem_cache/unified_radix_cache.py:UnifiedRadixCache.clear_storage_backend": ("self",),
    "srt/mem_cache/unified_cache/unified_tree_core_interface.py:UnifiedTreeCoreInterface"
    ".is_backuped": ("self", "node_id"),
    "srt/mem_cache/unified_cache/unified_tree_core_interface.py:UnifiedTreeCoreInterface"
    ".build_backup_spec": ("self", "node_id"),
    "srt/mem_cache/unified_cache/unified_tree_core_interface.py:UnifiedTreeCoreInterface"
    ".build_storage_backup_spec": ("self", "node_id", "pass_prefix_keys"),
    "srt/mem_cache/unified_cache/unified_tree_core_interface.py:UnifiedTreeCoreInterface"
    ".get_last_hash_value": ("self", "node_id"),
    "srt/mem_cache/unified_cache/unified_tree_core_interface.py:UnifiedTreeCoreInterface"
    ".get_hash_values": ("self", "node_id"),
    "srt/mem_cache/unified_cache/unified_tree_core_interface.py:UnifiedTreeCoreInterface"
    ".get_prefix_hash_values": ("self", "node_id"),
    "srt/mem_cache/storage/backend_factory.py:StorageBackendFactory._create_dynamic_backend": (
        "cls", "backend_config", "storage_config", "mem_pool_host", "**kwargs",
    ),
    "srt/mem_cache/hicache_storage.py:HiCacheStorage.register_mem_pool_host": (
        "self", "mem_pool_host",
    ),
    "srt/mem_cache/hicache_storage.py:HiCacheStorage.register_mem_host_pool_v2": (
        "self", "host_pool", "host_pool_name",
    ),
    "srt/mem_cache/hicache_storage.py:HiCacheStorage.batch_exists": ("self", "keys", "extra_info"),
    "srt/mem_cache/hicache_storage.py:HiCacheStorage.batch_get_v1": (
        "self", "keys", "host_indices", "extra_info",
    ),
    "srt/mem_cache/hicache_storage.py:HiCacheStorage.batch_set_v1": (
        "self", "keys", "host_indices", "extra_info",
    ),
    "srt/mem_cache/hicache_storage.py:HiCacheStorage.batch_exists_v2": (
        "self", "keys", "pool_transfers", "extra_info",
    ),
    "srt/mem_cache/hicache_storage.py:HiCacheStorage.batch_get_v2": (
        "self", "transfers", "extra_info",
    ),
    "srt/mem_cache/hicache_storage.py:HiCacheStorage.batch_set_v2": (
        "self", "transfers", "extra_info",
    ),
    "srt/mem_cache/hicache_storage.py:HiCacheStorage.exists": ("self", "key"),
    "srt/mem_cache/hicache_storage.py:HiCacheStorage.get": (
        "self", "key", "target_location", "target_sizes",
    ),
    "srt/mem_cache/hicache_storage.py:HiCacheStorage.batch_get": (
        "self", "keys", "target_locations", "target_sizes",
    ),
    "srt/mem_cache/hicache_storage.py:HiCacheStorage.set": (
        "self", "key", "value", "target_location", "target_sizes",
    ),
    "srt/mem_cache/hicache_storage.py:HiCacheStorage.batch_set": (
        "self", "keys", "values", "target_locations", "target_sizes",
    ),
    "srt/mem_cache/hicache_storage.py:HiCacheStorage.clear": ("self",),
    "srt/mem_cache/hicache_storage.py:HiCacheStorage.get_stats": ("self",),
    "srt/mem_cache/hicache_storage.py:HiCacheStorageConfig.is_storage_writer": ("self",),
    "srt/managers/cache_controller.py:HiCacheController.backup_skip": ("self",),
    "srt/mem_cache/hybrid_cache/hybrid_cache_controller.py:_trailing_chain_groups": (
        "prefix_keys", "span_hashes", "transfers",
    ),
    "srt/mem_cache/pool_host/mamba.py:MambaPoolHost.get_page_buffer_meta": ("self", "indices"),
    "srt/mem_cache/pool_host/mha.py:MHATokenToKVPoolHost.get_page_buffer_meta": (
        "self", "indices",
    ),
    "srt/mem_cache/pool_host/mla.py:MLATokenToKVPoolHost.get_page_buffer_meta": (
        "self", "indices",
    ),
}  # fmt: skip

FIELDS: dict[str, tuple[str, ...]] = {
    "srt/managers/scheduler_components/weight_updater.py:SchedulerWeightUpdaterManager": (
        "tp_worker", "draft_worker", "memory_saver_adapter", "flush_cache", "is_fully_idle",
        "scheduler", "metrics_collector", "offload_tags", "stashed_model_static_state", "_session",
        "tp_cpu_group",
    ),
    "srt/mem_cache/hicache_storage.py:HiCacheStorageConfig": (
        "tp_rank", "tp_size", "pp_rank", "pp_size", "attn_cp_rank", "attn_cp_size", "is_mla_model",
        "enable_storage_metrics", "is_page_first_layout", "model_name", "tp_lcm_size",
        "should_split_heads", "dp_rank", "extra_config", "dcp_size", "dcp_rank",
        "logical_page_size",
    ),
    "srt/mem_cache/device_pool_info.py:KVBuffers": (
        "k", "v", "k_data_ptrs", "v_data_ptrs", "layout",
    ),
    "srt/mem_cache/device_pool_info.py:MHABufferInfo": (
        "buffers", "page_size", "head_num", "head_dim", "v_head_dim", "dtype", "device", "scales",
        "transfer_buffers",
    ),
    "srt/mem_cache/device_pool_info.py:MLABufferInfo": (
        "buffers", "data_ptrs", "layer_indices", "device_layer_num", "page_size", "kv_lora_rank",
        "qk_rope_head_dim", "kv_cache_dim", "dtype", "device", "packed_fp8", "scales",
        "native_buffers",
    ),
    "srt/mem_cache/unified_radix_cache.py:_OngoingPrefetch": (
        "anchor_node_id", "prefetch_key", "host_indices", "operation", "anchor_lock_params",
        "comp_xfers",
    ),
    "srt/mem_cache/unified_cache/unified_tree_core.py:StorageBackupSpec": (
        "host_value", "token_ids", "hash_value", "prefix_keys", "comp_xfers",
    ),
    "srt/mem_cache/hicache_storage.py:HiCacheStorageExtraInfo": ("prefix_keys", "extra_info"),
    "srt/mem_cache/hicache_storage.py:PoolTransfer": (
        "name", "host_indices", "device_indices", "keys", "hit_policy", "nodes_to_load",
        "indices_from_pool", "block_pages", "group_pages",
    ),
    "srt/mem_cache/hicache_storage.py:PoolTransferResult": (
        "kv_hit_pages", "extra_pool_hit_pages", "restorable_prefix_pages",
    ),
    "srt/observability/metrics_collector.py:StorageMetrics": (
        "prefetch_pgs", "backup_pgs", "prefetch_bandwidth", "backup_bandwidth",
    ),
}  # fmt: skip

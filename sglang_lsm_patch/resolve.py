"""From `--kv-storage lsm` to SGLang's own fields. Pure, except for `settings` (see `preflight`).

`given` is always the operator's input: field name -> value, defaults included for a command line,
absent where an `Engine` call left them out. `explicit` names the fields the operator wrote down,
even with the default's value. What was written down wins.
"""

import json
from collections.abc import Collection, Mapping

from sglang_lsm.errors import ConfigError

from sglang_lsm_patch.options import (
    EXTRA_CONFIG_KEY,
    WRITE_POLICIES,
    ModelSource,
    TierSettings,
    read_json_object,
)

Given = Mapping[str, object]

RADIX_CACHE_BACKEND = "lsm"
PREFERRED_PAGE_SIZE = 64
"""Tokens. SGLang's default of 1 makes each token a key and each read a few KiB."""

PAGE_SIZES: dict[str, tuple[int, ...]] = {
    "flashmla": (64,),
    "hpc_ops": (64,),
    "trtllm_mla": (32, 64),
    "cutedsl_mla": (32, 64),
    "tokenspeed_mla": (32, 64),
    "trtllm_mha": (16, 32, 64, 128),
    "fa4": (128,),
    "intel_xpu": (64, 128),
}
"""Page sizes by attention backend, as SGLang's own resolution has them. Backends that are not
listed (FlashInfer, FA3, Triton, torch_native ...) take any."""

BACKEND_FIELDS = (
    "attention_backend",
    "prefill_attention_backend",
    "decode_attention_backend",
    "speculative_draft_attention_backend",
)

CONFLICTS: dict[str, str] = {
    "disable_radix_cache": "there is no prefix cache to add a tier to",
    "enable_unified_cache_external_linker": "it replaces the host tier that the disk tier extends",
    "enable_lmcache": "it brings a cache of its own",
    "enable_flexkv": "it brings a cache of its own",
    "enable_kv_cache_sharding": "SGLang allows no storage tier with it",
}
"""Switches that cannot be combined with a disk tier, and why."""

OWN_EXTRA_CONFIG: dict[str, object] = {
    "backend_name": "lsm",
    "module_path": "sglang_lsm_patch.storage",
    "class_name": "LsmStorage",
    # Without these two SGLang copies each page through a zeroed tensor, and hides the radix path.
    "interface_v1": 1,
    "hicache_storage_pass_prefix_keys": True,
}


def require_no_conflict(given: Given) -> None:
    """Raise ConfigError naming the first option that contradicts `--kv-storage lsm`."""
    for name, why in CONFLICTS.items():
        if given.get(name):
            raise ConfigError(f"--kv-storage lsm cannot be combined with {_flag(name)}: {why}")
    for name in ("hicache_storage_backend", "radix_cache_backend"):
        if given.get(name) not in (None, RADIX_CACHE_BACKEND):
            raise ConfigError(
                f"--kv-storage lsm cannot be combined with {_flag(name)} {given[name]}: "
                "choose one of the two"
            )
    if _count(given, "dcp_size") > 1:
        raise ConfigError(
            "--kv-storage lsm cannot be combined with --dcp-size above 1: its pages are spread "
            "over ranks in a layout the disk tier does not know"
        )
    if given.get("hicache_host_memory_mode") == "buffer_only":
        raise ConfigError(
            "--kv-storage lsm cannot be combined with --hicache-host-memory-mode buffer_only; say "
            "--kv-storage-host off, which sets what goes with it"
        )


def stock_fields(
    given: Given, explicit: Collection[str], settings: TierSettings, *, on_cpu: bool
) -> dict[str, object]:
    """Return the fields of `ServerArgs` that turn the disk tier on.

    The prefetch policy stays upstream's `timeout`: the wait is bounded, so that a slow disk costs a
    hit and not a request; `best_effort` hardly ever hits and `wait_complete` trusts the disk.

    Raises:
        ConfigError: the operator's extra config names another backend, or the write policies of
            the two tiers contradict each other.
    """
    fields: dict[str, object] = {
        "enable_hierarchical_cache": True,
        "hicache_storage_backend": "dynamic",
        "hicache_storage_backend_extra_config": _extra_config(given, settings),
        "radix_cache_backend": RADIX_CACHE_BACKEND,
    }
    if settings.host == "off":
        fields["hicache_host_memory_mode"] = "buffer_only"
    host_policy = WRITE_POLICIES[settings.write_policy]
    if host_policy is not None:
        asked = given.get("hicache_write_policy")
        if "hicache_write_policy" in explicit and asked != host_policy:
            raise ConfigError(
                f"--kv-storage-write {settings.write_policy} needs --hicache-write-policy "
                f"{host_policy}; choose one of the two. --hicache-write-policy={asked}"
            )
        fields["hicache_write_policy"] = host_policy
    if given.get("page_size") is None:
        fields["page_size"] = preferred_page_size(given)
    if on_cpu:
        # No copy kernel on a CPU: page by page is the only way, and it needs the page-wise layout.
        for name, value in (
            ("hicache_io_backend", "direct"),
            ("hicache_mem_layout", "page_first_direct"),
        ):
            if name not in explicit:
                fields[name] = value
    return fields


def preferred_page_size(given: Given) -> int:
    """Return the page size nearest to 64 that every chosen attention backend allows.

    Backends that exclude each other are left to SGLang's own check.
    """
    allowed: set[int] | None = None
    for name in BACKEND_FIELDS:
        sizes = PAGE_SIZES.get(str(given.get(name)))
        if sizes is not None:
            allowed = set(sizes) if allowed is None else allowed & set(sizes)
    if not allowed:
        return PREFERRED_PAGE_SIZE
    return min(allowed, key=lambda size: (abs(size - PREFERRED_PAGE_SIZE), size))


def model_source(given: Given) -> ModelSource:
    """Return what decides the KV of a token, as given."""
    values = {name: _text(given.get(name)) for name in ModelSource.__dataclass_fields__}
    return ModelSource(**{**values, "lora_paths": _adapters(given.get("lora_paths"))})


def _text(value: object) -> str:
    if value is None or value is False or isinstance(value, str):
        return value or ""
    if isinstance(value, set):
        value = sorted(map(str, value))
    return json.dumps(value, sort_keys=True, default=str)


def _adapters(given: object) -> str:
    """Return the names and paths of `--lora-paths` as JSON; SGLang reads its forms likewise."""
    if not given:
        return ""
    if isinstance(given, Mapping):
        return _text(given)
    paths = {}
    for adapter in given if isinstance(given, list | tuple) else [given]:
        if isinstance(adapter, Mapping):
            paths[str(adapter.get("lora_name"))] = str(adapter.get("lora_path"))
        else:
            name, _, path = str(adapter).partition("=")
            paths[name] = path if "=" in str(adapter) else name
    return _text(paths)


def ranks_on_node(given: Given) -> int:
    """Return how many stores this node keeps: one a tensor, pipeline and data-parallel rank."""
    sizes = [_count(given, name) for name in ("tp_size", "pp_size")]
    # With DP attention the replicas share the tensor-parallel ranks instead of adding some.
    if not given.get("enable_dp_attention"):
        sizes.append(_count(given, "dp_size"))
    world = 1
    for size in sizes:
        world *= size
    return max(1, world // _count(given, "nnodes"))


def _extra_config(given: Given, settings: TierSettings) -> str:
    text = given.get("hicache_storage_backend_extra_config")
    name = "--hicache-storage-backend-extra-config"
    values = read_json_object(str(text), option=name) if text else {}
    for key, value in OWN_EXTRA_CONFIG.items():
        if values.get(key, value) != value:
            raise ConfigError(
                f"--kv-storage lsm sets this key of {name} itself. key={key} given={values[key]!r}"
            )
    return json.dumps({**values, **OWN_EXTRA_CONFIG, EXTRA_CONFIG_KEY: settings.to_mapping()})


def _count(given: Given, name: str) -> int:
    value = given.get(name)
    return value if isinstance(value, int) and value > 0 else 1


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")

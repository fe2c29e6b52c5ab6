"""From the flag to SGLang's fields: what was written down wins, what contradicts is refused."""

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sglang_lsm.errors import ConfigError

from sglang_lsm_patch import resolve

backends = st.sampled_from(
    [None, "flashinfer", "fa3", "triton", "torch_native", *resolve.PAGE_SIZES]
)


def extra_config(fields):
    return json.loads(fields["hicache_storage_backend_extra_config"])


@given(**dict.fromkeys(resolve.BACKEND_FIELDS, backends))
def test_the_page_size_is_allowed_by_every_backend_or_left_to_sglang(**given_backends):
    size = resolve.preferred_page_size(given_backends)
    allowed = [
        set(resolve.PAGE_SIZES[b]) for b in given_backends.values() if b in resolve.PAGE_SIZES
    ]
    common = set.intersection(*allowed) if allowed else {64}
    assert size in common or (not common and size == 64)
    assert size == 64 or 64 not in common


def test_a_given_page_size_wins(settings):
    for page_size in (1, 16, 128):
        fields = resolve.stock_fields({"page_size": page_size}, (), settings, on_cpu=False)
        assert "page_size" not in fields


def test_the_flag_turns_on_the_host_tier_and_our_backend(settings):
    fields = resolve.stock_fields({}, (), settings, on_cpu=False)
    assert fields["enable_hierarchical_cache"] is True
    assert fields["hicache_storage_backend"] == "dynamic"
    assert fields["radix_cache_backend"] == "lsm"
    assert fields["page_size"] == 64
    assert "hicache_mem_layout" not in fields
    config = extra_config(fields)
    assert config["interface_v1"] == 1 and config["hicache_storage_pass_prefix_keys"] is True
    assert config["kv_storage"] == json.loads(json.dumps(settings.to_mapping()))


def test_a_cpu_copies_page_by_page_unless_told_otherwise(settings):
    fields = resolve.stock_fields({}, (), settings, on_cpu=True)
    assert fields["hicache_io_backend"] == "direct"
    assert fields["hicache_mem_layout"] == "page_first_direct"
    fields = resolve.stock_fields({}, {"hicache_mem_layout"}, settings, on_cpu=True)
    assert fields["hicache_io_backend"] == "direct" and "hicache_mem_layout" not in fields


def test_the_operators_extra_config_is_kept(settings):
    given = {"hicache_storage_backend_extra_config": '{"prefetch_threshold": 64}'}
    config = extra_config(resolve.stock_fields(given, (), settings, on_cpu=False))
    assert config["prefetch_threshold"] == 64 and config["backend_name"] == "lsm"


def test_an_extra_config_of_another_backend_is_refused(settings):
    given = {"hicache_storage_backend_extra_config": '{"class_name": "Other"}'}
    with pytest.raises(ConfigError, match="key=class_name"):
        resolve.stock_fields(given, (), settings, on_cpu=False)


@pytest.mark.parametrize(
    ("given", "flag"),
    [
        *(({name: True}, "--" + name.replace("_", "-")) for name in resolve.CONFLICTS),
        ({"hicache_storage_backend": "file"}, "--hicache-storage-backend file"),
        ({"hicache_storage_backend": "dynamic"}, "--hicache-storage-backend dynamic"),
        ({"radix_cache_backend": "flexkv"}, "--radix-cache-backend flexkv"),
        ({"dcp_size": 2}, "--dcp-size"),
        ({"hicache_host_memory_mode": "buffer_only"}, "--hicache-host-memory-mode"),
    ],
)
def test_a_contradiction_is_refused_by_name(given, flag):
    with pytest.raises(ConfigError, match=flag):
        resolve.require_no_conflict(given)


def test_without_a_host_tier_pages_pass_through_a_buffer(settings):
    hostless = dataclasses.replace(settings, host="off")
    for tier, mode in ((settings, None), (hostless, "buffer_only")):
        fields = resolve.stock_fields({}, (), tier, on_cpu=True)
        assert fields.get("hicache_host_memory_mode") == mode


KV_UNCHANGED = frozenset(Path(__file__).with_name("fields_beside_kv.txt").read_text().split())
"""SGLang's fields that leave the KV of a token as it is, or stand in the fingerprint by ranks and
sizes, or name weights that `identity` takes for unknown in any case."""


def test_every_field_of_sglang_is_known_to_decide_the_kv_or_not_to(settings):
    """A new one has to be looked at: left out by mistake, pages of other KV are hit."""
    import msgspec
    from sglang.srt.server_args import ServerArgs

    decisive = {*type(settings.model).__dataclass_fields__}
    fields = {field.name for field in msgspec.structs.fields(ServerArgs)}
    assert fields - decisive - KV_UNCHANGED == set()
    assert decisive & KV_UNCHANGED == set() and fields >= KV_UNCHANGED


def test_every_field_named_here_is_one_of_sglang(settings):
    """A renamed field would make a conflict pass unseen, and a default be set in vain."""
    import msgspec
    from sglang.srt.server_args import ServerArgs

    known = {field.name for field in msgspec.structs.fields(ServerArgs)}
    ours = {
        *resolve.CONFLICTS,
        *resolve.BACKEND_FIELDS,
        *resolve.stock_fields({}, (), settings, on_cpu=True),
        *type(settings.model).__dataclass_fields__,
        *("hicache_storage_backend", "radix_cache_backend", "dcp_size"),
        *("hicache_host_memory_mode", "hicache_write_policy", "device"),
        *("tp_size", "pp_size", "dp_size", "nnodes", "enable_dp_attention"),
    }
    assert ours <= known


def test_every_backend_named_here_is_one_of_sglang():
    from sglang.srt.arg_groups.choices import ATTENTION_BACKEND_CHOICES

    assert set(resolve.PAGE_SIZES) <= set(ATTENTION_BACKEND_CHOICES)


@pytest.mark.parametrize(
    ("given", "ranks"),
    [
        ({}, 1),
        ({"tp_size": 4, "pp_size": 2}, 8),
        ({"tp_size": 4, "dp_size": 2}, 8),
        ({"tp_size": 4, "dp_size": 4, "enable_dp_attention": True}, 4),
        ({"tp_size": 8, "nnodes": 2}, 4),
    ],
)
def test_ranks_of_a_node(given, ranks):
    assert resolve.ranks_on_node(given) == ranks


def test_the_model_source_takes_what_was_given():
    source = resolve.model_source({"model_path": "m", "revision": None, "quantization": "fp8"})
    assert (source.model_path, source.revision, source.quantization) == ("m", "", "fp8")
    given = {"modelopt_quant": {"a": 1}, "kt_num_gpu_experts": 0, "quantize_and_serve": False}
    source = resolve.model_source({**given, "lora_target_modules": {"v_proj", "q_proj"}})
    assert (source.modelopt_quant, source.kt_num_gpu_experts) == ('{"a": 1}', "0")
    assert (source.quantize_and_serve, source.lora_paths) == ("", "")
    assert source.lora_target_modules == '["q_proj", "v_proj"]'


@pytest.mark.parametrize(
    "paths",
    [
        {"b": "/b", "/a=1": "/a=1"},
        ["b=/b", {"lora_name": "/a=1", "lora_path": "/a=1", "pinned": True}],
        ({"lora_name": "/a=1", "lora_path": "/a=1"}, {"lora_name": "b", "lora_path": "/b"}),
    ],
)
def test_adapters_are_the_same_in_each_form_they_are_given(paths):
    source = resolve.model_source({"lora_paths": paths})
    assert json.loads(source.lora_paths) == {"b": "/b", "/a=1": "/a=1"}
    assert source == resolve.model_source({"lora_paths": {"/a=1": "/a=1", "b": "/b"}})


def test_an_adapter_without_a_name_is_named_by_its_path():
    assert resolve.model_source({"lora_paths": ["/a"]}).lora_paths == '{"/a": "/a"}'


@pytest.mark.parametrize(
    ("policy", "host_policy"),
    [("evict", None), ("through", "write_through"), ("selective", "write_through_selective")],
)
def test_the_host_tier_writes_as_the_disk_tier_needs_it(settings, policy, host_policy):
    tier = dataclasses.replace(settings, write_policy=policy)
    fields = resolve.stock_fields({}, (), tier, on_cpu=False)
    assert fields.get("hicache_write_policy") == host_policy
    given = {"hicache_write_policy": "write_back"}
    # A default is no wish.
    fields = resolve.stock_fields(given, (), tier, on_cpu=False)
    assert fields.get("hicache_write_policy") == host_policy


def test_write_policies_that_contradict_each_other_are_refused(settings):
    tier = dataclasses.replace(settings, write_policy="through")
    given, explicit = {"hicache_write_policy": "write_back"}, ("hicache_write_policy",)
    with pytest.raises(ConfigError, match="needs --hicache-write-policy write_through;"):
        resolve.stock_fields(given, explicit, tier, on_cpu=False)
    tier = dataclasses.replace(settings, write_policy="evict")
    assert "hicache_write_policy" not in resolve.stock_fields(given, explicit, tier, on_cpu=False)

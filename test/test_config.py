import contextlib
import dataclasses
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sglang_lsm.config import (
    GIB,
    KIB,
    MIB,
    IndexConfig,
    LogConfig,
    StoreConfig,
    from_mapping,
    parse_size,
)
from sglang_lsm.errors import ConfigError

DISK_BYTES = 10**12


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        ("200GB", 200 * 10**9),
        ("64MiB", 64 * MIB),
        ("64M", 64 * MIB),
        ("1.5g", GIB + GIB // 2),
        (" 7 kib ", 7 * KIB),
        ("4096", 4096),
        ("12B", 12),
        ("2TB", 2 * 10**12),
        ("30%", 3 * 10**11),
        ("0.5 %", 5 * 10**9),
        ("100%", DISK_BYTES),
    ],
)
def test_sizes_people_write(text, num_bytes):
    assert parse_size(text, of_bytes=DISK_BYTES) == num_bytes


@pytest.mark.parametrize(
    "text",
    ["", "GB", "0", "-1GB", "-5%", "0%", "101%", "ten", "5XB", "1e9", "1 2", "0x10", "nan", "inf",
     "1,5GB", "0.1B"],
)  # fmt: skip
def test_what_is_not_a_size_is_refused_and_repeated(text):
    with pytest.raises(ConfigError) as caught:
        parse_size(text, of_bytes=DISK_BYTES)
    assert repr(text) in str(caught.value)


@given(st.integers(1, 10**20), st.sampled_from(["", "B", "KB", "KiB", "MB", "GiB", "TB", "TiB"]))
def test_whole_numbers_are_exact_however_large(number, unit):
    factor = parse_size(f"1{unit}", of_bytes=1)
    assert parse_size(f"{number}{unit}", of_bytes=1) == number * factor


@example("9" * 400)
@given(st.text(max_size=12) | st.from_regex(r"\A[+-]?[0-9.]{1,400}[A-Za-z%]{0,3}\Z"))
def test_any_text_is_a_positive_size_or_a_config_error(text):
    with contextlib.suppress(ConfigError):
        assert parse_size(text, of_bytes=DISK_BYTES) > 0


@pytest.mark.parametrize(
    ("cls", "values"),
    [
        (LogConfig, {"segment_bytes": MIB - 4096}),
        (LogConfig, {"segment_bytes": MIB + 1}),
        (LogConfig, {"segment_bytes": 16 * GIB}),
        (LogConfig, {"io_bytes": 4095}),
        (LogConfig, {"reader_threads": 0}),
        (LogConfig, {"reader_threads": 65}),
        (LogConfig, {"sync_interval_s": 0.0}),
        (LogConfig, {"sync_interval_s": float("nan")}),
        (IndexConfig, {"memtable_bytes": 1}),
        (IndexConfig, {"block_cache_bytes": -1}),
        (IndexConfig, {"bloom_bits_per_key": -1}),
        (IndexConfig, {"size_ratio": 1}),
        (IndexConfig, {"level0_trigger": 0}),
        (StoreConfig, {"quota_bytes": 0}),
        (StoreConfig, {"quota_bytes": -5}),
        (StoreConfig, {"quota_bytes": GIB, "min_free_bytes": -1}),
        (StoreConfig, {"quota_bytes": 2 * MIB, "log": LogConfig(segment_bytes=MIB)}),
    ],
)
def test_a_value_that_cannot_work_is_refused_by_name(cls, values):
    with pytest.raises(ConfigError) as caught:
        cls(**values)
    assert any(name in str(caught.value) for name in values)


@pytest.mark.parametrize("cls", [LogConfig, IndexConfig])
def test_defaults_work_and_are_frozen(cls):
    config = cls()
    name = dataclasses.fields(cls)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, name, 1)


def test_nested_settings_from_json():
    text = """{"quota_bytes": 10000000000, "min_free_bytes": 5,
               "log": {"io_mode": "direct", "sync_interval_s": 2, "reader_threads": 8},
               "index": {"size_ratio": 4}}"""
    config = from_mapping(StoreConfig, json.loads(text))
    assert config == StoreConfig(
        quota_bytes=10**10,
        min_free_bytes=5,
        log=LogConfig(io_mode="direct", sync_interval_s=2.0, reader_threads=8),
        index=IndexConfig(size_ratio=4),
    )
    assert isinstance(config.log.sync_interval_s, float)


@given(st.sampled_from([LogConfig, IndexConfig]), st.data())
def test_settings_survive_the_way_through_json(cls, data):
    names = [field.name for field in dataclasses.fields(cls)]
    chosen = data.draw(st.sets(st.sampled_from(names)))
    values = {name: getattr(cls(), name) for name in chosen}
    assert from_mapping(cls, json.loads(json.dumps(values))) == cls()


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [("segment_byte", "segment_bytes"), ("iomode", "io_mode"), ("threads", "reader_threads"),
     ("zzz", None)],
)  # fmt: skip
def test_an_unknown_name_is_refused_with_the_nearest_one(wrong, nearest):
    with pytest.raises(ConfigError) as caught:
        from_mapping(StoreConfig, {"quota_bytes": GIB, "log": {wrong: 1}})
    message = str(caught.value)
    assert f"'log.{wrong}'" in message
    known = [field.name for field in dataclasses.fields(LogConfig)]
    assert any(repr(name) in message for name in ([nearest] if nearest else known))


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"quota_bytes": "10GB"}, "quota_bytes"),
        ({"quota_bytes": True}, "quota_bytes"),
        ({"quota_bytes": 1.5}, "quota_bytes"),
        ({"quota_bytes": None}, "quota_bytes"),
        ({"quota_bytes": GIB, "log": 3}, "log"),
        ({"quota_bytes": GIB, "log": []}, "log"),
        ({"quota_bytes": GIB, "log": {"io_mode": "fast"}}, "log.io_mode"),
        ({"quota_bytes": GIB, "log": {"io_mode": ["direct"]}}, "log.io_mode"),
        ({"quota_bytes": GIB, "log": {"sync_interval_s": "5"}}, "log.sync_interval_s"),
        ({"quota_bytes": GIB, "log": {"sync_interval_s": False}}, "log.sync_interval_s"),
        ({"quota_bytes": GIB, "index": {"size_ratio": {}}}, "index.size_ratio"),
    ],
)
def test_a_wrong_type_is_refused_with_its_place(values, place):
    with pytest.raises(ConfigError) as caught:
        from_mapping(StoreConfig, values)
    assert repr(place) in str(caught.value)


def test_a_required_setting_that_is_missing_is_named():
    with pytest.raises(ConfigError, match="quota_bytes"):
        from_mapping(StoreConfig, {"min_free_bytes": 1})

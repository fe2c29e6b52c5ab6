"""Options: read strictly, and the same in the workers as in the launcher."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sglang_lsm.config import MIB, IndexConfig, LogConfig
from sglang_lsm.errors import ConfigError

from sglang_lsm_patch.options import (
    ModelSource,
    TierConfig,
    TierSettings,
    WriteConfig,
    parse_options,
    read_json_object,
)


@given(
    quota_mib=st.integers(64, 1 << 20),
    min_free_bytes=st.integers(0, 1 << 50),
    segment_mib=st.integers(1, 16),
    io_mode=st.sampled_from(["auto", "buffered", "direct"]),
    revision=st.text(),
)
def test_settings_survive_the_way_to_a_worker(
    quota_mib, min_free_bytes, segment_mib, io_mode, revision
):
    settings = TierSettings(
        path="/somewhere",
        quota_bytes=quota_mib * MIB,
        min_free_bytes=min_free_bytes,
        log=LogConfig(segment_bytes=segment_mib * MIB, io_mode=io_mode),
        index=IndexConfig(),
        model=ModelSource(revision=revision),
        write_policy="through",
    )
    travelled = json.loads(json.dumps({"kv_storage": settings.to_mapping()}))
    assert TierSettings.from_extra_config(travelled) == settings


def test_nothing_asked_for_is_no_tier():
    assert parse_options(None) is None


@pytest.mark.parametrize("name", ["path", "size", "config"])
def test_an_option_without_the_tier_is_refused(name):
    with pytest.raises(ConfigError, match=f"--kv-storage-{name} has no effect"):
        parse_options(None, **{name: "1GB"})


def test_the_default_path_is_in_the_cache_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert parse_options("lsm").path == tmp_path / "sglang-lsm"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse_options("lsm").path == tmp_path / ".cache" / "sglang-lsm"


def test_a_config_is_text_a_file_or_a_mapping(tmp_path):
    file = tmp_path / "config.json"
    file.write_text('{"min_free": "7%"}')
    for config in ('{"min_free": "7%"}', f"@{file}", {"min_free": "7%"}):
        assert parse_options("lsm", config=config).config.min_free == "7%"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "not valid JSON"),
        ("[1]", "must be a JSON object"),
        ("@/nowhere/at/all.json", "cannot read the file"),
        ('{"min_fre": "5%"}', "nearest valid one is 'min_free'"),
        ('{"log": {"io_mod": "direct"}}', "nearest valid one is 'io_mode'"),
        ('{"log": {"io_mode": "fast"}}', "must be one of"),
        ('{"min_free": 5}', "must be of type str"),
        ('{"log": {"segment_bytes": 1}}', "at least 1 MiB"),
        ('{"quota_bytes": 1}', "unknown setting"),
    ],
)
def test_a_bad_config_is_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        parse_options("lsm", config=config)


def test_an_unknown_backend_is_refused():
    with pytest.raises(ConfigError, match="known: lsm"):
        parse_options("rocks")


def test_an_empty_path_is_refused():
    with pytest.raises(ConfigError, match="must not be empty"):
        parse_options("lsm", path="")


@given(st.text())
def test_json_is_an_object_or_refused(text):
    try:
        assert isinstance(read_json_object(text, option="x"), dict)
    except ConfigError:
        return


def test_options_about_writing_go_before_the_config():
    writes = {"write": "through", "write-delay": 5, "flush-writes": True}
    options = parse_options(
        "lsm", config={"write": {"delay_s": 7.0, "ahead_share": 0.5}}, further=writes
    )
    assert options.write_policy == "through"
    assert options.config.write == WriteConfig(delay_s=5.0, flush_writes=True, ahead_share=0.5)
    nothing = parse_options("lsm", further=dict.fromkeys(writes))
    assert (nothing.write_policy, nothing.config.write) == ("evict", WriteConfig())


@pytest.mark.parametrize(
    ("writes", "message"),
    [
        ({"write": "sometimes"}, "known: evict, through, selective"),
        ({"write-delay": -1.0}, "delay_s must not be negative"),
        ({"write-delay": "soon"}, "must be of type float"),
    ],
)
def test_a_bad_option_about_writing_is_refused(writes, message):
    with pytest.raises(ConfigError, match=message):
        parse_options("lsm", further=writes)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        ({"ahead_share": 1.5}, "ahead_share must be 0 to 1"),
        ({"staging_bytes": -1}, "staging_bytes must not be negative"),
        ({"stage_bytes": 1}, "nearest valid one is 'staging_bytes'"),
        (3, "must be an object"),
    ],
)
def test_a_bad_write_config_is_refused(write, message):
    with pytest.raises(ConfigError, match=message):
        parse_options("lsm", config={"write": write}, further={"write-delay": 1.0})


def test_an_option_about_writing_without_the_tier_is_refused():
    with pytest.raises(ConfigError, match="--kv-storage-write-delay has no effect without"):
        parse_options(None, further={"write-delay": 1.0})


@pytest.mark.parametrize(
    ("config", "further", "gate"),
    [
        (None, {}, "auto"),
        ({"gate": "off"}, {}, "off"),
        (None, {"gate": "off"}, "off"),
        ({"gate": "off"}, {"gate": "auto"}, "auto"),
    ],
)
def test_the_gate_is_a_flag_or_a_setting(config, further, gate):
    assert parse_options("lsm", config=config, further=further).config.gate == gate


def test_an_unknown_gate_is_refused():
    with pytest.raises(ConfigError, match="must be one of"):
        parse_options("lsm", config={"gate": "on"})


@pytest.mark.parametrize(
    ("further", "policy"),
    [
        ({}, "evict"),
        ({"host": "off"}, "through"),
        ({"host": "off", "write": "selective"}, "selective"),
    ],
)
def test_without_a_host_tier_pages_are_written_once_computed(further, policy):
    options = parse_options("lsm", further=further)
    assert (options.host, options.write_policy) == (further.get("host", "on"), policy)


@pytest.mark.parametrize(
    ("further", "message"),
    [
        ({"host": "off", "write": "evict"}, "choose through or selective"),
        ({"host": "maybe"}, "known: on, off"),
    ],
)
def test_a_contradiction_about_the_host_tier_is_refused(further, message):
    with pytest.raises(ConfigError, match=message):
        parse_options("lsm", further=further)

        parse_options(None, writes={"write-delay": 1.0})


def test_what_the_operator_wrote_down_is_known_to_the_controller():
    config = {"log": {"io_mode": "direct"}, "admission": "second", "tune": "auto"}
    options = parse_options("lsm", config=config, further={"tune": "observe"})
    assert options.config.tune == "observe"
    assert set(options.operator_set.split(",")) == {"log.io_mode", "admission", "tune"}
    assert parse_options("lsm").config.tune == "off"


def test_the_codec_is_a_setting_of_the_log_and_the_flag_wins():
    config = {"log": {"codec": "off", "io_mode": "direct"}}
    options = parse_options("lsm", config=config, further={"codec": "idle"})
    assert (options.config.log.codec, options.config.log.io_mode) == ("idle", "direct")
    assert parse_options("lsm").config.log.codec == "off"
    # What was written down is left alone by the controller, the default said aloud as well.
    assert parse_options("lsm").operator_set == ""
    assert parse_options("lsm", further={"codec": "off"}).operator_set == "log.codec"
    with pytest.raises(ConfigError, match=r"log\.codec"):
        parse_options("lsm", further={"codec": "zip"})


def test_an_unknown_way_to_tune_is_refused():
    with pytest.raises(ConfigError, match="tune"):
        parse_options("lsm", further={"tune": "always"})


def test_every_setting_is_documented_with_its_default(request):
    text = (request.config.rootpath / "docs" / "settings.md").read_text()
    parts = {"": TierConfig, "write.": WriteConfig, "log.": LogConfig, "index.": IndexConfig}
    for prefix, settings in parts.items():
        for one in dataclasses.fields(settings):
            if one.default is not dataclasses.MISSING:
                value = one.default
                default = f"{value:g}" if isinstance(value, float) else json.dumps(value)
                assert f"| `{prefix}{one.name}` | `{default}" in text
